"""Choosing τ for the rows that have it tuned: a grid, and balanced accuracy on one split."""

import numpy as np

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
    logits = run[f"{method.tuned_on}_logits"]
    tau = choose_tau(lambda tau: method.correct(logits, run, class_counts, tau), labels)
    return method.correct(run["test_logits"], run, class_counts, tau), tau


def choose_tau(logits_at, labels):
    """The τ of `GRID` with the best balanced accuracy; of equals the one nearest to 1, then the smaller."""
    scores = []
    for tau in GRID:
        logits = logits_at(tau)
        recalls = statistics.recalls(labels, logits.argmax(axis=-1), logits.shape[-1])
        scores.append(np.nanmean(recalls))
    best = GRID[np.isclose(scores, np.max(scores), rtol=0, atol=1e-12)]
    return float(best[np.abs(best - 1.0).argmin()])
