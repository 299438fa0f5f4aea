"""Reports of the committed results of `compare`, with made-up predictions: nothing is trained."""

import json
import pathlib

import numpy as np

from keras_logit_adjust.compare import report
from keras_logit_adjust.compare.records import Predictions

RESULTS = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"


def committed(name):
    """The content of a results.json in benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def predictions_of(results, examples=5):
    """Logits of `examples` of each class and every run, right about as often as the groups of `results` say."""
    counts, rng = np.array(results["class_counts"]), np.random.default_rng(0)
    labels = np.repeat(np.arange(counts.size), examples)
    groups = np.where(counts >= 100, "many", np.where(counts > 20, "medium", "few"))
    logits = {name: [] for name in results["methods"]}
    for name, method in results["methods"].items():
        for row in method["seeds"]:
            accuracy = np.array([row[f"{group}_accuracy"] / 100 for group in groups])
            predicted = np.where(rng.random(labels.size) < accuracy[labels], labels, (labels + 1) % counts.size)
            logits[name].append(np.eye(counts.size, dtype="float32")[predicted])
    return Predictions(labels, np.array([counts]), logits, {})


def write(folder, results):
    """Write the report of `results` to a new folder; the path of its page."""
    folder.mkdir()
    report.write(folder, results, predictions_of(results))
    return folder / "report.html"
