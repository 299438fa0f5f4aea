"""Choosing τ for the rows that have it tuned: on the exact path where logits are lines in τ, on a grid elsewhere."""

import warnings

import numpy as np

from keras_logit_adjust import held_out
from keras_logit_adjust.compare import statistics

GRID = np.linspace(0.0, 3.0, 61)


def corrected(method, run, class_counts, dataset):
    """The test logits of a method after its correction, and the τ of that (None where nothing was chosen).

    Args:
        method: a `Method`.
        run: what training kept: `test_logits`, `validation_logits` and the weights of the head.
        class_counts: `[L]` training examples of each class.
        dataset: the `LongTailDataset` trained on.
    """
    if method.tuned_on is None:
        return method.correct(run["test_logits"], run, class_counts, 1.0), None
    labels = (dataset.validation if method.tuned_on == "validation" else dataset.test)[1]
    tau = method.choose(method, run[f"{method.tuned_on}_logits"], labels, run, class_counts)
    return method.correct(run["test_logits"], run, class_counts, tau), tau


def shrunk_tau(method, logits, labels, run, class_counts):
    """The τ of `kla.tune_tau`, which believes a few examples only as far as they can tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rare classes with few examples: so is every long tail
        return held_out.tune_tau(logits, labels, class_counts, folds=min(5, len(labels))).tau


def highest_tau(method, logits, labels, run, class_counts):
    """The τ of the highest balanced accuracy on the exact path."""
    return held_out.TauPath(labels, logits, class_counts).best().tau


def grid_tau(method, logits, labels, run, class_counts):
    """The τ of `GRID` with the best balanced accuracy; of equals the one nearest to 1, then the smaller."""
    scores = []
    for tau in GRID:
        adjusted = method.correct(logits, run, class_counts, tau)
        recalls = statistics.recalls(labels, adjusted.argmax(axis=-1), adjusted.shape[-1])
        scores.append(np.nanmean(recalls))
    best = GRID[np.isclose(scores, np.max(scores), rtol=0, atol=1e-12)]
    return float(best[np.abs(best - 1.0).argmin()])
