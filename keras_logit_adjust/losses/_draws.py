"""Draws of classes from any distribution over millions of them, in integers.

A cumulative sum in float32 has 24 bits, too few for the rarest of a million classes. Here each class has a whole number
of 2³⁰ equally likely integers, and at least one. Its probability is exactly this share. So the correction is exact for
the draws that are really made.
"""

import keras
import numpy as np
from keras import ops

_GRID = 2**30  # the largest power of two in int32


class Table:
    """`m` strata of classes. From each stratum one class is drawn. With replacement all strata are the same.

    Attributes:
        log_expected: float64 `[L]`: for each class the logarithm of its expected number among the `m` draws. Without
            replacement this number is the inclusion probability.
        first: int32 `[m]`: the place of the first class of each stratum.
        last: int32 `[m]`: the place of its last class.
        order: int32 `[L]`: the class at each place. None if classes are in order of id.
    """

    def __init__(self, shares, num_draws, *, replacement):
        num_classes = shares.size
        if replacement:
            self.order, starts = None, np.zeros(1, int)
            weights = shares
        else:
            weights = _inclusion_probabilities(shares, num_draws)
            # Sort by weight, so that each class that is always drawn gets its own stratum.
            order = np.argsort(-weights, kind="stable")
            starts = _starts(weights[order], num_draws)
            self.order = None if (order == np.arange(num_classes)).all() else order.astype("int32")
            weights = weights[order]
        sizes = np.diff(np.append(starts, num_classes))
        self.edges, probabilities = _edges(weights, starts, sizes)
        self._steps = int(sizes.max() - 1).bit_length()
        repeats = num_draws if replacement else 1
        self.first = np.repeat(starts, repeats).astype("int32")
        self.last = np.repeat(starts + sizes - 1, repeats).astype("int32")
        self.log_expected = np.log(repeats * probabilities)
        if self.order is not None:
            self.log_expected[order] = self.log_expected.copy()

    def classes_at(self, points):
        """The class of each draw, int32 `[m]`, for integers `points [m]` in [0, 2³⁰)."""
        edges = ops.convert_to_tensor(self.edges)
        low, high = ops.convert_to_tensor(self.first), ops.convert_to_tensor(self.last)
        for _ in range(self._steps):  # binary search in all strata at once
            middle = (low + high) // 2
            is_right = ops.take(edges, middle) <= points
            low, high = ops.where(is_right, middle + 1, low), ops.where(is_right, high, middle)
        return low if self.order is None else ops.take(ops.convert_to_tensor(self.order), low)


def _inclusion_probabilities(shares, num_draws):
    """`min(1, λ·q)`. λ is such that their sum is `num_draws`."""
    probabilities, certain = num_draws * shares, np.zeros(shares.size, bool)
    while (probabilities[~certain] >= 1).any():
        certain |= probabilities >= 1
        left = num_draws - certain.sum()
        probabilities = np.where(certain, 1.0, shares * (left / max(shares[~certain].sum(), np.finfo(float).tiny)))
    return probabilities


def _starts(weights, num_draws):
    """The first place of each of `num_draws` strata of about equal weight. Every stratum has at least one class."""
    number = np.arange(num_draws)
    totals = np.cumsum(weights) * (num_draws / weights.sum())
    # 1e-6 is for rounding of sums that are whole numbers.
    targets = np.searchsorted(totals, number + 1e-6, side="right")
    # At least one class in each stratum, also in those that follow.
    starts = np.maximum.accumulate(targets - number) + number
    return np.minimum(starts, weights.size - num_draws + number)


def _edges(weights, starts, sizes):
    """The upper edges of the classes in [0, 2³⁰] of their stratum, and the probabilities of the classes."""
    totals = np.cumsum(weights)
    below = np.repeat(np.append(0.0, totals)[starts], sizes)
    share = (totals - below) / np.repeat(np.add.reduceat(weights, starts), sizes)
    position = np.arange(weights.size) - np.repeat(starts, sizes) + 1
    # Each class gets one integer. The other integers are shared by weight.
    edges = position + np.rint(np.clip(share, 0.0, 1.0) * (_GRID - np.repeat(sizes, sizes))).astype("int64")
    edges[starts + sizes - 1] = _GRID
    widths = np.diff(edges, prepend=0)
    widths[starts] = edges[starts]
    return edges.astype("int32"), widths / _GRID


def points(seed, step, number):
    """`number` int32 integers in [0, 2³⁰): the next of a `SeedGenerator`, or those of a seed and a step."""
    generator = seed if isinstance(seed, keras.random.SeedGenerator) else _AtStep(seed, step)
    return keras.random.randint((number,), 0, _GRID, dtype="int32", seed=generator)


class _AtStep(keras.random.SeedGenerator):
    """A generator without state. Its seed is a function of two numbers, and the second may be a tensor."""

    def __init__(self, seed, step):
        # torch adds both numbers. Without this, seed 0 at step 1 would be the same as seed 1 at step 0.
        self.spread, self.step = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1), step

    def next(self, ordered=True):
        dtype = "uint32" if keras.backend.backend() == "jax" else "int64"
        return ops.stack([ops.convert_to_tensor(self.spread, dtype), ops.cast(self.step, dtype)])
