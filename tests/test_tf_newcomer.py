"""A newcomer with an `.npz` of their own and the lines of notebook 01: to an adjusted model, saved and loaded."""

import ast
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "01_quickstart.ipynb"
COUNTS = [300, 210, 150, 105, 75, 50, 35, 25, 15, 10]
# What the newcomer types between and after the lines of the notebook.
OWN = """
plain = train(x_train, y_train, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
adjusted = train(x_train, y_train, kla.losses.LogitAdjustedCrossentropy(class_counts))
wrapped = kla.adjust(plain, class_counts)
with np.load("test.npz") as mine:
    x_judge, y_judge = mine["x"][..., np.newaxis] * (255 / 16), mine["y"]
for model in (plain, adjusted, wrapped):
    metric = kla.metrics.PerClassAccuracy(class_counts.size)
    recall = np.asarray(metric(y_judge, model.predict(x_judge, verbose=0)))
    print(recall.mean(), recall[-3:].mean())
adjusted.save("adjusted.keras")
np.save("answers.npy", adjusted.predict(x_judge, verbose=0))
"""
LATER = """
import keras
import numpy as np

import keras_logit_adjust

with np.load("test.npz") as mine:
    x_judge = mine["x"][..., np.newaxis] * (255 / 16)
answers = keras.saving.load_model("adjusted.keras").predict(x_judge, verbose=0)
np.testing.assert_array_equal(answers, np.load("answers.npy"))
"""


def notebook_lines():
    """Imports, constants, the function that trains and the cell that loads an own file, as the notebook has them."""
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    imports = cells["imports"].removeprefix("%matplotlib inline\n")
    (training,) = [node for node in ast.parse(cells["plain-train"]).body if isinstance(node, ast.FunctionDef)]
    return [imports, cells["constants"], 'path = "mine.npz"', ast.unparse(training), cells["own-load"]]


def write_pictures(path, counts, rng):
    """Noisy pictures of stripes, of 8 by 8 pixels from 0 to 16; their width and direction tell the class."""
    y = np.repeat(np.arange(10), counts)
    rows, columns = np.mgrid[:8, :8]
    along = np.where((y % 2 == 0)[:, None, None], rows, columns)
    waves = np.sin(along * (0.6 + 0.45 * (y // 2))[:, None, None] + rng.uniform(0, 6, y.size)[:, None, None])
    np.savez(path, x=np.clip(8 + 4 * waves + rng.normal(0, 2, waves.shape), 0, 16), y=y)


def run(lines, folder):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", lines]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_a_newcomer_reaches_a_saved_model_that_treats_the_classes_alike(tmp_path, rng):
    write_pictures(tmp_path / "mine.npz", COUNTS, rng)
    write_pictures(tmp_path / "test.npz", [60] * 10, rng)
    printed = run("\n".join([*notebook_lines(), OWN]), tmp_path).splitlines()
    assert printed[1] == f"counts {[count * 4 // 5 for count in COUNTS]}"
    plain, adjusted, wrapped = np.array([line.split() for line in printed[2:]], "float64")
    assert min(adjusted[0], wrapped[0]) > plain[0] + 0.03
    assert min(adjusted[1], wrapped[1]) > plain[1] + 0.1
    run(LATER, tmp_path)
