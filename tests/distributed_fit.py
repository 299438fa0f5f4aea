"""Run by `test_tf_distribute.py` in processes of their own: `kla.tf_distribute` on one device or several, as JSON.

python distributed_fit.py one|mirrored          this process alone
python distributed_fit.py workers INDEX PORT …  worker INDEX of as many as there are ports
"""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.losses import LogitAdjustedCrossentropy
from keras_logit_adjust.metrics import BalancedAccuracy, GroupAccuracy

COUNTS = [50, 10, 5, 2]
BATCH, EPOCHS = 64, 2
NUMBERS = (BATCH + 3, BATCH + 1, 2 * BATCH, 13)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(max(NUMBERS), 5)).astype("float32")
Y = RNG.integers(0, 4, max(NUMBERS))
WEIGHT = RNG.uniform(0, 3, max(NUMBERS)).astype("float32")


def make_strategy(kind, index=0, *ports):
    if kind == "workers":
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
        return tf_distribute.multi_worker_strategy()
    if kind == "one":
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make_model(strategy, **options):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(0.01)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, kernel_regularizer=regularizer)])
        metrics = [BalancedAccuracy(4), GroupAccuracy(COUNTS, bounds=(4, 20))]
        model.compile(keras.optimizers.SGD(0.5), LogitAdjustedCrossentropy(COUNTS), metrics=metrics, **options)
    return model


def batches(number, *parts):
    return tf.data.Dataset.from_tensor_slices(tuple(part[:number] for part in parts)).batch(BATCH)


def plain(logs):
    return {name: np.asarray(value).tolist() for name, value in logs.items()}


def trained(strategy, data, **options):
    """Everything that must not depend on the devices."""
    model = make_model(strategy)
    history = tf_distribute.fit(model, data, epochs=EPOCHS, validation_data=batches(67, X, Y), verbose=0, **options)
    return {
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]).tolist(),
        "history": plain(history.history),
        "evaluate": plain(tf_distribute.evaluate(model, batches(65, X, Y, WEIGHT), verbose=0)),
        "predict": tf_distribute.predict(model, batches(67, X), verbose=0).tolist(),
    }


def main():
    strategy = make_strategy(*sys.argv[1:])
    results = {str(number): trained(strategy, batches(number, X, Y)) for number in NUMBERS}
    results["weighted"] = trained(strategy, batches(67, X, Y, WEIGHT))
    results["class weights"] = trained(strategy, batches(67, X, Y), class_weight={0: 0.5, 3: 2.0})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
