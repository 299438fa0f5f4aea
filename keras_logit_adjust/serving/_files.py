"""The place of an exported model: its format, whether it may be written there, and writing in one step."""

import contextlib
import errno
import os
import pathlib
import tempfile

from keras_logit_adjust import _checks

SUFFIXES = {"keras": ".keras", "savedmodel": "", "tflite": ".tflite", "onnx": ".onnx"}
_FORMATS = {suffix: to for to, suffix in SUFFIXES.items() if suffix}


def as_destination(path, to=None, overwrite=False):
    """`path` as a `pathlib.Path` and its format; a `ValueError` if this format cannot be written there."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise _checks.ArgumentError(
            "path",
            f"`path` must be the path of a file, or of the folder of a SavedModel, to write. Received: path={path!r}",
        )
    path = pathlib.Path(path)
    if to is None and path.suffix not in ("", *_FORMATS):  # any other suffix is an error, not part of a folder's name
        raise _checks.ArgumentError(
            "path",
            f"The suffix of {path} must be {', '.join(_FORMATS)}, or empty for the folder of a SavedModel. Received "
            f"{path.suffix}: rename it, or name the format (`to`).",
        )
    to = _checks.check_choice(_FORMATS.get(path.suffix, "savedmodel") if to is None else to, "to", list(SUFFIXES))
    expected = SUFFIXES[to]
    if expected and path.suffix != expected:
        raise _checks.ArgumentError("path", f"A {to} file must be named …{expected}. Received: {path}")
    if not expected and path.suffix in (*_FORMATS, ".h5"):
        raise _checks.ArgumentError(
            "path", f"A SavedModel is a folder; {path} is named as a file. Leave out {path.suffix}, or name `to`."
        )
    check_place(path, to, overwrite)
    return path, to


def check_place(path, to, overwrite):
    """Raise if a file, or the folder of a SavedModel, cannot be written at `path`."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"The folder of {path} does not exist. Make it first, or choose another.")
    _check_free(path, to, overwrite)
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _check_free(path, to, overwrite):
    if not overwrite and os.path.lexists(path):
        raise _checks.ArgumentError(
            "overwrite", f"{path} exists and is not overwritten. Choose another path, or allow it (`overwrite`)."
        )
    if path.is_symlink():
        raise ValueError(
            f"A link is not overwritten, nor is its target. {path} links to {os.readlink(path)}: give that path, or "
            "remove the link first."
        )
    kind = "SavedModel" if to == "savedmodel" else "file"
    is_of_its_kind = (path / "saved_model.pb").is_file() if to == "savedmodel" else not path.is_dir()
    if path.exists() and not is_of_its_kind:
        raise ValueError(f"Only a {kind} is overwritten by a {kind}; {path} is something else. Choose another path.")


@contextlib.contextmanager
def replacing(path):
    """A free path beside `path`. At the end its content is moved to `path`; if writing fails, it is removed.

    Until then `path` keeps its old content.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:  # its path is the temporary folder, not `path`
        raise type(error)(error.errno, error.strerror, str(path)) from error
    with temporary as folder:
        partial, aside = pathlib.Path(folder, path.name), pathlib.Path(folder, "replaced")
        yield partial
        if path.is_dir():  # a folder with files cannot be replaced in one step
            os.replace(path, aside)
        try:
            os.replace(partial, path)
        except BaseException:
            if aside.is_dir():
                os.replace(aside, path)
            raise
