"""Who gains and who pays: accuracy of many-, medium- and few-shot classes, and of ten buckets by frequency (E.4)."""

import numpy as np

from keras_logit_adjust.compare import Config, statistics
from keras_logit_adjust.compare.report import in_seeds, to_table
from keras_logit_adjust.compare.run import compare_with_predictions

DEFAULT_METHODS = ("erm", "weight_norm", "adaptive", "equalized", "la_posthoc", "la_loss")
GROUPS = ("many", "medium", "few")
BUCKETS = 10


def run(folder, config=None, methods=DEFAULT_METHODS, seeds=3):
    """Compare the methods and take the accuracy of every group and bucket, seed by seed."""
    results, predictions = compare_with_predictions(config or Config(), methods, seeds, folder / "compare")
    labels, found = predictions["labels"], {}
    for name, method in results["methods"].items():
        recalls = [
            statistics.recalls(labels, predictions[f"{name}_seed{seed}"].argmax(axis=-1), counts.size)
            for seed, counts in enumerate(predictions["class_counts"])
        ]
        pairs = zip(recalls, predictions["class_counts"], strict=True)
        buckets = np.mean([bucket_accuracy(*pair) for pair in pairs], axis=0)
        found[name] = {
            "title": method["title"],
            "groups": {group: method["summary"][f"{group}_accuracy"] for group in GROUPS},
            "buckets": [None if np.isnan(accuracy) else float(accuracy) for accuracy in buckets],
        }
    return {"data": results["data"], "class_counts": results["class_counts"], "seeds": seeds, "methods": found}


def bucket_accuracy(recalls, class_counts, buckets=BUCKETS):
    """Mean recall in percent of equal buckets of classes, the most frequent first; NaN where none has test examples.

    Example:

    >>> bucket_accuracy(np.array([0.2, 0.8, 0.6]), np.array([5, 500, 50]), buckets=3).tolist()
    [80.0, 60.0, 20.0]
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    parts = np.array_split(np.asarray(recalls)[order], min(buckets, order.size))
    return np.array([100 * np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts])


def to_markdown(results):
    """A row for each method."""
    first = next(iter(results["methods"].values()))
    header = ["method", *(f"{group} %" for group in GROUPS), *(f"{i + 1}" for i in range(len(first["buckets"])))]
    rows = [
        [
            f"`{name}` {found['title']}",
            *map(_percent, _means(found["groups"])),
            *map(_percent, found["buckets"]),
        ]
        for name, found in results["methods"].items()
    ]
    caption = f"{results['data']['name']}, {len(results['class_counts'])} classes, {in_seeds(results['seeds'])}"
    return f"""\
{caption}

{to_table(header, rows)}

Mean accuracy in percent. Many: at least 100 training examples; few: at most 20; medium between.
1 to {len(first["buckets"])}: buckets of equally many classes, the most frequent first."""


def _means(summaries):
    return [None if summary is None else summary["mean"] for summary in summaries.values()]


def _percent(accuracy):
    return "-" if accuracy is None else f"{accuracy:.1f}"


def figure(results):
    """Bars of the groups beside lines over the buckets."""
    from keras_logit_adjust import plots

    groups = {
        name: {group: value for group, value in found["groups"].items() if value is not None}
        for name, found in results["methods"].items()
    }
    buckets = {name: np.array(found["buckets"], "float64") for name, found in results["methods"].items()}
    return plots.group_accuracy(groups, buckets=buckets)
