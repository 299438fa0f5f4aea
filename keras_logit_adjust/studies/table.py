"""The table that every study shows."""

import typing


class Table(typing.NamedTuple):
    """A study's table.

    Attributes:
        caption: the data that it is of.
        header: texts, the first for the column of names.
        rows: lists of as many texts.
        notes: how to read it.
    """

    caption: str
    header: list
    rows: list
    notes: str
