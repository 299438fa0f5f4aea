"""Predicted ids on file: the figures of a table follow from them."""

import pathlib

import numpy as np
import pytest
from helpers.rows import read_json

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METHODS = ("erm", "la_loss", "la_posthoc")
ROWS = {  # of the files that have predicted ids beside them
    "tune_cifar100_lt": METHODS,
    "compare_cifar100_features": (
        *("erm", "class_weight", "class_balanced", "weight_norm", "weight_norm_oracle"),
        *("la_posthoc", "la_posthoc_tuned", "la_posthoc_oracle"),
    ),
}


def balanced_error(predicted, labels):
    return 100 * (1 - np.mean([(predicted[labels == y] == y).mean() for y in np.unique(labels)]))


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in ROWS.items() for name in names])
def test_the_errors_of_a_table_follow_from_the_ids_that_were_predicted(file, name):
    results = read_json(RESULTS / f"{file}.json")
    counts = np.array(results["class_counts"])
    groups = {"many": counts >= 100, "medium": (counts > 20) & (counts < 100), "few": counts <= 20}
    with np.load(RESULTS / f"{file}.npz") as ids:
        labels = ids["labels"]
        seeds = [ids[f"{name}_seed{seed}"] for seed in range(len(results["split_hashes"]))]
    assert np.bincount(labels).tolist() == [100] * 100
    assert set(results["methods"]) == set(ROWS[file])
    for figures, predicted in zip(results["methods"][name]["seeds"], seeds, strict=True):
        assert figures["balanced_error"] == pytest.approx(balanced_error(predicted, labels))
        correct = np.bincount(labels, predicted == labels)
        for group, members in groups.items():
            assert figures[f"{group}_accuracy"] == pytest.approx(correct[members].mean())


def test_the_errors_on_images_set_aside_are_those_the_page_says():
    with np.load(RESULTS / "tune_cifar100_lt.npz") as ids:
        labels = ids["validation_labels"]
        errors = [balanced_error(ids[f"validation_{name}_seed0"], labels) for name in METHODS]
    assert np.bincount(labels).tolist() == [20] * 100
    said = "the balanced errors are {:.2f} (ERM), {:.2f} (adjusted loss) and {:.2f} (post hoc)".format(*errors)
    assert said in " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
