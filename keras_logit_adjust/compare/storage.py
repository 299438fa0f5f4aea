"""What a comparison keeps on disk: finished runs, each written whole or not at all, in a folder of one setting."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import sys

import keras
import numpy as np

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare.records import Run


def cache_folder(*command):
    """Where unfinished work of one command (plain values that tell it from others) waits without an output folder."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    key = hashlib.sha256(json.dumps(command, sort_keys=True).encode()).hexdigest()
    return root / "keras_logit_adjust" / key[:16]


def identity(config):
    """What stored runs depend on."""
    known = versions()
    return {**dataclasses.asdict(config), **{key: known[key] for key in ("backend", "keras", "keras_logit_adjust")}}


def check_folder(folder, config):
    """Raise where `folder` belongs to another configuration: that of the finished runs in it."""
    check_is_folder(folder)
    mine = identity(config)
    for name, key in (("config.json", None), ("results.json", "config")):
        stored = read_results(folder, name)
        if stored is None:
            continue
        if "study" in stored:
            raise ArgumentError("output", f"{folder} holds a study. Choose another `output`.")
        theirs = stored if key is None else stored.get(key)
        if not isinstance(theirs, dict):
            raise _broken(folder / name, f"no object: {theirs!r}")
        for field, value in mine.items():
            if theirs.get(field) != value:
                raise ArgumentError(
                    "output",
                    f"{folder} holds results of another configuration: its {field} is {theirs.get(field)!r}, this "
                    f"one's is {value!r}. Choose another `output`, or remove the folder.",
                )


def check_is_folder(path):
    if path.exists() and not path.is_dir():
        raise ArgumentError("output", f"`output` must be a folder. {path} is a file.")


def read_results(folder, name="results.json"):
    """The object in a JSON file of the folder, or None where there is no such file."""
    path = folder / name
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path, error) from error
    if not isinstance(stored, dict):
        raise _broken(path, f"no object: {stored!r}")
    return stored


def _broken(path, why):
    return ArgumentError("output", f"{path} is broken ({why}). Remove it, or choose another `output`.")


def run_path(folder, name, seed):
    return folder / "runs" / f"{name}_seed{seed}.npz"


def save_run(folder, run):
    arrays = {name: value for name, value in vars(run).items() if value is not None}
    write_npz(run_path(folder, run.method, run.seed), arrays)


def load_run(folder, name, dataset):
    """The finished `Run` of this very split, None where none is on disk; a damaged file counts as none."""
    # A damaged archive raises whatever zipfile, zlib or NumPy stumbles over.
    with contextlib.suppress(Exception), np.load(run_path(folder, name, dataset.seed)) as stored:
        run = Run(**{key: value if value.ndim else value.item() for key, value in stored.items()})
        return run if run.belongs_to(dataset) else None


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
    """Write all or nothing: an interrupted save leaves no half file under the final name."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def write_text(path, text):
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
