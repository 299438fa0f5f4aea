"""The prior π and its logarithm from class counts.

Every adjustment of the package is computed from `log π_y = log n_y − log Σ n`. NumPy computes it once, in float64. It
is rounded only when it is added to the logits.
"""

import dataclasses
import functools

import numpy as np

from keras_logit_adjust import _checks


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """A class prior as one value, which `as_prior` makes and checks.

    Attributes:
        counts: float64 `[L]`, read-only: training examples of each class, or probabilities as they were given; for
            independent labels the positives of each.
        num_examples: the number of training examples in which the positives were counted. None means that classes
            exclude each other.
        smoothing: the pseudo-examples of each class that `counts` contain.

    Example:

    >>> as_prior([90, 10]).probabilities.tolist()
    [0.9, 0.1]
    >>> as_prior([90, 10], num_examples=100).logits.round(4).tolist()  # log 0.9/0.1 and log 0.1/0.9
    [2.1972, -2.1972]

    Reference: Menon et al. (2021), §2 (the setting).
    """

    counts: np.ndarray
    num_examples: float | None = None
    smoothing: float = 0.0

    @property
    def unsmoothed(self):
        """`[L]` the counts without pseudo-examples: groups by frequency and reports are about real examples."""
        return self.counts - self.smoothing

    @property
    def size(self):
        """The number of classes, or of independent labels, `L`."""
        return self.counts.size

    def __array__(self, dtype=None, copy=None):
        """The counts. So every function that takes class counts takes a `Prior` too."""
        return np.array(self.counts, dtype)

    @property
    def are_labels(self):
        """Whether this is a prior of independent labels, each with a probability of its own."""
        return self.num_examples is not None

    @functools.cached_property
    def probabilities(self):
        """`π`, float64 `[L]`: `n_y / Σ n`, which sums to one, or `n_l / N` for independent labels."""
        return self.counts / (self.num_examples or self.counts.sum())

    @functools.cached_property
    def logits(self):
        """The logits of a model that knows only the prior, float64 `[L]`.

        They are `log π_y`, or `log(π_l / (1 − π_l))` for independent labels. Every adjustment is τ times this vector.
        """
        rest = self.counts.sum() if self.num_examples is None else self.num_examples - self.counts
        return np.log(self.counts) - np.log(rest)


def as_prior(
    class_counts, num_examples=None, *, independent=None, name="class_counts", class_names=None, smoothing=0.0
):
    """`class_counts` as a `Prior`, checked once. Functions take a `Prior` in place of class counts.

    Args:
        class_counts: `[L]` numbers > 0, `L ≥ 2`: counts or probabilities, as a list, array or Series in order of class
            id; an object with an `effective_prior`, such as a sampler or an estimate; or a `Prior`, which is returned.
        num_examples: for independent labels, the number of training examples; `class_counts` are then positives,
            strictly between 0 and that number, `L ≥ 1`.
        independent: True if the prior must be for independent labels, False if it must be for classes that exclude each
            other. By default both are accepted.
        name: the name of the argument in messages.
        class_names: `[L]` names in order of class id, for counts that name their classes: a dict or `Counter`, a
            `Series` or a `DataFrame` of one column.
        smoothing: pseudo-examples `s` added to every class, `n_y + s`, so that classes without examples have a finite
            log-prior. For independent labels, `s` examples with each label and `s` without it, `(n_l + s) / (N + 2·s)`.
            It needs counts. Counts by name then need not name every class.

    Returns:
        A `Prior`.

    Raises:
        ValueError: for counts that are negative, zero, not finite, empty, not a vector or not in order of class id (the
            message names the classes); for counts by name without `class_names`, or with other names.

    Example:

    >>> as_prior([3, 1]).size
    2
    >>> as_prior({"dog": 10, "cat": 90}, class_names=["cat", "dog"]).probabilities.tolist()
    [0.9, 0.1]
    >>> as_prior([8, 0], smoothing=1).counts.tolist()
    [9.0, 1.0]

    Reference: Menon et al. (2021), §2 (the setting).
    """
    smoothed = smoothing = _checks.check_number(smoothing, "smoothing", minimum=0)
    if smoothing:
        if isinstance(class_counts, Prior):
            given = as_prior(class_counts, num_examples, independent=independent, name=name)
            class_counts, num_examples, smoothed = given.counts, given.num_examples, given.smoothing + smoothing
        if independent or num_examples is not None:
            class_counts, num_examples = _smooth_labels(class_counts, num_examples, smoothing, class_names)
        else:
            class_counts = _smooth(class_counts, smoothing, name, class_names)
        class_names = None  # the counts are in order of id now
    if isinstance(class_counts, Prior):
        _check_kind(class_counts, num_examples, independent, name)
        return class_counts
    if num_examples is None and not independent:
        counts = _checks.as_counts(class_counts, name, class_names=class_names)
    else:
        counts = _checks.as_positive_counts(class_counts, num_examples, class_names=class_names)
        num_examples = float(num_examples)
    counts = np.array(counts)  # a copy: if the caller changes the array later, the checked prior stays the same
    counts.flags.writeable = False
    return Prior(counts, num_examples, smoothed)


def as_label_prior(probabilities, name):
    """The probabilities of independent labels `[L]` as a `Prior`. A `Prior` of independent labels stays as it is."""
    if isinstance(probabilities, Prior):
        return as_prior(probabilities, independent=True, name=name)
    vector = _checks.as_vector(probabilities, name)
    _checks.refuse_numbers(
        (vector <= 0) | (vector >= 1),
        vector,
        name,
        f"Every number in `{name}` must be the probability of a label, strictly between 0 and 1.",
        remedy=": divide counts by the number of examples, and in place of 0 give a small number, such as 1e-6.",
    )
    return Prior(vector, num_examples=1.0)


def _check_kind(prior, num_examples, independent, name):
    """Raise for a `Prior` of another number of examples, or of the other kind of labels, than is asked for."""
    anew = "as_prior(positive_counts, num_examples, …)" if not prior.are_labels else "as_prior(class_counts, …)"
    if num_examples not in (None, prior.num_examples):
        remedy = "Leave it out" if prior.are_labels else f"Give it where the prior is made, kla.priors.{anew}"
        raise _checks.ArgumentError(
            "num_examples",
            f"`num_examples` must be that of the prior, {prior.num_examples}. Received: "
            f"num_examples={num_examples!r} beside a Prior. {remedy}.",
        )
    if independent not in (None, prior.are_labels):
        kind, other = ("independent labels", "exclusive classes")[:: 1 if independent else -1]
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be of {kind} here. Received a Prior of {other}, num_examples={prior.num_examples}: "
            f"make it {'with' if independent else 'without'} the number of examples, kla.priors.{anew}.",
        )


def _smooth(class_counts, smoothing, name, class_names):
    """Counts of exclusive classes plus `smoothing` examples for each class. Zeros are allowed."""
    counts = _checks.as_counts(class_counts, name, allow_zero=True, class_names=class_names)
    if abs(counts.sum() - 1.0) < 1e-3:
        raise _checks.ArgumentError(
            name,
            "`smoothing` adds examples and so needs true counts. "
            f"Received numbers that sum to {counts.sum():.6g}: pass the counts they were made from.",
        )
    return counts + smoothing


def _smooth_labels(positive_counts, num_examples, smoothing, class_names):
    """Positives and number of examples of independent labels, after adding `smoothing` examples twice.

    `smoothing` examples have each label, and as many do not have it.
    """
    counts = _checks.as_positive_counts(positive_counts, num_examples, class_names=class_names, allow_bounds=True)
    return counts + smoothing, num_examples + 2 * smoothing


def prior(class_counts, *, smoothing=0.0, class_names=None):
    """The class prior, `π_y = (n_y + s) / (Σ n + s·L)` with smoothing `s`.

    Args:
        class_counts: `[L]` numbers > 0 (with `smoothing` > 0 also 0), `L ≥ 2`: counts, or probabilities that need not
            sum to one; or an object with an `effective_prior`.
        smoothing: pseudo-examples added to every class (Laplace smoothing). Needs true counts when not 0.
        class_names: `[L]` names in order of class id, for counts that name their classes, as in `as_prior`. With
            `smoothing` > 0 a class that they do not name has no examples.

    Returns:
        Float64 array `[L]` that sums to one.

    Raises:
        ValueError: for counts that are negative, zero without smoothing, not finite, empty or not a vector, naming the
            classes; for counts by name as in `as_prior`.

    Example:

    >>> prior([90, 9, 1]).tolist()
    [0.9, 0.09, 0.01]
    >>> prior([98, 0], smoothing=1).tolist()
    [0.99, 0.01]
    >>> prior({"dog": 98}, smoothing=1, class_names=["cat", "dog"]).tolist()
    [0.01, 0.99]

    Reference: Menon et al. (2021), §2 (the setting).
    """
    return as_prior(class_counts, independent=False, class_names=class_names, smoothing=smoothing).probabilities.copy()


def log_prior(class_counts, *, smoothing=0.0, class_names=None):
    """The logarithm of the class prior, `log π_y = log(n_y + s) − log(Σ n + s·L)`.

    It is never computed as `log(π^τ + ε)`, because ε would bound the adjustment of the rarest classes.

    Args:
        class_counts: as in `prior`.
        smoothing: as in `prior`.
        class_names: as in `prior`.

    Returns:
        Float64 array `[L]` of numbers below zero.

    Raises:
        ValueError: as `prior`.

    Example:

    >>> log_prior([437511, 2]).round(4).tolist()
    [-0.0, -12.2957]

    Reference: Menon et al. (2021), §4 (equation 9) and §5 (equation 10).
    """
    return as_prior(class_counts, independent=False, class_names=class_names, smoothing=smoothing).logits.copy()


def log_odds(positive_counts, num_examples=None):
    """The log-odds of each of several independent labels, `log(π_l / (1 − π_l))` with `π_l = n_l / N`.

    Args:
        positive_counts: `[L]` examples in which each label is on, or a `Prior` of independent labels.
        num_examples: the number of examples `N` they were counted in. A `Prior` knows it.

    Returns:
        Float64 array `[L]`.

    Raises:
        ValueError: for a count that is not strictly between 0 and `num_examples`.

    Example:

    >>> log_odds([1, 50], 100).round(4).tolist()
    [-4.5951, 0.0]

    Reference: Menon et al. (2021), §5, for each label as a problem of two classes.
    """
    return as_prior(positive_counts, num_examples, independent=True).logits.copy()
