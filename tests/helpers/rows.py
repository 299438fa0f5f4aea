"""Tiny files of rows for `compare` and the studies, and a folder to use them in."""

import json

import numpy as np

from keras_logit_adjust.compare import Config

ROWS = ["--train", "train.npz", "--test", "test.npz", "--epochs", "1"]
CONFIG = Config(train="train.npz", test="test.npz", epochs=1)


def write_rows(folder, seed=0):
    """Files train.npz and test.npz of rows in three classes of 150, 60 and 15 (test: 40, 20, 10)."""
    rng = np.random.default_rng(seed)
    for name, counts in (("train", [150, 60, 15]), ("test", [40, 20, 10])):
        y = rng.permutation(np.repeat([0, 1, 2], counts))
        np.savez(folder / f"{name}.npz", x=(rng.normal(size=(y.size, 4)) + np.eye(3, 4)[y]).astype("float32"), y=y)


def enter_folder_of_rows(tmp_path, monkeypatch):
    """Makes `tmp_path`, with the files of rows in it, the working folder; unfinished work waits in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_rows(tmp_path)
    return tmp_path


def read_json(path):
    """The content of a file that must be strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
