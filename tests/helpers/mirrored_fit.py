"""Run by `test_tf_losses.py` in a process of its own: `fit` on one device and mirrored over two, as JSON.

Logical devices can be set up only before TensorFlow starts.
"""

import json

import keras
import numpy as np
import tensorflow as tf

from keras_logit_adjust.losses import (
    BinaryLogitAdjustedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    VectorScalingCrossentropy,
)

COUNTS = [50, 10, 5, 2]
REDUCTIONS = ["sum", "sum_over_batch_size", "mean_with_sample_weight"]
# 67 = 64 + 3: the last batch splits 2 / 1 over the replicas.
ids = np.random.default_rng(0).integers(0, 4, 67)
x = np.random.default_rng(1).normal(size=(67, 5)).astype("float32")
weight = np.random.default_rng(2).uniform(0, 3, 67).astype("float32")
ignored = np.where(np.arange(67) % 3 == 0, -1, ids)  # with it one replica's share of the last batch: 64 .. 66
on = np.where(np.random.default_rng(3).uniform(size=(67, 4)) < 0.5, -1, np.eye(4)[ids])  # with it unknown labels
padded = np.repeat(x[:, None], 3, axis=1) * (np.arange(3) < 1 + np.arange(67)[:, None] % 3)[..., None]


def adjusted(reduction, **options):
    return lambda: LogitAdjustedCrossentropy(COUNTS, reduction=reduction, **options)


def multi_label():
    return BinaryLogitAdjustedCrossentropy(COUNTS, 100, ignore_class=-1)


def scaled():
    return VectorScalingCrossentropy(COUNTS, gamma=0.2, ignore_class=-1)


def focal():
    return FocalCrossentropy(class_weight=[1, 2, 3, 4], ignore_class=-1, reduction="mean_with_sample_weight")


CASES = {
    **{r: (adjusted(r), x, ids, None) for r in REDUCTIONS},
    **{f"{r} weighted": (adjusted(r), x, ids, weight) for r in REDUCTIONS},
    **{f"{r} ignored": (adjusted(r, ignore_class=-1), x, ignored, weight) for r in REDUCTIONS},
    "masked": (adjusted("sum_over_batch_size"), padded, np.repeat(ids[:, None], 3, axis=1), weight),
    "one-hot": (adjusted("sum_over_batch_size"), x, np.eye(4)[ids], None),
    "pairwise margins": (scaled, x, ignored, weight),
    "focal": (focal, x, ignored, weight),
    "multi-label": (multi_label, x, np.eye(4)[ids], None),
    "multi-label, unknown": (multi_label, x, on, weight),
}


def trained(strategy, make_loss, x, y, sample_weight):
    """The epochs' losses and the weights at the end."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Masking(), keras.layers.Dense(4)] if x.ndim == 3 else [keras.layers.Dense(4)]
        model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
        loss = make_loss()
        rate = 0.5 / 64 if loss.reduction == "sum" else 0.5
        model.compile(keras.optimizers.SGD(rate), loss)
    history = model.fit(x, y, sample_weight=sample_weight, batch_size=64, epochs=2, shuffle=False, verbose=0)
    return {
        "loss": history.history["loss"],
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]).tolist(),
    }


def on_one_and_two_devices(trained, cases):
    """Print, as JSON, what `trained(strategy, *case)` gives on one device and mirrored over two."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert mirrored.num_replicas_in_sync == 2
    one = tf.distribute.get_strategy()
    print(
        json.dumps({name: [trained(strategy, *case) for strategy in (one, mirrored)] for name, case in cases.items()})
    )


if __name__ == "__main__":
    on_one_and_two_devices(trained, CASES)
