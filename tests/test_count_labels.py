"""Counting independent labels: every form they come in, unknown targets, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import sparse

import keras_logit_adjust as kla

N, L = 50, 4
Y = (np.random.default_rng(0).random((N, L)) < [0.9, 0.5, 0.2, 0.1]).astype("int64")
COUNTS = Y.sum(axis=0).tolist()


def count(targets, **options):
    counts, num_examples = kla.priors.count_labels(targets, **options)
    return counts.tolist(), num_examples


@pytest.mark.parametrize("kind", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_rows_of_any_type_are_counted(kind):
    assert count(Y.astype(kind)) == (COUNTS, N)
    assert kla.priors.count_labels(Y.astype(kind)).positive_counts.dtype == "int64"
    assert count(ops.convert_to_tensor(Y.astype(kind))) == (COUNTS, N)


class Batches(keras.utils.PyDataset):
    num_batches = 5

    def __getitem__(self, index):
        return np.zeros((10, 2)), Y[10 * index : 10 * index + 10], np.full(10, 3.0)


FORMS = {
    "list": lambda: Y.tolist(),
    "sequence": lambda: Y.reshape(10, 5, L),
    "csr": lambda: sparse.csr_matrix(Y),
    "coo": lambda: sparse.coo_array(Y.astype("float32")),
    "generator": lambda: ((np.zeros(10), rows) for rows in np.split(Y, 5)),
    "sparse batches": lambda: [(np.zeros(10), sparse.csr_matrix(rows)) for rows in np.split(Y, 5)],
    "py_dataset": Batches,
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_counted_wherever_they_are(form):
    assert count(FORMS[form]()) == (COUNTS, N)


def test_a_table_is_counted():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert count(pandas.DataFrame(Y, columns=list("abcd"))) == (COUNTS, N)


def test_streams_are_counted_batched_or_not_and_sparse():
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    x = np.zeros((N, L))  # as wide as the labels
    for targets in (Y, Y.astype("float32"), Y.astype(bool), tf.sparse.from_dense(Y)):
        dataset = tf.data.Dataset.from_tensor_slices((x, targets))
        for source in (dataset, dataset.batch(7), dataset.batch(10, drop_remainder=True), dataset.batch(3).batch(4)):
            assert count(source) == (COUNTS, N)
    with pytest.raises(ValueError, match=r"`count_labels` was given an endless dataset"):
        count(dataset.repeat())


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_unknown_targets_leave_the_share_among_the_known(make):
    unknown = np.random.default_rng(1).random((N, L)) < [0, 0.3, 0.5, 0.9]
    expected = [N * Y[~u, c].mean() for c, u in enumerate(unknown.T)]
    counts, num_examples = kla.priors.count_labels(make(np.where(unknown, -1, Y)), ignore_class=-1)
    np.testing.assert_allclose(counts, expected)
    assert num_examples == N and counts[0] == COUNTS[0]
    batches = [(None, make(rows)) for rows in np.split(np.where(unknown, -1, Y), 5)]
    np.testing.assert_allclose(kla.priors.count_labels(batches, ignore_class=-1).positive_counts, expected)


def test_targets_between_add_what_they_are():
    assert count(np.array([[0.25, 1.0], [0.5, 0.0]])) == ([0.75, 1.0], 2)


def test_the_counts_go_where_labels_are_adjusted():
    counts = kla.priors.count_labels(Y)
    loss = kla.losses.BinaryLogitAdjustedCrossentropy(*counts)
    share = Y.mean(axis=0)
    np.testing.assert_allclose(loss.adjustment, np.log(share / (1 - share)))
    np.testing.assert_allclose(kla.priors.log_odds(*counts), loss.adjustment)


WRONG = {
    "ids": (np.array([0, 1, 2]), r"rows of 0 and 1, \[N, L\].*Received shape \(3,\).*`count_classes`"),
    "ids of batches": ([(None, np.array([0, 1]))], r"Received shape \(2,\) in batch 0"),
    "above one": (np.array([[0, 1], [2, 0]]), r"0, 1 or between.*Received 2 in the labels \(1 such"),
    "unknown": (np.array([[0, 1], [-1, 0]]), "A value that marks unknown targets is `ignore_class`"),
    "nan": (np.array([[0, 1], [np.nan, 0]]), r"Received nan.*np\.nan_to_num\(y, nan=-1\)"),
    "sparse": (sparse.csr_matrix([[0, 1], [3, 0]]), "Received 3 in the targets"),
    "widths": ([(None, np.ones((2, 3))), (None, np.ones((2, 4)))], "3 and 4 columns, the latter in batch 1"),
    "none": ([(None, np.ones((0, 3)))], "found no rows in the list"),
    "text": (np.array([["a", "b"]]), "`targets` must be rows of 0 and 1, one column for each label"),
    "dict": ({"a": [1]}, "`count_labels` takes labels, a dataset"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_row_of_targets_is_refused(name):
    targets, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        count(targets)


def test_a_label_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"must have a target that is known\. Received \[0.*\] at class 1"):
        count(np.array([[0, -1], [1, -1]]), ignore_class=-1)


@pytest.mark.parametrize("count", [kla.priors.count_classes, kla.priors.count_labels])
@pytest.mark.parametrize("form", [np.array, keras.ops.convert_to_tensor])
def test_a_pair_of_arrays_is_not_read_as_two_batches_of_labels(count, form, rng):
    """`(x_train, y_train)`, as Keras's data sets give it: pixels would be counted as classes."""
    x, y = rng.integers(0, 2, (6, 3)), rng.integers(0, 2, (6, 3))
    with pytest.raises(ValueError, match=r"a tuple of 2 arrays, which may be \(x, y\): give the labels y alone"):
        count((form(x), form(y)))
    with pytest.raises(ValueError, match="a tuple of 3 arrays"):
        count((form(x), form(y), np.ones(6)))
    expected = kla.priors.count_labels(np.concatenate([x, y])).positive_counts
    np.testing.assert_array_equal(kla.priors.count_labels([form(x), form(y)]).positive_counts, expected)
