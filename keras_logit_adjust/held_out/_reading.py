"""Held-out logits and labels, as everything that is chosen on them takes them: checked once, as NumPy arrays."""

import numpy as np

_SUM_OF_PROBABILITIES = 1e-3  # how far the sum of a row of probabilities may be from one
_SUM_OF_HALVES = 2e-2  # in half precision
_MANY_ROWS = 20


def to_numpy(values, name):
    """`values`, a list or an array or tensor of any framework, as a NumPy array of numbers."""
    if hasattr(values, "detach"):  # torch's, which may want gradients, lie on a device or be bfloat16
        values = values.detach().cpu()
        values = values.float() if values.dtype.is_floating_point and values.dtype.itemsize < 4 else values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"`{name}` must be an array of numbers. Received rows of different lengths.") from error
    if array.dtype.kind in "OUSc":
        raise ValueError(f"`{name}` must be real numbers. Received dtype {array.dtype}.")
    return array


def as_logits(logits, num_classes, name="logits"):
    """`logits` as a float32 or float64 matrix `[N, num_classes]`, leading axes flattened, or a `ValueError`.

    Half precision is raised to float32. NaN, infinite numbers and probabilities are refused.
    """
    matrix, are_probabilities = as_scores(logits, num_classes, name)
    if are_probabilities and len(matrix) > 1:  # one row of logits may sum to one by chance
        refuse_probabilities(name)
    return matrix


def as_scores(logits, num_classes, name="logits"):
    """As `as_logits`, which refuses them, and whether every row is a distribution, as of a softmax."""
    matrix = to_numpy(logits, name)
    if matrix.ndim < 2 or matrix.shape[-1] != num_classes or not matrix.size:
        raise ValueError(
            f"`{name}` must have shape [N, {num_classes}], N ≥ 1: a row for each example, a column for each of the "
            f"{num_classes} classes. Received shape {matrix.shape}."
        )
    matrix = matrix.reshape(-1, num_classes)
    is_half = matrix.dtype.itemsize < 4
    matrix = matrix if matrix.dtype in ("float32", "float64") else matrix.astype("float32")
    _check_finite(matrix, name)
    return matrix, _are_distributions(matrix, _SUM_OF_HALVES if is_half else _SUM_OF_PROBABILITIES)


def _check_finite(matrix, name):
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(matrix.sum()):  # one pass that needs no memory; sums of large numbers may overflow
            return
    bad = ~np.isfinite(matrix).all(axis=-1)
    if not bad.any():
        return
    raise ValueError(
        f"`{name}` must be finite. NaN or infinity in {bad.sum()} of {bad.size} rows, first in "
        f"row {bad.argmax()}: leave such rows out, or look why the model gives them."
    )


def _are_distributions(matrix, tolerance):
    """Whether all numbers are in [0, 1] and every row sums to one; or there are more rows than logits are there in."""
    some = matrix[:_MANY_ROWS]
    if some.min() < 0 or some.max() > 1 + tolerance or matrix.min() < 0 or matrix.max() > 1 + tolerance:
        return False
    is_one = np.abs(matrix.sum(axis=-1, dtype="float64") - 1.0) < tolerance
    return matrix.shape[1] > 1 and bool(is_one.all() or (len(matrix) >= _MANY_ROWS and np.ptp(matrix) > 0))


def refuse_probabilities(name="logits"):
    """Raise the error of softmax outputs that were passed off as logits."""
    raise ValueError(
        f"`{name}` must be logits. Received probabilities: all numbers are in [0, 1]. Give what stands "
        "before the softmax, or np.log(probabilities), which has the same differences between classes."
    )


def check_not_sigmoids(lowest, highest, name="logits"):
    """Raise where all numbers, from `lowest` to `highest`, are probabilities: outputs of sigmoids."""
    if 0 <= lowest < highest <= 1:
        raise ValueError(
            f"`{name}` must be logits. Received numbers in [0, 1], which look like sigmoid probabilities: give what "
            "stands before the sigmoid, or np.log(p) − np.log(1 − p)."
        )


def as_ids(y_true, num_examples, num_classes, name="y_true"):
    """`y_true` (ids, or one-hot rows) as int64 class ids `[num_examples]`, or a `ValueError`."""
    labels = to_numpy(y_true, name)
    if labels.ndim >= 2 and labels.shape[-1] == num_classes and labels.size == num_examples * num_classes:
        return _from_one_hot(labels.reshape(num_examples, num_classes), name)
    if labels.size != num_examples or not num_examples:
        raise ValueError(
            f"`{name}` must have one class id for each of the {num_examples} rows of logits. "
            f"Received shape {labels.shape}."
        )
    labels = labels.reshape(-1)
    fractional = labels != np.floor(labels)
    if fractional.any():
        raise ValueError(
            f"`{name}` must be whole numbers, class ids 0 … {num_classes - 1}. Received {labels[fractional][0]} at row "
            f"{fractional.argmax()}."
        )
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        raise ValueError(
            f"`{name}` must be class ids 0 … {num_classes - 1}, a column of logits each. Received "
            f"{labels[bad][0]} at row {bad.argmax()} ({bad.sum()} such rows). Leave out rows that have no class."
        )
    return labels.astype("int64")


def _from_one_hot(rows, name):
    if not np.isin(rows, (0, 1)).all() or (rows.sum(axis=-1) != 1).any():
        raise ValueError(
            f"Rows of `{name}` must be one-hot: one 1 and otherwise 0. Received soft or empty rows, or several "
            "labels in one: independent labels have to be named such, by `num_examples` or `independent=True`."
        )
    return rows.argmax(axis=-1).astype("int64")


def as_multi_hot(y_true, shape, name="y_true"):
    """`y_true` as a boolean matrix of `shape` `[N, L]`: which of `L` independent labels are on."""
    rows = to_numpy(y_true, name)
    if rows.shape[-1:] == shape[-1:] and rows.size == shape[0] * shape[1]:
        rows = rows.reshape(shape)  # leading axes
    if rows.shape != shape:
        raise ValueError(f"`{name}` must have a 0 or 1 for each label, shape {shape}. Received shape {rows.shape}.")
    if rows.dtype.kind not in "iufb" or not np.isin(rows, (0, 1)).all():
        raise ValueError(f"Every number in `{name}` must be 0 or 1. Received others, dtype {rows.dtype}.")
    return rows.astype(bool)
