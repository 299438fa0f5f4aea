"""Long-tailed labels for the tests of the sampler, the epochs that it draws from them, and what is due."""

import numpy as np
from scipy import stats

COUNTS = [50, 20, 5, 1]
NAMED = ["instance", "square_root", "balanced", "effective_number"]
STRATEGIES = [*NAMED, 0.3, -1, [0.1, 0.2, 0.3, 0.4]]
UNLIKELY = 1e-4  # p-values below it do not happen by chance in the few dozen tests here


def labels_of(class_counts):
    """Labels with these counts, in no order."""
    return np.random.default_rng(7).permutation(np.repeat(np.arange(len(class_counts)), class_counts))


def epochs_of(sampler, count):
    """The rows of the first epochs, `[count, draws]`."""
    steps = range(count * sampler.steps_per_epoch)
    return np.concatenate([sampler.rows(step) for step in steps]).reshape(count, -1)


def class_counts_by_epoch(sampler, labels, count):
    """How often each class was drawn by the end of each epoch, `[count, L]`."""
    classes = np.asarray(labels)[epochs_of(sampler, count)]
    return np.cumsum([np.bincount(c, minlength=sampler.class_counts.size) for c in classes], axis=0)


def spread_in_class(rows, labels):
    """By how much the draws of the examples of one class differ at most."""
    drawn, labels = np.bincount(rows, minlength=len(labels)), np.asarray(labels)
    return max(np.ptp(drawn[labels == c]) for c in np.unique(labels))


def assert_even(observed, expected=None):
    """That counts are what chance gives, by Pearson's χ²."""
    assert stats.chisquare(observed, expected).pvalue > UNLIKELY


def shares(strategy, class_counts, beta=0.9999):
    """The formulas of the docstring, class by class."""
    exponents = {"instance": 1, "square_root": 1 / 2, "balanced": 0}
    if isinstance(strategy, list):
        mass = strategy
    elif strategy == "effective_number":
        mass = [n * (1 - beta) / (1 - beta**n) if n else 0 for n in class_counts]
    else:
        mass = [n ** float(exponents.get(strategy, strategy)) if n else 0 for n in class_counts]
    return np.array(mass) / sum(mass)
