"""Class ids or one-hot rows: one decision for a data set, and an error where nothing decides."""

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust.priors import count_classes

EVENTS = (np.random.default_rng(0).random((400, 10)) < 0.1).astype("int64")  # ids 0 and 1, ten to an example
AS_IDS = [int((EVENTS == 0).sum()), int((EVENTS == 1).sum())]
LABELS = np.array([0, 2, 0, 3, 0, 2])
ROWS = np.eye(4, dtype="int64")[LABELS]
MAY_BE_EITHER = "Labels must be class ids or one-hot rows, and .* may be either.*label_form="


def in_batches(labels, size):
    return ((np.zeros((len(part), 3)), part) for part in np.array_split(labels, -(-len(labels) // size)))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 400])
@pytest.mark.parametrize("num_classes", [None, 10])
def test_integers_of_0_and_1_need_a_word_whatever_the_batches(size, num_classes):
    with pytest.raises(ValueError, match=MAY_BE_EITHER):
        count_classes(in_batches(EVENTS, size), num_classes=num_classes)
    counts = count_classes(in_batches(EVENTS, size), num_classes=num_classes, label_form="ids")
    assert counts.tolist() == AS_IDS + [0] * ((num_classes or 2) - 2)


@pytest.mark.parametrize("size", [1, 2, 7, 400])
def test_labels_that_can_be_nothing_but_ids_need_none(size):
    assert count_classes(in_batches(EVENTS, size), num_classes=2).tolist() == AS_IDS  # rows would be two wide
    late = EVENTS.copy()
    late[-1, -1] = 2  # that the first batches have but 0 and 1 decides nothing
    assert count_classes(in_batches(late, size)).tolist() == np.bincount(late.ravel()).tolist()
    ragged = [np.array([[0, 1, 0]]), np.array([[1, 0]])]
    assert count_classes(iter(ragged)).tolist() == [3, 2]


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, keras.ops.convert_to_tensor])
def test_one_hot_integers_are_counted_as_they_are_said_to_be(kind, make):
    rows = make(ROWS.astype(kind))
    with pytest.raises(ValueError, match=MAY_BE_EITHER):
        count_classes(rows)
    assert count_classes(rows, label_form="rows").tolist() == [3, 0, 2, 1]
    assert count_classes(rows, label_form="ids").tolist() == [18, 6]


def test_several_labels_in_a_row_are_no_label_to_count():
    several = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    with pytest.raises(
        ValueError, match=MAY_BE_EITHER + r".*Independent labels are counted by kla\.priors\.count_labels"
    ):
        count_classes(several)
    for rows, options in ((several, {"label_form": "rows"}), (several.astype("float32"), {})):
        with pytest.raises(ValueError, match=r"one-hot or soft.*shape \(3, 3\).*`count_labels`"):
            count_classes(rows, **options)


def test_whole_floats_in_several_columns_are_ids_where_that_is_said():
    with pytest.raises(ValueError, match=r'Rows of labels must be one-hot or soft.*ids by label_form="ids"'):
        count_classes(np.array([[0.0, 2.0], [1.0, 1.0]]))
    assert count_classes(np.array([[0.0, 2.0], [1.0, 1.0]]), label_form="ids").tolist() == [1, 2, 1]


@pytest.mark.parametrize("kind", ["int64", "float32"])
def test_single_rows_that_look_like_batches_need_a_word(kind):
    rows = list(ROWS.astype(kind))  # six batches of four ids, or six examples
    with pytest.raises(ValueError, match="batches that all have a single 1 may be either.*6 batches of 4 labels"):
        count_classes(iter(rows))
    assert count_classes(iter(rows), label_form="rows").tolist() == [3, 0, 2, 1]
    assert count_classes(iter(rows), label_form="ids").tolist() == [18, 6]
    assert count_classes(iter([*rows, np.array([1, 1, 0, 0])])).tolist() == [20, 8]  # no row: several labels


def test_ids_and_rows_in_one_data_set_are_refused():
    with pytest.raises(
        ValueError, match="class ids, or all of them rows. Received ids in batch 0, and rows in batch 1"
    ):
        count_classes(iter([LABELS, np.eye(4)[LABELS]]))
    with pytest.raises(ValueError, match=r"Rows of labels must have one width.*\[3, 4\] columns"):
        count_classes(iter([np.eye(3), np.eye(4)]))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="`label_form` must be one of None, 'ids', 'rows'"):
        count_classes(LABELS, label_form="one-hot")


@pytest.mark.parametrize(
    "labels", [[0, 2**32 - 1], [0, 2**63], np.array([0, 2**64 - 1], "uint64"), [0.0, 1e300], [0, 10**8]], ids=str
)
def test_an_id_that_is_a_mistake_is_refused_before_memory_is_taken(labels):
    with pytest.raises(ValueError, match=r"at least 0 and below 100,000,000, for .* mistake. Received \d.* position 1"):
        count_classes(np.array(labels))
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 2 and at most 100,000,000"):
        count_classes(labels, num_classes=2**63)


def test_labels_that_numpy_masks_are_refused():
    masked = np.ma.masked_array([0, 1, 1], [False, True, False])
    for read in (
        count_classes,
        lambda labels: kla.losses.LogitAdjustedCrossentropy([2, 1])(labels, np.zeros((3, 2))),
        kla.priors.StreamingPrior(2).update,
        lambda labels: kla.metrics.MacroF1(2).update_state(labels, np.zeros((3, 2))),
    ):
        with pytest.raises(ValueError, match="must have no masked values. Received"):
            read(masked)


@pytest.mark.parametrize("kind", ["datetime64[D]", "complex64", "str"])
def test_labels_that_are_no_numbers_are_refused(kind):
    labels = np.array([0, 1, 1]).astype(kind)
    for read in (
        count_classes,
        lambda labels: kla.losses.LogitAdjustedCrossentropy([2, 1])(labels, np.zeros((3, 2))),
        lambda labels: kla.metrics.MacroF1(2).update_state(labels, np.zeros((3, 2))),
    ):
        with pytest.raises(ValueError, match="must be integer class ids or one-hot rows.*Received"):
            read(labels)


def test_one_batch_of_ids_with_a_single_1_is_no_row():
    assert count_classes(iter([np.array([0, 0, 1])])).tolist() == [2, 1]


def test_rows_with_a_negative_number_are_refused_although_they_sum_to_one():
    with pytest.raises(ValueError, match="rows"):
        count_classes(np.array([[-0.5, 0.75, 0.75]]), label_form="rows")


# --- an id that marks positions without a label ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
@pytest.mark.parametrize("ignored", [255, 2])
def test_an_ignored_id_is_not_counted(dtype, ignored):
    ids = np.array([[[0, 1], [ignored, 1]], [[1, ignored], [3, 1]]], dtype)
    assert count_classes(ids, ignore_class=ignored).tolist() == [1, 4, 0, 1]
    batches = [(None, ids[:1]), (None, np.full((2, 2), ignored, dtype)), (None, ids[1:])]
    assert count_classes(batches, num_classes=5, ignore_class=ignored).tolist() == [1, 4, 0, 1, 0]


def test_an_ignored_id_below_0_or_of_a_class_is_not_counted():
    assert count_classes([0, -1, 1, 1], ignore_class=-1).tolist() == [1, 2]
    assert count_classes([0, 0, 1, 2, 2], ignore_class=0).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"Received -2 at position 1 of the labels \(1 wrong in it\).*`ignore_class`"):
        count_classes([0, -2, -1, 1], ignore_class=-1)
    with pytest.raises(ValueError, match="found no labels"):
        count_classes([255, 255], ignore_class=255)


def test_an_ignored_id_shows_that_labels_are_ids():
    binary = np.array([[0, 1, 1], [1, 0, 255]])
    assert count_classes(binary, ignore_class=255).tolist() == [2, 3]
    with pytest.raises(ValueError, match="label_form"):  # nothing shows it here
        count_classes(np.minimum(binary, 1), ignore_class=255)
    for rows, form in ((np.eye(3), None), (np.eye(3, dtype="int64"), "rows")):
        with pytest.raises(ValueError, match="`ignore_class` goes with class ids. Received rows in the labels"):
            count_classes(rows, ignore_class=255, label_form=form)
