"""The README is true: its snippets run in order and print what it shows; its table is the committed result."""

import contextlib
import io
import json
import pathlib
import re

import pytest

from keras_logit_adjust.compare import report

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")
# Trained weights differ between machines; everything else is printed exactly.
TRAINED = 0.03


def blocks():
    """(python, expected output or None) for every snippet."""
    pattern = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
    return pattern.findall(README)


@pytest.mark.slow
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


def test_the_table_is_the_committed_result():
    results = json.loads((ROOT / "benchmarks" / "results" / "compare_fashion_mnist_lt.json").read_text())
    shown = README.split("<!-- compare:begin -->")[1].split("<!-- compare:end -->")[0].strip()
    machine = results["versions"]["machine"]
    assert shown == f"{report.to_markdown(results)}\n\nMachine: {machine}; {results['seconds']:.0f} s."


def test_there_are_exactly_two_set_up_commands():
    section = README.split("## Two commands")[1].split("\n## ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).strip().split("\n")
    assert len(commands) == 2
    assert commands[0].endswith("keras-logit-adjust compare")
    assert commands[1].endswith("pytest")


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
