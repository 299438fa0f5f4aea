"""One progress bar over all trainings, with the time that is left."""

import sys
import time

import numpy as np
from tqdm import tqdm

_SHAPE = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"


class Progress:
    """A progress bar that measures the cost of an epoch, and of the rest of a training.

    Args:
        epochs: `{training: epochs}` of all that may have to be trained; a training is any hashable value.
        jobs: how many of them run side by side.
        is_shown: whether it is shown.
        unit: the name of an epoch in the bar.
        clock: seconds, from any zero.
    """

    def __init__(self, epochs, *, jobs=1, is_shown=True, unit="epochs", clock=time.perf_counter):
        self._left, self._jobs, self._clock = dict(epochs), jobs, clock
        self._begun, self._last, self._costs, self._overheads = {}, {}, [], []
        # A log file gets a few lines, a terminal gets a moving bar; runs on disk need no bar.
        pace = {"mininterval": 0.1 if sys.stderr.isatty() else 20.0, "delay": 1, "disable": not is_shown}
        self._bar = tqdm(total=sum(self._left.values()), unit=unit, bar_format=_SHAPE, **pace)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self._bar.close()

    def skip(self, training):
        """Leave out a training that is on disk."""
        self._bar.total -= self._left.pop(training)

    def begin(self, training, done=0):
        """A training begins, after `done` epochs of an interrupted process."""
        self._left[training] -= done
        self._bar.total -= done
        self._begun[training] = self._clock()

    def epoch(self, training, loss):
        """An epoch of a training is over."""
        now = self._clock()
        if training in self._last:
            self._costs.append(now - self._last[training])
        else:  # this time includes tracing and compilation
            self._overheads.append((training, now - self._begun[training]))
        self._last[training] = now
        self._left[training] -= 1
        left = self.seconds_left()
        told = "" if left is None else f"about {_in_words(left)} left, "
        seed, name = training
        self._bar.set_description(f"seed {seed} {name}", refresh=False)
        self._bar.set_postfix_str(f"{told}loss={loss:.3f}", refresh=False)
        self._bar.update()

    def end(self, training):
        """A training is over."""
        del self._left[training]

    def seconds_left(self):
        """The seconds that the rest takes, or None while the cost of an epoch is not known."""
        if not self._costs:
            return None
        cost = float(np.median(self._costs))
        beside = max(0.0, float(np.median([seconds for _, seconds in self._overheads])) - cost)
        to_begin = sum(training not in self._begun for training in self._left)
        work = cost * sum(self._left.values()) + beside * to_begin
        return work / max(1, min(self._jobs, len(self._left)))


def _in_words(seconds):
    """A time in words, rounded for an estimate."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
