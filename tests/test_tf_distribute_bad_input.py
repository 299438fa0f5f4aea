"""What `kla.tf_distribute` refuses before any step, and with which words."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import workers
from helpers.distributed_fit import LABELS, X, Y, batches, make_model

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.data import LongTailSampler
from keras_logit_adjust.tf_distribute import _keras

PROGRAM = pathlib.Path(__file__).with_name("helpers") / "distributed_errors.py"
ENDLESS = batches(67, X, Y).repeat()
VALID = batches(67, X, Y)


class NeverTrained(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        pytest.fail("it was trained")


@pytest.fixture(scope="module")
def mirrored():
    """What two mirrored devices say: (type, text, warnings) of each case."""
    (process,) = workers.run([PROGRAM], timeout=200)
    assert process.status == 0, process.errors[-3000:]
    return json.loads(process.output.strip().rpartition("\n")[2])


def one_device():
    return make_model(tf.distribute.get_strategy())


# --- the model -------------------------------------------------------------------------------------------------------


def uncompiled():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])


def without_optimizer():
    model = uncompiled()
    model.compile(None, "mse")
    return model


MODELS = {
    "no model": (lambda: keras.layers.Dense(2), "`model` must be a Keras model. Received: Dense"),
    "not compiled": (uncompiled, "`model` must be compiled, in the scope of its strategy"),
    "no optimizer": (without_optimizer, "must be compiled with an optimizer"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cannot_be_trained_is_refused(name):
    make, message = MODELS[name]
    with pytest.raises(ValueError, match=message):
        tf_distribute.fit(make(), VALID, callbacks=[NeverTrained()])


def test_a_parameter_server_is_refused(monkeypatch):
    server = object.__new__(tf.distribute.ParameterServerStrategy)
    monkeypatch.setattr(_keras, "strategy_of", lambda model: server)
    with pytest.raises(ValueError, match="does not train with a ParameterServerStrategy. Use a MultiWorkerMirrored"):
        tf_distribute.fit(one_device(), VALID)


# --- the data --------------------------------------------------------------------------------------------------------

DATA = {
    "arrays": (X, r"`dataset` must be a `tf\.data\.Dataset` of batches.*Received: ndarray"),
    "a pair": ((X, Y), r"`dataset` must be a `tf\.data\.Dataset` of batches.*Received: tuple"),
    "a function": (lambda sampler: VALID, r"with `sampler`, a function.*Received: function"),
    "unbatched": (tf.data.Dataset.from_tensor_slices((X, Y)), "Received single examples: call `.batch"),
    "empty": (batches(0, X, Y), "`dataset` must give at least one batch. Received an empty dataset"),
    "filtered": (VALID.filter(lambda x, y: False), "must give at least one batch. Received an empty dataset"),
    "endless": (ENDLESS, "`dataset` never ends: give the length of an epoch, `steps_per_epoch`"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_is_no_dataset_of_batches_is_refused(name):
    data, message = DATA[name]
    with pytest.raises(ValueError, match=message):
        tf_distribute.fit(one_device(), data, callbacks=[NeverTrained()])


def test_the_messages_name_the_arguments_that_were_given():
    model = one_device()
    for call in (tf_distribute.evaluate, tf_distribute.predict):
        with pytest.raises(ValueError, match="`dataset` never ends: give the length of an epoch, `steps`"):
            call(model, ENDLESS, verbose=0)
        with pytest.raises(ValueError, match="`steps` must be an integer of at least 1. Received: steps=0"):
            call(model, VALID, steps=0, verbose=0)
        with pytest.raises(ValueError, match="Received 2 batches and steps=3"):
            call(model, VALID, steps=3, verbose=0)


OPTIONS = {
    "epochs": ({"epochs": 0}, "`epochs` must be an integer of at least 1"),
    "initial epoch": ({"initial_epoch": -1}, "`initial_epoch` must be an integer of at least 0"),
    "steps": ({"steps_per_epoch": 2.5}, "`steps_per_epoch` must be an integer of at least 1"),
    "too many steps": ({"steps_per_epoch": 3}, "Received 2 batches and steps_per_epoch=3. Remedy"),
    "frequency": ({"validation_freq": 0}, "`validation_freq` must be an integer of at least 1"),
    "frequencies": ({"validation_freq": [1, 0]}, "`validation_freq` must be an integer of at least 1"),
    "validation of arrays": ({"validation_data": X}, "`validation_data` must be a `tf.data.Dataset`"),
    "endless validation": (
        {"validation_data": ENDLESS},
        "`validation_data` never ends: give the length of an epoch, `validation_steps`",
    ),
    "validation steps": ({"validation_data": VALID, "validation_steps": 0}, "`validation_steps` must be an integer"),
    "save_freq": ({"save_freq": "batch", "backup_dir": "nowhere"}, "`save_freq` must be an integer of at least 1"),
    "a sampler": ({"sampler": LongTailSampler(LABELS, 8, seed=1)}, "`dataset` must be a function.*_BatchDataset"),
    "no class": ({"class_weight": {}}, "`class_weight` must be a non-empty vector"),
    "a class": ({"class_weight": {-1: 2.0}}, "`class_weight` must be an integer of at least 0"),
    "a weight": ({"class_weight": {0: np.nan}}, "`class_weight` must be finite"),
    "a class of a hash": ({"class_weight": {2**40: 2.0}}, "`class_weight` must be .* and at most 99,999,999"),
    "backup": (
        {"callbacks": [keras.callbacks.BackupAndRestore("nowhere")]},
        "knows neither workers nor the place in the data: give `backup_dir`",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_contradict_themselves_are_refused(name):
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        tf_distribute.fit(one_device(), VALID, **{"callbacks": [NeverTrained()], **options})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (batches(64, X), "needs batches .x, y. with one array of labels. Received labels: None"),
        (VALID.map(lambda x, y: (x, {"a": y})), "needs batches .x, y. with one array of labels"),
        (VALID.map(lambda x, y: (x, y, y)), "exclude each other: multiply them"),
    ],
)
def test_class_weights_need_labels_and_no_other_weights(data, message):
    with pytest.raises(ValueError, match=message):
        tf_distribute.fit(one_device(), data, class_weight={0: 2.0}, callbacks=[NeverTrained()])


def test_data_that_ends_within_an_epoch_is_refused_when_it_does():
    unknown = VALID.filter(lambda x, y: True)
    with pytest.raises(ValueError, match=r"ran out of batches in epoch 0, at step 2 .both from 0., before the 3"):
        tf_distribute.fit(one_device(), unknown, steps_per_epoch=3, verbose=0)


# --- the cluster -----------------------------------------------------------------------------------------------------


def config(kind="worker", index=0, addresses=("localhost:1", "localhost:2"), cluster="worker"):
    return json.dumps({"cluster": {cluster: [*addresses]}, "task": {"type": kind, "index": index}})


CONFIGS = {
    "missing": (None, "the environment variable TF_CONFIG, which is missing"),
    "empty": ("", "the environment variable TF_CONFIG, which is missing"),
    "no JSON": ("{", "JSONDecodeError"),
    "a list": ("[]", "TypeError"),
    "no task": (json.dumps({"cluster": {"worker": ["localhost:1"]}}), "KeyError: 'task'"),
    "no index": (config(index=None), "TypeError"),
    "index": (config(index=2), "the task has index 2, and the cluster 2 of type 'worker'"),
    "negative": (config(index=-1), "the task has index -1, and the cluster 2 of type 'worker'"),
    "a type that is not there": (config("chief"), "KeyError: 'chief'"),
    "a type that does not train": (config("ps", cluster="ps"), "a task of type 'ps' does not train"),
    "one address": (config(addresses=["localhost:1"] * 2), "two workers have the same address"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tf_config_that_contradicts_itself_is_refused(monkeypatch, name):
    text, message = CONFIGS[name]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f'{message}.*"cluster": {{"worker"'):
        tf_distribute.multi_worker_strategy()


# --- two devices -----------------------------------------------------------------------------------------------------

COUNTS_OF_LAST = ", ".join(f"{i}: {n}" for i, n in enumerate(np.bincount(Y[[64, 66]], minlength=4)) if n)
COUNTS_WITH_IT = ", ".join(f"{i}: {n}" for i, n in enumerate(np.bincount(Y[64:67], minlength=4)) if n)
AT = "The loss is nan in epoch 0, at step 1 (both from 0). Examples of each class in that batch"
WITH_WRONG = f"{AT}: {{{COUNTS_OF_LAST}, 9: 1}} (not among the ids of 4 classes: 9)"
REFUSED = {
    "model_outside": ("ValueError", "Received a model of no scope, in the scope of a MirroredStrategy"),
    "model_of_another_scope": (
        "ValueError",
        "Received a model of MirroredStrategy, in the scope of a MirroredStrategy",
    ),
    "optimizer_outside": ("ValueError", "The optimizer must be made in the scope of the model's strategy"),
    "accumulated": ("ValueError", "Received: gradient_accumulation_steps=2 for 2 replicas"),
    "first_batch_of_one": (
        "ValueError",
        "Each of the 2 replicas needs an example of a batch. Received a first batch of 1",
    ),
    "fewer_batches_than_steps": ("ValueError", "Received 2 batches and validation_steps=3"),
    "norm_of_an_empty_replica": (
        "ValueError",
        "Layers ['norm'] need an example on every replica",
    ),
    "convolution_of_an_empty_replica": ("ValueError", "Layers ['images'] need an example on every replica"),
    "weights_for_distributed": ("ValueError", "`class_weight` needs a `tf.data.Dataset`"),
    "batches_that_do_not_divide": ("ValueError", "`batch_size` must divide by the parts"),
    "wrong_id": ("FloatingPointError", WITH_WRONG),
    "wrong_small_id": ("FloatingPointError", WITH_WRONG),
    "holed_feature": ("FloatingPointError", f"in that batch: {{{COUNTS_WITH_IT}}}."),
    "alone": ("ValueError", "This MultiWorkerMirroredStrategy has no other workers: TF_CONFIG was missing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_two_devices_refuse(mirrored, name):
    kind, message = REFUSED[name]
    found, text, warned = mirrored[name]
    assert (found, warned) == (kind, [])
    assert message in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen_norm", "own_loss_on_full", "no_loss", "no_logs"])
def test_two_devices_take(mirrored, name):
    assert mirrored[name] == ["", "", []]


@pytest.mark.slow
def test_two_devices_warn_of_a_loss_of_keras_s_own_on_uneven_batches(mirrored):
    kind, _, (warned,) = mirrored["own_loss_on_uneven"]
    assert kind == ""
    assert "If the replicas get unequal shares of a batch, Keras averages <" in warned
    assert "`LogitAdjustedCrossentropy(class_counts, tau=0)` is plain cross-entropy" in warned
