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


def value_by_loop(objective, y, predicted):
    """Macro-F1 or the mean recall of the classes that occur."""
    values = []
    for c in set(y.tolist()):
        hits = ((y == c) & (predicted == c)).sum()
        size = (y == c).sum() + (predicted == c).sum()
        values.append(2 * hits / size if objective == "macro_f1" else hits / (y == c).sum())
    return np.mean(values)
