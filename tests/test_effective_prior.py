"""`kla.priors.effective_prior`: what weights and resampling make of a prior, and undoing it exactly."""

import collections

import numpy as np
import pytest
from helpers.tables import Series
from imblearn import over_sampling, under_sampling
from scipy import optimize, stats
from sklearn.utils.class_weight import compute_class_weight

import keras_logit_adjust as kla
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.priors import effective_prior

COUNTS = np.array([90, 9, 1])
WEIGHTS = np.array([1.0, 4.0, 20.0])
NAMES = ["ant", "bee", "cat"]
EFFECTIVE = COUNTS * WEIGHTS / (90 + 36 + 20)

WEIGHT_FORMS = {
    "list": (WEIGHTS.tolist(), None),
    "Keras's dict": ({2: 20.0, 0: 1.0, 1: 4.0}, None),
    "dict by name": ({"cat": 20.0, "ant": 1.0, "bee": 4.0}, NAMES),
    "dict by id beside names": ({0: 1.0, 1: 4.0, 2: 20.0}, NAMES),
    "Series by name": (Series([20.0, 1.0, 4.0], ["cat", "ant", "bee"]), NAMES),
    "larger by a factor": (1000 * WEIGHTS, None),
}


@pytest.mark.parametrize("form", WEIGHT_FORMS)
def test_the_prior_is_that_of_counts_times_weights(form):
    weights, names = WEIGHT_FORMS[form]
    found = effective_prior(COUNTS, class_weight=weights, class_names=names)
    np.testing.assert_allclose(found, EFFECTIVE, rtol=1e-14)


def test_balanced_weights_are_those_of_scikit_learn():
    y = np.repeat([0, 1, 2], COUNTS)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(effective_prior(COUNTS, class_weight=weights), 1 / 3, rtol=1e-14)
    np.testing.assert_array_equal(effective_prior(COUNTS, class_weight="balanced"), np.full(3, 1 / 3))


@pytest.mark.parametrize(
    "resampler",
    [
        over_sampling.RandomOverSampler(sampling_strategy={1: 45, 2: 30}, random_state=0),
        under_sampling.RandomUnderSampler(sampling_strategy={0: 12}, random_state=0),
    ],
    ids=lambda resampler: type(resampler).__name__,
)
def test_resampling_has_the_prior_of_the_counts_that_it_gives(resampler):
    y = np.repeat([0, 1, 2], COUNTS)
    _, resampled = resampler.fit_resample(np.zeros((100, 1)), y)
    counts = collections.Counter(resampled.tolist())
    found = effective_prior(COUNTS, resampled_counts=counts, resampler=resampler)
    shares = np.bincount(resampled) / resampled.size
    np.testing.assert_allclose(found, shares, rtol=1e-14)
    weighted = effective_prior(COUNTS, resampled_counts=np.bincount(resampled), class_weight=WEIGHTS)
    np.testing.assert_allclose(weighted, shares * WEIGHTS / (shares @ WEIGHTS), rtol=1e-14)


def test_a_prior_that_is_given_is_weighted_too():
    np.testing.assert_allclose(effective_prior([0.9, 0.09, 0.01], class_weight=WEIGHTS), EFFECTIVE, rtol=1e-14)
    np.testing.assert_allclose(effective_prior(kla.priors.as_prior(COUNTS), class_weight=WEIGHTS), EFFECTIVE)


# --- Undoing --------------------------------------------------------------------------------------------------------


def saturated_table(x, y, weights):
    """The probabilities `[X, L]` of the model with a number for each cell, at the minimum of weighted cross-entropy.

    Found by an optimizer, not by the formula that is tested.
    """
    counts = np.zeros((x.max() + 1, y.max() + 1))
    np.add.at(counts, (x, y), 1)
    mass = counts * weights

    def loss(flat):
        scores = flat.reshape(mass.shape)
        top = scores.max(axis=1, keepdims=True)
        logs = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        slope = mass.sum(axis=1, keepdims=True) * np.exp(logs) - mass
        return -(mass * logs).sum(), slope.ravel()

    options = {"gtol": 1e-10, "ftol": 0, "maxiter": 5000}
    found = optimize.minimize(loss, np.zeros(mass.size), jac=True, method="L-BFGS-B", options=options)
    scores = found.x.reshape(mass.shape)
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def table():
    """Cells of x and labels, every pair at least once."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.repeat([0, 1, 2, 3], 3), rng.integers(4, size=400)])
    y = np.concatenate([np.tile([0, 1, 2], 4), rng.choice(3, 400, p=[0.8, 0.15, 0.05])])
    return x, y


def test_weights_of_a_saturated_model_are_undone_exactly(table):
    x, y = table
    counts = np.bincount(y)
    weighted = saturated_table(x, y, WEIGHTS)
    plain = saturated_table(x, y, np.ones(3))
    back = kla.adjust_scores(weighted, effective_prior(counts, class_weight=WEIGHTS), target_prior=counts)
    assert np.abs(weighted - plain).max() > 0.2  # there is something to undo
    np.testing.assert_allclose(back, plain, atol=1e-6)


def test_oversampling_of_a_saturated_model_is_undone_exactly(table):
    """Every example of a class as often: the mean of what random oversampling draws."""
    x, y = table
    counts, times = np.bincount(y), np.array([1, 3, 9])
    rows = np.repeat(np.arange(y.size), times[y])
    resampled = saturated_table(x[rows], y[rows], np.ones(3))
    prior = effective_prior(counts, resampled_counts=np.bincount(y[rows]))
    back = kla.adjust_scores(resampled, prior, target_prior=counts)
    np.testing.assert_allclose(back, saturated_table(x, y, np.ones(3)), atol=1e-6)


def test_weights_of_a_bayes_rule_are_undone_for_every_target():
    """Gaussian classes, whose posterior under any prior is arithmetic."""
    x = np.linspace(-3, 6, 50)[:, None]
    likelihood = stats.norm.pdf(x, loc=[0.0, 1.5, 3.0])

    def posterior(prior):
        joint = likelihood * prior
        return joint / joint.sum(axis=1, keepdims=True)

    of_model = posterior(COUNTS * WEIGHTS)  # what weighted training aims at
    prior = effective_prior(COUNTS, class_weight=WEIGHTS)
    for target in (COUNTS / COUNTS.sum(), np.full(3, 1 / 3), np.array([0.2, 0.7, 0.1])):
        np.testing.assert_allclose(
            kla.adjust_scores(of_model, prior, target_prior=target), posterior(target), rtol=1e-11
        )


# --- Bad input ------------------------------------------------------------------------------------------------------

GOOD = {"class_weight": WEIGHTS}
BAD = {
    "neither": ({}, "`class_weight` or `resampled_counts` must be given"),
    "a missing class": ({"class_weight": {0: 1.0, 2: 5.0}}, r"keys 0 … 2, one for each class id.*Give 1.0 to a class"),
    "a class too many": ({"class_weight": {0: 1.0, 1: 2.0, 2: 5.0, 3: 1.0}}, "keys 0 … 2"),
    "names without an order": ({"class_weight": {"ant": 1, "bee": 1, "cat": 2}}, "give `class_names`"),
    "counts of a missing class": ({"resampled_counts": {0: 5, 1: 5}}, "`resampled_counts` must have the keys 0 … 2"),
    "another word": ({"class_weight": "balanced_subsample"}, "`class_weight` must be one of 'balanced'"),
    "a weight of 0": ({"class_weight": [1, 0, 1]}, "`class_weight` must be greater than zero"),
    "a weight of NaN": ({"class_weight": [1, np.nan, 1]}, "`class_weight` must be finite"),
    "two weights": ({"class_weight": [1, 2]}, "`class_weight` must have one number for each class"),
    "a loss": ({"class_weight": kla.losses.FocalCrossentropy()}, "`class_weight` must be a list or vector of numbers"),
    "a class that is gone": ({"resampled_counts": [5, 5, 0]}, "`resampled_counts` must be greater than zero"),
    "a resampler alone": ({**GOOD, "resampler": "SMOTE"}, "`resampler` goes with `resampled_counts`"),
    "an unknown resampler": ({"resampled_counts": COUNTS, "resampler": "Magic"}, "`resampler` must be known"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_weights_are_refused_with_a_rule_and_a_remedy(name):
    options, message = BAD[name]
    with pytest.raises(ArgumentError, match=message):
        effective_prior(COUNTS, **options)


@pytest.mark.parametrize("kind", [under_sampling.NearMiss, under_sampling.TomekLinks, "EditedNearestNeighbours"])
def test_resampling_that_chooses_by_neighbors_is_refused(kind):
    resampler = kind if isinstance(kind, str) else kind()
    with pytest.raises(ArgumentError, match="must not choose examples by their neighbors. Received .*no prior undoes"):
        effective_prior(COUNTS, resampled_counts=[9, 9, 1], resampler=resampler)


def test_examples_that_were_made_are_undone_with_a_warning():
    with pytest.warns(UserWarning, match="SMOTE makes examples between .* approximate"):
        found = effective_prior(COUNTS, resampled_counts=[90, 90, 90], resampler=over_sampling.SMOTE())
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-14)


def test_every_resampler_of_imbalanced_learn_is_known():
    import imblearn.combine
    from imblearn.base import BaseSampler

    for room in (over_sampling, under_sampling, imblearn.combine):
        for name in room.__all__:
            assert issubclass(getattr(room, name), BaseSampler)
            options = {"resampled_counts": [9, 9, 9], "resampler": name}
            if name in ("RandomOverSampler", "RandomUnderSampler"):
                assert effective_prior(COUNTS, **options).size == 3
            elif room is over_sampling:
                with pytest.warns(UserWarning, match="approximate"):
                    effective_prior(COUNTS, **options)
            else:
                with pytest.raises(ArgumentError, match="by their neighbors"):
                    effective_prior(COUNTS, **options)
