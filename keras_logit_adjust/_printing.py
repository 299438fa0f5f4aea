"""Print text to a stream that may not have all characters. Other characters are replaced, and no error is raised."""

import codecs
import sys

SPELLED_OUT = "keras_logit_adjust.spelled_out"  # a value of `errors=`, like "strict"
_IN_ASCII = {"τ": "tau", "π": "pi", "±": "+/-", "…": "...", "–": "-", "—": "-", "\u00a0": " "}


def _spell_out(error):
    unknown = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in unknown), error.end


codecs.register_error(SPELLED_OUT, _spell_out)


def say(text, file=None):
    """Print `text` at once to `file` (default: standard output). Only a full disk or a closed pipe raises an error."""
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, SPELLED_OUT).decode(encoding), file=file, flush=True)
