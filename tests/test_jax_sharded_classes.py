"""Many classes over the devices of a mesh, on JAX: all is as on one device, and no device is sent the kernel."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras spreads a kernel over devices on JAX alone"),
]
L, D, BATCH = 2003, 8, 16
DEVICES = {"1 x 2": 2, "1 x 4": 4, "1 x 8": 8, "2 x 4": 4, "4": 4}  # that the classes are spread over
CASES = [(head, mesh) for head in ("exact", "sampled") for mesh in DEVICES] + [("batch", "4")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What `jax_sharded_classes.py` found."""
    folder = tmp_path_factory.mktemp("programs")
    script = pathlib.Path(__file__).with_name("helpers") / "jax_sharded_classes.py"
    options = {
        "KERAS_BACKEND": "jax",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is nearly all of its time
        "XLA_FLAGS": f"--xla_dump_to={folder} --xla_dump_hlo_as_text",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, script, folder]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **options}, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(("head", "mesh"), [*CASES, ("exact", "data parallel")])
def test_many_classes_over_devices_train_and_score_as_on_one(runs, head, mesh):
    one, found = runs["found"][head]["one"], runs["found"][head][mesh]
    kinds = ["fit", *(["evaluate", "ids", "scores", "adjust", "fold_into_bias"] if head == "exact" else [])]
    assert all(np.isfinite(found[kind]).all() for kind in kinds)
    assert found["fit"][1] < found["fit"][0] - 0.1
    for kind in kinds:
        np.testing.assert_allclose(found[kind], one[kind], rtol=1e-5, err_msg=kind)
    assert found["weights"].keys() == one["weights"].keys()
    for name, values in one["weights"].items():
        np.testing.assert_allclose(found["weights"][name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("head", "mesh"), CASES)
def test_each_device_keeps_its_part_of_the_classes(runs, head, mesh):
    placed = runs["found"][head][mesh]["placed"]
    assert len(placed) == 4  # kernel, bias, and the momentum of both
    assert all(rows == [math.ceil(L / DEVICES[mesh])] for rows in placed.values()), placed


def test_a_file_of_weights_has_no_rows_that_are_no_classes(runs):
    shapes = [np.shape(values) for values in runs["found"]["exact"]["1 x 8"]["weights"].values()]
    assert (L, D) in shapes and {shape[0] for shape in shapes if len(shape) and shape[0] > 100} == {L}


@pytest.mark.parametrize(("head", "mesh"), CASES)
def test_nothing_as_large_as_the_classes_is_exchanged(runs, head, mesh):
    found = runs["found"][head][mesh]
    exchanged = found["exchanges of fit"] + found.get("exchanges of predict", [])
    assert exchanged
    assert all(math.prod(shape) < L for _, shapes in exchanged for shape in shapes), exchanged


@pytest.mark.parametrize("mesh", ["1 x 2", "1 x 4", "1 x 8"])
def test_an_exact_step_adds_up_two_numbers_sets_and_the_features_gradient(runs, mesh):
    exchanged = runs["found"]["exact"][mesh]["exchanges of fit"]
    # The maxima; the sums, the labels' scores and the means; the gradient by features.
    expected = [["all-reduce", [[BATCH]]], ["all-reduce", [[3, BATCH]]], ["all-reduce", [[BATCH, D]]]]
    assert sorted(exchanged) == sorted(expected)


@pytest.mark.parametrize("loss", ["exact", "posterior"])
def test_the_losses_of_a_kernel_with_classes_last_are_those_of_one_device(runs, loss):
    for spread, one in zip(*runs["functions"][loss], strict=True):
        np.testing.assert_allclose(spread, one, rtol=1e-5, atol=1e-5)


REFUSED = {
    "built before": "was built with its kernel whole on each device.*`keras.distribution.set_distribution` before",
    "no key": "must match 'head/class_kernel'.*None does.*many_class_layout",
    "not as its layout says": r"must lie on the devices as its layout says, .*classes., None.*Found: .*P\(None, None\)",
    "no such axis": "`axis` must be one of 'batch', 'classes'",
    "no layout": "`kernel_layout` must be a `keras.distribution.TensorLayout`",
    "not divided": "must be a multiple of the 2 devices.*Received 2003 classes",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_kernel_that_is_not_where_it_is_meant_to_be_is_refused(runs, case):
    assert runs["refused"].keys() == REFUSED.keys()
    assert re.search(REFUSED[case], runs["refused"][case] or "nothing was raised"), runs["refused"][case]


def test_the_example_of_the_guide_prints_what_the_page_shows(runs):
    page = pathlib.Path(__file__).parents[1] / "docs" / "guide" / "many_classes.md"
    assert page.read_text().split("```py\n")[1].split("```text\n")[1].split("```")[0] == runs["page"]
