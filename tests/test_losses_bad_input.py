"""Bad input to the losses: every public argument, each with a message of rule, value and remedy."""

import keras
import numpy as np
import pytest

from keras_logit_adjust.losses import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    logit_adjusted_crossentropy,
)

COUNTS = [5, 3, 2]

BAD_COUNTS = {
    "negative": ([5, -3, 2], r"greater than zero.*\[-3\.0\] at class 1\. Remedy: .*smoothing=1"),
    "zero": ([5, 0, 0], r"greater than zero.*\[0\.0, 0\.0\] at classes 1, 2\. Remedy: .*prior\(.*smoothing=1"),
    "nan": ([5, np.nan, 2], r"must be finite.*\[nan\] at class 1"),
    "infinite": ([np.inf, 3, 2], r"must be finite.*\[inf\] at class 0"),
    "2-D": ([[5, 3], [2, 1]], r"vector.*shape \(2, 2\): count labels with `kla.priors.count_classes"),
    "scalar": (5, r"vector.*shape \(\)"),
    "empty": ([], r"non-empty vector.*shape \(0,\)"),
    "single": ([5], r"at least two classes.*\[5\.0\]: .*\[negatives, positives\]"),
    "dict": ({0: 5, 1: 3}, r"list or vector of numbers.*in order of class id.*\{0: 5, 1: 3\}"),
    "words": (["cat", "dog"], r"list or vector of numbers.*\['cat', 'dog'\]"),
    "digits in strings": (["5", "3"], r"list or vector of numbers.*\['5', '3'\]"),
    "ragged": ([[5], [3, 2]], r"list or vector of numbers"),
    "none": (None, r"`class_counts`"),
}
BAD_TAU = {
    "nan": (np.nan, "`tau` must be finite.*nan"),
    "infinite": ([1, np.inf, 1], r"`tau` must be finite.*\[1\.0, inf, 1\.0\]"),
    "short": ([1, 2], r"`tau`.*vector of 3 numbers.*\(2,\)"),
    "2-D": ([[1, 2, 3]], r"`tau`.*vector of 3 numbers.*\(1, 3\)"),
    "string": ("1.0", "`tau` must be a number.*'1.0'"),
    "none": (None, "`tau`"),
}
BAD_OPTIONS = {
    "smoothing of one": ({"label_smoothing": 1.0}, r"`label_smoothing`.*\[0, 1\).*1\.0"),
    "smoothing below": ({"label_smoothing": -0.1}, r"`label_smoothing`.*\[0, 1\).*-0\.1"),
    "smoothing nan": ({"label_smoothing": np.nan}, r"`label_smoothing`.*\[0, 1\).*nan"),
    "smoothing string": ({"label_smoothing": "0.1"}, r"`label_smoothing`.*\[0, 1\).*'0\.1'"),
    "ignored float": ({"ignore_class": 1.5}, "`ignore_class` must be an integer class id or None.*1.5"),
    "ignored bool": ({"ignore_class": True}, "`ignore_class` must be an integer class id or None.*True"),
    "ignored string": ({"ignore_class": "1"}, "`ignore_class` must be an integer class id or None.*'1'"),
    "reduction": ({"reduction": "average"}, "(?s)`reduction`.*sum_over_batch_size.*average"),
}
BAD_POSITIVES = {
    "all positive": ([5, 10], 10, r"strictly between 0 and num_examples=10.*\[10\.0\] at class 1\. Remedy"),
    "never positive": ([5, 0], 10, r"strictly between 0 and num_examples=10.*\[0\.0\] at class 1\. Remedy"),
    "negative": ([-5, 3], 10, r"strictly between 0 and num_examples=10.*\[-5\.0\] at class 0"),
    "nan": ([np.nan, 3], 10, r"`positive_counts` must be finite.*class 0"),
    "2-D": ([[5, 3]], 10, r"`positive_counts`.*vector.*\(1, 2\)"),
    "probabilities": ([0.3, 0.7], 10, "numbers of examples, not probabilities.*multiply them by num_examples=10"),
    "no examples": ([5, 3], 0, "`num_examples` must be the number of training examples.*0"),
    "nan examples": ([5, 3], np.nan, "`num_examples` must be.*nan"),
    "infinite examples": ([5, 3], np.inf, "`num_examples` must be.*inf"),
    "string examples": ([5, 3], "10", "`num_examples` must be.*'10'"),
}


def cases(table):
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


@cases(BAD_COUNTS)
def test_bad_class_counts_are_refused(case):
    counts, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(counts)


@cases(BAD_TAU)
def test_a_bad_tau_is_refused(case):
    tau, match = case
    for build in (
        lambda: LogitAdjustedCrossentropy(COUNTS, tau=tau),
        lambda: BinaryLogitAdjustedCrossentropy(COUNTS, 10, tau=tau),
        lambda: logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 3)), [-1.0, -1.0, -1.0], tau=tau),
    ):
        with pytest.raises(ValueError, match=match):
            build()


@cases(BAD_OPTIONS)
def test_bad_options_are_refused(case):
    options, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(COUNTS, **options)
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(COUNTS, 10, **options)
    if "reduction" not in options:
        with pytest.raises(ValueError, match=match):
            logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 3)), [-1.0, -1.0, -1.0], **options)


@cases(BAD_POSITIVES)
def test_bad_positive_counts_are_refused(case):
    positives, num_examples, match = case
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(positives, num_examples)


@pytest.mark.parametrize("log_prior", [[-np.inf, 0.0], [np.nan, -1.0], [[-1.0, -1.0]], [], "a", ["-1", "-1"]], ids=str)
def test_a_bad_log_prior_is_refused(log_prior):
    with pytest.raises(ValueError, match="`log_prior` must be"):
        logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 2)), log_prior)


BAD_SHAPES = {
    "rank too low": ((4,), (4, 2, 3), r"`y_true` must be class ids of shape \(4, 2\).*Received shape \(4,\)"),
    "rank too high": ((4, 3, 1), (4, 3), r"`y_true` must be class ids of shape \(4,\).*Received shape \(4, 3, 1\)"),
    "one-hot too wide": ((4, 5), (4, 3), r"one-hot rows of shape \(4, 3\).*Received shape \(4, 5\)"),
    "ids of other batch": ((5,), (4, 3), r"must agree in every dimension but the last.*\(5,\).*\(4,\)"),
    "ids that would broadcast": ((1,), (4, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
    "rows of other batch": ((1, 3), (4, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
    "maps of other size": ((4, 3, 2, 1), (4, 2, 3, 3), "must agree in every dimension but the last"),
    "too few logits": ((4,), (4, 2), r"`y_pred` must have one column for each class.*3 classes.*\(4, 2\)"),
    "no logits": ((), (), r"`y_pred` must have a last dimension of 3.*\(\)"),
}


@cases(BAD_SHAPES)
def test_labels_and_logits_of_shapes_that_do_not_fit_are_refused(case):
    labels, logits, match = case
    for loss in (LogitAdjustedCrossentropy(COUNTS), LogitAdjustedCrossentropy(COUNTS, reduction=None)):
        with pytest.raises(ValueError, match=match):
            loss(np.zeros(labels, "int32"), np.zeros(logits, "float32"))


BINARY_SHAPES = {
    "ids": ((4,), r"`y_true` must have the shape of `y_pred`, \(4, 3\).*\(4,\)\. For class ids use `Logit"),
    "other width": ((4, 2), r"`y_true` must have the shape of `y_pred`, \(4, 3\).*\(4, 2\)"),
    "other batch": ((5, 3), r"must agree in every dimension but the last.*\(5,\).*\(4,\)"),
    "batch that would broadcast": ((1, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
}


@cases(BINARY_SHAPES)
def test_binary_targets_of_shapes_that_do_not_fit_are_refused(case):
    labels, match = case
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(COUNTS, 10)(np.zeros(labels), np.zeros((4, 3), "float32"))


def test_an_ignored_class_among_one_hot_labels_is_refused():
    with pytest.raises(ValueError, match="`ignore_class` goes with class ids.*one-hot.*weight of 0"):
        LogitAdjustedCrossentropy(COUNTS, ignore_class=0)(np.eye(3), np.zeros((3, 3)))


WEIGHTS = {
    "other batch": ((3,), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(3, 1\)"),
    "aligned to the right": ((2,), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(2, 1\)"),
    "other steps": ((4, 3), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(4, 3\)"),
    "a weight a class": ((4, 2, 3), r"`sample_weight` must not have more axes.*which have 2.*\(4, 2, 3\)"),
}


@cases(WEIGHTS)
def test_weights_that_do_not_fit_are_refused(case):
    shape, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(COUNTS)(np.zeros((4, 2), "int32"), np.zeros((4, 2, 3)), np.ones(shape))


def test_a_name_alone_does_not_make_a_loss_that_needs_counts():
    config = {"class_name": "keras_logit_adjust>LogitAdjustedCrossentropy", "config": {"class_counts": COUNTS}}
    assert keras.losses.get(config).get_config()["class_counts"] == COUNTS
    with pytest.raises(ValueError, match="logit_adjusted_crossentropy"):
        keras.losses.get("logit_adjusted_crossentropy")
