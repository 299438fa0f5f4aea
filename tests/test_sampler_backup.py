"""`SamplerBackup`: what `fit` trained on is counted, kept and gone on from."""

import json
import os

import keras
import numpy as np
import pytest

from keras_logit_adjust.callbacks import SamplerBackup
from keras_logit_adjust.data import LongTailSampler

LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(4), [24, 10, 5, 1]))
NUMBERS = np.arange(40, dtype="float32")[:, None]


class Seen(keras.callbacks.Callback):
    """What was in the file after every batch."""

    def __init__(self, path):
        super().__init__()
        self.path, self.steps = path, []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(json.loads(self.path.read_text())["step"] if self.path.exists() else None)


def fit(sampler, callbacks, epochs=2, optimizer=None, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(1 / 40), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **options)
    batches = sampler.py_dataset((NUMBERS, LABELS))
    model.fit(batches, steps_per_epoch=7, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return model.get_weights()


def make():
    return LongTailSampler(LABELS, 6, seed=3)


def test_the_state_is_kept_after_every_epoch(tmp_path):
    path = tmp_path / "sampler.json"
    seen = Seen(path)
    fit(make(), [SamplerBackup(make(), path), seen], epochs=3)
    assert seen.steps == [None] * 7 + [7] * 7 + [14] * 7
    assert SamplerBackup.restore(path, LABELS).start_step == 21
    assert os.listdir(tmp_path) == ["sampler.json"]


def test_the_state_is_kept_after_every_few_batches_across_epochs(tmp_path):
    path = tmp_path / "sampler.json"
    seen = Seen(path)
    fit(make(), [SamplerBackup(make(), path, save_freq=3), seen])
    assert seen.steps == [None, None, *[3] * 3, *[6] * 3, *[9] * 3, *[12] * 3]


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 7},
        {"optimizer": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)},
        {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e38), initial_scale=1e38)},
    ],
    ids=["several steps at once", "accumulated gradients", "skipped updates"],
)
def test_batches_are_counted_and_not_updates(options, tmp_path):
    if "steps_per_execution" in options and keras.backend.backend() == "torch":
        pytest.skip("torch takes one step at a time")
    options = {name: value() if callable(value) else value for name, value in options.items()}
    fit(make(), [SamplerBackup(make(), tmp_path / "sampler.json")], **options)
    assert SamplerBackup.restore(tmp_path / "sampler.json", LABELS).start_step == 14


class Interrupted(keras.callbacks.Callback):
    """Ends `fit` at the first batch of an epoch, as a machine that goes down does."""

    def __init__(self, epoch):
        super().__init__()
        self.interrupted = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.interrupted:
            raise KeyboardInterrupt


def test_an_interrupted_fit_with_backups_ends_as_an_uninterrupted_one(tmp_path):
    expected = fit(make(), [], epochs=4)
    path = tmp_path / "sampler.json"

    def run(*more):
        sampler = SamplerBackup.restore(path, LABELS) or make()
        model_too = keras.callbacks.BackupAndRestore(tmp_path / "model", delete_checkpoint=False)
        return fit(sampler, [model_too, SamplerBackup(sampler, path), *more], epochs=4)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(2))
    assert SamplerBackup.restore(path, LABELS).start_step == 14
    for found, weight in zip(run(), expected, strict=True):
        np.testing.assert_allclose(found, weight, rtol=1e-6, atol=1e-7)
    assert SamplerBackup.restore(path, LABELS).start_step == 28


def test_nothing_saved_is_nothing_to_restore_and_other_labels_are_refused(tmp_path):
    assert SamplerBackup.restore(tmp_path / "none.json", LABELS) is None
    (tmp_path / "state.json").write_text(json.dumps(make().state(5)))
    with pytest.raises(ValueError, match="their hash differs"):
        SamplerBackup.restore(tmp_path / "state.json", LABELS[::-1])


@pytest.mark.parametrize("save_freq", [0, 1.5, "batch", None])
def test_other_frequencies_are_refused(save_freq):
    with pytest.raises(ValueError, match="`save_freq` must be an integer of at least 1"):
        SamplerBackup(make(), "path", save_freq=save_freq)


def test_a_sampler_made_anew_beside_a_file_of_a_later_batch_is_noticed(tmp_path):
    path = tmp_path / "sampler.json"
    fit(make(), [SamplerBackup(make(), path)], epochs=2)
    with pytest.warns(
        UserWarning, match=r"written at batch 14, and the sampler begins with batch 0.*restore\(path, labels\)"
    ):
        fit(make(), [SamplerBackup(make(), path)], epochs=1)
    again = SamplerBackup.restore(path, LABELS)
    fit(again, [SamplerBackup(again, path)], epochs=1)  # in tests, a warning is an error


def test_the_folder_of_the_file_is_made(tmp_path):
    path = tmp_path / "new" / "folder" / "sampler.json"
    sampler = make()
    fit(sampler, [SamplerBackup(sampler, path)], epochs=1)
    assert SamplerBackup.restore(path, LABELS).start_step == 7
