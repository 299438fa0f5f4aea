"""The interval of τ on which an example is classified right, and the step function that is the sum of many intervals.

The logit of class j at τ is a line, `f_j − τ·log π_j`. The true class is above all others on one interval of τ. Below
the interval a more frequent class wins, above it a rarer class. One pass over the logits gives both ends.
"""

import numpy as np

# Numbers in one block: few enough that they stay in the CPU cache during all passes over them.
_BLOCK = 1 << 16
_SMALLEST = np.nextafter(0.0, 1.0)
_ULPS = 16  # largest distance of the computed crossings of lines that meet in one point
_SUMS = 1e-12  # rounding error of sums of weights
_TINY = 1e-290  # replaces 0 in a product with the machine epsilon: the units in the last place of 0 are too small


def of_examples(truth, logits, prior):
    """The ends of the intervals of a batch, and the index of the recall to which each belongs: three arrays.

    Args:
        truth: `[N]` class ids, or `[N, L]` booleans of independent labels, or −1 where one is unknown.
        logits: `[N, L]`.
        prior: a `Prior`.
    """
    with np.errstate(over="ignore"):  # overflow: the lines cross at infinity
        if not prior.are_labels:
            return *of_classes(logits, truth, prior.logits), truth
        low, high = of_labels(logits, truth > 0, prior.logits)
    known = truth >= 0
    return low[known], high[known], (2 * np.arange(prior.size) + truth)[known]


def of_classes(logits, ids, log_prior):
    """For each example the interval of τ on which `argmax(f − τ·log π)` is the true class.

    Args:
        logits: `[N, L]`.
        ids: `[N]` true classes.
        log_prior: `[L]`.

    Returns:
        Two float64 arrays `[N]`, the least and the largest τ. An end is infinite if nothing bounds the interval. The
        least is above the largest if the interval is empty. Both ends are inside. At a crossing the lower class id
        wins, as in `argmax`: if this is not the true class, the end is the next number inside.
    """
    lines = _Lines(log_prior, logits.dtype, ids.size)
    by_class = np.argsort(ids)
    bounds = np.searchsorted(ids[by_class], np.arange(log_prior.size + 1))
    for y in np.flatnonzero(np.diff(bounds)):
        for start in range(bounds[y], bounds[y + 1], lines.num_rows):
            lines.cross(logits, y, by_class[start : min(start + lines.num_rows, bounds[y + 1])])
    low, high = lines.low, lines.high
    low[lines.wins_below < ids] = np.nextafter(low[lines.wins_below < ids], np.inf)
    high[lines.wins_above < ids] = np.nextafter(high[lines.wins_above < ids], -np.inf)
    _settle_ties_at_zero(logits, ids, low, high)
    return low, high


class _Lines:
    """The crossings of all lines with the line of one class, sorted by slope: first rarer, then more frequent classes.

    The working arrays are allocated once: at this size an allocation would cost more than the arithmetic.
    """

    def __init__(self, log_prior, dtype, num_examples):
        num_classes = log_prior.size
        self.columns = np.argsort(log_prior, kind="stable")  # rarest first; the lower id first among equals
        self.places = np.argsort(self.columns)
        self.ordered = log_prior[self.columns]
        self.rarer_than = np.searchsorted(self.ordered, log_prior, "left")
        self.frequent_from = np.searchsorted(self.ordered, log_prior, "right")
        self.num_rows = max(1, _BLOCK // num_classes)
        self.gathered, self.sorted = (np.empty((self.num_rows, num_classes), dtype) for _ in range(2))
        self.crossings, self.row_numbers = np.empty((self.num_rows, num_classes)), np.arange(self.num_rows)
        # The ends, and the classes whose lines cross there.
        self.low, self.high = np.full(num_examples, -np.inf), np.full(num_examples, np.inf)
        self.wins_below, self.wins_above = (np.full(num_examples, num_classes) for _ in range(2))

    def cross(self, logits, y, rows):
        """Set the ends of the examples `rows`, all with the true class `y`."""
        rarer, own, frequent = self.rarer_than[y], self.places[y], self.frequent_from[y]
        gathered, ordered = self.gathered[: rows.size], self.sorted[: rows.size]
        crossings, numbers = self.crossings[: rows.size], self.row_numbers[: rows.size]
        logits.take(rows, axis=0, out=gathered, mode="clip")  # another mode makes a copy first
        gathered.take(self.columns, axis=1, out=ordered, mode="clip")
        np.copyto(crossings, ordered)
        crossings -= crossings[:, own].copy()[:, None]
        loses = crossings[:, rarer:own].max(axis=1, initial=-1.0) >= 0  # the lower id wins a tie at equal frequency
        loses |= crossings[:, own + 1 : frequent].max(axis=1, initial=-1.0) > 0
        slopes = self.ordered - self.ordered[own]
        slopes[rarer:frequent] = 1.0
        crossings *= 1.0 / slopes
        if rarer:
            rival = crossings[:, :rarer].argmin(axis=1)
            self.high[rows], self.wins_above[rows] = crossings[numbers, rival], self.columns[rival]
        if frequent < self.ordered.size:
            rival = frequent + crossings[:, frequent:].argmax(axis=1)
            self.low[rows], self.wins_below[rows] = crossings[numbers, rival], self.columns[rival]
        self.low[rows[loses]], self.high[rows[loses]] = np.inf, -np.inf


def _settle_ties_at_zero(logits, ids, low, high):
    """At τ = 0 logits may be exactly equal, and many at once. All classes that tie count, not only one of them."""
    tied = np.flatnonzero((np.abs(low) <= _SMALLEST) | (np.abs(high) <= _SMALLEST))
    right = logits[tied].argmax(axis=1) == ids[tied]
    for ends, inside in ((low, _SMALLEST), (high, -_SMALLEST)):
        at_zero = np.abs(ends[tied]) <= _SMALLEST
        ends[tied[at_zero]] = np.where(right[at_zero], 0.0, inside)


def of_labels(logits, on, log_odds):
    """The interval of τ on which `f_l − τ·log(π_l/(1−π_l)) > 0` is right about label l.

    Args:
        logits: `[N, L]`.
        on: `[N, L]` booleans.
        log_odds: `[L]`.

    Returns:
        Two float64 arrays `[N, L]`, as `of_classes` returns them. The intervals are half-lines. Where the log-odds are
        0, an interval is everything or empty.
    """
    logits = logits.astype("float64")
    crossing = np.divide(logits, log_odds, out=np.zeros_like(logits), where=log_odds != 0)
    # A higher τ turns a rare label on. "On" means strictly above the threshold: at the crossing the label is off.
    on_above = np.where(on, np.nextafter(crossing, np.inf), -np.inf), np.where(on, np.inf, crossing)
    on_below = np.where(on, -np.inf, crossing), np.where(on, np.nextafter(crossing, -np.inf), np.inf)
    # Where the log-odds are 0, τ does not change the label: it is right for every τ or for no τ.
    anywhere = [np.where((logits > 0) == on, end, -end) for end in (-np.inf, np.inf)]
    ends = zip(on_above, on_below, anywhere, strict=True)
    return tuple(np.select([log_odds < 0, log_odds > 0], [above, below], level) for above, below, level in ends)


def nearest(low, high, *, to):
    """The ends of the interval that is nearest to a point, among several intervals."""
    found = np.maximum(low - to, to - high).argmin()
    return float(low[found]), float(high[found])


class Steps:
    """The step function `v(τ) = Σ_i w_i·[low_i ≤ τ ≤ high_i]`, exact: sorted ends and sums of weights."""

    def __init__(self, low, high, weight):
        proper = (low <= high) & (weight > 0)
        self.starts, self._started = _cumulate(low[proper], weight[proper])
        self.ends, self._ended = _cumulate(high[proper], weight[proper])

    def at(self, tau):
        """The value at each `tau`; the ends of an interval are inside."""
        return (
            self._started[np.searchsorted(self.starts, tau, side="right")]
            - self._ended[np.searchsorted(self.ends, tau, side="left")]
        )

    def pieces(self):
        """The ends of the pieces between breakpoints, and the values on them: three arrays."""
        points = np.concatenate([self.starts, self.ends])
        order = np.argsort(points, kind="stable")  # a stable sort merges the two sorted parts in linear time
        points, started = points[order], np.cumsum(order < self.starts.size)
        last = np.flatnonzero(np.append(points[1:] != points[:-1], True)[: points.size])  # the last of equal points
        values = self._started[started[last]] - self._ended[last + 1 - started[last]]
        is_finite = np.isfinite(points[last])
        breakpoints = points[last][is_finite]
        first = (  # the value to the left of all breakpoints
            self._started[np.searchsorted(self.starts, -np.inf, side="right")]
            - self._ended[np.searchsorted(self.ends, -np.inf, side="right")]
        )
        return np.append(-np.inf, breakpoints), np.append(breakpoints, np.inf), np.append(first, values[is_finite])

    def highest(self):
        """The intervals `[K, 2]` of τ on which the value is largest, and that value.

        Where lines cross in one point, rounding makes pieces that are a few units in the last place wide. They do not
        count, and they do not split an interval. A tie at τ = 0 is real.
        """
        left, right, values = self.pieces()
        at_zero = float(self.at(0.0))
        ends = np.where(np.isfinite([left, right]), [left, right], 0.0)
        wide = right - left > _ULPS * np.finfo("float64").eps * np.maximum(np.abs(ends).max(axis=0), _TINY)
        highest = values[wide].max()
        if at_zero > highest + _SUMS:
            return np.zeros((1, 2)), at_zero
        best = np.flatnonzero(wide & (values >= highest - _SUMS))
        # Two pieces are one interval if no lower piece is between them.
        lower = np.cumsum(wide & (values < highest - _SUMS))[best]
        _, first, pieces = np.unique(lower, return_index=True, return_counts=True)
        return np.stack([left[best[first]], right[best[first + pieces - 1]]], axis=1), float(highest)


def _cumulate(ends, weight):
    order = np.argsort(ends)
    return ends[order], np.append(0.0, np.cumsum(weight[order]))
