"""`TauPath` against exact arithmetic and loops: where every example is right, what they add up to, and its best."""

import fractions
import itertools
import tracemalloc

import keras
import ml_dtypes
import numpy as np
import pytest
from helpers.posthoc_models import numpy, rows, sequential
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, recall_score

import keras_logit_adjust as kla

COUNTS = [300, 100, 40, 20, 5]
GRID = np.linspace(-4, 6, 201)
FEW_PLACES = 6  # units in the last place: of the slope, the difference and their ratio, rounded, and a step inside
quantized = st.integers(-3, 3).map(float)
single = st.floats(-100, 100, width=32)
double = st.floats(-100, 100)


def log_prior(counts):
    counts = np.asarray(counts, "float64")
    return np.log(counts) - np.log(counts.sum())


def log_odds(positives, num_examples):
    positives = np.asarray(positives, "float64")
    return np.log(positives) - np.log(num_examples - positives)


def first_largest(logits, slopes, tau):
    """The argmax of `logits − tau·slopes`, the first of equals, without any rounding."""
    tau = fractions.Fraction(tau)
    scores = [fractions.Fraction(f) - tau * fractions.Fraction(s) for f, s in zip(logits, slopes, strict=True)]
    return scores.index(max(scores))


def near(tau, breakpoint):
    return np.abs(tau - breakpoint) <= FEW_PLACES * np.spacing(np.abs(breakpoint))


def predicted(logits, counts, tau):
    """What a user would write."""
    return np.argmax(np.asarray(logits, "float64") - tau * log_prior(counts), axis=-1)


def around(path):
    """Every finite end of the path's intervals, and a little below and above it."""
    ends = np.unique(np.concatenate([path.low, path.high]))
    ends = ends[np.isfinite(ends)]
    step = 2 * FEW_PLACES * np.spacing(np.abs(ends))
    return np.concatenate([ends - step, ends, ends + step])


def draw(rng, size=60, counts=COUNTS, signal=1.5):
    """Logits of a long tail, the last class never in the labels."""
    y = rng.integers(0, len(counts) - 1, size)
    return y, rng.normal(size=(size, len(counts))) + signal * np.eye(len(counts))[y] + 0.7 * log_prior(counts)


@st.composite
def problems(draw):
    """Labels, logits and counts: ties of logits, of priors, two classes, classes that do not occur, τ of every size."""
    num_classes, size = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    counts = draw(
        st.lists(st.sampled_from([1, 2, 3, 4, 1000, 1001, 437_513]), min_size=num_classes, max_size=num_classes)
    )
    number = draw(st.sampled_from([quantized, single, double]))
    logits = draw(st.lists(st.lists(number, min_size=num_classes, max_size=num_classes), min_size=size, max_size=size))
    y = draw(st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size))
    taus = draw(st.lists(st.one_of(st.floats(-5, 5), st.floats(-1e12, 1e12), st.sampled_from([0.0, 1.0])), max_size=4))
    return y, logits, counts, taus


def is_softmax(logits):
    """Drawn logits that would be refused as probabilities."""
    logits = np.asarray(logits)
    return len(logits) > 1 and logits.min() >= 0 and logits.max() <= 1 and np.allclose(logits.sum(-1), 1, atol=1e-2)


# --- the interval of an example --------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(problems().filter(lambda problem: not is_softmax(problem[1])))
def test_an_example_is_right_where_exact_arithmetic_says_so_and_at_zero_and_equal_priors_without_any_slack(problem):
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


def test_more_rows_of_a_class_than_are_held_at_a_time_have_the_intervals_of_each_alone(rng):
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


def test_accuracy_is_the_share_that_is_right_and_balanced_accuracy_that_of_scikit_learn(rng):
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
def test_the_best_is_never_below_a_grid_holds_on_its_interval_and_falls_just_outside(problem):
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


def two_class_path(*examples):
    """Examples `(class, crossing)` of two classes, counts 2 : 1: class 0 is right up to its crossing, class 1 from its
    own on."""
    y = [label for label, _ in examples]
    return kla.TauPath(y, [[crossing * np.log(2.0), 0.0] for _, crossing in examples], [2, 1])


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


def test_a_best_that_one_example_hands_to_the_next_is_one_interval():
    # Both tie at 0: class 0, the rarer, is right from there on, and class 1 everywhere below.
    best = kla.TauPath([0, 1], [[0.0, 0.0], [0.0, 0.0]], [1, 2]).best()
    assert (best.tau, best.low, best.high, best.value) == (1.0, -np.inf, np.inf, 0.5)


def test_the_best_of_a_measure_is_of_that_measure(rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    for measure in ("accuracy", "few_accuracy", [1, 2]):
        taus, values = path.curve(measure)
        np.testing.assert_allclose(path.best(measure).value, max(values.max(), path.at(taus, measure).max()))


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
def test_batches_of_8142_classes_stream_in_far_less_memory_than_their_logits(batch, batches, rng):
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

POSITIVES, EXAMPLES = [5, 50, 99], 100  # rare, level and frequent


@settings(max_examples=50)
@given(
    st.lists(st.tuples(*[st.one_of(quantized, single)] * 3, *[st.booleans()] * 3), min_size=1, max_size=6),
    st.lists(st.floats(-1e6, 1e6), max_size=3),
)
def test_independent_labels_are_right_where_their_logit_is_above_tau_log_odds(drawn, taus):
    logits, on = np.array([row[:3] for row in drawn]), np.array([row[3:] for row in drawn])
    if logits.min() >= 0 and logits.max() <= 1:  # would be refused as probabilities
        return
    path, odds = kla.TauPath(on, logits, POSITIVES, EXAMPLES), log_odds(POSITIVES, EXAMPLES)
    assert odds[1] == 0
    for tau in [0.0, 1.0, -2.0, *taus, *around(path)]:
        right = path.is_right(tau).reshape(on.shape)
        for (i, label), is_on in np.ndenumerate(on):
            if label == 1 or tau == 0 or not near(tau, logits[i, label] / odds[label]):
                score = fractions.Fraction(logits[i, label]) - fractions.Fraction(tau) * fractions.Fraction(odds[label])
                assert right[i, label] == ((score > 0) == is_on)


def test_a_label_whose_logit_is_exactly_zero_is_off_at_tau_zero():
    path = kla.TauPath([[1, 1, 1], [0, 0, 0]], np.zeros((2, 3)), POSITIVES, EXAMPLES)
    np.testing.assert_array_equal(path.is_right(0.0).reshape(2, 3), [[False] * 3, [True] * 3])
    np.testing.assert_array_equal(path.is_right(1e-300).reshape(2, 3)[0], [True, False, False])
    np.testing.assert_array_equal(path.is_right(-1e-300).reshape(2, 3)[0], [False, False, True])


def test_recalls_of_independent_labels_are_of_each_where_it_is_on_and_where_it_is_off(rng):
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
    whole = kla.TauPath(on, logits, POSITIVES, EXAMPLES)
    batches = [(on[:30], logits[:30]), (on[30:], logits[30:])]
    path = kla.TauPath.from_batches(batches, POSITIVES, EXAMPLES)
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


def test_an_interval_is_the_same_for_the_same_seed_and_wider_for_a_higher_level(rng):
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


def test_the_interval_of_accuracy_covers_the_truth_about_as_often_as_it_says(rng):
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


# --- bad input -------------------------------------------------------------------------------------------------------

LOGITS = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("y", "logits", "counts", "message"),
    [
        ([0, 1], [[1, np.nan, 0], [0, 1, 2]], [3, 2, 1], r"`logits` must be finite. NaN.* 1 of 2 rows, first in row 0"),
        ([0, 1], [[1, 0, 0], [0, -np.inf, 2]], [3, 2, 1], r"`logits` must be finite.* 1 of 2 rows, first in row 1"),
        ([0, 1], [[0.5, 0.25, 0.25], [1, 0, 0]], [3, 2, 1], r"must be logits. Received probabilities.*np\.log"),
        ([0, 1], LOGITS, [3, 2], r"`logits` must have shape \[N, 2\].*Received shape \(2, 3\)"),
        ([0, 1], LOGITS, [4, 3, 2, 1], r"`logits` must have shape \[N, 4\].*Received shape \(2, 3\)"),
        ([0, 1, 2], [1.0, 2.0, 3.0], [3, 2, 1], r"`logits` must have shape \[N, 3\].*Received shape \(3,\)"),
        ([0], 1.0, [3, 2, 1], r"`logits` must have shape \[N, 3\].*Received shape \(\)"),
        ([0], 1.0, [3, 2], r"`logits` must have shape \[N, 2\].*Received shape \(\)"),
        ([], np.zeros((0, 3)), [3, 2, 1], r"`logits` must have shape \[N, 3\], N ≥ 1.*Received shape \(0, 3\)"),
        ([0], LOGITS, [3, 2, 1], r"`y_true` must have one class id for each of the 2 rows.*shape \(1,\)"),
        ([0, 3], LOGITS, [3, 2, 1], r"`y_true` must be class ids 0 … 2.*Received 3 at row 1 \(1 such"),
        ([-1, 0], LOGITS, [3, 2, 1], r"`y_true` must be class ids 0 … 2.*Received -1 at row 0"),
        ([0, 0.5], LOGITS, [3, 2, 1], r"`y_true` must be whole numbers"),
        ([0, np.nan], LOGITS, [3, 2, 1], r"`y_true` must be whole numbers"),
        ([0, np.inf], LOGITS, [3, 2, 1], r"`y_true` must be class ids 0 … 2"),
        (["a", "b"], LOGITS, [3, 2, 1], r"`y_true` must be real numbers"),
        ([[0.5, 0.5, 0], [1, 0, 0]], LOGITS, [3, 2, 1], r"Rows of `y_true` must be one-hot.*soft or empty"),
        ([[1, 1, 0], [1, 0, 0]], LOGITS, [3, 2, 1], r"one-hot.*several labels in one.*`num_examples`"),
        ([0, 1], LOGITS, [3, 0, 1], r"`class_counts` must be greater than zero.*class 1"),
        ([0, 1], LOGITS, [3, np.nan, 1], r"`class_counts` must be finite"),
        ([0, 1], LOGITS, [[3, 2, 1]], r"`class_counts` must be a non-empty vector"),
        ([0, 0], [1.0, 2.0], [3], r"at least two classes"),
    ],
)
def test_what_is_no_held_out_data_is_refused(y, logits, counts, message):
    with pytest.raises(ValueError, match=message):
        kla.TauPath(y, logits, counts)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32"])
def test_probabilities_are_known_in_every_precision(dtype, rng):
    exponentials = np.exp(2 * rng.normal(size=(200, 10)))
    probabilities = (exponentials / exponentials.sum(-1, keepdims=True)).astype(dtype)
    with pytest.raises(ValueError, match="must be logits. Received probabilities"):
        kla.TauPath(np.zeros(200, int), probabilities, np.arange(1, 11))


@pytest.mark.parametrize(
    ("y", "counts", "options"), [((30, 1), [20, 10], {}), ((30, 3), [5, 4, 3], {"num_examples": 9})]
)
def test_sigmoid_probabilities_are_no_logits_of_a_unit_nor_of_independent_labels(y, counts, options, rng):
    with pytest.raises(ValueError, match="`logits` must be logits.*sigmoid"):
        kla.TauPath(rng.integers(0, 2, y), rng.random(y), counts, **options)


def test_a_short_batch_of_logits_that_look_like_probabilities_is_no_reason_to_refuse_the_whole():
    on, logits = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[2.0, -3.0], [-1.0, 4.0], [0.25, 0.5]])
    batches = [(on[:2], logits[:2]), (on[2:], logits[2:])]
    path = kla.TauPath.from_batches(batches, [2, 3], num_examples=9)
    np.testing.assert_allclose(path.at(GRID), kla.TauPath(on, logits, [2, 3], num_examples=9).at(GRID), atol=1e-12)


def test_one_row_that_sums_to_one_by_chance_is_taken_for_logits():
    assert kla.TauPath([0], [[0.75, 0.25]], [1, 1]).at(1.0) == 1.0


@pytest.mark.parametrize(
    ("on", "counts", "examples", "message"),
    [
        ([0, 1], [3, 2, 1], 9, r"0 or 1 for each label, shape \(2, 3\). Received shape \(2,\)"),
        ([[0, 1, 2], [0, 1, 0]], [3, 2, 1], 9, r"Every number in `y_true` must be 0 or 1"),
        ([[0, 1, np.nan], [0, 1, 0]], [3, 2, 1], 9, r"Every number in `y_true` must be 0 or 1"),
        ([[0, 1, 1], [0, 1, 0]], [3, 2, 9], 9, r"strictly between 0 and num_examples=9"),
        ([[0, 1, 1], [0, 1, 0]], [3, 2], 9, r"`logits` must have shape \[N, 2\]"),
        ([[0, 1, 1], [0, 1, 0]], [3, 2, 1], 0, r"num_examples=0"),
    ],
)
def test_what_is_no_matrix_of_labels_is_refused(on, counts, examples, message):
    with pytest.raises(ValueError, match=message):
        kla.TauPath(on, LOGITS, counts, examples)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("recall", r"`measure` must be one of.*'recall'"),
        (None, r"`measure` must be one of .*a class id or a list"),
        (1.5, r"`measure` must be one of .*a class id or a list"),
        ([0.7], r"measure"),
        (["few"], r"measure"),
        (7, r"Classes of `measure` must be 0 … 4. Received: 7"),
        ([0, -1], r"Classes of `measure` must be 0 … 4"),
        (4, r"No held-out example is of the classes of measure 4"),
        ([], r"No held-out example is of the classes of measure \[\]"),
    ],
)
def test_a_measure_that_has_no_value_is_refused(measure, message, rng):
    path = kla.TauPath(*draw(rng), COUNTS)
    for ask in (lambda: path.at(1.0, measure), lambda: path.best(measure), lambda: path.curve(measure)):
        with pytest.raises(ValueError, match=message):
            ask()


def test_a_group_without_classes_has_no_value():
    with pytest.raises(ValueError, match="No held-out example is of the classes of measure 'many_accuracy'"):
        two_class_path((0, 1.0)).at(1.0, "many_accuracy")


def test_groups_need_numbers_of_examples_not_probabilities(rng):
    path = kla.TauPath(*draw(rng), np.divide(COUNTS, sum(COUNTS)))
    with pytest.raises(ValueError, match="numbers of examples"):
        path.at(1.0, "few_accuracy")


@pytest.mark.parametrize("tau", [np.nan, [1.0, np.nan], "high"])
def test_a_tau_that_is_no_number_is_refused(tau):
    with pytest.raises(ValueError, match="`tau` must be numbers"):
        two_class_path((0, 1.0)).at(tau)
    with pytest.raises(ValueError, match="`tau` must be numbers"):
        two_class_path((0, 1.0)).confidence_interval(tau)


@pytest.mark.parametrize(("options", "name"), [({"level": 1.5}, "level"), ({"replicates": 0}, "replicates")])
def test_an_interval_of_impossible_options_is_refused(options, name):
    with pytest.raises(ValueError, match=name):
        two_class_path((0, 1.0)).confidence_interval(1.0, **options)


def test_no_batches_are_refused_and_a_bad_one_as_the_whole_would_be():
    with pytest.raises(ValueError, match="at least one held-out example"):
        kla.TauPath.from_batches([], [2, 1])
    with pytest.raises(ValueError, match="finite"):
        kla.TauPath.from_batches([([0], [[0.0, 1.0]]), ([0], [[np.nan, 1.0]])], [2, 1])


@pytest.mark.parametrize(("counts", "low", "high"), [([3, 5, 1], -np.inf, 0), ([5, 1, 3], 0, np.inf)])
def test_where_several_classes_tie_at_tau_zero_the_first_wins_whichever_crosses_first(counts, low, high):
    # The last class is the nearest rival in order of frequency, and loses the tie; class 0 wins it.
    path = kla.TauPath([1], [[0.0, 0.0, 0.0]], counts)
    assert not path.is_right(0.0)[0] and path.is_right(np.copysign(1e-300, low + high))[0]
