"""The gallery has every figure of `kla.plots`, and each is what the lines above it draw."""

import importlib.util
import io
import pathlib
import re

import pytest

pytest.importorskip("matplotlib", reason="figures need the extra plots")

from keras_logit_adjust import plots

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("draw_gallery", ROOT / "tools" / "draw_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(svg):
    """Everything that a figure says: titles, labels, numbers of the axes, legends."""
    return re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)


def test_a_figure_says_what_the_lines_above_it_draw(tool, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = set()
    for file, figure in tool.figures():
        drawn = io.StringIO()
        tool.save(figure, drawn)
        assert len(texts(drawn.getvalue())) >= 5, file.name
        assert texts(drawn.getvalue()) == texts(file.read_text()), file.name
        files.add(file.name)
    assert files == {f"{name}.svg" for name in plots.__all__}
    assert files == {path.name for path in (ROOT / "docs" / "gallery").iterdir()}


def test_a_file_of_the_gallery_is_small_and_names_no_machine():
    for path in (ROOT / "docs" / "gallery").iterdir():
        assert path.stat().st_size < 200_000, path.name
        assert "<dc:date>" not in path.read_text() and "/work" not in path.read_text(), path.name
