"""Intervals of few examples and of classes that were not found, where those of a bootstrap are too narrow."""

import numpy as np
import pytest
from scipy import stats

import keras_logit_adjust as kla

SURE = 100.0  # a logit that tells the class surely


def interval(found, method="em", level=0.95):
    """The estimate from examples whose classes are known surely, so many of each."""
    options = {"level": level, "replicates": 400, "method": method}
    if method == "bbse":
        options["validation"] = (SURE * np.eye(len(found)) - 0.5, np.arange(len(found)))
    logits = SURE * np.eye(len(found))[np.repeat(np.arange(len(found)), found)] - 0.5
    return kla.estimate_target_prior(logits, np.ones(len(found)), **options)


@pytest.mark.parametrize("method", ["em", "bbse"])
@pytest.mark.parametrize(("found", "level"), [((1, 0), 0.95), ((7, 0), 0.9), ((0, 40), 0.95), ((3, 5, 0), 0.95)])
def test_a_class_that_is_not_found_has_the_exact_binomial_bound(found, level, method):
    target = interval(found, method, level)
    bound = stats.binomtest(0, sum(found)).proportion_ci(level, method="exact").high
    rare = np.equal(found, 0)
    np.testing.assert_allclose(target.high[rare], bound, rtol=1e-4)
    np.testing.assert_array_equal(target.low[rare], 0.0)
    if (~rare).sum() == 1:
        np.testing.assert_allclose(target.low[~rare], 1 - bound, rtol=1e-4)
        np.testing.assert_array_equal(target.high[~rare], 1.0)


@pytest.mark.parametrize("ratio", [0.01, 0.02, 0.5, 1.0])
def test_one_example_bounds_a_share_only_as_far_as_it_tells_classes_apart(ratio):
    target = kla.estimate_target_prior(np.log([[1.0, ratio]]), [1, 1])
    # (1 − t) + t·ratio is the likelihood of the example; it is 0.025 at the bound, or above it for every t
    np.testing.assert_allclose(target.high[1], min(1.0, 0.975 / (1 - ratio)) if ratio < 1 else 1.0, rtol=1e-4)
    assert target.low[1] == 0.0 and target.high[0] == 1.0
    if ratio < 1:
        np.testing.assert_allclose(target.low[0], 1 - target.high[1], atol=1e-12)


@pytest.mark.parametrize("method", ["em", "bbse"])
@pytest.mark.parametrize(("found", "level"), [((3, 4, 5), 0.95), ((1, 30), 0.9), ((60, 140), 0.5)])
def test_intervals_hold_the_exact_ones_of_binomial_shares(found, level, method):
    target = interval(found, method, level)
    for count, low, high in zip(found, target.low, target.high, strict=True):
        exact = stats.binomtest(count, sum(found)).proportion_ci(level, method="exact")
        assert low <= exact.low * (1 + 1e-4) and high >= exact.high * (1 - 1e-4)
        assert high - low < 1.35 * (exact.high - exact.low)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 12, 40])
def test_intervals_of_few_sure_examples_cover_every_share(number):
    shares = np.linspace(0.005, 0.995, 100)
    ends = [(target.low[1], target.high[1]) for target in (interval((number - k, k)) for k in range(number + 1))]
    chances = stats.binom.pmf(np.arange(number + 1), number, shares[:, None])
    holds = np.array([[low <= share <= high for low, high in ends] for share in shares])
    assert (chances * holds).sum(axis=1).min() >= 0.95


def test_the_prior_that_functions_take_is_unchanged_by_the_border():
    target = interval((4, 0))
    np.testing.assert_allclose(target.prior, [1.0, 0.0])
    np.testing.assert_allclose(target.effective_prior, [4.5 / 5, 0.5 / 5])
