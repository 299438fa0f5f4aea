"""What one replica of `tf.distribute` has to know of the others."""

import keras


def replica_context():
    """The replica context of a `tf.distribute` strategy with several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def sum_over_replicas(tensors):
    """Each of a list of tensors, summed over all replicas: one all-reduce."""
    replica = replica_context()
    return tensors if replica is None else replica.all_reduce("SUM", tensors)
