"""Continuing inside a training: its state after an epoch is saved now and then, and when it is interrupted."""

import contextlib
import time

import keras
import numpy as np

from keras_logit_adjust.compare import storage

SECONDS = 120.0  # between two checkpoints; a killed process loses at most this time and one epoch


class Place:
    """The position in a training: a stage, an epoch of it, and the state after all epochs before.

    The state is all variables of model and optimizer. Order and augmentation are functions of (seed, epoch, step). So a
    training that continues from here ends as an undisturbed one, bit by bit on one machine.

    Args:
        path: the path of the file that it is kept in, or None.
        mark: digits that differ where the training is another; a file that has other ones is not taken up.

    Attributes:
        stage: the stage of training, from 0.
        epoch: the next epoch of the stage.
        losses: the losses of all finished epochs.
        penalties: on the weights that each of these epochs ended with.
        before: seconds that were spent on them by processes that are gone.
    """

    def __init__(self, path=None, mark=""):
        self.path, self.mark = path, mark
        self.stage, self.epoch, self.losses, self.penalties, self.before = 0, 0, [], [], 0.0
        self._variables, self._unsaved, self._started = None, None, time.perf_counter()
        self._saved_at = self._started
        # A damaged archive raises errors of many types, from zipfile, zlib or NumPy. It counts as no archive.
        with contextlib.suppress(Exception):
            self._read()

    def _read(self):
        if self.path is None:
            return
        with np.load(self.path) as stored:
            found = dict(stored)
        if str(found.pop("mark")) != self.mark:
            return
        stage, epoch, seconds = (found.pop(name).item() for name in ("stage", "epoch", "seconds"))
        self.losses, self.penalties = (found.pop(name).tolist() for name in ("losses", "penalties"))
        self._variables = found
        self.stage, self.epoch, self.before = stage, epoch, seconds

    @property
    def seconds(self):
        """The time that the training took so far."""
        return self.before + time.perf_counter() - self._started

    def enter(self, stage, model):
        """Begin a stage of training with a compiled model, or continue in it; returns the first epoch to train."""
        if self._variables is None:
            self.stage, self.epoch = stage, 0
        else:
            model.optimizer.build(model.trainable_variables)
            for name, variable in _variables_of(model).items():
                variable.assign(self._variables[name])
            self._variables = None
        return self.epoch

    def follow(self, model, *, epochs):
        """A callback that keeps this place up to date."""

        def end(epoch, logs):
            self.losses.append(float(logs["loss"]))
            self.penalties.append(float(sum(keras.ops.convert_to_numpy(penalty) for penalty in model.losses)))
            self.epoch = epoch + 1
            if self.path is None or self.epoch == epochs:  # a run or a stage has ended
                return
            kept = {name: keras.ops.convert_to_numpy(value).copy() for name, value in _variables_of(model).items()}
            own = {name: getattr(self, name) for name in ("mark", "stage", "epoch", "seconds")}
            self._unsaved = own | {"losses": np.array(self.losses), "penalties": np.array(self.penalties)} | kept
            if time.perf_counter() - self._saved_at >= SECONDS:
                self.save()

        return keras.callbacks.LambdaCallback(on_epoch_end=end)

    @contextlib.contextmanager
    def kept(self):
        """Write the state if the code in this context is interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            self.save()
            raise

    def save(self):
        """Write the state after the last epoch, unless it is written already."""
        if self._unsaved is not None:
            storage.write_npz(self.path, self._unsaved)
            self._unsaved, self._saved_at = None, time.perf_counter()


def _variables_of(model):
    """`{name: variable}` of everything that a training changes: weights, states of random seeds, the optimizer."""
    metrics = {id(variable) for variable in model.metrics_variables}  # they start again with each epoch
    own = [variable for variable in model.variables if id(variable) not in metrics]
    parts = {"model": own, "optimizer": model.optimizer.variables}
    return {f"{part}_{i}": variable for part, variables in parts.items() for i, variable in enumerate(variables)}
