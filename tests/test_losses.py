"""The mathematics of the losses: values and gradients against float64 oracles, limits and equalities."""

from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import MODES, as_float64, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_logit_adjust import priors
from keras_logit_adjust.losses import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    binary_logit_adjusted_crossentropy,
    logit_adjusted_crossentropy,
)

COUNTS = [437, 50, 12, 1]
LOG_PRIOR = reference.log_prior(COUNTS)
VECTOR = [0.5, 1.0, 1.5, 2.0]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def ids_and_logits(rng, *leading):
    ids = rng.integers(0, len(COUNTS), leading).astype("int32")
    return ids, rng.normal(0, 3, (*leading, len(COUNTS))).astype("float32")


def one_hot(ids):
    return np.eye(len(COUNTS), dtype="float32")[ids]


def assert_same(ours, expected, **tolerance):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or CLOSE))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tau", [1.0, VECTOR], ids=str)
def test_ids_give_the_value_and_gradient_of_the_formula(rng, mode, tau):
    ids, logits = ids_and_logits(rng, 5, 2)
    ours = value_and_gradient(partial(logit_adjusted_crossentropy, log_prior=LOG_PRIOR, tau=tau), ids, logits, mode)
    scores = logits + np.multiply(tau, LOG_PRIOR)
    assert_same(ours, reference.over_rows(reference.crossentropy, one_hot(ids), scores))


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
def test_values_are_those_of_equation_10(rng, tau):
    ids, logits = ids_and_logits(rng, 6)
    loss = LogitAdjustedCrossentropy(COUNTS, tau=tau, reduction=None)
    expected = [
        reference.adjusted_crossentropy(label, row.astype("float64"), COUNTS, tau)
        for label, row in zip(ids, logits, strict=True)
    ]
    np.testing.assert_allclose(as_float64(loss(ids, logits)), expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tau", [1.0, VECTOR], ids=str)
def test_soft_labels_give_the_value_and_gradient_of_the_formula(rng, mode, tau):
    _, logits = ids_and_logits(rng, 3, 2)
    targets = rng.dirichlet(np.ones(4), (3, 2)).astype("float32")
    targets[0, 0] = 0.0  # no class at all costs nothing
    targets[1, 0] *= 0.4  # unnormalized
    loss = partial(logit_adjusted_crossentropy, log_prior=LOG_PRIOR, tau=tau)
    expected = reference.over_rows(reference.crossentropy, targets, logits + np.multiply(tau, LOG_PRIOR))
    assert expected[0][0, 0] == 0.0
    assert_same(value_and_gradient(loss, targets, logits, mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_binary_targets_give_the_value_and_gradient_of_the_formula(rng, mode, label_smoothing):
    positives, num_examples = [437, 50, 12, 1], 1000
    logits, targets = rng.normal(0, 3, (5, 4)).astype("float32"), rng.uniform(0, 1, (5, 4)).round().astype("float32")
    targets[0] = [0.25, 0.5, 0.0, 1.0]
    loss = BinaryLogitAdjustedCrossentropy(
        positives, num_examples, tau=VECTOR, label_smoothing=label_smoothing, reduction=None
    )
    scores = logits + np.multiply(VECTOR, reference.log_odds(positives, num_examples))
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    expected = reference.over_rows(reference.sigmoid_crossentropy, smooth, scores)
    assert_same(value_and_gradient(loss, targets, logits, mode), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_adjustment_the_binary_loss_is_kerass(rng, label_smoothing):
    logits, targets = rng.normal(0, 3, (5, 4)).astype("float32"), rng.integers(0, 2, (5, 4))
    ours = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, tau=0, label_smoothing=label_smoothing)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    assert_same(value_and_gradient(ours, targets, logits), value_and_gradient(theirs, targets, logits))


@pytest.mark.parametrize("mode", MODES)
def test_tau_zero_is_kerass_crossentropy_of_ids(rng, mode):
    ids, logits = ids_and_logits(rng, 7)
    ours = value_and_gradient(LogitAdjustedCrossentropy(COUNTS, tau=0), ids, logits, mode)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_same(ours, value_and_gradient(theirs, ids, logits))


SOFT_ROWS = {
    "one-hot": [0, 0, 1, 0],
    "mixed": [0.5, 0.25, 0, 0.25],
    "all-zero": [0, 0, 0, 0],
    "unnormalized": [0.125, 0.5, 0, 0.25],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", SOFT_ROWS)
def test_tau_zero_is_kerass_crossentropy_of_soft_rows(rng, mode, row):
    _, logits = ids_and_logits(rng, 3)
    targets = np.tile(np.array(SOFT_ROWS[row], "float32"), (3, 1))
    ours = value_and_gradient(LogitAdjustedCrossentropy(COUNTS, tau=0), targets, logits, mode)
    theirs = value_and_gradient(keras.losses.CategoricalCrossentropy(from_logits=True), targets, logits)
    np.testing.assert_allclose(ours[0], theirs[0], **CLOSE)
    if targets[0].sum() == 1:  # TensorFlow's kernel returns softmax(f) − t whatever t sums to
        np.testing.assert_allclose(ours[1], theirs[1], **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("as_ids", [True, False])
def test_a_class_at_minus_infinity_costs_nothing_at_a_target_of_zero(rng, mode, as_ids):
    ids, logits = ids_and_logits(rng, 4)
    ids[:] = [0, 1, 2, 0]
    logits[:, 3] = -np.inf
    labels = ids if as_ids else one_hot(ids)
    ours = value_and_gradient(LogitAdjustedCrossentropy(COUNTS, tau=0, reduction=None), labels, logits, mode)
    without = [logits[:, :3], np.eye(3, dtype="float32")[ids]]
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)
    value, gradient = value_and_gradient(theirs, without[1], without[0])
    assert_same(ours, (value, np.pad(gradient, ((0, 0), (0, 1)))))


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_a_uniform_prior_changes_nothing(rng, tau):
    ids, logits = ids_and_logits(rng, 7)
    ours = value_and_gradient(LogitAdjustedCrossentropy([9, 9, 9, 9], tau=tau), ids, logits)
    assert_same(ours, value_and_gradient(LogitAdjustedCrossentropy(COUNTS, tau=0), ids, logits))
    targets = rng.integers(0, 2, (7, 4))
    halves = BinaryLogitAdjustedCrossentropy([5] * 4, 10, tau=tau)
    plain = keras.losses.BinaryCrossentropy(from_logits=True)
    assert_same(value_and_gradient(halves, targets, logits), value_and_gradient(plain, targets, logits))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32", "float16"])
def test_ids_and_one_hot_rows_are_the_same_labels(rng, dtype, label_smoothing):
    ids, logits = ids_and_logits(rng, 5, 3)
    loss = LogitAdjustedCrossentropy(COUNTS, tau=1.5, label_smoothing=label_smoothing)
    expected = value_and_gradient(loss, one_hot(ids), logits)
    assert_same(value_and_gradient(loss, ids.astype(dtype), logits), expected)
    assert_same(value_and_gradient(loss, ids.astype(dtype)[..., None], logits), expected)
    assert_same(value_and_gradient(loss, one_hot(ids).astype(dtype), logits), expected)


@pytest.mark.parametrize("mode", MODES)
def test_one_label_is_the_softmax_of_two_classes(rng, mode):
    ids, logits = np.array([0, 1, 1, 0, 1]), rng.normal(0, 3, (5, 1)).astype("float32")
    binary = BinaryLogitAdjustedCrossentropy([3], 100, tau=2)
    pair = LogitAdjustedCrossentropy([97, 3], tau=2)

    def two_classes(y_true, y_pred):
        return pair(y_true, ops.concatenate([ops.zeros_like(y_pred), y_pred], axis=-1))

    expected = value_and_gradient(two_classes, ids, logits)
    assert_same(value_and_gradient(binary, ids, logits, mode), expected)
    assert_same(value_and_gradient(binary, ids[:, None], logits, mode), expected)


def test_the_rarest_class_is_adjusted_by_its_unclipped_logarithm():
    loss = LogitAdjustedCrossentropy([437511, 2], tau=3, reduction=None)
    exact = 3 * (np.log(2) - np.log(437513))  # −36.9; log(π³ + 1e-12) would be −27.6
    np.testing.assert_allclose(loss.adjustment[1], exact, rtol=1e-14)
    value = as_float64(loss(np.array([1]), np.zeros((1, 2), "float32")))
    np.testing.assert_allclose(value, 3 * np.log(437511 / 2), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("labels", ["ids", "one-hot", "binary"])
def test_gradients_are_exact_at_extreme_logits(mode, labels):
    logits = 1e4 * np.array([[1, -1, 0, 0], [-1, 1, 0, 0], [1, 1, -1, -1], [0, 0, 0, 0]], "float32")
    ids = np.array([1, 1, 3, 0])
    if labels == "binary":
        loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, reduction=None)
        targets, function = one_hot(ids), reference.sigmoid_crossentropy
        scores = logits + reference.log_odds(COUNTS, 1000)
    else:
        loss = LogitAdjustedCrossentropy(COUNTS, reduction=None)
        targets, function = (ids if labels == "ids" else one_hot(ids)), reference.crossentropy
        scores = logits + LOG_PRIOR
    value, gradient = value_and_gradient(loss, targets, logits, mode)
    assert np.isfinite(gradient).all()
    # Float32 holds 1e4 + log π to 5e-4.
    assert_same((value, gradient), reference.over_rows(function, one_hot(ids), scores), rtol=1e-6, atol=2e-3)


@pytest.mark.parametrize("as_ids", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_label_smoothing_is_kerass_on_shifted_logits(rng, mode, as_ids):
    ids, logits = ids_and_logits(rng, 6)
    ours = LogitAdjustedCrossentropy(COUNTS, tau=2, label_smoothing=0.15)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.15)
    shifted = (logits + 2 * LOG_PRIOR).astype("float32")
    expected = value_and_gradient(theirs, one_hot(ids), shifted)
    assert_same(value_and_gradient(ours, ids if as_ids else one_hot(ids), logits, mode), expected)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("labels", ["ids", "one-hot", "binary"])
def test_half_precision_logits_are_computed_in_float32(rng, dtype, policy, labels):
    keras.config.set_dtype_policy(policy)
    ids, logits = ids_and_logits(rng, 64)
    rounded = ops.cast(logits, dtype)
    if labels == "binary":
        loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, tau=3, reduction=None)
    else:
        loss = LogitAdjustedCrossentropy(COUNTS, tau=3, reduction=None)
    y_true = ids if labels == "ids" else one_hot(ids)
    value = loss(y_true, rounded)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_array_equal(as_float64(value), as_float64(loss(y_true, ops.cast(rounded, "float32"))))


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_half_precision_floatx_leaves_the_arithmetic_in_float32(rng, floatx):
    ids, logits = ids_and_logits(rng, 8)
    expected = reference.over_rows(reference.crossentropy, one_hot(ids), logits + 3 * LOG_PRIOR)
    keras.config.set_floatx(floatx)
    loss = LogitAdjustedCrossentropy(COUNTS, tau=3, reduction=None)
    assert_same(value_and_gradient(loss, ids, logits), expected)
    assert_same(value_and_gradient(loss, one_hot(ids), logits), expected)


def test_the_function_and_the_class_agree(rng):
    ids, logits = ids_and_logits(rng, 6)
    ids[2] = 3
    options = {"tau": 2.0, "label_smoothing": 0.1, "ignore_class": 3}
    loss = LogitAdjustedCrossentropy(COUNTS, **options, reduction=None)
    values = logit_adjusted_crossentropy(ids, logits, LOG_PRIOR, **options)
    assert as_float64(values)[2] == 0.0
    np.testing.assert_allclose(as_float64(values), as_float64(loss(ids, logits)), rtol=1e-6)
    np.testing.assert_allclose(as_float64(loss.call(ids, logits)), as_float64(values), rtol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_binary_function_gives_the_formula_over_known_labels(rng, label_smoothing):
    log_odds = reference.log_odds(COUNTS, 1000)
    logits, targets = rng.normal(0, 3, (3, 4)).astype("float32"), rng.integers(0, 2, (3, 4)).astype("float32")
    targets[1, :2], targets[2] = -1, -1
    function = partial(
        binary_logit_adjusted_crossentropy,
        log_odds=log_odds,
        tau=VECTOR,
        label_smoothing=label_smoothing,
        ignore_class=-1,
    )
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2
    scores = logits + np.multiply(VECTOR, log_odds)
    values, gradients = np.zeros(3), np.zeros((3, 4))
    for row, known in ((0, slice(None)), (1, slice(2, None))):
        cost, slope = reference.sigmoid_crossentropy(smooth[row, known], scores[row, known])
        share = len(slope) / 4  # an unknown label adds nothing to the mean over all four
        values[row], gradients[row, known] = share * cost, share * slope
    assert_same(value_and_gradient(function, targets, logits), (values, gradients))
    assert_same(value_and_gradient(function, targets[None], logits[None]), (values[None], gradients[None]))


@pytest.mark.parametrize("log_odds", [[-np.inf, 0.0], [np.nan, -1.0], [[-1.0, -1.0]], [], "a"], ids=str)
def test_bad_log_odds_are_refused(log_odds):
    with pytest.raises(ValueError, match="`log_odds` must be"):
        binary_logit_adjusted_crossentropy(np.zeros((1, 2)), np.zeros((1, 2)), log_odds)


def test_a_prior_is_taken_for_counts(rng):
    ids, logits = ids_and_logits(rng, 6)
    prior = priors.as_prior(COUNTS)
    loss = LogitAdjustedCrossentropy(prior)
    assert loss.prior is prior and loss.class_counts.tolist() == COUNTS
    expected = reference.over_rows(reference.crossentropy, one_hot(ids), logits + LOG_PRIOR)[0].mean()
    np.testing.assert_allclose(as_float64(loss(ids, logits)), expected, **CLOSE)
    labels = priors.as_prior(COUNTS, 1000)
    np.testing.assert_allclose(
        BinaryLogitAdjustedCrossentropy(labels, 1000).adjustment, reference.log_odds(COUNTS, 1000), rtol=1e-14
    )


def test_a_prior_of_the_other_kind_is_refused():
    exclusive, independent = priors.as_prior(COUNTS), priors.as_prior(COUNTS, 1000)
    with pytest.raises(ValueError, match="must be of exclusive classes here.*a Prior of independent labels.*1000"):
        LogitAdjustedCrossentropy(independent)
    with pytest.raises(ValueError, match="must be of independent labels here.*a Prior of exclusive classes"):
        BinaryLogitAdjustedCrossentropy(exclusive, None)
    with pytest.raises(ValueError, match="`num_examples` must be the number of training examples.*None"):
        BinaryLogitAdjustedCrossentropy(COUNTS, None)


def test_probabilities_and_a_sampler_say_the_same_as_counts(rng):
    class Sampler:
        effective_prior = np.array(COUNTS) / sum(COUNTS)

    ids, logits = ids_and_logits(rng, 6)
    expected = as_float64(LogitAdjustedCrossentropy(COUNTS)(ids, logits))
    for counts in (Sampler(), Sampler.effective_prior, np.array(COUNTS, "float32"), tuple(COUNTS)):
        np.testing.assert_allclose(as_float64(LogitAdjustedCrossentropy(counts)(ids, logits)), expected, rtol=1e-6)


@settings(max_examples=30)
@given(st.data())
def test_any_shape_count_and_logit_agrees_with_the_formula(data):
    # Few shapes, for JAX compiles each operation anew for each.
    num_classes, leading = data.draw(st.sampled_from([(2, (1,)), (2, (4,)), (5, (3, 2)), (3, (2, 1, 3)), (7, (0, 2))]))
    counts = data.draw(st.lists(st.integers(1, 10**9), min_size=num_classes, max_size=num_classes))
    tau = data.draw(st.floats(-3, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = (rng.normal(size=(*leading, num_classes)) * 10 ** rng.uniform(-3, 3)).astype("float32")
    ids = rng.integers(0, num_classes, leading)
    rows = np.eye(num_classes)[ids].astype("float32")
    expected = reference.over_rows(reference.crossentropy, rows, logits + tau * reference.log_prior(counts))
    loss = LogitAdjustedCrossentropy(counts, tau=tau, reduction=None)
    for labels in (ids, ids[..., None], rows):
        assert_same(value_and_gradient(loss, labels, logits), expected, rtol=1e-4, atol=1e-3)
