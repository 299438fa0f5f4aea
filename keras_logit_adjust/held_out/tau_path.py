"""The exact path of accuracy over τ: no grid, one pass over the logits.

Every held-out example is classified right on one interval of τ (`_intervals`), so that balanced accuracy, and any other
mean of recalls, is a step function of τ that is known everywhere at once.
"""

import copy
import dataclasses

import numpy as np

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.held_out import _intervals, _reading
from keras_logit_adjust.metrics import groups_of_counts

MEASURES = ("balanced_accuracy", "accuracy", "many_accuracy", "medium_accuracy", "few_accuracy")


@dataclasses.dataclass(frozen=True)
class BestTau:
    """Where a path is highest.

    Attributes:
        tau: a robust point of the interval: its middle; where one side is open, the point nearest to 1 that is at least
            1 away from the other end.
        low: the least τ with the highest value; −inf where nothing bounds it.
        high: the largest.
        value: the value there.
    """

    tau: float
    low: float
    high: float
    value: float

    @classmethod
    def of(cls, intervals, value):
        """The one of several `intervals` `[K, 2]` with the same value that is nearest to τ = 1."""
        distance = np.maximum(intervals[:, 0] - 1.0, 1.0 - intervals[:, 1])
        low, high = intervals[distance.argmin()].tolist()
        return cls(robust_point(low, high), low, high, value)


class TauPath:
    """Accuracy as an exact function of the strength τ of post-hoc adjustment, `argmax_y f_y(x) − τ·log π_y`.

    Example i is right on one interval of τ: its true class's line is above all others there. The ends of all intervals,
    sorted, give the path: what a grid of any number of τ would find, for the price of about one or two of its points.
    A measure is one of "balanced_accuracy" (the mean of per-class recalls, classes without examples left out),
    "accuracy", "many_accuracy", "medium_accuracy", "few_accuracy" (as of `kla.metrics.GroupAccuracy`), a class id (its
    recall), or a list of class ids (the mean of their recalls).

    Independent labels have `num_examples`: the path is then that of `f_l − τ·log(π_l/(1−π_l)) > 0`, and the recalls are
    those of each label where it is on and where it is off.

    Args:
        y_true: `[N]` class ids or `[N, L]` one-hot rows; for independent labels `[N, L]` of 0 and 1.
        logits: `[N, L]` held-out logits of the model before adjustment; `[N]` or `[N, 1]` for one sigmoid unit.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0; two numbers, [negatives,
            positives], for one sigmoid unit; for independent labels the positives of each.
        num_examples: the number of training examples, for independent labels only.
        ignore_class: an id whose rows are left out, such as 255 for unlabeled pixels or padding.

    Attributes:
        low: `[N]` the least τ at which each example is right, −inf where nothing bounds it.
        high: `[N]` the largest; below `low` where an example is right nowhere.
        recall_ids: `[N]` the recall that each interval counts for: the class; for independent labels, which have
            `N·L` intervals, `2l + 1` of label l where it is on and `2l` where it is off.

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

    def __init__(self, y_true, logits, class_counts, num_examples=None, *, ignore_class=None):
        self._read([(y_true, logits)], class_counts, num_examples, ignore_class)

    def _read(self, batches, class_counts, num_examples, ignore_class):
        self.class_counts = _as_counts(class_counts, num_examples)
        self.num_examples = num_examples
        if num_examples is None:
            read, log_prior = _read_classes, priors.log_prior(self.class_counts)
        else:
            read, log_prior = _read_labels, priors.log_odds(self.class_counts, num_examples)
        if ignore_class is not None:
            batches = _without_ignored(batches, _checks.check_ignore_class(ignore_class))
        kinds = _Kinds()
        parts = [read(y_true, logits, log_prior, kinds) for y_true, logits in batches]
        if not parts:
            raise ValueError("There must be at least one held-out example, a pair (y_true, logits). Received none.")
        kinds.check()
        self.low, self.high, self.recall_ids = map(np.concatenate, zip(*parts, strict=True))

    @classmethod
    def from_batches(cls, batches, class_counts, num_examples=None, *, ignore_class=None):
        """The path of batches that are never in memory together: it keeps two numbers and a class an example.

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
        path._read(batches, class_counts, num_examples, ignore_class)
        return path

    @property
    def examples(self):
        """Held-out examples of each recall: `[L]` of the classes; `[2·L]` of independent labels."""
        num_recalls = self.class_counts.size * (1 if self.num_examples is None else 2)
        return np.bincount(self.recall_ids, minlength=num_recalls)

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
        steps = self.steps(self.weights(measure))
        taus = steps.breakpoints()
        return taus, steps.after(np.append(-np.inf, taus))

    def confidence_interval(self, tau=None, measure="balanced_accuracy", level=0.95, replicates=1000, seed=0):
        """A bootstrap interval, examples drawn again within their class: the logits are not needed again.

        Args:
            tau: of the measure at `tau`, a number or an array; of the best τ itself by default.
            measure: as in `TauPath`.
            level: the interval's nominal coverage.
            replicates: bootstrap samples.
            seed: of the samples.

        Returns:
            The low and the high end: two numbers, or two arrays where `tau` is one.

        Example:

        >>> path = TauPath([0, 1] * 50, np.tile([[2.0, 0.0], [1.0, 0.0]], (50, 1)), class_counts=[75, 25])
        >>> path.confidence_interval()  # both right from 1 / log 3 to 2 / log 3, in every sample
        (1.3654, 1.3654)
        """
        _checks.check_integer(replicates, "replicates", minimum=1)
        weight = self.weights(measure)
        rng = np.random.default_rng(seed)
        if tau is None:
            draws = self._best_of_replicates(weight, replicates, rng)
        else:
            draws = self._values_of_replicates(_as_taus(tau), weight, replicates, rng)
        tails = 50 * (1 - _checks.check_fraction(level, "level"))
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
        members = np.zeros(counts.size, bool)
        members[self._recalls_of(measure)] = True
        members &= counts > 0
        if not members.any():
            raise ValueError(f"No held-out example is of the classes of measure {measure!r}: it has no value.")
        per_class = np.divide(1.0, counts * members.sum(), out=np.zeros(members.size), where=members)
        return per_class[self.recall_ids]

    def steps(self, weight):
        """The step function `v(τ) = Σ_i weight_i·[i is right at τ]`, for weights of one's own."""
        return _intervals.Steps(self.low, self.high, weight)

    def _recalls_of(self, measure):
        """The recalls whose mean a measure is."""
        num_classes = self.class_counts.size
        if isinstance(measure, str):
            _checks.check_choice(measure, "measure", MEASURES)
            if measure == "balanced_accuracy":
                return np.arange(self.examples.size)
            groups = np.array(groups_of_counts(_checks.as_true_counts(self.class_counts)))
            classes = np.flatnonzero(groups == measure.split("_")[0])
        else:
            classes = np.atleast_1d(np.asarray(measure))
            classes = classes if classes.size else classes.astype("int64")
        if classes.dtype.kind not in "iu" or classes.ndim != 1:
            raise ValueError(
                f"`measure` must be one of {MEASURES}, a class id or a list of them. Received: {measure!r}"
            )
        if ((classes < 0) | (classes >= num_classes)).any():
            raise ValueError(f"Classes of `measure` must be 0 … {num_classes - 1}. Received: {measure!r}")
        return classes if self.num_examples is None else np.concatenate([2 * classes, 2 * classes + 1])

    def _values_of_replicates(self, tau, weight, replicates, rng):
        """`[replicates, …]`: within a class, how many are right again is binomial."""
        values = np.zeros((replicates, *tau.shape))
        flat = values.reshape(replicates, -1)
        for c in np.unique(self.recall_ids[weight > 0]):
            members = self.recall_ids == c
            steps = _intervals.Steps(self.low[members], self.high[members], np.ones(members.sum()))
            count = members.sum()
            share = np.clip(steps.at(tau.ravel()) / count, 0.0, 1.0)
            flat += rng.binomial(count, share, size=flat.shape) * weight[members][0]
        return values

    def _best_of_replicates(self, weight, replicates, rng):
        """`[replicates]`: the best τ of each sample, from the ends sorted once."""
        by_class = np.argsort(self.recall_ids, kind="stable")
        counts = np.bincount(self.recall_ids)
        size = np.repeat(counts, counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        proper = np.flatnonzero((self.low <= self.high) & (weight > 0))
        ends = np.concatenate([self.low[proper], self.high[proper]])
        # At equal τ intervals begin before others end.
        order = np.lexsort((np.repeat([0, 1], proper.size), ends))
        draws = np.empty(replicates)
        for i in range(replicates):
            drawn = by_class[first + (rng.random(size.size) * size).astype("int64")]
            times = np.bincount(drawn, minlength=size.size)[proper] * weight[proper]
            draws[i] = _best_event(ends[order], np.concatenate([times, -times])[order])
        return draws


def join(paths):
    """The path of all examples of several paths."""
    whole = copy.copy(paths[0])
    for name in ("low", "high", "recall_ids"):
        setattr(whole, name, np.concatenate([getattr(path, name) for path in paths]))
    return whole


def _best_event(taus, changes):
    """The robust point of the interval where the running sum of `changes` is highest, nearest to 1 of several."""
    if not taus.size:
        return 1.0
    values = np.cumsum(changes)
    starts = np.flatnonzero((values >= values.max() - 1e-12) & (changes > 0))
    if not starts.size:
        return 1.0
    ends = np.flatnonzero(changes < 0)
    after = ends[np.searchsorted(ends, starts)]
    low, high = taus[starts], taus[after]
    nearest = np.maximum(low - 1.0, 1.0 - high).argmin()
    return robust_point(low[nearest], high[nearest])


def robust_point(low, high):
    """A τ of `[low, high]` far from its ends: small changes of the logits move the ends."""
    if np.isinf(low) and np.isinf(high):
        return 1.0
    if np.isinf(high):
        return float(max(1.0, low + 1.0))
    if np.isinf(low):
        return float(min(1.0, high - 1.0))
    return float((low + high) / 2)


def _without_ignored(batches, ignore_class):
    """The rows of each batch whose id is another than `ignore_class`; batches of no others are left out."""
    for y_true, logits in batches:
        ids, logits = _reading.to_numpy(y_true, "y_true"), _reading.to_numpy(logits, "logits")
        if ids.ndim > 1 and ids.shape[-1] == 1 and ids.ndim == logits.ndim:
            ids = ids[..., 0]
        if ids.shape != logits.shape[:-1]:
            raise ValueError(
                "`ignore_class` goes with class ids, one for each row of logits. "
                f"Received labels of shape {ids.shape} for logits of shape {logits.shape}."
            )
        if (kept := ids != ignore_class).any():
            yield ids[kept], logits[kept]


def _as_counts(class_counts, num_examples):
    if num_examples is None:
        return _checks.as_counts(class_counts)
    return _checks.as_positive_counts(class_counts, num_examples)


def _as_taus(tau):
    try:
        taus = np.asarray(tau, "float64")
    except (TypeError, ValueError):
        taus = np.array(np.nan)
    if np.isnan(taus).any():
        raise ValueError(f"`tau` must be numbers. Received: tau={tau!r}")
    return taus


def two_columns(logits, num_classes):
    """One sigmoid unit, `[N]` or `[N, 1]`, as the log-odds of the second of two classes; and whether it is one."""
    logits = _reading.to_numpy(logits, "logits")
    if num_classes != 2 or logits.ndim == 0 or (logits.ndim > 1 and logits.shape[-1] != 1):
        return logits, False
    second = logits.reshape(-1)
    return np.stack([np.zeros_like(second), second], axis=-1), True


class _Kinds:
    """What the logits of all batches look like together: a few rows alone may look like probabilities by chance."""

    def __init__(self):
        self.are_distributions, self.rows = True, 0
        self.lowest, self.highest = np.inf, -np.inf

    def look(self, matrix, are_distributions, is_sigmoid):
        self.rows += len(matrix)
        self.are_distributions &= are_distributions and not is_sigmoid
        if is_sigmoid:
            self.lowest, self.highest = min(self.lowest, matrix.min()), max(self.highest, matrix.max())

    def check(self):
        if self.are_distributions and self.rows > 1:
            _reading.refuse_probabilities()
        _reading.check_not_sigmoids(self.lowest, self.highest)


def _read_classes(y_true, logits, log_prior, kinds):
    """The ends of the intervals of a batch and the recalls they count for."""
    columns, is_unit = two_columns(logits, log_prior.size)
    matrix, are_distributions = _reading.as_scores(columns, log_prior.size)
    kinds.look(matrix[:, 1:] if is_unit else matrix, are_distributions, is_unit)
    ids = _reading.as_ids(y_true, len(matrix), log_prior.size)
    return *_intervals.of_classes(matrix, ids, log_prior), ids


def _read_labels(y_true, logits, log_odds, kinds):
    matrix, are_distributions = _reading.as_scores(logits, log_odds.size)
    kinds.look(matrix, are_distributions, True)
    on = _reading.as_multi_hot(y_true, matrix.shape)
    low, high = _intervals.of_labels(matrix, on, log_odds)
    return low.ravel(), high.ravel(), (2 * np.arange(log_odds.size) + on).ravel()
