"""The choice of τ for rows that tune it: on the exact path if logits are lines in τ, else on a grid."""

import functools
import warnings

import numpy as np

from keras_logit_adjust import held_out
from keras_logit_adjust.compare import statistics

GRID = np.linspace(0.0, 3.0, 61)


def corrected(method, run, *, split):
    """The test logits of a method after its correction, and the τ of it (None if none was chosen).

    Args:
        method: a `Method`.
        run: a `Run`.
        split: the `Split` trained on.
    """
    correct, tau = functools.partial(method.correct, run=run, class_counts=split.class_counts), None
    if method.tuned_on is not None:
        if method.tuned_on == "validation" and run.out_of_fold_labels is not None:
            logits, labels = run.out_of_fold_logits, run.out_of_fold_labels
        else:
            logits = getattr(run, f"{method.tuned_on}_logits")
            labels = getattr(split, f"{method.tuned_on}_labels")
        tau = method.choose(logits, labels, correct=correct, class_counts=split.class_counts)
    return correct(run.test_logits, tau=1.0 if tau is None else tau), tau


def shrunk_tau(logits, labels, *, correct, class_counts):
    """The τ of `kla.tune_tau`, which moves away from 1 only as far as the examples support it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare classes have few examples in every long tail
        return held_out.tune_tau(logits, labels, class_counts, folds=min(5, len(labels))).tau


def highest_tau(logits, labels, *, correct, class_counts):
    """The τ of the highest balanced accuracy on the exact path."""
    return held_out.TauPath(labels, logits, class_counts).best().tau


def grid_tau(logits, labels, *, correct, class_counts):
    """The τ of `GRID` with the best balanced accuracy; among equals the nearest to 1, then the smaller."""
    predicted = [correct(logits, tau=tau).argmax(axis=-1) for tau in GRID]
    scores = [np.nanmean(statistics.recalls(labels, classes, logits.shape[-1])) for classes in predicted]
    best = GRID[np.isclose(scores, np.max(scores), rtol=0, atol=1e-12)]
    return float(best[np.abs(best - 1.0).argmin()])
