"""Draws of classes from any distribution over millions of them, in integers.

A cumulative sum in float32 has 24 bits: of a million classes it loses the rarest. Here each class owns a whole number
of 2³⁰ equally likely integers, at least one. Its probability is that share, to the last bit, so what corrects for the
draw corrects for what is really drawn.
"""

import keras
import numpy as np
from keras import ops

_GRID = 2**30  # the largest power of two that an int32 holds


class Table:
    """`m` strata of classes, of each of which one class is drawn; all of them may be the same stratum.

    Attributes:
        log_expected: float64 `[L]`: the logarithm of how often each class is expected among the `m` draws. Where no
            class comes twice, that is its inclusion probability.
        first: int32 `[m]`: where the stratum of each draw begins.
        last: int32 `[m]`: its last class.
        order: int32 `[L]`: the class at each place; None where classes are in order of id.
    """

    def __init__(self, shares, num_draws, *, replacement):
        num_classes = shares.size
        if replacement:
            self.order, starts = None, np.zeros(1, int)
            weights = shares
        else:
            weights = _inclusion_probabilities(shares, num_draws)
            # Neighbors of like weight: a class that is always in gets a stratum of its own.
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
        for _ in range(self._steps):  # a search by halves in all strata at once
            middle = (low + high) // 2
            is_right = ops.take(edges, middle) <= points
            low, high = ops.where(is_right, middle + 1, low), ops.where(is_right, high, middle)
        return low if self.order is None else ops.take(ops.convert_to_tensor(self.order), low)


def _inclusion_probabilities(shares, num_draws):
    """`min(1, λ·q)` with the λ that makes their sum `num_draws`."""
    probabilities, certain = num_draws * shares, np.zeros(shares.size, bool)
    while (probabilities[~certain] >= 1).any():
        certain |= probabilities >= 1
        left = num_draws - certain.sum()
        probabilities = np.where(certain, 1.0, shares * (left / max(shares[~certain].sum(), np.finfo(float).tiny)))
    return probabilities


def _starts(weights, num_draws):
    """Where each of `num_draws` strata of about equal weight begins; none is empty."""
    number = np.arange(num_draws)
    totals = np.cumsum(weights) * (num_draws / weights.sum())
    targets = np.searchsorted(totals, number + 1e-6, side="right")  # a sum that is a whole number, up to rounding
    # At least one class in each, and enough left for those behind.
    starts = np.maximum.accumulate(targets - number) + number
    return np.minimum(starts, weights.size - num_draws + number)


def _edges(weights, starts, sizes):
    """The upper edges of the classes in [0, 2³⁰], in each stratum anew, and the probabilities that they make."""
    totals = np.cumsum(weights)
    below = np.repeat(np.append(0.0, totals)[starts], sizes)
    share = (totals - below) / np.repeat(np.add.reduceat(weights, starts), sizes)
    position = np.arange(weights.size) - np.repeat(starts, sizes) + 1
    # One integer for each class, the rest by weight.
    edges = position + np.rint(np.clip(share, 0.0, 1.0) * (_GRID - np.repeat(sizes, sizes))).astype("int64")
    edges[starts + sizes - 1] = _GRID
    widths = np.diff(edges, prepend=0)
    widths[starts] = edges[starts]
    return edges.astype("int32"), widths / _GRID


def points(seed, step, number):
    """`number` integers in [0, 2³⁰), int32: the next of a `SeedGenerator`, or those of a seed at a step."""
    generator = seed if isinstance(seed, keras.random.SeedGenerator) else _AtStep(seed, step)
    return keras.random.randint((number,), 0, _GRID, dtype="int32", seed=generator)


class _AtStep(keras.random.SeedGenerator):
    """A generator without state, whose seed is a function of two numbers; the second may be a tensor."""

    def __init__(self, seed, step):
        # Spread, for torch adds the two up: seed 0 at step 1 is not to be seed 1 at step 0.
        self.spread, self.step = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1), step

    def next(self, ordered=True):
        dtype = "uint32" if keras.backend.backend() == "jax" else "int64"
        return ops.stack([ops.convert_to_tensor(self.spread, dtype), ops.cast(self.step, dtype)])
