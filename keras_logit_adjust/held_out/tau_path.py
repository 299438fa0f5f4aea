"""The exact path of accuracy over τ: no grid, one pass over the logits.

Every held-out example is classified right on one interval of τ (`_intervals`). So balanced accuracy, or any other mean
of recalls, is a step function of τ, and its value is known at every τ.
"""

import dataclasses

import numpy as np

from keras_logit_adjust import _arrays, _checks, _labels, _scores
from keras_logit_adjust.held_out import _chunked, _intervals, _reading
from keras_logit_adjust.metrics import groups_of_counts
from keras_logit_adjust.priors.formulas import as_prior

MEASURES = ("balanced_accuracy", "accuracy", "many_accuracy", "medium_accuracy", "few_accuracy")


@dataclasses.dataclass(frozen=True)
class BestTau:
    """The result of `TauPath.best`: where a path is highest.

    Attributes:
        tau: a robust point of the interval: its middle; if one side is open, the point nearest to 1 that is at least 1
            away from the other end.
        low: the least τ with the highest value; −inf if the interval has no lower end.
        high: the largest τ with the highest value; inf if the interval has no upper end.
        value: the value of the path there.
    """

    tau: float
    low: float
    high: float
    value: float

    @classmethod
    def of(cls, intervals, value):
        """The one of several `intervals` `[K, 2]` with the same value that is nearest to τ = 1."""
        low, high = _intervals.nearest(*intervals.T, to=1.0)
        return cls(robust_point(low, high), low, high, value)


class TauPath:
    """Accuracy as an exact function of the strength τ of post-hoc adjustment, `argmax_y f_y(x) − τ·log π_y`.

    Example i is right on one interval of τ, where the line of its true class is above all others. The sorted ends of
    all intervals give the whole path. It is exact at every τ, and costs a few evaluations at single values of τ. A
    measure is "balanced_accuracy" (the mean of per-class recalls), "accuracy", "many_accuracy", "medium_accuracy" or
    "few_accuracy" (as in `kla.metrics.GroupAccuracy`). It may also be a class id (its recall), or a list of class ids
    (the mean of their recalls). Means leave out classes without examples, without a warning:
    `np.flatnonzero(path.examples == 0)` lists these classes. `kla.tune_tau` takes them into account.

    For independent labels give `num_examples`: a label is then on if `f_l − τ·log(π_l/(1−π_l)) > 0`. Each label has a
        recall of the examples where it is on, and one of those where it is off.

    Args:
        y_true: `[N]` class ids or `[N, L]` one-hot rows; for independent labels `[N, L]` of 0 and 1.
        logits: `[N, L]` held-out logits of the model before adjustment; `[N]` or `[N, 1]` for one sigmoid unit. If the
            columns of a table have names, counts need them too (a dict, a `Series`), and ids number the columns.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. One sigmoid unit takes two
            numbers, [negatives, positives]. Independent labels take the positives of each.
        num_examples: the number of training examples, for independent labels only.
        ignore_class: an id whose rows are left out, such as 255 for unlabeled pixels or padding. For independent labels
            the mark of an unknown target, such as −1, which is left out alone.

    Attributes:
        class_counts: float64 `[L]`, as given.
        num_examples: as given.
        prior: both as a `Prior`.
        low: `[N]` the least τ at which each example is right; −inf if there is no lower end.
        high: `[N]` the largest τ at which each example is right; below `low` if an example is never right.
        recall_ids: `[N]` the recall that each interval counts for: the class; for independent labels, which have
            `N·L` intervals (without unknown targets), `2l + 1` of label l where it is on and `2l` where it is off.

    Raises:
        ValueError: for logits that are NaN, infinite or probabilities, labels out of range, or counts that do not fit.

    Example:

    >>> path = TauPath([0, 0, 1], [[2.0, 0.0], [1.0, 0.0], [1.5, 0.0]], class_counts=[75, 25])
    >>> path.high.round(4).tolist(), path.low.round(4).tolist()  # 2 / log 3 and 1 / log 3; 1.5 / log 3
    ([1.8205, 0.9102, inf], [-inf, -inf, 1.3654])
    >>> path.best()
    BestTau(tau=1.5929, low=1.3654, high=1.8205, value=0.75)
    >>> path.at([0.0, 1.0, 1.5, 2.0]).tolist()
    [0.5, 0.25, 0.75, 0.5]

    Reference: Menon et al. (2021), §4, equation 9, whose τ* this finds.
    """

    def __init__(self, y_true, logits, class_counts, *, num_examples=None, ignore_class=None):
        names = _reading.names_of(logits, class_counts=class_counts)
        prior = as_prior(class_counts, num_examples, class_names=names)
        self._read([(y_true, logits)], prior, ignore_class, names)

    def _read(self, batches, prior, ignore_class, class_names=None):
        options = {"independent": prior.are_labels, "class_names": class_names, "ignore_class": ignore_class}
        reader = _reading.Reader(prior.size, **options)
        parts = [_intervals.of_examples(*batch, prior) for batch in reader.read(batches)]
        _check_any(parts)
        reader.check()
        self._set(prior, *map(np.concatenate, zip(*parts, strict=True)))

    def _set(self, prior, low, high, recall_ids):
        self.prior, self.class_counts, self.num_examples = prior, prior.counts, prior.num_examples
        self.low, self.high, self.recall_ids = low, high, recall_ids

    @classmethod
    def from_batches(cls, batches, class_counts, *, num_examples=None, ignore_class=None):
        """The path of batches that are never in memory together: it keeps two numbers and a class for each example.

        Args:
            batches: an iterable of `(y_true, logits)`.
            class_counts: as in `TauPath`.
            num_examples: as in `TauPath`.
            ignore_class: as in `TauPath`.

        Example:

        >>> batches = (([y], [[2.0, 0.0]]) for y in (0, 1))
        >>> TauPath.from_batches(batches, class_counts=[75, 25]).at(1.0)
        0.5
        """
        path = cls.__new__(cls)
        path._read(batches, as_prior(class_counts, num_examples), ignore_class)
        return path

    @classmethod
    def from_features(
        cls, batches, class_counts, *, kernel, bias=None, class_axis=-1, chunk_size=2048, ignore_class=None
    ):
        """The path of a linear head with very many classes, without a tensor of all scores in memory.

        The path of `features @ kernel + bias` is as exact as that of all logits: an example is right where it beats the
        classes of each chunk. Memory is O(examples of a batch × chunk_size). The time is that of the scores and of a
        few passes over them. The top k scores are not enough: at another τ a class outside of them may win.

        Args:
            batches: an iterable of `(y_true, features)`, what the head reads, `[N, D]`.
            class_counts: as in `TauPath`, of exclusive classes.
            kernel: `[D, L]`, or `[L, D]` with `class_axis=0`.
            bias: `[L]`, or None.
            class_axis: the axis of the classes in `kernel`, 0 or −1.
            chunk_size: classes computed at once.
            ignore_class: as in `TauPath`.

        Example:

        >>> batches = [([0, 1], [[2.0], [0.0]])]
        >>> TauPath.from_features(batches, class_counts=[75, 25], kernel=[[1.0, 0.0]]).at(1.0)
        1.0
        """
        path, prior = cls.__new__(cls), as_prior(class_counts)
        scorer = _chunked.Scorer(kernel, bias, prior, class_axis=class_axis, chunk_size=chunk_size)
        batches = _reading.as_pairs(batches, "features")
        if ignore_class is not None:
            batches = _without_ignored(batches, _checks.check_ignore_class(ignore_class))
        parts = [scorer.intervals(*batch) for batch in batches]
        _check_any(parts)
        path._set(prior, *map(np.concatenate, zip(*parts, strict=True)))
        return path

    @classmethod
    def join(cls, paths, prior):
        """The path of all examples of several paths; its recalls are those of the classes of `prior`."""
        whole = cls.__new__(cls)
        parts = ([getattr(path, name) for path in paths] for name in ("low", "high", "recall_ids"))
        whole._set(prior, *map(np.concatenate, parts))
        return whole

    @property
    def examples(self):
        """Held-out examples of each recall: `[L]` of the classes; `[2·L]` of independent labels."""
        return np.bincount(self.recall_ids, minlength=self.prior.size * (1 + self.prior.are_labels))

    def at(self, tau, measure="balanced_accuracy"):
        """The measure at `tau`, a number or an array; exact, ends of intervals included."""
        values = self.steps(self.weights(measure)).at(_as_taus(tau))
        return float(values) if values.ndim == 0 else values

    def best(self, measure="balanced_accuracy"):
        """Where the measure is highest, a `BestTau`; of several intervals the one nearest to τ = 1."""
        return BestTau.of(*self.steps(self.weights(measure)).highest())

    def curve(self, measure="balanced_accuracy"):
        """The whole step function.

        Returns:
            `taus` `[M]`, sorted, where the measure changes, and `values` `[M + 1]`: `values[k]` holds between
            `taus[k − 1]` and `taus[k]`.
        """
        left, _, values = self.steps(self.weights(measure)).pieces()
        return left[1:], values

    def confidence_interval(self, tau=None, measure="balanced_accuracy", *, level=0.95, replicates=1000, seed=0):
        """A bootstrap interval. Examples are drawn again within their class, and the logits are not needed again.

        Args:
            tau: a number or an array: the interval is for the measure there. By default it is for the best τ itself.
            measure: as in `TauPath`.
            level: the interval's nominal coverage.
            replicates: bootstrap samples.
            seed: the seed of the samples.

        Returns:
            The low and the high end: two numbers, or two arrays where `tau` is one.

        Example:

        >>> path = TauPath([0, 1] * 50, np.tile([[2.0, 0.0], [1.0, 0.0]], (50, 1)), class_counts=[75, 25])
        >>> path.confidence_interval()  # both right from 1 / log 3 to 2 / log 3, in every sample
        (1.3654, 1.3654)
        """
        _checks.check_integer(replicates, "replicates", minimum=1)
        weight = self.weights(measure)
        rng = np.random.default_rng(_checks.check_seed(seed))
        draws = (
            self._best_of_replicates(weight, replicates, rng)
            if tau is None
            else self._values_of_replicates(_as_taus(tau), weight, replicates, rng)
        )
        tails = 50 * (1 - _checks.check_open_fraction(level, "level"))
        low, high = np.percentile(draws, [tails, 100 - tails], axis=0)
        return (float(low), float(high)) if low.ndim == 0 else (low, high)

    def is_right(self, tau):
        """`[N]` booleans: which examples are right at `tau`."""
        tau = _as_taus(tau)
        return (self.low <= tau) & (tau <= self.high)

    def weights(self, measure):
        """`[N]` what each example adds to the measure where it is right; the weights sum to one."""
        if isinstance(measure, str) and measure == "accuracy":
            return np.full(self.recall_ids.size, 1.0 / self.recall_ids.size)
        counts = self.examples
        members = np.isin(np.arange(counts.size), self._recalls_of(measure)) & (counts > 0)
        if not members.any():
            raise ValueError(f"No held-out example is of the classes of measure {measure!r}: it has no value.")
        return np.divide(1.0, counts * members.sum(), out=np.zeros(members.size), where=members)[self.recall_ids]

    def steps(self, weight):
        """The step function `v(τ) = Σ_i weight_i·[i is right at τ]`, for your own weights."""
        return _intervals.Steps(self.low, self.high, weight)

    def _recalls_of(self, measure):
        """The recalls whose mean a measure is."""
        classes = np.arange(self.prior.size)
        if not isinstance(measure, str):
            classes = np.atleast_1d(_arrays.to_numpy(measure, "measure"))
        elif _checks.check_choice(measure, "measure", MEASURES) != "balanced_accuracy":
            groups = np.array(groups_of_counts(self.prior))  # by real examples, without pseudo-examples
            classes = np.flatnonzero(groups == measure.split("_")[0])
        if classes.size and (classes.dtype.kind not in "iu" or classes.ndim != 1):
            raise _checks.ArgumentError(
                "measure", f"`measure` must be one of {MEASURES}, a class id or a list of them. Received: {measure!r}"
            )
        if ((classes < 0) | (classes >= self.prior.size)).any():
            raise _checks.ArgumentError(
                "measure", f"Classes of `measure` must be 0 … {self.prior.size - 1}. Received: {measure!r}"
            )
        return np.concatenate([2 * classes, 2 * classes + 1]) if self.prior.are_labels else classes

    def _values_of_replicates(self, tau, weight, replicates, rng):
        """`[replicates, …]` values: within a class, the number of right examples in a replicate is binomial."""
        totals = np.bincount(self.recall_ids)
        each = np.zeros(totals.size)
        each[self.recall_ids] = weight  # the weight of one example of each recall
        chosen = np.flatnonzero(each)
        shares = np.empty((chosen.size, tau.size))
        for i, value in enumerate(tau.ravel()):
            shares[:, i] = np.bincount(self.recall_ids, self.is_right(value))[chosen] / totals[chosen]
        draws = [each[chosen] @ rng.binomial(totals[chosen, None], shares) for _ in range(replicates)]
        return np.reshape(draws, (replicates, *tau.shape))

    def _best_of_replicates(self, weight, replicates, rng):
        """`[replicates]` the best τ of each sample; the ends are sorted once."""
        by_class, first, size = by_stratum(self.recall_ids)
        proper = np.flatnonzero((self.low <= self.high) & (weight > 0))
        ends = np.concatenate([self.low[proper], self.high[proper]])
        # At equal τ, the starts of intervals come before the ends.
        order = np.lexsort((np.repeat([0, 1], proper.size), ends))
        draws = np.empty(replicates)
        for i in range(replicates):
            drawn = by_class[first + (rng.random(size.size) * size).astype("int64")]
            times = np.bincount(drawn, minlength=size.size)[proper] * weight[proper]
            draws[i] = _best_event(ends[order], np.concatenate([times, -times])[order])
        return draws


def by_stratum(strata):
    """Row numbers sorted by stratum; and for each of these places where its stratum begins and its size.

    A bootstrap sample within strata is `rows[first + draws]`, each draw below `size`.
    """
    counts = np.bincount(strata)
    return np.argsort(strata, kind="stable"), np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)


def _best_event(taus, changes):
    """The robust point of the interval with the highest running sum of `changes`; the nearest to 1 among several."""
    values = np.cumsum(changes)
    starts = np.flatnonzero((values >= values.max(initial=-np.inf) - 1e-12) & (changes > 0))
    if not starts.size:
        return 1.0
    ends = np.flatnonzero(changes < 0)
    return robust_point(*_intervals.nearest(taus[starts], taus[ends[np.searchsorted(ends, starts)]], to=1.0))


def robust_point(low, high):
    """A τ of `[low, high]` far from its ends: small changes of the logits move the ends."""
    return float(np.clip(1.0, low + 1.0, high - 1.0) if np.isinf([low, high]).any() else (low + high) / 2)


def _check_any(parts):
    if not any(recall_ids.size for _, _, recall_ids in parts):
        raise ValueError("There must be at least one held-out example, a pair (y_true, logits). Received none.")


def _without_ignored(pairs, ignore_class):
    """The rows of each batch whose id is not `ignore_class`; a batch without such rows is left out."""
    for y_true, features in pairs:
        _scores.check_rows(y_true, features, ("y_true", "features"))
        arrays = _labels.as_labels(y_true), _reading.as_numbers(features, "features")
        ids, features = _reading.without_ignored(*arrays, ignore_class, "features")
        if ids.size:
            yield ids, features


def _as_taus(tau):
    taus = _arrays.as_array(tau, "tau", "numbers").astype("float64")
    if np.isnan(taus).any():
        raise _checks.ArgumentError("tau", f"`tau` must be numbers. Received: tau={tau!r}")
    return taus
