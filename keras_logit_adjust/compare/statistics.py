"""Figures of one run and of many, computed from logits and labels only: float64 NumPy, so a table can be recomputed."""

import numpy as np
from scipy import stats

from keras_logit_adjust import priors
from keras_logit_adjust.metrics import groups_of_counts

REPLICATES = 2000
CONFIDENCE = 0.95


def recalls(labels, predicted, num_classes):
    """The recall of every class; NaN for a class without examples."""
    total = np.bincount(labels, minlength=num_classes).astype("float64")
    hits = np.bincount(labels[labels == predicted], minlength=num_classes)
    return np.divide(hits, total, out=np.full(num_classes, np.nan), where=total > 0)


def macro_f1(labels, predicted, prior):
    """Macro-F1 as if the classes occurred with `prior`: the weight of a test example is prior / test share."""
    num_classes = prior.size
    total = np.bincount(labels, minlength=num_classes)
    weight = np.divide(prior, total, out=np.zeros(num_classes), where=total > 0)
    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (labels, predicted), weight[labels])
    true_positives, actual, claimed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return float(np.mean((2 * true_positives / np.maximum(actual + claimed, 1e-300))[total > 0]))


def figures(labels, logits, *, class_counts):
    """The table's figures of one run, in percent: balanced error, group accuracies, macro-F1 at the training prior."""
    predicted = logits.argmax(axis=-1)
    recall = recalls(labels, predicted, class_counts.size)
    names, tested = np.array(groups_of_counts(class_counts)), ~np.isnan(recall)
    members = {f"{group}_accuracy": recall[tested & (names == group)] for group in ("many", "medium", "few")}
    return {
        "balanced_error": float(100 * (1 - np.nanmean(recall))),
        **{key: 100 * float(values.mean()) if values.size else None for key, values in members.items()},
        "macro_f1": 100 * macro_f1(labels, predicted, priors.prior(class_counts)),
    }


def on_training_examples(run):
    """The fit of a run to its training examples: balanced error in percent, and both parts of its last loss."""
    hits = recalls(run.train_labels, run.train_logits.argmax(axis=-1), run.train_logits.shape[-1])
    penalty = float(run.weight_penalty[-1])
    return {
        "balanced_error": float(100 * (1 - np.nanmean(hits))),
        "data_loss": float(run.loss[-1]) - penalty,
        "weight_penalty": penalty,
    }


def summarize(rows):
    """The `spread` over seeds of every figure."""
    return {key: spread([row[key] for row in rows if row[key] is not None]) for key in rows[0]}


def spread(values):
    """Mean and standard deviation (n − 1; None for one value), or None without values."""
    if len(values) == 0:
        return None
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def show(figure):
    """A `spread` as the text of a cell."""
    if figure is None:
        return "-"
    return f"{figure['mean']:.1f}" + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")


def paired_difference(labels, hits, baseline_hits, *, seed=0):
    """Difference of balanced errors in points, with a paired bootstrap interval over test examples and seeds.

    Test examples are redrawn within their class and seeds among themselves, the same for both methods.

    Args:
        labels: `[N]` test labels.
        hits: `[S, N]` whether the method was right, for each seed.
        baseline_hits: the same of the method compared with.
        seed: the seed of the bootstrap.

    Returns:
        dict with `difference` (negative: fewer errors), `low`, `high` and `verdict` ("lower", "higher" or "none"); of
        two seeds or more `t_low` and `t_high`, the t-interval of the seeds' differences, which takes the test set as
        it is.
    """
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # Each example's share of the balanced error: a replicate is then one product.
    share = 100.0 / (classes.size * counts[inverse])
    difference = (np.asarray(baseline_hits, "float64") - np.asarray(hits, "float64")) * share
    rng = np.random.default_rng(seed)
    by_seed = np.zeros((REPLICATES, difference.shape[0]))
    for c, count in enumerate(counts):
        # Examples with equal differences are interchangeable: drawing among the few patterns is the same bootstrap.
        patterns, times = np.unique(difference[:, inverse == c], axis=1, return_counts=True)
        by_seed += rng.multinomial(count, times / count, size=REPLICATES) @ patterns.T
    num_seeds = difference.shape[0]
    times = rng.multinomial(num_seeds, np.full(num_seeds, 1.0 / num_seeds), size=REPLICATES)
    replicates = (by_seed * times).sum(axis=1) / num_seeds
    tail = 50 * (1 - CONFIDENCE)
    # Sums of shares have a rounding error of this size. Equal methods must not differ by it.
    low, high = np.round(np.percentile(replicates, [tail, 100 - tail]), 9) + 0.0
    verdict = "none" if low <= 0 <= high else "lower" if high < 0 else "higher"
    of_seeds = difference.sum(axis=1)
    found = {"difference": float(of_seeds.mean()), "low": float(low), "high": float(high), "verdict": verdict}
    return found | (_t_interval(of_seeds) if num_seeds > 1 else {})


def _t_interval(values):
    """The ends of the t-interval of a mean."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1)
    half = quantile * values.std(ddof=1) / np.sqrt(values.size)
    low, high = np.round([values.mean() - half, values.mean() + half], 9) + 0.0
    return {"t_low": float(low), "t_high": float(high)}
