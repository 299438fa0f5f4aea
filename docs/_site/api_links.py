"""Names such as `kla.adjust` and `GroupAccuracy` in text become links to where the API reference explains them."""

import ast
import pathlib
import posixpath
import re

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_logit_adjust"
PACKAGE_NAME = "keras_logit_adjust"
_HEADING_OR_LINK = re.compile(r"(<(?:h[1-6]|a|pre)\b.*?</(?:h[1-6]|a|pre)>)", re.DOTALL)
# With `kla.` any name; without it classes alone, as words such as `prior` are names of arguments too.
_NAME = re.compile(r"<code>(?:kla\.([A-Za-z_.]+)|([A-Z][A-Za-z0-9]+))((?:\([^<]*\))?)</code>")
# What mkdocstrings puts between a name and its description, where there is no name.
_BARE_DASH = re.compile(r"(<li class=\"[^\"]*field-body\">)\s*–\s*")


def on_page_content(html, page, config, files):
    html = _BARE_DASH.sub(r"\1", html)
    targets = addresses()
    classes = addresses_of_classes(targets)
    here = posixpath.dirname(page.file.dest_uri) or "."

    def linked(match):
        address = targets.get(match[1]) or classes.get(match[2])
        return f'<a href="{posixpath.relpath(address, here)}">{match[0]}</a>' if address else match[0]

    parts = _HEADING_OR_LINK.split(html)
    parts[::2] = [_NAME.sub(linked, part) for part in parts[::2]]
    return "".join(parts)


def addresses():
    """`{"losses.FocalCrossentropy": "reference/losses.html#…", "adjust": …}` for every public name."""
    found = {}
    for page in sorted((PACKAGE.parent / "docs" / "reference").glob("*.md")):
        if page.stem != "index":
            found[page.stem] = f"reference/{page.stem}.html"
            for name in public_names(page.stem):
                found[f"{page.stem}.{name}"] = f"reference/{page.stem}.html#{anchor(page.stem, name)}"
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module != PACKAGE_NAME:
            part = node.module.removeprefix(f"{PACKAGE_NAME}.")
            found |= {alias.name: found[f"{part}.{alias.name}"] for alias in node.names}
    return found


def addresses_of_classes(targets):
    """The same by the name alone, for classes: `{"FocalCrossentropy": "reference/losses.html#…"}`."""
    return {name.split(".")[-1]: address for name, address in targets.items() if name.split(".")[-1][0].isupper()}


def anchor(part, name):
    """Where the page of a part explains a name; one that a file is named after has a block of its own there."""
    file = (PACKAGE / part / f"{name}.py").exists()
    return f"{PACKAGE_NAME}.{part}.{name}.{name}" if file else f"{PACKAGE_NAME}.{part}.{name}"


def public_names(part):
    """The names in `__all__`; where there is none, the public classes and functions that a file defines."""
    path = PACKAGE / f"{part}.py"
    body = ast.parse((path if path.exists() else PACKAGE / part / "__init__.py").read_text()).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    defined = [node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in defined if not name.startswith("_")]
