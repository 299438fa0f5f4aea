"""The share of each class in the draws: by an exponent, by the effective number, by a schedule, or as given."""

import dataclasses
import numbers
import reprlib
from collections.abc import Sequence

import numpy as np

from keras_logit_adjust import _arrays, _checks
from keras_logit_adjust.losses import class_balanced_weights

EXPONENTS = {"instance": 1.0, "square_root": 0.5, "balanced": 0.0}
NAMES = (*EXPONENTS, "effective_number", "progressive")


def class_shares(class_counts, strategy, *, beta=0.9999):
    """Float64 shares `[L]` that sum to one, for every strategy except "progressive". Classes without examples get 0."""
    if isinstance(strategy, str):
        _checks.check_choice(strategy, "strategy", NAMES)
        if strategy == "effective_number":
            counts = class_counts[class_counts > 0]
            # The weight of a class if each of its examples weighs 1/E_n. A single class has all the weight.
            mass = counts * class_balanced_weights(counts, beta=beta) if counts.size > 1 else np.ones(1)
            return _over_present(class_counts, mass)
        strategy = EXPONENTS[strategy]
    if isinstance(strategy, numbers.Real) and not isinstance(strategy, bool):
        if not np.isfinite(strategy):
            raise _checks.ArgumentError(
                "strategy", f"`strategy` must be finite where it is an exponent. Received: strategy={strategy!r}"
            )
        return power_shares(class_counts, float(strategy))
    if hasattr(strategy, "__array__") or isinstance(strategy, Sequence):
        return _check_distribution(strategy, class_counts)
    raise _checks.ArgumentError(
        "strategy",
        f"`strategy` must be one of {', '.join(map(repr, NAMES))}, an exponent q or a share for each class. "
        f"Received: strategy={_checks.shown(strategy)}",
    )


def power_shares(class_counts, exponent):
    """`p_c = n_c^q / Σ n^q` over the classes that have examples."""
    logarithm = exponent * np.log(class_counts[class_counts > 0])  # n^q would overflow for a large q
    return _over_present(class_counts, np.exp(logarithm - logarithm.max()))


def _over_present(class_counts, mass):
    shares = np.zeros(class_counts.size)
    shares[class_counts > 0] = mass / mass.sum()
    return shares


def _check_distribution(distribution, class_counts):
    shares = _checks.as_vector(distribution, "strategy")
    _checks.check_length(shares, class_counts.size, "strategy", "class_counts")
    if (shares < 0).any():
        raise ValueError(
            f"A class distribution must not be negative. Received {shares[shares < 0][:8].tolist()} at "
            f"{_checks.name_classes(shares < 0)} of `strategy`."
        )
    if abs(shares.sum() - 1) > 1e-5:  # a float32 softmax over 100,000 classes has an error of this size
        raise ValueError(
            f"A class distribution must sum to one. Received `strategy` with sum {shares.sum():.6g}: "
            "divide it by its sum."
        )
    if (absent := (shares > 0) & (class_counts == 0)).any():
        raise ValueError(
            "A class distribution must not ask for classes that have no examples. Received a share at "
            f"{_checks.name_classes(absent)} of `strategy`: set it to 0 and divide by the new sum."
        )
    return shares / shares.sum()


def as_setting(strategy):
    """`strategy` as a state keeps it: a name, a number or a list of numbers."""
    return strategy if isinstance(strategy, str) else _arrays.as_array(strategy, "strategy").astype("float64").tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """The same shares `[L]` in every epoch."""

    shares: np.ndarray

    def in_epoch(self, epoch):
        """The shares in one epoch."""
        return self.shares

    def expected(self, time):
        """The expected draws of each class until `time`, the number of draws of all classes."""
        return time * self.shares


class Progressive:
    """Shares by an exponent that goes from 1 in the first epoch to 0 in the last of `epochs`, and stays 0 after.

    An epoch has `length` draws.
    """

    def __init__(self, class_counts, epochs, length):
        self.class_counts, self.epochs, self.length = class_counts, epochs, length
        self._due = {0: np.zeros(class_counts.size)}  # epoch → expected draws before it

    def in_epoch(self, epoch):
        """The same as `Fixed.in_epoch`."""
        return power_shares(self.class_counts, max(0.0, 1 - epoch / (self.epochs - 1)))

    def expected(self, time):
        """The same as `Fixed.expected`."""
        epoch, rest = divmod(time, self.length)
        return self._due_before(int(epoch)) + rest * self.in_epoch(int(epoch))

    def _due_before(self, epoch):
        scheduled = min(epoch, self.epochs)
        table = self._due  # read once: another thread may replace it
        known = max(e for e in table if e <= scheduled)
        due = sum((self.length * self.in_epoch(e) for e in range(known, scheduled)), start=table[known])
        # Keep only the last epochs: for many classes a table of all epochs would be too large.
        self._due = {0: table[0], **dict([*table.items()][-2:]), scheduled: due}
        return due + (epoch - scheduled) * self.length * self.in_epoch(epoch)


def check_equal_shares(target, strategy, batch_size):
    """Raise unless the shares of `target` are equal, and a batch has a place for each class."""
    shares = target.in_epoch(0)
    shares = shares[shares > 0]
    if isinstance(target, Progressive) or not np.allclose(shares, shares[0], rtol=1e-6):
        raise _checks.ArgumentError(
            "per_batch",
            '`per_batch="exact"` gives equal counts and needs equal shares: strategy="balanced", or a vector that '
            f"is uniform over the classes wanted. Received: strategy={reprlib.repr(strategy)}",
        )
    if shares.size > batch_size:
        raise _checks.ArgumentError(
            "per_batch",
            f'`per_batch="exact"` needs a place for each of the {shares.size} classes in a batch. Received: '
            f"batch_size={batch_size}. Remedy: larger batches, or leave `per_batch` out.",
        )


def check_epochs(epochs, strategy):
    """The epochs of "progressive" as an int. None for every other strategy."""
    if (isinstance(strategy, str) and strategy == "progressive") != (epochs is not None):
        raise ValueError(
            '`progressive_epochs` goes with strategy="progressive", and it with that. '
            f"Received: strategy={reprlib.repr(strategy)}, progressive_epochs={epochs!r}"
        )
    return epochs if epochs is None else _checks.check_integer(epochs, "progressive_epochs", minimum=2)
