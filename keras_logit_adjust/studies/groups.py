"""Gains and losses by group: accuracy of many-, medium- and few-shot classes, and of ten buckets by frequency (E.4)."""

import numpy as np

from keras_logit_adjust.compare import statistics
from keras_logit_adjust.compare.report import GROUPS, in_seeds
from keras_logit_adjust.compare.run import compare_with_predictions
from keras_logit_adjust.studies.table import Table

DEFAULT_METHODS = ("erm", "weight_norm", "adaptive", "equalized", "la_posthoc", "la_loss")
BUCKETS = 10


def run(folder, *, config=None, methods=DEFAULT_METHODS, seeds=3):
    """Compare the methods and compute the accuracy of every group and bucket, seed by seed."""
    results, predictions = compare_with_predictions(config, methods=methods, seeds=seeds, output=folder / "compare")
    counts, found = predictions.class_counts, {}
    for name, method in results["methods"].items():
        pairs = zip(predictions.predicted(name), counts, strict=True)
        buckets = [bucket_accuracy(statistics.recalls(predictions.labels, p, n.size), n) for p, n in pairs]
        found[name] = {
            "title": method["title"],
            "groups": {group: method["summary"][f"{group}_accuracy"] for group in GROUPS},
            "buckets": [None if np.isnan(accuracy) else float(accuracy) for accuracy in np.mean(buckets, axis=0)],
        }
    return {"data": results["data"], "class_counts": results["class_counts"], "seeds": seeds, "methods": found}


def bucket_accuracy(recalls, class_counts, *, buckets=BUCKETS):
    """Mean recall in percent of equal buckets of classes, the most frequent first; NaN for one without test examples.

    Example:

    >>> bucket_accuracy(np.array([0.2, 0.8, 0.6]), np.array([5, 500, 50]), buckets=3).tolist()
    [80.0, 60.0, 20.0]
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    parts = np.array_split(np.asarray(recalls)[order], min(buckets, order.size))
    return np.array([100 * np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts])


def table(results):
    """A row for each method."""
    number = len(next(iter(results["methods"].values()))["buckets"])
    return Table(
        f"{results['data']['name']}, {len(results['class_counts'])} classes, {in_seeds(results['seeds'])}",
        ["method", *(f"{group} %" for group in GROUPS), *(f"{i + 1}" for i in range(number))],
        [
            [
                f"`{name}` {found['title']}",
                *("-" if summary is None else f"{summary['mean']:.1f}" for summary in found["groups"].values()),
                *("-" if accuracy is None else f"{accuracy:.1f}" for accuracy in found["buckets"]),
            ]
            for name, found in results["methods"].items()
        ],
        f"""\
Mean accuracy in percent. Many: at least 100 training examples; few: at most 20; medium between.
1 to {number}: buckets of equally many classes, the most frequent first.""",
    )


def figure(results):
    """Bars of the groups beside lines over the buckets."""
    from keras_logit_adjust import plots

    groups = {
        name: {group: value for group, value in found["groups"].items() if value is not None}
        for name, found in results["methods"].items()
    }
    return plots.group_accuracy(
        groups, buckets={name: np.array(found["buckets"], "float64") for name, found in results["methods"].items()}
    )
