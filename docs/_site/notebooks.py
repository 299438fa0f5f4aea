"""The notebooks as pages, made while the site is built: their text, code, printed results and figures as stored."""

import base64
import json
import pathlib
import re

from mkdocs.structure.files import File

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def on_config(config):
    (section,) = [entry["Notebooks"] for entry in config.nav if "Notebooks" in entry]
    listed = [f"notebooks/{path.stem}.md" for path in sorted(FOLDER.glob("*.ipynb"))]
    section.extend(name for name in listed if name not in section)
    return config


def on_files(files, config):
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, images = to_markdown(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, image in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=image))
    return files


def to_markdown(notebook, stem):
    """The page, and its images as `{name: bytes}`."""
    parts, images, heading = [], {}, stem
    for cell in notebook["cells"]:
        text = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ +(.+)$", text, re.MULTILINE) or [heading])[-1]
            parts.append(text)
        elif text.strip():
            parts.append(f"```python\n{text}\n```")
            for output in cell["outputs"]:
                parts.append(_output(output, heading, stem, images))
    download = f'<p class="download"><a href="../files/notebooks/{stem}.ipynb" download>Download this notebook</a></p>'
    title, _, introduction = parts[0].partition("\n")
    return "\n\n".join([title, download, introduction, *parts[1:]]) + "\n", images


def _output(output, heading, stem, images):
    data = output.get("data", {})
    if output["output_type"] == "stream":
        return _printed(output["text"])
    if image := data.get("image/png") or data.get("image/svg+xml"):
        suffix = "png" if "image/png" in data else "svg"
        name = f"{stem}_{len(images)}.{suffix}"
        images[name] = base64.b64decode(_joined(image)) if suffix == "png" else _joined(image).encode()
        return f"![Figure: {heading.replace('`', '')}]({name})"
    if "text/markdown" in data:
        return _joined(data["text/markdown"])
    if "text/html" in data:
        return f'<div class="output">{_joined(data["text/html"])}</div>'
    return _printed(data.get("text/plain", ""))


def _printed(text):
    return f"``` {{.text .output}}\n{_COLOR.sub('', _joined(text)).rstrip()}\n```"


def _joined(text):
    return text if isinstance(text, str) else "".join(text)
