"""`compare --test-mixes`: the same logits under other class mixes."""

import numpy as np
import pytest

from keras_logit_adjust import compare
from keras_logit_adjust.compare import mixes, report

COUNTS = np.array([30, 90, 10])
NAMES = ["forward 50", "forward 25", "forward 10", "uniform", "backward 10", "backward 25", "backward 50"]


def test_mixes_fall_exponentially_in_order_of_training_frequency():
    found = mixes.mixes_of(COUNTS)
    assert list(found) == NAMES
    for name, mix in found.items():
        assert mix.sum() == pytest.approx(1)
        if name == "uniform":
            assert mix.tolist() == [1 / 3] * 3
            continue
        direction, ratio = name.split()
        first, last = (1, 2) if direction == "forward" else (2, 1)
        assert mix[first] / mix[last] == pytest.approx(float(ratio))
        assert mix[first] / mix[0] == pytest.approx(float(ratio) ** 0.5)


def made_up(rng, number=400):
    """Labels in another mix than any, and logits of log-probabilities that the training prior makes right."""
    labels = rng.choice(3, number, p=[0.5, 0.2, 0.3])
    signal = rng.normal(size=(number, 3)) + 1.5 * np.eye(3)[labels]
    return labels, 1.5 * signal + np.log(COUNTS / COUNTS.sum())


def test_accuracies_weigh_every_test_example(rng):
    """Against resampling by hand: the mean recall of each class times its share."""
    labels, logits = made_up(rng)
    found = mixes.accuracies(labels, logits, COUNTS, seed=0)
    log_prior = np.log(COUNTS / COUNTS.sum())
    for name, mix in mixes.mixes_of(COUNTS).items():
        for rule, scores in (
            ("none", logits),
            ("uniform", logits - log_prior),
            ("known", logits - log_prior + np.log(mix)),
        ):
            right = scores.argmax(axis=1) == labels
            expected = 100 * sum(mix[c] * right[labels == c].mean() for c in range(3))
            assert found[name][rule] == pytest.approx(expected)


def test_the_known_mix_is_best_where_the_logits_are_right(rng):
    labels, logits = made_up(rng, 6000)
    found = mixes.accuracies(labels, logits, COUNTS, seed=0)
    for name in NAMES:
        others = max(found[name]["none"], found[name]["uniform"])
        assert found[name]["known"] > others - 0.5
        assert abs(found[name]["estimated"] - found[name]["known"]) < 1.0
    assert found["backward 50"]["known"] > found["backward 50"]["none"] + 20


def test_a_class_without_test_examples_takes_no_part(rng):
    labels, logits = made_up(rng)
    kept = labels != 2
    found = mixes.accuracies(labels[kept], logits[kept], COUNTS, seed=0)
    mix = mixes.mixes_of(COUNTS)["forward 10"][:2]
    right = logits[kept].argmax(axis=1) == labels[kept]
    expected = 100 * sum(mix[c] / mix.sum() * right[labels[kept] == c].mean() for c in range(2))
    assert found["forward 10"]["none"] == pytest.approx(expected)


def test_the_table_stands_in_results_and_both_reports(tmp_path, rng):
    for name, number in (("train", (40, 15, 5)), ("test", (20, 20, 20))):
        y = np.repeat(np.arange(3), number)
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(y.size, 4)) + np.eye(4)[y], y=y)
    files = {name: str(tmp_path / f"{name}.npz") for name in ("train", "test")}
    config = compare.Config(**files, recipe="linear_probe", validation="none")
    output = tmp_path / "report"
    results = compare.compare(config, methods=["la_posthoc"], seeds=2, output=output, test_mixes=True)
    found = results["test_mixes"]
    assert list(found["accuracy"]) == list(mixes.RULES)
    assert all(list(of) == NAMES and all(len(v) == 2 for v in of.values()) for of in found["accuracy"].values())
    error = [seed["balanced_error"] for seed in results["methods"]["la_posthoc"]["seeds"]]
    np.testing.assert_allclose(found["accuracy"]["uniform"]["uniform"], 100 - np.array(error))
    assert results["command"].endswith("--test-mixes")
    header, rows = mixes.header_and_rows(found)
    assert header == ["accuracy %", *NAMES] and [row[0] for row in rows] == list(mixes.RULES.values())
    for text in (report.to_markdown(results), (output / "report.md").read_text(), (output / "report.html").read_text()):
        assert "backward 50" in text and rows[3][1] in text and mixes.RULES["estimated"] in text
