"""The recall of classes by name: what the best row gains and loses against the baseline."""

import numpy as np

from keras_logit_adjust.compare import statistics

_ALL = 24  # with more classes only those are shown that change most
_MOST = 10  # so many gains, and so many losses


def mean_recalls(predictions, num_classes):
    """`{row: [L]}`, means over the seeds, NaN for classes without test examples."""
    return {
        name: np.mean(
            [statistics.recalls(predictions.labels, of_seed, num_classes) for of_seed in predictions.predicted(name)],
            axis=0,
        )
        for name in predictions.logits
    }


def table(results, recalls, baseline, best):
    """The header and rows of a table of classes, the largest gain of `best` first, and a sentence about it."""
    names = results.get("class_names") or range(len(results["class_counts"]))  # older results have no names
    counts, change = results["class_counts"], 100 * (recalls[best] - recalls[baseline])
    order = np.argsort(-change, kind="stable")
    order = order[~np.isnan(change[order])]
    words = "All classes" if order.size == len(counts) else "All classes with test examples"
    if order.size > _ALL:
        words = f"The {_MOST} classes that gain most and the {_MOST} that lose most, of {order.size}"
        order = np.concatenate([order[:_MOST], order[-_MOST:]])
    rows = [
        [
            str(names[c]),
            f"{counts[c]:,}",
            *(f"{100 * recalls[row][c]:.1f}" for row in (baseline, best)),
            f"{change[c]:+.1f}",
        ]
        for c in order
    ]
    words += ", in order of the change. Recall is the share of the test examples of a class that are found."
    return ["class", "training examples", f"`{baseline}` %", f"`{best}` %", "change (points)"], rows, words
