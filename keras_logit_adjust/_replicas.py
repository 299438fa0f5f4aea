"""What one replica of `tf.distribute` has to know of the others."""

import itertools

import keras
import numpy as np


def replica_context():
    """The replica context of a `tf.distribute` strategy with several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def in_compiled_loss():
    """Whether the loss of a compiled Keras model is computed now, on one of several replicas."""
    if replica_context() is None:
        return False
    import tensorflow as tf

    # Keras computes it in a scope of this name; a loop of a user's own, which wants the values, does not.
    return any(part.startswith("compile_loss") for part in tf.get_current_name_scope().split("/"))


def sum_over_replicas(tensors):
    """Each of a list of tensors, summed over all replicas: one all-reduce."""
    replica = replica_context()
    return tensors if replica is None else replica.all_reduce("SUM", tensors)


def checked(y_pred):
    """`y_pred`, or an error where Keras's own step on several replicas fails, or gives NaN, later."""
    replica = replica_context()
    if replica is None or keras.backend.is_keras_tensor(y_pred):
        return y_pred
    import tensorflow as tf

    if tf.executing_eagerly():
        return y_pred
    if isinstance(replica.strategy, tf.distribute.MirroredStrategy):
        _refuse_compiled_steps(tf.compat.v1.get_default_graph())
    if y_pred.shape[0] is not None or not _needs_examples(y_pred):
        return y_pred
    # Summed, so that every replica stops and none waits for another.
    empty = replica.all_reduce("SUM", tf.cast(tf.equal(tf.shape(y_pred)[0], 0), "float32"))
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(empty, 0.0), [_NO_EXAMPLES])]):
        return tf.identity(y_pred)


_NO_EXAMPLES = (
    "The model takes means over its batch, as batch normalization does, and a replica has no examples of this one: the "
    "weights would turn to NaN. Give every batch as many examples as there are replicas (`drop_remainder=True`, "
    "`kla.data.LongTailSampler`), or normalize over all of them (`BatchNormalization(synchronized=True)`)."
)


def _refuse_compiled_steps(graph):
    """Raise while Keras traces a step that TensorFlow cannot run on the replicas of one machine."""
    from tensorflow.python.ops import control_flow_util

    if control_flow_util.GraphOrParentsInXlaContext(graph):
        raise ValueError(
            "Under `MirroredStrategy` a step must not be compiled by XLA, which cannot reach the variables of several "
            "devices. Received jit_compile=True: compile the model with `jit_compile=False`, or train it with "
            "`kla.tf_distribute.fit`, which leaves XLA out."
        )
    names = []
    while graph is not None:
        names.append(getattr(graph, "name", ""))
        graph = getattr(graph, "outer_graph", None)
    # The loop that Keras builds for several steps; a loop of the user's own works.
    if any(a.startswith("while_body") and b.startswith("multi_step_on_iterator") for a, b in itertools.pairwise(names)):
        raise ValueError(
            "Under `MirroredStrategy` Keras's `fit` and `evaluate` must take one step at a time: their loop over "
            "several fails. Received steps_per_execution above 1: compile the model with `steps_per_execution=1`, or "
            "train it with `kla.tf_distribute.fit`, which runs the steps one by one."
        )


def _needs_examples(tensor):
    """Whether a tensor of a graph depends on a mean over the first axis of something of unknown length."""
    import tensorflow as tf

    seen, left = set(), [tensor.op]
    while left:
        op = left.pop()
        if op in seen:
            continue
        seen.add(op)
        if op.type == "Mean" and op.inputs[0].shape.rank and op.inputs[0].shape[0] is None:
            axes = tf.get_static_value(op.inputs[1])
            if axes is not None and 0 in np.ravel(axes) % op.inputs[0].shape.rank:
                return True
        left.extend(source.op for source in op.inputs)
    return False
