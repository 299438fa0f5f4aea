"""The files of a comparison: finished runs, each written completely or not at all, in one folder for one setting."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import shutil
import sys
import uuid

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import keras
import numpy as np

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import devices
from keras_logit_adjust.compare.config import as_text
from keras_logit_adjust.compare.records import Run

_OTHER = "choose another `output`"
_SHOWN = 80  # characters of a file's content in a message


def as_folder(output):
    """`output` as a path, or None; a path that cannot become a writable folder is refused."""
    if output is None:
        return None
    folder = pathlib.Path(as_text(output, "output"))
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):  # made later, or refused below
        pass
    except OSError as error:
        raise ArgumentError("output", f"`output` must be a folder. {folder}: {error.strerror}: {_OTHER}.") from error
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ArgumentError("output", f"`output` must be a folder. {nearest} is {_kind(nearest)}: {_OTHER}.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArgumentError("output", f"`output` must be a writable folder. {nearest} is not writable: {_OTHER}.")
    return folder


def _kind(path):
    return "a file" if path.exists() else "a link to nothing"


def cache_folder(*command):
    """The folder for unfinished work of one command without an output folder; plain values identify the command.

    Among the values of a command is the hash of its data, because a file of the same name may contain other data.
    """
    key = hashlib.sha256(json.dumps(command, sort_keys=True, default=str).encode()).hexdigest()
    try:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        return as_folder(root / "keras_logit_adjust" / key[:16])
    except (ArgumentError, RuntimeError) as error:  # there may be no home folder
        raise ArgumentError(
            "output",
            "Without `output` unfinished work is kept in the folder for caches, from $XDG_CACHE_HOME or in the home "
            f"folder, which cannot be used ({str(error).replace('`output`', 'it')}). Give `output`.",
        ) from error


@contextlib.contextmanager
def claimed(folder, *, goes):
    """`folder` for this process only; it is made if it is missing.

    Args:
        folder: path.
        goes: whether it is removed in the end, unless something was raised before.
    """
    is_new = not folder.exists()
    with _locked(folder):
        try:
            yield
            if goes:
                shutil.rmtree(folder)
        finally:
            # A run without results leaves no folders.
            for empty in (folder / "runs", folder) if is_new else ():
                with contextlib.suppress(OSError):
                    empty.rmdir()


@contextlib.contextmanager
def _locked(folder):
    """A lock on a folder, which is made for it; the system releases it when the process ends."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArgumentError(
                "output", f"`output` must be a folder. {folder}: {error.strerror}. {_OTHER}."
            ) from error
        try:
            lock = _lock_file(folder) if fcntl is None else os.open(folder, os.O_RDONLY)
            if fcntl is not None:
                _lock_folder(lock)
        except (BlockingIOError, FileExistsError):
            raise ArgumentError(
                "output",
                f"{folder} is in use by another process. Wait until it has finished, or choose another `output`.",
            ) from None
        # The last holder of the lock may have removed the folder in between.
        if fcntl is None or (folder.exists() and os.path.samestat(os.fstat(lock), folder.stat())):
            break
        os.close(lock)
    try:
        yield
    finally:
        os.close(lock)


def _lock_folder(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks
        pass


def _lock_file(folder):
    """On Windows a folder cannot be locked: a file beside it is the lock, and is removed when its process ends."""
    return os.open(folder.with_name(f"{folder.name}.lock"), os.O_CREAT | os.O_EXCL | os.O_TEMPORARY)


def identity(config):
    """The versions and settings that stored runs depend on."""
    known = versions()
    known = {key: known[key] for key in ("backend", "keras", "keras_logit_adjust")}
    return {**config.settled(), **known, "threads": devices.threads()}


def check_folder(folder, config):
    """Raise if `folder` belongs to another configuration than its finished runs."""
    mine = identity(config)
    for name, key in (("config.json", None), ("results.json", "config")):
        stored = read_results(folder, name)
        if stored is None:
            continue
        if "study" in stored:
            raise ArgumentError("output", f"{folder} holds a study. Choose another `output`.")
        theirs = stored if key is None else stored.get(key)
        if not isinstance(theirs, dict):
            raise _broken(folder / name, f"no object: {str(theirs)[:_SHOWN]}")
        for field, value in mine.items():
            if theirs.get(field) != value:
                raise ArgumentError(
                    "output",
                    f"{folder} holds results of another configuration: its {field} is {theirs.get(field)!r}, this "
                    f"one's is {value!r}. Choose another `output`, or remove the folder.",
                )


def read_results(folder, name="results.json"):
    """The object in a JSON file of the folder, or None if there is no such file."""
    path = folder / name
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    if not isinstance(stored, dict):
        raise _broken(path, f"no object: {str(stored)[:_SHOWN]}")
    return stored


def _broken(path, why):
    return ArgumentError("output", f"{path} is broken ({why}). Remove it, or choose another `output`.")


def run_path(folder, name, seed):
    return folder / "runs" / f"{name}_seed{seed}.npz"


def checkpoint_path(folder, name, seed):
    """The file of an unfinished training."""
    return run_path(folder, name, seed).with_suffix(".checkpoint")


def save_run(folder, run):
    arrays = {name: value for name, value in vars(run).items() if value is not None}
    write_npz(run_path(folder, run.method, run.seed), arrays)
    checkpoint_path(folder, run.method, run.seed).unlink(missing_ok=True)


def mark_of(config, recipe, name, split):
    """Hex digits that differ if the training of a row differs."""
    backend = keras.backend.backend()
    training = {
        **identity(config),
        "recipe": dataclasses.asdict(recipe),
        "method": name,
        "seed": split.seed,
        "split_hash": split.split_hash,
        "backend_version": sys.modules[backend].__version__,
    }
    return hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()


def load_run(folder, name, split):
    """The finished `Run` of exactly this `Split`; None if it is not on disk. A damaged file counts as no file."""
    # A damaged archive raises errors of many types, from zipfile, zlib or NumPy.
    with contextlib.suppress(Exception), np.load(run_path(folder, name, split.seed)) as stored:
        run = Run(**{key: value if value.ndim else value.item() for key, value in stored.items()})
        return run if run.method == name and run.belongs_to(split) else None


def versions():
    import keras_logit_adjust

    return {
        "keras_logit_adjust": keras_logit_adjust.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}",
    }


def write_npz(path, arrays):
    """Write completely or not at all: an interrupted save leaves no partial file under the final name."""
    with _written(path) as file:
        np.savez_compressed(file, **arrays)


def write_text(path, text):
    with _written(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _written(path):
    """A file under a unique name; it gets the name `path` when it is complete."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        os.replace(partial, path)
    except OSError as error:  # for a full disk, Python's error has no path
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
