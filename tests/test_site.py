"""The site builds without a network or a warning, and is whole: its names, its notebooks, its links."""

import html
import html.parser
import importlib
import json
import os
import pathlib
import re
import shutil
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


def test_a_class_in_running_text_is_a_link_without_its_room_too(site):
    for page, part, name in (
        ("reference/layers.html", "layers", "ManyClassDense"),
        ("guide/losses.html", "losses", "PairwiseMarginCrossentropy"),
    ):
        target = rf'href="[^"]*{part}.html#keras_logit_adjust.{part}.{name}"><code>{name}\b'
        assert re.search(target, site[page].text), page


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_has_an_example_or_names_one_that_gives_it(site, part):
    text = site[f"reference/{part}.html"].text
    starts = {name: text.index(f'id="{anchor_of(part, name, text)}"') for name in public_names(part)}
    order = [*sorted(starts.values()), len(text)]
    sections = {name: text[start : order[order.index(start) + 1]] for name, start in starts.items()}
    shown = {name for name, section in sections.items() if "&gt;&gt;&gt;" in section}
    for name in sections.keys() - shown:
        named = set(re.findall(r"<code>(?:kla\.)?(\w+)", sections[name]))
        assert named & shown or name.isupper(), name  # a constant shows its value


def anchor_of(part, name, text):
    """Where the page explains a name; one that a file is named after has a block of its own there."""
    own = f"keras_logit_adjust.{part}.{name}"
    return f"{own}.{name}" if f'id="{own}.{name}"' in text else own


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_cells_printed(site, path):
    page = html.unescape(re.sub("<[^>]+>", "", site[f"notebooks/{path.stem}.html"].text))
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    printed = [line.rstrip() for out in outputs for line in "".join(out.get("text", [])).splitlines() if line.strip()]
    assert printed and [line for line in printed if line not in page and "\x1b" not in line] == []


def test_the_search_of_pages_opened_as_files_has_its_index_and_its_worker(site):
    folder = site[""] / "search"
    name, _, index = (folder / "search_index.js").read_text().partition(" = ")
    assert name == "var __index" and json.loads(index) == json.loads((folder / "search_index.json").read_text())
    found = {document["location"].partition("#")[0] for document in json.loads(index)["docs"]}
    assert found == set(pages(site))
    for name, page in pages(site).items():
        assert any(script.endswith("assets/iframe-worker.js") for script in page.loads), name


def test_the_search_finds_a_page_that_was_opened_as_a_file(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by it")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("No browser: apt-get install chromium")
    said = []
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_context(offline=True).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((site[""] / "tasks" / "fraud.html").as_uri())
        page.locator("input.md-search__input").click()
        page.keyboard.type("temperature")
        page.wait_for_selector(".md-search-result__item", timeout=30_000)
        links = [link.get_attribute("href") for link in page.locator(".md-search-result__link").all()]
        chromium.close()
    assert any("guide/calibration.html" in link for link in links) and said == []


def test_what_is_new_is_on_the_site_as_in_the_changelog(site):
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    text = site["changelog.html"].text
    assert versions and all(re.search(rf"<h2 [^>]*>\[?{re.escape(version)}", text) for version in versions)
    assert all('changelog.html">' in page.text or 'changelog.html"' in page.text for page in pages(site).values())


def test_the_gallery_shows_every_figure_with_its_lines(site):
    page = site["gallery.html"]
    shown = [image["src"] for image in page.images]
    assert shown == [f"gallery/{pathlib.Path(name).name}" for name in shown]
    assert {pathlib.Path(name).stem for name in shown} == set(public_names("plots"))
    assert all((site[""] / name).is_file() for name in shown)


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
