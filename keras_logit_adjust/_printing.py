"""Text for a stream that may know few characters: what it cannot write is spelled out, and nothing is raised."""

import codecs
import sys

SPELLED_OUT = "keras_logit_adjust.spelled_out"  # a name for `errors=`, as "strict" is one
_IN_ASCII = {"τ": "tau", "π": "pi", "±": "+/-", "…": "...", "–": "-", "—": "-", "\u00a0": " "}


def _spell_out(error):
    unknown = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in unknown), error.end


codecs.register_error(SPELLED_OUT, _spell_out)


def say(text, file=None):
    """Print `text` at once, to standard output where no `file` is given; only a full disk or a closed pipe raises."""
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, SPELLED_OUT).decode(encoding), file=file, flush=True)
