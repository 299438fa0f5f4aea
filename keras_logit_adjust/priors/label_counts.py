"""Count independent labels: the number of examples in which each label is on."""

import typing

import numpy as np

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.priors import counting


class LabelCounts(typing.NamedTuple):
    """The result of `count_labels`: two values, in the order in which losses and `log_odds` take them.

    Attributes:
        positive_counts: `[L]` examples in which each label is on.
        num_examples: the number of examples.
    """

    positive_counts: np.ndarray
    num_examples: int


def count_labels(targets_or_dataset, *, ignore_class=None):
    """Count the training examples of each of several labels, `n_l = Σ_i t_il`, and the examples, `N`.

    Labels are independent: an example has no label, one or many. If targets are unknown, the share of each label is
    taken among its `N_l` known targets, `n_l = N · Σ_i t_il / N_l`. This is right if known and unknown targets are on
    equally often.

    Args:
        targets_or_dataset: rows of 0 and 1, `[N, L]` or `[N, …, L]`: an array, a tensor, a table or a sparse matrix
            of SciPy. Or batches `(x, y)` or `(x, y, sample_weight)` with such rows as `y`, from a `tf.data.Dataset`
            (batched or not, also with sparse tensors), a `PyDataset` or any other iterable. A target between 0 and 1
            adds its value. Sample weights do not count.
        ignore_class: a target value, such as −1, that marks an unknown target.

    Returns:
        `LabelCounts(positive_counts, num_examples)`: counts `[L]`, int64 (float64 where they are fractions), and an
        int. So `kla.losses.BinaryLogitAdjustedCrossentropy(*count_labels(targets))`.

    Raises:
        ValueError: for targets outside [0, 1] (NaN too), naming the first; for class ids, which are one column of
            integers; for rows of different widths; for a label whose targets are all unknown; for no rows at all; for
            an endless dataset.

    Example:

    >>> count_labels([[1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 0, 0]])
    LabelCounts(positive_counts=array([3, 1, 2]), num_examples=4)
    >>> count_labels([[1, -1], [1, 1], [0, -1], [0, 0]], ignore_class=-1).positive_counts.tolist()  # ½ of the known
    [2, 2]

    Reference: Menon et al. (2021), §5, for each label as a problem of two classes.
    """
    ignore_class = _checks.check_ignore_class(ignore_class)
    on = known = num_examples = 0
    if hasattr(targets_or_dataset, "tocsc"):
        batches = [("the targets", targets_or_dataset)]
    else:
        batches = counting.label_batches(targets_or_dataset, "rows", "count_labels")
    for position, rows in batches:
        if not hasattr(rows, "tocsc"):
            rows = _labels.as_targets(rows)
        if rows.ndim < 2:
            raise _not_rows(rows, position)
        if num_examples and rows.shape[-1] != on.size:
            raise ValueError(
                f"Rows of targets must have one width in the whole data set. Received {on.size} and "
                f"{rows.shape[-1]} columns, the latter in {position}."
            )
        batch_on, batch_known = (_sum_sparse if hasattr(rows, "tocsc") else _sum_rows)(rows, ignore_class, position)
        on, known = on + batch_on, known + batch_known
        num_examples += int(np.prod(rows.shape[:-1]))
    if not num_examples:
        raise ValueError(f"`count_labels` found no rows in the {type(targets_or_dataset).__name__} it was given.")
    _checks.refuse_numbers(
        known == 0, known, "targets", "Every label must have a target that is known.", remedy=": leave such labels out."
    )
    counts = on * (num_examples / known)
    whole = np.rint(counts)
    return LabelCounts(
        whole.astype("int64") if np.allclose(counts, whole, rtol=1e-9, atol=1e-6) else counts, num_examples
    )


def _sum_rows(rows, ignore_class, position):
    """The sum of the known targets of each label, float64 `[L]`, and their number."""
    rows = rows.reshape(-1, rows.shape[-1])
    known = np.ones(rows.shape, bool) if ignore_class is None else rows != ignore_class
    _refuse_improper(known & ~((rows >= 0) & (rows <= 1)), rows, position)
    return np.where(known, rows, 0).sum(axis=0, dtype="float64"), known.sum(axis=0)


def _sum_sparse(rows, ignore_class, position):
    """The same as `_sum_rows` for a sparse matrix. A target that is not stored is a known 0."""
    rows = rows.tocsc(copy=True)
    rows.sum_duplicates()
    values, columns = _labels.as_targets(rows.data), np.repeat(np.arange(rows.shape[1]), np.diff(rows.indptr))
    known = np.ones(values.size, bool) if ignore_class is None else values != ignore_class
    _refuse_improper(known & ~((values >= 0) & (values <= 1)), values, position)
    on = np.bincount(columns[known], values[known].astype("float64"), minlength=rows.shape[1])
    return on, rows.shape[0] - np.bincount(columns[~known], minlength=rows.shape[1])


def _refuse_improper(bad, values, position):
    if bad.any():
        raise _checks.ArgumentError(
            "targets",
            f"Every target must be 0, 1 or between, one for each label. Received {values[bad][0]} in {position} "
            f"({int(bad.sum())} such in it). A value that marks unknown targets is `ignore_class`; NaN becomes such a "
            "value by np.nan_to_num(y, nan=-1).",
        )


def _not_rows(rows, position):
    return _checks.ArgumentError(
        "targets",
        f"Targets must be rows of 0 and 1, [N, L], one column for each label. Received shape {rows.shape} in "
        f"{position}. Class ids are counted by `count_classes`; lists of label ids become rows by "
        "sklearn.preprocessing.MultiLabelBinarizer().",
    )
