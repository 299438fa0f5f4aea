"""The plan of draws. The example of each draw depends on the seed and the number of the draw, without any state.

Class c has the share `p_c` of the draws, and its own phase `u_c` in [0, 1). Until time `t` it was drawn `⌊p_c·t + u_c⌋`
times, which differs from `p_c·t` by less than one. All draws, in order of time, make one endless sequence. An epoch is
the next part of this sequence, and its classes are shuffled.

Draw `j` of a class is place `j mod n_c` of pass `⌊j / n_c⌋`. Every pass goes through the class in its own random order.
So an example comes again only after all other examples of its class.

All random numbers are from SplitMix64 (Steele et al., 2014). It gives its k-th number without the numbers before it,
and does not change with the version of NumPy.
"""

import numpy as np

_GOLDEN = (5**0.5 - 1) / 2
_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the constant of SplitMix64; it is also 2⁶⁴ times the golden ratio
_STEPS = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))
# Each use has its own stream of random numbers, so that uses do not depend on each other.
_PHASE, _TURN, _PASS, _SHUFFLE, _CLASS, _EXAMPLE, _MAP = range(7)


def splitmix64(seed, index):
    """Number `index` of the SplitMix64 sequence of `seed`, elementwise, as uint64 `[…]`."""
    with np.errstate(over="ignore"):  # overflow is intended: this is arithmetic modulo 2^64
        bits = np.asarray(seed).astype("uint64") + (np.asarray(index).astype("uint64") + np.uint64(1)) * _GAMMA
        for shift, factor in _STEPS:
            bits = (bits ^ (bits >> np.uint64(shift))) * factor
    return bits ^ (bits >> np.uint64(31))


def uniform(bits):
    """Float64 numbers in [0, 1) from uint64 bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def drawn(expected, phase, total):
    """The number of draws of each class among the first `total` draws.

    Args:
        expected: time → `[L]` expected draws until this time. They sum to the time.
        phase: `[L]` numbers in [0, 1).
        total: number of draws.

    Returns:
        Int64 array `[L]` that sums to `total`. No number becomes smaller if `total` grows. Each number is within one of
        the expected draws at the time of the last draw. This time differs from `total` by the sum of the roundings.
    """

    def count(time):
        return np.floor(expected(time) + phase).astype("int64")

    # `floor` changes each class by less than one. So the time differs from `total` by at most the number of classes.
    low, high = max(0.0, float(total - phase.size)), float(total + phase.size + 1)
    while low < (middle := (low + high) / 2) < high:
        counts = count(middle)
        excess = counts.sum() - total
        if excess == 0:
            return counts
        low, high = (low, middle) if excess > 0 else (middle, high)
    counts = count(low)
    due_together = np.flatnonzero(count(high) > counts)
    counts[due_together[: total - counts.sum()]] += 1
    return counts


class Plan:
    """The endless sequence of draws from a labeled set.

    Args:
        labels: `[N]` int64 class ids.
        class_counts: `[L]` examples of each class.
        target: a `Fixed` or `Progressive`.
        seed: int ≥ 0.
        in_turn: whether the classes come in a fixed cycle, equally often. Otherwise each comes by its share.
        replacement: whether draws are independent of each other. With `in_turn` only the examples are.
        rows: `[N]` the row number of each label, if it is not its place: a row may then be in several classes.
    """

    def __init__(self, labels, class_counts, target, *, seed, in_turn, replacement, rows=None):
        places = np.argsort(labels, kind="stable")
        self.rows_by_class = places if rows is None else rows[places]
        self.counts, self.target, self.in_turn, self.replacement = class_counts, target, in_turn, replacement
        self.starts = np.cumsum(class_counts) - class_counts
        self.streams = splitmix64(seed % 2**64, np.arange(7))
        self.phase = np.empty(class_counts.size)
        # The phases of classes of similar size differ by the golden ratio, so their rounding errors cancel in `drawn`.
        by_share = np.argsort(-target.expected(1.0), kind="stable")
        self.phase[by_share] = (
            uniform(splitmix64(self.streams[_PHASE], 0)) + _GOLDEN * np.arange(class_counts.size)
        ) % 1
        if in_turn:
            taking_part = np.flatnonzero(target.shares)
            self.turns = taking_part[np.argsort(splitmix64(self.streams[_TURN], taking_part))]

    def rows(self, start, steps, batch_size):
        """The draws from `start` on, as int64 row numbers `[steps, batch_size]`.

        Only the classes are shuffled. The draws of one class stay in order, so that each pass is complete.
        """
        numbers = np.arange(start, start + steps * batch_size)
        if self.in_turn:
            classes = self._in_turn(numbers, batch_size)
        elif self.replacement:
            classes = self._by_chance(numbers)
        else:
            classes = self._when_due(numbers)
        if self.replacement:
            place = uniform(splitmix64(self.streams[_EXAMPLE], numbers)) * self.counts[classes]
            rows = self.rows_by_class[self.starts[classes] + place.astype("int64")]
        else:
            rows, quota = np.empty_like(numbers), np.bincount(classes, minlength=self.counts.size)
            rows[np.argsort(classes, kind="stable")] = self._next_of_each(self._drawn(start), quota)
        return rows.reshape(steps, batch_size)

    def seeds(self, numbers):
        """Int32 `[n, 2]` seeds of the batches `numbers`, for other random operations on them."""
        return splitmix64(self.streams[_MAP], numbers).view("int32").reshape(-1, 2)

    def _when_due(self, numbers):
        """The classes of these draws by their shares, shuffled."""
        quota = self._drawn(numbers[-1] + 1) - self._drawn(numbers[0])
        shuffled = np.argsort(splitmix64(self.streams[_SHUFFLE], numbers))
        return np.repeat(np.arange(quota.size), quota)[shuffled]

    def _in_turn(self, numbers, batch_size):
        """The classes of these draws in their fixed cycle, shuffled within each batch."""
        shuffled = np.argsort(splitmix64(self.streams[_SHUFFLE], numbers).reshape(-1, batch_size), axis=1)
        classes = self.turns[numbers % self.turns.size].reshape(-1, batch_size)
        return np.take_along_axis(classes, shuffled, axis=1).ravel()

    def _by_chance(self, numbers):
        """A random class for each draw of one epoch, with its share as probability."""
        cumulative = np.cumsum(self.target.in_epoch(numbers[0] // numbers.size))
        chance = uniform(splitmix64(self.streams[_CLASS], numbers)) * cumulative[-1]
        return np.searchsorted(cumulative, chance, side="right")

    def _drawn(self, total):
        if not self.in_turn:
            return drawn(self.target.expected, self.phase, total)
        rounds, more = divmod(total, self.turns.size)
        counts = np.zeros(self.counts.size, "int64")
        counts[self.turns] = rounds + (np.arange(self.turns.size) < more)
        return counts

    def _next_of_each(self, first, quota):
        """The rows of draws `first … first + quota − 1` of each class, ordered by class."""
        classes = np.flatnonzero(quota)
        first, quota, size = first[classes], quota[classes], self.counts[classes]
        passed, skipped = np.divmod(first, size)
        passes = -(-(skipped + quota) // size)  # passes that these draws touch
        owner, turn = ragged(passes)  # one entry for every pass of every class
        group, place = ragged(size[owner])  # one entry for every example of every pass
        example = self.starts[classes][owner][group] + place
        keys = splitmix64(splitmix64(self.streams[_PASS], example), (passed[owner] + turn)[group])
        # One sort for all passes: the high bits are the number of the pass, the low bits are random. Ties keep their
        # order.
        bits = np.uint64(int(owner.size).bit_length())
        order = np.argsort((group.astype("uint64") << (np.uint64(64) - bits)) | (keys >> bits), kind="stable")
        of_class, position = ragged(passes * size)
        taken = (position >= skipped[of_class]) & (position < (skipped + quota)[of_class])
        return self.rows_by_class[example[order[taken]]]


def ragged(lengths):
    """`(owner, place)` of every item, if owner i has `lengths[i]` items."""
    owner = np.repeat(np.arange(lengths.size), lengths)
    return owner, np.arange(owner.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
