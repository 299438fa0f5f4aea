"""The torch snippets of the migration page, wherever torch is installed: any backend, and CI's run on torch."""

import contextlib
import io
import pathlib
import re

import pytest

pytest.importorskip("torch", reason="the snippets are of torch")

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "migration.md"
SNIPPETS = re.findall(r'```py title="needs torch"\n(.*?)```\n```text\n(.*?)```', PAGE.read_text(), re.DOTALL)


def test_the_page_has_torch_snippets():
    assert SNIPPETS


@pytest.mark.parametrize(("code", "shown"), SNIPPETS)
def test_a_torch_snippet_prints_what_the_page_shows(code, shown):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, PAGE.name, "exec"), {})
    assert printed.getvalue() == shown
