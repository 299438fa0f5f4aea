"""The site builds without a network or a warning, and is whole: its names, its notebooks, its links."""

import html.parser
import importlib
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

import keras_logit_adjust as kla

pytest.importorskip("mkdocs", reason="the site needs the extra docs")
pytest.importorskip("material", reason="the site needs the extra docs")
pytestmark = pytest.mark.slow  # the site is built

ROOT = pathlib.Path(__file__).parents[1]
if not (ROOT / "keras_logit_adjust").exists():
    pytest.skip("the reference is made from the package's source, which is not here", allow_module_level=True)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARTS = [path.stem for path in sorted((ROOT / "docs" / "reference").glob("*.md")) if path.stem != "index"]
# Python runs this file as it starts: whatever asks for another machine then fails, and so does the build.
OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise OSError(f"the site must be built without a network: {arguments}")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


class Page(html.parser.HTMLParser):
    """The identifiers of a page, its links, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.images = set(), [], [], []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update(value for key, value in attributes.items() if key in ("id", "name") and value)
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """`{path: Page}` of the built site."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "offline").mkdir()
    (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)
    environment = {**os.environ, "PYTHONPATH": str(folder / "offline"), "NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: it hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "built")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return {
        path.relative_to(folder / "built").as_posix(): Page(path) for path in (folder / "built").rglob("*.html")
    } | {"": folder / "built"}


def pages(site):
    return {name: page for name, page in site.items() if name and name != "404.html"}


def test_no_page_loads_anything_from_elsewhere(site):
    for name, page in pages(site).items():
        for address in page.loads:
            assert not urllib.parse.urlsplit(address).netloc and ":" not in address.split("?")[0], (name, address)
    for style in site[""].rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", style.read_text()):
            assert address.startswith("data:"), (style, address)


def test_every_link_and_every_anchor_of_a_page_leads_somewhere(site):
    for name, page in pages(site).items():
        for link in [*page.links, *page.loads]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = urllib.parse.unquote(parts.path)
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert (site[""] / target).is_file(), (name, link)
            if parts.fragment and target in site:
                assert urllib.parse.unquote(parts.fragment) in site[target].ids | {"__skip"}, (name, link)


def public_names(part):
    module = importlib.import_module(f"keras_logit_adjust.{part}")
    return getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


def test_the_reference_has_every_public_module():
    modules = {name for name in kla.__all__ if hasattr(getattr(kla, name), "__path__") or name in ("layers", "metrics")}
    assert modules | {"models"} == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_the_reference_explains_every_public_name(site, part):
    page = site[f"reference/{part}.html"]
    for name in public_names(part):
        own = f"keras_logit_adjust.{part}.{name}"
        assert own in page.ids or f"{own}.{name}" in page.ids, name


def test_the_reference_lists_every_name_of_the_top_level(site):
    page = site["reference/index.html"]
    for name in kla.__all__:
        assert f"kla.{name}" in page.text, name
    for name in (name for name in kla.__all__ if name not in PARTS):
        assert re.search(rf'href="[^"]+#keras_logit_adjust[\w.]*\.{name}"><code>kla\.{name}', page.text), name


def test_docstrings_are_rendered_section_by_section(site):
    page = site["reference/losses.html"].text
    assert "<blockquote>" not in page  # what Markdown makes of a bare `>>>`
    assert "&gt;&gt;&gt;" in page and "Reference:" in page and "Raises:" in page
    for part in PARTS:
        assert not re.search(r"<p>(Example|Args|Returns|Raises|Attributes):", site[f"reference/{part}.html"].text), part


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_page_with_its_figures(site, path):
    page = site[f"notebooks/{path.stem}.html"]
    figures = [image for image in page.images if image["src"].startswith(path.stem)]
    assert figures and all(image["alt"].startswith("Figure: ") for image in figures)
    assert (site[""] / "files" / "notebooks" / path.name).read_bytes() == path.read_bytes()


def test_formulas_need_no_script(site):
    page = site["mathematics.html"].text
    assert page.count("<math") >= 40 and "arithmatex" not in page
    assert "mathjax" not in page.lower() and "katex" not in page.lower()


def test_pages_name_no_machine(site):
    for name, page in pages(site).items():
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", page.text), name


def test_the_citation_file_holds_what_it_must_and_the_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for required in ("cff-version", "message", "title", "authors"):
        assert citation[required], required
    assert str(citation["version"]) == kla.__version__
    assert f"version = {{{kla.__version__}}}" in (ROOT / "docs" / "cite.md").read_text()
    paper = citation["preferred-citation"]
    assert paper["year"] == 2021 and [author["family-names"] for author in paper["authors"]][0] == "Menon"
