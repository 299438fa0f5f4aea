"""Run by `test_tf_many_classes.py` in a process of its own: a head of many classes on one device and mirrored over two.

Logical devices can be set up only before TensorFlow starts.
"""

import keras
import numpy as np

from helpers.arrays import array
from helpers.mirrored_fit import on_one_and_two_devices
from keras_logit_adjust.layers import ManyClassDense, ManyClassModel

# 19 = 2·8 + 3: the last batch splits 2 / 1 over the replicas.
rng = np.random.default_rng(0)
x, ids = rng.normal(size=(19, 3)).astype("float32"), rng.integers(0, 13, 19)
penalty = keras.regularizers.L2(0.1)
CASES = {"exact": ({"kernel_regularizer": penalty}, ids), "drawn": ({"num_rivals": 4, "ignore_class": 5}, ids)}


def trained(strategy, options, y):
    """The epochs' losses, and the weights at the end."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        features = keras.layers.Dense(4, "tanh")(inputs)
        model = ManyClassModel(inputs, ManyClassDense(13, np.arange(13, 0, -1), chunk_size=5, **options)(features))
        model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    weights = np.concatenate([array(w).ravel() for w in model.trainable_variables])
    return {"loss": history.history["loss"], "weights": weights.tolist()}


if __name__ == "__main__":
    on_one_and_two_devices(trained, CASES)
