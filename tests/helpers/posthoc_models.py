"""Small models of every shape that post-hoc adjustment knows, and the arithmetic of what it must give for them."""

import keras
import numpy as np
from keras import layers, ops
from reference import sigmoid, softmax

from helpers.arrays import as_float64 as numpy

COUNTS = [90, 9, 1]
WIDTH = 6


def adjusted_by_hand(outputs, kind, shift):
    """What the model must give: its logits (read off probabilities where it gives those) less `shift`."""
    outputs = numpy(outputs)
    if kind == "logits":
        return outputs - shift
    if kind == "softmax":
        return softmax(np.log(outputs) - shift)
    return sigmoid(np.log(outputs) - np.log(1 - outputs) - shift)


def rows(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def randomize(model, rng):
    """Every weight different from its initial value, biases and batch statistics too."""
    for weight in model.weights:
        values = rng.normal(scale=0.5, size=weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)


def sequential(*parts, width=WIDTH):
    return keras.Sequential([keras.Input((width,)), *parts])


def with_loss(loss):
    model = sequential(layers.Dense(3, name="head"))
    model.compile("sgd", loss)
    return model


def functional(head, kind=layers.Dense):
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, head(layers.Dense(5, "tanh")(inputs)))


def nested(*inner, behind=()):
    inputs = keras.Input((WIDTH,))
    outputs = sequential(layers.Dense(4, "tanh"), *inner, width=5)(layers.Dense(5, "tanh")(inputs))
    for layer in behind:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def nested_twice():
    middle = keras.Sequential([keras.Input((5,)), sequential(layers.Dense(4), layers.Dense(3, "softmax"), width=5)])
    return sequential(layers.Dense(5, "tanh"), middle)


def several_inputs(as_dict):
    first, second = keras.Input((WIDTH,), name="first"), keras.Input((2,), name="second")
    outputs = layers.Dense(3, "softmax")(layers.Concatenate()([first, second]))
    return keras.Model({"first": first, "second": second} if as_dict else [first, second], outputs)


def branching(shared_with_nested=False):
    """A trunk layer used twice, raw operations, statistics, dropout."""
    inputs = keras.Input((WIDTH,))
    shared = layers.Dense(WIDTH, "tanh")
    inner = sequential(*[shared] * shared_with_nested, layers.BatchNormalization(), layers.Dropout(0.5))
    features = ops.concatenate([shared(inputs), inner(shared(shared(inputs))) * 2.0, inputs[:, :2]], axis=-1)
    return keras.Model(inputs, layers.Dense(3, use_bias=False)(features))


def normalized():
    statistics = layers.Normalization()
    statistics.adapt(np.arange(10 * WIDTH, dtype="float32").reshape(10, WIDTH))
    return sequential(statistics, layers.Dense(3))


def low_rank():
    model = sequential(layers.Dense(3, "softmax"))
    model.layers[0].enable_lora(2)
    return model


def conv(kind, rank, **options):
    inputs = keras.Input((*[4] * rank, 2))
    return keras.Model(inputs, kind(3, 2, padding="same", **options)(inputs))


def half(policy, *behind):
    inputs = keras.Input((WIDTH,))
    outputs = layers.Dense(5, "relu", dtype=policy)(inputs)
    for layer in behind:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


# name: (model, what it gives, whether its head can be folded)
GRAPHS = {
    "sequential logits": (lambda: sequential(layers.Dense(5, "relu"), layers.Dense(3)), "logits", True),
    "sequential softmax": (lambda: sequential(layers.Dense(5, "relu"), layers.Dense(3, "softmax")), "softmax", True),
    "functional softmax": (lambda: functional(layers.Dense(3, "softmax")), "softmax", True),
    "softmax without bias": (lambda: functional(layers.Dense(3, "softmax", use_bias=False)), "softmax", True),
    "softmax layer": (lambda: sequential(layers.Dense(3, use_bias=False), layers.Softmax()), "softmax", True),
    "activation layers": (
        lambda: sequential(layers.Dense(3), layers.Activation("linear"), layers.Activation("softmax")),
        "softmax",
        True,
    ),
    "activation, then identity": (
        lambda: sequential(layers.Dense(3, "softmax"), layers.Identity(), layers.Activation("linear", dtype="float32")),
        "softmax",
        True,
    ),
    "nested logits": (lambda: nested(layers.Dense(3)), "logits", True),
    "nested softmax": (lambda: nested(layers.Dense(3, "softmax", use_bias=False)), "softmax", True),
    "nested twice": (nested_twice, "softmax", True),
    "softmax behind nested logits": (lambda: nested(layers.Dense(3), behind=[layers.Softmax()]), "softmax", True),
    "branching": (branching, "logits", True),
    "normalization layer": (normalized, "logits", True),
    "low-rank head": (low_rank, "softmax", True),
    "conv1d": (lambda: conv(layers.Conv1D, 1, activation="softmax"), "softmax", True),
    "conv2d": (lambda: conv(layers.Conv2D, 2), "logits", True),
    "conv3d without bias": (lambda: conv(layers.Conv3D, 3, use_bias=False), "logits", True),
    "mixed policy, float32 head": (
        lambda: half("mixed_bfloat16", layers.Dense(3, "softmax", dtype="float32")),
        "softmax",
        True,
    ),
    "several inputs": (lambda: several_inputs(as_dict=False), "softmax", True),
    "inputs in a dict": (lambda: several_inputs(as_dict=True), "softmax", True),
}


def build(name, rng):
    """The model, its kind, and inputs for it."""
    make, kind, _ = GRAPHS[name]
    model = make()
    if name != "normalization layer":
        randomize(model, rng)
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    data = keras.tree.map_structure(lambda tensor: rows(rng, 7, *tensor.shape[1:]), inputs)
    return model, kind, data


@keras.saving.register_keras_serializable(package="test_posthoc")
class Subclassed(keras.Model):
    """A model whose logits cannot be read off."""

    def __init__(self, units=3, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, activation
        self.dense, self.dropout = layers.Dense(units, activation), layers.Dropout(0.5)

    def call(self, inputs, training=None):
        return self.dense(self.dropout(inputs))

    def get_config(self):
        return {"units": self.units, "activation": self.activation}


def reload(model, folder, **options):
    path = str(folder / "model.keras")
    model.save(path)
    return keras.models.load_model(path, **options)
