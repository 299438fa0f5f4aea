"""Run by `test_tf_streaming_prior.py` in a process of its own: counting on one device and mirrored over two, as JSON.

Logical devices can be set up only before TensorFlow starts.
"""

import keras
import numpy as np

from helpers.arrays import array
from helpers.mirrored_fit import on_one_and_two_devices
from keras_logit_adjust.layers import StreamingPriorDense
from keras_logit_adjust.losses import FocalCrossentropy
from keras_logit_adjust.priors import CountingModel, StreamingPrior

# 67 = 64 + 3: the last batch splits 2 / 1 over the replicas.
ids = np.random.default_rng(0).choice(4, 67, p=[0.6, 0.2, 0.15, 0.05])
x = np.random.default_rng(1).normal(size=(67, 5)).astype("float32")
ignored = np.where(np.arange(67) % 3 == 0, -1, ids)  # with it one replica's share of the last batch: 64 .. 66

CASES = {"exact": ({}, ids), "recent": ({"half_life": 40, "ignore_class": -1}, ignored)}


def trained(strategy, options, y):
    """The epochs' losses, the weights at the end and the counts on every replica."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs, streaming = keras.Input((5,)), StreamingPrior(4, **options)
        model = CountingModel(inputs, StreamingPriorDense(4, streaming)(inputs))
        # Cross-entropy that averages over all replicas, where Keras's own averages on each.
        model.compile(keras.optimizers.SGD(0.5), FocalCrossentropy(gamma=0, ignore_class=options.get("ignore_class")))
    history = model.fit(x, y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    value = streaming.counts.value
    return {
        "loss": history.history["loss"],
        "weights": np.concatenate([array(w).ravel() for w in model.trainable_variables]).tolist(),
        "counts": [np.sum(replica, axis=0).tolist() for replica in getattr(value, "values", [value])],
        "class_counts": streaming.class_counts.tolist(),
    }


if __name__ == "__main__":
    on_one_and_two_devices(trained, CASES)
