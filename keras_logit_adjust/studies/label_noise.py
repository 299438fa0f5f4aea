"""What adjustment amplifies: a few examples of a frequent class that carry the label of a rare one.

To the model they say that the rare class looks like the frequent one, and adjustment turns every such doubt in favor of
the rare class. The price is paid by the frequent class, in errors of one kind.
"""

import dataclasses

import numpy as np

from keras_logit_adjust.compare import Config, statistics
from keras_logit_adjust.compare.report import in_seeds, show_difference, to_table
from keras_logit_adjust.compare.run import compare_with_predictions

DEFAULT_METHODS = ("erm", "class_weight", "la_posthoc", "la_loss")
SHARE = 0.01


def run(folder, config=None, methods=DEFAULT_METHODS, seeds=3):
    """Compare the methods on clean labels and with a share of the largest class labeled as the smallest."""
    config = config or Config()
    share = config.label_noise or SHARE
    _check(dataclasses.replace(config, label_noise=share).load(0))
    clean, clean_predictions = _compare(config, 0.0, methods, seeds, folder)
    noisy, noisy_predictions = _compare(config, share, methods, seeds, folder)
    labels, counts = clean_predictions["labels"], np.array(clean["class_counts"])
    head, tail = int(counts.argmax()), int(counts.argmin())
    found = {}
    for name, method in clean["methods"].items():
        hits, mistaken = [], []
        for predictions in (clean_predictions, noisy_predictions):
            predicted = np.stack([predictions[f"{name}_seed{seed}"].argmax(axis=-1) for seed in range(seeds)])
            hits.append(predicted == labels)
            mistaken.append(100 * float((predicted[:, labels == head] == tail).mean()))
        found[name] = {
            "title": method["title"],
            "clean_error": method["summary"]["balanced_error"]["mean"],
            "noisy_error": noisy["methods"][name]["summary"]["balanced_error"]["mean"],
            "versus_clean": statistics.paired_difference(labels, hits[1], hits[0]),
            "head_as_tail": mistaken,
        }
    return {
        "data": clean["data"],
        "share": share,
        "seeds": seeds,
        "classes": [head, tail],
        "counts": {"clean": clean["class_counts"], "noisy": noisy["class_counts"]},
        "methods": found,
    }


def _check(dataset):
    """Raise where the confusion that is looked at cannot be seen: no test example of the largest class."""
    head = int(dataset.class_counts.argmax())
    if not (dataset.test[1] == head).any():
        raise ValueError(f"The test set must have examples of the largest class. Received none of class {head}.")


def _compare(config, share, methods, seeds, folder):
    own = dataclasses.replace(config, label_noise=share)
    return compare_with_predictions(own, methods, seeds, folder / ("noisy" if share else "clean"))


def to_markdown(results):
    """A row for each method."""
    header = ["method", "clean %", "noisy %", "difference (points)", "head as tail, clean %", "head as tail, noisy %"]
    rows = []
    for name, found in results["methods"].items():
        versus = found["versus_clean"]
        rows.append(
            [
                f"`{name}` {found['title']}",
                f"{found['clean_error']:.1f}",
                f"{found['noisy_error']:.1f}",
                show_difference(versus),
                *(f"{share:.1f}" for share in found["head_as_tail"]),
            ]
        )
    (head, tail), counts = results["classes"], results["counts"]
    moved = counts["noisy"][tail] - counts["clean"][tail]
    return f"""\
{results["data"]["name"]}, {in_seeds(results["seeds"])}: {moved} of {counts["clean"][head]} training examples of
class {head} labeled as class {tail}, which has {counts["clean"][tail]} of its own

{to_table(header, rows)}

Balanced error with clean and with noisy labels, its difference with a 95% paired interval, and the share of class
{head}'s test examples that are taken for class {tail}."""


def figure(results):
    """The share of the frequent class that is taken for the rare one, clean against noisy."""
    from keras_logit_adjust import plots

    return plots.label_noise({name: found["head_as_tail"] for name, found in results["methods"].items()})
