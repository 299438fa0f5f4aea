"""From class counts to the prior π and its logarithm, in float64, in one place.

Everything the package adjusts by comes from here: `log π_y = log n_y − log Σ n`, computed once with NumPy in float64
and rounded only when it meets the logits.
"""

import numbers

import numpy as np

from keras_logit_adjust import _checks


def prior(class_counts, smoothing=0.0):
    """The class prior, `π_y = (n_y + s) / (Σ n + s·L)` with smoothing `s`.

    Args:
        class_counts: `[L]` numbers > 0 (with `smoothing` > 0 also 0), `L ≥ 2`: counts, or probabilities that need not
            sum to one; or an object with an `effective_prior`.
        smoothing: pseudo-examples added to every class (Laplace smoothing). Needs true counts when not 0.

    Returns:
        Float64 array `[L]` that sums to one.

    Raises:
        ValueError: for counts that are negative, zero without smoothing, not finite, empty or not a vector, naming the
            classes.

    Example:

    >>> prior([90, 9, 1]).tolist()
    [0.9, 0.09, 0.01]
    >>> prior([98, 0], smoothing=1).tolist()
    [0.99, 0.01]

    Reference: Menon et al. (2021), §2 (the setting).
    """
    counts = _smooth(class_counts, smoothing)
    return counts / counts.sum()


def log_prior(class_counts, smoothing=0.0):
    """The logarithm of the class prior, `log π_y = log(n_y + s) − log(Σ n + s·L)`.

    Never `log(π^τ + ε)`: a clipped prior bounds the adjustment of just the rarest classes.

    Args:
        class_counts: as in `prior`.
        smoothing: as in `prior`.

    Returns:
        Float64 array `[L]` of numbers below zero.

    Raises:
        ValueError: as `prior`.

    Example:

    >>> log_prior([437511, 2]).round(4).tolist()
    [-0.0, -12.2957]

    Reference: Menon et al. (2021), §4 (equation 9) and §5 (equation 10).
    """
    counts = _smooth(class_counts, smoothing)
    return np.log(counts) - np.log(counts.sum())


def log_odds(positive_counts, num_examples):
    """The log-odds of each label of a multi-label problem, `log(π_l / (1 − π_l))` with `π_l = n_l / N`.

    Args:
        positive_counts: `[L]` examples in which each label is on.
        num_examples: the number of examples `N` they were counted in.

    Returns:
        Float64 array `[L]`.

    Raises:
        ValueError: for a count that is not strictly between 0 and `num_examples`.

    Example:

    >>> log_odds([1, 50], 100).round(4).tolist()
    [-4.5951, 0.0]

    Reference: Menon et al. (2021), §5, for each label as a problem of two classes.
    """
    counts = _checks.as_positive_counts(positive_counts, num_examples)
    return np.log(counts) - np.log(num_examples - counts)


def _smooth(class_counts, smoothing):
    if isinstance(smoothing, bool) or not isinstance(smoothing, numbers.Real) or not 0 <= smoothing < np.inf:
        raise ValueError(f"`smoothing` must be a finite number ≥ 0. Received: smoothing={smoothing!r}")
    if not smoothing:
        return _checks.as_counts(class_counts)
    counts = _checks.as_counts(class_counts, allow_zero=True)
    if abs(counts.sum() - 1.0) < 1e-3:
        raise ValueError(
            "`smoothing` adds examples and so needs true counts. "
            f"Received numbers that sum to {counts.sum():.6g}: pass the counts they were made from."
        )
    return counts + smoothing
