"""`compare` over several devices of this machine, and over processes that find each other through `TF_CONFIG`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import workers
from helpers.rows import ROWS, enter_folder_of_rows

pytestmark = pytest.mark.slow
COMPARE = [sys.executable, "-m", "keras_logit_adjust", "compare", *ROWS, "--batch-size", "8", "--seeds", "1"]
METHODS = ["--methods", "class_weight,crt"]
AS_WORKER = """
import os, sys
os.environ["TF_CONFIG"] = sys.argv[1]
from keras_logit_adjust.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    return enter_folder_of_rows(tmp_path, monkeypatch)


def run_two(*options):
    """`compare` in two processes that find each other through `TF_CONFIG`."""
    addresses = [f"localhost:{port}" for port in workers.free_ports(2)]
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    command = [*COMPARE[3:], *options, "--strategy", "multi_worker", "--devices", "2"]
    with workers.started(*[["-c", AS_WORKER, json.dumps(task), *command] for task in tasks]) as processes:
        return workers.ended(processes, timeout=180)


def predictions(folder):
    with np.load(folder / "predictions.npz") as stored:
        return dict(stored)


def test_replicas_and_processes_give_the_same_figures_once(folder):
    mirrored = [*COMPARE, *METHODS, "--strategy", "mirrored", "--devices", "2", "--output", "mirrored"]
    subprocess.run(mirrored, check=True, timeout=120)
    two = run_two(*METHODS, "--output", "two")
    assert [process.status for process in two] == [0, 0]
    assert [process.output.count("| `crt`") for process in two] == [1, 0]  # shown once
    expected, found = predictions(folder / "mirrored"), predictions(folder / "two")
    assert found.keys() == expected.keys()
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    results = json.loads((folder / "two" / "results.json").read_text())
    assert (results["config"]["strategy"], results["config"]["devices"]) == ("multi_worker", 2)
    assert "--strategy multi_worker --devices 2" in results["command"]


def test_bad_input_ends_all_workers_with_a_line(folder):
    for process in run_two("--train", "missing.npz"):
        assert process.status == 2
        assert process.errors.count("No such file: missing.npz") == 1 and "Traceback" not in process.errors


@pytest.mark.parametrize(
    "config", ["{", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 1}}']
)
def test_a_broken_tf_config_is_refused_before_any_training(config, folder, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    found = subprocess.run([*COMPARE, "--strategy", "multi_worker"], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "TF_CONFIG contradicts itself or is broken" in found.stderr
