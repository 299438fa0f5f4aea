"""What labels, masks and weights mean, told from static shapes: read once, for losses, metrics and streaming priors.

Labels come as class ids or as one-hot (or soft) rows. Against predictions `[..., L]` the static shape says which, so
nothing has to be declared; what it cannot say raises before any step runs.
"""

import dataclasses
import functools
import typing

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _keras

_UNKNOWN = "Give it a static shape with `tf.ensure_shape` or `tensor.set_shape(...)`."
_TWO_FORMS = "Of NumPy labels one call had [N] and another [N, 1]: keep one form of labels, or compile again."
_OF_NAMES = f"map class names to them, {_arrays.IDS_OF_NAMES}"
_ORDER = "The order is (y_true, y_pred); torch has it the other way round."
_SUM_OF_ROW = 1.01  # the largest of one label's row: half precision rounds


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Labels that were read, beside their predictions. Either `ids` or `rows` is None.

    Attributes:
        y_pred: predictions `[..., L]`, as they came.
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
        """The labels as rows `[..., L]`, of which a share `label_smoothing` is spread evenly."""
        num_classes = self.y_pred.shape[-1]
        rows = ops.one_hot(self.ids, num_classes, dtype=dtype) if self.rows is None else ops.cast(self.rows, dtype)
        return rows * (1.0 - label_smoothing) + label_smoothing / num_classes if label_smoothing else rows

    def spoil(self, values):
        """`values`, NaN wherever the label is improper."""
        # A factor of NaN, not a constant: the gradient of an improper label must not pass for one of class 0.
        return values if self.proper is None else values * ops.where(self.proper, ops.ones_like(values), np.nan)


def read(y_true, y_pred, num_classes, *, ignore_class=None, one_label=False):
    """`Labels` of exclusive classes.

    Args:
        y_true: ids `[...]` or `[..., 1]`, or rows `[..., L]`; told apart by static shape.
        y_pred: predictions `[..., L]`; or None, where floats that are `L` wide are rows.
        num_classes: `L`.
        ignore_class: an id left out, or None.
        one_label: whether a row of several labels, whose sum is above one, is improper.
    """
    given = y_true
    _refuse_gradient_of_labels(y_true, y_pred)
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
    if not ops.is_tensor(given) and not one_label:
        _refuse_negative_rows(given)
    return Labels(y_pred, rows=y_true, proper=_have_one_label(y_true) if one_label else None)


def read_ids(y_true, leading, num_classes, *, ignore_class=None, remedy=""):
    """`Labels` of ids `[...]` or `[..., 1]` beside no predictions; `leading` is the static shape `[...]`.

    `remedy` ends the message for anything else, rows above all.
    """
    y_true = ids_to_tensor(y_true, ignore_class=ignore_class)
    shape = _static_shape(y_true, "y_true")
    if shape[len(leading) :] not in ((), (1,)):
        raise ValueError(
            f"`y_true` must be class ids of shape {leading} or {(*leading, 1)}. Received shape {shape}. "
            f"{_UNKNOWN if None in shape[-1:] else remedy}"
        )
    _check_agreement(shape[: len(leading)], leading)
    ids, proper, kept = _settle_ids(y_true, leading, num_classes, ignore_class)
    return Labels(None, ids=ids, proper=proper, kept=kept)


def read_targets(y_true, y_pred, num_labels, *, ignore_class=None):
    """`Labels` of independent labels: targets `[..., L]` (`[...]` when `L = 1`); `ignore_class` marks unknown ones."""
    _refuse_gradient_of_labels(y_true, y_pred)
    y_true, y_pred = ids_to_tensor(y_true), to_tensor_of_gradients(y_pred)
    leading = _check_width(y_pred, num_labels, y_true)
    shape = _static_shape(y_true, "y_true")
    if num_labels == 1 and len(shape) == len(leading):
        y_true = ops.expand_dims(y_true, axis=-1)
    elif len(shape) != len(leading) + 1 or shape[-1] != num_labels:
        remedy = _UNKNOWN if None in shape[-1:] else "For class ids use `LogitAdjustedCrossentropy`."
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


def _static_shape(tensor, name):
    """The static shape of `tensor` as a tuple; unknown rank raises, an unknown dimension is None."""
    shape = tensor.shape
    if getattr(shape, "rank", 0) is None:  # tf.TensorShape(None)
        raise ValueError(f"`{name}` must have a known rank. Received a tensor of unknown rank. {_UNKNOWN} {_TWO_FORMS}")
    return tuple(shape)


def _refuse_gradient_of_labels(y_true, y_pred):
    """Raise where labels of torch's want gradients and predictions do not: they are the other way round."""
    if getattr(y_true, "requires_grad", False) and not getattr(y_pred, "requires_grad", False):
        raise ValueError(f"`y_true` must be labels. Received a tensor with requires_grad=True. {_ORDER}")


def _refuse_negative_rows(rows):
    """Raise for rows of labels, arrays and lists, that are logits. A tensor's numbers cost a step to read."""
    array = as_labels(rows)
    if (bad := array < 0).any():
        rule = "Rows of `y_true` must be one-hot or soft, without negative numbers"
        raise ValueError(f"{rule}. Received {array[bad][0]:g}. {_ORDER}")


def _check_width(y_pred, num_classes, y_true):
    """The leading shape of `y_pred [..., L]`, after checking that it has `L = num_classes` columns."""
    shape = _static_shape(y_pred, "y_pred")
    labels = _static_shape(y_true, "y_true")
    if not shape or shape[-1] is None:
        raise ValueError(
            f"`y_pred` must have a last dimension of {num_classes}, one for each class. Received shape {shape}. "
            f"{_UNKNOWN}"
        )
    if shape[-1] != num_classes:
        if labels[1:][-1:] == (num_classes,):
            rule = f"`y_pred` must be logits of shape [..., {num_classes}]"
            raise ValueError(f"{rule}. Received shape {shape}, and `y_true` of shape {labels}. {_ORDER}")
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
    return f"Give the last layer {num_classes} units."


def _leading_of_labels(y_true, num_classes):
    """The leading shape that labels have by themselves: several columns of floats are rows, of integers ids."""
    shape = _static_shape(y_true, "y_true")
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
    """Whether `y_true` holds class ids (True) or one-hot / soft rows (False), by static shape alone."""
    shape = _static_shape(y_true, "y_true")
    has_column = len(shape) == len(leading) + 1 and shape[-1] in (1, num_classes)
    if not has_column and len(shape) != len(leading):
        raise ValueError(
            f"`y_true` must be class ids of shape {leading} or {(*leading, 1)}, or one-hot rows of shape "
            f"{(*leading, num_classes)}, to go with `y_pred` of shape {(*leading, num_classes)}. "
            f"Received shape {shape}.{f' {_UNKNOWN}' if None in shape[-1:] else ''}"
            f"{f' {_ORDER}' if len(shape) > len(leading) + 1 and shape[-1] != 1 else ''}"
        )
    _check_agreement(shape[: len(leading)], leading)
    return not has_column or shape[-1] == 1


def _check_agreement(labels, predictions):
    """Raise unless the leading static shapes of labels and predictions agree wherever both are known."""
    if any(None not in (a, b) and a != b for a, b in zip(labels, predictions, strict=True)):
        raise ValueError(
            "`y_true` and `y_pred` must agree in every dimension but the last. "
            f"Received leading shapes {labels} and {predictions}."
        )


def _settle_ids(y_true, leading, num_classes, ignore_class):
    """Ids of the shape of `leading`, made safe to look up; which are proper (or ignored); which are kept."""
    if len(y_true.shape) > len(leading):
        y_true = ops.squeeze(y_true, axis=-1)
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    is_float = "float" in dtype
    if is_float:
        y_true = at_least_float32(y_true)  # L = 2999 is 2992 in bfloat16
    elif dtype not in ("int32", "int64"):
        # 255 of a uint8 cannot be compared with L = 300. What is too large for the sign bit becomes negative.
        y_true = ops.cast(y_true, "int64" if _needs_64_bits(dtype) else "int32")
        if dtype.startswith("uint") and ignore_class is not None and ignore_class < 0:
            ignore_class = None
    kept = None if ignore_class is None else ops.not_equal(y_true, ignore_class)
    # Against L − 1: float32 holds 2²⁴ and rounds 2²⁴ + 1.
    proper = ops.logical_and(ops.greater_equal(y_true, 0), ops.less_equal(y_true, num_classes - 1))
    if is_float:
        proper = ops.logical_and(proper, ops.equal(y_true % 1.0, 0.0))
    safe = proper if kept is None else ops.logical_and(proper, kept)
    ids = ops.cast(zero_masked(y_true, safe), "int32")
    return ids, proper if kept is None else ops.logical_or(proper, ops.logical_not(kept)), kept


def _needs_64_bits(dtype):
    # JAX has 64 bits only where they are switched on, and then uint64 too.
    return dtype == "uint64" or (dtype == "uint32" and keras.backend.backend() != "jax")


def _have_one_label(rows):
    """Whether each row is of one label: soft at most, no number below 0 and a sum of at most one."""
    rows = ops.cast(rows, float_dtype(rows))
    return ops.logical_and(ops.all(ops.greater_equal(rows, 0.0), -1), ops.less_equal(ops.sum(rows, -1), _SUM_OF_ROW))


def _expand_right(tensor, rank, name):
    """`tensor` with axes of size 1 appended (or dropped) at the right until it has `rank` axes."""
    shape = _static_shape(tensor, name)
    if not shape:
        return tensor
    while len(shape) > rank and shape[-1] == 1:
        tensor, shape = ops.squeeze(tensor, axis=-1), shape[:-1]
    if len(shape) > rank:
        raise ValueError(
            f"`{name}` must not have more axes than there are values to weight, which have {rank}. "
            f"Received shape {shape}."
        )
    for _ in range(rank - len(shape)):
        tensor = ops.expand_dims(tensor, axis=-1)
    return tensor


def align_weight(sample_weight, values):
    """`sample_weight` in the dtype of `values`, expanded to the right until it multiplies them."""
    shape = _static_shape(values, "y_true")
    weight = _expand_right(
        ops.cast(to_tensor(sample_weight, "sample_weight"), values.dtype), len(shape), "sample_weight"
    )
    sizes = _static_shape(weight, "sample_weight")
    if any(None not in (a, b) and a != b and a != 1 for a, b in zip(sizes, shape, strict=False)):
        raise ValueError(
            f"`sample_weight` must have the leading shape of the labels, {shape}. Received shape {sizes} (expanded to "
            "the right)."
        )
    return weight


def combine_masks(rank, *masks):
    """The conjunction of the masks that are not None, each expanded to the right; None where all are."""
    masks = [_expand_right(ops.cast(mask, "bool"), rank, "mask") for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def zero_masked(values, mask):
    """Zeros in place of masked values, NaN and infinite ones too: these have no gradient either."""
    if mask is None:
        return values
    # By selection, not by a product: a NaN under the mask stays there.
    mask = _expand_right(ops.cast(mask, "bool"), len(values.shape), "mask")
    return ops.where(mask, values, ops.zeros_like(values))


def sum_by_class(values, ids, num_classes):
    """The sum of the values `[...]` of each class, `[L]`."""
    ids = ops.cast(ops.reshape(ids, (-1,)), "int32")
    return ops.segment_sum(ops.reshape(values, (-1,)), ids, num_segments=num_classes)


def check_logits(y_pred, owner):
    """Raise for probabilities that Keras's softmax or sigmoid made of logits; JAX's tensors do not tell."""
    if _keras.is_activated(y_pred):
        raise ValueError(
            f"{owner} takes logits. Received the output of a softmax or sigmoid, on which adjustment means nothing. "
            "Remedy: no activation on the last layer; a model that is trained already is adjusted by `kla.adjust`, "
            "which finds the logits behind its activation."
        )


def of_unit(y_pred, threshold):
    """Scores `[..., 1]` of one sigmoid unit as those of two classes `[..., 2]`: the second wins above the threshold."""
    scores = at_least_float32(y_pred)
    return ops.concatenate([0.0 * scores + threshold, scores], axis=-1)  # NaN in both: neither is right


def ids_to_tensor(y_true, name="y_true", *, ignore_class=None):
    """Labels or ids as a tensor, in which an id that no int32 holds is another that is no class, and not ignored.

    JAX would cut its upper bits off: 2³² + 1 would be class 1.
    """
    if ops.is_tensor(y_true) or isinstance(y_true, (keras.Variable, keras.KerasTensor)):
        return y_true if ops.is_tensor(y_true) else ops.convert_to_tensor(y_true)
    array, bounds = as_labels(y_true, name), np.iinfo("int32")
    if array.dtype not in ("int64", "uint32", "uint64"):
        return ops.convert_to_tensor(array)
    beyond = (array < bounds.min) | (array > bounds.max)
    ids = np.where(beyond, 0, array).astype("int32")
    ids[beyond] = bounds.max if ignore_class == bounds.min else bounds.min
    return ops.convert_to_tensor(ids)


def as_labels(labels, name="y_true"):
    """`labels` as a NumPy array of real numbers (bfloat16 as float32), none of them masked."""
    return _as_numbers(labels, name, f"integer class ids or one-hot rows ({_OF_NAMES})")


def as_targets(targets, name="targets"):
    """Targets of independent labels as a NumPy array of real numbers, none of them masked."""
    return _as_numbers(targets, name, "rows of 0 and 1, one column for each label")


def _as_numbers(values, name, rule):
    array = _arrays.as_array(values, name, rule, kinds="biuf")
    return array.astype("float32") if array.dtype.kind == "V" else array  # bfloat16


def check_num_classes(value, *, minimum=2):
    """`num_classes` as an int of at least `minimum`."""
    if isinstance(value, int) and not isinstance(value, bool) and value == 1 < minimum:
        raise _checks.ArgumentError(
            "num_classes",
            f"`num_classes` must be an integer of at least {minimum}. Received: num_classes={value}: one sigmoid unit "
            "has two classes, the negatives and the positives.",
        )
    return _checks.check_integer(value, "num_classes", minimum)


def to_tensor(values, name="y_pred"):
    """`values` as a tensor of their own dtype: ids stay exact whatever `floatx` is."""
    if ops.is_tensor(values) or isinstance(values, (keras.Variable, keras.KerasTensor)):
        return values if ops.is_tensor(values) else ops.convert_to_tensor(values)
    array = _as_numbers(values, name, "an array or tensor of numbers")
    return ops.convert_to_tensor(array.astype("float64") if array.dtype == "uint64" else array)  # torch has none


def to_tensor_of_gradients(values, name="y_pred"):
    """`to_tensor` for a loss: a tensor of torch's that wants gradients is none of another backend's."""
    is_foreign = type(values).__module__.partition(".")[0] == "torch" and not ops.is_tensor(values)
    if is_foreign and getattr(values, "requires_grad", False):
        raise ValueError(
            f"`{name}` must be of Keras's backend, {keras.backend.backend()!r}, for its gradient to be known. Received "
            "a torch tensor with requires_grad=True. Set the environment variable KERAS_BACKEND=torch before `import "
            "keras`; where no gradient is wanted, give it detached."
        )
    return to_tensor(values, name)


def at_least_float32(tensor):
    """`tensor` in float32, or as it is where it is float64: half precision never enters a log-sum-exp."""
    return ops.cast(tensor, float_dtype(tensor))


def float_dtype(tensor):
    """The dtype that `at_least_float32` gives, of a symbolic tensor too."""
    # Not by `result_type`, which is float32 for float64 on torch.
    return "float64" if keras.backend.standardize_dtype(tensor.dtype) == "float64" else "float32"
