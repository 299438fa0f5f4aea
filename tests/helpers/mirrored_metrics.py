"""Run by `test_tf_mirrored.py` in a process of its own: all that plain Keras reports, on one device and over two.

Batches of 64 leave the replicas 1 and 0, 1 and 1, or 2 and 1 examples of the last; validation and prediction are uneven
as well.
"""

import json

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from helpers.mirrored_fit import COUNTS
from keras_logit_adjust.layers import PriorAwareDense
from keras_logit_adjust.losses import LogitAdjustedCrossentropy
from keras_logit_adjust.metrics import (
    BalancedAccuracy,
    GroupAccuracy,
    MacroF1,
    MultiLabelMacroF1,
    PerClassAccuracy,
    PerLabelBalancedAccuracy,
)

BATCH = 64
RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 5)).astype("float32")
Y = RNG.integers(0, 4, 128)
WEIGHT = RNG.uniform(0, 3, 128).astype("float32")
IGNORED = np.where(np.arange(128) % 3 == 0, -1, Y)  # among them one replica's whole share of a last batch


def metrics(**options):
    return [
        BalancedAccuracy(4, **options),
        PerClassAccuracy(4, **options),
        GroupAccuracy(COUNTS, bounds=(4, 20), **options),
        MacroF1(4, **options),
    ]


def compiled(model, loss, rate=0.5, ignore_class=None, weighted=()):
    weighted = [MacroF1(4, name="weighted_f1", ignore_class=ignore_class), *weighted]
    measured = metrics(ignore_class=ignore_class)
    model.compile(keras.optimizers.SGD(rate), loss, metrics=measured, weighted_metrics=weighted)
    return model


def weighted_and_ignored():
    loss = LogitAdjustedCrossentropy(COUNTS, ignore_class=-1, reduction="mean_with_sample_weight")
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4)])
    return compiled(model, loss, ignore_class=-1), (X, IGNORED, WEIGHT)


def unreduced():
    """Keras adds up the values by itself."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4)])
    return compiled(model, LogitAdjustedCrossentropy(COUNTS, reduction=None), 0.5 / BATCH), (X, Y, WEIGHT)


def two_outputs():
    inputs = keras.Input((5,))
    penalty = keras.regularizers.L2(0.01)
    heads = {name: layers.Dense(4, name=name, kernel_regularizer=penalty) for name in ("single", "double")}
    model = keras.Model(inputs, {name: head(inputs) for name, head in heads.items()})
    loss = {
        "single": LogitAdjustedCrossentropy(COUNTS, ignore_class=-1),
        "double": LogitAdjustedCrossentropy(COUNTS, tau=0.5, reduction="mean"),
    }
    measured = {"single": metrics(ignore_class=-1), "double": [MacroF1(4, class_prior=COUNTS)]}
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=measured, loss_weights={"single": 1.0, "double": 0.3})
    return model, (X, {"single": IGNORED, "double": Y})


def prior_aware_head():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, PriorAwareDense(4, COUNTS)(inputs))
    labels = [MultiLabelMacroF1(4, threshold=0), PerLabelBalancedAccuracy(4, threshold=[-1, 0, 0, 1])]
    model = compiled(model, LogitAdjustedCrossentropy(COUNTS, tau=0), weighted=labels)
    return model, (X, np.eye(4, dtype="float32")[Y], WEIGHT)


def half_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    hidden = layers.Dense(8, activation="relu", dtype=policy)
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(4, dtype=policy)])
    return compiled(model, LogitAdjustedCrossentropy(COUNTS), 0.1), (X, Y)


CASES = {
    "64 + 1, ignored": (65, weighted_and_ignored),
    "64 + 1, unreduced": (65, unreduced),
    "64 + 2, weighted": (66, prior_aware_head),
    "64 + 3, two outputs": (67, two_outputs),
    "64 + 3, mixed_bfloat16": (67, half_precision),
}


def reported(strategy, size, make):
    """What `fit`, `evaluate` and `predict` give, and the weights, by name."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model, data = make()
    part = keras.tree.map_structure(lambda whole: whole[:size], data)
    held_out = keras.tree.map_structure(lambda whole: whole[-67:], data)
    x, y, weight = (*part, None)[:3]
    options = {"batch_size": BATCH, "verbose": 0}
    found = model.fit(x, y, sample_weight=weight, validation_data=held_out, epochs=2, shuffle=False, **options).history
    tested = model.evaluate(x, y, sample_weight=weight, return_dict=True, **options)
    found.update({f"test_{name}": value for name, value in tested.items()})
    scores = keras.tree.flatten(model.predict(x, batch_size=13, verbose=0))  # 7 and 6 on the replicas
    found["scores"] = np.concatenate(scores)
    found["weights"] = np.concatenate([np.ravel(array) for array in model.get_weights()])
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def plain():
    return keras.Sequential([keras.Input((5,)), layers.Dense(4)])


def normalized():
    return keras.Sequential([keras.Input((5,)), layers.BatchNormalization(), layers.Dense(4)])


KERAS_OWN = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BROKEN = {
    "batch normalization, 64 + 1": (65, normalized, {}),
    "batch normalization, 64 + 2": (66, normalized, {}),
    "uneven first batch": (13, plain, {}),
    "jit_compile": (128, plain, {"jit_compile": True}),
    "jit_compile, Keras's loss": (128, plain, {"jit_compile": True, "loss": KERAS_OWN}),
    "steps_per_execution": (128, plain, {"steps_per_execution": 2}),
    "steps_per_execution, Keras's loss": (128, plain, {"steps_per_execution": 2, "loss": KERAS_OWN}),
}


def refusal(strategy, size, make, options):
    """The error that plain `fit` stops with, and whether the weights are finite."""
    message = None
    with strategy.scope():
        model = make()
        model.compile("sgd", **{"loss": LogitAdjustedCrossentropy(COUNTS), **options})
    try:
        model.fit(X[:size], Y[:size], batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    return [message, all(bool(np.all(np.isfinite(array))) for array in model.get_weights())]


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    strategies = tf.distribute.get_strategy(), mirrored
    cases = {name: [reported(strategy, *case) for strategy in strategies] for name, case in CASES.items()}
    broken = {name: refusal(mirrored, *case) for name, case in BROKEN.items()}
    print(json.dumps({"cases": cases, "broken": broken}))


if __name__ == "__main__":
    main()
