"""Offsets of logits by coordinate search: along one class's offset an objective is a step function, searched exactly.

With the others fixed, raising the offset of class c takes examples over from their best other class, the rival, one by
one, in order of the margin between them. Sorted, the margins give the objective at every offset at once.
"""

import numpy as np

from keras_logit_adjust.held_out._intervals import nearest

_BEYOND = 0.5  # how far past the last margin an offset goes where nothing bounds it
_RESTARTS = 32  # of a search that starts anew
_ROUNDING = 1e-9  # margins no further apart are equal: no offset lies between them


def search(logits, objective, base, *, sweeps):
    """Offsets `[L]` that no change of a single one improves, and the objective there.

    Args:
        logits: `[N, L]` float64.
        objective: a `MacroF1` or `WeightedRecall` of the N examples.
        base: `[L]` where to start; of equally good offsets the nearest to it are taken.
        sweeps: at most so many rounds over all classes.
    """
    scores = _Scores(logits, base)
    for _ in range(sweeps):
        moves = 0
        for c in objective.present:
            rivals, margins = scores.without(c)
            order = np.argsort(margins, kind="stable")
            best, offset = _nearest_best(objective.along(c, rivals, order), margins[order], base[c])
            if best > objective.value(scores.first) + 1e-12:
                scores.set(c, offset)
                moves += 1
        if not moves:
            break
    return scores.offsets, objective.value(scores.first)


def search_from_many(logits, objective, base, *, sweeps, rng):
    """The best of searches from `base` and from random offsets around it: one coordinate at a time may get stuck."""
    spread = (logits - logits.mean(axis=1, keepdims=True)).std()
    starts = [base, *(base + spread * rng.normal(size=(_RESTARTS, base.size)))]
    return max((search(logits, objective, start, sweeps=sweeps) for start in starts), key=lambda found: found[1])[0]


def _nearest_best(values, margins, base):
    """The highest value, and of the offsets that have it the one nearest to `base`, away from where it changes."""
    ends = np.concatenate([[-np.inf], margins, [np.inf]])
    room = _ROUNDING * (1.0 + np.abs(margins).max())
    wide = ends[1:] - ends[:-1] > 2 * room
    highest = values[wide].max()
    best = np.flatnonzero((values >= highest - 1e-12) & wide)
    low, high = nearest(ends[best], ends[best + 1], to=base)
    if low + room < base < high - room:
        return highest, base
    return highest, np.clip(base, low + _BEYOND, high - _BEYOND) if np.isinf([low, high]).any() else (low + high) / 2


class _Scores:
    """Logits with offsets, and of every example the best class, which is predicted, and the second best."""

    def __init__(self, logits, offsets):
        self.offsets = offsets.astype("float64").copy()
        self.scores = logits + self.offsets
        self.first, self.second = (np.empty(len(logits), "int64") for _ in range(2))
        self._rank(np.arange(len(logits)))

    def _rank(self, rows):
        scores = self.scores[rows]
        self.first[rows] = first = scores.argmax(axis=1)
        scores[np.arange(rows.size), first] = -np.inf
        self.second[rows] = scores.argmax(axis=1)

    def without(self, c):
        """The best class other than c, and the offset at which c overtakes it, of every example."""
        rivals = np.where(self.first == c, self.second, self.first)
        return rivals, self.scores[np.arange(rivals.size), rivals] - (self.scores[:, c] - self.offsets[c])

    def set(self, c, offset):
        self.scores[:, c] += offset - self.offsets[c]
        self.offsets[c] = offset
        overtakes = self.scores[:, c] >= self.scores[np.arange(self.first.size), self.second]
        self._rank(np.flatnonzero((self.first == c) | (self.second == c) | overtakes))


class WeightedRecall:
    """`Σ_i w_i·[i is right]`, weights that sum to one: balanced accuracy, or one less a cost."""

    def __init__(self, ids, weight, num_classes):
        self.ids, self.weight = ids, weight / weight.sum()
        self.present = np.flatnonzero(np.bincount(ids, minlength=num_classes))

    def value(self, predicted):
        return float(self.weight[predicted == self.ids].sum())

    def along(self, c, rivals, order):
        """`[N + 1]` the value when c has taken the first k examples of `order` from their rivals."""
        gain = self.weight * ((self.ids == c).astype("float64") - (self.ids == rivals))
        return self.value(rivals) + np.append(0.0, np.cumsum(gain[order]))


class MacroF1:
    """The mean over the classes that occur of `F1 = 2·hits / (occurrences + predictions)`, examples weighted."""

    def __init__(self, ids, weight, num_classes):
        self.ids, self.weight, self.num_classes = ids, weight, num_classes
        self.occurs = np.bincount(ids, weight, num_classes)
        self.present = np.flatnonzero(self.occurs)

    def value(self, predicted):
        return float(np.sum(self._f1(*self._tallies(predicted), slice(None))) / self.present.size)

    def _tallies(self, predicted):
        hits = np.bincount(self.ids, self.weight * (self.ids == predicted), self.num_classes)
        return hits, np.bincount(predicted, self.weight, self.num_classes)

    def _f1(self, hits, predictions, classes):
        total = self.occurs[classes] + predictions
        return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)

    def along(self, c, rivals, order):
        """`[N + 1]` the value when c has taken the first k examples of `order` from their rivals."""
        hits, predictions = self._tallies(rivals)
        weight = self.weight[order]
        f1_of_c = self._f1(np.cumsum(weight * (self.ids[order] == c)), np.cumsum(weight), c)
        losses = np.cumsum(self._losses_of_rivals(rivals[order], order, hits, predictions))
        f1_of_rivals = self._f1(hits, predictions, slice(None)).sum() + np.append(0.0, losses)
        return (np.append(0.0, f1_of_c) + f1_of_rivals) / self.present.size

    def _losses_of_rivals(self, rivals, order, hits, predictions):
        """What the F1 of its rival changes by when each example leaves it, in `order`."""
        # The examples of a rival together, in order; NumPy sorts short integers in linear time.
        grouped = np.argsort(rivals.astype("uint16") if self.num_classes < 2**16 else rivals, kind="stable")
        rival, example = rivals[grouped], order[grouped]
        weight = self.weight[example]
        hit = weight * (self.ids[example] == rival)
        hits_left = hits[rival] - _cumulate_within(hit, rival)
        predictions_left = np.maximum(predictions[rival] - _cumulate_within(weight, rival), 0.0)
        losses = np.empty(order.size)
        losses[grouped] = self._f1(hits_left, predictions_left, rival) - self._f1(
            hits_left + hit, predictions_left + weight, rival
        )
        return losses


def _cumulate_within(values, groups):
    """The running sums of `values` that begin anew with every group; equal groups are neighbors."""
    sums = np.append(0.0, np.cumsum(values))
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    return sums[1:] - np.repeat(sums[starts], np.diff(np.append(starts, groups.size)))
