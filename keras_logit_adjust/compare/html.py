"""A page of HTML in one file: tables, figures as inline SVG, and the command that repeats them.

The look of the page is in report_template.html; the parts that vary are here. Everything except `Markup` is escaped.
"""

import importlib.resources
import io
import re
import string
from html import escape
from xml.etree import ElementTree

_CODE = re.compile(r"`([^`]+)`")
_POINTS_TO_PIXELS = 96 / 72
_NARROWEST, _WIDEST = 0.66, 1.15  # parts of a figure's own width; where there is less room, it scrolls
_WIDE = 480  # pixels: wider figures have their own row
_FONTS = re.compile(r"font-family:[^;]*;?\s*")
_IN_URL = re.compile(r"(?<=url\(#)[^)]+")
_LONG = re.compile(r"(\.\d\d)\d+")  # digits after a hundredth of a point are dropped
_BAR_WIDTH, _BAR_HEIGHT = 120, 16


class Markup(str):
    """Text that is already HTML."""


def text(words):
    """Text as HTML, with code between backticks; lines may break after an underscore in code."""
    if isinstance(words, Markup):
        return words
    return Markup(_CODE.sub(lambda found: f"<code>{found.group(1).replace('_', '_<wbr />')}</code>", escape(words)))


def element(tag, *content, **attributes):
    """`<tag name="value">content</tag>`. In names, a trailing underscore is dropped; others become hyphens."""
    names = {name.rstrip("_").replace("_", "-"): escape(str(value)) for name, value in attributes.items()}
    opening = " ".join([tag, *(f'{name}="{value}"' for name, value in names.items())])
    return Markup(f"<{opening}>{''.join(map(text, content))}</{tag}>")


def section(title, *blocks):
    """A section with a heading."""
    return element("section", element("h2", title), *blocks)


def note(words):
    """A paragraph in small print."""
    return element("p", words, class_="note")


def details(title, *blocks):
    """Blocks that are hidden until a reader clicks on the title."""
    return element("details", element("summary", title), *blocks)


def table(caption, header, rows, marked=None):
    """A table that scrolls in its own box; the first column holds the headings of the rows.

    Args:
        caption: the content of the figure or table.
        header: texts, or `Markup`.
        rows: lists of as many texts, or `Markup`.
        marked: index of a row that stands out, or None.
    """
    body = [
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell) for cell in cells[1:]),
            **({"class_": "marked"} if i == marked else {}),
        )
        for i, cells in enumerate(rows)
    ]
    parts = (
        element("caption", caption),
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in header))),
        element("tbody", *body),
    )
    return element("div", element("table", *parts), class_="scroll", role="region", tabindex="0", aria_label=caption)


def pairs(title, values):
    """A table of names and values under a heading."""
    return Markup(
        element("h3", title)
        + element(
            "table",
            element(
                "tbody",
                *(element("tr", element("th", name, scope="row"), element("td", str(v))) for name, v in values.items()),
            ),
            class_="pairs",
        )
    )


def interval_bar(versus, ends):
    """The interval of a difference with its estimate, drawn on a scale between two `ends` that include zero."""
    left, right = ends

    def place(value):
        return f"{4 + (_BAR_WIDTH - 8) * (value - left) / ((right - left) or 1.0):.1f}"

    across = _BAR_HEIGHT // 2
    drawn = (
        element("line", class_="zero", x1=place(0), x2=place(0), y1=0, y2=_BAR_HEIGHT),
        element("line", x1=place(versus["low"]), x2=place(versus["high"]), y1=across, y2=across),
        element("circle", cx=place(versus["difference"]), cy=across, r=3),
    )
    size = {"width": _BAR_WIDTH, "height": _BAR_HEIGHT, "viewBox": f"0 0 {_BAR_WIDTH} {_BAR_HEIGHT}"}
    return element("svg", *drawn, class_=f"interval {versus['verdict']}", aria_hidden="true", **size)


def figures(drawn):
    """Figures side by side if there is room.

    Args:
        drawn: `{name: (caption, figure)}` of `matplotlib.figure.Figure`.
    """
    return element("div", *(figure(name, *pair) for name, pair in drawn.items()), class_="figures")


def figure(name, caption, drawn):
    """A `matplotlib.figure.Figure` as inline SVG with its caption; the same figure gives the same text.

    Args:
        name: unique on the page.
        caption: the content of the figure or table.
        drawn: the figure.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        file = io.StringIO()
        drawn.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    width = round(float(root.get("width").removesuffix("pt")) * _POINTS_TO_PIXELS)
    _simplify(root, name)
    root.attrib = {
        "viewBox": root.get("viewBox"),
        "role": "img",
        "aria-label": caption,
        "style": f"max-width: {_WIDEST * width:.0f}px; min-width: {_NARROWEST * width:.0f}px",
    }
    of_box, of_figure = ({"tabindex": 0}, {"class_": "wide"}) if width > _WIDE else ({}, {})
    box = element("div", Markup(ElementTree.tostring(root, encoding="unicode")), class_="scroll", **of_box)
    return element("figure", box, element("figcaption", caption), **of_figure)


def _simplify(root, name):
    """Reduce matplotlib's SVG to what HTML needs, with ids that no other figure has."""
    for parent in root.iter():
        parent[:] = [child for child in parent if not child.tag.endswith(("}metadata", "}style"))]
    used = {old for part in root.iter() for key, value in part.attrib.items() for old in _references(key, value)}
    ids = {old: f"{name}-{i}" for i, old in enumerate(sorted(used))}
    for part in root.iter():
        part.tag = part.tag.partition("}")[2]  # in HTML, SVG has no name space
        part.text = part.text if part.tag in ("text", "tspan") else None
        part.tail = None
        part.attrib = {
            key.rpartition("}")[2]: _simple(key, value, ids)
            for key, value in part.attrib.items()
            if key != "id" or value in ids
        }


def _references(key, value):
    return [value.removeprefix("#")] if key.endswith("href") else _IN_URL.findall(value)


def _simple(key, value, ids):
    if key == "id":
        return ids[value]
    if key.endswith("href"):
        return f"#{ids[value.removeprefix('#')]}"
    if key == "style":
        value = _FONTS.sub("", value)  # the page has its own fonts
    if key in ("d", "x", "y"):
        value = _LONG.sub(r"\1", " ".join(value.split()))
    return _IN_URL.sub(lambda found: ids[found.group()], value)


def page(blocks, *, title, kind, heading, lead, command):
    """The page.

    Args:
        blocks: `Markup` from top to bottom.
        title: the title of the window.
        kind: the command that made it, in small letters at the top.
        heading: the result in a line.
        lead: the result in a sentence or two.
        command: the command that repeats it.
    """
    template = importlib.resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        title=escape(title),
        kind=text(kind),
        heading=text(heading),
        lead=text(lead),
        blocks="\n".join(blocks),
        command=escape(command),
    )
