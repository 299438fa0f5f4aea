"""Masks, weights and values of the same positions: brought to one rank, left out, summed by class."""

import functools

from keras import ops

from keras_logit_adjust._labels.tensors import to_tensor

UNKNOWN = "Give it a static shape with `tf.ensure_shape` or `tensor.set_shape(...)`."
_TWO_FORMS = "Of NumPy labels one call had [N] and another [N, 1]: keep one form of labels, or compile again."


def static_shape(tensor, name):
    """The static shape of `tensor` as a tuple; unknown rank raises, an unknown dimension is None."""
    shape = tensor.shape
    if getattr(shape, "rank", 0) is None:  # tf.TensorShape(None)
        raise ValueError(f"`{name}` must have a known rank. Received a tensor of unknown rank. {UNKNOWN} {_TWO_FORMS}")
    return tuple(shape)


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


def align_weight(sample_weight, values):
    """`sample_weight` in the dtype of `values`, expanded to the right until it multiplies them."""
    shape = static_shape(values, "y_true")
    weight = expand_right(
        ops.cast(to_tensor(sample_weight, "sample_weight"), values.dtype), len(shape), "sample_weight"
    )
    sizes = static_shape(weight, "sample_weight")
    if any(None not in (a, b) and a != b and a != 1 for a, b in zip(sizes, shape, strict=False)):
        raise ValueError(
            f"`sample_weight` must have the leading shape of the labels, {shape}. Received shape {sizes} (expanded to "
            "the right)."
        )
    return weight


def combine_masks(rank, *masks):
    """The conjunction of the masks that are not None, each expanded to the right; None where all are."""
    masks = [expand_right(ops.cast(mask, "bool"), rank, "mask") for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def zero_masked(values, mask):
    """Zeros in place of masked values, NaN and infinite ones too: these have no gradient either."""
    if mask is None:
        return values
    # By selection, not by a product: a NaN under the mask stays there.
    mask = expand_right(ops.cast(mask, "bool"), len(values.shape), "mask")
    return ops.where(mask, values, ops.zeros_like(values))


def sum_by_class(values, ids, num_classes):
    """The sum of the values `[...]` of each class, `[L]`."""
    ids = ops.cast(ops.reshape(ids, (-1,)), "int32")
    return ops.segment_sum(ops.reshape(values, (-1,)), ids, num_segments=num_classes)
