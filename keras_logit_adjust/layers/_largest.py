"""Find the classes with the largest scores of a linear head, chunk by chunk."""

import numpy as np
from keras import ops

from keras_logit_adjust.losses import _chunks, _shards, linear


def largest(head, k, *, num_classes, chunk_size, spread):
    """Ids, int32 `[..., k]`, and float32 scores `[..., k]` of a `linear.Head`, the largest first.

    Rows of the kernel from `num_classes` on do not belong to classes. If `spread` puts the classes on several devices,
    each device first finds the best `k` of its own classes.
    """
    features, kernel, bias, axis = head
    wide = ops.cast(ops.reshape(features, (-1, features.shape[-1])), "float32")
    rows = kernel.shape[axis]
    part = rows // (1 if spread is None else spread.number)

    def of_part(first, shared, parts):
        (wide,), (kernel, *bias) = shared, parts
        bias = bias[0] if bias else None

        def step(state, start, size):
            scores = linear.scores(wide, kernel, bias, axis=axis, start=start, size=size)[1]
            if rows > num_classes:
                scores = ops.where(first + start + ops.arange(size) < num_classes, scores, -np.inf)
            best, places = ops.top_k(scores, min(k, size))
            return _merged(k, *zip(state, (best, places + (first + start)), strict=True)), ()

        none = ops.zeros_like(wide[:, :1], dtype="int32") + ops.zeros((k,), dtype="int32")
        return _chunks.fold(step, (ops.cast(none, "float32") - np.inf, none), part, min(chunk_size, part))[0]

    parts, axes = ((kernel,), (axis,)) if bias is None else ((kernel, bias), (axis, 0))
    scores, ids = _shards.on_each(spread, of_part, (wide,), parts, axes=axes)
    if spread is not None:
        scores, ids = _merged(k, tuple(scores), tuple(ids))
    shape = (*ops.shape(features)[:-1], k)
    return ops.cast(ops.reshape(ids, shape), "int32"), ops.reshape(scores, shape)  # torch counts places in int64


def _merged(k, scores, ids):
    """The `k` largest of several `scores [N, any]`, and their ids. On ties the first wins, on torch any."""
    best, places = ops.top_k(ops.concatenate(scores, axis=-1), k)
    return best, ops.take_along_axis(ops.concatenate(ids, axis=-1), places, axis=-1)
