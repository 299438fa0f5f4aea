"""Run by `test_tf_distribute.py` in processes of their own: `kla.tf_distribute` on several devices, as JSON.

python distributed_fit.py FOLDER mirrored              two devices of this process
python distributed_fit.py FOLDER workers INDEX PORT …  worker INDEX of as many as there are ports

What has to be written goes to FOLDER. Each function of `CASES` gives what must not depend on the devices.
"""

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.callbacks import DeferredReweighting
from keras_logit_adjust.data import LongTailSampler
from keras_logit_adjust.layers import StreamingPriorDense
from keras_logit_adjust.losses import LogitAdjustedCrossentropy
from keras_logit_adjust.metrics import BalancedAccuracy, GroupAccuracy
from keras_logit_adjust.priors import CountingModel, StreamingPrior

COUNTS = [50, 10, 5, 2]
BATCH, EPOCHS = 64, 2
LABELS = np.repeat(np.arange(4), COUNTS)  # of the sampler
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2 * BATCH, 5)).astype("float32")
Y = RNG.integers(0, 4, len(X))
WEIGHT = RNG.uniform(0, 3, len(X)).astype("float32")


def make_strategy(kind, index=0, *ports):
    if kind == "workers":
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
        return tf_distribute.multi_worker_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make_model(strategy, loss=None, **options):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        regularizer = keras.regularizers.L2(0.01)
        model = keras.Sequential([keras.Input((5,)), layers.Dense(4, kernel_regularizer=regularizer)])
        metrics = [BalancedAccuracy(4), GroupAccuracy(COUNTS, bounds=(4, 20))]
        compile_plain(model, loss, metrics=metrics, **options)
    return model


def compile_plain(model, loss=None, **options):
    model.compile(keras.optimizers.SGD(0.5), loss or LogitAdjustedCrossentropy(COUNTS), **options)


def batches(number, *parts, rows=BATCH):
    return tf.data.Dataset.from_tensor_slices(tuple(part[:number] for part in parts)).batch(rows)


def plain(logs):
    return {name: np.asarray(value).tolist() for name, value in logs.items()}


def weights_of(model):
    return np.concatenate([np.asarray(w).ravel() for w in model.get_weights()]).tolist()


def trained(model, data, **options):
    history = tf_distribute.fit(model, data, **{"epochs": EPOCHS, "verbose": 0, **options})
    return {"weights": weights_of(model), "history": plain(history.history)}


def uneven(strategy, folder):
    """67 = 64 + 3: the last batch leaves two examples for one replica and one for the other; all that is public."""
    model = make_model(strategy)
    return {
        **trained(model, batches(67, X, Y), validation_data=batches(67, X, Y)),
        "evaluate": plain(tf_distribute.evaluate(model, batches(65, X, Y, WEIGHT), verbose=0)),
        "predict": tf_distribute.predict(model, batches(67, X), verbose=0).tolist(),
        "evaluate one": plain(tf_distribute.evaluate(model, batches(1, X, Y), verbose=0)),
        "predict one": tf_distribute.predict(model, batches(1, X), verbose=0).tolist(),
    }


def weighted(strategy, folder):
    """65 = 64 + 1: a replica without examples; and a validation with one."""
    data, validation = batches(65, X, Y, WEIGHT), batches(1, X, Y)
    return trained(make_model(strategy), data, validation_data=validation, validation_freq=[2], epochs=3)


def class_weights(strategy, folder):
    """A first batch of 13, ids `[N, 1]`, a dataset that nobody knows the length of."""
    data = batches(13, X, Y[:, None]).filter(lambda x, y: True)
    return trained(make_model(strategy), data, class_weight={0: 0.5, 3: 2.0})


def one_hot_compiled_by_xla(strategy, folder):
    return trained(make_model(strategy, jit_compile=True), batches(67, X, np.eye(4, dtype="float32")[Y]))


def repeated_eagerly(strategy, folder):
    model = make_model(strategy, run_eagerly=True)
    return trained(model, batches(67, X, Y, rows=16).repeat(), steps_per_epoch=3, validation_data=batches(3, X, Y))


def as_many_steps_as_there_are(strategy, folder):
    return trained(make_model(strategy, steps_per_execution=2), batches(67, X, Y), steps_per_epoch=2)


def drawn_and_reweighted(strategy, folder):
    """The step must be traced anew when the weights come."""
    sampler = LongTailSampler(LABELS, 8, seed=1)
    return trained(
        make_model(strategy, LogitAdjustedCrossentropy(COUNTS, tau=0)),
        lambda sampler: sampler.dataset((X[:67], LABELS)),
        sampler=sampler,
        callbacks=[DeferredReweighting({1: [1.0, 1.0, 2.0, 9.0]})],
    )


def drawn_by_each_worker(strategy, folder):
    """Every worker draws its own part of each batch."""

    def distributed(sampler):
        return strategy.distribute_datasets_from_function(
            lambda context: sampler.dataset((X[:67], LABELS), input_context=context)
        )

    return trained(make_model(strategy), distributed, sampler=LongTailSampler(LABELS, 8, seed=1))


def two_heads(strategy, folder):
    """Inputs and outputs by name, and a class that is ignored: in the last batch by all of one replica."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
        both = layers.Concatenate()([left, right])
        model = keras.Model({"left": left, "right": right}, {name: layers.Dense(4, name=name)(both) for name in "ab"})
        loss = {name: LogitAdjustedCrossentropy(COUNTS, ignore_class=-1) for name in "ab"}
        compile_plain(model, loss, metrics={"a": [BalancedAccuracy(4, ignore_class=-1)]})
    ignored = np.where(np.arange(len(Y)) % 3 == 0, -1, Y)
    inputs, labels = {"left": X[:67], "right": X[:67] ** 2}, {"a": ignored[:67], "b": Y[:67]}
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH)
    predicted = tf_distribute.predict(model, data, verbose=0)
    return {**trained(model, data, validation_data=data), "predict": plain(predicted)}


def counting_until_stopped(strategy, folder):
    """A validation that does not improve ends it after two epochs of nine."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs, streaming = keras.Input((5,)), StreamingPrior(4)
        model = CountingModel(inputs, StreamingPriorDense(4, streaming)(inputs))
        compile_plain(model, LogitAdjustedCrossentropy([1, 1, 1, 1], tau=0))
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100)
    found = trained(model, batches(67, X, Y), validation_data=batches(67, X, Y), callbacks=[stop], epochs=9)
    return {**found, "counts": streaming.class_counts.tolist()}


def synchronized_norm(strategy, folder):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        norm = layers.BatchNormalization(synchronized=True)
        model = keras.Sequential([keras.Input((5,)), norm, layers.Dense(4)])
        compile_plain(model)
    return trained(model, batches(65, X, Y))


def half_precision(strategy, folder):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        policy = keras.DTypePolicy("mixed_bfloat16")
        model = keras.Sequential([keras.Input((5,)), layers.Dense(8, dtype=policy), layers.Dense(4, dtype=policy)])
        compile_plain(model)
    found = trained(model, batches(67, X, Y))
    return {**found, "predict": tf_distribute.predict(model, batches(67, X), verbose=0).tolist()}


def local_norm_and_files(strategy, folder):
    """Statistics of each replica's own, files, and what is shown: the same on all workers only."""
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), layers.BatchNormalization(), layers.Dense(4)])
        compile_plain(model, metrics=[BalancedAccuracy(4)])
    callbacks = [
        keras.callbacks.ModelCheckpoint(f"{folder}/model.keras"),
        keras.callbacks.CSVLogger(f"{folder}/log.csv"),
    ]
    data = batches(128, X, Y, rows=32)
    return trained(model, data, validation_data=data, callbacks=callbacks, verbose=2)


CASES = {
    case.__name__: case
    for case in (
        uneven,
        weighted,
        class_weights,
        one_hot_compiled_by_xla,
        repeated_eagerly,
        as_many_steps_as_there_are,
        drawn_and_reweighted,
        drawn_by_each_worker,
        two_heads,
        counting_until_stopped,
        synchronized_norm,
        half_precision,
        local_norm_and_files,
    )
}


ONLY_WORKERS = ("class_weights", "as_many_steps_as_there_are", "drawn_and_reweighted", "drawn_by_each_worker")


def said_of(strategy, number, labels):
    try:
        trained(make_model(strategy), batches(number, X, labels))
    except (ValueError, FloatingPointError) as error:
        return str(error)


def main():
    folder, kind, *rest = sys.argv[1:]
    pathlib.Path(folder).mkdir()
    strategy = make_strategy(kind, *rest)
    names = [name for name in CASES if kind == "workers" or name not in ONLY_WORKERS]
    found = {name: CASES[name](strategy, folder) for name in names}
    found["is chief"] = tf_distribute.is_chief(strategy)
    if kind == "workers":
        found["of other batches"] = said_of(strategy, 64, np.roll(Y, int(rest[0])))
        found["of an id that is no class"] = said_of(
            strategy, 67, np.where(np.arange(len(Y)) == 66, 9, Y).astype("uint8")
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
