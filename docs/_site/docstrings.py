"""Docstrings as mkdocstrings reads them: ours have an `Example:` that is not indented, a `Reference:` on its line."""

import re

import griffe

_EXAMPLE = re.compile(r"^Example:\n(.*?)(?=^Reference:|\Z)", re.DOTALL | re.MULTILINE)
_LABEL = re.compile(r"^(Reference|Call arguments|Input and output|Input|Output|Result):(?= )", re.MULTILINE)


class Sections(griffe.Extension):
    def on_instance(self, *, node, obj, agent, **kwargs):
        if obj.docstring:
            obj.docstring.value = _LABEL.sub(r"**\1:**", _EXAMPLE.sub(_indented, obj.docstring.value))


def _indented(match):
    lines = match[1].strip("\n").split("\n")
    return "Examples:\n" + "".join(f"    {line}\n" if line else "\n" for line in lines) + "\n"
