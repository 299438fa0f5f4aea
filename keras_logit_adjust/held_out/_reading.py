"""Held-out logits and labels for every function that reads them: checked once, as NumPy arrays."""

import keras
import numpy as np

from keras_logit_adjust import _arrays, _checks, _labels, _scores

_SUM_OF_HALVES = 2e-2  # in half precision
_MANY_ROWS = 20
_MANY_CLASSES = 1000  # with more classes, a user may have only the scores of the best classes
_OF_TOP_K = (
    " The scores of the best classes do not determine the winner at another τ. For very many classes use "
    "`kla.TauPath.from_features`, or `kla.tune_tau` with a `ManyClassModel`: both compute all scores in chunks."
)


def as_numbers(values, name):
    """`values`, a list or an array or tensor of any framework, as a NumPy array of numbers."""
    return _arrays.as_array(values, name, kinds="biuf")


def names_of(logits, name="logits", /, **given):
    """The names that the columns of `logits` give to classes, or None. Numbers by class that are `given` need names."""
    if isinstance(logits, keras.Model):
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be numbers. Received model {logits.name!r}: give kla.held_out.predict_logits(model, x).",
        )
    return _scores.class_names(logits, name, **given)


def labels_beside(y_true, logits, *, independent=False):
    """`y_true` as a NumPy array. Tables of labels and logits in different orders are refused."""
    _scores.check_pair(y_true, logits)
    try:
        return (_labels.as_targets if independent else _labels.as_labels)(y_true, "y_true")
    except _arrays.ArgumentError as error:
        if independent or names_of(logits) is None:
            raise
        raise _arrays.ArgumentError("y_true", f"{error}. Here class_names = list(logits.columns).") from None


class Reader:
    """Reads batches of examples. Whether logits look like probabilities is decided on all batches together.

    A few rows of logits may look like probabilities by chance.

    Args:
        num_classes: number of columns `L`.
        independent: whether the columns are independent labels.
        name: the name of the logits in messages.
        class_names: the names that columns of a table may have, those of the counts. None: only ids.
        ignore_class: an id whose rows are left out; of independent labels a target that is unknown.
    """

    def __init__(self, num_classes, *, independent=False, name="logits", class_names=None, ignore_class=None):
        self.class_names, self.ignore_class = class_names, _checks.check_ignore_class(ignore_class)
        self.num_classes, self.independent, self.name = num_classes, independent, name
        self.rows, self.is_unit = 0, False
        self.are_distributions = self.are_percentages = not independent
        self.lowest, self.highest = np.inf, -np.inf  # if `is_unit` or independent: the range of the numbers

    def read(self, batches):
        """The result of `examples` for each batch. A batch is left out if all its ids are ignored."""
        for y_true, logits in as_pairs(batches):
            y_true, logits = labels_beside(y_true, logits, independent=self.independent), self._without_names(logits)
            if self.ignore_class is not None and not self.independent:
                y_true, logits = without_ignored(y_true, logits, self.ignore_class)
                if not y_true.size:
                    continue
            yield self.examples(y_true, logits)

    def examples(self, y_true, logits):
        """A batch as `(targets [N, L], or class ids [N]; logits [N, L])`, targets as in `as_multi_hot`."""
        y_true = labels_beside(y_true, logits, independent=self.independent)
        logits = self._without_names(logits)
        matrix = self.logits(logits)
        check_order(y_true, logits)
        if self.independent:
            return as_multi_hot(y_true, *matrix.shape, ignore_class=self.ignore_class), matrix
        return as_ids(y_true, *matrix.shape), matrix

    def logits(self, logits):
        """The logits of a batch as a float32 or float64 matrix `[N, L]`, leading axes flattened.

        One sigmoid unit, `[N]` or `[N, 1]`, becomes two classes: the first has logit 0, the second the unit's logit.
        Half precision becomes float32. NaN and infinite numbers are refused.
        """
        matrix = self._without_names(logits)
        is_unit = self.num_classes == 2 and not self.independent and (matrix.ndim == 1 or matrix.shape[-1:] == (1,))
        self.is_unit |= is_unit
        if is_unit:
            matrix = np.stack([np.zeros_like(matrix), matrix], axis=-1).reshape(-1, 2)
        if matrix.ndim < 2 or matrix.shape[-1] != self.num_classes or not matrix.size:
            raise ValueError(
                f"`{self.name}` must have shape [N, {self.num_classes}], N ≥ 1: a row for each example, a column for "
                f"each of the {self.num_classes} classes. Received shape {matrix.shape}."
                f"{_OF_TOP_K if self.num_classes > _MANY_CLASSES and matrix.ndim > 1 else ''}"
            )
        tolerance = _SUM_OF_HALVES if matrix.dtype.itemsize < 4 else _scores.SUM
        matrix = matrix.reshape(-1, self.num_classes)
        with np.errstate(over="ignore", invalid="ignore"):
            if matrix.dtype not in ("float32", "float64"):
                matrix = matrix.astype("float32" if matrix.dtype.itemsize < 4 else "float64")
            is_finite = np.isfinite(matrix.sum())  # no temporary array; the sum of large numbers may overflow
        if not is_finite and (bad := ~np.isfinite(matrix).all(axis=-1)).any():
            is_log_of_zero = (np.isfinite(matrix) | np.isneginf(matrix)).all() and (matrix <= 0).all()
            remedy = (
                "these are logarithms of probabilities of 0. Give np.log(np.maximum(p, 1e-12))"
                if is_log_of_zero
                else "leave these rows out, or find out why the model gives them"
            )
            raise ValueError(
                f"`{self.name}` must be finite. NaN or infinity in {bad.sum()} of {bad.size} rows, first in "
                f"row {bad.argmax()}: {remedy}."
            )
        self.rows += len(matrix)
        if is_unit or self.independent:
            own = matrix[:, 1:] if is_unit else matrix
            self.lowest, self.highest = min(self.lowest, own.min()), max(self.highest, own.max())
        self.are_distributions = self.are_distributions and not is_unit and _are_distributions(matrix, tolerance)
        self.are_percentages = self.are_percentages and not is_unit and _scores.sums_to(matrix, 100, tolerance)
        return matrix

    def _without_names(self, logits):
        """`logits` as an array. Columns with other names than those of the counts are refused."""
        names = names_of(logits, self.name)
        if names not in (None, self.class_names):
            known = "have no names" if self.class_names is None else f"are {_arrays.shown(self.class_names)}"
            raise _arrays.ArgumentError(
                self.name,
                f"`{self.name}` must have its columns in order of the classes, which {known} here. Received columns "
                f"{_arrays.shown(names)}: give {self.name}[class_names].to_numpy(), with `class_names` in that order.",
            )
        return as_numbers(logits, self.name)

    def check(self):
        """Raise if all numbers that were read are probabilities."""
        if self.are_distributions and self.rows > 1:  # one row of logits may sum to one by chance
            raise ValueError(
                f"`{self.name}` must be logits. Received probabilities: all numbers are in [0, 1]. Give the numbers "
                "before the softmax, or np.log(probabilities), which has the same differences between classes."
            )
        if self.are_percentages and self.rows > 1:
            raise ValueError(
                f"`{self.name}` must be logits. Received percentages: no number is below 0, and every row sums to 100. "
                "Give the numbers before the softmax, or np.log(percentages / 100)."
            )
        if 0 <= self.lowest < self.highest <= 1:
            raise ValueError(
                f"`{self.name}` must be logits. Received numbers in [0, 1], which look like sigmoid probabilities: "
                "give the numbers before the sigmoid, or np.log(p) − np.log(1 − p)."
            )


def as_logits(logits, num_classes, *, independent=False, name="logits", class_names=None):
    """`logits` as a float64 matrix `[N, num_classes]`, or a `ValueError`; probabilities are refused."""
    reader = Reader(num_classes, independent=independent, name=name, class_names=class_names)
    matrix = reader.logits(logits)
    reader.check()
    return matrix.astype("float64")


def as_pairs(batches, name="logits"):
    """The batches one by one, each a pair `(y_true, logits)`; a `ValueError` for any other batch."""
    rule = f"`batches` must be an iterable of pairs (y_true, {name})."
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise _arrays.ArgumentError("batches", f"{rule} Received a {type(batches).__name__}.")
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            size = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
            raise _arrays.ArgumentError(
                "batches",
                f"{rule} Received a {type(batch).__name__}{size}: put a single pair in a list, [(y_true, {name})].",
            )
        yield batch


def check_order(y_true, logits, name="logits"):
    """Raise if both have several leading axes in different orders: flattened, labels would belong to other logits."""
    leading = logits.shape[:-1]
    if y_true.ndim >= len(leading) > 1 and y_true.shape[: len(leading)] != leading and y_true.shape[1:] != (1,):
        raise ValueError(
            f"`y_true` and `{name}` must have the same leading axes, in the same order. "
            f"Received shapes {y_true.shape} and {logits.shape}."
        )


def _are_distributions(matrix, tolerance):
    """Whether all numbers are in [0, 1] and every row sums to one, or there are too many such rows for logits."""
    # For logits a few rows are enough in most cases.
    if any(rows.min() < 0 or rows.max() > 1 + tolerance for rows in (matrix[:_MANY_ROWS], matrix)):
        return False
    is_one = np.abs(matrix.sum(axis=-1, dtype="float64") - 1.0) < tolerance
    return matrix.shape[1] > 1 and bool(is_one.all() or (len(matrix) >= _MANY_ROWS and np.ptp(matrix) > 0))


def as_ids(y_true, num_examples, num_classes, *, name="y_true"):
    """`y_true` (ids, or one-hot rows) as int64 class ids `[num_examples]`, or a `ValueError`."""
    labels = _labels.as_labels(y_true, name)
    if labels.ndim >= 2 and labels.shape[-1] == num_classes and labels.size == num_examples * num_classes:
        rows = labels.reshape(num_examples, num_classes)
        if not np.isin(rows, (0, 1)).all() or (rows.sum(axis=-1) != 1).any():
            raise ValueError(
                f"Rows of `{name}` must be one-hot: one 1 and otherwise 0. Received soft or empty rows, or several "
                "labels in one row: for independent labels give `num_examples` or `independent=True`."
            )
        return rows.argmax(axis=-1).astype("int64")
    if labels.size != num_examples or not num_examples:
        raise ValueError(
            f"`{name}` must have one class id for each of the {num_examples} rows of logits. "
            f"Received shape {labels.shape}."
        )
    labels = labels.reshape(-1)
    if (fractional := labels != np.floor(labels)).any():
        raise ValueError(
            f"`{name}` must be whole numbers, class ids 0 … {num_classes - 1}. Received {labels[fractional][0]} at row "
            f"{fractional.argmax()}."
        )
    if (bad := (labels < 0) | (labels >= num_classes)).any():
        raise ValueError(
            f"`{name}` must be class ids 0 … {num_classes - 1}, one for each column of logits. Received "
            f"{labels[bad][0]} at row {bad.argmax()} ({bad.sum()} such rows). Leave out rows that have no "
            f"class, or give ignore_class={labels[bad][0]:g} where the function takes it."
        )
    return labels.astype("int64")


def without_ignored(y_true, logits, ignore_class, name="logits"):
    """The ids and rows of arrays whose id is another than `ignore_class`."""
    rows = logits.shape if logits.ndim == 1 else logits.shape[:-1]  # one sigmoid unit may have no axis of its own
    if y_true.ndim > 1 and y_true.shape[-1] == 1 and y_true.ndim == len(rows) + 1:
        y_true = y_true[..., 0]
    if y_true.shape != rows:
        raise ValueError(
            f"`ignore_class` goes with class ids, one for each row of {name}. "
            f"Received labels of shape {y_true.shape} for {name} of shape {logits.shape}."
        )
    kept = y_true != ignore_class
    return y_true[kept], logits[kept]


def as_multi_hot(y_true, num_examples, num_labels, *, name="y_true", ignore_class=None):
    """`y_true` as a matrix `[num_examples, num_labels]`: which independent labels are on.

    It is boolean; with `ignore_class` int8, and −1 where the target is unknown.
    """
    rows, shape = _labels.as_targets(y_true, name), (num_examples, num_labels)
    if rows.size == num_examples * num_labels and num_labels in (1, *rows.shape[-1:]):
        rows = rows.reshape(shape)  # flattens leading axes; a single label may have no axis
    if rows.shape != shape:
        raise ValueError(f"`{name}` must have a 0 or 1 for each label, shape {shape}. Received shape {rows.shape}.")
    is_unknown = np.zeros(shape, bool) if ignore_class is None else rows == ignore_class
    if (bad := ~np.isin(rows, (0, 1)) & ~is_unknown).any():
        mark = "" if ignore_class is None else f", or {ignore_class}"
        raise ValueError(
            f"Every number in `{name}` must be 0 or 1{mark}. Received {rows[bad][0]} at row "
            f"{bad.any(axis=1).argmax()} ({bad.sum()} such numbers). If they mark unknown targets: ignore_class=-1, "
            "which `kla.tune_tau` and `kla.tune_offsets` take; leave such rows out elsewhere."
        )
    return rows.astype(bool) if ignore_class is None else np.where(is_unknown, -1, rows != 0).astype("int8")
