"""The study of many classes: its draws, its bounds and its figures against an oracle, one training of each kind."""

import json
import math

import keras
import numpy as np
import pytest
from helpers.rows import read_json

from keras_logit_adjust import cli, studies
from keras_logit_adjust.studies import many_classes

pytestmark = pytest.mark.usefixtures("folder")
L = 60


@pytest.fixture(autouse=True)
def few_tests(monkeypatch):
    monkeypatch.setattr(many_classes, "TESTED", 50)


@pytest.fixture
def trained(monkeypatch):
    """Puts random ids in the place of training; holds a mark for each."""
    calls = []

    def fit(sample, *, options, epochs, seed):
        calls.append((sample.class_counts.size, tuple(options.items()), epochs, seed))
        rng = np.random.default_rng([len(calls), seed])
        rules = ("erm", "la_posthoc") if options == {"tau": 0.0} else ("la",)
        return {rule: rng.integers(0, sample.class_counts.size, sample.test[1].size) for rule in rules}

    monkeypatch.setattr(many_classes, "fit", fit)
    return calls


def run_from_command_line(*options):
    base = ["study", "many-classes", "--num-classes", str(L), "--rivals", "8", "4", "--epochs", "2", "--seeds", "2"]
    return cli.main([*base, *options])


def log_density(x, mean, variance):
    """Of a normal distribution with the same variance in each dimension."""
    return -sum((a - b) ** 2 for a, b in zip(x, mean, strict=True)) / (2 * variance) - len(x) / 2 * math.log(variance)


# --- draws and bounds ------------------------------------------------------------------------------------------------


def test_a_sample_has_zipf_counts_and_test_examples_of_each_group():
    sample = many_classes.draw(L, seed=0)
    (x, y), (x_test, y_test), counts = sample.train, sample.test, sample.class_counts
    np.testing.assert_array_equal(np.bincount(y), counts)
    weights = [1 / rank for rank in range(1, L + 1)]
    exact = [1 + 2 * L * weight / sum(weights) for weight in weights]
    assert np.abs(counts - exact).max() < 1 and counts.sum() == 3 * L
    few, medium = counts <= 20, (counts > 20) & (counts < 100)
    assert sample.groups == {"medium": medium.sum(), "few": few.sum()} and sample.groups["medium"] > 0
    assert medium[y_test[:50]].all() and few[y_test[50:]].all() and len(y_test) == 100
    for inputs, ids in ((x, y), (x_test, y_test)):
        noise = inputs - sample.prototypes[ids]
        assert abs(noise.std() - 1) < 0.05 and abs(noise.mean()) < 0.05
    assert abs(sample.prototypes.std() - 1) < 0.05 and x.shape == (3 * L, 64) and (np.diff(y) != 0).any()


def test_samples_repeat_and_differ_by_seed():
    first, again, other = (many_classes.draw(L, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train[0], again.train[0])
    np.testing.assert_array_equal(first.test[1], again.test[1])
    assert (first.prototypes != other.prototypes).all() and (first.test[1] != other.test[1]).any()


def test_the_bounds_take_the_most_likely_class():
    noise = 4.0  # so much that the rules differ
    sample = many_classes.draw(L, seed=3, noise=noise)
    found, (x, y) = many_classes.bounds(sample, noise), sample.train
    prior = sample.class_counts / sample.class_counts.sum()
    for i, example in enumerate(sample.test[0].astype("float64")):
        known = [log_density(example, mean, noise**2) for mean in sample.prototypes.astype("float64")]
        assert found["bayes"][i] == np.argmax(known)
        assert found["bayes_plain"][i] == np.argmax(known + np.log(prior))
        # The predictive distribution of a normal mean with a standard normal prior.
        learned = []
        for c in range(L):
            own = x[y == c].astype("float64")
            precision = 1 + len(own) / noise**2
            learned.append(log_density(example, own.sum(axis=0) / noise**2 / precision, noise**2 + 1 / precision))
        assert found["examples"][i] == np.argmax(learned)
    assert (found["bayes"] != found["bayes_plain"]).any() and (found["bayes"] != found["examples"]).any()


def test_the_balanced_accuracy_weighs_groups_by_their_classes():
    sample = many_classes.draw(L, seed=0)
    predicted = np.where(np.arange(100) < 60, sample.test[1], (sample.test[1] + 1) % L)  # all of medium, 10 of few
    found = many_classes.accuracies(predicted, sample)
    medium, few = sample.groups["medium"], sample.groups["few"]
    assert found == pytest.approx({"balanced": (100 * medium + 20 * few) / L, "medium": 100, "few": 20})


# --- the command -----------------------------------------------------------------------------------------------------


def test_every_loss_is_trained_once_with_each_seed(trained):
    assert run_from_command_line() == 0
    heads = [
        {"num_rivals": 4},
        {"num_rivals": 8},
        {"num_rivals": 4, "estimator": "posterior", "distribution": "log_uniform"},
        {"num_rivals": 4, "estimator": "posterior", "distribution": "uniform"},
        {"num_rivals": "batch"},
        {},
        {"tau": 0.0},
    ]
    assert trained == [(L, tuple(options.items()), 2, seed) for seed in (0, 1) for options in heads]


def test_the_table_has_the_accuracies_of_what_was_predicted(trained, folder):
    assert run_from_command_line("--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    assert list(results["groups"]) == ["medium", "few"] and results["num_examples"] == 3 * L
    assert results["seen_once"] == (many_classes.draw(L, seed=0).class_counts == 1).sum()
    samples, backend = [many_classes.draw(L, seed=seed) for seed in (0, 1)], keras.backend.backend()
    files = {"la_posthoc": "erm", "bayes": "bounds", "bayes_plain": "bounds", "examples": "bounds"}
    names = ["partition_4", "partition_8", "posterior_4", "posterior-uniform_4", "batch", "la", "erm"]
    assert sorted(results["methods"]) == sorted([*names, *files])
    best = np.array(results["methods"]["bayes"]["balanced"])
    rows = {row[0]: row[1:] for row in many_classes.table(results).rows}
    for name, found in results["methods"].items():
        for seed, sample in enumerate(samples):
            with np.load(folder / "out" / f"{files.get(name, name)}_{L}_2_{seed}_{backend}.npz") as stored:
                expected = many_classes.accuracies(stored[name], sample)
            assert {key: found[key][seed] for key in expected} == pytest.approx(expected)
        cells, values = rows[many_classes.titles([name])[name]], np.array(found["balanced"])
        assert cells[0] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
        assert cells[1] == (
            "" if name == "bayes" else f"{(best - values).mean():.1f} ± {(best - values).std(ddof=1):.1f}"
        )
        assert (cells[-1] == "") == (name in many_classes.BOUNDS)
    assert list(rows)[:4] == [*many_classes.BOUNDS.values(), "cross-entropy (ERM)"]
    assert {"adjusted loss, 4 rivals, posterior", "adjusted loss, 4 rivals, posterior, drawn uniformly"} < set(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-classes", "1"], "--num-classes must be an integer of at least 2. Received: --num-classes 1"),
        (
            ["--rivals", "61"],
            "--rivals must be numbers of drawn rivals, each at most 60, the number of classes. Received: ",
        ),
        (["--epochs", "0"], "--epochs must be an integer of at least 1"),
        (["--seeds", "0"], "--seeds must be an integer of at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message, trained, capsys):
    assert run_from_command_line(*options) == 2
    assert message in capsys.readouterr().err and trained == []


def test_no_rivals_are_refused(trained):
    with pytest.raises(ValueError, match="`rivals` must be numbers of drawn rivals.* Received: none"):
        studies.run_study("many-classes", num_classes=L, rivals=[])


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drawn_rivals_train_a_model_that_finds_rare_classes():
    sample = many_classes.draw(L, seed=0)
    found = many_classes.fit(sample, options={"num_rivals": 20}, epochs=3, seed=0)
    assert list(found) == ["la"] and found["la"].shape == sample.test[1].shape
    accuracy = many_classes.accuracies(found["la"], sample)
    assert accuracy["medium"] > 90 and accuracy["few"] > 50


@pytest.mark.slow
def test_adjustment_comes_nearer_to_the_bayes_rule_than_cross_entropy(monkeypatch):
    monkeypatch.setattr(many_classes, "TESTED", 1000)
    results = studies.run_study("many-classes", num_classes=200, rivals=[150], epochs=1, seeds=1)
    found = {name: row["balanced"][0] for name, row in json.loads(json.dumps(results))["methods"].items()}
    assert found["bayes"] > 99 and found["bayes"] >= found["examples"] > max(found["la"], found["la_posthoc"])
    assert min(found["la"], found["la_posthoc"], found["partition_150"]) > found["erm"] + 3
    assert abs(found["partition_150"] - found["la"]) < 5
