"""The batches that a model was shown in `fit`, on any backend."""

import keras


class Recorder(keras.layers.Layer):
    """Keeps every batch it is called on, in its weights."""

    def __init__(self, steps, batch_size):
        super().__init__()
        self.seen = self.add_weight(shape=(steps, batch_size), initializer="zeros", trainable=False)
        self.step = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        steps = keras.ops.arange(self.seen.shape[0], dtype="float32")[:, None]
        here = keras.ops.equal(steps, self.step.value)
        self.seen.assign(keras.ops.where(here, keras.ops.reshape(x, (1, -1)), self.seen.value))
        self.step.assign_add(1)
        return x


def shown(data, epochs, steps, batch_size=6):
    """The row numbers of every batch, where the features `[N, 1]` of an example are its number."""
    recorder = Recorder(epochs * steps, batch_size)
    model = keras.Sequential([keras.Input((1,), batch_size=batch_size), recorder, keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    return keras.ops.convert_to_numpy(recorder.seen).astype(int).tolist()
