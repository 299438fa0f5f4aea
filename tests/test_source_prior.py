"""The class prior in a head: planted ones found, the conditions of the optimum, the interval, what is refused."""

import warnings

import keras
import numpy as np
import pytest
from reference import softmax
from scipy import optimize

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import SourcePrior, estimate_source_prior

Q = np.array([0.9, 0.09, 0.01])


def draw_examples(rng, numbers, prior=Q, separation=1.5):
    """Logits of the posterior under `prior`, each class a Gaussian about its own corner; labels in any numbers."""
    y = np.repeat(np.arange(len(prior)), numbers)
    x = rng.normal(size=(y.size, len(prior))) + separation * np.eye(len(prior))[y]
    return separation * x + np.log(prior), y


def test_exact_posteriors_give_the_planted_prior_back_in_any_labeled_mix():
    likelihood = np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])  # P(x|y) of three kinds of x
    for prior in (Q, np.array([1e-6, 0.4, 0.599999])):
        logits = np.log(likelihood * prior[:, None]).T
        for numbers in ([10, 10, 10], [1000, 100, 10]):
            cells = np.rint(np.array(numbers)[:, None] * likelihood).astype(int)  # whole as they are
            x = np.concatenate([np.repeat([0, 1, 2], row) for row in cells])
            y = np.repeat([0, 1, 2], numbers)
            for class_prior in (None, [1, 1, 1], [1, 5, 2]):
                found = estimate_source_prior(logits[x], y, class_prior=class_prior)
                np.testing.assert_allclose(found.prior, prior, rtol=1e-5)


def test_a_planted_prior_is_found_within_its_statistical_error(rng):
    prior = 1000.0 ** (-np.arange(8) / 7)
    prior /= prior.sum()
    found = estimate_source_prior(*draw_examples(rng, [400] * 8, prior))
    error = np.log(found.high / found.low) / 2 / 1.96
    assert (error < 0.3).all()
    np.testing.assert_array_less(np.abs(np.log(found.prior / prior)), 4 * error)


def loss_of(log_prior, logits, y, mix, weight):
    p = softmax(logits - log_prior + np.log(mix))
    return -(weight * np.log(p[np.arange(y.size), y])).sum() / y.size


@pytest.mark.parametrize("class_prior", [None, [1.0, 1.0, 1.0], [5.0, 1.0, 3.0]])
def test_the_best_prior_makes_the_mean_prediction_the_mix(class_prior, rng):
    logits, y = draw_examples(rng, [60, 30, 10])
    logits = 2 * logits + rng.normal(size=logits.shape)  # no posterior: the condition holds for any logits
    shares = np.bincount(y) / y.size
    mix = shares if class_prior is None else np.array(class_prior) / np.sum(class_prior)
    weight = (mix / shares)[y]
    found = estimate_source_prior(logits, y, class_prior=class_prior)
    p = softmax(logits - np.log(found.prior) + np.log(mix))
    np.testing.assert_allclose(weight @ p / y.size, mix, atol=1e-7)
    free = optimize.minimize(loss_of, np.zeros(3), (logits, y, mix, weight), method="BFGS", tol=1e-9)
    np.testing.assert_allclose(found.prior, softmax(free.x), rtol=1e-4)


def test_a_vector_added_to_all_logits_is_added_to_the_log_prior(rng):
    logits, y = draw_examples(rng, [20, 30, 40])
    shift = np.array([0.0, 7.0, -5.0])
    found, moved = estimate_source_prior(logits, y), estimate_source_prior(logits + shift, y)
    expected = found.prior * np.exp(shift) / (found.prior @ np.exp(shift))
    np.testing.assert_allclose(moved.prior, expected, rtol=1e-5)
    other = estimate_source_prior(logits + rng.normal(size=(90, 1)), y)  # a number for each example: no part
    for name in ("prior", "low", "high"):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-5)


def test_logits_that_say_nothing_give_their_softmax_without_an_error():
    found = estimate_source_prior(np.log(np.tile(Q, (30, 1))), np.repeat([0, 1, 2], [5, 10, 15]))
    np.testing.assert_allclose([found.prior, found.low, found.high], np.tile(Q, (3, 1)), rtol=1e-6)


def test_order_layout_one_hot_rows_and_a_sigmoid_unit_are_read_alike(rng):
    logits, y = draw_examples(rng, [20, 30, 40])
    found, order = estimate_source_prior(logits, y), np.array([2, 0, 1])
    other = estimate_source_prior(logits[:, order].reshape(9, 10, 3), np.argsort(order)[y].reshape(9, 10))
    one_hot = estimate_source_prior(logits.astype("float32"), np.eye(3)[y])
    for name in ("prior", "low", "high"):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name)[order], rtol=1e-5)
        np.testing.assert_allclose(getattr(one_hot, name), getattr(found, name), rtol=1e-4)
    unit, is_on = logits[:, 1] - logits[:, 0], y == 1
    columns = np.stack([np.zeros(90), unit], axis=1)
    np.testing.assert_array_equal(estimate_source_prior(unit, is_on).prior, estimate_source_prior(columns, is_on).prior)


# --- the interval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "separation", "class_prior"),
    [([60, 30, 15], 1.5, None), ([60, 30, 15], 1.5, [1, 1, 1]), ([30, 30, 30], 3.0, None)],
)
def test_the_interval_holds_the_true_share_at_its_nominal_rate(numbers, separation, class_prior):
    inside, draws = np.zeros(3), 100
    for seed in range(draws):
        examples = draw_examples(np.random.default_rng(seed), numbers, separation=separation)
        found = estimate_source_prior(*examples, class_prior=class_prior, level=0.9)
        inside += (found.low <= Q) & (found.high >= Q)
    # Three deviations of a share of 100, and three points above: the larger of two variances is taken.
    slack = 3 * np.sqrt(0.9 * 0.1 / draws)
    assert (inside / draws >= 0.9 - slack).all() and inside.mean() / draws <= 0.93 + slack


def test_the_interval_is_as_wide_as_redraws_where_there_is_no_posterior(rng):
    logits, y = draw_examples(rng, [150, 100, 50])
    logits = 2.5 * logits
    found, rows = estimate_source_prior(logits, y), [rng.integers(300, size=300) for _ in range(100)]
    redrawn = np.array([estimate_source_prior(logits[i], y[i]).prior for i in rows])
    spread = np.log(redrawn / (1 - redrawn)).std(axis=0)
    reach = np.log(found.high / (1 - found.high)) - np.log(found.low / (1 - found.low))
    np.testing.assert_allclose(reach / 2 / 1.96, spread, rtol=0.25)  # 3.5 errors of a deviation of 100


def test_a_higher_level_is_wider_and_fourfold_examples_half_as_wide(rng):
    logits, y = draw_examples(rng, [20, 30, 40])
    found, wide = (estimate_source_prior(logits, y, level=level) for level in (0.95, 0.99))
    assert (wide.low < found.low).all() and (found.high < wide.high).all() and (found.prior == wide.prior).all()
    fourfold = estimate_source_prior(np.tile(logits, (4, 1)), np.tile(y, 4))

    def reach(result):
        return np.diff([np.log(end / (1 - end)) for end in (result.low, result.high)], axis=0)

    np.testing.assert_allclose(reach(fourfold), reach(found) / 2, rtol=1e-4)


def test_logits_too_sure_to_tell_the_prior_warn_and_have_no_interval():
    with pytest.warns(UserWarning, match=r"say nothing about the prior.*The interval is \[0, 1\]\. Label more"):
        found = estimate_source_prior(200 * np.eye(3), [0, 1, 2])
    np.testing.assert_array_equal([found.low, found.high], [[0.0] * 3, [1.0] * 3])


def test_extreme_logits_stay_finite_and_positive():
    for logits in ([[1e4, -1e4, 0.0]] * 3, [[-1e30, 1e30, 0.0]] * 3, [[0.0, -2e3, 3.0], [9e2, 0.0, 0.0], [1, 2, 3]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = estimate_source_prior(np.array(logits), [0, 1, 2])
        assert (found.effective_prior > 0).all() and found.prior.sum() == pytest.approx(1)
        assert not np.isnan([found.low, found.high]).any()


# --- its use ---------------------------------------------------------------------------------------------------------


def test_it_stands_where_class_counts_stand(rng):
    logits, y = draw_examples(rng, [20, 30, 40])
    source = estimate_source_prior(logits, y)
    assert isinstance(source, SourcePrior) and source.examples.tolist() == [20, 30, 40]
    assert repr(source).startswith("SourcePrior from 90 labeled examples, 95% interval: 0: 0.")
    balanced = softmax(logits - np.log(source.prior))
    scores = kla.adjust_scores(softmax(logits), source)
    np.testing.assert_allclose(scores, balanced, rtol=1e-12)
    inputs = keras.Input((3,))
    model = kla.adjust(keras.Model(inputs, keras.layers.Softmax()(inputs)), source)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(logits.astype("float32"))), balanced, rtol=1e-4)


def test_two_debiased_heads_are_summed_by_a_product_of_experts(rng):
    other, heads, x = np.array([0.1, 0.2, 0.7]), [], rng.normal(size=(5, 4)).astype("float32")
    for prior in (Q, other):
        inputs = keras.Input((4,))
        heads.append(kla.adjust(keras.Model(inputs, keras.layers.Dense(3, "softmax")(inputs)), prior))
    together = kla.product_of_experts(heads, [1, 1, 1], taus=0)
    logs = [np.log(keras.ops.convert_to_numpy(head(x)).astype("float64")) for head in heads]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(together(x)), softmax(sum(logs) / 2), rtol=1e-4)


# --- what is refused -------------------------------------------------------------------------------------------------

LOGITS = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, 0.5, -1.0]])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((LOGITS, [0, 0, 1]), {}, "`y_true` must have an example of every class. Received none of class 2: label some"),
        ((LOGITS, [0, 1]), {}, "one class id for each of the 3 rows"),
        ((LOGITS, [0, 1, 3]), {}, "class ids 0 … 2"),
        ((softmax(LOGITS), [0, 1, 2]), {}, "must be logits. Received probabilities"),
        ((LOGITS * np.nan, [0, 1, 2]), {}, "must be finite"),
        ((np.zeros((3, 0)), [0, 1, 2]), {}, "must have shape"),
        ((LOGITS, [0, 1, 2]), {"class_prior": [1, 1]}, "one number for each class"),
        ((LOGITS, [0, 1, 2]), {"class_prior": [1, 0, 1]}, "must be greater than zero"),
        ((LOGITS, [0, 1, 2]), {"level": 0.0}, "`level` must be a number strictly between 0 and 1. Received: level=0.0"),
        ((LOGITS, [0, 1, 2]), {"level": 1.0}, "`level` must be a number strictly between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_source_prior(*arguments, **options)
