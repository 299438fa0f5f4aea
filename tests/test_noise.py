"""Label noise of `compare`: which examples move, where to, and what stays as it was."""

import dataclasses

import numpy as np
import pytest

from keras_logit_adjust import data
from keras_logit_adjust.compare import noise


@pytest.fixture
def clean(rng):
    """Rows in classes of 30, 200, 8 and 50, a tenth of each held out for validation."""
    y = rng.permutation(np.repeat([0, 1, 2, 3], [30, 200, 8, 50]))
    test = np.repeat([0, 1, 2, 3], 5)
    rows = [(rng.normal(size=(labels.size, 3)).astype("float32"), labels) for labels in (y, test)]
    return data.load(rows[0], test=rows[1], seed=3)


def splits(dataset):
    return [part.copy() for pair in (dataset.train, dataset.validation, dataset.test) for part in pair]


@pytest.mark.parametrize(("share", "moved"), [(0.1, 18), (0.01, 2), (0.5, 90), (1e-6, 1), (0.999, 179)])
def test_a_share_of_the_largest_class_is_labeled_as_the_smallest(share, moved, clean):
    before, counts = splits(clean), clean.class_counts
    assert counts.tolist() == [27, 180, 7, 45]
    noisy = noise.mislabel(clean, share)
    changed = np.flatnonzero(noisy.train[1] != before[1])
    assert changed.size == moved
    assert set(before[1][changed]) == {1} and set(noisy.train[1][changed]) == {2}
    assert noisy.class_counts.tolist() == [27, 180 - moved, 7 + moved, 45]
    assert noisy.class_counts.tolist() == np.bincount(noisy.train[1], minlength=4).tolist()
    assert noisy.num_classes == 4


@pytest.mark.parametrize("share", [0.1, 1e-6])
def test_noise_changes_nothing_but_the_training_labels_of_the_noisy_set(share, clean):
    before, counts, digest = splits(clean), clean.class_counts.copy(), clean.split_hash
    noisy = noise.mislabel(clean, share)
    for found in (splits(clean), [*splits(noisy)[:1], before[1], *splits(noisy)[2:]]):
        for ours, expected in zip(found, before, strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert clean.class_counts.tolist() == counts.tolist() and clean.split_hash == digest
    assert (noisy.name, noisy.seed, noisy.profile, noisy.class_names) == ("arrays", 3, "as it is", list("0123"))


def test_classes_of_one_size_have_no_head_and_no_tail(clean):
    even = dataclasses.replace(clean, class_counts=np.array([7, 7, 7]))
    with pytest.raises(ValueError, match=r"needs a largest and a smallest class\. Received 7 of each"):
        noise.mislabel(even, 0.1)


def test_no_share_is_the_very_data_set(clean):
    assert noise.mislabel(clean, 0) is clean and noise.mislabel(clean, 0.0) is clean


def test_the_same_share_moves_the_same_examples_and_has_its_own_hash(clean):
    first, again, more = (noise.mislabel(clean, share) for share in (0.1, 0.1, 0.2))
    np.testing.assert_array_equal(first.train[1], again.train[1])
    assert first.split_hash == again.split_hash
    assert len({clean.split_hash, first.split_hash, more.split_hash}) == 3
    assert all(len(dataset.split_hash) == 64 for dataset in (clean, first, more))


def test_seeds_move_other_examples():
    x, y = np.arange(60.0)[:, None], np.repeat([0, 1], [50, 10])
    moved = set()
    for seed in range(4):
        clean = data.load((x, y), test=(x, y), validation="none", seed=seed)
        noisy = noise.mislabel(clean, 0.1)
        moved.add(tuple(clean.train[0][noisy.train[1] != clean.train[1], 0]))
    assert len(moved) == 4 and all(len(examples) == 5 for examples in moved)


def test_a_set_without_validation_stays_without():
    x, y = np.arange(12.0)[:, None], np.repeat([0, 1], [10, 2])
    noisy = noise.mislabel(data.load((x, y), test=(x, y), validation="none"), 0.3)
    assert noisy.validation is None and noisy.class_counts.tolist() == [7, 5]
