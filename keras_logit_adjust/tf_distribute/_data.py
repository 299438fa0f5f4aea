"""The way from a dataset to the parts of its batches that the replicas get."""

import math
import zlib

import keras
import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.tf_distribute import _keras


def check_dataset(dataset, name):
    """Raise if `dataset` is not a `tf.data.Dataset` of batches."""
    import tensorflow as tf

    if not isinstance(dataset, tf.data.Dataset | tf.distribute.DistributedDataset):
        raise ValueError(
            f"`{name}` must be a `tf.data.Dataset` of batches, as "
            "`tf.data.Dataset.from_tensor_slices((x, y)).batch(64)`; with `sampler`, a function of it that returns "
            f"one. Received: {type(dataset).__name__}"
        )


def _is_cut(dataset):
    """Whether a dataset is already divided into the parts of each replica."""
    import tensorflow as tf

    return isinstance(dataset, tf.distribute.DistributedDataset)


def first_batch(dataset, name):
    """A batch, for its shapes; the shapes for one replica if the dataset is distributed already."""
    if _is_cut(dataset):
        return keras.tree.map_structure(_keras.local_spec, dataset.element_spec)
    batch = next(iter(dataset), None)
    if batch is None:
        raise ValueError(f"`{name}` must give at least one batch. Received an empty dataset.")
    if any(len(leaf.shape) == 0 for leaf in _leaves(batch)):
        raise ValueError(f"`{name}` must give batches. Received single examples: call `.batch(…)` on it.")
    return batch


def _leaves(batch):
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def count_batches(dataset):
    """The number of batches: None if it is not known, infinity if they never end."""
    import tensorflow as tf

    if _is_cut(dataset):
        return None
    number = int(dataset.cardinality())
    return {tf.data.INFINITE_CARDINALITY: math.inf, tf.data.UNKNOWN_CARDINALITY: None}.get(number, number)


def whole_rows(dataset, batch, strategy):
    """The number of examples in the first batch of all replicas together; None if it is not known."""
    rows = _leaves(batch)[0].shape[0]
    return rows * strategy.num_replicas_in_sync if _is_cut(dataset) and rows is not None else rows


def hash_of_labels(dataset, batch):
    """A number that is equal on all workers if they read the same class ids, as they must when they divide batches."""
    import tensorflow as tf

    policies = tf.data.experimental.AutoShardPolicy
    if _is_cut(dataset) or _shard_policy(dataset) not in (policies.AUTO, policies.DATA):
        return 0
    labels = keras.tree.flatten(keras.utils.unpack_x_y_sample_weight(batch)[1])
    ids = [leaf.numpy() for leaf in labels if isinstance(leaf, tf.Tensor) and leaf.dtype.is_integer]
    return zlib.crc32(b"".join(array.tobytes() for array in ids)) >> 1


def _shard_policy(dataset):
    return dataset.options().experimental_distribute.auto_shard_policy


def has_full_batches(dataset, strategy):
    """Whether the shapes alone guarantee that every replica always gets the same number of examples."""
    rows = keras.tree.flatten(keras.tree.map_structure(_keras.local_spec, dataset.element_spec))[0].shape[0]
    return rows is not None and (_is_cut(dataset) or rows % strategy.num_replicas_in_sync == 0)


def distribute(dataset, strategy):
    """The dataset, with each batch divided over the replicas: together they see the batch of one device."""
    import tensorflow as tf

    if _is_cut(dataset):
        return dataset
    options = tf.data.Options()
    if _shard_policy(dataset) == tf.data.experimental.AutoShardPolicy.AUTO:
        # AUTO may give each worker whole files. Its batches would then differ from the batches of one device.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return strategy.experimental_distribute_dataset(dataset.with_options(options))


def weigh_classes(dataset, class_weight, rank=None):
    """`(x, y)` as `(x, y, class_weight[y])`, with Keras's `{class: weight}`, or one weight for each class.

    Labels with as many axes as the model's output, its `rank`, are one-hot rows; with one axis less they are ids. If it
    is not known, labels of more than one axis are rows.
    """
    import tensorflow as tf

    if _is_cut(dataset):
        raise ValueError("`class_weight` needs a `tf.data.Dataset`: weigh the examples of a distributed one yourself.")
    weights = class_weight
    if isinstance(class_weight, dict):
        most = _checks.MOST_CLASSES - 1
        ids = [_checks.check_integer(class_id, "class_weight", minimum=0, maximum=most) for class_id in class_weight]
        weights = np.ones(max(ids, default=-1) + 1)  # 1 for classes without a given weight
        weights[ids] = list(class_weight.values())
    weights = _checks.as_vector(weights, "class_weight")
    table = tf.constant([*weights, 1.0], "float32")  # the last weight is for any other class

    def weigh(*batch):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None or keras.tree.is_nested(y):
            raise ValueError(f"`class_weight` needs batches (x, y) with one array of labels. Received labels: {y}")
        if weight is not None:
            raise ValueError("`class_weight` and sample weights in the dataset exclude each other: multiply them.")
        is_column = y.shape.rank > 1 and y.shape[-1] == 1
        is_rows = y.shape.rank > 1 and not is_column and rank in (None, y.shape.rank)
        ids = tf.argmax(y, axis=-1) if is_rows else tf.cast(tf.squeeze(y, axis=-1) if is_column else y, tf.int64)
        other = table.shape[0] - 1
        return x, y, tf.gather(table, tf.where((ids >= 0) & (ids < other), ids, other))

    return dataset.map(tf.autograph.experimental.do_not_convert(weigh))
