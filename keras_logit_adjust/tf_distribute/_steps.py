"""One step of training, evaluation or prediction over all replicas."""

import contextlib

import keras
import numpy as np

from keras_logit_adjust.tf_distribute import _cluster, _keras

_EMPTY = "a replica has no examples"


def mean_over_replicas(model, feed, step, *, is_training=False):
    """A step from an iterator to (logs, labels), None at its end: `step` on each replica, the mean of what it returns.

    In training so are the moving statistics of batch normalization: Keras lets the replicas' copies drift apart,
    evaluates each with its own, and saves the first.

    The mean is taken on the replicas, so that all workers see the same logs and their callbacks decide alike. (Keras
    reduces outside of them, which several workers cannot.)

    Args:
        model: built and compiled.
        feed: the `Feed` of the iterators.
        step: `model.train_step` or `model.test_step`.
        is_training: which of them.
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
        # A training step of a user's own may give integers too, and Python's numbers.
        # What a worker reads of a variable is on no device of its own, which an all-reduce needs: hence `identity`.
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
        # Gathered device by device over the workers; the batch was cut worker by worker.
        order = np.argsort(replica.numpy(), kind="stable")
        return keras.tree.map_structure(lambda part: part.numpy()[order], outputs)

    return in_order


def _needing_examples(model, feed, *, is_training=False):
    """The layers of a model that a replica without examples would break, where a feed may leave one."""
    if feed.strategy.num_replicas_in_sync == 1 or feed.is_full:
        return []
    on_processors = any("CPU" in device for device in feed.strategy.extended.worker_devices)
    layers = _keras.convolutions(model) if on_processors else []
    return layers + (_keras.batch_norms(model) if is_training else [])


def _refusing_empty(data, needing):
    """Stop all replicas where one has no examples and layers need some, before anything is computed there."""
    if not needing:
        return contextlib.nullcontext()
    import tensorflow as tf

    rows = tf.shape(keras.tree.flatten(data)[0])[0]
    empty = tf.distribute.get_replica_context().all_reduce("SUM", tf.cast(tf.equal(rows, 0), tf.int32))
    return tf.control_dependencies([tf.debugging.assert_equal(empty, 0, message=_EMPTY)])


def _compiled(model, step, needing):
    """`step` as a graph, or as it is where the model runs eagerly; None where the data has ended.

    Where a replica has no examples, the error names the layers that need some.
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
                "examples than there are replicas: statistics of batch normalization would be NaN, and TensorFlow's "
                "convolutions on processors fail. Use batches of another size, leave the last one out "
                "(`Dataset.batch(…, drop_remainder=True)`), or train on the full batches of a "
                "`kla.data.LongTailSampler`; `BatchNormalization(synchronized=True)` does without."
            ) from error

    return naming
