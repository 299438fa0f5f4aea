"""Read class counts from a text file with columns. The file is refused if the meaning of its columns is not clear."""

import csv
import io
import os
import pathlib
import re

import numpy as np

from keras_logit_adjust import _checks

_NAMES = ("class_id", "count")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN = 8  # a message shows at most so many ids
_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0*)?", re.ASCII)


def read_class_counts(path):
    """Class counts from a text file with the columns `class_id` and `count`, in any order of rows.

    Commas, semicolons or tabs separate the columns, and their names may have capitals. A file without names must have
    two columns, and it must be clear which one has the ids 0 … L − 1. With a column `class` in place of `class_id` it
    names its classes, unless these names are the ids. If the file has two columns, any name stands for `class`: pandas
    writes such a file from `labels.value_counts().to_csv(path)`.

    Args:
        path: the path of the file.

    Returns:
        Int64 array `[L]` in order of class id; of a file that names its classes a dict of counts by name, for
        `kla.priors.as_prior(counts, class_names=…)`.

    Raises:
        ValueError: for text that is not UTF-8; for other columns, or a column twice; for ids that are not 0 … L − 1,
            each once; for a name twice; for counts that are negative or not whole numbers.
        OSError: for a file that cannot be read.

    Example:

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.csv")
    >>> _ = path.write_text("class_id,count\\n1,10\\n0,90\\n")
    >>> read_class_counts(path).tolist()
    [90, 10]
    >>> _ = path.write_text("class,count\\ndog,10\\ncat,90\\n")
    >>> read_class_counts(path)
    {'dog': 10, 'cat': 90}
    """
    found = read_numbers(path)
    counts = as_numbers(found)
    if (bad := counts < 0).any():
        raise ValueError(
            f"No count in a file of class counts may be negative. Received {path}: {counts[bad][:_SHOWN].tolist()} at "
            f"{name_classes(found, bad)}."
        )
    if isinstance(found, dict) and {*found} == {str(c) for c in range(len(found))}:
        return np.array([found[str(c)] for c in range(len(found))], "int64")
    return found


def read_numbers(path, *, or_prior=False):
    """Numbers of any sign from a file of class counts (or of a prior): `[L]` by class id, or a dict by name."""
    found = read_class_values_by_name(path, "count", *["prior"] * or_prior)
    if found is None and or_prior:
        found = read_class_values(path, "prior")
    return _read_counts_by_id(path) if found is None else found


def as_numbers(found):
    """The result of `read_numbers` as an array."""
    return np.array(list(found.values())) if isinstance(found, dict) else found


def name_classes(found, mask):
    """The classes where `mask` is true: by their names in the file, or by class id."""
    if not isinstance(found, dict):
        return _checks.name_classes(mask)
    names = [name for name, is_so in zip(found, mask, strict=True) if is_so]
    return f"class{'es' if len(names) > 1 else ''} {', '.join(map(repr, names[:8]))}{', …' if len(names) > 8 else ''}"


def _read_counts_by_id(path):
    """Whole numbers of any sign, in order of class id, from a file with the columns `class_id` and `count`."""
    try:
        ids, counts = _columns(read_text(path, "class counts"))
    except csv.Error as error:
        raise _error(path, str(error)) from error
    except _TableError as error:
        raise _error(path, str(error)) from None
    _check_ids(ids, path)
    return counts[np.argsort(ids)]


def _check_ids(ids, path):
    """Raise unless `ids` has each of 0 … L − 1 once."""
    if ids.size and _are_ids(ids):
        return
    found, numbers = np.unique(ids, return_counts=True)
    largest = found[-1] if ids.size else -1
    gaps = np.setdiff1d(np.arange(min(largest, ids.size + _SHOWN) + 1), found)
    faults = {"missing": gaps, "more than once": found[numbers > 1], "below 0": found[found < 0]}
    said = [
        f"{fault}: {', '.join(map(str, wrong[:_SHOWN]))}{', …' if wrong.size > _SHOWN else ''}"
        for fault, wrong in faults.items()
        if wrong.size
    ]
    remedy = "add the rows of those classes, or number the classes from 0 on" if gaps.size else "mend those rows"
    raise ValueError(
        f"A file of class counts or weights must name every class id from 0 on once. Received {path}: {ids.size} rows, "
        + (f"largest id {largest}, {'; '.join(said)}: {remedy}." if ids.size else "none with an id.")
    )


def read_text(path, content):
    """The UTF-8 text in a file. `content` describes the file in the message of an error."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        raise _checks.ArgumentError("path", f"`path` must be the path of a file of {content}. Received: path={path!r}")
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A file of {content} must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error
    except OSError as error:
        raise type(error)(
            f"A file of {content} must be one that can be read. Received {os.fspath(path)!r}: {error.strerror}. "
            "Check the path."
        ) from error


def read_class_values(path, column):
    """Float64 `[L]` in order of class id, from a text file with the columns `class_id` and `column`.

    None if the file has other columns.
    """
    text = read_text(path, "class weights" if column == "weight" else "class counts")
    for delimiter in _DELIMITERS:
        header, *rows = split(text, delimiter) or [[]]
        header = [name.casefold() for name in header]
        if header.count(column) == header.count("class_id") == 1:
            break
    else:
        return None
    try:
        ids = _whole([row[header.index("class_id")] for row in rows], delimiter)
        values = np.array([float(row[header.index(column)]) for row in rows], "float64")
    except (_TableError, ValueError, IndexError) as error:
        raise ValueError(
            f"A file with the columns `class_id` and `{column}` must have a whole number and a number in each row, the "
            f"decimals behind a point. Received {path}: {error}."
        ) from error
    _check_ids(ids, path)
    return values[np.argsort(ids)]


def read_class_values_by_name(path, *columns):
    """`{name: number}` of each class, from a text file with the columns `class` and one of `columns`.

    Any other name stands for `class` if the file has two columns. None if the file has other columns, or `class_id`.
    """
    text = read_text(path, "class weights" if "weight" in columns else "class counts")
    for delimiter in _DELIMITERS:
        header, *rows = split(text, delimiter) or [[]]
        header = [name.casefold() for name in header]
        found = [column for column in columns if header.count(column) == 1]
        if found and (place := _place_of_names(header, found[0])) is not None:
            break
    else:
        return None
    columns = f"`{header[place] or 'class'}` and `{found[0]}`"
    rule = f"A file with the columns {columns} must have a name and a number in each row"
    values = {}
    for number, row in zip(line_numbers(text, delimiter)[1:], rows, strict=True):
        try:
            name, field = row[place], row[header.index(found[0])]
            value = int(_whole([field], delimiter)[0]) if found[0] == "count" else float(field)
        except (_TableError, ValueError, IndexError) as error:
            raise ValueError(
                f"{rule}, the decimals behind a point. Received {path}, line {number}: {delimiter.join(row)[:80]!r} "
                f"({error})."
            ) from None
        if not name or name in values:
            raise ValueError(
                f"{rule}, and every name once. Received {path}, line {number}: "
                f"{f'{name!r} again' if name else 'no name'}."
            )
        values[name] = value
    if not values:
        raise ValueError(f"{rule}. Received {path}, which has no row.")
    return values


def _place_of_names(header, column):
    """The number of the column of names: `class`, or the only one beside `column`. None without such a column."""
    if "class_id" in header:
        return None
    if len(header) == 2:  # as pandas writes `value_counts()`
        return 1 - header.index(column)
    return header.index("class") if header.count("class") == 1 else None


class _TableError(Exception):
    """The problem of the columns, in words."""


def _error(path, reason):
    return ValueError(
        "A file of class counts must have the columns `class_id` and `count`, whole numbers both. "
        f"Received {path}: {reason}."
    )


def _columns(text):
    """The ids and the counts of a table, int64 `[L]` each, in order of rows."""
    tables = {delimiter: split(text, delimiter) for delimiter in _DELIMITERS}
    for delimiter, table in tables.items():
        header = [name.casefold() for name in table[0]] if table else []
        if twice := [name for name in _NAMES if header.count(name) > 1]:
            raise _TableError(f"two columns named {twice[0]}: leave one out")
        if all(name in header for name in _NAMES):
            return _named_columns(header, table[1:], delimiter)
    for delimiter, table in tables.items():
        if table and all(len(row) == 2 and all(map(_WHOLE.fullmatch, row)) for row in table):
            return _columns_without_names(table, delimiter)
    if not text.strip():
        return np.zeros((2, 0), "int64")
    headers = [{name.casefold() for name in table[0]} for table in tables.values()]
    missing = [name for name in _NAMES if not any(name in header for header in headers)]
    raise _TableError(
        f"its first line, {text.strip().splitlines()[0][:80]!r}, has no column {' and no '.join(missing)}"
        if missing
        else "commas, semicolons and tabs are mixed in its first line"
    )


def split(text, delimiter):
    """The non-empty lines of a table, as lists of their fields."""
    return [row for _, row in _numbered(text, delimiter)]


def line_numbers(text, delimiter):
    """The line number in the file (the first is 1) of each line from `split`."""
    return [number for number, _ in _numbered(text, delimiter)]


def _numbered(text, delimiter):
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    for row in rows:
        stripped = [field.strip() for field in row]
        if any(stripped):
            yield rows.line_num, stripped


def _named_columns(header, rows, delimiter):
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise _TableError(f"row {number} has {len(row)} fields for {len(header)} columns: {row}")
    return [_whole([row[header.index(name)] for row in rows], delimiter) for name in _NAMES]


def _columns_without_names(table, delimiter):
    first, second = (_whole(column, delimiter) for column in zip(*table, strict=True))
    if _are_ids(first) == _are_ids(second):
        which = "both columns" if _are_ids(first) else "no column"
        raise _TableError(f"it has no line of names, and {which} could be the ids 0 … {len(table) - 1}: add that line")
    return (first, second) if _are_ids(first) else (second, first)


def _are_ids(numbers):
    return np.array_equal(np.sort(numbers), np.arange(numbers.size))


def _whole(fields, delimiter):
    """Whole numbers that are written `900`, or `900.0` as in spreadsheets."""
    found = []
    for field in fields:
        match = _WHOLE.fullmatch(field)
        if match is None or len(match[1]) > 18:
            raise _TableError(f"{field[:40]!r} is no whole number{' of 64 bits' if match else ''}")
        if delimiter != "," and match[2] == ".000":  # if commas are not separators, a point may separate thousands
            raise _TableError(f"{field!r} may be {match[1]} or {match[1]}000: write it without a point")
        found.append(int(match[1]))
    return np.array(found, "int64")
