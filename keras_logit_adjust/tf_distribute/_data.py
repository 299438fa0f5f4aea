"""From a dataset to the parts of its batches that every replica gets."""

import keras
import numpy as np


def check_dataset(dataset, name):
    """Raise for anything that is no `tf.data.Dataset` of batches."""
    import tensorflow as tf

    if isinstance(dataset, tf.distribute.DistributedDataset):
        return
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"`{name}` must be a `tf.data.Dataset` of batches, as "
            "`tf.data.Dataset.from_tensor_slices((x, y)).batch(64)`; with `sampler`, a function of it that returns "
            f"one. Received: {type(dataset).__name__}"
        )
    if dataset.cardinality() == 0:
        raise ValueError(f"`{name}` must give at least one batch. Received an empty dataset.")


def first_batch(dataset, strategy, name):
    """A batch, for its shapes; those of each replica where the dataset is distributed already."""
    import tensorflow as tf

    if isinstance(dataset, tf.distribute.DistributedDataset):
        return keras.tree.map_structure(_local_spec, dataset.element_spec)
    batch = next(iter(dataset), None)
    if batch is None:
        raise ValueError(f"`{name}` must give at least one batch. Received an empty dataset.")
    check_first(batch, strategy, name)
    return batch


def check_first(batch, strategy, name):
    """Raise where the first batch leaves a replica without examples."""
    shapes = [leaf.shape for leaf in keras.tree.flatten(batch)]
    if any(len(shape) == 0 for shape in shapes):
        raise ValueError(f"`{name}` must give batches. Received single examples: call `.batch(…)` on it.")
    replicas = strategy.num_replicas_in_sync
    if shapes[0][0] < replicas:
        raise ValueError(
            f"Each of the {replicas} replicas needs an example of a batch. Received a first batch of {shapes[0][0]} in "
            f"`{name}`: make the batches larger, or use fewer devices."
        )


def _local_spec(spec):
    return getattr(spec, "_value_specs", (spec,))[0]  # of a `PerReplicaSpec`, which every part of an element has


def has_full_batches(dataset, strategy):
    """Whether the shapes alone say that every replica always gets the same number of examples."""
    import tensorflow as tf

    rows = keras.tree.flatten(keras.tree.map_structure(_local_spec, dataset.element_spec))[0].shape[0]
    is_cut = isinstance(dataset, tf.distribute.DistributedDataset)
    return rows is not None and (is_cut or rows % strategy.num_replicas_in_sync == 0)


def distribute(dataset, strategy):
    """The dataset, each of its batches cut over the replicas: together they see what one device would."""
    import tensorflow as tf

    if isinstance(dataset, tf.distribute.DistributedDataset):
        return dataset
    policies = tf.data.experimental.AutoShardPolicy
    options = tf.data.Options()
    if dataset.options().experimental_distribute.auto_shard_policy == policies.AUTO:
        # AUTO may give whole files to each worker, and so batches that one device would not see.
        options.experimental_distribute.auto_shard_policy = policies.DATA
    return strategy.experimental_distribute_dataset(dataset.with_options(options))


def weigh_classes(dataset, class_weight):
    """`(x, y)` as `(x, y, class_weight[y])`, with Keras's `{class: weight}`, or one weight for each class."""
    import tensorflow as tf

    if isinstance(class_weight, dict):
        table = np.ones(max(class_weight) + 1)
        table[list(class_weight)] = list(class_weight.values())
    else:
        table = np.asarray(class_weight)
    table = tf.constant([*table, 1.0], "float32")  # the last is for any other class

    def weigh(*batch):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if weight is not None:
            raise ValueError("`class_weight` and sample weights in the dataset exclude each other: multiply them.")
        is_rows = y.shape.rank > 1 and y.shape[-1] != 1
        ids = tf.cast(tf.argmax(y, axis=-1) if is_rows else tf.reshape(y, [-1]), tf.int64)
        return x, y, tf.gather(table, tf.minimum(ids, table.shape[0] - 1))

    return dataset.map(weigh)
