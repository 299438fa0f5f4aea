"""Offsets of logits by coordinate search: along the offset of one class the objective is a step function.

The other offsets are fixed. While the offset of class c rises, c takes over examples one by one, in order of their
margins. It takes each from its best other class, the rival. The sorted margins give the objective at every offset.

Only few margins need sorting. The line of margins is divided into cells, and sums over cells give an upper bound of the
objective. The bound shows after how many examples class c can gain nothing more. With very many classes these are few.
"""

import numpy as np

from keras_logit_adjust.held_out._intervals import nearest

_BEYOND = 0.5  # how far past the last margin an offset goes where nothing bounds it
_RESTARTS = 32  # number of random starts
_ROUNDING = 1e-9  # margins no further apart count as equal: no offset is placed between them
_CELLS = 256  # cells of equal width; the objective has one bound in each
_SLACK = 1e-9  # added to a bound: more than the rounding error of its sums
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
    scores = _Scores(logits, base, np.ascontiguousarray(logits.T) if columns is None else columns)
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
    options = {"sweeps": sweeps, "columns": np.ascontiguousarray(logits.T)}
    starts = tqdm(starts, "starts", delay=5, leave=False)
    return max((search(logits, objective, start, **options) for start in starts), key=lambda found: found[1])[0]


def _best_on(line, margins, *, base, above):
    """The offset on a `line` that raises the objective most above the value `above`, or None if no offset does."""
    lowest, highest = margins.min(), margins.max()
    scale = _CELLS / width if (width := highest - lowest) > 0 else 0.0
    cells = np.minimum((margins - lowest) * scale, _CELLS - 1).astype("intp")
    hopeful = np.flatnonzero(np.append(line.start, line.bounds(cells, _CELLS)) > above - _SLACK)
    if not hopeful.size:
        return None
    is_near = cells < hopeful[-1]  # entry 0 of `hopeful` stands for the start, before all cells
    near = np.flatnonzero(is_near)
    order = near[np.argsort(margins[near], kind="stable")]
    following = np.where(is_near, np.inf, margins).min()
    room = _ROUNDING * (1.0 + max(abs(lowest), abs(highest)))
    best, offset = _nearest_best(
        line.values(order), np.concatenate([[-np.inf], margins[order], [following]]), base, room
    )
    return offset if best > above + 1e-12 else None


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
        self.present = np.flatnonzero(np.bincount(ids, minlength=num_classes))

    def tallies(self, predicted):
        """The numbers from which the value is computed: here the value itself."""
        return float(self.weight[predicted == self.ids].sum())

    def value(self, tallies):
        """The objective."""
        return tallies

    def line(self, c, tallies, own, rivals):
        """The values while class c takes examples from their `rivals`; it starts with the examples `own`."""
        return _RecallLine(self, c, rivals)


class _RecallLine:
    def __init__(self, objective, c, rivals):
        is_right = objective.ids == rivals
        self.start = float(objective.weight[is_right].sum())
        self.gain = objective.weight * ((objective.ids == c).astype("float64") - is_right)

    def values(self, order):
        """`[K + 1]`: entry k is the value when c has taken the first k of the examples `order [K]`."""
        return self.start + np.append(0.0, np.cumsum(self.gain[order]))

    def bounds(self, cells, num_cells):
        """`[num_cells]` upper bounds of the value while c takes the examples of a cell, cell after cell."""
        return self.start + _highest_sums(self.gain, cells, num_cells)


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
        total = self.occurs[classes] + predictions
        return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)

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
        losses = np.cumsum(self._losses_of_rivals(order))
        return (np.append(0.0, f1_of_c) + self.sum_of_rivals + np.append(0.0, losses)) / objective.present.size

    def bounds(self, cells, num_cells):
        """`[num_cells]` upper bounds of the value while c takes the examples of a cell, cell after cell."""
        objective, is_hit = self.objective, self.objective.ids == self.rivals
        of_both = np.concatenate(objective.most_changes(self.hits, self.predictions))
        changes = of_both[self.rivals + is_hit * objective.num_classes] * objective.weight
        taken = np.bincount(cells, objective.weight, num_cells)
        members = np.flatnonzero(objective.ids == self.c)
        hits = np.bincount(cells[members], objective.weight[members], num_cells)
        # F1 of c rises with a hit and falls with another example: the bound takes all hits of the cell and no others.
        predictions = np.cumsum(taken) - taken + hits
        f1_of_c = objective.f1(np.cumsum(hits), predictions, self.c)
        return self.start + (f1_of_c + _highest_sums(changes, cells, num_cells)) / objective.present.size

    def _losses_of_rivals(self, order):
        """The change of F1 of its rival when each example leaves the rival, in `order`."""
        objective, rivals = self.objective, self.rivals[order]
        # Sorted by rival, in order within each rival. NumPy sorts short integers in linear time.
        grouped = np.argsort(rivals.astype("uint16") if objective.num_classes < 2**16 else rivals, kind="stable")
        rival, example = rivals[grouped], order[grouped]
        weight = objective.weight[example]
        hit = weight * (objective.ids[example] == rival)
        hits_left = self.hits[rival] - _cumulate_within(hit, rival)
        predictions_left = np.maximum(self.predictions[rival] - _cumulate_within(weight, rival), 0.0)
        losses = np.empty(order.size)
        losses[grouped] = objective.f1(hits_left, predictions_left, rival) - objective.f1(
            hits_left + hit, predictions_left + weight, rival
        )
        return losses


def _highest_sums(changes, cells, num_cells):
    """`[num_cells]` upper bounds of the running sum of `changes` within each cell, for any order within the cell."""
    sums = np.bincount(cells, changes, num_cells)
    return np.cumsum(sums) - sums + np.bincount(cells, np.maximum(changes, 0.0), num_cells)


def _cumulate_within(values, groups):
    """Running sums of `values` that restart at each group; equal entries of `groups` are adjacent."""
    sums = np.append(0.0, np.cumsum(values))
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: groups.size])
    return sums[1:] - np.repeat(sums[starts], np.diff(np.append(starts, groups.size)))
