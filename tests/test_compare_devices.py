"""`compare --strategy`: what it refuses before anything is trained, and on JAX the same figures as one device."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS, enter_folder_of_rows

from keras_logit_adjust import tf_distribute
from keras_logit_adjust.compare import Config, compare, devices, run

BACKEND = keras.backend.backend()
OWN = {"tensorflow": "mirrored", "jax": "jax_data_parallel"}.get(BACKEND)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    return enter_folder_of_rows(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"strategy": "tpu"}, "`strategy` must be one of 'mirrored', 'multi_worker', 'jax_data_parallel'"),
        ({"devices": 2}, "`devices` needs a `strategy`: mirrored, multi_worker, jax_data_parallel"),
        ({"strategy": "mirrored", "devices": 0}, "`devices` must be an integer of at least 1"),
        ({"strategy": "mirrored", "recipe": "strong"}, "'strong' mixes its batches in NumPy.*strategy='mirrored'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_when_it_is_made(options, match):
    with pytest.raises(ValueError, match=match):
        Config(**options)


@pytest.mark.parametrize("strategy", [name for name in devices.STRATEGIES if name != OWN])
def test_a_strategy_of_another_backend_is_refused_and_leaves_nothing(strategy, folder):
    if BACKEND == "tensorflow" and strategy == "multi_worker":
        match = "TF_CONFIG, which is missing"
    else:
        needed = "jax" if strategy == "jax_data_parallel" else "tensorflow"
        match = (
            f"`strategy` '{strategy}' is for Keras's {needed} backend. Received: backend '{BACKEND}'.*KERAS_BACKEND="
        )
    with pytest.raises(ValueError, match=f"(?s){match}"):
        compare(dataclasses.replace(CONFIG, strategy=strategy), methods=["erm"], seeds=1, output="out")
    assert not (folder / "out").exists()


@pytest.mark.skipif(OWN is None, reason="torch has no strategy here")
def test_too_many_devices_and_batches_that_do_not_divide_are_refused(folder, monkeypatch):
    keras.ops.convert_to_numpy(keras.ops.ones(1))  # the backend has started, with the devices it has
    with pytest.raises(ValueError, match="`devices` must be at most [0-9]+, the .* Received: 64"):
        compare(dataclasses.replace(CONFIG, strategy=OWN, devices=64), methods=["erm"], seeds=1, output="out")

    class Three(devices.OneDevice):
        number = 3

    monkeypatch.setattr(devices, "OneDevice", Three)
    with pytest.raises(
        ValueError, match="`batch_size` must be divisible by the number of devices.*batches of 8 for 3 devices"
    ):
        compare(dataclasses.replace(CONFIG, batch_size=8), methods=["erm"], seeds=1, output="out")
    assert not (folder / "out").exists()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow is what it is for")
def test_the_loops_of_tf_distribute_are_refused_with_what_this_backend_has():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=f"(?s)TensorFlow backend. Received: backend '{BACKEND}'.*DataParallel"):
        tf_distribute.fit(model, None)


@pytest.mark.skipif(BACKEND != "jax", reason="the devices are JAX's")
@pytest.mark.parametrize("method", ["la_loss"])
def test_two_devices_of_jax_give_the_figures_of_one(method, folder):
    command = [sys.executable, "-m", "keras_logit_adjust", "compare", *ROWS, "--methods", method, "--seeds", "1"]
    command += ["--batch-size", "8", "--strategy", "jax_data_parallel"]
    found = []
    for number in ("1", "2"):
        subprocess.run([*command, "--devices", number, "--output", number], check=True, timeout=120, env=os.environ)
        results = json.loads((folder / number / "results.json").read_text())
        assert results["config"]["devices"] == int(number)
        with np.load(folder / number / "predictions.npz") as stored:
            found.append(stored[f"{method}_seed0"])
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
    assert f"jax_data_parallel over {number}" in (folder / number / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "precision", "shape", "expected"),
    [
        ("fpu avx512_bf16 sse", "float32", (8, 8, 1), True),
        ("fpu amx_bf16", "float32", (8, 8, 1), True),
        ("fpu amx_bf16", "mixed_bfloat16", (8, 8, 1), False),
        ("fpu amx_bf16", "float32", (4,), False),
        ("fpu amx_bf16x", "float32", (8, 8, 1), False),
        (None, "float32", (8, 8, 1), False),
    ],
)
def test_bfloat16_is_offered_where_the_processor_has_it(words, precision, shape, expected, folder, monkeypatch, capsys):
    monkeypatch.setattr(devices, "_CPU", folder / "cpuinfo")
    if words:
        (folder / "cpuinfo").write_text(f"flags : {words}\n")
    run._offer_bfloat16(dataclasses.replace(CONFIG, precision=precision), shape)
    text = "This CPU has instructions for bfloat16: with precision mixed_bfloat16 small_cnn may train faster.\n"
    assert capsys.readouterr().err == (text if expected else "")
