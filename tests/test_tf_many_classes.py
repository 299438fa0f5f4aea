"""A head of many classes under `tf.distribute`: data parallel, with the loss by chunks or against drawn rivals."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def runs():
    """What every case of `mirrored_many_classes.py` ends with, on one device and mirrored over two."""
    script = pathlib.Path(__file__).with_name("helpers") / "mirrored_many_classes.py"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["exact", "drawn"])
def test_two_mirrored_devices_train_as_one_does(runs, case):
    one, two = runs[case]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-6)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=2e-6)
    assert one["loss"][1] < one["loss"][0]
