"""What a comparison keeps on disk: finished runs, each written whole or not at all, in a folder of one setting."""

import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import sys

import keras
import numpy as np


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
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder. {folder} is a file.")
    mine = identity(config)
    for name, key in (("config.json", None), ("results.json", "config")):
        path = folder / name
        if not path.exists():
            continue
        theirs = _read_identity(path, key)
        if "study" in theirs:
            raise ValueError(f"{folder} holds a study. Choose another --output.")
        other = {field: theirs.get(field) for field in mine if theirs.get(field) != mine[field]}
        if other:
            field, value = next(iter(other.items()))
            raise ValueError(
                f"{folder} holds results of another configuration: its {field} is {value!r}, this one's is "
                f"{mine[field]!r}. Choose another --output, or remove the folder."
            )


def _read_identity(path, key):
    """What a file of the folder says it depends on: all of its content, or what that has under `key`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        theirs = stored if key is None or "study" in stored else stored[key]
        if not isinstance(theirs, dict):
            raise TypeError(f"no object: {theirs!r}")
        return theirs
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken ({error}). Remove it, or choose another --output.") from error


def run_path(folder, name, seed):
    return folder / "runs" / f"{name}_seed{seed}.npz"


def is_stored(folder, name, dataset):
    """Whether a finished run of this very split is on disk; a damaged file counts as none."""
    shape = (dataset.test[1].size, dataset.num_classes)
    try:
        with np.load(run_path(folder, name, dataset.seed)) as run:
            stored = {key: run[key] for key in run}
        is_whole = dataset.validation is None or "validation_logits" in stored
        return str(stored["split_hash"]) == dataset.split_hash and stored["test_logits"].shape == shape and is_whole
    except Exception:  # a damaged archive raises whatever zipfile, zlib or NumPy stumbles over
        return False


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
