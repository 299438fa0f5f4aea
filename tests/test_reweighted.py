"""Losses that weigh examples: class-balanced weights and focal loss against their papers' formulas."""

from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import MODES, as_float64, value_and_gradient
from keras import ops

from keras_logit_adjust.losses import (
    ClassBalancedCrossentropy,
    FocalCrossentropy,
    PairwiseMarginCrossentropy,
    class_balanced_weights,
    focal_crossentropy,
)

COUNTS = [437, 50, 12, 1]
LONG_TAIL = [10**6, 5000, 100, 3, 2, 1]
WEIGHT = [0.5, 1.0, 2.0, 3.0]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ENDS = list(dict.fromkeys((MODES[0], MODES[-1])))  # eager and as compiled as can be


def labels_and_logits(rng, kind):
    """Labels of a kind, the same as rows, and logits."""
    rows = np.eye(4, dtype="float32")[rng.integers(0, 4, 6)]
    if kind == "soft":
        rows = rng.dirichlet(np.ones(4), 6).astype("float32")
    labels = rows.argmax(axis=-1).astype("int32") if kind == "ids" else rows
    return labels, rows, rng.normal(0, 3, (6, 4)).astype("float32")


def focal(gamma, class_weight=(1, 1, 1, 1)):
    return partial(reference.focal_crossentropy, gamma=gamma, class_weight=class_weight)


def assert_same(ours, expected, **tolerance):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or CLOSE))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.9999, 0.999999, 1 - 1e-12, np.nextafter(1, 0)])
@pytest.mark.parametrize("counts", [COUNTS, LONG_TAIL, [7, 7, 7]], ids=str)
def test_class_balanced_weights_are_those_of_the_formula_in_60_digits(counts, beta):
    weights = class_balanced_weights(counts, beta=beta)
    np.testing.assert_allclose(weights, reference.class_balanced_weights(counts, float(beta)), rtol=1e-13)
    np.testing.assert_allclose(weights.sum(), len(counts), rtol=1e-14)


def test_beta_zero_weighs_all_classes_exactly_alike():
    assert class_balanced_weights(LONG_TAIL, beta=0).tolist() == [1.0] * 6


def test_beta_towards_one_is_the_inverse_frequency():
    inverse = 1 / np.array(LONG_TAIL)
    # β^n = 1 − n·(1 − β) to within n·(1 − β) of itself, here 10⁻⁶.
    np.testing.assert_allclose(
        class_balanced_weights(LONG_TAIL, beta=1 - 1e-12), 6 * inverse / inverse.sum(), rtol=1e-6
    )


def test_the_class_balanced_loss_is_the_weighted_crossentropy(rng):
    for kind in ("ids", "soft"):
        labels, rows, logits = labels_and_logits(rng, kind)
        loss = ClassBalancedCrossentropy(COUNTS, beta=0.99, reduction=None)
        weighted = rows * reference.class_balanced_weights(COUNTS, 0.99)
        expected = reference.over_rows(reference.crossentropy, weighted, logits)
        assert_same(value_and_gradient(loss, labels, logits), expected)


def test_the_class_balanced_loss_knows_its_default_beta():
    weights = reference.class_balanced_weights(COUNTS, 0.9999)
    np.testing.assert_allclose(ClassBalancedCrossentropy(COUNTS).class_weight, weights, rtol=1e-13)
    np.testing.assert_allclose(class_balanced_weights(COUNTS), weights, rtol=1e-13)


@pytest.mark.parametrize(("gamma", "kind"), [(0.5, "soft"), (2.0, "ids"), (2.0, "soft")])
@pytest.mark.parametrize("mode", MODES)
def test_focal_loss_has_the_value_and_gradient_of_the_formula(rng, mode, kind, gamma):
    labels, rows, logits = labels_and_logits(rng, kind)
    loss = FocalCrossentropy(gamma, class_weight=WEIGHT, reduction=None)
    expected = reference.over_rows(focal(gamma, WEIGHT), rows, logits)
    assert_same(value_and_gradient(loss, labels, logits, mode), expected)


@pytest.mark.parametrize("kind", ["ids", "one-hot", "soft"])
def test_focal_loss_smooths_labels_before_it_weighs_them(rng, kind):
    labels, rows, logits = labels_and_logits(rng, kind)
    loss = FocalCrossentropy(1.5, class_weight=WEIGHT, label_smoothing=0.2, reduction=None)
    expected = reference.over_rows(focal(1.5, WEIGHT), rows * 0.8 + 0.05, logits)
    assert_same(value_and_gradient(loss, labels, logits), expected)


@pytest.mark.parametrize("kind", ["ids", "one-hot", "soft"])
def test_gamma_zero_is_crossentropy_and_with_weights_the_family(rng, kind):
    labels, rows, logits = labels_and_logits(rng, kind)
    ours = value_and_gradient(FocalCrossentropy(0), labels, logits)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True)
    assert_same(ours, value_and_gradient(theirs, rows, logits))
    ours = value_and_gradient(FocalCrossentropy(0, class_weight=WEIGHT), labels, logits)
    assert_same(
        ours, value_and_gradient(PairwiseMarginCrossentropy(COUNTS, class_weight=WEIGHT), labels, logits), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32", "float16"])
def test_ids_and_one_hot_rows_are_the_same_labels(rng, dtype):
    ids, rows, logits = labels_and_logits(rng, "ids")
    loss = FocalCrossentropy(2, class_weight=WEIGHT)
    expected = value_and_gradient(loss, rows, logits)
    for labels in (ids, ids[:, None], rows):
        assert_same(value_and_gradient(loss, labels.astype(dtype), logits), expected)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_at_moderate_logits_focal_loss_is_kerass(rng, gamma):
    for kind in ("one-hot", "soft"):
        labels, _, logits = labels_and_logits(rng, kind)
        theirs = keras.losses.CategoricalFocalCrossentropy(alpha=1, gamma=gamma, from_logits=True, reduction=None)
        expected = value_and_gradient(theirs, labels, logits / 3)
        # Theirs clips p to [1e-7, 1 − 1e-7], and 1 − p is a difference.
        assert_same(value_and_gradient(FocalCrossentropy(gamma, reduction=None), labels, logits / 3), expected)


EXTREME = np.array(
    [[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 0], [0, 0, 0, 0], [20, 0, -1, 1], [90, 0, 0, 0], [1e4, 1e4, 0, 0]], "float32"
)


@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize(("gamma", "kind"), [(0.0, "ids"), (0.5, "ids"), (0.5, "one-hot"), (2.0, "one-hot")])
def test_focal_gradients_are_exact_where_p_goes_to_one_or_to_zero(mode, kind, gamma):
    ids = np.zeros(6, "int32")
    rows = np.eye(4, dtype="float32")[ids]
    loss = FocalCrossentropy(gamma, reduction=None)
    value, gradient = value_and_gradient(loss, ids if kind == "ids" else rows, EXTREME, mode)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    # Relative even at a value of 1e-13; only below 1e-36 float32 runs out.
    assert_same((value, gradient), reference.over_rows(focal(gamma), rows, EXTREME), rtol=2e-5, atol=1e-36)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", ["ids", "one-hot"])
def test_rivals_ruled_out_by_minus_infinity_cost_nothing(rng, kind, gamma):
    labels, rows, logits = np.zeros(6, "int32"), np.eye(4, dtype="float32")[np.zeros(6, int)], EXTREME.copy()
    logits[:, 1:3] = -np.inf
    logits[5, 3] = -np.inf
    labels = labels if kind == "ids" else rows
    ours = value_and_gradient(FocalCrossentropy(gamma, reduction=None), labels, logits)
    assert_same(ours, reference.over_rows(focal(gamma), rows, logits), rtol=2e-5, atol=1e-36)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_computed_in_float32(rng, dtype):
    for kind in ("ids", "soft"):
        labels, _, logits = labels_and_logits(rng, kind)
        rounded, loss = ops.cast(logits, dtype), FocalCrossentropy(2, reduction=None)
        value = loss(labels, rounded)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        np.testing.assert_array_equal(as_float64(value), as_float64(loss(labels, ops.cast(rounded, "float32"))))


def test_a_nan_logit_or_an_improper_id_gives_nan_and_harms_no_other_row(rng):
    ids, rows, logits = labels_and_logits(rng, "ids")
    expected = reference.over_rows(focal(2), rows[:2], logits[:2])
    ids[2:4], logits[4:, 1] = [-1, 4], np.nan
    value, gradient = value_and_gradient(FocalCrossentropy(2, reduction=None), ids, logits)
    assert np.isnan(value[2:]).all() and np.isnan(gradient[2:]).any(axis=1).all()
    assert_same((value[:2], gradient[:2]), expected)


def test_one_focal_loss_serves_any_number_of_classes(rng):
    loss = FocalCrossentropy(2, reduction=None)
    for num_classes in (2, 3, 7):
        logits, ids = rng.normal(size=(4, num_classes)).astype("float32"), rng.integers(0, num_classes, 4)
        expected = reference.over_rows(focal(2, np.ones(num_classes)), np.eye(num_classes)[ids], logits)
        assert_same((as_float64(loss(ids, logits)),), expected[:1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_label_at_minus_infinity_has_the_gradient_of_crossentropy(mode, gamma):
    logits = np.array([[-np.inf, 0.0, 0.0]], "float32")
    value, gradient = value_and_gradient(FocalCrossentropy(gamma, reduction=None), np.array([0]), logits, mode)
    assert np.isposinf(value).all()
    np.testing.assert_allclose(gradient, [[-1.0, 0.5, 0.5]], rtol=1e-6)


def test_focal_values_leave_out_the_ignored_class(rng):
    logits = rng.normal(0, 3, (3, 4)).astype("float32")
    values = as_float64(focal_crossentropy(np.array([2, 0, 2]), logits, gamma=2.0, ignore_class=2))
    assert values[[0, 2]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(values[1], focal(2.0)(np.eye(4)[0], logits[1])[0], **CLOSE)


def test_the_focal_value_of_one_example_needs_no_axis_of_examples(rng):
    logits = rng.normal(0, 3, 4).astype("float32")
    ours = focal_crossentropy(np.array(2), logits, gamma=2.0)
    np.testing.assert_allclose(as_float64(ours), focal(2.0)(np.eye(4)[2], logits)[0], **CLOSE)
