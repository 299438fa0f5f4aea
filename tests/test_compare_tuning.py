"""The rows that choose τ: on which examples each chooses, which of equals it takes, and what the report lists."""

import numpy as np
import pytest
from helpers.fake_training import fake_training
from helpers.rows import CONFIG, read_json

import keras_logit_adjust as kla
from keras_logit_adjust.compare import METHODS, compare, tuning
from keras_logit_adjust.compare.records import Run, Split

TUNED, ORACLES = ("weight_norm_tuned", "la_posthoc_tuned"), ("weight_norm_oracle", "la_posthoc_oracle")


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that made-up logits stood in for."""
    return fake_training(monkeypatch, mark=lambda name, dataset, config: name)


def chosen_by_a_loop(logits_at, labels):
    """Of 0, 0.05, …, 3 the best by the mean recall of classes that occur, and of equals the one nearest 1."""
    best, best_score = None, -1.0
    for tau in sorted((step / 20 for step in range(61)), key=lambda tau: (round(abs(tau - 1), 9), tau)):
        predicted = np.argmax(logits_at(tau), axis=1)
        score = np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)])
        if score > best_score + 1e-12:
            best, best_score = tau, score
    return best


def balanced(logits, labels):
    return np.mean([np.mean(np.argmax(logits[labels == c], axis=1) == c) for c in np.unique(labels)])


def logits_by_hand(name, logits, kept, counts):
    """What a row makes of logits at a τ."""
    if name.startswith("weight_norm"):
        return lambda tau: (logits.astype("float64") - kept["bias"]) / kept["class_norms"] ** tau
    return lambda tau: logits.astype("float64") - tau * np.log(counts / counts.sum())


@pytest.mark.parametrize("name", [*TUNED, *ORACLES])
def test_tuned_rows_look_at_validation_data_and_oracles_at_the_test_set(name, trained, folder):
    method, other = METHODS[name], {**dict.fromkeys(TUNED, "test"), **dict.fromkeys(ORACLES, "validation")}[name]
    results = compare(CONFIG, methods=[name], seeds=6, output="out")
    assert ("oracle" in method.title) == (name in ORACLES)
    taus, moved = results["methods"][name]["tau"], []
    for seed in range(6):
        dataset = CONFIG.load(seed)
        own = "validation" if other == "test" else "test"
        with np.load(folder / "out" / "runs" / f"erm_seed{seed}.npz") as file:
            kept = dict(file)
        labels = getattr(dataset, own)[1]
        logits_at = logits_by_hand(name, kept[f"{own}_logits"], kept, dataset.class_counts)
        if name.startswith("weight_norm"):
            assert taus[seed] == pytest.approx(chosen_by_a_loop(logits_at, labels))
        elif name == "la_posthoc_oracle":
            assert balanced(logits_at(taus[seed]), labels) >= balanced(
                logits_at(chosen_by_a_loop(logits_at, labels)), labels
            )
        else:
            own_logits = kept["validation_logits"]
            with pytest.warns(UserWarning, match="recall is pooled"):
                assert taus[seed] == kla.tune_tau(own_logits, labels, dataset.class_counts).tau
        final = logits_by_hand(name, kept["test_logits"], kept, dataset.class_counts)(taus[seed])
        with np.load(folder / "out" / "predictions.npz") as stored:
            np.testing.assert_allclose(stored[f"{name}_seed{seed}"], final, rtol=1e-5, atol=1e-5)
        kept[f"{other}_logits"] = np.roll(kept[f"{other}_logits"], 1, axis=0)
        moved.append(tuning.corrected(method, Run(**kept), split=Split.of(dataset))[1])
    assert moved == taus and len(set(taus)) > 2


@pytest.mark.parametrize(
    ("right_at", "chosen"), [({0.5, 1.2, 2.0}, 1.2), ({0.8, 1.2}, 0.8), ({0.0, 3.0}, 0.0), (set(), 1.0), ({2.95}, 2.95)]
)
def test_of_equally_good_taus_the_one_nearest_1_is_taken_then_the_smaller(right_at, chosen):
    labels = np.array([0, 1, 1])

    def correct(logits, tau):
        return np.eye(2)[labels if round(float(tau), 9) in right_at else [0, 0, 0]]

    found = tuning.grid_tau(np.zeros((3, 2)), labels, correct=correct, class_counts=None)
    assert found == pytest.approx(chosen)
    np.testing.assert_allclose(tuning.GRID, [k / 20 for k in range(61)], atol=1e-15)


def test_classes_without_validation_examples_are_left_out_of_the_choice():
    # Class 2 has none: at 0.5 class 1 is right and a third of class 0, at 2 class 0 is right and class 1 is not.
    labels = np.array([0, 0, 0, 1])
    predicted = {0.5: [0, 2, 2, 1], 2.0: [0, 0, 0, 2]}

    def correct(logits, tau):
        return np.eye(3)[predicted.get(round(float(tau), 9), [2, 2, 2, 2])]

    assert tuning.grid_tau(np.zeros((4, 3)), labels, correct=correct, class_counts=None) == 0.5


def test_the_report_lists_every_tau_that_was_chosen_and_no_other(trained, folder):
    results = compare(CONFIG, methods=["paper", *ORACLES], seeds=2, output="out")["methods"]
    assert {name for name, found in results.items() if "tau" in found} == {*TUNED, *ORACLES}
    assert read_json(folder / "out" / "results.json")["methods"] == results
    listed = "; ".join(
        f"`{name}` {results[name]['tau'][0]:.2f}, {results[name]['tau'][1]:.2f}"
        for name in results
        if "tau" in results[name]
    )
    assert f"\nτ for each seed: {listed}.\n" in (folder / "out" / "report.md").read_text(encoding="utf-8")


def test_oracles_are_rows_of_their_own_that_must_be_asked_for(trained):
    assert {name for name, method in METHODS.items() if method.tuned_on == "test"} == set(ORACLES)
    named = {*compare(CONFIG, methods=["paper"], seeds=1)["methods"], *compare(CONFIG, seeds=1)["methods"]}
    assert not named & set(ORACLES) and named >= set(TUNED)
