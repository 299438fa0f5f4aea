"""A loop over chunks of classes, on each backend. It keeps one chunk in memory at a time.

`keras.ops` has no such loop. With its `fori_loop` TensorFlow runs ten chunks at once. Its `scan` needs pieces of one
size, but the last chunk may be shorter.
"""

import typing

import keras
from keras import ops


class Whole(typing.NamedTuple):
    """The tensor that the pieces of all chunks make. It has this shape. Its axis `axis` has an entry for each class."""

    shape: tuple
    axis: int
    dtype: str


def fold(step, state, num_classes, chunk_size, wholes=()):
    """The state after all chunks, and the tensors made of their pieces.

    Args:
        step: `(state, start, size)` → `(state, pieces)`, for the `size` classes from `start`. `size` is a number, and
            `start` may be a tensor. There is one piece for each of `wholes`.
        state: a tuple of tensors. Their shapes and dtypes stay the same.
        num_classes: `L`.
        chunk_size: classes in a chunk. The last chunk may have fewer.
        wholes: `Whole` for each piece.
    """
    if chunk_size >= num_classes:
        return step(state, 0, num_classes)
    loop = {"jax": _with_jax, "torch": _with_torch, "tensorflow": _with_tensorflow}[keras.backend.backend()]
    return loop(step, state, chunk_size, num_classes, wholes)


def _with_jax(step, state, size, num_classes, wholes):
    import jax
    from jax import numpy as jnp

    full, rest = divmod(num_classes, size)

    def write(carried, start, size):
        state, buffers = carried
        state, pieces = step(state, start, size)
        return state, tuple(
            jax.lax.dynamic_update_slice_in_dim(buffer, piece, start, whole.axis)
            for buffer, piece, whole in zip(buffers, pieces, wholes, strict=True)
        )

    buffers = tuple(jnp.zeros(whole.shape, whole.dtype) for whole in wholes)
    carried = jax.lax.fori_loop(0, full, lambda i, carried: write(carried, i * size, size), (state, buffers))
    return write(carried, full * size, rest) if rest else carried


def _with_torch(step, state, size, num_classes, wholes):
    buffers = tuple(ops.empty(whole.shape, dtype=whole.dtype) for whole in wholes)
    for start in range(0, num_classes, size):
        length = min(size, num_classes - start)
        state, pieces = step(state, start, length)
        for buffer, piece, whole in zip(buffers, pieces, wholes, strict=True):
            buffer.narrow(whole.axis, start, length).copy_(piece)
    return state, buffers


def _with_tensorflow(step, state, size, num_classes, wholes):
    import tensorflow as tf

    full, rest = divmod(num_classes, size)
    arrays = tuple(tf.TensorArray(whole.dtype, size=full, element_shape=_with_classes(whole, size)) for whole in wholes)

    def body(index, state, arrays):
        state, pieces = step(state, index * size, size)
        return index + 1, state, tuple(array.write(index, piece) for array, piece in zip(arrays, pieces, strict=True))

    # One chunk at a time: chunks that run at once are in memory at once.
    _, state, arrays = tf.while_loop(
        lambda index, *_: index < full, body, (tf.constant(0), state, arrays), parallel_iterations=1
    )
    results = tuple(_joined(array.stack(), whole.axis) for array, whole in zip(arrays, wholes, strict=True))
    if rest:
        state, pieces = step(state, full * size, rest)
        results = tuple(
            tf.concat([result, piece], whole.axis) for result, piece, whole in zip(results, pieces, wholes, strict=True)
        )
    return state, results


def _joined(stacked, axis):
    """Pieces `[chunks, ..., size, ...]` as one tensor `[..., chunks · size, ...]`, with at most one copy."""
    import tensorflow as tf

    if axis == 1:
        stacked = tf.transpose(stacked, [1, 0, 2])
    shape = stacked.shape.as_list()
    return tf.reshape(stacked, [*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]])


def _with_classes(whole, size):
    return [*whole.shape[: whole.axis], size, *whole.shape[whole.axis + 1 :]]
