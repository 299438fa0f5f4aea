"""The noise that adjustment amplifies: a few examples of a frequent class have the label of a rare class.

The model learns from them that the rare class looks like the frequent one. Adjustment decides every such doubt for the
rare class. The frequent class pays for it, with errors of one kind.
"""

import dataclasses

import numpy as np

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import statistics
from keras_logit_adjust.compare.config import as_config
from keras_logit_adjust.compare.report import in_seeds, show_difference
from keras_logit_adjust.compare.run import compare_with_predictions
from keras_logit_adjust.studies.table import Table

DEFAULT_METHODS = ("erm", "class_weight", "la_posthoc", "la_loss")
SHARE = 0.01


def run(folder, *, config=None, methods=DEFAULT_METHODS, seeds=3):
    """Compare the methods on clean labels and with a share of the largest class labeled as the smallest."""
    config = with_share(as_config(config))
    share = config.label_noise
    own = {
        "clean": dataclasses.replace(config, label_noise=0.0),
        "noisy": dataclasses.replace(config, label_noise=share),
    }
    dataset = own["noisy"].load(0)
    head = int(dataset.class_counts.argmax())
    if not (dataset.test[1] == head).any():  # without them, the confusion that is measured is empty
        raise ArgumentError(
            "test", f"The test set must have examples of the largest class. Received none of class {head}."
        )
    parts = {
        part: compare_with_predictions(settings, methods=methods, seeds=seeds, output=folder / part)
        for part, settings in own.items()
    }
    (clean, before), (noisy, after) = parts.values()
    labels, counts = before.labels, np.array(clean["class_counts"])
    head, tail = int(counts.argmax()), int(counts.argmin())
    found = {}
    for name, method in clean["methods"].items():
        mistaken = [(predictions.predicted(name)[:, labels == head] == tail).mean() for predictions in (before, after)]
        found[name] = {
            "title": method["title"],
            "clean_error": method["summary"]["balanced_error"]["mean"],
            "noisy_error": noisy["methods"][name]["summary"]["balanced_error"]["mean"],
            "versus_clean": statistics.paired_difference(labels, after.hits(name), before.hits(name)),
            "head_as_tail": [100 * float(rate) for rate in mistaken],
        }
    return {
        "data": clean["data"],
        "share": share,
        "seeds": seeds,
        "classes": [head, tail],
        "counts": {part: results["class_counts"] for part, (results, _) in parts.items()},
        "methods": found,
    }


def with_share(config):
    """`config` with its own share, or with `SHARE`."""
    if config.label_noise == 0:
        raise ArgumentError(
            "label_noise",
            "`label_noise` must be above 0 here: without noise there is nothing to compare. Received: label_noise=0.0. "
            f"Leave it out for {SHARE}.",
        )
    return dataclasses.replace(config, label_noise=SHARE) if config.label_noise is None else config


def table(results):
    """A row for each method."""
    (head, tail), counts = results["classes"], results["counts"]
    moved = counts["noisy"][tail] - counts["clean"][tail]
    return Table(
        f"""\
{results["data"]["name"]}, {in_seeds(results["seeds"])}: {moved} of {counts["clean"][head]} training examples of
class {head} labeled as class {tail}, which has {counts["clean"][tail]} of its own""",
        ["method", "clean %", "noisy %", "difference (points)", "head as tail, clean %", "head as tail, noisy %"],
        [
            [
                f"`{name}` {found['title']}",
                f"{found['clean_error']:.1f}",
                f"{found['noisy_error']:.1f}",
                show_difference(found["versus_clean"]),
                *(f"{share:.1f}" for share in found["head_as_tail"]),
            ]
            for name, found in results["methods"].items()
        ],
        f"""\
Balanced error with clean and with noisy labels, its difference with a 95% paired interval, and the share of class
{head}'s test examples that are taken for class {tail}.""",
    )


def figure(results):
    """The share of the frequent class that is predicted as the rare one, with clean and with noisy labels."""
    from keras_logit_adjust import plots

    return plots.label_noise({name: found["head_as_tail"] for name, found in results["methods"].items()})
