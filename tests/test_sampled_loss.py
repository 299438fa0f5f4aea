"""The loss against drawn rivals: every draw of four classes enumerated, and draws of a million classes counted."""

import functools
import itertools

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import array, as_float64
from helpers.gradients import BACKEND, MODES, quickly, value_and_gradients
from keras import ops

from keras_logit_adjust.losses import (
    Rivals,
    RivalSampler,
    linear_logit_adjusted_crossentropy,
    sampled_logit_adjusted_crossentropy,
)

COUNTS = [40, 5, 50, 5]
LOG_PRIOR = reference.log_prior(COUNTS)
PRIOR = np.exp(LOG_PRIOR)
SHARES = np.array([0.1, 0.2, 0.3, 0.4])
LOGITS = np.array([1.0, -0.5, 0.3, 2.0])
POSTERIOR = np.array([0.5, 0.2, 0.2, 0.1])  # P(y|x) of the one input x there is
ALL = np.arange(4)
ONE = np.ones((4, 1), "float32")


def of_logits(ids, logits, **options):
    """The losses of examples that all have these logits."""
    kernel = np.zeros((1, 4), "float32")
    return sampled_logit_adjusted_crossentropy(ids, ONE[: len(ids)], kernel, logits, LOG_PRIOR, **options)


@functools.cache
def compiled(**options):
    """`of_logits` as a function of labels, logits, the ids drawn and their expected numbers; JAX compiles it once."""

    def values(ids, logits, *drawn):
        rivals = Rivals(*drawn, options.get("estimator") == "posterior") if drawn else "batch"
        return of_logits(ids, logits, rivals=rivals, **options)

    return quickly(values)


def independent(ids, shares=SHARES):
    return Rivals(np.array(ids, "int32"), np.log(len(ids) * shares))


def odds_of_error(logits, tau=1.0):
    """`Σ_{j≠y} e^{g_j − g_y}` for each label y."""
    scores = np.exp(logits + tau * LOG_PRIOR)
    return (scores.sum() - scores) / scores


@pytest.mark.parametrize("num_rivals", [1, 2])
def test_the_sum_of_partition_is_unbiased_over_all_draws(num_rivals):
    total = 0
    for ids in itertools.product(range(4), repeat=num_rivals):
        values = compiled()(ALL, LOGITS, *independent(ids)[:2])
        total = total + SHARES[list(ids)].prod() * np.expm1(as_float64(values))
    np.testing.assert_allclose(total, odds_of_error(LOGITS), rtol=1e-5)


@pytest.mark.parametrize("num_rivals", [1, 2, 3, 4])
@pytest.mark.parametrize("distribution", ["uniform", "log_uniform", "prior"])
def test_so_it_is_where_no_class_comes_twice(distribution, num_rivals):
    sampler = RivalSampler(COUNTS, num_rivals=num_rivals, distribution=distribution)
    table, probability = sampler._table, np.exp(sampler.log_expected)
    order = ALL if table.order is None else table.order
    strata = [order[first : last + 1] for first, last in zip(table.first, table.last, strict=True)]
    total, probabilities = 0, []
    for ids in itertools.product(*strata):
        assert len(set(ids)) == num_rivals
        values = compiled()(ALL, LOGITS, np.array(ids, "int32"), sampler.log_expected)
        probabilities.append(probability[list(ids)].prod())
        total = total + probabilities[-1] * np.expm1(as_float64(values))
    np.testing.assert_allclose(sum(probabilities), 1.0, rtol=1e-12)
    np.testing.assert_allclose(total, odds_of_error(LOGITS), rtol=1e-5)


def test_the_labels_of_a_batch_are_draws_from_its_prior():
    total = 0
    for others in itertools.product(range(4), repeat=2):
        ids = np.array([[y, *others] for y in range(4)])
        values = [as_float64(compiled()(row, LOGITS))[0] for row in ids]
        total = total + PRIOR[list(others)].prod() * np.expm1(values)
    np.testing.assert_allclose(total, odds_of_error(LOGITS), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES[1:] or MODES)
def test_all_classes_drawn_give_the_exact_loss_and_gradient(rng, mode):
    arrays = [rng.normal(size=shape).astype("float32") for shape in ((5, 3), (3, 4), 4)]
    rivals, ids = RivalSampler(COUNTS, num_rivals=4, distribution="uniform").draw(3), np.array([0, 3, 1, 2, 2])
    sampled, exact = (
        value_and_gradients(lambda *arrays, f=f, kw=kw: f(ids, *arrays, LOG_PRIOR, tau=1.5, **kw), arrays, mode)
        for f, kw in (
            (sampled_logit_adjusted_crossentropy, {"rivals": rivals}),
            (linear_logit_adjusted_crossentropy, {}),
        )
    )
    for ours, expected in zip([sampled[0], *sampled[1]], [exact[0], *exact[1]], strict=True):
        np.testing.assert_allclose(as_float64(ours), as_float64(expected), rtol=1e-5, atol=1e-6)


def test_the_bias_of_partition_is_low_and_falls_as_one_over_m():
    """Rivals of two kinds make the expectation a sum over a binomial count."""
    logits = np.array([0.0, 1.0, -2.0, -1e9], "float32") - LOG_PRIOR.astype("float32")
    exact = np.log(np.exp([0.0, 1.0, -2.0]).sum())
    numbers, biases = [16, 64, 256], []
    for m in numbers:
        # The label is never drawn, and two others with one half each.
        log_expected = np.log(m * np.array([1e-12, 0.5, 0.5, 1e-12]))
        k = np.arange(m + 1)
        log_binomial = np.append(0, np.cumsum(np.log((m - k[:-1]) / (k[:-1] + 1)))) - m * np.log(2)
        likely = np.flatnonzero(log_binomial > log_binomial.max() - 12)
        drawn = [np.repeat([1, 2], [n, m - n]).astype("int32") for n in likely]
        values = [as_float64(compiled()(np.array([0]), logits, ids, log_expected))[0] for ids in drawn]
        biases.append(np.average(values, weights=np.exp(log_binomial[likely])) - exact)
    assert max(biases) < 0
    slope = np.polyfit(np.log(numbers), np.log(-np.array(biases)), 1)[0]
    assert abs(slope + 1) < 0.3


def expected_gradient(logits, log_expected, shares, tau):
    """The gradient by the logits of the expected loss "posterior", over all labels and pairs of rivals."""
    total, values = 0, compiled(estimator="posterior", tau=tau)
    for ids in itertools.product(range(4), repeat=2):
        _, (gradient,) = value_and_gradients(
            lambda logits, ids=ids: ops.multiply(
                values(ALL, logits, np.array(ids, "int32"), log_expected), POSTERIOR.astype("float32")
            ),
            [logits.astype("float32")],
        )
        total = total + shares[list(ids)].prod() * as_float64(gradient)
    return total


@pytest.mark.parametrize(
    "corrected, shares, tau, minimizer",
    [
        (True, SHARES, 1.0, np.log(POSTERIOR) - LOG_PRIOR),
        (True, SHARES, 0.5, np.log(POSTERIOR) - 0.5 * LOG_PRIOR),
        (True, SHARES, 0.0, np.log(POSTERIOR)),
        (False, np.full(4, 0.25), 0.0, np.log(POSTERIOR)),
        (False, SHARES, 0.0, np.log(POSTERIOR) - np.log(SHARES)),
        (False, PRIOR, 0.0, np.log(POSTERIOR) - LOG_PRIOR),
        (False, PRIOR, 1.0, np.log(POSTERIOR) - 2 * LOG_PRIOR),
    ],
    ids=["adjusted", "half", "erm", "uniform", "any", "prior is tau 1", "prior and tau is tau 2"],
)
def test_what_a_sampled_softmax_is_minimized_by(corrected, shares, tau, minimizer):
    """The rows of the table in docs/mathematics.md. The loss is convex: no gradient is the minimum."""
    log_expected = np.log(2 * shares) if corrected else np.zeros(4)
    np.testing.assert_allclose(expected_gradient(minimizer, log_expected, shares, tau), 0.0, atol=1e-6)
    elsewhere = expected_gradient(minimizer + [0.5, 0, 0, 0], log_expected, shares, tau)
    assert np.abs(elsewhere).max() > 0.01


def test_a_softmax_over_the_batch_is_the_adjusted_loss_at_tau_1(rng):
    ids, features = np.array([2, 0, 2, 1]), rng.normal(size=(4, 3)).astype("float32")
    kernel = rng.normal(size=(3, 4)).astype("float32")
    options = {"rivals": "batch", "estimator": "posterior"}
    loss = quickly(lambda x: sampled_logit_adjusted_crossentropy(ids, x, kernel, None, LOG_PRIOR, **options))
    scores = (features @ kernel)[:, ids].astype("float64")  # no prior, no correction, equal labels kept
    expected = np.log(np.exp(scores).sum(axis=-1)) - np.diag(scores)
    np.testing.assert_allclose(as_float64(loss(features)), expected, rtol=1e-5)


@pytest.mark.parametrize("estimator, class_axis", [("partition", 0), ("partition", -1), ("posterior", 0)])
@pytest.mark.parametrize("mode", MODES[1:] or MODES)
def test_value_and_gradients_are_those_of_the_formula(rng, estimator, class_axis, mode):
    ids, drawn = np.array([[0, 3], [1, 255]]), np.array([3, 3, 0, 2, 1])
    arrays = [rng.normal(size=shape).astype("float32") for shape in ((2, 2, 3), (4, 3), 4)]
    rivals, weight = independent(drawn), np.array([[1.0, 2.0], [0.5, 3.0]], "float32")
    options = {"rivals": rivals, "estimator": estimator, "class_axis": class_axis, "tau": 2.0, "ignore_class": 255}

    def loss(features, kernel, bias):
        kernel = kernel if class_axis == 0 else ops.transpose(kernel)
        values = sampled_logit_adjusted_crossentropy(ids, features, kernel, bias, LOG_PRIOR, **options)
        return ops.multiply(values, weight)

    value, gradients = value_and_gradients(loss, arrays, mode)
    features, kernel, bias = (x.astype("float64") for x in arrays)
    expected, slopes = np.zeros((2, 2)), np.zeros((2, 2, 4))
    for place in [(0, 0), (0, 1), (1, 0)]:
        y = ids[place]
        scores = features[place] @ kernel.T + bias + 2 * LOG_PRIOR
        kept = drawn[drawn != y] if estimator == "partition" else drawn
        classes = np.append(y, kept)
        corrected = scores[classes] - rivals.log_expected[classes]
        if estimator == "partition":
            corrected[0] = scores[y]
        of_classes, slope = reference.crossentropy(np.eye(len(classes))[0], corrected)
        expected[place] = weight[place] * of_classes
        np.add.at(slopes[place], classes, weight[place] * slope)
    truth = [slopes @ kernel, slopes.reshape(-1, 4).T @ features.reshape(-1, 3), slopes.sum(axis=(0, 1))]
    np.testing.assert_allclose(as_float64(value), expected, rtol=1e-5, atol=1e-6)
    for gradient, by_formula in zip(gradients, truth, strict=True):
        np.testing.assert_allclose(as_float64(gradient), by_formula, rtol=1e-5, atol=2e-6)


def test_what_is_no_class_or_ignored_is_no_rival():
    ids = np.array([0, 9, 1, -1])
    values = as_float64(compiled(ignore_class=-1)(ids, LOGITS))
    assert np.isnan(values).tolist() == [False, True, False, False] and values[3] == 0
    pair = as_float64(compiled()(ids[[0, 2]], LOGITS))
    np.testing.assert_allclose(values[[0, 2]], pair, rtol=1e-6)


def test_one_example_alone_has_no_rivals_in_its_batch():
    assert as_float64(compiled()(np.array([2]), LOGITS)).tolist() == [0.0]


# Draws


@pytest.fixture(scope="module")
def zipf():
    """Counts of a million classes, in no order."""
    counts = 1e7 / np.arange(1, 1_000_001)
    return np.random.default_rng(0).permutation(counts)


@pytest.mark.parametrize(
    "options",
    [
        {"distribution": "log_uniform", "replacement": True, "num_rivals": 2**18},
        {"distribution": "prior", "power": 0.75, "replacement": True, "num_rivals": 2**18},
        {"distribution": "log_uniform", "num_rivals": 2**17},
    ],
    ids=["log_uniform", "power", "once"],
)
def test_the_rarest_of_a_million_classes_are_drawn_as_often_as_said(zipf, options):
    sampler = RivalSampler(zipf, **options)
    m, draws = options["num_rivals"], [array(sampler.draw(0, step=step).ids) for step in range(2)]
    if "replacement" not in options:
        assert len(np.unique(draws[0])) == m
    expected = np.exp(sampler.log_expected)
    assert expected.sum() == pytest.approx(m, rel=1e-9)
    rank = np.argsort(np.argsort(-zipf))
    if options["distribution"] == "log_uniform" and "replacement" in options:
        said = m * np.log1p(1 / (1 + rank)) / np.log1p(len(zipf))
        np.testing.assert_allclose(expected, said, rtol=0.03)
    # The last tenth by frequency, then tenths of tenths; a hundred draws at least are expected of each.
    group = np.minimum(np.log10(1 + 9 * (1 - (rank + 0.5) / len(zipf))) * 10, 9).astype(int)
    found = np.bincount(group[np.concatenate(draws)], minlength=10)
    said = 2 * np.bincount(group, weights=expected, minlength=10)
    assert said.min() > 100
    assert (np.abs(found - said) < 4 * np.sqrt(said)).all()


def test_a_class_that_is_expected_more_than_once_is_always_in():
    sampler = RivalSampler([1000, 1, 1, 1, 1], num_rivals=3, distribution="prior")
    assert sampler.log_expected[0] == 0
    assert all(0 in array(sampler.draw(0, step=step).ids) for step in range(5))


def test_classes_partly_in_order_of_frequency_are_drawn_as_often_as_said():
    sampler = RivalSampler([50, 1, 30, 2, 9, 8], num_rivals=3, distribution="prior")
    draws = np.concatenate([array(sampler.draw(0, step=step).ids) for step in range(400)])
    said = 400 * np.exp(sampler.log_expected)
    assert np.argsort(-said).tolist() == [0, 2, 4, 5, 3, 1]
    assert (np.abs(np.bincount(draws, minlength=6) - said) < 4 * np.sqrt(said)).all()


def test_a_draw_is_a_function_of_seed_and_step():
    sampler = RivalSampler(np.arange(1, 1001), num_rivals=50)
    first, again = (array(sampler.draw(7, step=3).ids) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for seed, step in ((7, 4), (8, 3), (3, 7), (8, 2)):
        assert (array(sampler.draw(seed, step=step).ids) != first).mean() > 0.5


@pytest.mark.skipif(BACKEND == "torch", reason="torch does not compile here")
def test_compiled_it_is_the_same_draw():
    sampler, step = RivalSampler(np.arange(1, 1001), num_rivals=50), ops.convert_to_tensor(3, "int32")

    def draw(step):
        return sampler.draw(7, step=step).ids

    if BACKEND == "jax":
        import jax

        compiled = [jax.jit(draw)]
    else:
        import tensorflow as tf

        compiled = [tf.function(draw, jit_compile=xla) for xla in (False, True)]
    for function in compiled:
        np.testing.assert_array_equal(array(function(step)), array(draw(3)))


def test_a_seed_generator_goes_on():
    sampler, generators = RivalSampler(range(1, 101), num_rivals=20), [keras.random.SeedGenerator(5) for _ in range(2)]
    draws = [[array(sampler.draw(generator).ids) for _ in range(2)] for generator in generators]
    np.testing.assert_array_equal(*draws)
    assert (draws[0][0] != draws[0][1]).any()


BAD_SAMPLERS = {
    "more than there are": ({"num_rivals": 5}, r"Without replacement `num_rivals` must be at most.*4.*num_rivals=5"),
    "none": ({"num_rivals": 0}, r"`num_rivals` must be an integer of at least 1"),
    "unknown": ({"distribution": "zipf"}, r"`distribution` must be one of 'uniform', 'log_uniform', 'prior'"),
    "zeros": ({"distribution": [1, 0, 2, 0]}, r"greater than zero: a class that is never drawn.*classes 1, 3"),
    "short": ({"distribution": [1, 2]}, r"class_counts has 4 classes, `distribution` has 2"),
    "power": ({"distribution": "prior", "power": -1}, r"`power` must be a number of at least 0"),
    "by id": ({"distribution": np.log1p(1 / np.arange(1, 5))}, r"(?s)rank of frequency.*log_uniform_candidate_sampler"),
}


@pytest.mark.parametrize("case", BAD_SAMPLERS)
def test_a_sampler_that_is_known_to_be_wrong_is_refused(case):
    change, match = BAD_SAMPLERS[case]
    with pytest.raises(ValueError, match=match):
        RivalSampler(COUNTS, **{"num_rivals": 2, **change})


def test_log_uniform_in_the_id_is_right_where_ids_are_in_order():
    shares = np.log1p(1 / np.arange(1, 5))
    given = RivalSampler([9, 5, 5, 1], num_rivals=2, distribution=shares, replacement=True)
    by_name = RivalSampler([9, 5, 5, 1], num_rivals=2, distribution="log_uniform", replacement=True)
    np.testing.assert_allclose(given.log_expected, by_name.log_expected, rtol=1e-9)


BAD_LOSSES = {
    "no rivals": ({"rivals": None}, r'`rivals` must be `Rivals` that a `RivalSampler` drew, or "batch".*None'),
    "ids": ({"rivals": np.array([0, 1])}, r"`rivals` must be `Rivals`"),
    "of others": ({"rivals": independent([0, 1], np.ones(3))}, r"of the 4 classes of `log_prior`.*3 classes"),
    "estimator": ({"estimator": "exact"}, r"`estimator` must be one of 'partition', 'posterior'"),
    "rows": ({"ids": np.eye(4)}, r"must be class ids of shape \(4,\)"),
    "strata": (
        {"rivals": Rivals(ALL, np.zeros(4), False), "estimator": "posterior"},
        r'"posterior" must have rivals that were drawn independently.*replacement=True',
    ),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_bad_input_is_refused(case):
    change, match = BAD_LOSSES[case]
    with pytest.raises(ValueError, match=match):
        of_logits(**{"ids": ALL, "logits": LOGITS, "rivals": independent([0, 1]), **change})


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless a process asks for it")
def test_float64_keeps_its_digits_with_the_labels_of_the_batch_as_rivals(rng):
    ids, features = np.array([0, 1, 2, 3, 0]), rng.normal(size=(5, 6))
    kernel, bias = rng.normal(size=(6, 4)), rng.normal(size=4)
    found = sampled_logit_adjusted_crossentropy(ids, features, kernel, bias, LOG_PRIOR, rivals="batch")
    logits = features @ kernel + bias + LOG_PRIOR
    expected = []
    for n, own in enumerate(ids):
        others = np.delete(ids, n)
        weighed = [logits[n, c] - LOG_PRIOR[c] - np.log(4) for c in others if c != own]
        expected.append(np.log1p(np.exp(np.logaddexp.reduce(weighed) - logits[n, own])))
    np.testing.assert_allclose(as_float64(found), expected, rtol=1e-13)
