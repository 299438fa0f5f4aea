"""`compare` goes on inside a training: it ends with the very logits of one that was not interrupted."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS

from keras_logit_adjust import _process
from keras_logit_adjust.compare import compare, resuming, training

pytestmark = pytest.mark.usefixtures("folder")


class Killed(BaseException):
    """As if the process were gone: nothing of `compare` catches it."""


def write_images(folder, shape):
    rng = np.random.default_rng(0)
    for name, counts in (("train", [40, 14, 5]), ("test", [9, 9, 9])):
        y = rng.permutation(np.repeat([0, 1, 2], counts))
        np.savez(folder / f"{name}.npz", x=(60 * y[:, None, None, None] + rng.integers(0, 99, (y.size, *shape))), y=y)


def interrupt(monkeypatch, *, after, error):
    """Raises within the epoch that comes after so many others, of all stages together, once."""
    begun, plain = [], training._telling

    def telling(on_epoch):
        callback = plain(on_epoch)

        def begin(batch, logs):
            if batch == 0:
                begun.append(batch)
            if batch == 1 and len(begun) == after + 1:
                raise error

        callback.on_train_batch_begin = begin
        return callback

    monkeypatch.setattr(training, "_telling", telling)


def kept_in(output, method):
    """The arrays of predictions.npz, and what a run keeps of its training."""
    with (
        np.load(pathlib.Path(output) / "predictions.npz") as stored,
        np.load(pathlib.Path(output) / "runs" / f"{method}_seed0.npz") as run,
    ):
        return {**stored, **{f"{name} of the run": run[name] for name in ("loss", "weight_penalty", "train_logits")}}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


STRONG = dataclasses.replace(CONFIG, recipe="strong", batch_size=64)
PAPER = dataclasses.replace(CONFIG, recipe="paper", batch_size=16)
CASES = {  # in an epoch after how many others, of both stages of cRT together
    "rows, mixed and averaged, weights that come late": (STRONG, "adaptive_drw", 2),
    "images, shifted, dropout, in the second stage": (PAPER, "crt", 4),
    "images, shifted, dropout, in the first stage": (PAPER, "crt", 1),
    "rows, a sampler": (CONFIG, "balanced_sampler", 1),
}


@pytest.mark.parametrize(
    "case", [*list(CASES)[-1:], *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[:-1])]
)
def test_a_training_that_was_killed_ends_as_one_that_was_not(case, monkeypatch, folder):
    config, method, after = CASES[case]
    config = dataclasses.replace(config, epochs=3)
    if case.startswith("images"):
        write_images(folder, (8, 8, 1))
    compare(config, methods=[method], seeds=1, output="undisturbed")
    shutil.copytree("undisturbed", "killed")
    pathlib.Path("killed", "runs", f"{method}_seed0.npz").unlink()
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, after=after, error=Killed)
        compare(config, methods=[method], seeds=1, output="killed")
    (left,) = pathlib.Path("killed", "runs").glob("*.checkpoint")
    with np.load(left) as stored:
        assert len(stored["losses"]) == after
    compare(config, methods=[method], seeds=1, output="killed")
    assert_same(kept_in("killed", method), kept_in("undisturbed", method))
    assert not left.exists()


UNTIL_KILLED = pathlib.Path(__file__).parent / "helpers" / "compare_until_killed.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts three processes: once")
def test_a_process_that_is_killed_within_an_epoch_loses_nothing(folder):
    write_images(folder, (8, 8, 1))
    options = ["--methods", "crt", "--recipe", "paper", "--epochs", "3", "--batch-size", "16", "--seeds", "1"]
    command = ["compare", *ROWS, *options]
    left = pathlib.Path("killed", "runs", "crt_seed0.checkpoint")

    environment = dict(os.environ)
    _process.limit_threads(environment, command)  # the program that is killed is no command of the package

    def run(output, *program):
        words = [sys.executable, *program, *command, "--output", output]
        return subprocess.run(words, env=environment, timeout=300).returncode

    assert run("undisturbed", "-m", "keras_logit_adjust") == 0
    assert run("killed", str(UNTIL_KILLED)) == -signal.SIGKILL and left.exists()
    assert run("killed", "-m", "keras_logit_adjust") == 0 and not left.exists()
    assert_same(kept_in("killed", "crt"), kept_in("undisturbed", "crt"))
