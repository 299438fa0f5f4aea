"""Masks and weights of positions: bring them to one rank, apply masks, sum values by class."""

import functools

from keras import ops

from keras_logit_adjust._labels.tensors import to_tensor

UNKNOWN = "Give it a static shape with `tf.ensure_shape` or `tensor.set_shape(...)`."
_PART = 2**22  # positions of one partial sum
_TWO_FORMS = "Of NumPy labels one call had [N] and another [N, 1]: keep one form of labels, or compile again."


def static_shape(tensor, name):
    """The static shape of `tensor` as a tuple. An unknown rank raises. An unknown dimension is None."""
    shape = tensor.shape
    if getattr(shape, "rank", 0) is None:  # the shape is tf.TensorShape(None)
        raise ValueError(f"`{name}` must have a known rank. Received a tensor of unknown rank. {UNKNOWN} {_TWO_FORMS}")
    return tuple(shape)


def expand_right(tensor, rank, name):
    """`tensor` with `rank` axes: axes of size 1 are appended (or dropped) at the right."""
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
    """`sample_weight` in the dtype of `values`, expanded to the right to as many axes."""
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
    """The logical and of the masks that are not None, each expanded to the right. None if all masks are None."""
    masks = [expand_right(ops.cast(mask, "bool"), rank, "mask") for mask in masks if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def zero_masked(values, mask):
    """`values` with zeros where the mask is false, also in place of NaN. The gradient is 0 there too."""
    if mask is None:
        return values
    # `where`, because a product of 0 and NaN is NaN.
    mask = expand_right(ops.cast(mask, "bool"), len(values.shape), "mask")
    return ops.where(mask, values, ops.zeros_like(values))


def sum_rows(values):
    """The sum of the rows `[N, L]`, in partial sums as in `sum_by_class`."""
    size = ops.shape(values)[0]
    if isinstance(size, int) and size <= _PART:
        return ops.sum(values, axis=0)
    part = ops.arange(size, dtype="int32") // _PART
    return ops.sum(ops.segment_sum(values, part, num_segments=size // _PART + 1), axis=0)


def sum_by_class(values, ids, num_classes):
    """The sum of the values `[...]` of each class, `[L]`.

    Values are added one after the other. A float32 counts by ones to 2²⁴ and no further, so there are partial sums.
    """
    ids, values = ops.cast(ops.reshape(ids, (-1,)), "int32"), ops.reshape(values, (-1,))
    size = ops.shape(ids)[0]
    if isinstance(size, int) and size <= _PART:
        return ops.segment_sum(values, ids, num_segments=num_classes)
    parts = size // _PART + 1
    ids = ids + num_classes * (ops.arange(size, dtype="int32") // _PART)
    sums = ops.segment_sum(values, ids, num_segments=num_classes * parts)
    return ops.sum(ops.reshape(sums, (-1, num_classes)), axis=0)
