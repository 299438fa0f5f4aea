"""`TauPath` against exact arithmetic and loops: where every example is right, what they add up to, and its best."""

import fractions

import ml_dtypes
import numpy as np
import pytest
from helpers.tau_paths import (
    COUNTS,
    GRID,
    around,
    draw,
    first_largest,
    is_softmax,
    log_prior,
    near,
    predicted,
    problems,
    two_class_path,
)
from hypothesis import example, given, settings
from sklearn.metrics import balanced_accuracy_score, recall_score

import keras_logit_adjust as kla

# --- the interval of an example --------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(problems().filter(lambda problem: not is_softmax(problem[1])))
def test_an_example_is_right_where_exact_arithmetic_says_so(problem):
    y, logits, counts, taus = problem
    path, prior = kla.TauPath(y, logits, counts), log_prior(counts)
    # To the argmax, lines that are parallel are tied or not at every τ: only lines that cross may be near.
    for tau in {0.0, -1e9, 1e9, *taus, *around(path).tolist()}:
        for own, row, is_right in zip(y, logits, path.is_right(tau), strict=True):
            others = [k for k in range(len(counts)) if prior[k] != prior[own]]
            crossings = [
                (fractions.Fraction(row[k]) - fractions.Fraction(row[own])) / fractions.Fraction(prior[k] - prior[own])
                for k in others
            ]
            if tau == 0 or not any(near(tau, float(crossing)) for crossing in crossings):
                assert is_right == (first_largest(row, prior, tau) == own), (tau, row, own)


@pytest.mark.parametrize("counts", [[7, 7, 3, 7, 3, 1], [4, 4, 4, 4, 4, 4], [9, 1]])
def test_at_tau_zero_ties_go_to_the_first_class_as_in_argmax(counts, rng):
    logits = rng.integers(0, 3, (400, len(counts))).astype("float32")
    y = rng.integers(0, len(counts), 400)
    path = kla.TauPath(y, logits, counts)
    np.testing.assert_array_equal(path.is_right(0.0), logits.argmax(axis=1) == y)
    assert (np.sort(logits)[:, -1] == np.sort(logits)[:, -2]).sum() > 50  # ties there are


@pytest.mark.parametrize("tau", [-1e300, -3.3, 0.0, 1.0, 1e300])
def test_between_classes_of_equal_counts_tau_decides_nothing(tau, rng):
    logits = rng.integers(0, 3, (200, 4)).astype("float64")
    y = rng.integers(0, 4, 200)
    path = kla.TauPath(y, logits, [6, 6, 6, 6])
    np.testing.assert_array_equal(path.is_right(tau), logits.argmax(axis=1) == y)


def test_intervals_are_two_sided_one_sided_the_whole_line_or_empty():
    counts = [40, 20, 20, 10]
    step = np.log(2.0)  # between neighboring log-priors
    path = kla.TauPath(
        [0, 3, 1, 1, 1, 2, 3],
        [
            [2.0, 0.0, 0.0, 0.0],  # the most frequent loses beyond min(2/1, 2/1, 2/2) steps
            [2.0, 1.0, 1.0, 0.0],  # the rarest wins beyond max(2/2, 1/1) steps
            [1.0, 0.0, -9.0, -2.0],  # between them: from 1 to 2
            [1.0, 0.0, 0.5, -2.0],  # an equal that is ahead
            [2.0, 0.0, -9.0, -1.0],  # the rarer overtakes before the more frequent is left behind
            [1.0, 0.0, 0.0, -2.0],  # an equal that ties and comes first
            [-1.0, -1.0, -1.0, -1.0],  # all tie at 0, where the first wins
        ],
        counts,
    )
    inf = np.inf
    np.testing.assert_allclose(path.low[[0, 1, 2, 6]], [-inf, 1 / step, 1 / step, 0.0], rtol=1e-15, atol=1e-300)
    np.testing.assert_allclose(path.high[[0, 1, 2, 6]], [1 / step, inf, 2 / step, inf], rtol=1e-15)
    assert (path.low[3:6] > path.high[3:6]).all()
    assert path.low[6] > 0
    whole = kla.TauPath([0, 1], [[1.0, 1.0], [0.0, 1.0]], [3, 3])
    np.testing.assert_array_equal([whole.low, whole.high], [[-inf, -inf], [inf, inf]])


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
def test_logits_of_any_precision_are_taken_for_the_numbers_they_are(dtype, rng):
    y, logits = draw(rng)
    logits = logits.astype(dtype)
    path, wide = kla.TauPath(y, logits, COUNTS), kla.TauPath(y, logits.astype("float64"), COUNTS)
    np.testing.assert_array_equal([path.low, path.high], [wide.low, wide.high])


def test_float64_logits_are_not_rounded_to_float32():
    path = kla.TauPath([0, 1], [[1.0 + 1e-12, 1.0], [1.0 + 1e-12, 1.0]], [5, 5])
    np.testing.assert_array_equal(path.is_right(1.0), [True, False])


def test_rows_of_a_class_beyond_one_block_have_the_intervals_of_each_alone(rng):
    logits = rng.normal(size=(30, 8142)).astype("float32")  # eight such rows are a block
    y, counts = np.repeat([5000, 17], [25, 5]), rng.integers(1, 9, 8142)
    path = kla.TauPath(y, logits, counts)
    prior = log_prior(counts)
    for i in range(30):
        slope, ahead = prior - prior[y[i]], logits[i].astype("float64") - float(logits[i, y[i]])
        lost = (slope == 0) & ((ahead > 0) | ((ahead == 0) & (np.arange(8142) < y[i])))
        if lost.any():
            assert path.low[i] > path.high[i]
        else:
            low, high = max(ahead[slope > 0] / slope[slope > 0]), min(ahead[slope < 0] / slope[slope < 0])
            np.testing.assert_allclose([path.low[i], path.high[i]], [low, high], rtol=1e-14)


# --- what they add up to ---------------------------------------------------------------------------------------------


def mean_recall(y, right, classes):
    """The mean over `classes`, those without examples left out."""
    recalls = []
    for c in classes:
        of_class = [bool(is_right) for label, is_right in zip(y, right, strict=True) if label == c]
        if of_class:
            recalls.append(sum(of_class) / len(of_class))
    return sum(recalls) / len(recalls)


CLASSES = {
    "balanced_accuracy": [0, 1, 2, 3, 4],
    "many_accuracy": [0, 1],  # 100 or more
    "medium_accuracy": [2],
    "few_accuracy": [3, 4],  # 20 or fewer
    1: [1],
    (3,): [3],
    (0, 2, 4): [0, 2, 4],
    (1, 1, 2): [1, 2],
}


@pytest.mark.parametrize("measure", CLASSES)
def test_a_measure_is_the_mean_of_the_recalls_of_its_classes_at_every_tau(measure, rng):
    y, logits = draw(rng)
    path = kla.TauPath(y, logits, COUNTS)
    expected = [mean_recall(y, predicted(logits, COUNTS, tau) == y, CLASSES[measure]) for tau in GRID]
    as_given = list(measure) if isinstance(measure, tuple) else measure
    np.testing.assert_allclose(path.at(GRID, as_given), expected, rtol=0, atol=1e-12)
    assert len(set(np.round(expected, 9))) > 2  # it does change with τ


def test_accuracy_is_the_share_right_and_recalls_those_of_scikit_learn(rng):
    y, logits = draw(rng)
    y[:5] = 4
    path = kla.TauPath(y, logits, COUNTS)
    grid = GRID[::8]
    labels = [predicted(logits, COUNTS, tau) for tau in grid]
    np.testing.assert_allclose(path.at(grid, "accuracy"), [np.mean(p == y) for p in labels], atol=1e-12)
    np.testing.assert_allclose(path.at(grid), [balanced_accuracy_score(y, p) for p in labels], atol=1e-12)
    for c in range(5):
        expected = [recall_score(y, p, labels=[c], average="macro") for p in labels]
        np.testing.assert_allclose(path.at(grid, c), expected, atol=1e-12)


def test_a_number_gives_a_number_and_an_array_its_shape(rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    assert isinstance(path.at(1), float)
    grid = GRID[:6].reshape(2, 3)
    np.testing.assert_array_equal(path.at(grid), [[path.at(tau) for tau in row] for row in grid])


def test_infinite_tau_predicts_the_rarest_or_the_most_frequent_class(rng):
    y, logits = draw(rng)
    y[:5] = 4
    path = kla.TauPath(y, logits, COUNTS)
    np.testing.assert_array_equal(path.is_right(np.inf), y == 4)
    np.testing.assert_array_equal(path.is_right(-np.inf), y == 0)
    np.testing.assert_allclose(path.at([-np.inf, np.inf, 1e9, -1e9]), 1 / 5, rtol=1e-12)


@pytest.mark.parametrize("measure", ["balanced_accuracy", "accuracy", "few_accuracy", 0])
def test_the_curve_is_the_value_on_every_piece(measure, rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    taus, values = path.curve(measure)
    assert values.shape == (taus.size + 1,)
    assert (np.diff(taus) > 0).all()
    inside = [taus[0] - 1, *(taus[1:] + taus[:-1]) / 2, taus[-1] + 1]
    np.testing.assert_allclose(path.at(inside, measure), values, atol=1e-12)


def test_the_curve_of_a_class_bends_where_its_own_examples_do():
    path = kla.TauPath([0, 1, 2], [[1.0, 2, 3], [3, 2, 1], [0, 1, 0.5]], [50, 10, 5])
    for label in range(3):
        taus, values = path.curve(label)
        own = np.array([path.low[label], path.high[label]])
        np.testing.assert_array_equal(taus, own[np.isfinite(own)])
        assert values.size == taus.size + 1 == np.isfinite(own).sum() + 1


def test_lines_that_cross_beyond_the_largest_number_cross_at_infinity():
    path = kla.TauPath([1], [[0.0, -1e300]], [10**9, 10**9 + 1])  # at τ of −1e309 and below, which is no number
    assert path.curve()[1].tolist() == [0.0]
    assert path.at([-1e308, 0.0, 1e308]).tolist() == [0.0, 0.0, 0.0]


def test_the_curve_of_what_never_changes_is_one_value():
    taus, values = kla.TauPath([0, 1, 1], [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [3, 3]).curve()
    assert taus.size == 0
    np.testing.assert_allclose(values, [(1 + 1 / 2) / 2])


def test_an_example_adds_its_weight_to_the_measure(rng):
    y, logits = draw(rng)
    path = kla.TauPath(y, logits, COUNTS)
    present = set(y.tolist())
    expected = [1 / (len(present) * (y == label).sum()) for label in y]
    np.testing.assert_allclose(path.weights("balanced_accuracy"), expected)
    np.testing.assert_allclose(path.weights("accuracy"), 1 / y.size)
    np.testing.assert_allclose(path.weights([0, 4]), (y == 0) / (y == 0).sum())
    np.testing.assert_array_equal(path.examples, [(y == c).sum() for c in range(5)])
    own = rng.random(y.size)
    np.testing.assert_allclose(path.steps(own).at(0.3), own[predicted(logits, COUNTS, 0.3) == y].sum())


# --- the best --------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(problems().filter(lambda problem: not is_softmax(problem[1])))
@example((np.array([0, 1]), np.zeros((2, 3)), [2, 3, 1], []))
def test_the_best_beats_any_grid_on_its_interval_and_falls_just_outside(problem):
    y, logits, counts, taus = problem
    path = kla.TauPath(y, logits, counts)
    best = path.best()
    assert path.at(np.concatenate([GRID, taus, around(path), [-1e15, 1e15]])).max() <= best.value + 1e-12
    # By hand too; next to a breakpoint its own rounding decides.
    ends, prior = path.curve()[0], log_prior(counts)
    for tau in [*GRID[::8], *taus]:
        if not near(tau, ends).any():
            right = [first_largest(row, prior, tau) == own for own, row in zip(y, logits, strict=True)]
            assert mean_recall(y, right, range(len(counts))) <= best.value + 1e-12
    assert best.low <= best.tau <= best.high
    inside = [max(best.low, -1e15), best.tau, min(best.high, 1e15)]
    np.testing.assert_allclose(path.at(inside), best.value, atol=1e-12)
    for outside in (np.nextafter(best.low, -np.inf), np.nextafter(best.high, np.inf)):
        if np.isfinite(outside) and outside != 0:  # at 0 equal logits tie, and the first class may be as right
            assert path.at(outside) < best.value - 1e-9


@pytest.mark.parametrize(
    ("examples", "low", "high", "tau", "value"),
    [
        ([(0, 3.0), (1, 2.0)], 2.0, 3.0, 2.5, 1.0),  # the middle
        ([(0, 1e6), (1, -1e6)], -1e6, 1e6, 0.0, 1.0),
        ([(1, 3.0), (1, 4.0)], 4.0, np.inf, 5.0, 1.0),  # open above: one away from the end
        ([(1, -3.0), (1, -4.0)], -3.0, np.inf, 1.0, 1.0),  # or 1, where that is further
        ([(0, -3.0)], -np.inf, -3.0, -4.0, 1.0),
        ([(0, 7.0)], -np.inf, 7.0, 1.0, 1.0),
        ([(0, 1.25)], -np.inf, 1.25, 0.25, 1.0),
    ],
)
def test_the_robust_point_is_the_middle_or_one_away_from_the_only_end(examples, low, high, tau, value):
    best = two_class_path(*examples).best()
    np.testing.assert_allclose(
        [best.low, best.high, best.tau, best.value], [low, high, tau, value], rtol=1e-12, atol=1e-9
    )


def test_where_nothing_bounds_it_the_best_is_one():
    best = kla.TauPath([0, 1], [[2.0, 0.0], [0.0, 2.0]], [5, 5]).best()
    assert type(best.tau) is float  # for configs and JSON
    assert (best.tau, best.low, best.high, best.value) == (1.0, -np.inf, np.inf, 1.0)
    nowhere = kla.TauPath([0, 0], [[0.0, 1.0], [0.0, 2.0]], [5, 5]).best()
    assert (nowhere.tau, nowhere.low, nowhere.high, nowhere.value) == (1.0, -np.inf, np.inf, 0.0)


@pytest.mark.parametrize(("shift", "chosen"), [(0.0, 0), (-1.5, 0), (-2.5, 1), (-5.0, 1)])
def test_of_several_intervals_the_best_is_the_one_nearest_to_one(shift, chosen):
    # Class 0 up to 2 and up to 5, class 1 from 1 and from 4: three of four are right on [1, 2] and on [4, 5].
    path = two_class_path((0, 2 + shift), (0, 5 + shift), (1, 1 + shift), (1, 4 + shift))
    expected = [(1 + shift, 2 + shift), (4 + shift, 5 + shift)][chosen]
    best = path.best()
    np.testing.assert_allclose([best.low, best.high], expected, rtol=1e-12)
    np.testing.assert_allclose(best.value, 3 / 4)


def test_the_best_may_be_one_point_where_logits_tie():
    best = kla.TauPath([0, 0], np.zeros((2, 3)), [3, 1, 5]).best()
    assert (best.tau, best.low, best.high, best.value) == (0.0, 0.0, 0.0, 1.0)


def test_a_narrow_best_is_found_however_far_other_ends_lie():
    best = two_class_path((0, 1.0001), (1, 1.0), (0, 1e12)).best()
    np.testing.assert_allclose([best.low, best.high, best.value], [1.0, 1.0001, 1.0], rtol=1e-12)


def test_a_best_that_one_example_hands_to_the_next_is_one_interval():
    # Both tie at 0: class 0, the rarer, is right from there on, and class 1 everywhere below.
    best = kla.TauPath([0, 1], [[0.0, 0.0], [0.0, 0.0]], [1, 2]).best()
    assert (best.tau, best.low, best.high, best.value) == (1.0, -np.inf, np.inf, 0.5)


def test_the_best_of_a_measure_is_of_that_measure(rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    for measure in ("accuracy", "few_accuracy", [1, 2]):
        taus, values = path.curve(measure)
        np.testing.assert_allclose(path.best(measure).value, max(values.max(), path.at(taus, measure).max()))
