"""`kla.tf_distribute` on one device, two mirrored ones and two worker processes: the same numbers, and Keras's."""

import inspect
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import distributed_fit, workers
from helpers.distributed_fit import BATCH, CASES, COUNTS, ONLY_WORKERS, X, Y, batches, make_model, plain

import keras_logit_adjust
from keras_logit_adjust import tf_distribute
from keras_logit_adjust.tf_distribute import _data, _keras

PROGRAM = pathlib.Path(__file__).with_name("helpers") / "distributed_fit.py"
LOCAL = "local_norm_and_files"  # normalizes by replica: the same on all workers, another on one device
LOOSE = {"half_precision": 2e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def ran(folder):
    """What two mirrored devices, worker 0 and worker 1 give; and one device, in this process meanwhile."""
    ports = workers.free_ports(2)
    commands = [[PROGRAM, folder / "mirrored", "mirrored"]]
    commands += [[PROGRAM, folder / f"worker{index}", "workers", index, *ports] for index in (0, 1)]
    with workers.started(*commands) as processes:
        (folder / "one").mkdir()
        one = {name: case(tf.distribute.get_strategy(), folder / "one") for name, case in CASES.items()}
        ended = workers.ended(processes, timeout=500)
    for process in ended:
        assert process.status == 0, process.errors[-3000:]
    return {"one": (one, ""), **dict(zip(("mirrored", "worker0", "worker1"), map(_read, ended), strict=True))}


def _read(process):
    shown, _, last = process.output.strip().rpartition("\n")
    return json.loads(last), shown


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[key], value, tolerance)
        else:
            np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance, err_msg=key)


PAIRS = [(kind, name) for kind in ("mirrored", "worker0", "worker1") for name in CASES if name != LOCAL]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [pair for pair in PAIRS if pair[0] != "mirrored" or pair[1] not in ONLY_WORKERS]
)
def test_several_devices_give_what_one_gives(ran, kind, name):
    assert_same(ran[kind][0][name], ran["one"][0][name], LOOSE.get(name, 2e-6))


@pytest.mark.slow
def test_the_cases_are_what_they_say(ran):
    found = ran["one"][0]
    assert all(np.isfinite(case["weights"]).all() for case in found.values())
    uneven = found["uneven"]
    assert {"loss", "balanced_accuracy", "many_accuracy", "val_loss", "val_balanced_accuracy"} <= uneven[
        "history"
    ].keys()
    assert np.shape(uneven["predict"]) == (67, 4)
    assert np.shape(uneven["predict one"]) == (1, 4)
    assert len(found["weighted"]["history"]["loss"]) == 3
    assert len(found["weighted"]["history"]["val_loss"]) == 1  # validation_freq=[2]
    stopped = found["counting_until_stopped"]
    assert len(stopped["history"]["loss"]) == 2  # of nine epochs
    assert stopped["counts"] == (2 * np.bincount(Y[:67])).tolist()


@pytest.mark.slow
def test_one_device_gives_what_plain_fit_gives(ran):
    found, model = ran["one"][0]["uneven"], make_model(tf.distribute.get_strategy())
    data = batches(67, X, Y)
    history = model.fit(data, validation_data=data, epochs=2, shuffle=False, verbose=0)
    assert_same(found["history"], plain(history.history), 2e-6)
    np.testing.assert_allclose(found["weights"], distributed_fit.weights_of(model), atol=2e-6)
    np.testing.assert_allclose(found["predict"], model.predict(batches(67, X), verbose=0), atol=2e-6)


@pytest.mark.slow
def test_class_weights_are_those_of_plain_fit(ran):
    model = make_model(tf.distribute.get_strategy())
    model.fit(batches(13, X, Y), epochs=2, class_weight={0: 0.5, 3: 2.0}, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        ran["one"][0]["class_weights"]["weights"], distributed_fit.weights_of(model), rtol=2e-6, atol=2e-6
    )


def test_reweighting_begins_with_its_epoch():
    """The step is traced anew: else the second epoch would be that of no weights."""
    strategy = tf.distribute.get_strategy()
    data = batches(67, X, Y)

    def loss_in_second_epoch(*stages):
        model = make_model(strategy, keras_logit_adjust.losses.LogitAdjustedCrossentropy(COUNTS, tau=0))
        callbacks = [keras_logit_adjust.callbacks.DeferredReweighting(stage) for stage in stages]
        return tf_distribute.fit(model, data, epochs=2, callbacks=callbacks, verbose=0).history["loss"]

    plain_losses, weighted = loss_in_second_epoch(), loss_in_second_epoch({1: [3.0, 3.0, 3.0, 3.0]})
    assert weighted[0] == pytest.approx(plain_losses[0], rel=1e-6)
    assert weighted[1] > 2 * plain_losses[1]


# --- several workers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batch_normalization_has_the_same_finite_statistics_on_all_workers(ran):
    first, second = (ran[kind][0][LOCAL] for kind in ("worker0", "worker1"))
    assert np.isfinite(first["weights"]).all()
    assert_same(first, second, 0)
    assert_same(first, ran["mirrored"][0][LOCAL], 1e-5)


@pytest.mark.slow
def test_only_the_chief_writes_and_shows(ran, folder):
    assert [ran[kind][0]["is chief"] for kind in ("mirrored", "worker0", "worker1")] == [True, True, False]
    written = {kind: sorted(path.name for path in (folder / kind).iterdir()) for kind in ("worker0", "worker1")}
    assert written == {"worker0": ["log.csv", "model.keras"], "worker1": []}
    assert "Epoch 2/2" in ran["worker0"][1]
    assert "Epoch" not in ran["worker1"][1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["worker0", "worker1"])
def test_workers_that_read_other_batches_are_refused(ran, kind):
    said = ran[kind][0]["of other batches"]
    assert "All workers must read the same batches" in said
    assert "Give `Dataset.shuffle` a seed" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["worker0", "worker1"])
def test_every_worker_says_what_a_batch_with_a_loss_of_nan_held(ran, kind):
    counts = ", ".join(f"{i}: {n}" for i, n in enumerate(np.bincount(Y[64:66], minlength=4)) if n)
    said = ran[kind][0]["of an id that is no class"]
    assert f"in epoch 0, at step 1 (both from 0). Examples of each class in that batch: {{{counts}, 9: 1}}" in said


@pytest.mark.slow
def test_what_the_chief_wrote_is_the_trained_model(ran, folder):
    model = keras.models.load_model(folder / "worker0" / "model.keras")
    np.testing.assert_allclose(distributed_fit.weights_of(model), ran["worker0"][0][LOCAL]["weights"], rtol=1e-6)
    assert len((folder / "worker0" / "log.csv").read_text().splitlines()) == 3  # a header and two epochs


# --- a training step and data of the user's own ----------------------------------------------------------------------


class OwnStep(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"mine": loss, "rows": tf.shape(x)[0], "constant": 0.5}


def test_logs_of_a_train_step_of_ones_own_are_kept_as_they_are():
    inputs = keras.Input((5,))
    model = OwnStep(inputs, keras.layers.Dense(4)(inputs))
    distributed_fit.compile_plain(model)
    history = tf_distribute.fit(model, batches(67, X, Y), verbose=0).history
    assert history.keys() == {"mine", "rows", "constant"}
    assert (history["rows"], history["constant"]) == ([3], [0.5])


class Halves(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)) / 2)
        return inputs


@pytest.mark.parametrize("packed", [True, False])
def test_data_without_labels_trains_losses_that_layers_add(packed):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), Halves()])
    model.compile(keras.optimizers.SGD(0.5))
    data = batches(64, X) if packed else batches(64, X).map(lambda x: x)
    before = np.square(model.predict(X[:64], verbose=0)).mean() / 2
    assert tf_distribute.fit(model, data, verbose=0).history["loss"] == pytest.approx([before], rel=1e-5)


def test_predictions_end_where_a_callback_says():
    class Stop(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            self.model.stop_predicting = True

    model = make_model(tf.distribute.get_strategy())
    assert len(tf_distribute.predict(model, batches(128, X), callbacks=[Stop()], verbose=0)) == BATCH
    assert len(tf_distribute.predict(model, batches(128, X), verbose=0)) == 2 * BATCH


# --- what is Keras's own ---------------------------------------------------------------------------------------------


def missing(owner, names):
    """What is gone of the names that `_keras` takes from an object, as sentences."""
    for name, parameters in names.items():
        if not hasattr(owner, name):
            yield f"{type(owner).__name__}.{name} is gone from Keras {keras.__version__}"
        elif parameters is not None:
            found = inspect.signature(getattr(owner, name)).parameters
            for parameter in set(parameters) - set(found):
                yield f"{type(owner).__name__}.{name} takes no `{parameter}` in Keras {keras.__version__}: {[*found]}"


def test_all_that_is_taken_from_keras_is_there():
    model = make_model(tf.distribute.get_strategy())
    model.fit(batches(4, X, Y), shuffle=False, verbose=0)
    model.predict(batches(4, X), verbose=0)
    model.evaluate(batches(4, X, Y), verbose=0)
    found = [*missing(model, _keras.MODEL_INTERNALS), *missing(model.optimizer, _keras.OPTIMIZER_INTERNALS)]
    assert not found, "; ".join(found)
    assert [*missing(model, {"fit": ("nothing",), "nowhere": None})]  # it can fail
    assert keras.layers.BatchNormalization(synchronized=True).synchronized


IDS = np.random.default_rng(3).integers(0, 3, (6, 4))
# What the labels are: their array, and the number of axes of the model's output.
LABELS = {
    "ids": (IDS[:, 0], 2),
    "a column of ids": (IDS[:, :1], 2),
    "rows": (np.eye(3)[IDS[:, 0]], 2),
    "ids of positions": (IDS, 3),
    "columns of ids of positions": (IDS[..., None], 3),
    "rows of positions": (np.eye(3)[IDS], 3),
}


@pytest.mark.parametrize("kind", LABELS)
def test_class_weights_follow_ids_and_rows_of_examples_and_of_positions(kind):
    labels, rank = LABELS[kind]
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros((6, 2)), labels)).batch(6)
    _, _, weight = next(iter(_data.weigh_classes(dataset, {0: 0.5, 2: 3.0}, rank)))
    ids = IDS if rank == 3 else IDS[:, 0]
    np.testing.assert_array_equal(weight, np.array([0.5, 1.0, 3.0])[ids])


def test_class_weights_of_positions_weigh_the_loss():
    x = np.random.default_rng(4).normal(size=(6, 4, 2)).astype("float32")
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits = model.predict(x, verbose=0).astype("float64")
    dataset = tf.data.Dataset.from_tensor_slices((x, IDS)).batch(6)
    history = tf_distribute.fit(model, dataset, class_weight={0: 0.5, 2: 3.0}, verbose=0)
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, IDS[..., None], -1)[..., 0]
    expected = (each * np.array([0.5, 1.0, 3.0])[IDS]).mean()
    np.testing.assert_allclose(history.history["loss"][0], expected, rtol=1e-5)
