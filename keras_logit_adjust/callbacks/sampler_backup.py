"""The state of a sampler, saved beside the file of a model."""

import json
import os
import warnings

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust.data import LongTailSampler, MultiLabelSampler


class SamplerBackup(keras.callbacks.Callback):
    """Keeps the state of a `LongTailSampler` beside a model that is saved in `fit`, to go on with its next batch.

    Give it the same `save_freq` as `keras.callbacks.BackupAndRestore` or `ModelCheckpoint` has, and after an
    interruption make the sampler from the file:

        sampler = SamplerBackup.restore(path, labels) or LongTailSampler(labels, batch_size, seed=0)
        model.fit(sampler.dataset((features, labels)), steps_per_epoch=sampler.steps_per_epoch, shuffle=False,
                  callbacks=[keras.callbacks.BackupAndRestore(folder), SamplerBackup(sampler, path)])

    `fit` itself goes on at the beginning of an epoch. With a `save_freq` in batches it repeats the steps of the
    interrupted epoch, with new batches. So a run that must end as an undisturbed one has `save_freq="epoch"` in both
    callbacks, or uses `kla.tf_distribute.fit`.

    The callback counts the batches that were trained on. The optimizer's `iterations` differ from this number with
    gradient accumulation, and with loss scaling, which skips updates. A data pipeline may have read more batches.

    Args:
        sampler: the `LongTailSampler` (or `MultiLabelSampler`) whose `dataset` or `py_dataset` is trained on.
        path: the path of the file, JSON, replaced as a whole.
        save_freq: "epoch", or a number of batches.

    Raises:
        ValueError: for another `save_freq`.

    Warns:
        UserWarning: if training begins with another batch than the one that `path` names, because the sampler was made
            anew instead of by `restore`.

    Example:

    >>> import tempfile, numpy as np, keras_logit_adjust as kla
    >>> path = f"{tempfile.mkdtemp()}/sampler.json"
    >>> features, labels = np.ones((8, 2)), np.repeat([0, 1], [6, 2])
    >>> sampler = kla.data.LongTailSampler(labels, batch_size=4, seed=0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> batches, backup = sampler.py_dataset((features, labels)), SamplerBackup(sampler, path)
    >>> _ = model.fit(batches, steps_per_epoch=2, epochs=3, shuffle=False, verbose=0, callbacks=[backup])
    >>> SamplerBackup.restore(path, labels).start_step
    6
    """

    def __init__(self, sampler, path, *, save_freq="epoch"):
        super().__init__()
        if save_freq != "epoch":
            save_freq = _checks.check_integer(save_freq, "save_freq", minimum=1)
        self.sampler, self.path, self.save_freq = sampler, path, save_freq

    @staticmethod
    def restore(path, labels):
        """The sampler at the batch where `path` was written, or None where there is no such file.

        Raises:
            ValueError: for labels other than those of the sampler that was saved.
        """
        try:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            return None
        kind = MultiLabelSampler if isinstance(state, dict) and "unlabeled_share" in state else LongTailSampler
        return kind.from_state(state, labels)

    def on_train_begin(self, logs=None):
        self._warn_of_another_step()
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        self._before = self._step = self._saved = self.sampler.start_step

    def _warn_of_another_step(self):
        """Warn if the file on disk is of a later batch than the sampler begins with: its batches would come again."""
        try:
            with open(self.path, encoding="utf-8") as file:
                step = json.load(file)["step"]
        except FileNotFoundError:
            return
        if step != self.sampler.start_step:
            warnings.warn(
                f"{os.fspath(self.path)} was written at batch {step}, and the sampler begins with batch "
                f"{self.sampler.start_step}. To go on, make it by `SamplerBackup.restore(path, labels)`; to begin "
                "anew, delete the file.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None):
        self._before = self._step

    def on_train_batch_end(self, batch, logs=None):
        self._step = self._before + batch + 1  # with `steps_per_execution`, `batch` is the last of several
        if self.save_freq != "epoch" and self._step - self._saved >= self.save_freq:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        if self.save_freq == "epoch":
            self._save()

    def _save(self):
        half = f"{os.fspath(self.path)}.part"
        with open(half, "w", encoding="utf-8") as file:
            json.dump(self.sampler.state(self._step), file)
        os.replace(half, self.path)
        self._saved = self._step
