"""What `TauPath` takes: forms of input and independent labels; and how sure it is."""

import fractions
import itertools
import tracemalloc

import keras
import numpy as np
import pytest
from helpers.posthoc_models import numpy, rows, sequential
from helpers.tau_paths import COUNTS, GRID, around, draw, near, quantized, single, two_class_path
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import log_odds, log_prior
from scipy import stats

import keras_logit_adjust as kla

# --- forms of input --------------------------------------------------------------------------------------------------


def assert_same(path, other):
    for name in ("low", "high", "recall_ids"):
        np.testing.assert_array_equal(getattr(path, name), getattr(other, name))


def test_batches_have_the_path_of_the_whole(rng):
    y, logits = draw(rng)
    batches = ((y[i : i + 7], logits[i : i + 7]) for i in range(0, y.size, 7))
    path, whole = kla.TauPath.from_batches(batches, COUNTS), kla.TauPath(y, logits, COUNTS)
    assert_same(path, whole)
    assert path.best() == whole.best()
    np.testing.assert_array_equal(path.at(GRID, "few_accuracy"), whole.at(GRID, "few_accuracy"))


@pytest.mark.parametrize(("batch", "batches"), [(64, 8), (2, 250)])
def test_batches_stream_in_far_less_memory_than_their_logits(batch, batches, rng):
    counts, logits = np.arange(8142, 0, -1.0), rng.normal(size=(batch, 8142)).astype("float32")
    labels = rng.integers(0, 8142, (batches, batch))
    tracemalloc.start()
    kla.TauPath.from_batches(((y, logits) for y in labels), counts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < batches * logits.nbytes / 3


def test_leading_axes_and_one_hot_labels_are_rows_and_ids(rng):
    y, logits = draw(rng)
    whole = kla.TauPath(y, logits, COUNTS)
    deep = logits.reshape(3, 4, 5, 5)
    assert_same(kla.TauPath(y.reshape(3, 4, 5), deep, COUNTS), whole)
    assert_same(kla.TauPath(np.eye(5)[y].reshape(3, 4, 5, 5), deep, COUNTS), whole)
    assert_same(kla.TauPath(np.eye(5, dtype=bool)[y], logits, COUNTS), whole)
    assert_same(kla.TauPath(y[:, None], logits, COUNTS), whole)
    assert_same(kla.TauPath(y.astype("float32").tolist(), logits.tolist(), COUNTS), whole)


@pytest.mark.parametrize("leading", [(60,), (3, 20)], ids=str)
@pytest.mark.parametrize("column", [(), (1,)], ids=["[…]", "[…, 1]"])
def test_ids_to_ignore_are_left_out_in_every_form(leading, column, rng):
    y, logits = draw(rng)
    whole = kla.TauPath(y[y != 2], logits[y != 2], COUNTS)
    y, logits = y.reshape(*leading, *column), logits.reshape(*leading, 5)
    assert_same(kla.TauPath(y, logits, COUNTS, ignore_class=2), whole)
    assert_same(kla.TauPath.from_batches([(y[:1], logits[:1]), (y[1:], logits[1:])], COUNTS, ignore_class=2), whole)


def test_tensors_of_the_backend_are_taken_as_arrays(rng):
    y, logits = draw(rng)
    tensors = keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(logits.astype("float32"))
    assert_same(kla.TauPath(*tensors, COUNTS), kla.TauPath(y, logits.astype("float32"), COUNTS))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (4, 5, 1)])
def test_one_sigmoid_unit_equals_its_two_classes(shape, rng):
    unit, y = rng.integers(-3, 4, 20) / 4, rng.integers(0, 2, 20)
    path = kla.TauPath(y, unit.reshape(shape), [90, 10])
    assert_same(path, kla.TauPath(y, np.stack([0 * unit, unit], axis=-1), [90, 10]))
    for tau in GRID:  # log-odds above 0, where the second class is predicted
        np.testing.assert_array_equal(path.is_right(tau), (unit - tau * np.log(10 / 90) > 0) == y)
    np.testing.assert_array_equal(path.is_right(0.0), (unit > 0) == y)


def test_class_counts_may_be_probabilities(rng):
    y, logits = draw(rng)
    path = kla.TauPath(y, logits, np.divide(COUNTS, sum(COUNTS)))
    np.testing.assert_array_equal(path.at(GRID), kla.TauPath(y, logits, COUNTS).at(GRID))


# --- independent labels ----------------------------------------------------------------------------------------------

POSITIVES, EXAMPLES = [5, 50, 70], 100  # rare, level and frequent


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.one_of(quantized, single)] * 3, *[st.booleans()] * 3), min_size=1, max_size=6),
    st.lists(st.floats(-1e6, 1e6), max_size=3),
)
def test_independent_labels_are_on_where_logits_are_above_tau_log_odds(drawn, taus):
    logits, on = np.array([row[:3] for row in drawn]), np.array([row[3:] for row in drawn])
    if logits.min() >= 0 and logits.max() <= 1:  # would be refused as probabilities
        return
    path, odds = kla.TauPath(on, logits, POSITIVES, num_examples=EXAMPLES), log_odds(POSITIVES, EXAMPLES)
    assert odds[1] == 0
    for tau in [0.0, 1.0, -2.0, *taus, *around(path)]:
        right = path.is_right(tau).reshape(on.shape)
        for (i, label), is_on in np.ndenumerate(on):
            if label == 1 or tau == 0 or not near(tau, logits[i, label] / odds[label]):
                score = fractions.Fraction(logits[i, label]) - fractions.Fraction(tau) * fractions.Fraction(odds[label])
                assert right[i, label] == ((score > 0) == is_on)


def test_a_label_whose_logit_is_exactly_zero_is_off_at_tau_zero():
    path = kla.TauPath([[1, 1, 1], [0, 0, 0]], np.zeros((2, 3)), POSITIVES, num_examples=EXAMPLES)
    np.testing.assert_array_equal(path.is_right(0.0).reshape(2, 3), [[False] * 3, [True] * 3])
    np.testing.assert_array_equal(path.is_right(1e-300).reshape(2, 3)[0], [True, False, False])
    np.testing.assert_array_equal(path.is_right(-1e-300).reshape(2, 3)[0], [False, False, True])


def test_independent_labels_have_a_recall_where_on_and_one_where_off(rng):
    on, logits = rng.random((40, 3)) < [0.1, 0.5, 0.9], rng.normal(size=(40, 3))
    path = kla.TauPath(on.astype("int64"), logits, POSITIVES, num_examples=EXAMPLES)
    np.testing.assert_array_equal(path.recall_ids.reshape(40, 3), 2 * np.arange(3) + on)
    np.testing.assert_array_equal(path.examples, np.stack([(~on).sum(0), on.sum(0)], axis=-1).ravel())
    for tau in GRID:
        right = (logits - tau * log_odds(POSITIVES, EXAMPLES) > 0) == on
        recalls = [right[on[:, c] == state, c].mean() for c in range(3) for state in (False, True)]
        np.testing.assert_allclose(path.at(tau), np.mean(recalls), atol=1e-12)
        np.testing.assert_allclose(path.at(tau, 2), np.mean(recalls[4:]), atol=1e-12)
        np.testing.assert_allclose(path.at(tau, "medium_accuracy"), np.mean(recalls[2:]), atol=1e-12)  # 50 and 99
        np.testing.assert_allclose(path.at(tau, "few_accuracy"), np.mean(recalls[:2]), atol=1e-12)
        np.testing.assert_allclose(path.at(tau, "accuracy"), right.mean(), atol=1e-12)


def test_batches_of_independent_labels_add_up_as_classes_do(rng):
    on, logits = rng.random((40, 3)) < 0.4, rng.normal(size=(40, 3))
    whole = kla.TauPath(on, logits, POSITIVES, num_examples=EXAMPLES)
    batches = [(on[:30], logits[:30]), (on[30:], logits[30:])]
    path = kla.TauPath.from_batches(batches, POSITIVES, num_examples=EXAMPLES)
    np.testing.assert_allclose(path.at(GRID), whole.at(GRID), atol=1e-12)


# --- what samples could have given -----------------------------------------------------------------------------------


def quantiles_of(values, probabilities, level):
    """The interval of a discrete distribution that holds `level`, its tails cut equally."""
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(probabilities)[order])
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = [np.asarray(values)[order][np.searchsorted(reached, tail)] for tail in tails]
    margin = min(abs(reached - tail).min() for tail in tails)
    return ends, margin


def test_the_interval_of_a_recall_is_that_of_the_binomial_distribution():
    path = two_class_path(*[(1, 0.5)] * 6, *[(1, 2.0)] * 4, (0, 5.0))
    expected, margin = quantiles_of(np.arange(11) / 10, stats.binom.pmf(np.arange(11), 10, 6 / 10), 0.8)
    replicates = 20_000
    assert margin > 5 * 0.5 / np.sqrt(replicates)  # no chance to fall on a neighbor
    np.testing.assert_allclose(path.confidence_interval(1.0, 1, level=0.8, replicates=replicates), expected)


def test_the_interval_of_balanced_accuracy_is_that_of_a_mean_of_binomials():
    path = two_class_path(*[(1, 0.5)] * 6, *[(1, 2.0)] * 3, *[(0, 5.0)] * 4, *[(0, 0.0)] * 4)
    pairs = list(itertools.product(range(10), range(9)))
    values = [(i / 9 + j / 8) / 2 for i, j in pairs]
    chances = [stats.binom.pmf(i, 9, 6 / 9) * stats.binom.pmf(j, 8, 4 / 8) for i, j in pairs]
    replicates = 40_000
    low, high = path.confidence_interval(1.0, level=0.8, replicates=replicates)
    order = np.argsort(values)
    reached = np.interp([low, high], np.asarray(values)[order], np.cumsum(np.asarray(chances)[order]))
    # The ends lie where the exact distribution has its tails, to a step of it and five errors of the simulation.
    np.testing.assert_allclose(reached, [0.1, 0.9], atol=max(chances) + 5 * 0.3 / np.sqrt(replicates))


def test_the_interval_of_the_best_tau_is_that_of_all_resamples():
    y = np.array([0, 0, 0, 1, 1, 1])
    crossings = np.array([0.5, 2.0, 3.5, 0.0, 1.5, 3.0])
    path = two_class_path(*zip(y, crossings, strict=True))
    taus = []
    for rare in itertools.product(range(3), repeat=3):
        for frequent in itertools.product(range(3, 6), repeat=3):
            drawn = [*rare, *frequent]
            taus.append(two_class_path(*zip(y[drawn], crossings[drawn], strict=True)).best().tau)
    values, repeats = np.unique(np.round(taus, 9), return_counts=True)
    replicates = 4000
    for level in (0.5, 0.8):
        expected, margin = quantiles_of(values, repeats / len(taus), level)
        assert margin > 4 * 0.5 / np.sqrt(replicates)
        interval = path.confidence_interval(level=level, replicates=replicates, seed=3)
        np.testing.assert_allclose(interval, expected, rtol=1e-8)


def test_an_interval_repeats_for_its_seed_and_widens_with_its_level(rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    for options in ({}, {"tau": 0.5}):
        first = path.confidence_interval(**options, replicates=200, seed=1)
        assert path.confidence_interval(**options, replicates=200, seed=1) == first
        assert path.confidence_interval(**options, replicates=200, seed=2) != first
        wide = path.confidence_interval(**options, replicates=200, seed=1, level=0.99)
        narrow = path.confidence_interval(**options, replicates=200, seed=1, level=0.5)
        assert wide[0] <= first[0] <= narrow[0] <= narrow[1] <= first[1] <= wide[1]
        assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_intervals_at_several_tau_have_their_shape_and_hold_the_values(rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    taus = np.array([[0.0, 0.5, 1.0], [1.5, 2.0, 1e9]])
    low, high = path.confidence_interval(taus, "accuracy", replicates=300)
    assert low.shape == high.shape == taus.shape
    assert ((low <= path.at(taus, "accuracy")) & (path.at(taus, "accuracy") <= high)).all()
    certain = np.array([[False, False, False], [False, False, True]])  # at last only the rarest class is predicted
    np.testing.assert_array_equal(low == high, certain)


def test_what_is_certain_has_an_interval_without_width():
    path = two_class_path((0, 3.0), (1, 2.0), (1, 2.0))
    np.testing.assert_allclose(path.confidence_interval(), [2.5, 2.5], rtol=1e-12)
    np.testing.assert_allclose(path.confidence_interval(2.5), [1.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(path.confidence_interval(1.0), [0.5, 0.5], rtol=1e-12)


def test_what_is_right_at_one_tau_alone_has_its_best_there():
    # All three tie at τ = 0, where the first class wins; at any other τ a rarer or a more frequent one does.
    path = kla.TauPath([0, 0], np.zeros((2, 3)), [3, 1, 5])
    assert path.low.tolist() == path.high.tolist() == [0, 0]
    assert path.confidence_interval(replicates=10) == (0.0, 0.0)


def test_a_resample_in_which_nothing_is_right_has_its_best_at_one():
    path = kla.TauPath([0, 0, 1, 1], [[2, 0], [0, 2], [2, 0], [0, 2]], [6, 6])  # of each class one is right, at any τ
    assert path.confidence_interval(replicates=100, seed=0) == (1.0, 1.0)  # one resample in 16 is of the others


def test_the_interval_of_accuracy_covers_the_truth_as_often_as_it_says(rng):
    truth = (0.7 + 0.4) / 2
    covered = 0
    for seed in range(150):
        right = rng.random(50) < np.repeat([0.7, 0.4], 25)
        frequent = [(0, 2.0 if is_right else 0.0) for is_right in right[:25]]
        rare = [(1, 0.0 if is_right else 2.0) for is_right in right[25:]]
        low, high = two_class_path(*frequent, *rare).confidence_interval(1.0, level=0.9, replicates=200, seed=seed)
        covered += low <= truth <= high
    assert stats.binom.cdf(covered, 150, 0.9) > 1e-4 and covered < 150


# --- the models it foretells -----------------------------------------------------------------------------------------


def test_the_path_foretells_the_predictions_of_adjusted_and_folded_models(rng):
    model = sequential(keras.layers.Dense(5))
    model.layers[0].bias.assign(log_prior(COUNTS))
    x, y = rows(rng, 80, 6), rng.integers(0, 5, 80)
    path = kla.TauPath(y, numpy(model(x)).astype("float32"), COUNTS)
    ends = path.curve()[0]
    for tau in (-1.0, 0.0, 0.6, 1.0, 2.5):
        assert abs(ends - tau).min() > 1e-5  # float32 models may decide otherwise nearer
        for made in (kla.adjust(model, COUNTS, tau=tau), kla.fold_into_bias(model, COUNTS, tau=tau)):
            np.testing.assert_array_equal(numpy(made(x)).argmax(-1) == y, path.is_right(tau))


@pytest.mark.parametrize(("counts", "low", "high"), [([3, 5, 1], -np.inf, 0), ([5, 1, 3], 0, np.inf)])
def test_of_classes_that_tie_at_tau_zero_the_first_wins(counts, low, high):
    # The last class is the nearest rival in order of frequency, and loses the tie; class 0 wins it.
    path = kla.TauPath([1], [[0.0, 0.0, 0.0]], counts)
    assert not path.is_right(0.0)[0] and path.is_right(np.copysign(1e-300, low + high))[0]
