"""Files that the commands on models read: a trained model, its class counts and held-out data."""

import pathlib

import keras
import numpy as np
from keras import layers

from helpers.posthoc_models import COUNTS, WIDTH, rows, sequential


def save_model_counts_and_data():
    """Write model.keras, counts.csv and val.npz into the working folder."""
    model = sequential(layers.Dense(5, "tanh"), layers.Dense(3, "softmax", name="head"))
    model.name = "trained"
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    model.save("model.keras")
    write_counts("counts.csv", COUNTS)
    rng = np.random.default_rng(1)
    np.savez("val.npz", x=rows(rng, 60, WIDTH), y=np.arange(60) % 3)


def write_counts(path, counts):
    lines = [f"{c},{count}" for c, count in enumerate(counts)]
    pathlib.Path(path).write_text("\n".join(["class_id,count", *lines]) + "\n")
