"""A long-tailed stream of examples for the tests of `rebalance` and `subsample_stream`, and what comes out of one."""

import numpy as np
import tensorflow as tf

COUNTS = np.array([1400, 450, 125, 25])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
ROWS = np.arange(LABELS.size)


def slices(*columns):
    return tf.data.Dataset.from_tensor_slices(columns)


def stream(labels=LABELS):
    """Examples (row number, label)."""
    return slices(np.arange(len(labels)), labels)


def columns(dataset):
    """The columns of a finite dataset of batches, whole."""
    (whole,) = dataset.unbatch().batch(2**20).as_numpy_iterator()
    return whole
