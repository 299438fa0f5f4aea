"""JAX's own way to train over devices, `keras.distribution.DataParallel`: everything is as on one device."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="`keras.distribution` spreads over devices on JAX alone"
)
# Nothing here needs TensorFlow, which takes seconds to load.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def runs():
    """What `jax_data_parallel.py` found, on one device and over two."""
    script = pathlib.Path(__file__).with_name("helpers") / "jax_data_parallel.py"
    # Compiling is nearly all of its time.
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {**os.environ, "KERAS_BACKEND": "jax", **quick}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, script]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


REPORTED = {
    "unweighted": {
        *(f"{head}_loss" for head in ("sum", "mean", "weighted_mean", "one_hot", "adaptive_margins")),
        *(f"{head}_loss" for head in ("class_balanced", "multi_label", "prior_aware")),
        *("mean_balanced_accuracy", "mean_macro_f1", "prior_aware_balanced_accuracy"),
        *("many_accuracy", "medium_accuracy", "few_accuracy"),
    },
    "weighted": {
        *(f"{head}_loss" for head in ("weighted", "sum_ignored", "mean_ignored", "weighted_mean_ignored")),
        *(f"{head}_loss" for head in ("masked", "pairwise_margins", "focal")),
        *("weighted_balanced_accuracy", "mean_ignored_balanced_accuracy", "mean_ignored_macro_f1"),
        *("many_accuracy", "medium_accuracy", "few_accuracy"),
    },
    "counting": {"balanced_accuracy", "macro_f1", "many_accuracy", "medium_accuracy", "few_accuracy"},
    "sampled": {"balanced_accuracy"},
}


@pytest.mark.parametrize("case", REPORTED)
@pytest.mark.parametrize("kind", ["fit", "evaluate", "predict", "weight"])
def test_two_devices_train_report_and_predict_as_one_does(runs, case, kind):
    one, two = (chosen(found, kind) for found in runs["cases"][case])
    assert one.keys() == two.keys()
    if kind in ("fit", "evaluate") and (case, kind) != ("sampled", "evaluate"):
        assert one.keys() == REPORTED[case] | {"loss"}
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6, atol=1e-6, err_msg=name)
        assert np.isfinite(one[name]).all()


def chosen(found, kind):
    """What the process found of one kind, by name."""
    return {name.removeprefix(f"{kind} "): value for name, value in found.items() if name.startswith(f"{kind} ")}


def test_every_case_is_looked_at(runs):
    assert runs["cases"].keys() == REPORTED.keys()


def test_each_label_is_counted_once_whichever_device_sees_it(runs):
    one, two = (found["weight head counts"] for found in runs["cases"]["counting"])
    assert np.sum(one) == np.sum(two) == 2 * 128
    assert one == two


WAYS = ("fit", "evaluate", "predict")


@pytest.mark.parametrize("way", WAYS)
def test_keras_refuses_a_batch_that_does_not_divide_when_it_comes_to_it(runs, way):
    refused = runs["refused"][way]
    assert refused["batches"] == 1  # trained or scored before
    assert refused["type"] == "IndivisibleError"
    assert "array axis 0 is partitioned 2 times, but the dimension size is 3 " in refused["message"]


def test_a_sampler_whose_batches_do_not_divide_is_refused_at_once(runs):
    refused = runs["refused"]["fit a sampler"]
    assert (refused["type"], refused["batches"]) == ("ValueError", 0)
    assert "`batch_size` must divide by the parts" in refused["message"] and "batch_size=67 for 2" in refused["message"]
