"""Run by `test_tf_long_tail_report.py` in a process of its own: the report of mirrored trainings, as JSON.

Logical devices can be set up only before TensorFlow starts.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import keras_logit_adjust as kla

COUNTS = [500, 60, 20, 3]
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 67)  # 67 = 4 · 16 + 3: the last batch is cut into 2 and 1
x = (np.eye(4)[y] + rng.normal(size=(67, 4))).astype("float32")


def trained(fit, held_out):
    """What each epoch reported, and the predictions it was about."""
    with mirrored.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(1.0), kla.losses.LogitAdjustedCrossentropy(COUNTS))
    scores = []
    follow = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: scores.append((x @ model.get_weights()[0] + model.get_weights()[1]).tolist())
    )
    history = fit(
        model, callbacks=[kla.callbacks.LongTailReport(COUNTS, validation_data=held_out, batch_size=16), follow]
    ).history
    return {"history": {name: values for name, values in history.items() if name.startswith("val_")}, "scores": scores}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    options = {"epochs": 2, "verbose": 0}
    runs = {
        "keras, arrays": trained(lambda model, **more: model.fit(batches, **options, **more), (x, y)),
        "kla, dataset": trained(
            lambda model, **more: kla.tf_distribute.fit(model, batches, **options, **more), batches
        ),
    }
    print(json.dumps({"labels": y.tolist(), "runs": runs}))
