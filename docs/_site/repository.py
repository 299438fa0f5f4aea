"""Files of the repository on the site, and links there: a page links as its file does, so that both work.

`docs/choose.md` may link to `../notebooks/01_quickstart.ipynb` or `../benchmarks/results/loss.json`. Where the
repository is browsed that is a file; on the site it becomes the page or the download that the file is there.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
# Files that are pages of the site under another name.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
DOWNLOADS = (
    "LICENSE",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "keras_logit_adjust/data/NOTICE",
    "benchmarks/*.py",
    "benchmarks/*/*.*",
    "notebooks/*.ipynb",
)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files, config):
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    for path in sorted(path for pattern in DOWNLOADS for path in ROOT.glob(pattern)):
        files.append(File.generated(config, download(path.relative_to(ROOT).as_posix()), content=path.read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    here = posixpath.dirname(page.file.src_uri)

    def on_site(link):
        if files.get_file_from_path(posixpath.normpath(posixpath.join(here, link[2]))):
            return link[0]  # it is the same on the site
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source(page.file.src_uri)), link[2]))
        relative = posixpath.relpath(site_file(target), here or ".")
        return f"{link[1]}{relative}{link[3] or ''}{link[4]}"

    return _LINK.sub(on_site, markdown)


def source(uri):
    """The file of the repository that a page of the site is made from."""
    if re.fullmatch(r"notebooks/\d.*\.md", uri):
        return uri.replace(".md", ".ipynb")
    return {"changelog.md": "CHANGELOG.md"}.get(uri, f"docs/{uri}")


def site_file(path):
    """The file of the site that a file of the repository becomes."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path.replace(".ipynb", ".md")
    return PAGES.get(path) or download(path)


def download(path):
    # A page, even one in Markdown, would be converted.
    return f"files/{path.replace('.md', '.txt')}"
