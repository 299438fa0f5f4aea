"""From labels to counts to priors."""

import keras
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_logit_adjust import priors
from keras_logit_adjust.callbacks import LongTailReport
from keras_logit_adjust.losses import class_balanced_weights
from keras_logit_adjust.metrics import BalancedAccuracy, GroupAccuracy, MultiLabelGroupAccuracy, groups_of_counts
from keras_logit_adjust.priors import as_prior, count_classes, log_odds, log_prior, prior

LABELS = [0, 2, 0, 3, 0, 2]
COUNTS = [3, 0, 2, 1]


def test_the_prior_is_the_share_of_each_class_in_float64():
    share = prior(np.array([90, 9, 1], "float32"))
    assert share.dtype == np.float64
    np.testing.assert_allclose(share, [90 / 100, 9 / 100, 1 / 100], rtol=1e-15)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 2**50), min_size=2, max_size=8))
def test_log_priors_are_those_of_the_formula(counts):
    np.testing.assert_allclose(log_prior(counts), reference.log_prior(counts), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.exp(log_prior(counts)), prior(counts), rtol=1e-12)


def test_a_prior_of_extreme_ratio_keeps_its_logarithm():
    np.testing.assert_allclose(log_prior([1, 1e300])[0], -300 * np.log(10), rtol=1e-14)


def test_smoothing_adds_examples_to_every_class():
    np.testing.assert_allclose(prior([6, 0, 2], smoothing=0.5), np.array([6.5, 0.5, 2.5]) / 9.5, rtol=1e-15)
    np.testing.assert_allclose(log_prior([6, 0, 2], smoothing=1), np.log(np.array([7, 1, 3]) / 11), rtol=1e-14)
    assert prior(prior([6, 0, 2], smoothing=1)).tolist() == prior([6, 0, 2], smoothing=1).tolist()


def test_what_takes_class_counts_takes_a_prior():
    value = as_prior([500, 50, 5])
    assert as_prior(value) is value
    np.testing.assert_array_equal(np.asarray(value), [500, 50, 5])
    np.testing.assert_allclose(prior(value), np.array([500, 50, 5]) / 555, rtol=1e-15)
    np.testing.assert_allclose(log_prior(value), reference.log_prior([500, 50, 5]), rtol=1e-14)
    np.testing.assert_allclose(prior(value, smoothing=1), np.array([501, 51, 6]) / 558, rtol=1e-15)
    weights = reference.class_balanced_weights([500, 50, 5], 0.9)
    np.testing.assert_allclose(class_balanced_weights(value, beta=0.9), weights, rtol=1e-13)
    assert groups_of_counts(value) == ["many", "medium", "few"]
    assert GroupAccuracy(value).class_counts.tolist() == [500, 50, 5]
    np.testing.assert_allclose(BalancedAccuracy(3, class_prior=value).class_prior, prior(value), rtol=1e-15)


def test_a_prior_of_labels_is_no_class_prior():
    with pytest.raises(ValueError, match="`class_counts` must be of exclusive classes here.*independent labels"):
        prior(as_prior([5, 3], 10))
    with pytest.raises(ValueError, match="`class_prior` must be of exclusive classes here.*independent labels"):
        BalancedAccuracy(2, class_prior=as_prior([5, 3], 10))


def test_smoothing_of_probabilities_is_refused():
    with pytest.raises(ValueError, match="needs true counts.*sum to 1: pass the counts they were made from"):
        prior([0.9, 0.1], smoothing=1)


@pytest.mark.parametrize("smoothing", [-1, np.nan, np.inf, "1", True, None])
def test_bad_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="`smoothing` must be a number of at least 0. Received: smoothing="):
        log_prior([3, 1], smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0, 1])
def test_negative_counts_are_refused_with_or_without_smoothing(smoothing):
    with pytest.raises(ValueError, match=r"\[-2\.0\] at class 1"):
        prior([3, -2], smoothing=smoothing)


def test_unseen_classes_are_named_with_the_remedy():
    counts = [1] * 5 + [0] * 12
    with pytest.raises(ValueError, match=r"classes 5, 6, .*, 12, … \(12 in all\)\. Remedy: .*smoothing=1"):
        prior(counts)


def test_a_sampler_gives_the_prior_it_samples_by():
    class Sampler:
        effective_prior = [0.25, 0.75]

    assert prior(Sampler()).tolist() == [0.25, 0.75]
    np.testing.assert_allclose(log_prior(Sampler()), np.log([0.25, 0.75]), rtol=1e-15)


def test_a_prior_of_classes_has_their_shares_and_log_shares():
    value = as_prior([6, 3, 1])
    assert (value.size, value.num_examples, value.are_labels) == (3, None, False)
    np.testing.assert_allclose(value.probabilities, np.array([6, 3, 1]) / 10, rtol=1e-15)
    np.testing.assert_allclose(value.logits, np.log(np.array([6, 3, 1]) / 10), rtol=1e-14)


def test_a_prior_of_labels_has_their_shares_and_log_odds():
    value = as_prior([20, 5], num_examples=40)
    assert (value.size, value.num_examples, value.are_labels) == (2, 40.0, True)
    np.testing.assert_allclose(value.probabilities, [20 / 40, 5 / 40], rtol=1e-15)
    np.testing.assert_allclose(value.logits, np.log([20 / 20, 5 / 35]), rtol=1e-14)


def test_a_prior_is_checked_once_and_passed_on_as_it_is():
    value = as_prior([6, 3, 1])
    assert as_prior(value) is value
    assert as_prior(as_prior([2, 1], 4), num_examples=4).num_examples == 4
    with pytest.raises(ValueError, match="must be that of the prior, None"):
        as_prior(value, num_examples=10)


def test_a_checked_prior_does_not_change_with_the_callers_array():
    counts = np.array([6.0, 4.0])
    value = as_prior(counts)
    counts[0] = -1
    assert value.counts.tolist() == [6, 4]
    with pytest.raises(ValueError, match="read-only"):
        value.counts[0] = -1


def test_log_odds_are_those_of_the_formula():
    np.testing.assert_allclose(log_odds([1, 50, 99], 100), reference.log_odds([1, 50, 99], 100), rtol=1e-14)


class Batches(keras.utils.PyDataset):
    """Two batches of (x, y)."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((3, 5)), np.array(LABELS)[3 * index : 3 * index + 3]


class Column:
    """What a column of a data frame looks like from outside."""

    shape, dtype = (6,), np.dtype("int64")

    def __array__(self, dtype=None, copy=None):
        return np.array(LABELS, dtype)

    def __iter__(self):
        raise AssertionError("read as an array")


def batches(*columns):
    return ((np.zeros((3, 5)), np.array(LABELS)[i : i + 3], *columns) for i in (0, 3))


SOURCES = {
    "list": lambda: LABELS,
    "tuple": lambda: tuple(LABELS),
    "nested list": lambda: [[0, 2, 0], [3, 0, 2]],
    "array": lambda: np.array(LABELS),
    "column [N, 1]": lambda: np.array(LABELS)[:, None],
    "images": lambda: np.array(LABELS).reshape(1, 3, 2),
    "bytes": lambda: np.array(LABELS, "uint8"),
    "whole floats": lambda: np.array(LABELS, "float32"),
    "one-hot rows": lambda: np.eye(4)[LABELS],
    "one-hot lists": lambda: np.eye(4)[LABELS].tolist(),
    "one-hot bfloat16": lambda: ops.cast(np.eye(4)[LABELS], "bfloat16"),
    "one-hot sequences": lambda: np.eye(4)[LABELS].reshape(2, 3, 4),
    "tensor": lambda: ops.convert_to_tensor(LABELS),
    "column of a data frame": Column,
    "PyDataset": lambda: Batches(),
    "generator of pairs": lambda: batches(),
    "generator of triples": lambda: batches(np.full(3, 0.5)),
    "list of pairs": lambda: list(batches()),
    "pairs in lists": lambda: [list(pair) for pair in batches()],
    "tensors": lambda: ((x, ops.convert_to_tensor(y)) for x, y in batches()),
    "one-hot batches": lambda: ((x, np.eye(4)[y]) for x, y in batches()),
    "batches of labels": lambda: (y for _, y in batches()),
    "batches of labels in lists": lambda: (y.tolist() for _, y in batches()),
    "single labels": lambda: iter(LABELS),
}


@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_labels_are_counted_wherever_they_come_from(source, num_classes):
    counts = count_classes(source(), num_classes=num_classes)
    assert counts.dtype == np.int64
    assert counts.tolist() == COUNTS


def test_classes_beyond_the_last_label_count_zero():
    assert count_classes(LABELS, num_classes=6).tolist() == [*COUNTS, 0, 0]
    assert count_classes(np.array([True, False, True])).tolist() == [1, 2]


def test_batches_of_growing_ids_add_up():
    assert count_classes(iter([np.array([0]), np.array([5, 0]), np.array([1])])).tolist() == [2, 1, 0, 0, 0, 1]


def test_soft_rows_add_their_weights():
    counts = count_classes([[0.75, 0.25, 0], [0.5, 0.25, 0.25]])
    assert counts.dtype == np.float64
    np.testing.assert_allclose(counts, [1.25, 0.5, 0.25], rtol=1e-15)


def test_what_rounding_leaves_of_a_class_is_no_example():
    counts = count_classes(np.array([[1 - 2e-5, 2e-5]]))
    assert counts.dtype == np.int64 and counts.tolist() == [1, 0]


def test_float32_rows_of_thirds_still_count_whole_examples():
    rows = np.full((3000, 3), 1 / 3, "float32")
    assert count_classes(rows).tolist() == [1000, 1000, 1000]


BAD_IDS = {
    "above": ([0, 4, 1], 4, "below num_classes=4. Received 4 at position 1 of the labels .1 wrong"),
    "negative": ([0, 1, -1], None, "at least 0. Received -1 at position 2 of the labels .*Give an id that marks"),
    "fractional": ([0.0, 0.5], None, "must be integers.*Received 0.5 at position 1"),
    "nan": ([0.0, np.nan], None, "must be integers.*Received nan at position 1"),
    "infinite": ([0.0, np.inf], None, "must be integers.*Received inf at position 1"),
    "batch": (iter([np.array([0]), np.array([1, 7])]), 2, "Received 7 at position 1 of batch 1"),
    "words": (np.array(["a", "b"]), None, "integer class ids or one-hot rows.*map class names to them"),
    "multi-hot": ([[1.0, 1.0, 0.0]], None, r"each in \[0, 1\] and summing to one.*shape \(1, 3\).*Multi-label"),
    "rows too narrow": (np.eye(3)[LABELS[:2]], 4, r"num_classes=4 wide.*shape \(2, 3\)"),
    "nothing": ([], None, "found no labels in the list"),
    "empty": (np.zeros((0,), "int32"), 3, "found no labels in the ndarray"),
    "counts": ({"cat": 3}, None, "labels, a dataset or an iterable.*dict.*pass them as a list"),
    "a number": (7, None, "labels, a dataset or an iterable.*int"),
    "a single x": ([(np.zeros(2),)], None, r"must be \(x, y\) or \(x, y, sample_weight\).*tuple of length 1"),
    "dicts": (iter([{"x": 1, "y": 0}]), None, r"must be \(x, y\).*dict"),
    "several outputs": (iter([(0, {"a": 1})]), None, r"must be \(x, y\).*one array of labels.*dict"),
}


@pytest.mark.parametrize("case", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_labels_that_cannot_be_counted_are_refused(case):
    labels, num_classes, match = case
    with pytest.raises(ValueError, match=match):
        count_classes(labels, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.0, True, "4"])
def test_a_bad_number_of_classes_is_refused(num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 2. Received: num_classes="):
        count_classes(LABELS, num_classes=num_classes)


def test_a_long_count_shows_a_progress_bar(monkeypatch, capsys):
    assert count_classes(Batches()).tolist() == COUNTS
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(priors.counting, "_QUIET_SECONDS", -1)
    assert count_classes(Batches()).tolist() == COUNTS
    shown = capsys.readouterr().out
    assert "1/2" in shown and "2/2" in shown  # while it counts, and at its end
    assert count_classes(batches()).tolist() == COUNTS  # of unknown length
    assert "2/Unknown" in capsys.readouterr().out


def test_what_needs_examples_says_which_counts_of_a_sampler_to_give():
    class Sampler:
        effective_prior, class_counts = [0.5, 0.5], [90, 10]

    with pytest.raises(ValueError, match="numbers of examples.*a Sampler, which has a prior: give its `class_counts`"):
        GroupAccuracy(Sampler())


def test_pseudo_examples_do_not_count_in_groups():
    counts = [20, 99, 100, 21, 0]
    smoothed = as_prior(as_prior(counts, smoothing=1), smoothing=2)
    assert smoothed.counts.tolist() == [23, 102, 103, 24, 3] and smoothed.unsmoothed.tolist() == counts
    groups = ["few", "medium", "many", "medium", "unseen"]
    assert groups_of_counts(smoothed) == groups_of_counts(counts) == groups
    assert GroupAccuracy(smoothed).class_counts.tolist() == counts
    assert LongTailReport(smoothed, metric="per_class_accuracy").class_counts.tolist() == counts
    labels = as_prior([900, 0], num_examples=1000, smoothing=1)
    assert MultiLabelGroupAccuracy(labels, threshold=0).positive_counts.tolist() == [900, 0]


def test_a_mark_that_looks_like_a_class_is_noticed():
    mask = np.array([[0, 1, 255], [1, 0, 255]], "uint8")
    with pytest.warns(UserWarning, match="uint8 and have 255, but not 254.*ignore_class=255 if yours do"):
        assert count_classes(mask).size == 256
    assert count_classes(mask, ignore_class=255).tolist() == [2, 2]  # in tests, a warning is an error
    assert count_classes(mask, num_classes=256)[255] == 2
    assert count_classes(np.arange(256).astype("uint8")).sum() == 256
