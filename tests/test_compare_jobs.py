"""`compare --jobs`: the figures of one job, errors as they are, and one bar with the time that is left."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS, read_json

from keras_logit_adjust import _process, cli
from keras_logit_adjust.compare import compare, devices, jobs
from keras_logit_adjust.compare.progress import Progress

pytestmark = pytest.mark.usefixtures("folder")
of_processes = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts processes: once")


# --- the bar ---------------------------------------------------------------------------------------------------------


def test_the_time_left_follows_from_epochs_and_from_what_they_cost(capsys):
    now = [0.0]
    runs = {(seed, name): epochs for seed in (0, 1) for name, epochs in (("erm", 10), ("crt", 20), ("focal", 10))}
    with Progress(runs, jobs=1, clock=lambda: now[0]) as progress:
        progress.skip((0, "focal"))
        progress.begin((0, "erm"), done=4)
        for seconds in (12.0, 2.0):  # 10 more for tracing
            assert progress.seconds_left() is None
            now[0] += seconds
            progress.epoch((0, "erm"), 0.5)
        # 4 epochs of this one, 20 + 10 + 20 + 10 of those to come, and 10 seconds beside for each of these.
        assert progress.seconds_left() == pytest.approx(2 * (4 + 60) + 10 * 4)
        for _ in range(4):
            now[0] += 2.0
            progress.epoch((0, "erm"), 0.5)
        progress.end((0, "erm"))
        assert progress.seconds_left() == pytest.approx(2 * 60 + 10 * 4)


def test_jobs_share_what_is_left_as_long_as_there_is_enough():
    now, runs = [0.0], {(0, name): 3 for name in ("erm", "focal", "crt")}
    with Progress(runs, jobs=2, clock=lambda: now[0]) as progress:
        for key in list(runs)[:2]:
            progress.begin(key)
        for _ in range(2):
            now[0] += 1.0
            for key in list(runs)[:2]:
                progress.epoch(key, 0.5)
        assert progress.seconds_left() == pytest.approx((1 + 1 + 3) / 2)
        now[0] += 1.0
        for key in list(runs)[:2]:
            progress.epoch(key, 0.5)
            progress.end(key)
        assert progress.seconds_left() == pytest.approx(3)


# --- processes -------------------------------------------------------------------------------------------------------


def stored(output):
    with np.load(pathlib.Path(output) / "predictions.npz") as file:
        return dict(file)


@pytest.mark.slow
@of_processes
def test_two_jobs_give_the_figures_of_one_and_one_bar(folder):
    command = [sys.executable, "-m", "keras_logit_adjust", "compare", *ROWS, "--methods", "crt", "--epochs", "3"]
    errors, environment = [], {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for number in ("1", "2"):
        options = ["--seeds", "2", "--jobs", number, "--output", number]
        found = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, env=environment)
        assert found.returncode == 0, found.stderr
        errors.append(found.stderr)
    one, two = stored("1"), stored("2")
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(two[name], values, err_msg=name)
    assert read_json(folder / "1" / "results.json")["methods"] == read_json(folder / "2" / "results.json")["methods"]
    for text in errors:
        assert all("epochs [" in line for line in text.replace("\r", "\n").splitlines() if line.strip()), text


@pytest.mark.slow
@of_processes
def test_an_error_in_a_process_comes_out_as_itself(folder, monkeypatch, capsys):
    submit = jobs.SideBySide.submit

    def submit_other(self, name, dataset):
        submit(self, name, types.SimpleNamespace(seed=dataset.seed, split_hash="that of another file"))

    monkeypatch.setattr(jobs.SideBySide, "submit", submit_other)
    assert cli.main(["compare", *ROWS, "--methods", "erm", "--seeds", "1", "--jobs", "2"]) == 2
    assert "--train must not change until all seeds are trained" in capsys.readouterr().err


def trains(child):
    """Whether a process is there that trains, on Linux."""
    words = pathlib.Path(f"/proc/{child}/cmdline")
    return words.exists() and "spawn_main" in words.read_text()


@pytest.mark.slow
@of_processes
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes_and_keeps_their_states(number, status, folder):
    command = [sys.executable, "-m", "keras_logit_adjust", "compare", *ROWS, "--epochs", "100000", "--output", "out"]
    with subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as main:
        children = pathlib.Path(f"/proc/{main.pid}/task/{main.pid}/children")
        limit = time.monotonic() + 120
        while not main.stderr.read(1) and time.monotonic() < limit:  # the bar: a first epoch is over
            time.sleep(0.1)
        started = [child for child in children.read_text().split() if trains(child)] if children.exists() else []
        main.send_signal(number)
        output, _ = main.communicate(timeout=60)
    assert main.returncode == status
    assert "Interrupted. 0 finished runs and the state of" in output
    assert list((folder / "out" / "runs").glob("*.checkpoint"))
    assert not any(trains(child) for child in started)


# --- threads and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["compare"], {}, "1"),
        (["compare", "--recipe", "paper"], {"OMP_NUM_THREADS": "3"}, "3"),
        (["compare", "--strategy", "mirrored"], {}, None),
        (["compare", "--strategy=mirrored"], {}, None),
        (["adjust", "model.keras"], {}, None),
    ],
)
def test_a_training_takes_one_thread_or_as_many_as_are_asked_for(words, given, expected):
    environment = dict(given)
    _process.limit_threads(environment, words)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
    assert environment == (given if expected is None else dict.fromkeys(names, expected))


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_a_command_asks_for_onednn_unless_the_user_has_decided(given, expected, monkeypatch):
    monkeypatch.setattr(_process, "is_command", lambda: True)
    monkeypatch.setattr(_process, "_loud", mock.MagicMock())
    monkeypatch.setattr(os, "environ", dict(given))
    _process.prepare()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected


def test_jobs_and_devices_that_share_a_batch_are_refused_together(folder):
    config = dataclasses.replace(CONFIG, strategy="mirrored")
    with pytest.raises(ValueError, match=r"`jobs` must be 1 if .*strategy='mirrored'.* Received: jobs=2"):
        compare(config, methods=["erm"], seeds=1, jobs=2)
    with pytest.raises(ValueError, match="`jobs` must be an integer of at least 1"):
        compare(CONFIG, methods=["erm"], seeds=1, jobs=0)
    assert devices.threads() >= 1 and os.cpu_count() >= 1
