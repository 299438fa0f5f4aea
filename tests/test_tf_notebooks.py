"""The notebooks: each runs from top to bottom with its assertions holding, and is stored as such a run left it."""

import ast
import importlib.util
import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORTEST = ROOT / "notebooks" / "02_wrap_a_trained_model.ipynb"
# Constants that make a notebook quick; what it asserts holds with them too.
FAST = {
    "01_quickstart": {"EPOCHS": 3},
    "02_wrap_a_trained_model": {"EPOCHS": 3},
    "03_losses_side_by_side": {"SIZES": (100, 3000), "TRIALS": 5},
    "04_why_not_weight_normalization": {"SEEDS": 1, "EPOCHS": 8, "TEST_PICTURES": 2000},
    "05_long_tail_data": {"EPOCHS": 2, "BIAS_STEPS": 200, "STREAM_BATCHES": 100},
    "06_scaling_up": {"EPOCHS": 2, "POLICIES": ("float32", "mixed_float16"), "SIZES": (10, 100, 1000)},
    "07_real_problems": {
        "HEAD_EPOCHS": 30,
        "SCENES": 300,
        "LABEL_EPOCHS": 8,
        "FRAUD_EPOCHS": 4,
        "EPOCHS": 4,
    },
    "08_many_classes": {"NUM_CLASSES": 50_000, "STEPS": 100, "TESTED": 500},
    "09_fine_tune_an_encoder": {"LENGTH": 16, "EPOCHS": 2},
}
# What a notebook needs beside the extra `notebooks`.
NEEDED = {"09_fine_tune_an_encoder": "keras_hub"}
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|usr|opt|var|work|mnt|Users)/|[A-Z]:\\\\|site-packages|\d(?:ms|us|s)/step"
)


def tool():
    spec = importlib.util.spec_from_file_location("execute_notebooks", ROOT / "tools" / "execute_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """The text of every output."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def assert_nothing_is_warned_of(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
    for text in texts(notebook):
        assert "Warning" not in text and not MACHINE.search(text), text


def test_there_are_nine_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{number}" for number in range(1, 10)]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path != SHORTEST)) for path in NOTEBOOKS],
)
def test_a_notebook_runs_and_its_assertions_hold(path, tmp_path):
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem], reason="the extra `text` is not installed")
    executed = tool().execute(path, tmp_path, **FAST.get(path.stem, {}))
    assert_nothing_is_warned_of(executed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_one_run_left_it(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert_nothing_is_warned_of(notebook)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_teaches_has_one_cell_of_constants_and_asserts(path):
    notebook = nbformat.read(path, as_version=4)
    assert "What you will learn" in notebook.cells[0].source
    (constants,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for statement in ast.parse(constants.source).body:
        assert isinstance(statement, ast.Assign) and statement.targets[0].id.isupper(), ast.unparse(statement)
    assert sum("assert " in cell.source for cell in code_cells(notebook)) >= 3
    kinds = [cell.cell_type for cell in notebook.cells]
    assert not any(kinds[i : i + 4] == ["code"] * 4 for i in range(len(kinds))), "prose and code take turns"
