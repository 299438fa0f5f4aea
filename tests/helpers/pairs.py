"""Parameters of a test that cover every pair of values, in place of every combination."""

import itertools

import pytest


def covering(**axes):
    """A mark that runs a test on few combinations: every two values of two axes come together in one of them.

    A fault that shows for one value, or for two together, shows as it does in the full product.
    """
    values, rows = (
        [list(axis) for axis in axes.values()],
        list(itertools.product(*(map(range, map(len, axes.values()))))),
    )
    open_pairs, chosen = {pair for row in rows for pair in _pairs(row)}, []
    while open_pairs:
        row = max(rows, key=lambda row: len(open_pairs.intersection(_pairs(row))))
        open_pairs -= set(_pairs(row))
        chosen.append(tuple(axis[i] for axis, i in zip(values, row, strict=True)))
    return pytest.mark.parametrize(tuple(axes), chosen)


def _pairs(row):
    return itertools.combinations(enumerate(row), 2)
