"""Checkpoints of a training: written completely or not at all, and restored at the exact next batch."""

import dataclasses
import json
import os
import pathlib
import re
import warnings

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.tf_distribute import _cluster


@dataclasses.dataclass
class Place:
    """The position of a training.

    Attributes:
        epoch: the current or next epoch.
        batch: the number of finished batches in this epoch.
        steps: the number of finished batches in total.
        stopped: whether a callback has ended the training.
        history: the content of `History` for the epochs before.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    stopped: bool = False
    history: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        return f"in epoch {self.epoch}, at step {self.batch} (both from 0)"


class Backup:
    """The last two checkpoints of a model in a folder: variables of the model, its optimizer and its metrics.

    Args:
        folder: the folder of the files; all workers must see it.
        model: built and compiled.
        feed: the `Feed` with which it is trained.
        save_freq: "epoch", or a number of batches.
        sampler: a `LongTailSampler`, or None.
        is_writer: whether this process writes the files.
    """

    def __init__(self, folder, model, feed, *, save_freq, sampler, is_writer):
        if save_freq != "epoch":
            _checks.check_integer(save_freq, "save_freq", minimum=1)
        self.folder, self.save_freq, self.is_writer = pathlib.Path(folder), save_freq, is_writer
        self.model, self.strategy, self.sampler, self.batch_size = model, feed.strategy, sampler, feed.batch_size
        self._saved = None  # the steps at the last checkpoint

    def restore(self):
        """Load the last good checkpoint and return its `Place`; None if there is no checkpoint."""
        stored = self._last_good()
        steps = -1 if stored is None else stored["place"]["steps"]
        _cluster.check_same_everywhere(
            self.strategy,
            steps,
            rule=f"All workers must see the same `backup_dir`: put {self.folder} on storage they share.",
        )
        if stored is None:
            return None
        self._check_same(stored)
        with self.strategy.scope():
            for variable, value in zip(self._variables(), stored["values"], strict=True):
                # NumPy stores bfloat16 as bytes without a type.
                variable.assign(value if value.dtype.kind != "V" else value.view(np.dtype(variable.dtype)))
        self._saved = steps
        return Place(**stored["place"])

    def after_batch(self, place):
        if self.save_freq != "epoch" and place.steps - (self._saved or 0) >= self.save_freq:
            self.save(place)

    def after_epoch(self, place, is_last):
        if self.save_freq == "epoch" or is_last:
            self.save(place)

    def save(self, place):
        """Write a checkpoint, completely or not at all, and keep only the one before it."""
        # Read on every worker: reading sums the variables that have a copy on each worker.
        values = [np.asarray(variable) for variable in self._variables()]
        self._saved = place.steps
        if not self.is_writer:
            return
        about = {
            "place": dataclasses.asdict(place),
            "variables": self._signature(),
            "sampler": self._sampler_state(place),
            "batch_size": self.batch_size,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{place.steps:012d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                about=np.array(json.dumps(about, default=lambda value: np.asarray(value).tolist())),
                **_numbered(values),
            )
        os.replace(partial, path)
        # A later file is broken, or training would have continued from it.
        for other in set(self.folder.glob("step-*")) - {*[file for file in self._files() if file <= path][-2:]}:
            other.unlink(missing_ok=True)

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables, *self.model.metrics_variables]

    def _signature(self):
        """The properties that a model shares with its checkpoint: kinds (names without counters) and shapes."""
        return [[re.sub(r"_?\d+", "", variable.path), list(variable.shape)] for variable in self._variables()]

    def _sampler_state(self, place):
        return None if self.sampler is None else self.sampler.state(self.sampler.start_step + place.steps)

    def _files(self):
        return sorted(self.folder.glob("step-*.npz"))

    def _last_good(self):
        """The content of the newest file that is whole; None if there are no files."""
        files, broken = self._files()[::-1], []
        for path in files:
            try:
                with np.load(path) as stored:
                    about = json.loads(str(stored["about"]))
                    about["values"] = [stored[name] for name in _numbered(about["variables"])]
            except Exception as error:  # a damaged archive raises errors of many types: from zipfile, zlib or NumPy
                broken.append(f"{path.name} ({type(error).__name__}: {error})")
                continue
            if broken:
                warnings.warn(
                    f"Broken checkpoints in {self.folder}: {'; '.join(broken)}. Training continues from the last good "
                    f"one, {path.name}.",
                    stacklevel=4,
                )
            return about
        if broken:
            raise ValueError(
                f"All checkpoints in {self.folder} are broken: {'; '.join(broken)}. Remove the folder to start again."
            )
        return None

    def _check_same(self, stored):
        own, theirs = self._signature(), stored["variables"]
        state, stored_state = self._sampler_state(Place()), stored["sampler"]
        rows, stored_rows = self.batch_size, stored["batch_size"]
        if own != theirs:
            differing = next((pair for pair in zip(theirs, own, strict=False) if pair[0] != pair[1]), None)
            detail = f"its {differing[0]} is {differing[1]} here" if differing else f"{len(theirs)} against {len(own)}"
            other = f"another model (or optimizer, or metrics): {detail}"
        elif (stored_state is None) != (state is None) or state and {**stored_state, "step": 0} != {**state, "step": 0}:
            other = "a training with another sampler (labels or settings)"
        elif None not in (stored_rows, rows) and stored_rows != rows:
            other = f"a training with batches of {stored_rows}, not of {rows}: the place in the data is not known"
        else:
            return
        raise ValueError(
            f"{self.folder} holds a checkpoint of {other}. Choose another `backup_dir`, or remove the folder."
        )


def _numbered(values):
    return {f"{number:06d}": value for number, value in enumerate(values)}
