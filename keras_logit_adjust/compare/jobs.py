"""Trainings one after the other in this process, or several at once in other processes."""

import collections
import multiprocessing
import signal
import time
import traceback
from multiprocessing import connection

import keras

from keras_logit_adjust import _process
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import devices, storage, training, units
from keras_logit_adjust.compare.loading import Loader
from keras_logit_adjust.compare.resuming import Place

_PATIENCE = 20.0  # seconds that a stopped process has to save its state


class Here:
    """Trains in this process; a run starts as soon as it is submitted.

    Args:
        progress: a `Progress`, or what takes its messages.
        keep: called with each finished `Run`.
        folder: the folder of the comparison.
        devices: as `devices.opened` gives them.
        config: a `Config`.
        recipe: a `Recipe`.
    """

    def __init__(self, progress, keep, *, folder, devices, config, recipe):
        self._progress, self._keep, self._folder = progress, keep, folder
        self._settings = {"config": config, "recipe": recipe, "devices": devices}
        self._scale = None, None  # the seed and scale of the last data

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def submit(self, name, dataset):
        """Train the model of the row `name`."""
        key, split_hash, used = (dataset.seed, name), dataset.split_hash, self._settings["devices"]
        if self._scale[0] != split_hash:
            self._scale = split_hash, units.scaler_of(dataset)
        path = storage.checkpoint_path(self._folder, name, dataset.seed) if used.keeps_epochs else None
        mark = storage.mark_of(self._settings["config"], self._settings["recipe"], name, dataset)
        place = Place(path, mark)
        self._progress.begin(key, len(place.losses))
        with used.exact(), place.kept():
            run = training.train(
                name,
                dataset,
                scale=self._scale[1],
                place=place,
                on_epoch=lambda loss: self._progress.epoch(key, loss),
                **self._settings,
            )
        self._keep(run)
        self._progress.end(key)

    def finish(self):
        """Wait for all."""


class SideBySide:
    """Trains in `number` processes. Only this process shows progress and writes finished runs.

    The arguments are those of `Here`; a training gets the data of its seed in its own process.
    """

    def __init__(self, number, progress, keep, **settings):
        self._number, self._progress, self._keep, self._settings = number, progress, keep, settings
        self._context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of a backend
        self._waiting, self._processes, self._idle = collections.deque(), {}, []

    def __enter__(self):
        return self

    def __exit__(self, kind, *raised):
        if kind is not None:
            self._stop()
        for process in self._processes.values():
            process.join()

    def submit(self, name, dataset):
        """Train the model of the row `name` as soon as a process is free."""
        self._waiting.append((name, dataset.seed, dataset.split_hash))
        if not self._idle and len(self._processes) < self._number:
            self._start()
        self._listen(timeout=0)

    def finish(self):
        """Wait for all."""
        while self._waiting or len(self._idle) < len(self._processes):
            self._listen(timeout=None)
        for pipe in self._idle:
            pipe.send(None)

    def _start(self):
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._settings), daemon=True)
        with _process.silent():  # the import of a backend prints lines, and each process would show them
            process.start()
        there.close()
        self._processes[here] = process
        self._idle.append(here)

    def _listen(self, timeout):
        """Give free processes a training, and read the messages of the others."""
        while self._idle and self._waiting:
            self._idle.pop().send(self._waiting.popleft())
        busy = [pipe for pipe in self._processes if pipe not in self._idle]
        for pipe in connection.wait(busy, timeout):
            try:
                kind, *said = pipe.recv()
            except (EOFError, ConnectionError) as error:
                raise self._lost(self._processes[pipe]) from error
            if kind == "failed":
                error, trace = said
                raise error from RuntimeError(f"In the process of a training:\n{trace}")
            if kind == "run":
                self._keep(*said)
                self._idle.append(pipe)
            else:
                getattr(self._progress, kind)(*said)

    def _lost(self, process):
        process.join()
        return ArgumentError(
            "jobs",
            f"A process that trains has ended by itself, with status {process.exitcode}, as it does when memory runs "
            f"out. Received: jobs={self._number}: give fewer, and repeat the command to continue.",
        )

    def _stop(self):
        """Let each process save the state of its training, and end."""
        for process in self._processes.values():
            process.terminate()
        limit = time.monotonic() + _PATIENCE
        for process in self._processes.values():
            process.join(max(0.0, limit - time.monotonic()))
            process.kill()


class _Told:
    """Progress as messages through a pipe."""

    def __init__(self, pipe):
        for kind in ("begin", "epoch", "end"):
            setattr(self, kind, lambda *said, kind=kind: pipe.send((kind, *said)))


def _work(pipe, settings):
    """Train what comes through a pipe, until None comes or the process is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process handles it
    signal.signal(signal.SIGTERM, _interrupt_once)
    load = Loader(settings["config"])
    keras.config.set_dtype_policy(settings["config"].precision)
    try:
        here = Here(_Told(pipe), lambda run: done.append(run), **settings)
        while (task := pipe.recv()) is not None:
            (name, seed, split_hash), done = task, []
            dataset = load(seed)
            if dataset.split_hash != split_hash:
                raise load.changed("train")
            here.submit(name, dataset)
            pipe.send(("run", *done))
    except (KeyboardInterrupt, EOFError, ConnectionError):
        pass  # told to stop, or the first process has ended: the state is saved, and no message is sent
    except Exception as error:
        pipe.send(("failed", error, traceback.format_exc()))


def _interrupt_once(number, frame):
    signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the writing
    raise KeyboardInterrupt


def check_jobs(jobs, config):
    """Raise if trainings cannot run at once."""
    if jobs > 1 and (config.strategy is not None or devices.has_gpu()):
        why = "a GPU is here" if config.strategy is None else f"strategy={config.strategy!r} shares every batch"
        raise ArgumentError(
            "jobs", f"`jobs` must be 1 if the trainings share their devices: {why}. Received: jobs={jobs}."
        )


def default_jobs(config):
    """The number of jobs for which there are cores."""
    if config.strategy is not None or devices.has_gpu():
        return 1
    return max(1, _process.cores() // devices.threads())
