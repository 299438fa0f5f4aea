"""Facts about the other replicas of `tf.distribute`, and sums over all replicas."""

import keras

from keras_logit_adjust import _keras

_UNUSUAL = {
    "jit_compile": "Received jit_compile=True: compile the model with `jit_compile=False`",
    "steps_per_execution": "Received steps_per_execution above 1: compile the model with `steps_per_execution=1`",
}


def replica_context():
    """The replica context of a `tf.distribute` strategy with several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def in_compiled_loss():
    """Whether the loss of a compiled Keras model is computed now, on one of several replicas."""
    return replica_context() is not None and _keras.is_in_compiled_loss()


def sum_over_replicas(tensors):
    """Each tensor of a list, summed over all replicas in one all-reduce."""
    replica = replica_context()
    return tensors if replica is None else replica.all_reduce("SUM", tensors)


def refuse_unusual_steps():
    """Raise while Keras traces a step that TensorFlow cannot run on the replicas of one machine."""
    replica = replica_context()
    if replica is None:
        return
    import tensorflow as tf

    if tf.executing_eagerly() or not isinstance(replica.strategy, tf.distribute.MirroredStrategy):
        return
    unusual = _keras.unusual_step(tf.compat.v1.get_default_graph())
    if unusual:
        raise ValueError(
            "Under `MirroredStrategy` Keras's `fit` and `evaluate` must take one step at a time, and none compiled by "
            "XLA: their loop over several steps fails, and XLA cannot reach the variables of several devices. "
            f"{_UNUSUAL[unusual]}, or train it with `kla.tf_distribute.fit`, which runs steps one by one without XLA."
        )
