"""`benchmarks/gpu.py` with no accelerator and no TensorFlow: that it runs, and what it writes; no time is judged."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the benchmark times Keras's JAX backend")
BENCHMARK = pathlib.Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SMALL = ["--classes", "10", "1000", "--pairs", "2", "--milliseconds", "0.5", "--copy-mib", "1", "--loss-batch", "4"]
METHODS = ("erm", "la_posthoc", "la_loss")
PRECISIONS = ("float32", "mixed_bfloat16")
# As where it is not installed. An empty place in `sys.modules` would not do: Keras looks for the name there.
WITHOUT_TENSORFLOW = """
import importlib.abc, runpy, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "tensorflow" not in sys.modules
"""


def run(*words):
    """Run the benchmark without TensorFlow; what it printed."""
    # Compiling is nearly all of its time.
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {**os.environ, "KERAS_BACKEND": "jax", **quick}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, BENCHMARK, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What all sections at toy sizes print and write."""
    output = tmp_path_factory.mktemp("results") / "gpu.json"
    done = run("--quick", *SMALL, "--output", output)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads(output.read_text()), output


def test_all_sections_are_measured_and_say_on_what_and_by_which_command(outcome):
    _, results, output = outcome
    assert results.keys() == {"loss", "step", "recipe"}
    for name, section in results.items():
        assert section["section"] == name
        assert section["device"] == "cpu"
        assert section["versions"]["backend"] == "jax"
        assert {"jax", "keras", "numpy", "keras_logit_adjust", "python"} <= section["versions"].keys()
        assert section["command"].startswith("python benchmarks/gpu.py --quick")
        assert section["command"].endswith("--classes 10 1000 --loss-batch 4 --copy-mib 1 --milliseconds 0.5 --pairs 2")
    assert str(output.parent) not in output.read_text()


def check_times(row):
    """The figures of two pairs, a/b and c/d: the interval of the median runs from the one ratio to the other."""
    median, low, high = (row["ratio"][key] for key in ("median", "low", "high"))
    assert 0 < low <= high
    assert median == pytest.approx((low + high) / 2)
    of_medians = row["ours_us"] / row["keras_us"]  # (a + c) / (b + d), which is between a/b and c/d
    assert low * (1 - 1e-9) <= of_medians <= high * (1 + 1e-9)


def test_the_loss_is_timed_at_every_size_and_dtype_beside_its_bound(outcome):
    section = outcome[1]["loss"]
    rows = {(row["classes"], row["precision"]): row for row in section["rows"]}
    assert list(rows) == [(classes, dtype) for classes in (10, 1000) for dtype in ("float32", "bfloat16")]
    bandwidth = f"{section['copy_bytes_per_second'] / 1e9:,.0f} GB/s"
    assert section["title"] == f"forward + backward of the loss, batch 4, bound at {bandwidth}"
    for (classes, dtype), row in rows.items():
        check_times(row)
        moved = 2 * 4 * classes * {"float32": 4, "bfloat16": 2}[dtype]  # logits read, gradient written
        assert row["bound_us"] == pytest.approx(1e6 * moved / section["copy_bytes_per_second"])
        assert row["over_bound"] == pytest.approx(row["ours_us"] / row["bound_us"])


def test_steps_are_timed_at_every_precision(outcome):
    rows = outcome[1]["step"]["rows"]
    assert [(row["loss"], row["precision"]) for row in rows] == [("LogitAdjustedCrossentropy", p) for p in PRECISIONS]
    for row in rows:
        check_times(row)


def test_the_recipe_is_run_for_every_method_and_precision(outcome):
    section = outcome[1]["recipe"]
    rows = section["rows"]
    assert section["data"] == "10 classes, 40 training examples"
    assert [(row["precision"], row["method"]) for row in rows] == [(p, name) for p in PRECISIONS for name in METHODS]
    assert len(section["split_hashes"]) == section["seeds"] == 1
    for row in rows:
        assert [0 <= seed["balanced_error"] <= 100 for seed in row["seeds"]] == [True]
        assert row["summary"]["balanced_error"]["mean"] == row["seeds"][0]["balanced_error"]
        assert (row["versus_erm"] is None) == (row["method"] == "erm")
        assert ("versus_float32" in row) == (row["precision"] == "mixed_bfloat16")
        assert (row["train_seconds"] == [0]) == (row["method"] == "la_posthoc")  # nothing is trained


def test_an_interrupted_recipe_goes_on_with_the_seeds_that_are_missing(tmp_path):
    for name in ("cifar100_test", "cifar100_lt_seed0", "cifar100_lt_seed1"):
        np.savez(tmp_path / name, x=np.eye(4, dtype="float32"), y=[0, 0, 1, 1])
    words = ["--quick", "--only", "recipe", "--precisions", "float32", "--data", tmp_path, "--runs", tmp_path / "runs"]
    written = []
    for _ in range(2):
        done = run(*words, "--seeds", 2)
        assert done.returncode == 0, done.stderr[-2000:]
        written.append({path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/float32/runs/*.npz")})
    assert written[0] == written[1]  # nothing is trained twice
    assert written[0].keys() == {f"{name}_seed{seed}.npz" for name in ("erm", "la_loss") for seed in (0, 1)}


def test_the_tables_are_printed_and_written_beside_the_results(outcome):
    printed, results, output = outcome
    written = output.with_suffix(".md").read_text()
    assert printed.endswith(written)  # `compare` may have said something before
    lines = written.splitlines()
    assert sum(line.startswith("|---") for line in lines) == 3
    rows = sum(len(section["rows"]) for section in results.values())
    assert sum(line.startswith("| ") for line in lines) == 3 + rows


def test_the_recipe_without_its_data_is_refused_with_the_way_out():
    done = run()
    assert done.returncode == 2
    assert "the recipe needs --data DIR, made by benchmarks/compact_cifar.py; or --only loss step" in done.stderr
