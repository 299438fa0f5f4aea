"""Offsets of logits by coordinate search: along the offset of one class the objective is a step function.

The other offsets are fixed. While the offset of class c rises, c takes over examples one by one, in order of their
margins. It takes each from its best other class, the rival. The sorted margins give the objective at every offset.

Only few margins need sorting. The smallest are picked out. An upper bound of the objective shows whether class c can
still gain after it has taken their examples; if it can, more are picked out. With very many classes these are few.
"""

import numpy as np

from keras_logit_adjust.held_out._intervals import nearest

_BEYOND = 0.5  # how far past the last margin an offset goes where nothing bounds it
_RESTARTS = 32  # number of random starts
_ROUNDING = 1e-9  # margins no further apart count as equal: no offset is placed between them
_CELLS = 256  # cells of equal width; the objective has one bound in each
_SLACK = 1e-9  # added to a bound: more than the rounding error of its sums
_MORE = 4  # times as many examples are picked out if the first were too few
_PART = 256  # rows that are transposed at a time
_ROWS = 1024  # rows of scores that are computed at a time
_TINY = 1e-100  # replaces 0 in a divisor


def search(logits, objective, base, *, sweeps, columns=None):
    """Offsets `[L]` that no change of a single offset improves, and the objective there.

    Args:
        logits: `[N, L]` float64.
        objective: a `MacroF1` or `WeightedRecall` of the N examples.
        base: `[L]` the start; among equally good offsets the nearest to it is taken.
        sweeps: the largest number of rounds over all classes.
        columns: `[L, N]` the same logits, contiguous for each class; computed if it is None.
    """
    scores = _Scores(logits, base, _columns(logits) if columns is None else columns)
    tallies = objective.tallies(scores.first)
    for _ in range(sweeps):
        moves = 0
        for c in objective.present:
            own, rivals, margins = scores.without(c)
            line = objective.line(c, tallies, own, rivals)
            found = _best_on(line, margins, base=base[c], above=objective.value(tallies))
            if found is not None:
                scores.set(c, found)
                tallies, moves = objective.tallies(scores.first), moves + 1
        if not moves:
            break
    return scores.offsets, objective.value(tallies)


def search_from_many(logits, objective, base, *, sweeps, rng):
    """The best of several searches, from `base` and from random offsets around it: one search may get stuck."""
    from tqdm import tqdm  # here, because the import is slow and few users need it

    spread = (logits - logits.mean(axis=1, keepdims=True)).std()
    starts = [base, *(base + spread * rng.normal(size=(_RESTARTS, base.size)))]
    options = {"sweeps": sweeps, "columns": _columns(logits)}
    starts = tqdm(starts, "starts", delay=5, leave=False)
    return max((search(logits, objective, start, **options) for start in starts), key=lambda found: found[1])[0]


def _columns(logits):
    """`[L, N]` the logits, those of a class next to each other; NumPy's own copy leaves the cache for every number."""
    columns = np.empty(logits.shape[::-1])
    for start in range(0, len(logits), _PART):
        columns[:, start : start + _PART] = logits[start : start + _PART].T
    return columns


def _best_on(line, margins, *, base, above):
    """The offset on a `line` that raises the objective most above the value `above`, or None if no offset does."""
    near, following = _near(line, margins, above - _SLACK)
    order = near[np.argsort(margins[near], kind="stable")]
    room = _ROUNDING * (1.0 + max(abs(margins.min()), abs(margins.max())))
    best, offset = _nearest_best(
        line.values(order), np.concatenate([[-np.inf], margins[order], [following]]), base, room
    )
    return offset if best > above + 1e-12 else None


def _near(line, margins, value):
    """The examples beyond which a `line` is nowhere above a value, and the least margin of the others."""
    size, following = line.first_size, np.inf
    while size < margins.size:
        following = np.partition(margins, size)[size]
        near = np.flatnonzero(margins < following)
        theirs = margins[near]
        width = following - theirs.min(initial=following)
        cells = _CELLS - 1 - ((following - theirs) * ((_CELLS - 1) / max(width, _TINY))).astype("intp")
        hopeful = np.flatnonzero(line.bounds(near, cells, _CELLS) > value)
        last = hopeful[-1] if hopeful.size else -1
        if last < _CELLS:
            is_near = cells <= last
            return near[is_near], theirs[~is_near].min(initial=following)
        size *= _MORE
    return np.arange(margins.size), np.inf


def _nearest_best(values, ends, base, room):
    """The highest value, and the offset nearest to `base` among those that have it, not next to a change."""
    wide = ends[1:] - ends[:-1] > 2 * room
    highest = values[wide].max()
    best = np.flatnonzero((values >= highest - 1e-12) & wide)
    low, high = nearest(ends[best], ends[best + 1], to=base)
    if low + room < base < high - room:
        return highest, base
    return highest, np.clip(base, low + _BEYOND, high - _BEYOND) if np.isinf([low, high]).any() else (low + high) / 2


class _Scores:
    """Logits with offsets. For each example it keeps the best class, which is predicted, and the second best class."""

    def __init__(self, logits, offsets, columns):
        self.logits, self.columns, self.offsets = logits, columns, offsets.astype("float64").copy()
        self.first, self.second = (np.empty(len(logits), "intp") for _ in range(2))
        self.highest, self.next = (np.empty(len(logits)) for _ in range(2))
        for start in range(0, len(logits), _ROWS):
            self._rank(np.arange(start, min(start + _ROWS, len(logits))))

    def _rank(self, rows):
        scores, numbers = self.logits[rows] + self.offsets, np.arange(rows.size)
        self.first[rows] = first = scores.argmax(axis=1)
        self.highest[rows] = scores[numbers, first]
        scores[numbers, first] = -np.inf
        self.second[rows] = second = scores.argmax(axis=1)
        self.next[rows] = scores[numbers, second]

    def without(self, c):
        """The examples that are predicted as c, the best class other than c, and the offset at which c overtakes it."""
        own, rivals, scores = np.flatnonzero(self.first == c), self.first.copy(), self.highest.copy()
        rivals[own], scores[own] = self.second[own], self.next[own]
        return own, rivals, scores - self.columns[c]

    def set(self, c, offset):
        rises = offset > self.offsets[c]
        self.offsets[c] = offset
        scores, is_first = self.columns[c] + offset, self.first == c
        # Where c was the best class and stays the best, only its score changes.
        stays = np.flatnonzero(is_first & (scores > self.next))
        self.highest[stays] = scores[stays]
        others = scores >= self.next if rises else is_first | (self.second == c)
        others[stays] = False
        self._rank(np.flatnonzero(others))


class WeightedRecall:
    """`Σ_i w_i·[i is right]`, weights that sum to one: balanced accuracy, or one minus a cost."""

    def __init__(self, ids, weight, num_classes):
        self.ids, self.weight = ids, weight / weight.sum()
        self.of_class = np.bincount(ids, self.weight, num_classes)
        self.present = np.flatnonzero(np.bincount(ids, minlength=num_classes))

    def tallies(self, predicted):
        """The numbers from which the value is computed: here the value itself."""
        return float(self.weight[predicted == self.ids].sum())

    def value(self, tallies):
        """The objective."""
        return tallies

    def line(self, c, tallies, own, rivals):
        """The values while class c takes examples from their `rivals`; it starts with the examples `own`."""
        return _RecallLine(self, c, tallies, own, rivals)


class _RecallLine:
    first_size = 64  # examples that are picked out first: a few of other classes outweigh all that c can gain

    def __init__(self, objective, c, tallies, own, rivals):
        self.objective, self.c, self.rivals = objective, c, rivals
        self.start = tallies - self._gains(own).sum()

    def values(self, order):
        """`[K + 1]`: entry k is the value when c has taken the first k of the examples `order [K]`."""
        return self.start + np.append(0.0, np.cumsum(self._gains(order)))

    def bounds(self, near, cells, num_cells):
        """Upper bounds `[num_cells + 1]` of the values while c takes the `near` examples cell by cell, then others."""
        objective, gains = self.objective, self._gains(near)
        left = objective.of_class[self.c] - objective.weight[near[objective.ids[near] == self.c]].sum()
        return self.start + np.append(_highest_sums(gains, cells, num_cells), gains.sum() + left)

    def _gains(self, examples):
        ids = self.objective.ids[examples]
        return self.objective.weight[examples] * ((ids == self.c) * 1.0 - (ids == self.rivals[examples]))


class MacroF1:
    """The mean over the classes that occur of `F1 = 2·hits / (occurrences + predictions)`; examples have weights."""

    def __init__(self, ids, weight, num_classes):
        self.ids, self.weight, self.num_classes = ids, weight, num_classes
        self.occurs = np.bincount(ids, weight, num_classes)
        self.present = np.flatnonzero(self.occurs)

    def tallies(self, predicted):
        """The numbers from which the value is computed: the hits and the predictions of each class."""
        hits = np.bincount(self.ids, self.weight * (self.ids == predicted), self.num_classes)
        return hits, np.bincount(predicted, self.weight, self.num_classes)

    def value(self, tallies):
        """The objective."""
        return float(np.sum(self.f1(*tallies, slice(None))) / self.present.size)

    def f1(self, hits, predictions, classes):
        return 2 * hits / np.maximum(self.occurs[classes] + predictions, _TINY)

    def most_changes(self, hits, predictions):
        """Upper bounds of the change of F1 of each class: for one wrong prediction less, and for one hit less.

        A class has h hits and D = occurrences + predictions. If it loses a hits and b wrong predictions, its F1 becomes
        `2(h − a) / (D − a − b)`. Its slope by a is at most `−2(D − b − h)/(D − b)²`. This is steepest for the largest
        b, so `−2(D − h)/D²` at b = 0 is a bound. With a = 0 the change is convex in b: it stays below the chord to the
        last wrong prediction. So the change is at most `b·2h/(D(occurrences + h)) − a·2(D − h)/D²`.
        """
        total = np.maximum(self.occurs + predictions, _TINY)
        return 2 * hits / (total * np.maximum(self.occurs + hits, _TINY)), -2 * (total - hits) / total**2

    def line(self, c, tallies, own, rivals):
        """The values while class c takes examples from their `rivals`; it starts with the examples `own`."""
        return _F1Line(self, c, tallies, own, rivals)


class _F1Line:
    def __init__(self, objective, c, tallies, own, rivals):
        # Rivals gain where c takes their wrong predictions. Only many examples have hits that outweigh this.
        self.first_size = 1 + objective.ids.size // 4
        self.objective, self.c, self.rivals = objective, c, rivals
        weight, theirs = objective.weight[own], rivals[own]
        is_hit = objective.ids[own] == theirs
        self.hits, self.predictions = (
            tally + np.bincount(theirs, gained, objective.num_classes)
            for tally, gained in zip(tallies, (weight * is_hit, weight), strict=True)
        )
        self.hits[c] = self.predictions[c] = 0.0
        self.sum_of_rivals = objective.f1(self.hits, self.predictions, slice(None)).sum()
        self.start = self.sum_of_rivals / objective.present.size

    def values(self, order):
        """`[K + 1]`: entry k is the value when c has taken the first k of the examples `order [K]`."""
        objective, weight = self.objective, self.objective.weight[order]
        hits = np.cumsum(weight * (objective.ids[order] == self.c))
        f1_of_c = objective.f1(hits, np.cumsum(weight), self.c)
        values = np.zeros(order.size + 1)
        values[1:] = f1_of_c + np.cumsum(self._losses_of_rivals(order))
        return (values + self.sum_of_rivals) / objective.present.size

    def bounds(self, near, cells, num_cells):
        """Upper bounds `[num_cells + 1]` of the values while c takes the `near` examples cell by cell, then others."""
        objective, rivals = self.objective, self.rivals[near]
        weight, ids = objective.weight[near], objective.ids[near]
        of_wrong, of_hit = objective.most_changes(self.hits, self.predictions)
        changes = weight * np.where(ids == rivals, of_hit[rivals], of_wrong[rivals])
        members = np.flatnonzero(ids == self.c)
        hits = np.append(np.bincount(cells[members], weight[members], num_cells), 0.0)
        hits[-1] = objective.occurs[self.c] - hits.sum()
        taken = np.append(np.bincount(cells, weight, num_cells), hits[-1])
        # F1 of c rises with a hit and falls with another example: the bound takes all hits of the cell and no others.
        f1_of_c = objective.f1(np.cumsum(hits), np.cumsum(taken) - taken + hits, self.c)
        # Beyond the cells c may take all wrong predictions that are left, and no hit of its rivals.
        beyond = np.minimum(changes, 0.0).sum() + of_wrong @ (self.predictions - self.hits)
        of_rivals = np.append(_highest_sums(changes, cells, num_cells), beyond)
        return self.start + (f1_of_c + of_rivals) / objective.present.size

    def _losses_of_rivals(self, order):
        """The change of F1 of its rival when each example leaves the rival, in `order`."""
        objective, rivals = self.objective, self.rivals[order]
        # Sorted by rival, in order within each rival. NumPy sorts short integers in linear time.
        grouped = np.argsort(rivals.astype("uint16") if objective.num_classes < 2**16 else rivals, kind="stable")
        rival, example = rivals[grouped], order[grouped]
        weight = objective.weight[example]
        left = np.stack([weight * (objective.ids[example] == rival), weight])  # hits and predictions
        after = np.stack([self.hits[rival], self.predictions[rival]]) - _cumulate_within(left, rival)
        after = np.maximum(after, 0.0)  # rounding
        losses = np.empty(order.size)
        losses[grouped] = objective.f1(*after, rival) - objective.f1(*(after + left), rival)
        return losses


def _highest_sums(changes, cells, num_cells):
    """`[num_cells]` upper bounds of the running sum of `changes` within each cell, for any order within the cell."""
    sums = np.bincount(cells, changes, num_cells)
    return np.cumsum(sums) - sums + np.bincount(cells, np.maximum(changes, 0.0), num_cells)


def _cumulate_within(values, groups):
    """Running sums along the rows of `values` that restart at each group; equal entries of `groups` are adjacent."""
    sums = np.cumsum(values, axis=1)
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: groups.size])
    before = (sums - values)[:, starts]
    return sums - np.repeat(before, np.diff(np.append(starts, groups.size)), axis=1)
