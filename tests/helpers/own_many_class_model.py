"""Train a subclassed model of many classes. It has its own process: a graph changes the bases of its class."""

import sys
import warnings

import keras
import numpy as np

from keras_logit_adjust.layers import ManyClassDense, ManyClassModel

warnings.simplefilter("ignore")
COUNTS = [7, 6, 5, 4, 3, 2, 1]


class Own(ManyClassModel):
    def __init__(self):
        super().__init__()
        self.body, self.last = keras.layers.Dense(4), ManyClassDense(7, COUNTS)

    def call(self, inputs):
        return self.last(self.body(inputs))


if __name__ == "__main__":
    model, x, y = Own(), np.random.default_rng(0).normal(size=(9, 4)).astype("float32"), np.arange(9) % 7
    model.compile(keras.optimizers.SGD(0.0))
    loss = model.fit(x, y, verbose=0).history["loss"][0]
    features, kernel, bias = (
        keras.ops.convert_to_numpy(w).astype("float64") for w in (model(x), *model.last.weights[:2])
    )
    scores = features @ kernel.T + bias + np.log(np.array(COUNTS) / sum(COUNTS))
    expected = np.mean(np.logaddexp.reduce(scores, axis=1) - scores[np.arange(9), y])
    sys.exit(int(abs(loss - expected) > 1e-5))
