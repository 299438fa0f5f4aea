"""Labels as class ids or as rows. The static shape tells which.

Labels are class ids, or one-hot (or soft) rows. Beside predictions `[..., L]` the static shape tells which, so the user
need not say it. An ambiguous shape raises before the first step.
"""

import dataclasses
import typing

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras
from keras_logit_adjust._labels.masks import UNKNOWN, static_shape, zero_masked
from keras_logit_adjust._labels.swapped import ORDER, refuse_gradient_of_labels, refuse_negative_rows
from keras_logit_adjust._labels.tensors import (
    at_least_float32,
    check_holds_ids,
    float_dtype,
    ids_to_tensor,
    to_tensor_of_gradients,
)

_SUM_OF_ROW = 1.01  # the row of one label may have this sum, because half precision rounds


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Labels that were read, beside their predictions. Either `ids` or `rows` is None.

    Attributes:
        y_pred: predictions `[..., L]`, unchanged.
        ids: int32 `[...]`, 0 wherever the label is improper or ignored.
        rows: one-hot or soft rows, or targets of independent labels, `[..., L]`.
        proper: whether each label is a class, or a target in [0, 1]; None where nothing was checked.
        kept: whether each label is kept; None where all are.
    """

    y_pred: typing.Any
    ids: typing.Any = None
    rows: typing.Any = None
    proper: typing.Any = None
    kept: typing.Any = None

    @property
    def logits(self):
        """The predictions, zero wherever the label is ignored."""
        return zero_masked(self.y_pred, self.kept)

    def targets(self, dtype, label_smoothing):
        """The labels as rows `[..., L]`. The share `label_smoothing` is spread evenly over the classes.

        A row keeps its sum, so a row of zeros stays zero.
        """
        num_classes = self.y_pred.shape[-1]
        rows = ops.one_hot(self.ids, num_classes, dtype=dtype) if self.rows is None else ops.cast(self.rows, dtype)
        if not label_smoothing:
            return rows
        total = 1.0 if self.rows is None else ops.sum(rows, axis=-1, keepdims=True)
        return rows * (1.0 - label_smoothing) + label_smoothing / num_classes * total

    def spoil(self, values):
        """`values`, NaN wherever the label is improper."""
        # A factor of NaN and not a constant: otherwise the gradient would be that of a label of class 0.
        return values if self.proper is None else values * ops.where(self.proper, ops.ones_like(values), np.nan)


def read(y_true, y_pred, num_classes, *, ignore_class=None, allow_negative=False):
    """`Labels` of exclusive classes.

    Args:
        y_true: ids `[...]` or `[..., 1]`, or rows `[..., L]`; told apart by static shape.
        y_pred: predictions `[..., L]`; or None, where floats that are `L` wide are rows.
        num_classes: `L`.
        ignore_class: an id left out, or None.
        allow_negative: whether a negative number makes its row improper, and raises nothing in the rows that are seen.

    A row of several labels, whose sum is above one, is improper.
    """
    given = y_true
    refuse_gradient_of_labels(y_true, y_pred)
    y_true = ids_to_tensor(y_true, ignore_class=ignore_class)
    y_pred = None if y_pred is None else to_tensor_of_gradients(y_pred)
    leading = _leading_of_labels(y_true, num_classes) if y_pred is None else _check_width(y_pred, num_classes, y_true)
    if _are_ids(y_true, leading, num_classes):
        ids, proper, kept = _settle_ids(y_true, leading, num_classes, ignore_class)
        return Labels(y_pred, ids=ids, proper=proper, kept=kept)
    if ignore_class is not None:
        raise ValueError(
            "`ignore_class` goes with class ids. Received one-hot labels: give ignored rows a weight of 0."
        )
    if not allow_negative:
        refuse_negative_rows(given)
    return Labels(y_pred, rows=y_true, proper=_have_one_label(y_true))


def read_ids(y_true, leading, num_classes, *, ignore_class=None, remedy=""):
    """`Labels` of ids `[...]` or `[..., 1]`, without predictions. `leading` is the static shape `[...]`.

    `remedy` is the end of the message for other shapes, mostly of rows.
    """
    y_true = ids_to_tensor(y_true, ignore_class=ignore_class)
    shape = static_shape(y_true, "y_true")
    if shape[len(leading) :] not in ((), (1,)):
        raise ValueError(
            f"`y_true` must be class ids of shape {leading} or {(*leading, 1)}. Received shape {shape}. "
            f"{UNKNOWN if None in shape[-1:] else remedy}"
        )
    _check_agreement(shape[: len(leading)], leading)
    ids, proper, kept = _settle_ids(y_true, leading, num_classes, ignore_class)
    return Labels(None, ids=ids, proper=proper, kept=kept)


def read_targets(y_true, y_pred, num_labels, *, ignore_class=None):
    """`Labels` of independent labels: targets `[..., L]` (`[...]` if `L = 1`). `ignore_class` marks unknown targets."""
    refuse_gradient_of_labels(y_true, y_pred)
    y_true, y_pred = ids_to_tensor(y_true), to_tensor_of_gradients(y_pred)
    leading = _check_width(y_pred, num_labels, y_true)
    shape = static_shape(y_true, "y_true")
    if num_labels == 1 and len(shape) == len(leading):
        y_true = ops.expand_dims(y_true, axis=-1)
    elif len(shape) != len(leading) + 1 or shape[-1] != num_labels:
        remedy = UNKNOWN if None in shape[-1:] else "For class ids use `LogitAdjustedCrossentropy`."
        raise ValueError(
            f"`y_true` must have the shape of `y_pred`, {(*leading, num_labels)}, one target for each label. "
            f"Received shape {shape}. {remedy}"
        )
    _check_agreement(shape[: len(leading)], leading)
    targets = ops.cast(y_true, float_dtype(y_pred))
    kept = None if ignore_class is None else ops.not_equal(targets, ignore_class)
    targets = zero_masked(targets, kept)
    proper = ops.logical_and(ops.greater_equal(targets, 0.0), ops.less_equal(targets, 1.0))
    return Labels(y_pred, rows=targets, proper=proper, kept=kept)


def _check_width(y_pred, num_classes, y_true):
    """The leading shape of `y_pred [..., L]`. Raise unless it has `L = num_classes` columns."""
    shape = static_shape(y_pred, "y_pred")
    labels = static_shape(y_true, "y_true")
    if not shape or shape[-1] is None:
        raise ValueError(
            f"`y_pred` must have a last dimension of {num_classes}, one for each class. Received shape {shape}. "
            f"{UNKNOWN}"
        )
    if shape[-1] != num_classes:
        if labels[1:][-1:] == (num_classes,):
            rule = f"`y_pred` must be logits of shape [..., {num_classes}]"
            raise ValueError(f"{rule}. Received shape {shape}, and `y_true` of shape {labels}. {ORDER}")
        if num_classes in shape[1:-1]:
            axis = shape.index(num_classes, 1)
            raise ValueError(
                f"`y_pred` must have the classes in its last axis. Received shape {shape} for {num_classes} classes, "
                f"which are in axis {axis}: give keras.ops.moveaxis(y_pred, {axis}, -1), or let the model end with a "
                "`keras.layers.Permute`."
            )
        raise ValueError(
            f"`y_pred` must have one column for each class: class_counts has {num_classes} classes, `y_pred` has shape "
            f"{shape}. {_remedy_of_width(shape, num_classes)}"
        )
    return shape[:-1]


def _remedy_of_width(shape, num_classes):
    if shape[-1] == 1:
        return "For one sigmoid unit use `BinaryLogitAdjustedCrossentropy([positives], num_examples)`."
    if shape[-1] > num_classes:
        return f"Where the last classes have no examples: kla.priors.count_classes(y, num_classes={shape[-1]})."
    return f"Give the last layer {num_classes} units, or the counts of the {shape[-1]} classes that it has."


def _leading_of_labels(y_true, num_classes):
    """The leading shape of labels without predictions. Several columns of floats are rows, columns of integers ids."""
    shape = static_shape(y_true, "y_true")
    if len(shape) < 2 or shape[-1] == 1:
        return shape
    is_float = "float" in keras.backend.standardize_dtype(y_true.dtype)
    if is_float and shape[-1] != num_classes:
        raise ValueError(
            f"Rows of labels must have one column for each of the {num_classes} classes. Received shape "
            f"{shape}: give ids as integers, or `y_pred` beside them."
        )
    if not is_float and shape[-1] == num_classes:
        raise ValueError(
            f"Integer labels that are as wide as there are classes may be ids or one-hot rows. Received shape {shape} "
            f"for {num_classes} classes: give `y_pred` beside them, or rows as floats."
        )
    return shape[:-1] if is_float else shape


def _are_ids(y_true, leading, num_classes):
    """Whether `y_true` has class ids (True) or one-hot or soft rows (False), by its static shape."""
    shape = static_shape(y_true, "y_true")
    has_column = len(shape) == len(leading) + 1 and shape[-1] in (1, num_classes)
    if not has_column and len(shape) != len(leading):
        raise ValueError(
            f"`y_true` must be class ids of shape {leading} or {(*leading, 1)}, or one-hot rows of shape "
            f"{(*leading, num_classes)}, to go with `y_pred` of shape {(*leading, num_classes)}. "
            f"Received shape {shape}.{f' {UNKNOWN}' if None in shape[-1:] else ''}"
            f"{f' {ORDER}' if len(shape) > len(leading) + 1 and shape[-1] != 1 else ''}"
        )
    _check_agreement(shape[: len(leading)], leading)
    return not has_column or shape[-1] == 1


def _check_agreement(labels, predictions):
    """Raise if the leading static shapes of labels and predictions differ in a dimension that both know."""
    if any(None not in (a, b) and a != b for a, b in zip(labels, predictions, strict=True)):
        raise ValueError(
            "`y_true` and `y_pred` must agree in every dimension but the last. "
            f"Received leading shapes {labels} and {predictions}."
        )


def _settle_ids(y_true, leading, num_classes, ignore_class):
    """Ids of the shape `leading`, 0 in place of bad ones; which are proper (or ignored); which are kept."""
    if len(y_true.shape) > len(leading):
        y_true = ops.squeeze(y_true, axis=-1)
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    is_float = "float" in dtype
    if is_float:
        check_holds_ids(dtype, num_classes)
    elif dtype not in ("int32", "int64"):
        # A uint8 cannot be compared with L = 300. A number that is too large for the new type becomes negative.
        y_true = ops.cast(y_true, "int64" if _needs_64_bits(dtype) else "int32")
        if dtype.startswith("uint") and ignore_class is not None and ignore_class < 0:
            ignore_class = None
    kept = None if ignore_class is None else ops.not_equal(y_true, ignore_class)
    # Compare with L − 1 and not with L: float32 has 2²⁴, but not 2²⁴ + 1.
    proper = ops.logical_and(ops.greater_equal(y_true, 0), ops.less_equal(y_true, num_classes - 1))
    if is_float:
        proper = ops.logical_and(proper, ops.equal(y_true % 1.0, 0.0))
    safe = proper if kept is None else ops.logical_and(proper, kept)
    ids = ops.cast(zero_masked(y_true, safe), "int32")
    return ids, proper if kept is None else ops.logical_or(proper, ops.logical_not(kept)), kept


def _needs_64_bits(dtype):
    # JAX has int64 only if the user enables it, and has uint64 only then too.
    return dtype == "uint64" or (dtype == "uint32" and keras.backend.backend() != "jax")


def _have_one_label(rows):
    """Whether each row is one label, one-hot or soft: no number is below 0, and the sum is at most one."""
    rows = ops.cast(rows, float_dtype(rows))
    # One sum finds both: a negative number counts as 2. It is false for NaN.
    return ops.less_equal(ops.sum(ops.where(ops.less(rows, 0.0), 2.0, rows), -1), _SUM_OF_ROW)


def check_logits(y_pred, owner):
    """Raise for the output of Keras's softmax or sigmoid. A JAX tensor does not show it."""
    if _keras.is_activated(y_pred):
        raise ValueError(
            f"{owner} takes logits. Received the output of a softmax or sigmoid, on which adjustment means nothing. "
            "Remedy: no activation on the last layer; a model that is trained already is adjusted by `kla.adjust`, "
            "which finds the logits behind its activation."
        )


def check_threshold_of(y_pred, threshold):
    """Raise if Keras's sigmoid made the scores, and the threshold is 0, 1 or beyond: every answer would be the same."""
    thresholds = np.asarray(threshold)
    if _keras.is_activated(y_pred) and ((thresholds <= 0) | (thresholds >= 1)).any():
        raise ValueError(
            "`threshold` must be between 0 and 1 for the output of a sigmoid. Received "
            f"threshold={_checks.shown(threshold)}: give 0.5; 0 is the threshold of logits."
        )


def of_unit(y_pred, threshold):
    """The scores `[..., 1]` of one sigmoid unit as scores of two classes `[..., 2]`.

    The second class wins if the score is above the threshold.
    """
    scores = at_least_float32(y_pred)
    # NaN in both columns: no class wins. A product of 0 and the scores would make infinite scores NaN too.
    limit = ops.where(ops.isnan(scores), scores, ops.cast(threshold, scores.dtype))
    return ops.concatenate([limit, scores], axis=-1)
