"""Scores of classes beside labels and counts: the checks that all functions share which read such scores.

Tables name their rows and columns, and arrays do not. Where the names say that two orders differ, the numbers would go
together by place and be wrong.
"""

import collections

import numpy as np

from keras_logit_adjust import _arrays

SUM = 1e-3  # the sum of a row of probabilities may differ from one by this much
_FIRST_ROWS = 20  # for logits the first rows are enough to tell that they are not shares


def sums_to(rows, total, tolerance=SUM):
    """Whether no number of `rows` `[N, L]` is below 0, and every row sums to `total`, up to a share `tolerance`."""
    return all(
        bool((part >= 0).all() and (np.abs(part.sum(axis=-1, dtype="float64") - total) < tolerance * total).all())
        for part in (rows[:_FIRST_ROWS], rows)
    )


def class_names(scores, name, /, **given):
    """The names that the columns of a table of scores give to classes. None for an array, or for columns 0, 1, …

    Args:
        scores: an array, or a table with a column for each class. A single column has no class of its own.
        name: the name of `scores` in messages.
        **given: numbers by class, such as `class_counts`. They must have names if the columns have.
    """
    if not hasattr(scores, "columns"):
        return None
    columns = np.asarray(scores.columns).tolist()
    refuse_ids_out_of_order(columns, name)
    if len(columns) < 2 or _as_texts(columns) == _ids(columns):
        return None
    check_order(columns, True, name, **given)
    return columns


def check_order(columns, is_frame, name, /, **given):
    """Raise for numbers that do not name their classes, if the columns of scores do.

    The names of the columns of an array give their order. Numbers have the same order, unless the names are class ids
    in another order.
    """
    texts = _as_texts(columns)
    if texts == _ids(texts) or not (is_frame or sorted(texts) == sorted(_ids(texts))):
        return
    for argument, values in given.items():
        is_estimate = "effective_prior" in dir(values)  # the property of a multi-label sampler raises
        is_named = not callable(getattr(values, "index", abs))  # a list has a method `index`
        names = getattr(values, "class_names", None) if is_estimate else None
        if is_named or names is not None and _as_texts(names) == texts or np.ndim(values) == 0 and not is_estimate:
            continue
        part = ".effective_prior" if is_estimate else ".counts" if hasattr(values, "counts") else ""
        named = f"dict(zip(names, {argument}{part})), with `names` in the order of the numbers"
        if names is not None:
            named = f"dict(zip({argument}.class_names, {argument}{part}))"
        raise _arrays.ArgumentError(
            argument,
            f"`{argument}` must name its classes if the columns of `{name}` have names: its order may be another. "
            f"Received numbers {'without names' if names is None else f'of {_arrays.shown(names)}'} beside columns "
            f"{_arrays.shown(texts)}: give {named}.",
        )


def refuse_ids_out_of_order(columns, name):
    """Raise for columns that are class ids in another order than 0, 1, …"""
    texts = _as_texts(columns)
    if texts != _ids(texts) and sorted(texts) == sorted(_ids(texts)):
        raise _arrays.ArgumentError(
            name,
            f"Columns of `{name}` that are class ids must be in order, because labels and results are. Received "
            f"columns {_arrays.shown(columns)}: give {name}[sorted({name}.columns, key=int)].",
        )


def check_pair(labels, scores, names=("y_true", "logits")):
    """Raise for tables of labels and scores whose rows or columns are not in the same order."""
    check_rows(labels, scores, names)
    columns = [np.asarray(table.columns).tolist() if hasattr(table, "columns") else [] for table in (labels, scores)]
    for name, own in zip(names, columns, strict=True):
        refuse_ids_out_of_order(own, name)
    _refuse_other_order("columns", *columns, names, "{0}[{1}.columns]")


def check_rows(labels, rows, names=("y_true", "logits")):
    """Raise for tables whose indexes have the same labels in different orders. Rows go together by place."""
    if all(hasattr(table, "index") and hasattr(table, "sort_index") for table in (labels, rows)):  # types of pandas
        indexes = (np.asarray(table.index).tolist() for table in (labels, rows))
        _refuse_other_order("rows", *indexes, names, "{0}.loc[{1}.index]")


def _refuse_other_order(what, of_labels, of_scores, names, remedy):
    if len(of_labels) != len(of_scores) or of_labels == of_scores:
        return
    if collections.Counter(of_labels) == collections.Counter(of_scores):
        raise _arrays.ArgumentError(
            names[0],
            f"`{names[0]}` and `{names[1]}` must have their {what} in the same order, because they go together by "
            f"place. Received the same {what} in two orders, {_arrays.shown(of_labels)} and "
            f"{_arrays.shown(of_scores)}: give {remedy.format(*names)}. If the places are right and the labels of the "
            f"{what} are not, give {names[0]}.to_numpy().",
        )


def _as_texts(columns):
    return [str(column) for column in _arrays.as_names(columns)]


def _ids(columns):
    return [str(c) for c in range(len(columns))]
