"""Fisher consistency: the verdicts, and the same by experiment, minimizing each loss over all scorers."""

import tracemalloc

import keras
import numpy as np
import pytest
import reference
import scipy.optimize
from helpers.gradients import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_logit_adjust import is_fisher_consistent
from keras_logit_adjust.losses import (
    AdaptiveMarginCrossentropy,
    BinaryLogitAdjustedCrossentropy,
    ClassBalancedCrossentropy,
    EqualizedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    VectorScalingCrossentropy,
)

COUNTS = [70, 25, 5]
PRIOR = np.array([0.7, 0.25, 0.05])
LOG_PRIOR = np.log(PRIOR)
DELTA = [3.0, 0.2, 1.0]


def adjusted_by(tau, **options):
    """α_y = π_y^(τ−1) with Δ = τ·log(π_y'/π_y): Theorem 1 with δ = π^τ."""
    return PairwiseMarginCrossentropy(
        COUNTS, class_weight=PRIOR ** (tau - 1), label_margin=-tau * LOG_PRIOR, rival_margin=tau * LOG_PRIOR, **options
    )


CONSISTENT = {
    "logit-adjusted": (LogitAdjustedCrossentropy(COUNTS), PRIOR),
    "balanced": (PairwiseMarginCrossentropy.balanced(COUNTS), np.ones(3)),
    "adjusted at τ = 0.5, weighted": (adjusted_by(0.5), PRIOR**0.5),
    "adjusted at τ = 2, weighted": (adjusted_by(2.0), PRIOR**2),
    "any δ": (PairwiseMarginCrossentropy.fisher_consistent(COUNTS, delta=DELTA), np.array(DELTA)),
    "vector-scaling at γ = 0": (VectorScalingCrossentropy(COUNTS, gamma=0), PRIOR),
    "class-balanced at β → 1": (ClassBalancedCrossentropy(COUNTS, beta=1 - 1e-12), np.ones(3)),
    "focal with 1/π": (FocalCrossentropy(2, class_weight=1 / PRIOR), np.ones(3)),
}
INCONSISTENT = {
    "adaptive": AdaptiveMarginCrossentropy(COUNTS, max_margin=2),
    "equalized": EqualizedCrossentropy(COUNTS, threshold=0.3, gamma=0.5),
    "equalized by prior": EqualizedCrossentropy(COUNTS, form="prior"),
    "logit-adjusted and adaptive": PairwiseMarginCrossentropy.logit_adjusted_adaptive(COUNTS),
    "logit-adjusted at τ = 0.5": LogitAdjustedCrossentropy(COUNTS, tau=0.5),
    "logit-adjusted at τ = 2": LogitAdjustedCrossentropy(COUNTS, tau=2),
    "class-balanced at β = 0.9": ClassBalancedCrossentropy(COUNTS, beta=0.9),
    "plain": PairwiseMarginCrossentropy(COUNTS),
    "Keras's of ids": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "Keras's of rows": keras.losses.CategoricalCrossentropy(from_logits=True),
    "focal": FocalCrossentropy(2),
}


@pytest.mark.parametrize("name", CONSISTENT)
def test_members_of_theorem_1_are_consistent_with_their_delta(name):
    loss, delta = CONSISTENT[name]
    found = is_fisher_consistent(loss, class_counts=COUNTS)
    assert (found.verdict, bool(found), found.witness) == ("consistent", True, None)
    np.testing.assert_allclose(found.delta, delta / np.sum(delta), rtol=1e-9)
    assert "Theorem 1" in found.reason


@settings(max_examples=50)
@given(st.data())
def test_any_delta_is_consistent_and_found_again_up_to_scale(data):
    size = data.draw(st.integers(2, 8))
    delta = data.draw(st.lists(st.floats(1e-6, 1e6), min_size=size, max_size=size))
    counts = data.draw(st.lists(st.integers(1, 10**7), min_size=size, max_size=size))
    found = is_fisher_consistent(PairwiseMarginCrossentropy.fisher_consistent(counts, delta=delta))
    assert found.verdict == "consistent"
    np.testing.assert_allclose(found.delta, np.array(delta) / sum(delta), rtol=1e-9)


@pytest.mark.parametrize("name", INCONSISTENT)
def test_losses_that_fail_lemma_2_on_two_classes_are_inconsistent(name):
    found = is_fisher_consistent(INCONSISTENT[name], class_counts=COUNTS)
    assert (found.verdict, bool(found), found.delta) == ("inconsistent", False, None)
    assert f"Classes {found.witness.classes[0]} and {found.witness.classes[1]} fail Lemma 2" in found.reason


def test_the_reason_of_a_focal_loss_names_its_calibration():
    found = is_fisher_consistent(FocalCrossentropy(), class_counts=[5, 5, 5])
    assert (found.verdict, found.reason[:24]) == ("consistent", "Focal loss is calibrated")


def test_the_reason_says_how_much_likelier_the_rarer_class_must_be():
    plain = is_fisher_consistent(PairwiseMarginCrossentropy(COUNTS))
    assert plain.witness.classes == (2, 0)
    assert f"prefers class 0 until P(x|2) is {70 / 5:.3g} times P(x|0)" in plain.reason
    # Lemma 2: π_a·s(m_a) against π_b·s(m_b), here 0.7·s(0.5) against 0.05·s(m).
    margin = 2 * np.array([5 / 70, 5 / 25, 1.0]) ** 0.25
    pull = PRIOR / (1 + np.exp(-margin))
    adaptive = is_fisher_consistent(AdaptiveMarginCrossentropy(COUNTS, max_margin=2))
    assert f"is {pull[0] / pull[2]:.3g} times" in adaptive.reason


@pytest.mark.parametrize("max_margin", [0.5, 15.0])
def test_ldam_on_even_priors_is_not_inconsistent(max_margin):
    three = is_fisher_consistent(AdaptiveMarginCrossentropy([9, 9, 9], max_margin=max_margin))
    assert three.verdict == "undecided" and not three
    two = is_fisher_consistent(AdaptiveMarginCrossentropy([9, 9], max_margin=max_margin))
    assert two.verdict == "consistent" and "Lemma 2" in two.reason


@pytest.mark.parametrize("build", [PairwiseMarginCrossentropy, LogitAdjustedCrossentropy, FocalCrossentropy])
def test_an_even_prior_makes_plain_losses_consistent(build):
    loss = build() if build is FocalCrossentropy else build([4, 4, 4])
    found = is_fisher_consistent(loss, class_counts=[4, 4, 4])
    assert found
    np.testing.assert_allclose(found.delta, np.full(3, 1 / 3), rtol=1e-12)


UNDECIDED = {
    "vector-scaling": (VectorScalingCrossentropy(COUNTS, gamma=0.1), "scaled by class"),
    "class-dependent temperature": (VectorScalingCrossentropy(COUNTS, gamma=0.1, tau=0), "scaled by class"),
    "smoothed": (LogitAdjustedCrossentropy(COUNTS, label_smoothing=0.1), "Label smoothing"),
    "smoothed family": (PairwiseMarginCrossentropy.balanced(COUNTS, label_smoothing=0.1), "Label smoothing"),
    "Keras's, smoothed": (keras.losses.CategoricalCrossentropy(label_smoothing=0.1), "Label smoothing"),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_no_theorem_covers_is_undecided(name):
    loss, reason = UNDECIDED[name]
    found = is_fisher_consistent(loss, class_counts=COUNTS)
    assert (found.verdict, found.delta, found.witness) == ("undecided", None, None)
    assert reason in found.reason


@pytest.mark.parametrize(("num_classes", "verdict"), [(2, "consistent"), (3, "undecided"), (4, "undecided")])
def test_margins_that_cancel_in_reverse_are_enough_for_two_classes_alone(num_classes, verdict):
    prior, margin = np.arange(num_classes, 0, -1) / sum(range(num_classes + 1)), np.arange(num_classes, dtype=float)
    loss = PairwiseMarginCrossentropy(
        prior, class_weight=1 / prior, label_margin=margin, rival_margin=-margin[::-1]
    )  # δ is constant, and Δ_01 = Δ_10 = 0: of more classes Δ_yy' is not
    found = is_fisher_consistent(loss)
    assert (found.verdict, found.delta is None) == (verdict, num_classes > 2)


def test_the_verdict_is_about_the_counts_given_not_those_of_the_loss():
    loss = LogitAdjustedCrossentropy(COUNTS)
    assert is_fisher_consistent(loss)
    resampled = is_fisher_consistent(loss, class_counts=[1, 1, 1])
    assert resampled.verdict == "inconsistent" and resampled.witness.classes == (0, 2)


def test_twenty_thousand_classes_are_judged_too():
    found = is_fisher_consistent(LogitAdjustedCrossentropy(np.arange(1, 20_001)))
    assert found and found.delta.shape == (20_000,)


def test_a_verdict_on_many_classes_needs_no_table_of_all_pairs():
    loss = AdaptiveMarginCrossentropy(np.arange(1, 4001))
    tracemalloc.start()
    try:
        found = is_fisher_consistent(loss)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.verdict == "inconsistent"
    assert peak < 4000**2 * 8 / 2  # half of one such table in float64


BAD = {
    "binary": (BinaryLogitAdjustedCrossentropy([5, 3], 10), COUNTS, "softmax loss of `kla.losses`.*Received: BinaryL"),
    "Keras's own": (
        keras.losses.CategoricalHinge(),
        COUNTS,
        "softmax loss of `kla.losses`.*Received: CategoricalHinge",
    ),
    "a name": ("categorical_crossentropy", COUNTS, "softmax loss of `kla.losses`.*Received: str"),
    "no counts": (FocalCrossentropy(), None, r"FocalCrossentropy knows no class counts\. Give them: is_fisher_c"),
    "too few counts": (AdaptiveMarginCrossentropy(COUNTS), [5, 3], "class_counts has 2 classes.* has 3"),
    "zero count": (AdaptiveMarginCrossentropy(COUNTS), [5, 3, 0], r"greater than zero.*\[0\.0\] at class 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    loss, counts, match = BAD[name]
    with pytest.raises(ValueError, match=match):
        is_fisher_consistent(loss, class_counts=counts)


# By experiment: six points x, P(x|y) in hundredths, each column one class. No two classes tie at any point.
LIKELIHOOD = np.array([[40, 10, 5], [20, 22, 6], [12, 30, 14], [14, 12, 20], [8, 20, 15], [6, 6, 40]]) / 100
JOINT = LIKELIHOOD * PRIOR


def oracle_of(loss):
    """The float64 oracle of a loss, from its vectors."""
    size = len(COUNTS)
    weight = getattr(loss, "class_weight", None)
    weight = np.ones(size) if weight is None else weight
    if isinstance(loss, FocalCrossentropy):
        return lambda t, f: reference.focal_crossentropy(t, f, loss.gamma, weight)
    adjustment = getattr(loss, "adjustment", np.zeros(size))
    label_margin, rival_margin = getattr(loss, "label_margin", -adjustment), getattr(loss, "rival_margin", adjustment)
    table = label_margin[:, None] + rival_margin
    return lambda t, f: reference.pairwise_crossentropy(t, f, weight, table, np.ones(size))


def minimizer(loss, joint):
    """The logits [points, L] that minimize the expected loss, Σ_x Σ_y P(x, y)·ℓ(y, f(x)), from zeros."""
    oracle = oracle_of(loss)

    def expected_loss(logits):
        values, gradients = reference.over_rows(oracle, joint, logits.reshape(joint.shape))
        return values.sum(), gradients.ravel()

    # Bounds, for a class of probability 0 at a point has its best logit at −∞.
    options = {"ftol": 0, "gtol": 1e-10, "maxiter": 5000, "maxfun": 20000}
    found = scipy.optimize.minimize(
        expected_loss,
        np.zeros(joint.size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-30, 30)] * joint.size,
        options=options,
    )
    assert np.abs(expected_loss(found.x)[1][np.abs(found.x) < 30]).max() < 1e-7
    return found.x.reshape(joint.shape)


def assert_the_package_agrees(loss, joint, logits):
    """The package's own loss has the oracle's value and gradient at these logits, P(y|x) being soft labels."""
    logits, posterior = logits.astype("float32"), (joint / joint.sum(axis=1, keepdims=True)).astype("float32")
    expected = reference.over_rows(oracle_of(loss), posterior, logits)
    plain = type(loss).from_config({**loss.get_config(), "reduction": None})
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        plain = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)
    for ours, theirs in zip(value_and_gradient(plain, posterior, logits), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONSISTENT)
def test_minimizing_a_consistent_loss_gives_the_balanced_bayes_rule(rng, name):
    loss, _ = CONSISTENT[name]
    logits = minimizer(loss, JOINT)
    assert logits.argmax(axis=1).tolist() == LIKELIHOOD.argmax(axis=1).tolist() == [0, 1, 1, 2, 1, 2]
    assert_the_package_agrees(loss, JOINT, logits)
    assert_the_package_agrees(loss, JOINT, rng.normal(0, 3, JOINT.shape))


# The balanced Bayes rule is [0, 1, 1, 2, 1, 2]: what each loss prefers at the points where it misses that.
MISSES = {
    "plain": {1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "Keras's of ids": {1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "Keras's of rows": {1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "focal": {1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "adaptive": {1: 0, 2: 0, 3: 0, 4: 0, 5: 0},
    "class-balanced at β = 0.9": {1: 0, 2: 0, 3: 0, 4: 0},
    "equalized": {1: 0, 3: 0, 5: 0},
    "equalized by prior": {1: 0, 3: 0},
    "logit-adjusted and adaptive": {1: 0, 3: 0},
    "logit-adjusted at τ = 0.5": {1: 0, 3: 0},
    "logit-adjusted at τ = 2": {0: 2, 1: 2, 2: 2, 4: 2},
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_minimizing_an_inconsistent_loss_misses_the_balanced_bayes_rule(rng, name):
    loss = INCONSISTENT[name]
    logits = minimizer(loss, JOINT)
    chosen, bayes = logits.argmax(axis=1), LIKELIHOOD.argmax(axis=1)
    assert {x: int(chosen[x]) for x in np.flatnonzero(chosen != bayes)} == MISSES[name]
    assert_the_package_agrees(loss, JOINT, logits)
    assert_the_package_agrees(loss, JOINT, rng.normal(0, 3, JOINT.shape))


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_at_another_tau_the_minimizer_divides_by_a_power_of_the_prior(tau):
    logits = minimizer(LogitAdjustedCrossentropy(COUNTS, tau=tau), JOINT)
    scores = np.log(JOINT) - tau * LOG_PRIOR
    centered = scores - scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), centered, atol=1e-5)


@pytest.mark.parametrize("name", INCONSISTENT)
def test_on_the_witness_the_minimizer_prefers_the_wrong_class(name):
    loss = INCONSISTENT[name]
    witness = is_fisher_consistent(loss, class_counts=COUNTS).witness
    joint, (first, second) = witness.joint, witness.classes
    assert joint.shape == (4, 3) and (joint >= 0).all()
    np.testing.assert_allclose(joint.sum(axis=0), PRIOR, rtol=1e-12)
    assert joint[0, first] / PRIOR[first] > joint[0, second] / PRIOR[second] > 0
    assert ((joint[1:] > 0).sum(axis=1) == 1).all()
    logits = minimizer(loss, joint)
    assert logits[0].argmax() == second
    assert logits[1:].argmax(axis=1).tolist() == [0, 1, 2]


def test_a_witness_exists_however_badly_two_classes_fail():
    counts = [10**9, 1]
    witness = is_fisher_consistent(PairwiseMarginCrossentropy(counts)).witness
    assert witness.classes == (1, 0)
    conditional = witness.joint / witness.joint.sum(axis=0)
    assert conditional[0, 1] > conditional[0, 0] > 0.1
    assert witness.joint[0, 0] > witness.joint[0, 1]
