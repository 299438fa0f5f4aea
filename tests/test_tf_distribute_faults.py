"""What interrupts a training with `kla.tf_distribute`, and that it goes on from there as if nothing had been."""

import json
import pathlib
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import distributed_fit, workers
from helpers.distributed_fit import LABELS, X, Y, batches, make_model, plain, weights_of

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.data import LongTailSampler

pytestmark = pytest.mark.slow
PROGRAM = pathlib.Path(__file__).with_name("helpers") / "distributed_until_killed.py"
STEPS, EPOCHS = 9, 3  # 67 examples in batches of 8


class Interrupt(keras.callbacks.Callback):
    """Counts batches, and does something after one of them."""

    def __init__(self, after=None, action=None):
        super().__init__()
        self.steps, self.after, self.action = 0, after, action

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.after:
            self.action()


def interrupt():
    signal.raise_signal(signal.SIGINT)


def sampled(batch_size=8, seed=1):
    sampler = LongTailSampler(LABELS, batch_size, seed=seed)
    return {"dataset": lambda sampler: sampler.dataset((X[:67], LABELS)), "sampler": sampler}


FEEDS = {
    "a sampler": sampled,
    "finite": lambda: {"dataset": batches(67, X, Y, rows=8)},
    "of unknown length": lambda: {"dataset": batches(67, X, Y, rows=8).filter(lambda x, y: True)},
    "repeated": lambda: {"dataset": batches(67, X, Y, rows=8).repeat(), "steps_per_epoch": STEPS},
    "shuffled": lambda: {"dataset": batches(67, X, Y, rows=8).shuffle(9, seed=3), "steps_per_epoch": STEPS},
}


def train(folder, feed=None, model=None, callback=None, **options):
    """The weights and the history at the end, and how many steps were trained."""
    model, callbacks = model or make_model(tf.distribute.get_strategy()), keras.tree.flatten(callback or Interrupt())
    options = {"epochs": EPOCHS, "save_freq": 5, "backup_dir": folder, "verbose": 0, **(feed or sampled()), **options}
    history = tf_distribute.fit(model, callbacks=callbacks, **options)
    return weights_of(model), plain(history.history), callbacks[0].steps


def interrupted(folder, after=13, **options):
    with pytest.raises(KeyboardInterrupt):
        train(folder, callback=Interrupt(after, interrupt), **options)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed():
    return train(None)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- workers that are killed -----------------------------------------------------------------------------------------


def job(folder, killed_at):
    """The commands of two workers, of which the second is killed after a number of batches."""
    ports = workers.free_ports(2)
    return [[PROGRAM, folder, killed_at, index, *ports] for index in (0, 1)]


def test_a_killed_worker_ends_the_others_and_the_job_resumes(tmp_path, undisturbed):
    survivor, killed = workers.run(*job(tmp_path, 13), timeout=300)
    assert killed.status == -signal.SIGKILL
    assert survivor.status == 1
    assert "WorkerLostError: A worker of this job cannot be reached any more, in epoch 1" in survivor.errors
    assert survivor.seconds - killed.seconds < 60
    resumed = workers.run(*job(tmp_path, -1), timeout=300)
    assert [process.status for process in resumed] == [0, 0], resumed[0].errors[-3000:]
    for process in resumed:
        found = json.loads(process.output.strip().rpartition("\n")[2])
        assert_same((found["weights"], found["history"]), undisturbed)
        assert found["steps"] == STEPS * EPOCHS - 10


def test_a_worker_that_is_lost_before_the_first_step_is_named_too(tmp_path):
    survivor, killed = workers.run(*job(tmp_path, 0), timeout=300)
    assert (survivor.status, killed.status) == (1, -signal.SIGKILL)
    assert "WorkerLostError: A worker of this job cannot be reached any more, before the first step" in survivor.errors
    assert files(tmp_path) == []


# --- one process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEEDS)
def test_a_training_that_was_interrupted_goes_on_with_the_next_batch(tmp_path, name):
    expected = train(None, FEEDS[name]())
    interrupted(tmp_path, feed=FEEDS[name]())
    found = train(tmp_path, FEEDS[name]())
    assert_same(found, expected)
    assert (found[2], expected[2]) == (STEPS * EPOCHS - 10, STEPS * EPOCHS)


def test_a_checkpoint_may_fall_on_the_last_batch_of_an_epoch(tmp_path, undisturbed):
    interrupted(tmp_path, after=STEPS + 1, save_freq=STEPS)
    found = train(tmp_path, save_freq=STEPS)
    assert_same(found, undisturbed)
    assert found[2] == STEPS * (EPOCHS - 1)


def test_checkpoints_of_epochs_keep_the_last_two(tmp_path, undisturbed):
    assert_same(train(tmp_path, save_freq="epoch"), undisturbed)
    assert files(tmp_path) == ["step-000000000018.npz", "step-000000000027.npz"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def garble(path):
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, garble, lambda path: path.write_bytes(b"")], ids=["cut", "garbled", "empty"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, undisturbed, damage):
    interrupted(tmp_path)
    damage(tmp_path / "step-000000000010.npz")
    with pytest.warns(UserWarning, match=r"step-000000000010\.npz \(.*continues from the last good one, step-0+5\.npz"):
        interrupted(tmp_path, after=4, save_freq=3)
    assert files(tmp_path) == ["step-000000000005.npz", "step-000000000008.npz"]  # the broken one is gone
    found = train(tmp_path)
    assert_same(found, undisturbed)
    assert found[2] == STEPS * EPOCHS - 8


def test_nothing_is_trained_where_all_checkpoints_are_broken(tmp_path):
    interrupted(tmp_path)
    for path in tmp_path.iterdir():
        cut(path)
    callback = Interrupt()
    with pytest.raises(ValueError, match=r"All checkpoints in .*step-0+10\.npz .*step-0+5\.npz .*Remove the folder"):
        train(tmp_path, callback=callback)
    assert callback.steps == 0


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_a_save_that_was_interrupted_leaves_the_last_good_one(tmp_path, undisturbed, monkeypatch, error):
    save = np.savez

    def save_half(file, **arrays):
        save(file, **arrays)
        if int(arrays["about"].item().split('"steps": ')[1].split(",")[0]) == 10:
            file.truncate(file.tell() // 2)
            raise error

    monkeypatch.setattr(np, "savez", save_half)
    with pytest.raises(type(error)):
        train(tmp_path)
    monkeypatch.undo()
    assert files(tmp_path) == ["step-000000000005.npz", "step-000000000010.partial"]
    found = train(tmp_path)
    assert_same(found, undisturbed)
    assert found[2] == STEPS * EPOCHS - 5
    assert files(tmp_path) == ["step-000000000025.npz", "step-000000000027.npz"]


def test_a_finished_training_is_loaded_and_not_trained_again(tmp_path, undisturbed):
    train(tmp_path)
    with pytest.warns(UserWarning, match=r"finished after 3 epochs.*nothing is trained.*raise `epochs` to continue"):
        found = train(tmp_path)
    assert_same(found, undisturbed)
    assert found[2] == 0


def test_more_epochs_go_on_from_a_finished_training(tmp_path, capsys):
    train(tmp_path, epochs=2)
    found = train(tmp_path, epochs=4, verbose=2)
    assert "Continuing in epoch 2, at step 0" in capsys.readouterr().out
    assert_same(found, train(None, epochs=4))
    assert found[2] == 2 * STEPS


def test_a_training_that_a_callback_ended_stays_ended(tmp_path):
    def stop():
        callback.model.stop_training = True

    callback = Interrupt(13, stop)
    expected = train(tmp_path, callback=callback)
    with pytest.warns(UserWarning, match=r"ended by a callback after 2 epochs.*Remedy: remove the folder"):
        found = train(tmp_path, epochs=9)
    assert_same(found, expected)
    assert (expected[2], found[2]) == (13, 0)


def test_the_weights_that_early_stopping_chose_are_those_that_are_kept(tmp_path):
    def stopping():
        stop = keras.callbacks.EarlyStopping("loss", mode="max", restore_best_weights=True)
        return train(tmp_path, FEEDS["finite"](), epochs=9, callback=[Interrupt(), stop])

    expected = stopping()
    with pytest.warns(UserWarning, match="ended by a callback after 2 epochs"):
        assert_same(stopping(), expected)
    first = train(None, FEEDS["finite"](), epochs=1)
    np.testing.assert_allclose(expected[0], first[0], atol=1e-6)


def test_half_precision_and_the_state_of_an_optimizer_are_kept(tmp_path):
    def model():
        keras.utils.set_random_seed(0)
        policy = keras.DTypePolicy("bfloat16")
        found = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, dtype=policy), keras.layers.Dropout(0.5)])
        found.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return found

    expected = train(None, model=model())
    interrupted(tmp_path, model=model())
    assert_same(train(tmp_path, model=model()), expected)


def wider():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.Dense(4)])
    distributed_fit.compile_plain(model)
    return model


def with_adam():
    model = make_model(tf.distribute.get_strategy())
    model.compile("adam", model.loss)
    return model


OTHERS = {
    "a model": (lambda: {"model": wider()}, "a checkpoint of another model .or optimizer, or metrics.: its"),
    "an optimizer": (lambda: {"model": with_adam()}, "a checkpoint of another model .or optimizer"),
    "a sampler": (lambda: {"feed": sampled(seed=2)}, "with another sampler"),
    "a sampler's batches": (lambda: {"feed": sampled(batch_size=4)}, "with another sampler"),
    "no sampler": (lambda: {"feed": FEEDS["finite"]()}, "with another sampler"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, name):
    interrupted(tmp_path, after=6)
    options, message = OTHERS[name]
    with pytest.raises(ValueError, match=f"{message}.*another `backup_dir`, or remove the folder"):
        train(tmp_path, **options())


def test_a_checkpoint_of_batches_of_another_size_is_refused(tmp_path):
    interrupted(tmp_path, after=6, feed=FEEDS["finite"]())
    with pytest.raises(ValueError, match="with batches of 8, not of 16"):
        train(tmp_path, {"dataset": batches(67, X, Y, rows=16)})


# --- losses that are not finite --------------------------------------------------------------------------------------

WRONG = np.where(np.arange(len(Y)) == 14, 1234567, Y)  # in the second batch of eight
IN_SECOND = ", ".join(f"{i}: {n}" for i, n in enumerate(np.bincount(np.delete(Y[8:16], 6), minlength=4)) if n)
HOLED = np.where(np.arange(len(X))[:, None] == 14, np.nan, X).astype("float32")
ALL_OF_SECOND = ", ".join(f"{i}: {n}" for i, n in enumerate(np.bincount(Y[8:16], minlength=4)) if n)
NOT_FINITE = {
    "an id": ((X, WRONG), f"{{{IN_SECOND}, 1234567: 1}} (not among the ids of 4 classes: 1234567)"),
    "a feature": ((HOLED, Y), f"{{{ALL_OF_SECOND}}}."),
    "a feature, one-hot": ((HOLED, np.eye(4, dtype="float32")[Y]), f"{{{ALL_OF_SECOND}}}."),
    "a feature, uint8": ((HOLED, Y.astype("uint8")), f"{{{ALL_OF_SECOND}}}."),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_loss_that_is_not_finite_is_named_with_its_batch_and_not_kept(tmp_path, name):
    parts, counts = NOT_FINITE[name]
    with pytest.raises(FloatingPointError) as caught:
        train(tmp_path, {"dataset": batches(67, *parts, rows=8)}, initial_epoch=1, save_freq=1)
    assert "The loss is nan in epoch 1, at step 1 (both from 0)." in str(caught.value)
    assert counts in str(caught.value)
    assert files(tmp_path) == ["step-000000000001.npz"]


def test_classes_are_counted_for_a_subclassed_model_too():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    distributed_fit.compile_plain(model)
    with pytest.raises(FloatingPointError, match=f"{IN_SECOND}, 1234567: 1"):
        train(None, {"dataset": batches(67, X, WRONG, rows=8)}, model=model)
