"""The rules of CONTRIBUTING that files show: their length, the drawing of imports, the function of each loss."""

import ast
import inspect
import pathlib
import re
import sys

import keras
import pytest

import keras_logit_adjust as kla

PACKAGE = pathlib.Path(kla.__file__).parent
ROOT = pathlib.Path(__file__).parents[1]
TESTS = ROOT / "tests"
sys.path.insert(0, str(ROOT / "tools"))
import draw_imports  # noqa: E402

LOSSES = [
    value for value in vars(kla.losses).values() if isinstance(value, type) and issubclass(value, keras.losses.Loss)
]


def test_a_file_of_the_package_and_of_its_tests_has_fewer_than_400_lines():
    paths = [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")]
    assert [path.name for path in paths if path.read_text().count("\n") >= 400] == []


def test_every_equivalent_mutant_is_of_a_line_that_exists():
    blocks = (ROOT / "tools" / "mutants_equivalent.txt").read_text().split("\n\n")[1:]
    mutants = [(block.strip().split(": ")[0], block.split("\n- ")[1].split("\n")[0]) for block in blocks]
    lines = {file: {" ".join(line.split()) for line in (ROOT / file).read_text().split("\n")} for file, _ in mutants}
    assert len(mutants) > 20 and [(file, line) for file, line in mutants if line not in lines[file]] == []


def test_contributing_shows_the_drawing_of_the_imports():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    shown = page.split("<!-- imports:begin -->")[1].split("<!-- imports:end -->")[0]
    assert shown.strip() == f"```text\n{draw_imports.drawing(PACKAGE)}\n```"


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_loss_names_the_function_whose_values_it_gives(loss):
    (name,) = re.findall(r"Values are those of\s+`(\w+)`", inspect.getdoc(loss))
    function = getattr(kla.losses, name)
    assert list(inspect.signature(function).parameters)[:2] == ["y_true", "y_pred"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("[!_]*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_values_that_functions_return_or_take_are_frozen(path):
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    made = {node.name: ast.unparse(d) for node in classes for d in node.decorator_list if "dataclass" in ast.unparse(d)}
    assert [name for name, how in made.items() if "frozen=True" not in how] == []


def test_code_of_steps_has_no_assignment_that_autograph_cannot_read():
    """AutoGraph reads what a `tf.function` calls. It warns of `:=`, and asks the user to report it to TensorFlow."""
    rooms = ("_labels", "losses", "metrics", "layers", "priors")
    paths = [*PACKAGE.glob("_*.py"), *(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))]
    trees = {path.name: ast.parse(path.read_text()) for path in paths}
    assert len(trees) > 40
    assert [name for name, tree in trees.items() if any(isinstance(n, ast.NamedExpr) for n in ast.walk(tree))] == []


def imported_by(path):
    """The modules that a test file imports, at its top and inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_oracle_never_imports_the_package():
    (path,) = TESTS.rglob("reference.py")
    assert {name.split(".")[0] for name in imported_by(path)} <= {"decimal", "itertools", "math", "numpy", "scipy"}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_a_test_file_imports_no_other_test_file(path):
    assert [name for name in imported_by(path) if name.split(".")[-1].startswith("test_")] == []


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_the_name_of_a_test_has_at_most_70_characters(path):
    functions = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name.startswith("test_") and len(name) > 70] == []
