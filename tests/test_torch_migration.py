"""The torch snippets of the pages, wherever torch is installed: any backend, and CI's run on torch."""

import contextlib
import io
import pathlib
import re

import keras
import pytest

pytest.importorskip("torch", reason="the snippets are of torch")

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("migration.md", "guide/from_pytorch.md")}


def snippets(title):
    """(name of the page, code, what it prints) of every snippet that needs what `title` says."""
    pattern = re.compile(rf'```py title="needs {title}"\n(.*?)```\n```text\n(.*?)```', re.DOTALL)
    return [(name, *found) for name, text in PAGES.items() for found in pattern.findall(text)]


def printed_by(name, code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {})
    return printed.getvalue()


def test_the_pages_have_torch_snippets():
    assert {name for name, _, _ in snippets("torch")} == set(PAGES)
    assert len(snippets("torch as the backend")) == len(snippets("transformers and accelerate")) == 1


@pytest.mark.parametrize(("name", "code", "shown"), snippets("torch"))
def test_a_torch_snippet_prints_what_the_page_shows(name, code, shown):
    assert printed_by(name, code) == shown


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the snippet needs torch as Keras's backend")
@pytest.mark.parametrize(("name", "code", "shown"), snippets("torch as the backend"))
def test_a_training_loop_prints_what_the_page_shows(name, code, shown):
    assert printed_by(name, code) == shown


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the snippet needs torch as Keras's backend")
@pytest.mark.parametrize(("name", "code", "shown"), snippets("transformers and accelerate"))
def test_a_trainer_prints_what_the_page_shows(name, code, shown):
    pytest.importorskip("transformers", reason="the snippet is of Hugging Face's Trainer")
    pytest.importorskip("accelerate", reason="Trainer needs it")
    assert printed_by(name, code) == shown
