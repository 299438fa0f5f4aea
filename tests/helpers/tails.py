"""Long-tailed labels for the tests of the sampler, and the epochs that it draws from them."""

import numpy as np

COUNTS = [50, 20, 5, 1]


def labels_of(class_counts):
    """Labels with these counts, in no order."""
    return np.random.default_rng(7).permutation(np.repeat(np.arange(len(class_counts)), class_counts))


def epochs_of(sampler, count):
    """The rows of the first epochs, `[count, draws]`."""
    steps = range(count * sampler.steps_per_epoch)
    return np.concatenate([sampler.rows(step) for step in steps]).reshape(count, -1)
