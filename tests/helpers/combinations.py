"""Every combination of some parameters: a few of them in every run, the others as slow tests."""

import itertools

import pytest


def fast_first(names, fast, *axes):
    """A mark that runs a test on the product of `axes`; all combinations but those in `fast` are slow."""
    others = [row for row in itertools.product(*axes) if row not in fast]
    return pytest.mark.parametrize(names, [*fast, *(pytest.param(*row, marks=pytest.mark.slow) for row in others)])


def pairs_first(**axes):
    """A mark that runs a test on the product of `axes`; fast are so many that every two values of two axes meet.

    A fault that shows for one value, or for two together, shows in the fast ones.
    """
    values = [list(axis) for axis in axes.values()]
    rows = list(itertools.product(*values))
    unmet, chosen = {pair for row in rows for pair in _pairs(row)}, []
    while unmet:
        chosen.append(max(rows, key=lambda row: len(unmet.intersection(_pairs(row)))))
        unmet.difference_update(_pairs(chosen[-1]))
    return fast_first(tuple(axes), chosen, *values)


def _pairs(row):
    return itertools.combinations(enumerate(row), 2)
