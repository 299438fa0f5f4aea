"""`compare` over several devices and processes of this machine, and the launcher that starts and ends them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.rows import ROWS, enter_folder_of_rows

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.tf_distribute import launch

pytestmark = pytest.mark.slow
COMPARE = [sys.executable, "-m", "keras_logit_adjust", "compare", *ROWS, "--batch-size", "8", "--seeds", "1"]
METHODS = ["--methods", "class_weight,crt"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    return enter_folder_of_rows(tmp_path, monkeypatch)


def predictions(folder):
    with np.load(folder / "predictions.npz") as stored:
        return dict(stored)


def test_replicas_and_processes_give_the_same_figures_and_only_the_chief_writes(folder):
    mirrored = [*COMPARE, *METHODS, "--strategy", "mirrored", "--devices", "2", "--output", "mirrored"]
    subprocess.run(mirrored, check=True, timeout=120)
    two = subprocess.run(
        [*COMPARE, *METHODS, "--workers", "2", "--output", "two"],
        check=True,
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert two.stdout.count("| `crt`") == 1  # shown once
    expected, found = predictions(folder / "mirrored"), predictions(folder / "two")
    assert found.keys() == expected.keys()
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    results = json.loads((folder / "two" / "results.json").read_text())
    assert (results["config"]["strategy"], results["config"]["devices"]) == ("multi_worker", 2)
    # What is said to repeat it does.
    assert "--strategy multi_worker --devices 2" in results["command"]
    again = subprocess.run(
        [*COMPARE, *METHODS, *["--strategy", "multi_worker", "--devices", "2", "--output", "two"]], timeout=180
    )
    assert again.returncode == 0


def test_bad_input_is_said_once_and_ends_all_workers(folder):
    found = subprocess.run(
        [*COMPARE, "--workers", "2", "--train", "missing.npz"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2
    assert found.stderr.count("missing.npz") == 1
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "config", ["{", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 1}}']
)
def test_a_broken_tf_config_is_refused_before_any_training(config, folder, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    found = subprocess.run([*COMPARE, "--strategy", "multi_worker"], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "TF_CONFIG contradicts itself or is broken" in found.stderr


# --- the launcher ----------------------------------------------------------------------------------------------------

WORKER = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
pathlib.Path(f"pid{index}").write_text(str(os.getpid()))
while not all(pathlib.Path(f"pid{i}").exists() for i in (0, 1)):
    time.sleep(0.05)
"""


def run_workers(code):
    return launch.run_workers([sys.executable, "-c", WORKER + code], 2)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def pids(folder):
    return [int((folder / f"pid{index}").read_text()) for index in (0, 1)]


def test_the_status_is_the_chiefs_and_each_worker_knows_its_place(folder):
    assert run_workers("sys.exit(0)") == 0
    assert run_workers("sys.exit(3)") == 3


@pytest.mark.parametrize(
    "code, match",
    [
        ("index and os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)", "Worker 1 was killed by SIGKILL"),
        ("index or os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)", "Worker 0 was killed by SIGKILL"),
        ("index and sys.exit('no memory'); time.sleep(60)", "(?s)Worker 1 ended with status 1.*no memory"),
    ],
)
def test_the_others_end_soon_after_one_is_gone_and_it_is_named(code, match, folder, monkeypatch):
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(tf_distribute.WorkerLostError, match=match):
        run_workers(code)
    assert time.monotonic() - start < 30  # a bound, not a measurement: they would sleep for 60
    assert not any(map(is_running, pids(folder)))


def test_an_interrupt_ends_all_workers(folder):
    code = "import sys; sys.argv = ['']\nfrom test_tf_compare_workers import run_workers\nrun_workers('time.sleep(60)')"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=path_of_tests(), stderr=subprocess.DEVNULL
    ) as parent:
        wait_for_workers(folder)
        parent.send_signal(signal.SIGINT)
        parent.wait(timeout=30)
    assert_gone(pids(folder))


def test_workers_end_when_the_launcher_is_killed(folder):
    code = (
        "from test_tf_compare_workers import run_workers\n"
        "run_workers('from keras_logit_adjust.tf_distribute import launch; launch.end_with_launcher(); "
        'pathlib.Path(f"ready{index}").touch(); time.sleep(60)\')'
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=path_of_tests(), stderr=subprocess.DEVNULL
    ) as parent:
        wait_for_workers(folder, "ready")
        parent.kill()
    assert_gone(pids(folder))


def path_of_tests():
    return {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}


def wait_for_workers(folder, name="pid"):
    deadline = time.monotonic() + 60
    while not all((folder / f"{name}{index}").exists() for index in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_gone(pids):
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a worker outlived its launcher"
        time.sleep(0.1)
