"""The study of consistency: its limits, its samples and its exact errors against the normal distribution."""

import numpy as np
import pytest
import scipy.stats

from keras_logit_adjust import studies
from keras_logit_adjust.studies import consistency

pytestmark = pytest.mark.usefixtures("folder")


def test_the_limits_are_those_of_the_normal_distribution():
    normal = scipy.stats.norm
    # The mean of y·(x₁ + x₂) is 2 and its deviation √2; ERM's line is shifted by ½·log(0.95/0.05).
    shift = np.log(0.95 / 0.05) / 2
    np.testing.assert_allclose(consistency.BAYES_ERROR, 100 * normal.cdf(0, 2, np.sqrt(2)))
    mean = (normal.cdf(shift, 2, np.sqrt(2)) + normal.cdf(-shift, 2, np.sqrt(2))) / 2
    np.testing.assert_allclose(consistency.ERM_ERROR, 100 * mean)
    np.testing.assert_allclose([consistency.BAYES_ERROR, consistency.ERM_ERROR], [7.86, 18.08], atol=0.005)


def test_the_exact_balanced_error_is_that_of_a_large_sample(rng):
    weights = rng.normal(size=(4, 3, 2))
    y = rng.permutation(np.repeat([0, 1], 100_000))
    x = np.column_stack([rng.normal(size=(y.size, 2)) + np.where(y == 1, 1, -1)[:, None], np.ones(y.size)])
    wrong = [(x @ kernel).argmax(axis=1) != y for kernel in weights]
    expected = [50 * (w[y == 0].mean() + w[y == 1].mean()) for w in wrong]
    assert np.ptp(expected) > 10
    # The deviation of a share of 100,000 draws is at most 0.16 points, of the mean of two 0.11.
    np.testing.assert_allclose(consistency.balanced_error(weights), expected, atol=0.5)


def test_samples_are_two_gaussians_that_differ_by_size_and_seed():
    x, y = consistency._sample(4000, 5, seed=0)
    assert x.shape == (5, 4000, 3) and y.shape == (5, 4000) and (x[..., 2] == 1).all()
    deviation = np.sqrt(0.05 * 0.95 / 20_000)
    assert abs(y.mean() - 0.05) < 4 * deviation
    for c, center in ((0, -1), (1, 1)):
        points = x[..., :2][y == c]
        np.testing.assert_allclose(points.mean(axis=0), center, atol=4 / np.sqrt(len(points)))
        np.testing.assert_allclose(np.cov(points.T), np.eye(2), atol=6 / np.sqrt(len(points)))
    again, other = consistency._sample(4000, 5, seed=0), consistency._sample(4000, 5, seed=1)
    np.testing.assert_array_equal(x, again[0])
    assert (other[0] != x).any() and (consistency._sample(100, 5, seed=0)[0] != x[:, :100]).any()


@pytest.mark.slow
def test_adjustment_approaches_the_bayes_error_and_no_rival_does():
    from sklearn.linear_model import LogisticRegression

    fitted, fit = {}, consistency.fit_affine

    def keep(x, y, *, loss, steps):
        fitted[loss.name] = fit(x, y, loss=loss, steps=steps)
        return fitted[loss.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "fit_affine", keep)
        results = studies.run_study("consistency", sizes=[10_000], trials=4)
    errors = {name: found["mean"][0] for name, found in results["balanced_error"].items()}
    bayes = scipy.stats.norm.cdf(-np.sqrt(2)) * 100
    assert bayes <= errors["la"] < bayes + 1
    assert errors["erm"] >= 2 * bayes and errors["adaptive"] > bayes + 5
    assert errors["la"] == min(errors.values())
    np.testing.assert_allclose(errors["weight_norm"], errors["erm"], rtol=1e-3)
    assert results["loss_against_posthoc"][0] < 0.1
    x, y = consistency._sample(10_000, 4, seed=0)
    for trial, kernel in enumerate(fitted["sparse_categorical_crossentropy"]):
        oracle = LogisticRegression(penalty=None, tol=1e-10, max_iter=1000).fit(
            x[trial, :, :2].astype("float64"), y[trial]
        )
        expected = [*oracle.coef_[0], oracle.intercept_[0]]
        np.testing.assert_allclose(kernel[:, 1] - kernel[:, 0], expected, atol=1e-2)
