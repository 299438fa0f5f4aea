"""A streaming prior under `tf.distribute`: every replica counts the labels of all of them."""

import numpy as np
import pytest
from helpers import workers


@pytest.fixture(scope="module")
def runs():
    """What every case of `mirrored_counts.py` ends with, on one device and mirrored over two."""
    return workers.found_by("mirrored_counts.py", timeout=300)


MIRRORED = ["exact", "recent"]
LABELS = np.random.default_rng(0).choice(4, 67, p=[0.6, 0.2, 0.15, 0.05])


def decayed(batches, half_life):
    counts = np.zeros(4)
    for ids in batches:
        counts = counts * 2.0 ** (-len(ids) / half_life) + np.bincount(ids, minlength=4)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("case", MIRRORED)
def test_two_mirrored_devices_count_and_train_as_one_does(runs, case):
    one, two = runs[case]
    assert len(one["counts"]) == 1 and len(two["counts"]) == 2
    assert two["counts"][0] == two["counts"][1] == two["class_counts"]
    np.testing.assert_allclose(two["class_counts"], one["class_counts"], rtol=0 if case == "exact" else 1e-6)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-6)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=2e-6)


@pytest.mark.slow
def test_two_epochs_count_every_label_twice(runs):
    kept = np.arange(67) % 3 != 0
    batches = [LABELS[:64][kept[:64]], LABELS[64:][kept[64:]]] * 2
    assert runs["exact"][1]["class_counts"] == (2 * np.bincount(LABELS)).tolist()
    np.testing.assert_allclose(runs["recent"][1]["class_counts"], decayed(batches, 40), rtol=1e-6)


@pytest.mark.slow
def test_every_mirrored_case_is_looked_at(runs):
    assert set(runs) == set(MIRRORED)
