"""One step of training, evaluation or prediction over all replicas."""

import contextlib

import keras
import numpy as np

from keras_logit_adjust.tf_distribute import _cluster, _keras

_EMPTY = "a replica has no examples"


def mean_over_replicas(model, feed, step, *, is_training=False):
    """A step from an iterator to (logs, labels), None at its end: the mean of the results of `step` on each replica.

    In training, the moving statistics of batch normalization become their mean too. Keras lets the copies of the
    replicas differ, evaluates each replica with its own copy, and saves the first copy.

    The mean is computed on the replicas. So all workers see the same logs, and their callbacks decide the same. (Keras
    reduces outside the replicas, which is not possible with several workers.)

    Args:
        model: built and compiled.
        feed: the `Feed` of the iterators.
        step: `model.train_step` or `model.test_step`.
        is_training: whether it is `model.train_step`.
    """
    import tensorflow as tf

    strategy, needing = feed.strategy, _needing_examples(model, feed, is_training=is_training)
    one_replica = strategy.num_replicas_in_sync == 1
    if one_replica and model.jit_compile:
        step = tf.function(step, jit_compile=True, autograph=False)
    statistics = [
        variable
        for norm in (_keras.batch_norms(model) if is_training and not one_replica else [])
        for variable in (norm.moving_mean, norm.moving_variance)
    ]

    def on_replica(data):
        with _refusing_empty(data, needing):
            logs = step(data)
        values = [*statistics, *keras.tree.flatten(logs)]
        if one_replica or not values:
            return logs
        # A user's own training step may give integers and Python numbers too. A value that a worker reads from a
        # variable is on none of its devices, but an all-reduce needs one: hence `identity`.
        local = [tf.identity(tf.cast(value, "float32")) for value in values]
        means = tf.distribute.get_replica_context().all_reduce("MEAN", local)
        for variable, mean in zip(statistics, means, strict=False):
            variable.assign(mean)
        return keras.tree.pack_sequence_as(logs, means[len(statistics) :])

    def whole_step(iterator):
        data = iterator.get_next()
        logs = strategy.run(on_replica, args=(data,))
        first = keras.tree.map_structure(lambda log: strategy.experimental_local_results(log)[0], logs)
        return first, keras.utils.unpack_x_y_sample_weight(data)[1]

    return _compiled(model, whole_step, needing)


def rows_in_order(model, feed):
    """A step from an iterator to the predictions of the whole batch, in its order, on every worker; None at its end."""
    import tensorflow as tf

    strategy, needing = feed.strategy, _needing_examples(model, feed)

    def on_replica(data):
        with _refusing_empty(data, needing):
            outputs = model.predict_step(data)
        rows = tf.shape(keras.tree.flatten(outputs)[0])[0]
        return outputs, tf.fill([rows], tf.distribute.get_replica_context().replica_id_in_sync_group)

    def whole_step(iterator):
        parts = strategy.run(on_replica, args=(iterator.get_next(),))
        return keras.tree.map_structure(lambda part: _cluster.gather(strategy, part), parts)

    whole_step = _compiled(model, whole_step, needing)

    def in_order(iterator):
        if (found := whole_step(iterator)) is None:
            return None
        outputs, replica = found
        # Gathering goes device by device over the workers, but the batch was divided worker by worker.
        order = np.argsort(replica.numpy(), kind="stable")
        return keras.tree.map_structure(lambda part: part.numpy()[order], outputs)

    return in_order


def _needing_examples(model, feed, *, is_training=False):
    """The layers of a model that fail on a replica without examples, if a feed may leave a replica without examples."""
    if feed.strategy.num_replicas_in_sync == 1 or feed.is_full:
        return []
    on_processors = any("CPU" in device for device in feed.strategy.extended.worker_devices)
    layers = _keras.convolutions(model) if on_processors else []
    return layers + (_keras.batch_norms(model) if is_training else [])


def _refusing_empty(data, needing):
    """Stop all replicas before any computation if one has no examples and layers need some."""
    if not needing:
        return contextlib.nullcontext()
    import tensorflow as tf

    rows = tf.shape(keras.tree.flatten(data)[0])[0]
    empty = tf.distribute.get_replica_context().all_reduce("SUM", tf.cast(tf.equal(rows, 0), tf.int32))
    return tf.control_dependencies([tf.debugging.assert_equal(empty, 0, message=_EMPTY)])


def _compiled(model, step, needing):
    """`step` as a graph, or as it is if the model runs eagerly; it returns None when the data has ended.

    If a replica has no examples, the error names the layers that need some.
    """
    import tensorflow as tf

    step = step if model.run_eagerly else tf.function(step, reduce_retracing=True, autograph=False)

    def naming(iterator):
        try:
            return step(iterator)
        except (tf.errors.OutOfRangeError, StopIteration):
            return None
        except tf.errors.InvalidArgumentError as error:
            if _EMPTY not in str(error):
                raise
            names = [layer.name for layer in needing]
            raise ValueError(
                f"Layers {names[:3]}{'…' * (len(names) > 3)} need an example on every replica, and a batch has fewer "
                "examples than there are replicas: batch normalization would give NaN, and TensorFlow's convolutions "
                "on a CPU fail. Use batches of another size, leave out the last batch "
                "(`Dataset.batch(…, drop_remainder=True)`), or train on the full batches of a "
                "`kla.data.LongTailSampler`; `BatchNormalization(synchronized=True)` needs no example on each replica."
            ) from error

    return naming
