"""What `TauPath` refuses."""

import ml_dtypes
import numpy as np
import pytest
from helpers.tau_paths import COUNTS, GRID, draw, two_class_path

import keras_logit_adjust as kla

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
        (["a", "b"], LOGITS, [3, 2, 1], r"`y_true` must be integer class ids.*map class names to them, by one list"),
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
def test_sigmoid_probabilities_are_refused_as_logits(y, counts, options, rng):
    with pytest.raises(ValueError, match="`logits` must be logits.*sigmoid"):
        kla.TauPath(rng.integers(0, 2, y), rng.random(y), counts, **options)


def test_one_batch_that_looks_like_probabilities_is_not_refused():
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
        kla.TauPath(on, LOGITS, counts, num_examples=examples)


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


@pytest.mark.parametrize(
    ("options", "name"), [({"level": 1.5}, "level"), ({"level": 0}, "level"), ({"replicates": 0}, "replicates")]
)
def test_an_interval_of_impossible_options_is_refused(options, name):
    with pytest.raises(ValueError, match=name):
        two_class_path((0, 1.0)).confidence_interval(1.0, **options)


def test_no_batches_are_refused_and_a_bad_one_as_the_whole_would_be():
    with pytest.raises(ValueError, match="at least one held-out example"):
        kla.TauPath.from_batches([], [2, 1])
    with pytest.raises(ValueError, match="finite"):
        kla.TauPath.from_batches([([0], [[0.0, 1.0]]), ([0], [[np.nan, 1.0]])], [2, 1])


@pytest.mark.parametrize("ignore_class", [None, 255])
@pytest.mark.parametrize("batches", [(np.zeros(3, int), np.eye(3)[:, :2]), [([0], [[0.0, 1.0]], [1.0])], [([0],)], 3])
def test_batches_that_are_no_pairs_are_refused(batches, ignore_class):
    for name, read in {
        "logits": kla.TauPath.from_batches,
        "features": lambda *args, **options: kla.TauPath.from_features(*args, kernel=np.eye(2), **options),
    }.items():
        with pytest.raises(ValueError, match=rf"`batches` must be an iterable of pairs \(y_true, {name}\)"):
            read(batches, [2, 1], ignore_class=ignore_class)
