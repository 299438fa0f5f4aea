"""Make batches from the row numbers of a sampler, for `tf.data` and for Keras on any backend."""

import collections.abc
import inspect

import keras
import numpy as np

from keras_logit_adjust import _arrays, _checks

_BLOCK_BYTES = 8 * 2**20  # one call of Python gathers so many bytes: many small batches, or one large batch
_MOST_STEPS_IN_BLOCK = 64
_STEP_BITS = 40
MOST_STEPS = 1 << _STEP_BITS  # a trillion


def tf_dataset(sampler, data, *, map_fn, num_parallel_calls, input_context):
    """The result of `LongTailSampler.dataset`."""
    import tensorflow as tf

    pieces = 1
    if input_context is not None:
        sampler = sampler.shard(input_context.num_input_pipelines, input_context.input_pipeline_id)
        pieces = input_context.num_replicas_in_sync // input_context.num_input_pipelines
    source = _Source(sampler, data, map_fn=map_fn, pieces=pieces)
    shapes, dtypes = source.signature()

    def gather(position):
        # Not stateful: the result depends on `position` alone. So an iterator can be saved.
        block = tf.numpy_function(source.gather, [position], dtypes, stateful=False)
        for leaf, shape in zip(block, shapes, strict=True):
            leaf.set_shape(shape)
        return tuple(block)

    options = tf.data.Options()
    # A checkpoint saves the position alone, and no batches that were prefetched.
    options.experimental_symbolic_checkpoint = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # Prefetch a fixed number: `AUTOTUNE` would prefetch batches until the memory is full.
    blocks = tf.data.Dataset.counter(source.first_position, source.steps).map(gather).prefetch(1)
    if map_fn is None:
        dataset = blocks.flat_map(lambda *leaves: tf.data.Dataset.from_tensor_slices(source.arrange(leaves)))
    else:
        calls = tf.data.AUTOTUNE if num_parallel_calls is None else num_parallel_calls
        dataset = (
            blocks.flat_map(lambda *leaves: tf.data.Dataset.from_tensor_slices(leaves))
            .map(lambda *leaves: source.arrange(leaves), num_parallel_calls=calls, deterministic=True)
            .prefetch(2)
        )
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return dataset.apply(endless).with_options(options)


class PyBatches(keras.utils.PyDataset):
    """The result of `LongTailSampler.py_dataset`."""

    def __init__(self, sampler, data, *, map_fn=None, **kwargs):
        super().__init__(**kwargs)
        if isinstance(distribution := keras.distribution.distribution(), keras.distribution.DataParallel):
            # Raise now if batches do not divide by the devices. JAX would raise in the middle of `fit`.
            sampler.shard(distribution.device_mesh.devices.size, 0)
        self.source = _Source(sampler, data, map_fn=map_fn)

    @property
    def num_batches(self):
        return None  # endless: `on_epoch_end` is called more often than once an epoch, so epochs cannot be counted

    def __getitem__(self, index):
        if index < 0:
            raise IndexError(f"Batches of an endless dataset count from 0. Received: {index}")
        return self.source.arrange([leaf[0] for leaf in self.source.leaves(self.source.sampler.start_step + index, 1)])


class Indices(collections.abc.Iterator):
    """The result of `LongTailSampler.indices`."""

    def __init__(self, sampler):
        self.sampler, self.step = sampler, sampler.start_step

    def __next__(self):
        rows = self.sampler.rows(self.step)
        self.step += 1
        return rows

    def state(self):
        """The state of the sampler at the next batch."""
        return self.sampler.state(self.step)


class _Source:
    """Gathers consecutive batches in blocks. A position identifies a block for `tf.data`.

    The low bits of a position are the step of the first batch. The high bits are a mark of the sampler's settings. A
    saved iterator contains the position alone. If it is restored with other labels or settings, the mark differs.

    Args:
        sampler: a `LongTailSampler`, possibly a shard.
        data: nested arrays `[N, …]`.
        map_fn: batch → batch, or None.
        pieces: the number of equal parts of each batch, one for each replica of this worker.
    """

    def __init__(self, sampler, data, *, map_fn, pieces=1):
        self.sampler, self.map_fn, self.pieces = sampler, map_fn, pieces
        if map_fn is not None and not callable(map_fn):
            raise _checks.ArgumentError(
                "map_fn", f"`map_fn` must be a function of a batch. Received: map_fn={map_fn!r}"
            )
        self.data = _check_data(data, sampler.num_examples)
        self.rows_in_piece = sampler.shard(pieces, 0).rows_in_batch
        self.wants_seed = map_fn is not None and _takes_seed(map_fn)
        row_bytes = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape[1:])) for leaf in keras.tree.flatten(self.data))
        self.steps = int(np.clip(_BLOCK_BYTES // max(1, row_bytes * sampler.rows_in_batch), 1, _MOST_STEPS_IN_BLOCK))
        self.mark = int(sampler.fingerprint[:5], 16) ^ self.steps  # a number of 20 bits
        self.first_position = (self.mark << _STEP_BITS) + sampler.start_step

    def signature(self):
        """Shapes and dtypes of the leaves of a block. No block is drawn."""
        pieces, leaves = self.steps * self.pieces, keras.tree.flatten(self.data)
        parts = [((pieces, self.rows_in_piece, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        return zip(*parts, *[((pieces, 2), np.dtype("int32"))] * self.wants_seed, strict=True)

    def gather(self, position):
        """The leaves of the block at `position`."""
        mark, step = divmod(int(position), MOST_STEPS)
        if mark != self.mark:
            raise ValueError(
                "This iterator was saved over other labels, settings, shapes or workers than it is restored over. Make "
                "the sampler and its dataset as they were then, or begin at a step: `LongTailSampler.from_state`."
            )
        return self.leaves(step, self.steps)

    def leaves(self, step, steps):
        """The leaves, `[steps · pieces, rows, …]`, of `steps` batches. The last leaf may be seeds for `map_fn`."""
        rows = self.sampler.block(step, steps).reshape(steps * self.pieces, -1)
        leaves = [leaf.take(rows, axis=0) for leaf in keras.tree.flatten(self.data)]
        if self.wants_seed:
            leaves.append(self.sampler.map_seeds(step, steps, self.pieces))
        return leaves

    def arrange(self, leaves):
        """One batch in the structure of the data, after `map_fn`."""
        leaves, seed = (leaves[:-1], {"seed": leaves[-1]}) if self.wants_seed else (leaves, {})
        batch = keras.tree.pack_sequence_as(self.data, leaves)
        if self.map_fn is None:
            return batch
        return self.map_fn(*batch, **seed) if isinstance(batch, tuple) else self.map_fn(batch, **seed)


def _takes_seed(map_fn):
    try:
        return "seed" in inspect.signature(map_fn).parameters
    except ValueError:  # a builtin has no signature
        return False


def _check_data(data, num_examples):
    """`data` with NumPy arrays as leaves, each as long as the labels. A list is one array, as in `tf.data`."""
    data = keras.tree.traverse(lambda part: _arrays.to_numpy(part, "data") if isinstance(part, list) else None, data)
    arrays = keras.tree.map_structure(lambda leaf: _arrays.to_numpy(leaf, "data"), data)
    for leaf in keras.tree.flatten(arrays):
        if leaf.shape[:1] != (num_examples,):
            raise ValueError(
                f"Every array of the data must have a row for each of the {num_examples} labels that the sampler was "
                f"given. Received an array of shape {leaf.shape} and dtype {leaf.dtype}."
            )
    return arrays
