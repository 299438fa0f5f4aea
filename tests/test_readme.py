"""The README is true: its snippets run in order and print what it shows; its table is the committed result."""

import contextlib
import importlib.util
import io
import json
import pathlib
import re

import pytest

from keras_logit_adjust import studies
from keras_logit_adjust.compare import report

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")
# Trained weights differ between machines; everything else is printed exactly.
TRAINED = 0.03


def blocks():
    """(python, expected output or None) for every snippet."""
    pattern = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
    return pattern.findall(README)


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*recall is pooled.*:UserWarning")
def test_every_snippet_prints_what_the_readme_shows():
    namespace = {}
    found = blocks()
    assert len(found) >= 5
    for code, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), namespace)
        is_trained = ".fit(" in code
        assert_same(printed.getvalue(), expected, TRAINED if is_trained else 1.01e-4)


def assert_same(printed, expected, tolerance):
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    for ours, shown in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True):
        assert abs(float(ours) - float(shown)) <= tolerance, (ours, shown)


def shown(name):
    return README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("compare", "compare_fashion_mnist_lt.json"),
        ("methods", "methods_fashion_mnist_lt.json"),
        ("cifar100", "compare_cifar100_lt.json"),
    ],
)
def test_the_tables_are_the_committed_results(name, file):
    results = json.loads((RESULTS / file).read_text())
    machine = results["versions"]["machine"]
    assert shown(name) == f"{report.to_markdown(results)}\n\nMachine: {machine}; {results['seconds']:.0f} s."


@pytest.mark.parametrize("name", ["weight-norms", "consistency", "label-noise", "label-shift"])
def test_the_studies_are_the_committed_results(name):
    results = json.loads((RESULTS / f"study_{name.replace('-', '_')}.json").read_text())
    assert results["study"] == name and shown(name) == studies.to_markdown(results)


def benchmark(name):
    """The script of a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_readers_is_the_committed_result():
    assert shown("sampler") == benchmark("sampler").to_markdown(json.loads((RESULTS / "sampler.json").read_text()))


def test_the_tables_of_what_is_chosen_are_the_committed_results():
    results = json.loads((RESULTS / "choosing.json").read_text())
    assert shown("choosing") == benchmark("choosing").regret_to_markdown(results)
    assert shown("choosing-images") == benchmark("choosing").images_to_markdown(results)


@pytest.mark.parametrize("name", ["precision", "scaling"])
def test_the_tables_of_precision_and_scaling_are_the_committed_results(name):
    results = json.loads((RESULTS / f"{name}.json").read_text())
    assert shown(name) == benchmark(name).to_markdown(results)


def test_there_are_exactly_two_set_up_commands():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).strip().split("\n")
    assert len(commands) == 2
    assert commands[0].endswith("keras-logit-adjust compare")
    assert commands[1].endswith("pytest")


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
