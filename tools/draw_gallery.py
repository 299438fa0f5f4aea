"""Draw the figures of docs/gallery.md with the lines that stand above them: `python tools/draw_gallery.py`."""

import os
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
# Lines that draw, and the file of their figure. The first block of the page draws nothing; it is in the first match.
SECTION = re.compile(r"```python\n(.*?)```\n(?:\n!\[.*?\]\((gallery/\w+\.svg)\))?", re.DOTALL)


def figures():
    """`(file, figure)` of every section of the page, drawn again."""
    namespace = {}
    for lines, file in SECTION.findall(PAGE.read_text()):
        exec(compile(lines, PAGE.name, "exec"), namespace)
        if file:
            yield PAGE.parent / file, namespace["figure"]


def save(figure, file):
    """Save the figure as SVG, with text as text; the same lines give the same file."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gallery"}):
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    os.chdir(ROOT)
    for file, figure in figures():
        save(figure, file)
