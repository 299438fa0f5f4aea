"""Count labels in arrays, datasets, iterables and TFRecord files."""

import numbers
import time
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.priors import records

_QUIET_SECONDS = 2.0  # a count that takes longer shows a progress bar
_REBATCH = 8192  # labels that come one by one are counted in batches of this size


def count_classes(labels_or_dataset, *, num_classes=None, ignore_class=None, label_form=None, record_label=None):
    """Count the training examples of each class, `n_y = Σ_i [y_i = y]`.

    The function takes the data of a training script: an array of labels, a `tf.data.Dataset`, an iterable of batches (a
    Keras `PyDataset`, a torch `DataLoader`, a generator), or TFRecord files. It reads several files at a time and
    parses only the label. Labels are integer ids of any shape or one-hot rows; soft rows add their weights. The form is
    decided once for the whole data set. Several columns of floats are rows. Several columns of integers are ids if they
    cannot be rows; otherwise give `label_form`. A count that takes long shows a progress bar.

    Args:
        labels_or_dataset: ids `[N]`, `[N, 1]` or `[N, …]`; one-hot or soft rows `[N, L]` (each sums to one); or
            batches `(x, y)` or `(x, y, sample_weight)` with such an array as `y` (sample weights do not count); or
            TFRecord files: a pattern such as `"train-*.tfrecord"`, a path or a list of them (`….gz` is decompressed).
        num_classes: the number of classes `L`; by default the largest id plus one.
        ignore_class: an id that is not counted, such as 255 for pixels without a label. It goes with ids.
        label_form: "ids" or "rows", for integers of 0 and 1 in several columns, which may be either.
        record_label: for files: the name of the `int64` feature that is the label, or a function that gives the labels
            of a batch of serialized records.

    Returns:
        Int64 array `[L]` (float64 where soft rows give fractions).

    Raises:
        ValueError: for a label that is negative, fractional or not below `num_classes`, saying which and where; for
            labels that may be ids or rows; for an endless dataset; for no labels at all; for files without
            `record_label`, or a pattern without files; for records without this feature, or where it is no int64.

    Warns:
        UserWarning: for labels in uint8 with the id 255 and not 254, if neither `ignore_class` nor `num_classes` is
            given.

    Example:

    >>> count_classes([0, 0, 2, 0], num_classes=4).tolist()
    [3, 0, 1, 0]
    >>> count_classes([[0, 255], [1, 0]], ignore_class=255).tolist()
    [2, 1]
    >>> count_classes([[0, 1], [1, 0], [0, 1]], label_form="rows").tolist()
    [1, 2]
    """
    if num_classes is not None:
        num_classes = _labels.check_num_classes(num_classes)
    form = _checks.check_choice(label_form, "label_form", (None, "ids", "rows"))
    tally = _Tally(num_classes, form, _checks.check_ignore_class(ignore_class))
    files = records.as_files(labels_or_dataset, record_label)
    source = labels_or_dataset if files is None else records.label_batches(files, record_label, _REBATCH)
    for position, labels in label_batches(source, label_form, "count_classes"):
        tally.add(_labels.as_labels(labels, "labels"), position)
    counts = tally.counts()
    if counts.sum() == 0:
        raise ValueError(f"`count_classes` found no labels in the {type(labels_or_dataset).__name__} it was given.")
    whole = np.rint(counts)
    # Soft rows in float32 have rounding errors of this size.
    return whole.astype("int64") if np.allclose(counts, whole, rtol=1e-6, atol=1e-4) else counts


def label_batches(source, label_form, owner):
    """`(position, labels)` for every batch of `source`: a text for messages, and a NumPy array.

    `owner` is the name of the calling function, for messages.
    """
    if hasattr(source, "element_spec"):
        yield from _with_progress(_dataset_labels(source, label_form, owner))
    elif isinstance(source, keras.utils.PyDataset):
        if is_endless(source):
            raise ValueError(f"`{owner}` was given an endless PyDataset. Count the labels that it draws from.")
        yield from _with_progress((labels_of(source[i]) for i in range(source.num_batches)), source.num_batches)
    elif _is_array(source):
        yield "the labels", _to_numpy(source)
    elif isinstance(source, tuple) and len(source) in (2, 3) and all(map(_is_array, source)):
        raise ValueError(
            f"`{owner}` was given a tuple of {len(source)} arrays, which may be (x, y): give the labels y alone. "
            "Several arrays of labels go into a list."
        )
    elif isinstance(source, Mapping) or not hasattr(source, "__iter__"):
        raise ValueError(
            f"`{owner}` takes labels, a dataset or an iterable of batches (x, y). "
            f"Received: {type(source).__name__}. Counts that exist already need no counting: pass them as a list."
        )
    else:
        total = len(source) if hasattr(source, "__len__") else None
        yield from _with_progress((labels_of(batch) for batch in source), total)


def _is_array(source):
    """Whether `source` contains the labels: it is an array, tensor or column, or a (nested) list of numbers."""
    if isinstance(source, (list, tuple)):
        return bool(source) and (isinstance(source[0], numbers.Number) or _is_list_of_numbers(source[0]))
    return hasattr(source, "__array__") or (hasattr(source, "shape") and hasattr(source, "dtype"))


def _is_list_of_numbers(row):
    return isinstance(row, (list, tuple)) and bool(row) and all(isinstance(value, numbers.Number) for value in row)


def labels_of(batch):
    if isinstance(batch, list) and _is_list_of_numbers(batch):
        return batch
    if isinstance(batch, (list, tuple)):
        if len(batch) not in (2, 3):
            raise ValueError(
                f"A batch must be (x, y) or (x, y, sample_weight). Received a {type(batch).__name__} of length "
                f"{len(batch)}."
            )
        batch = batch[1]
    if isinstance(batch, Mapping):
        raise ValueError(
            "A batch must be (x, y) or (x, y, sample_weight), y one array of labels. Received a dict: map the dataset "
            "to such pairs first."
        )
    return batch


def _dataset_labels(dataset, label_form, owner):
    """The labels of a `tf.data.Dataset`, whole batches at a time."""
    if is_endless(dataset):
        raise ValueError(f"`{owner}` was given an endless dataset: count before `.repeat()`, or `.take(n)` of it.")
    labels = dataset.map(lambda *batch: _dense(labels_of(batch if len(batch) > 1 else batch[0])))
    is_single = holds_single_examples(dataset.element_spec)
    if labels.element_spec.shape.rank == 1 and label_form is not None:
        is_single = label_form == "rows"
    labels = labels.batch(_REBATCH) if is_single else labels
    shape = labels.element_spec.shape
    if shape.rank == 1 and shape[0] is None:
        labels = labels.map(lambda ids: ids[:, None])  # a column cannot be confused with a row
    return labels.as_numpy_iterator()


def _dense(labels):
    if type(labels).__name__ != "SparseTensor":
        return labels
    import tensorflow as tf

    return tf.sparse.to_dense(labels)


def is_endless(data):
    """Whether a `tf.data.Dataset` or a `PyDataset` says that it never ends."""
    if hasattr(data, "element_spec"):
        return data.cardinality() == -1  # this is tf.data.INFINITE_CARDINALITY; TensorFlow is not imported here
    return isinstance(data, keras.utils.PyDataset) and data.num_batches is None


def holds_single_examples(spec):
    """Whether each element of a dataset is one example.

    Then its labels are a scalar or a row. Labels are a row if they are floats, or if x has another leading size.
    """
    labels = labels_of(spec)
    if labels.shape.rank != 1 or labels.shape[0] is None:
        return labels.shape.rank == 0
    if labels.dtype.is_floating or not isinstance(spec, tuple):
        return labels.dtype.is_floating
    leading = {tuple(x.shape[:1]) for x in keras.tree.flatten(spec[0])}
    return leading != {(spec[1].shape[0],)} and (None,) not in leading


def _with_progress(batches, total=None):
    """Number `batches` for messages. After `_QUIET_SECONDS` show a progress bar."""
    start, bar = time.monotonic(), None
    for step, labels in enumerate(batches, start=1):
        yield f"batch {step - 1}", _to_numpy(labels)
        if bar is None and time.monotonic() - start > _QUIET_SECONDS:
            bar = keras.utils.Progbar(total, unit_name="batch")
        if bar is not None:
            bar.update(step, finalize=False)
    if bar is not None:
        bar.update(step, finalize=True)


def _to_numpy(labels):
    is_numpy = isinstance(labels, (list, tuple)) or hasattr(labels, "__array__") and not keras.ops.is_tensor(labels)
    if is_numpy or hasattr(labels, "tocsc"):  # SciPy's sparse matrices are counted as they are
        return labels
    return keras.ops.convert_to_numpy(labels)


class _Tally:
    """Counts of batches of labels, with one decision for all of them: ids or rows.

    Args:
        num_classes: `L`, or None.
        form: "ids", "rows" or None.
        ignored: the id that is not counted, or None.
    """

    def __init__(self, num_classes, form, ignored):
        self.num_classes, self.form, self.ignored = num_classes, form, ignored
        self._counts = np.zeros(num_classes or 0)
        self._told = {}  # {form: position of the first labels that must have this form}
        self._widths = set()  # numbers of columns of integers that may be rows
        self._lines = set()  # sizes of batches that may be one row each
        self._number, self._has_255 = 0, False

    def add(self, labels, position):
        """Count one array of labels."""
        if not labels.size:
            return
        self._number += 1
        self._has_255 |= self.ignored is None and labels.dtype == "uint8" and bool(labels.max() == 255)
        columns = labels.shape[-1] if labels.ndim > 1 else 1
        are_marked = self.ignored not in (None, 0, 1) and bool((labels == self.ignored).any())  # no row has that number
        may_be_rows = self.form is None and not are_marked
        as_rows = self.form == "rows" or (may_be_rows and columns > 1 and labels.dtype.kind == "f")
        if as_rows and (columns > 1 or labels.ndim == 1):
            if self.ignored is not None:
                raise _checks.ArgumentError(
                    "ignore_class",
                    f"`ignore_class` goes with class ids. Received rows in {position}, or floats in several columns. "
                    'Ids need label_form="ids"; count rows without those that have no label.',
                )
            batch = _count_rows(np.atleast_2d(labels), self.num_classes, position)
            self._tell("rows", position)
            self._widths.add(batch.size)
        else:
            batch = _count_ids(labels, self.num_classes, self.ignored, position)
            self._look_at(labels, columns, position, may_be_rows=may_be_rows)
        width = max(batch.size, self._counts.size)
        self._counts = np.pad(self._counts, (0, width - self._counts.size)) + np.pad(batch, (0, width - batch.size))

    def counts(self):
        """The counts, float64 `[L]`. Raise if the labels may be ids or rows."""
        if self._has_255 and self.num_classes is None and self._counts[-2] == 0:
            warnings.warn(
                "The labels are uint8 and have 255, but not 254. Many masks mark positions without a label by 255: "
                "give ignore_class=255 if yours do, or num_classes=256 if 255 is a class.",
                stacklevel=3,
            )
        if len(self._widths) > 1 and "rows" in self._told:
            raise ValueError(
                f"Rows of labels must have one width in the whole data set. Received {sorted(self._widths)} columns."
            )
        if self.form is None and not self._told and len(self._widths) == 1:
            raise _ambiguous("integers of 0 and 1 in several columns", f"{min(self._widths)} columns")
        if self.form is None and self._number > 1 and len(self._lines) == 1 and None not in self._lines:
            raise _ambiguous("batches that all have a single 1", f"{self._number} batches of {min(self._lines)} labels")
        return self._counts

    def _look_at(self, ids, columns, position, *, may_be_rows):
        """Remember whether these ids may be rows instead."""
        may_be_row = may_be_rows and ids.ndim == 1 and ids.size > 1 and self.num_classes in (None, ids.size)
        self._lines.add(ids.size if may_be_row and ids.max() == 1 and np.count_nonzero(ids) == 1 else None)
        if may_be_rows and columns > 1 and self.num_classes in (None, columns) and ids.max() <= 1:
            self._widths.add(columns)
        else:
            self._tell("ids", position)

    def _tell(self, form, position):
        self._told.setdefault(form, position)
        if len(self._told) > 1:
            ids, rows = self._told["ids"], self._told["rows"]
            raise ValueError(
                f"All labels of a data set must be class ids, or all of them rows. Received ids in {ids}, and rows in "
                f"{rows}."
            )


def _ambiguous(what, received):
    return _checks.ArgumentError(
        "label_form",
        f"Labels must be class ids or one-hot rows, and {what} may be either. Received {received}: give "
        'label_form="ids" or label_form="rows". Independent labels are counted by kla.priors.count_labels.',
    )


def _count_rows(rows, num_classes, position):
    """The sum of one-hot or soft rows. Each row must have one number in [0, 1] for each class, and sum to one."""
    is_row = (
        num_classes in (None, rows.shape[-1])
        and rows.min() >= 0
        and rows.max() <= 1
        and np.allclose(rows.sum(axis=-1, dtype="float64"), 1.0, atol=1e-3)
    )
    if not is_row:
        expected = f"num_classes={num_classes} wide" if num_classes is not None else "one column a class"
        raise ValueError(
            f"Rows of labels must be one-hot or soft, {expected}, each in [0, 1] and summing to one. Received shape "
            f"{rows.shape} in {position}. Multi-label rows are counted by `count_labels`; whole numbers that are "
            'ids by label_form="ids".'
        )
    return rows.reshape(-1, rows.shape[-1]).sum(axis=0, dtype="float64")


def _count_ids(labels, num_classes, ignored, position):
    """The counts of one array of ids without the ignored one, as floats."""
    ids = labels.ravel()
    limit = _checks.MOST_CLASSES if num_classes is None else num_classes
    is_kept = np.ones(ids.size, bool) if ignored is None else ids != ignored
    bad = is_kept & (~np.isfinite(ids) | (ids < 0) | (ids >= limit) | (ids != np.floor(ids)))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        upper = f" and below num_classes={num_classes}" if num_classes is not None else ""
        if num_classes is None and (ids >= limit).any():
            upper = f" and below {limit:,}, for a larger one is a hash or a mistake"
        raise ValueError(
            f"Class ids must be integers of at least 0{upper}. Received {ids[first]} at position {first} of "
            f"{position} ({int(bad.sum())} wrong in it). Give an id that marks positions without a label as "
            "`ignore_class`."
        )
    return np.bincount(ids[is_kept].astype("int64")).astype("float64")
