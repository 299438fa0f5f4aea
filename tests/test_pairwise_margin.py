"""The family of pairwise margins: values and gradients against float64 oracles, limits, equalities and precision."""

from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import BACKEND, MODES, as_float64, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_logit_adjust.layers import CosineDense
from keras_logit_adjust.losses import (
    AdaptiveMarginCrossentropy,
    ClassBalancedCrossentropy,
    EqualizedCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    VectorScalingCrossentropy,
)

COUNTS = [437, 50, 12, 1]
PRIOR = np.exp(reference.log_prior(COUNTS))
LOG_PRIOR = reference.log_prior(COUNTS)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ENDS = list(dict.fromkeys((MODES[0], MODES[-1])))  # eager and as compiled as can be
VECTORS = {
    "class_weight": [0.5, 1.0, 2.0, 3.0],
    "label_margin": [0.3, -1.0, 0.0, 2.0],
    "rival_margin": [-0.7, 0.0, 1.5, -2.0],
    "logit_scale": [1.0, 0.5, 2.0, 0.25],
}


def family(class_weight=(1, 1, 1, 1), label_margin=(0, 0, 0, 0), rival_margin=(0, 0, 0, 0), logit_scale=(1, 1, 1, 1)):
    """The oracle of a member, its margins as the table Δ_yy' = u_y + v_y'."""
    table = [[u + v for v in rival_margin] for u in label_margin]
    return partial(reference.pairwise_crossentropy, class_weight=class_weight, margin=table, scale=logit_scale)


def softmax_form(scores_of_label, **arguments):
    return partial(reference.softmax_form, scores_of_label=partial(scores_of_label, counts=COUNTS, **arguments))


def ldam(targets, logits):
    """LDAM on the cosines that a head of scale 30 scaled to `logits`; its gradient is by them."""
    value, gradient = softmax_form(reference.ldam_scores, scale=30, largest_margin=0.5)(targets, logits / 30)
    return value, gradient / 30


def drawn_label_is_rare(prior):
    return 1 - 0.75 * (prior < 0.05)  # the expectation of a weight that is 0 with probability γ


MEMBERS = {
    "plain": (PairwiseMarginCrossentropy, {}, family()),
    "balanced": (PairwiseMarginCrossentropy.balanced, {}, family(class_weight=1 / (4 * PRIOR))),
    "class-balanced": (
        ClassBalancedCrossentropy,
        {"beta": 0.99},
        family(class_weight=reference.class_balanced_weights(COUNTS, 0.99)),
    ),
    "adaptive": (AdaptiveMarginCrossentropy, {}, ldam),
    "equalized": (
        EqualizedCrossentropy,
        {"threshold": 0.05, "gamma": 0.75},
        softmax_form(reference.equalized_scores, rival_weight=drawn_label_is_rare),
    ),
    "equalized by prior": (
        EqualizedCrossentropy,
        {"form": "prior"},
        softmax_form(reference.equalized_scores, rival_weight=lambda prior: prior),
    ),
    "logit-adjusted and adaptive": (
        PairwiseMarginCrossentropy.logit_adjusted_adaptive,
        {"tau": 1.5},
        partial(
            reference.pairwise_crossentropy,
            class_weight=[1] * 4,
            margin=reference.adjusted_adaptive_margin(COUNTS, tau=1.5),
            scale=[1] * 4,
        ),
    ),
    "consistent": (
        PairwiseMarginCrossentropy.fisher_consistent,
        {"delta": [1, 2, 5, 0.5]},
        family([1, 2, 5, 0.5] / PRIOR, -np.log([1, 2, 5, 0.5]), np.log([1, 2, 5, 0.5])),
    ),
    "vector-scaling": (
        VectorScalingCrossentropy,
        {"gamma": 0.3, "tau": 0.5},
        softmax_form(reference.vector_scaling_scores, gamma=0.3, tau=0.5),
    ),
    "class-dependent temperature": (
        VectorScalingCrossentropy,
        {"gamma": 0.3, "tau": 0},
        softmax_form(reference.class_dependent_temperature_scores, gamma=0.3),
    ),
}


def general(**options):
    return PairwiseMarginCrossentropy(COUNTS, **VECTORS, **options)


def logits_of(rng, *leading, spread=3.0):
    return rng.normal(0, spread, (*leading, 4)).astype("float32")


def labels_of(rng, kind, *leading):
    """Labels of a kind, and the same as rows."""
    if kind == "soft":
        rows = rng.dirichlet(np.ones(4), leading).astype("float32")
        rows[0] = 0.0  # no class at all costs nothing
        rows[1] *= 0.4  # unnormalized
        return rows, rows
    ids = rng.integers(0, 4, leading).astype("int32")
    rows = np.eye(4, dtype="float32")[ids]
    return (ids if kind == "ids" else rows), rows


def smoothed(rows, share):
    """Rows with a share of each spread evenly; a row keeps its sum."""
    return rows * (1 - share) + share * rows.mean(axis=-1, keepdims=True)


def assert_same(ours, expected, **tolerance):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or CLOSE))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "label_smoothing"), [("ids", 0.0), ("ids", 0.2), ("one-hot", 0.0), ("soft", 0.2)])
def test_the_general_loss_has_the_value_and_gradient_of_equation_11(rng, mode, kind, label_smoothing):
    logits, (labels, rows) = logits_of(rng, 5, 2), labels_of(rng, kind, 5, 2)
    ours = value_and_gradient(general(reduction=None, label_smoothing=label_smoothing), labels, logits, mode)
    smooth = smoothed(rows, label_smoothing)
    assert_same(ours, reference.over_rows(family(**VECTORS), smooth, logits))


@pytest.mark.parametrize("kind", ["ids", "soft"])
@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_has_the_value_and_gradient_of_its_own_papers_formula(rng, member, kind):
    build, arguments, oracle = MEMBERS[member]
    logits, (labels, rows) = logits_of(rng, 6), labels_of(rng, kind, 6)
    for label_smoothing in (0.0, 0.2):
        loss = build(COUNTS, **arguments, reduction=None, label_smoothing=label_smoothing)
        smooth = smoothed(rows, label_smoothing)
        ours = value_and_gradient(loss, labels, logits)
        assert_same(ours, reference.over_rows(oracle, smooth, logits), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32", "float16"])
def test_ids_and_one_hot_rows_are_the_same_labels(rng, dtype, label_smoothing):
    logits, (ids, rows) = logits_of(rng, 6), labels_of(rng, "ids", 6)
    loss = general(label_smoothing=label_smoothing)
    expected = value_and_gradient(loss, rows, logits)
    for labels in (ids, ids[..., None], rows):
        assert_same(value_and_gradient(loss, labels.astype(dtype), logits), expected)


@pytest.mark.parametrize(("kind", "label_smoothing"), [("ids", 0.0), ("ids", 0.1), ("soft", 0.1)])
@pytest.mark.parametrize("mode", ENDS)
def test_without_margins_and_weights_the_loss_is_kerass_crossentropy(rng, mode, kind, label_smoothing):
    logits, (labels, rows) = logits_of(rng, 6), labels_of(rng, kind, 6)
    if kind == "soft":  # TensorFlow's kernel returns softmax(f) − t whatever t sums to
        labels = rows = np.tile(rows[2:], (2, 1))[:6]
    ours = PairwiseMarginCrossentropy(COUNTS, label_smoothing=label_smoothing)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    assert_same(value_and_gradient(ours, labels, logits, mode), value_and_gradient(theirs, rows, logits))


@pytest.mark.parametrize("kind", ["ids", "soft"])
def test_a_weight_of_a_power_of_two_scales_value_and_gradient_bit_for_bit(rng, kind):
    logits, (labels, _) = logits_of(rng, 6), labels_of(rng, kind, 6)
    margins = {key: VECTORS[key] for key in ("label_margin", "rival_margin", "logit_scale")}
    plain = value_and_gradient(PairwiseMarginCrossentropy(COUNTS, **margins, reduction=None), labels, logits)
    power = np.array([8.0, 8, 8, 8] if kind == "soft" else [0.25, 1, 4, 64])
    loss = PairwiseMarginCrossentropy(COUNTS, class_weight=power, **margins, reduction=None)
    value, gradient = value_and_gradient(loss, labels, logits)
    factor = np.full(6, 8.0) if kind == "soft" else power[labels if kind == "ids" else labels.argmax(-1)]
    np.testing.assert_array_equal(value, factor * plain[0])
    np.testing.assert_array_equal(gradient, factor[:, None] * plain[1])


def same(counts, **options):
    """Pairs of losses that are one loss by different names."""
    log_prior = reference.log_prior(counts)
    yield (
        LogitAdjustedCrossentropy(counts, tau=1.5, **options),
        PairwiseMarginCrossentropy(counts, label_margin=-1.5 * log_prior, rival_margin=1.5 * log_prior, **options),
    )
    consistent = PairwiseMarginCrossentropy.fisher_consistent(counts, delta=np.exp(log_prior), **options)
    yield LogitAdjustedCrossentropy(counts, **options), consistent
    tau = [0.5, 1.0, 1.5, 2.0]
    yield (
        LogitAdjustedCrossentropy(counts, tau=tau, **options),
        VectorScalingCrossentropy(counts, gamma=0, tau=tau, **options),
    )
    both = PairwiseMarginCrossentropy.logit_adjusted_adaptive(counts, tau=2, max_margin=3, **options)
    margins = 3 * (min(counts) / np.array(counts)) ** 0.25
    yield (
        PairwiseMarginCrossentropy(counts, label_margin=margins - 2 * log_prior, rival_margin=2 * log_prior, **options),
        both,
    )
    ones = PairwiseMarginCrossentropy.fisher_consistent(counts, delta=np.ones(4) / 4, **options)
    yield PairwiseMarginCrossentropy.balanced(counts, **options), ones
    yield (
        EqualizedCrossentropy(counts, form="prior", **options),
        PairwiseMarginCrossentropy(counts, rival_margin=log_prior, **options),
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["ids", "soft"])
def test_losses_that_are_equal_by_definition_agree_to_rounding(rng, kind, label_smoothing):
    logits, (labels, _) = logits_of(rng, 6), labels_of(rng, kind, 6)
    for one, other in same(COUNTS, label_smoothing=label_smoothing, reduction=None):
        assert_same(value_and_gradient(one, labels, logits), value_and_gradient(other, labels, logits), **CLOSE)


def test_the_balanced_loss_is_that_of_delta_one_with_weights_of_mean_one(rng):
    logits, (labels, _) = logits_of(rng, 6), labels_of(rng, "ids", 6)
    balanced = PairwiseMarginCrossentropy.balanced(COUNTS, reduction=None)
    delta_one = PairwiseMarginCrossentropy.fisher_consistent(COUNTS, delta=[1, 1, 1, 1], reduction=None)
    np.testing.assert_allclose((PRIOR * balanced.class_weight).sum(), 1.0, rtol=1e-14)
    value, gradient = value_and_gradient(balanced, labels, logits)
    assert_same(value_and_gradient(delta_one, labels, logits), (4 * value, 4 * gradient), rtol=1e-6, atol=0)


def test_margins_of_the_logit_adjusted_adaptive_loss_are_the_sum_of_both():
    for max_margin, adaptive in [(None, PRIOR**-0.25), (3, 3 * (1 / np.array(COUNTS)) ** 0.25)]:
        loss = PairwiseMarginCrossentropy.logit_adjusted_adaptive(COUNTS, tau=2, max_margin=max_margin)
        table = loss.label_margin[:, None] + loss.rival_margin
        np.testing.assert_allclose(table, 2 * (LOG_PRIOR - LOG_PRIOR[:, None]) + adaptive[:, None], rtol=1e-12)


def test_ldam_on_a_cosine_head_is_the_scale_times_cosine_less_margin(rng):
    features, ids, scale = rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 4, 6), 8.0
    head = CosineDense(4, scale=scale)
    logits = as_float64(head(features))
    kernel = as_float64(head.kernel)
    cosines = features @ kernel / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(kernel, axis=0)
    margins = 0.5 * (1 / np.array(COUNTS)) ** 0.25
    shifted = scale * (cosines - np.eye(4)[ids] * margins)
    expected, _ = reference.over_rows(reference.crossentropy, np.eye(4)[ids], shifted)
    loss = AdaptiveMarginCrossentropy(COUNTS, max_margin=0.5 * scale, reduction=None)
    np.testing.assert_allclose(as_float64(loss(ids, logits.astype("float32"))), expected, rtol=1e-5)


def test_by_default_a_rare_rival_has_below_0_3_of_an_even_share():
    loss = EqualizedCrossentropy([770, 80, 76, 74])  # 0.3 / 4 = 0.075
    np.testing.assert_allclose(np.exp(loss.rival_margin), [1, 1, 1, 1 - 0.95], rtol=1e-12)


EXTREME = 1e4 * np.array(
    [[1, -1, 0, 0], [-1, 1, 0, 0], [1, 1, -1, -1], [0, 0, 0, 0], [1, 0, 0, -1], [-1, -1, 1, 1]], "float32"
)
RARE = [1, 1e-3, 1e-6, 1e-9]


@pytest.mark.parametrize("kind", ["ids", "soft"])
@pytest.mark.parametrize(
    ("member", "mode"),
    [
        *((member, "eager") for member in ("logit-adjusted", "balanced", "adaptive", "vector-scaling")),
        *(("vector-scaling", mode) for mode in ENDS[1:]),
    ],
)
def test_logits_of_10000_and_priors_of_a_billionth_overflow_nothing(kind, member, mode):
    ids, log_prior = np.array([1, 1, 3, 3, 0, 2]), reference.log_prior(RARE)
    rows = np.eye(4, dtype="float32")[ids] * (0.75 if kind == "soft" else 1) + (0.0625 if kind == "soft" else 0)
    scale = np.array(RARE) ** 0.1
    loss, oracle = {
        "logit-adjusted": (PairwiseMarginCrossentropy.logit_adjusted_adaptive(RARE, max_margin=0, reduction=None),
                           family(label_margin=-log_prior, rival_margin=log_prior)),
        "balanced": (PairwiseMarginCrossentropy.balanced(RARE, reduction=None),
                     family(class_weight=0.25 / np.exp(log_prior))),
        "adaptive": (AdaptiveMarginCrossentropy(RARE, reduction=None),
                     family(label_margin=15 * (1e-9 / np.array(RARE)) ** 0.25)),
        "vector-scaling": (VectorScalingCrossentropy(RARE, gamma=0.1, reduction=None),
                           family(label_margin=-log_prior, rival_margin=log_prior, logit_scale=scale)),
    }[member]  # fmt: skip
    ours = value_and_gradient(loss, ids if kind == "ids" else rows, EXTREME, mode)
    assert np.isfinite(ours[0]).all() and np.isfinite(ours[1]).all()
    # Float32 holds 2e4 to 2e-3, so that relative error is all there is to bound where values are large.
    assert_same(ours, reference.over_rows(oracle, rows, EXTREME), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize("kind", ["ids", "one-hot"])
@pytest.mark.parametrize("ruled_out", [[3], [1, 2, 3]], ids=str)
def test_rivals_ruled_out_by_minus_infinity_cost_nothing(rng, mode, kind, ruled_out):
    logits, ids = logits_of(rng, 6), np.zeros(6, "int32")
    logits[:, ruled_out] = -np.inf
    rows = np.eye(4, dtype="float32")[ids]
    ours = value_and_gradient(general(reduction=None), ids if kind == "ids" else rows, logits, mode)
    expected = reference.over_rows(family(**VECTORS), rows, logits)
    assert (expected[0] == 0).all() == (ruled_out == [1, 2, 3])
    assert_same(ours, expected)


@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize("kind", ["ids", "one-hot"])
def test_a_nan_among_the_logits_gives_nan_and_harms_no_other_row(rng, mode, kind):
    logits, (labels, rows) = logits_of(rng, 6), labels_of(rng, kind, 6)
    for row in range(4):
        logits[1 + row, row] = np.nan
    value, gradient = value_and_gradient(general(reduction=None), labels, logits, mode)
    assert np.isnan(value[1:5]).all() and np.isnan(gradient[1:5]).any(axis=1).all()
    clean = reference.over_rows(family(**VECTORS), rows[[0, 5]], logits[[0, 5]])
    assert_same((value[[0, 5]], gradient[[0, 5]]), clean)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["ids", "soft"])
def test_half_precision_logits_are_computed_in_float32(rng, dtype, kind):
    rounded, (labels, _) = ops.cast(logits_of(rng, 6), dtype), labels_of(rng, kind, 6)
    loss = general(reduction=None)
    value = loss(labels, rounded)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_array_equal(as_float64(value), as_float64(loss(labels, ops.cast(rounded, "float32"))))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has no float64 unless told")
@pytest.mark.parametrize("kind", ["ids", "soft"])
def test_float64_logits_are_computed_in_float64(rng, kind):
    logits, (labels, rows) = rng.normal(size=(6, 4)), labels_of(rng, kind, 6)
    ours = value_and_gradient(general(reduction=None), labels, logits)
    assert_same(ours, reference.over_rows(family(**VECTORS), rows, logits), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize("kind", ["ids", "half"])
@pytest.mark.parametrize("lead", [14.0, 30.0])
def test_a_well_fitted_example_keeps_the_precision_of_float32(rng, mode, kind, lead):
    ids, logits = np.array([0, 1, 2, 3, 0, 1]), rng.uniform(-3, 2, (6, 4)).astype("float32")
    logits[np.arange(6), ids] = lead
    rows = np.eye(4, dtype="float32")[ids] * (0.5 if kind == "half" else 1.0)
    margins = {"class_weight": VECTORS["class_weight"], "label_margin": [0.25, -1, 0, 2], "rival_margin": [-1, 0, 1, 0]}
    loss = PairwiseMarginCrossentropy(COUNTS, **margins, reduction=None)
    ours = value_and_gradient(loss, ids if kind == "ids" else rows, logits, mode)
    expected = reference.over_rows(family(**margins), rows, logits)
    assert expected[0].max() < np.exp(5 - lead)
    assert_same(ours, expected, rtol=4e-6, atol=0)


@settings(max_examples=10)
@given(st.data())
def test_any_shape_vector_and_logit_agrees_with_the_formula(data):
    # Few shapes, for JAX compiles each operation anew for each.
    num_classes, leading = data.draw(st.sampled_from([(4, (6,)), (5, (3, 2)), (7, (0, 2))]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.floats(0, 10))
    vectors = {
        "class_weight": np.exp(rng.normal(size=num_classes)),
        "label_margin": size * rng.normal(size=num_classes),
        "rival_margin": size * rng.normal(size=num_classes),
        "logit_scale": np.exp(rng.normal(size=num_classes)),
    }
    logits = (rng.normal(size=(*leading, num_classes)) * 10 ** rng.uniform(-3, 3)).astype("float32")
    ids = rng.integers(0, num_classes, leading)
    rows = np.eye(num_classes)[ids].astype("float32")
    expected = reference.over_rows(family(**vectors), rows, logits)
    loss = PairwiseMarginCrossentropy(rng.integers(1, 10**9, num_classes), **vectors, reduction=None)
    for labels in (ids, rows):
        assert_same(value_and_gradient(loss, labels, logits), expected, rtol=1e-4, atol=1e-3)


def test_the_members_made_by_name_are_called_by_it():
    for member, options in (
        ("fisher_consistent", {"delta": [1, 2]}),
        ("balanced", {}),
        ("logit_adjusted_adaptive", {}),
    ):
        assert getattr(PairwiseMarginCrossentropy, member)([3, 1], **options).name == f"{member}_crossentropy"


def test_a_class_whose_prior_equals_the_threshold_is_not_rare():
    loss = EqualizedCrossentropy([75, 25], threshold=0.25, gamma=0.5)
    assert loss.rival_margin.tolist() == [0.0, 0.0]
