"""Predicted ids on file: the figures of a table follow from them."""

import pathlib

import numpy as np
import pytest
from helpers.rows import read_json

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METHODS = ("erm", "la_loss", "la_posthoc")


def balanced_error(predicted, labels):
    return 100 * (1 - np.mean([(predicted[labels == y] == y).mean() for y in np.unique(labels)]))


@pytest.mark.parametrize("name", METHODS)
def test_the_errors_of_a_long_training_follow_from_the_ids_it_predicted(name):
    results = read_json(RESULTS / "tune_cifar100_lt.json")
    with np.load(RESULTS / "tune_cifar100_lt.npz") as ids:
        labels, predicted = ids["labels"], ids[f"{name}_seed0"]
    assert np.bincount(labels).tolist() == [100] * 100
    (figures,) = results["methods"][name]["seeds"]
    assert figures["balanced_error"] == pytest.approx(balanced_error(predicted, labels))
    correct = np.bincount(labels, predicted == labels)
    counts = np.array(results["class_counts"])
    groups = {"many": counts >= 100, "medium": (counts > 20) & (counts < 100), "few": counts <= 20}
    for group, members in groups.items():
        assert figures[f"{group}_accuracy"] == pytest.approx(correct[members].mean())


def test_the_errors_on_images_set_aside_are_those_the_page_says():
    with np.load(RESULTS / "tune_cifar100_lt.npz") as ids:
        labels = ids["validation_labels"]
        errors = [balanced_error(ids[f"validation_{name}_seed0"], labels) for name in METHODS]
    assert np.bincount(labels).tolist() == [20] * 100
    said = "the balanced errors are {:.2f} (ERM), {:.2f} (adjusted loss) and {:.2f} (post hoc)".format(*errors)
    assert said in " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
