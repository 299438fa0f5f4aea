"""What tests of `tune_tau` share: the rule by loops, and models of known logits."""

import warnings

import numpy as np
from reference import log_prior

import keras_logit_adjust as kla

COUNTS = [500, 150, 40, 10]


def gaussian(rng, counts, each, scale=1.0, signal=1.5):
    """Labels and `scale` times the exact log-posteriors of Gaussian classes under the prior of `counts`."""
    y = np.repeat(np.arange(len(counts)), each)
    x = rng.normal(size=(y.size, len(counts))) + signal * np.eye(len(counts))[y]
    return y, scale * (signal * x + log_prior(counts))  # log N(x; signal·e_y, 1), less what all classes share


def right_at(y, logits, counts, tau):
    return np.argmax(np.asarray(logits, "float64") - tau * log_prior(counts), axis=-1) == y


def weights_by_loop(y, bucket_of):
    """Balanced accuracy as weights of examples: a bucket counts for its classes, its examples equally."""
    buckets = {bucket_of[label] for label in y.tolist()}
    classes = {b: sum(bucket_of[c] == b for c in range(len(bucket_of))) for b in buckets}
    sizes = {b: sum(bucket_of[label] == b for label in y.tolist()) for b in buckets}
    return np.array([classes[bucket_of[k]] / sizes[bucket_of[k]] / sum(classes.values()) for k in y.tolist()])


def chosen_by_loop(y, logits, counts, bucket_of, standard_errors, unknown=0.0):
    """The rule: between 1 and the best, the τ nearest to 1 within so many paired standard errors of it.

    A class of a bucket without examples is left out; `unknown` is what such classes may add to a difference.

    Returns it, the best, and the outermost pieces that are within so many, as pairs of their ends.
    """
    path, weight = kla.TauPath(y, logits, counts), weights_by_loop(y, bucket_of)
    taus, _ = path.curve("accuracy")
    pieces = [taus[0] - 1, *(taus[1:] + taus[:-1]) / 2, taus[-1] + 1]
    values = [weight[right_at(y, logits, counts, tau)].sum() for tau in pieces]
    highest = np.flatnonzero(np.isclose(values, max(values), rtol=0, atol=1e-9))
    ends = np.concatenate([[-np.inf], taus, [np.inf]])
    nearest = min(highest, key=lambda k: max(ends[k] - 1, 1 - ends[k + 1]))
    best = kla.held_out.tau_path.robust_point(ends[nearest], ends[nearest + 1])
    at_best = right_at(y, logits, counts, best)
    allowed = []
    for tau in [*pieces, 1.0, best]:
        right = right_at(y, logits, counts, tau)
        lost = weight[at_best].sum() - weight[right].sum()
        variance = sum(w**2 * (int(a) - int(b)) ** 2 for w, a, b in zip(weight, at_best, right, strict=True))
        if lost <= standard_errors * np.sqrt(variance) + unknown + 1e-12:
            allowed.append(tau)
    between = [tau for tau in allowed if min(1.0, best) <= tau <= max(1.0, best)]
    outermost = [ends[k : k + 2] for k in np.searchsorted(taus, [min(allowed), max(allowed)])]
    return min(between, key=lambda tau: abs(tau - 1)), best, outermost


def tune(*args, **options):
    """`tune_tau` where the warning of small classes is beside the point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* held-out examples .*pooled")
        return kla.tune_tau(*args, **options)
