"""What labels, masks and weights mean, told from static shapes: shared by losses and metrics.

Labels come as class ids or as one-hot (or soft) rows. Against predictions `[..., L]` the static shape says which, so
nothing has to be declared; what it cannot say raises before any step runs.
"""

import keras
from keras import ops

from keras_logit_adjust import _keras

UNKNOWN = "Give it a static shape with `tf.ensure_shape` or `tensor.set_shape(...)`."


def static_shape(tensor, name):
    """The static shape of `tensor` as a tuple; unknown rank raises, an unknown dimension is None."""
    shape = tensor.shape
    if getattr(shape, "rank", 0) is None:  # tf.TensorShape(None)
        raise ValueError(f"`{name}` must have a known rank. Received a tensor of unknown rank. {UNKNOWN}")
    return tuple(shape)


def check_width(y_pred, num_classes, name="y_pred"):
    """The leading shape of `y_pred [..., L]`, after checking that it has `L = num_classes` columns."""
    shape = static_shape(y_pred, name)
    if not shape or shape[-1] is None:
        raise ValueError(
            f"`{name}` must have a last dimension of {num_classes}, one for each class. Received shape {shape}. "
            f"{UNKNOWN}"
        )
    if shape[-1] != num_classes:
        raise ValueError(
            f"`{name}` must have one column for each class: class_counts has {num_classes} classes, `{name}` has shape "
            f"{shape}. Where the last classes have no examples: kla.priors.count_classes(y, num_classes={shape[-1]})."
        )
    return shape[:-1]


def are_ids(y_true, leading, num_classes):
    """Whether `y_true` holds class ids (True) or one-hot / soft rows (False), by static shape alone."""
    shape = static_shape(y_true, "y_true")
    if len(shape) == len(leading):
        ids, matches = True, shape
    elif len(shape) == len(leading) + 1 and shape[-1] == 1:
        ids, matches = True, shape[:-1]
    elif len(shape) == len(leading) + 1 and shape[-1] == num_classes:
        ids, matches = False, shape[:-1]
    else:
        hint = UNKNOWN if None in shape[-1:] else ""
        raise ValueError(
            f"`y_true` must be class ids of shape {leading} or {(*leading, 1)}, or one-hot rows of shape "
            f"{(*leading, num_classes)}, to go with `y_pred` of shape {(*leading, num_classes)}. "
            f"Received shape {shape}. {hint}".rstrip()
        )
    check_agreement(matches, leading)
    return ids


def refuse_ignored_rows(ignore_class):
    """Raise where `ignore_class` was given and the labels turned out to be rows."""
    if ignore_class is not None:
        raise ValueError(
            "`ignore_class` goes with class ids. Received one-hot labels: give ignored rows a weight of 0."
        )


def check_agreement(labels, predictions):
    """Raise unless the leading static shapes of labels and predictions agree wherever both are known."""
    if any(None not in (a, b) and a != b for a, b in zip(labels, predictions, strict=True)):
        raise ValueError(
            "`y_true` and `y_pred` must agree in every dimension but the last. "
            f"Received leading shapes {labels} and {predictions}."
        )


def settle_ids(y_true, leading, num_classes, ignore_class):
    """Integer ids with the shape of `leading`, made safe to look up.

    Returns:
        `(ids, proper, kept)`: int32 ids, 0 wherever the label is improper or ignored; whether each label is an
        integer in [0, L) (or ignored); whether it is kept, None with no `ignore_class`.
    """
    if len(static_shape(y_true, "y_true")) > len(leading):
        y_true = ops.squeeze(y_true, axis=-1)
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    is_float = "float" in dtype
    if is_float:
        y_true = ops.cast(y_true, keras.backend.result_type(dtype, "float32"))  # L = 2999 is 2992 in bfloat16
    elif dtype not in ("int32", "int64"):
        y_true = ops.cast(y_true, "int32")  # 255 of a uint8 cannot be compared with L = 300
    kept = None if ignore_class is None else ops.not_equal(y_true, ignore_class)
    # Against L − 1: float32 holds 2²⁴ and rounds 2²⁴ + 1.
    proper = ops.logical_and(ops.greater_equal(y_true, 0), ops.less_equal(y_true, num_classes - 1))
    if is_float:
        proper = ops.logical_and(proper, ops.equal(y_true, ops.floor(y_true)))
    safe = proper if kept is None else ops.logical_and(proper, kept)
    ids = ops.cast(ops.where(safe, y_true, ops.zeros_like(y_true)), "int32")
    if kept is not None:
        proper = ops.logical_or(proper, ops.logical_not(kept))
    return ids, proper, kept


def expand_right(tensor, rank, name):
    """`tensor` with axes of size 1 appended (or dropped) at the right until it has `rank` axes."""
    shape = static_shape(tensor, name)
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


def align_weight(weight, shape):
    """`weight` expanded to the right until it multiplies values of static `shape`."""
    weight = expand_right(weight, len(shape), "sample_weight")
    sizes = static_shape(weight, "sample_weight")
    if any(None not in (a, b) and a != b and a != 1 for a, b in zip(sizes, shape, strict=False)):
        raise ValueError(
            f"`sample_weight` must have the leading shape of the labels, {shape}. Received shape {sizes} (expanded to "
            "the right)."
        )
    return weight


def combine_masks(rank, *masks):
    """The conjunction of the masks that are not None, each expanded to the right; None where all are."""
    combined = None
    for mask in masks:
        if mask is not None:
            mask = expand_right(ops.cast(mask, "bool"), rank, "mask")
            combined = mask if combined is None else ops.logical_and(combined, mask)
    return combined


def check_logits(y_pred, owner):
    """Raise for probabilities that Keras's softmax or sigmoid made of logits; JAX's tensors do not tell."""
    if _keras.is_activated(y_pred):
        raise ValueError(
            f"{owner} takes logits. Received the output of a softmax or sigmoid, on which adjustment means nothing. "
            "Remedy: no activation on the last layer; a model that is trained already is adjusted by `kla.adjust`, "
            "which finds the logits behind its activation."
        )


def to_tensor(values):
    """`values` as a tensor of their own dtype: ids stay exact whatever `floatx` is."""
    return values if ops.is_tensor(values) else ops.convert_to_tensor(values)


def at_least_float32(tensor):
    """`tensor` in float32, or as it is where it is float64: half precision never enters a log-sum-exp."""
    # Not by `result_type`, which is float32 for float64 on torch.
    is_double = keras.backend.standardize_dtype(tensor.dtype) == "float64"
    return tensor if is_double else ops.cast(tensor, "float32")


def zero_masked(y_pred, mask):
    """Zeros in place of masked logits, so that NaN or infinite padding has no gradient either."""
    mask = expand_right(ops.cast(mask, "bool"), len(y_pred.shape), "mask")
    return ops.where(mask, y_pred, ops.zeros_like(y_pred))
