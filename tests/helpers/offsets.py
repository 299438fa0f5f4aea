"""Held-out examples of a long tail for the tests of offsets, and what is counted of them by loops."""

import numpy as np

COUNTS = [70, 25, 5]
WHOLE = {"bags": 0, "shrinkage": 0}  # the best on all examples, as it is


def between(margins):
    """A number in every interval that `margins` leave, the two outer ones too; as equal count those within rounding."""
    margins = np.sort(margins)
    margins = margins[np.append(True, np.diff(margins) > 1e-6)]
    return np.concatenate([[margins[0] - 1], (margins[1:] + margins[:-1]) / 2, [margins[-1] + 1]])


def draw(rng, size, num_classes, signal=1.0):
    """Logits of a long tail, and classes of which not all need occur."""
    y = rng.integers(0, num_classes, size)
    return rng.normal(size=(size, num_classes)) + signal * np.eye(num_classes)[y] - np.arange(num_classes), y


def value_by_loop(objective, y, predicted, weight=None):
    """Macro-F1 or the mean recall of the classes that occur, of examples that may be weighted."""
    weight, values = np.ones(len(y)) if weight is None else weight, []
    for c in set(y.tolist()):
        hits = weight[(y == c) & (predicted == c)].sum()
        size = weight[y == c].sum() + weight[predicted == c].sum()
        values.append(2 * hits / size if objective == "macro_f1" else hits / weight[y == c].sum())
    return np.mean(values)


def search_by_trying(logits, y, value, base, *, sweeps):
    """Coordinate search without any shortcut: for each class a number between all margins is tried, one by one.

    Of the intervals with the highest value the nearest to `base` is taken, and of it `base` itself or the middle (½
    beyond the last margin).
    """
    offsets = base.copy()
    rounding = 1e-9

    def value_at(c, offset):
        return value((logits + np.where(np.arange(offsets.size) == c, offset, offsets)).argmax(-1))

    for _ in range(sweeps):
        before = offsets.copy()
        for c in sorted(set(y.tolist())):
            others = np.delete(logits + offsets, c, axis=1).max(axis=1)
            margins = np.sort(others - logits[:, c])
            room = rounding * (1 + np.abs(margins).max())
            ends = np.concatenate([[-np.inf], margins, [np.inf]])
            intervals = [(low, high) for low, high in zip(ends, ends[1:], strict=False) if high - low > 2 * room]
            points = [
                high - 0.5 if np.isinf(low) else low + 0.5 if np.isinf(high) else (low + high) / 2
                for low, high in intervals
            ]
            values = np.array([value_at(c, point) for point in points])
            if values.max() <= value((logits + offsets).argmax(-1)) + 1e-12:
                continue
            best = np.flatnonzero(values >= values.max() - 1e-12)
            low, high = intervals[min(best, key=lambda i: max(intervals[i][0] - base[c], base[c] - intervals[i][1]))]
            if low + room < base[c] < high - room:
                offsets[c] = base[c]
            elif np.isinf(low):
                offsets[c] = min(base[c], high - 0.5)
            else:
                offsets[c] = max(base[c], low + 0.5) if np.isinf(high) else (low + high) / 2
        if np.array_equal(before, offsets):
            break
    return offsets
