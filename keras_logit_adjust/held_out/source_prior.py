"""The class prior inside a head, for a head whose training examples were not counted.

A zero-shot or pretrained head gives `f(x) = log P(x|y) + log q_y`, up to a constant for each x. The data behind q are
not available. Labeled examples with their known mix π show it. `softmax(f − log q + log π)` is the posterior of these
examples for the right q only, and there it has the least cross-entropy.
"""

import dataclasses
import warnings

import numpy as np
from scipy import linalg, optimize, special

from keras_logit_adjust import _arrays, _checks
from keras_logit_adjust.held_out import _reading
from keras_logit_adjust.held_out.label_shift import shown_shares
from keras_logit_adjust.priors.formulas import as_prior

_TOLERANCE = 1e-7  # largest derivative at the end of the search, in units of the root of the mix
_LOOSE = 1e-5  # with a larger derivative the search has failed
_STEPS = 2000
_SMALLEST = 1e-300  # smallest share: log 0 is not finite


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SourcePrior:
    """The result of `estimate_source_prior`. Functions take it in place of class counts.

    Attributes:
        prior: `[L]` the estimate, positive, which sums to one.
        low: `[L]` lower ends of the interval, class by class.
        high: `[L]` upper ends.
        level: the nominal coverage of each interval.
        examples: `[L]` labeled examples of each class.
        class_names: the names that the columns of the logits had, in their order; None if they had no names.
    """

    prior: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    examples: np.ndarray
    class_names: list | None = None

    @property
    def effective_prior(self):
        """The estimate, in the form in which functions read class counts."""
        return self.prior

    def __repr__(self):
        basis = f"{self.examples.sum():,} labeled examples, {100 * self.level:g}% interval"
        return f"SourcePrior from {basis}: {shown_shares(self)}"


def estimate_source_prior(logits, y_true, *, class_prior=None, level=0.95):
    """The class prior q in the logits of a zero-shot or pretrained head, from labeled examples.

    It minimizes the cross-entropy of `softmax(f − log q + log π)` on the examples, where π is their own class mix. This
    is convex in `log q`. At the minimum the mean of these probabilities is π. Give the result as `class_counts`:
        `kla.adjust(model, source)` makes the head right for equal classes, and with `target_prior` for another mix.

    The estimate assumes that the head is a posterior under *some* prior. Logits of another scale, such as cosines, are
    not: divide them by `kla.calibrate(logits, y_true, method="bias_corrected_temperature").temperature` first.

    Args:
        logits: `[N, L]` the unadjusted logits of the head; the head was not trained on these examples. Leading axes are
            flattened. `[N]` or `[N, 1]`: one sigmoid unit, which has two classes, [negatives, positives].
        y_true: `[N]` class ids, or one-hot rows; at least one of every class. They may have any mix: the choice of the
            examples may depend on their class, and on nothing else.
        class_prior: `[L]` class mix (counts or probabilities) in place of π: example i then weighs
            `class_prior_y / π_y`. `np.ones(L)` makes this the balanced risk. If the head is a posterior, all mixes
            estimate the same q, and the examples' own mix has the smallest error. If it is not, take the mix that you
            are judged by.
        level: nominal coverage of the interval of each class. The interval covers the sampling error of the labeled
            examples, by the delta method on `log(q_y / (1 − q_y))`. For classes with at most ten examples it may be too
            narrow.

    Returns:
        A `SourcePrior`, which `kla.adjust` and `kla.adjust_scores` take as `class_counts`.

    Raises:
        ValueError: for logits that are not finite or are probabilities, labels that do not fit, a class without labeled
            examples.

    Warns:
        UserWarning: if the logits separate classes so surely that the examples say nothing about their prior, or if the
            search did not converge.

    Example:

    >>> import numpy as np
    >>> bright, dark = np.log([0.8, 0.2]) + np.log([[0.9, 0.2], [0.1, 0.8]])  # log q + log P(x|y) of two kinds of x
    >>> labels = [0] * 9 + [1] * 2 + [0] * 1 + [1] * 8  # ten of each class
    >>> source = estimate_source_prior([bright] * 11 + [dark] * 9, labels)
    >>> source.prior.round(4).tolist()
    [0.8, 0.2]
    >>> bool(source.low[0] < 0.8 < source.high[0])
    True

    Reference: Zhu et al. (2023), Generalized Logit Adjustment; Prentice and Pyke (1979), on examples chosen by
    class.
    """
    names = _reading.names_of(logits, class_prior=class_prior)
    class_prior = _arrays.in_order(class_prior, "class_prior", names)
    y_true, logits = _reading.labels_beside(y_true, logits), _reading.as_numbers(logits, "logits")
    _reading.check_order(y_true, logits)
    is_unit = logits.ndim == 1 or logits.shape[-1:] == (1,)
    logits = _reading.as_logits(logits, 2 if is_unit else logits.shape[-1] if logits.ndim else 1)
    ids = _reading.as_ids(y_true, *logits.shape)
    level = _checks.check_open_fraction(level, "level")
    examples = np.bincount(ids, minlength=logits.shape[1])
    _checks.check_length(examples, max(2, examples.size), "logits", "a problem of two classes at least")
    if (missing := examples == 0).any():
        raise _checks.ArgumentError(
            "y_true",
            f"`y_true` must have an example of every class. Received none of {_checks.name_classes(missing)}: label "
            "some, or leave out the columns of these classes; the ratios of the other classes stay the same.",
        )
    mix = examples / ids.size
    if class_prior is not None:
        mix = as_prior(class_prior, independent=False, name="class_prior").probabilities
        _checks.check_length(mix, examples.size, "class_prior", "the logits")
    bias = _best_bias(logits, ids, (mix / examples)[ids], mix)
    prior = np.maximum(special.softmax(np.log(mix) - bias), _SMALLEST)
    low, high = _interval(logits, ids, prior, mix, level=level)
    return SourcePrior(prior, low, high, level, examples, class_names=names)


def _best_bias(logits, ids, weight, mix):
    """`b = log π − log q` with the least weighted cross-entropy, `Σ π_y·b_y = 0`."""
    unit, rows = np.sqrt(mix), np.arange(ids.size)

    def evaluate(point):
        scores = logits + point / unit
        scores -= scores.max(axis=1, keepdims=True)
        own = scores[rows, ids]
        odds = np.exp(scores)
        sums = odds.sum(axis=1)
        common = unit @ point  # a constant in all biases: the examples do not determine it
        return weight @ (np.log(sums) - own) + common**2 / 2, ((weight / sums) @ odds - mix) / unit + common * unit

    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 30, "ftol": 0.0, "gtol": _TOLERANCE}
    found = optimize.minimize(evaluate, np.zeros(mix.size), jac=True, method="L-BFGS-B", options=options)
    if (left := np.abs(found.jac).max()) > _LOOSE:
        warnings.warn(
            f"The search did not reach the least cross-entropy: a derivative of {left:.2g} is left. If the logits are "
            "unusually large, divide them by the temperature of `kla.calibrate`.",
            stacklevel=3,
        )
    return found.x / unit


def _interval(logits, ids, prior, mix, *, level):
    """The ends of the interval of each class `[L]`, by the delta method on the log-odds of its share."""
    shares = np.bincount(ids) / ids.size
    variance, doubtful = _least_variance(logits + np.log(shares) - np.log(prior), shares, prior)
    if doubtful < 1:
        warnings.warn(
            "The labeled examples say nothing about the prior: the logits separate some classes so surely that all "
            f"examples together count as {doubtful:.2g} of a doubtful one. The interval is [0, 1]. Label more "
            "examples, or divide the logits by the temperature of `kla.calibrate`.",
            stacklevel=3,
        )
        return np.zeros(prior.size), np.ones(prior.size)
    # From few doubtful examples this variance comes out too small; the likeliest estimate's is a lower bound.
    variance = np.maximum(variance, _variance(logits + np.log(mix) - np.log(prior), ids, mix, prior))
    rest = np.maximum(1 - prior, _SMALLEST)
    with np.errstate(over="ignore"):
        reach = special.ndtri((1 + level) / 2) * np.sqrt(variance) / rest
    center = np.log(prior) - np.log(rest)
    return special.expit(center - reach), special.expit(center + reach)


def _curvature(probability, weight, mix):
    """`[L, L]` second derivatives of the mean cross-entropy by `√π_y·b_y`, plus 1 for a constant in all biases.

    It is between 0, where classes never overlap, and 1, where the logits do not separate them.
    """
    unit = np.sqrt(mix)
    joint = probability.T @ (weight[:, None] * probability)
    return (np.diag(weight @ probability) - joint) / np.outer(unit, unit) + np.outer(unit, unit)


def _least_variance(scores, shares, prior):
    """The variance `[L]` of `log q` if the head is a posterior, and the number of doubtful examples."""
    probability = special.softmax(scores, axis=1)
    curvature = _curvature(probability, np.full(len(scores), 1 / len(scores)), shares)
    values, vectors = linalg.eigh(curvature)
    if (doubtful := float(values[0]) * len(scores)) < 1:
        return None, doubtful
    vectors /= np.sqrt(shares)[:, None]
    covariance = (vectors / values) @ vectors.T - np.diag(1 / shares)
    moved = covariance - prior @ covariance
    return np.maximum(np.diag(moved - (moved @ prior)[:, None]), 0.0) / len(scores), doubtful


def _variance(scores, ids, mix, prior):
    """The variance `[L]` of `log q` for any head: the sum of squares of each example's influence."""
    rows, weight, unit = np.arange(ids.size), (mix / np.bincount(ids))[ids], np.sqrt(mix)
    moved = special.softmax(scores, axis=1)
    curvature = _curvature(moved, weight, mix)
    moved[rows, ids] -= 1.0
    moved = linalg.solve(curvature, (moved / unit).T, assume_a="sym").T / unit * weight[:, None]
    moved[rows, ids] += weight / mix[ids]  # the direct influence on its own class: log q_y = log π_y − b_y
    moved -= (moved @ prior)[:, None]
    return (moved**2).sum(axis=0)
