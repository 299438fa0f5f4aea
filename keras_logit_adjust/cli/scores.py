"""`adjust` for a file of scores: reads `.csv` or `.npy` and writes the same format."""

import csv
import dataclasses
import io
import math
import pathlib

import numpy as np

from keras_logit_adjust import posthoc
from keras_logit_adjust.cli import counts, printing
from keras_logit_adjust.cli.options import real
from keras_logit_adjust.data import counts_file
from keras_logit_adjust.serving import _files

SUFFIXES = (".csv", ".npy")
_OF_MODELS = ("validation", "calibrate", "fold", "to", "class_names", "allow_double_correction")


@dataclasses.dataclass(frozen=True)
class Table:
    """Scores with the other columns and lines of their text file.

    Attributes:
        values: `[N, L]`, or `[N, 1]` of the second of two classes.
        header: the names of all columns, or None.
        row_names: the first fields of the rows, where there is one more column than there are classes; or None.
        delimiter: between the columns.
        lines: the number in the file of each row, or None.
    """

    values: np.ndarray
    header: list | None = None
    row_names: list | None = None
    delimiter: str = ","
    lines: list | None = None

    @property
    def names(self):
        """The names of the columns of scores, or None."""
        return None if self.header is None else self.header[-self.values.shape[1] :]


def run(options, given):
    """Adjust the scores in a file by the values of other files (`given`), write them, and show a summary."""
    path, output = pathlib.Path(options.model), pathlib.Path(options.output)
    _check_together(options)
    if output.suffix != path.suffix:
        raise ValueError(f"--output must be named …{path.suffix}, like the scores. Received: {output}")
    _files.check_place(output, "file", options.force)
    kind, num_classes = options.kind or "probabilities", len(given["counts"])
    table = read(path, given["counts"], options)
    is_unit = table.values.shape[1:] == (1,)
    if not is_unit and options.num_examples is None:
        _check_possible(table, kind, path)
    names = _both_classes(table.names, given) if is_unit else table.names
    adjusted = posthoc.adjust_scores(
        table.values,
        **counts.settings(given, options, names=names, scores=path),
        kind=kind,
        tau=options.tau,
        num_examples=options.num_examples,
    )
    with _files.replacing(output) as partial:
        write(partial, dataclasses.replace(table, values=adjusted))
    trained = f"prior of {options.counts}"
    trained += f", class weights {options.class_weight}" if options.class_weight is not None else ""
    trained += f", resampled to {options.resampled_counts}" if options.resampled_counts is not None else ""
    towards = "uniform" if options.target_prior is None else f"of {options.target_prior}"
    lines = (
        f"scores    {len(adjusted):,} rows, {num_classes} {'classes' if options.num_examples is None else 'labels'}, "
        f"{kind.replace('_', '-')}",
        f"adjusted  tau {options.tau:g}, {trained}, target prior {towards}",
        *counts.pairing(given, options, names, scores=path, is_unit=is_unit),
        f"note      numbers do not show that they are adjusted: do not adjust {output.name} again",
    )
    printing.show("\n".join(lines), output=options.output, files="the adjusted scores")


def _both_classes(names, given):
    """The names of two classes, in which the only column of scores is the second; None if no file has names."""
    by_name = next((values for values in given.values() if isinstance(values, dict)), None)
    return None if names is None or by_name is None else [*(name for name in by_name if name not in names), *names]


def _check_together(options):
    """Raise for options that are only for models."""
    given = [name for name in _OF_MODELS if getattr(options, name) not in (None, False)]
    given += ["gives"] * (options.gives != "auto")
    if given or options.tau == "auto":
        flag = f"--{given[0].replace('_', '-')}" if given else "--tau auto"
        raise ValueError(
            f"{flag} is for models. {options.model} is a file of scores: leave it out. From Python, "
            "kla.tune_tau and kla.calibrate choose on held-out scores."
        )


def read(path, class_counts, options):
    """The `Table` in a file of scores; the classes are those in `class_counts`."""
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    return _read_npy(path) if path.suffix == ".npy" else _read_csv(path, class_counts, options)


def _read_npy(path):
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            raise ValueError("it is an archive of arrays, as numpy.savez writes it.")
        return Table(loaded)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} must be an array of numbers, as numpy.save writes it. Loading failed: {error}"
        ) from error


def _read_csv(path, class_counts, options):
    num_classes = len(class_counts)
    text = counts_file.read_text(path, "scores")
    tables = [(delimiter, counts_file.split(text, delimiter)) for delimiter in ("\t", ";", ",")]
    widths = [num_classes, num_classes + 1] + [1] * (num_classes == 2 and options.num_examples is None)
    found = [(delimiter, rows) for delimiter, rows in tables if rows and len(rows[0]) in widths]
    for _, rows in tables:
        _check_classes(rows, class_counts, path, options.counts)
    if not found:
        first = text.strip().splitlines()[0][:80] if text.strip() else ""
        raise ValueError(
            f"{path} must have a column for each of {num_classes} classes, the classes in {options.counts}, separated "
            "by commas, semicolons or tabs, and before them at most one column of row names. Its first line is "
            f"{first!r}: add the classes that are missing in one of the two files."
        )
    # Commas come last, because they may be decimal points; a single column has no delimiter.
    delimiter, rows = next((table for table in found if len(table[1][0]) > 1), found[-1])
    width, has_names = len(rows[0]), len(rows[0]) == num_classes + 1
    lines = counts_file.line_numbers(text, delimiter)
    for number, row in zip(lines, rows, strict=True):
        if len(row) != width:
            raise ValueError(f"Every line of {path} must have {width} fields. Line {number} has {len(row)}: {row[:8]}")
    header = rows.pop(0) if _are_names(rows[0][has_names:], path) else None
    _check_numbers(rows, header, lines[len(lines) - len(rows) :], first=int(has_names), path=path)
    values = np.array([list(map(real, row[has_names:])) for row in rows], "float64")
    values = values.reshape(len(rows), width - has_names)
    first = [row[0] for row in rows]
    if has_names:
        _check_row_names(first, width, path, header=header, counts_path=options.counts)
    _check_no_row_numbers(first, width, path)
    return Table(values, header, [row[0] for row in rows] if has_names else None, delimiter, lines[-len(rows) :])


def _check_classes(rows, class_counts, path, counts_path):
    """Raise if the first line names other classes, or another number of classes, than a file of counts by name."""
    header = rows[0] if rows else []
    if not isinstance(class_counts, dict) or len(header) < 2 or not any(name in class_counts for name in header):
        return
    if all(map(_is_number, header)):  # scores that may look like class ids
        return
    for name, field in zip(header[1:], rows[1][1:] if len(rows) > 1 else (), strict=False):
        if name not in class_counts and field and not _is_number(field):
            raise ValueError(
                f"{path} must have scores, and before them at most one column of row names. Column {name!r} has text, "
                f"such as {field[:40]!r}: remove the column from the file."
            )
    is_score = header[0] in class_counts or (len(rows) > 1 and _is_fraction(rows[1][0]))
    names = header if is_score or len(header) == len(class_counts) else header[1:]
    counts.check_names(class_counts, counts_path, names, f"the first line of {path}")


def _check_possible(table, kind, path):
    """Raise if every class of a row has probability 0: here lines of the file are counted, in Python rows."""
    if table.values.ndim != 2:
        return  # refused by `adjust_scores`
    none = (table.values == (0 if kind == "probabilities" else -np.inf)).all(axis=1)
    if none.any():
        row = int(none.argmax())
        place = f"row {row}" if table.lines is None else f"line {table.lines[row]}"
        zeros = "0" if kind == "probabilities" else "-inf"
        raise ValueError(
            f"Every row of {path} must have a class that is possible. Received only {zeros} in {place} "
            f"({none.sum()} of {none.size} rows): leave these rows out."
        )


def _are_names(fields, path):
    """Whether the first line has names; class ids count as names."""
    are_ids, from_one = ({*fields} == {str(first + c) for c in range(len(fields))} for first in (0, 1))
    if len(fields) > 1 and (from_one or (are_ids and len(fields) == 2)):
        raise ValueError(
            f"The first line of {path}, {','.join(fields)[:40]}, may be class ids or scores: for scores write 0.0 and "
            "1.0, for ids write names such as class 0 and class 1."
        )
    are_names = (len(fields) > 1 and are_ids) or not all(map(_is_number, fields))
    if are_names and (odd := [field for field in fields if not field or _is_fraction(field)]):
        raise ValueError(
            f"The first line of {path} must be names or scores. Received {odd[0][:40]!r} among "
            f"{','.join(fields)[:80]}: write names without a point, and leave no field empty."
        )
    return are_names


def _check_row_names(first, width, path, *, header, counts_path):
    """Raise if the first column is in the place of row names, but holds scores."""
    if odd := [field for field in first if _is_fraction(field)]:
        raise ValueError(
            f"The first of {width} columns in {path} must name the rows: {counts_path} has {width - 1} classes. "
            f"Received {odd[0][:40]!r}{f' in column {header[0]!r}' if header else ''}, which is a score: give counts "
            f"of {width} classes, or leave that column out."
        )


def _check_no_row_numbers(first, width, path):
    """Raise if the first column is in the place of scores, but counts rows."""
    if width == 2 < len(first) and first in ([str(start + row) for row in range(len(first))] for start in (0, 1)):
        raise ValueError(
            f"The first of 2 columns in {path} counts the rows; it is not a score of the first class. Leave it out: "
            "one column is the score of the second class."
        )


def _is_fraction(field):
    """Whether a field is a number that is not whole. "nan" and "inf" may be names."""
    return _is_number(field) and math.isfinite(real(field)) and not real(field).is_integer()


def _is_number(field):
    try:
        real(field)
    except ValueError:
        return False
    return True


def _check_numbers(rows, header, lines, *, first, path):
    """Raise if a field from the column `first` on is not a number, with its line and its column."""
    for number, row in zip(lines, rows, strict=True):
        for place in range(first, len(row)):
            if not _is_number(row[place]):
                name = f"column {place + 1}" + ("" if header is None else f" ({header[place]!r})")
                remedy = "." if row[place] else ": give it a number, or leave that row out."
                raise ValueError(
                    f"Scores in {path} must be numbers, with a point. Received: {row[place][:40]!r} in line {number}, "
                    f"{name}{remedy}"
                )


def write(path, table):
    """Write the scores to a file of the format that they were read from."""
    if path.suffix == ".npy":
        np.save(path, table.values)
        return
    text = io.StringIO()
    writer = csv.writer(text, delimiter=table.delimiter, lineterminator="\n")
    if table.header is not None:
        writer.writerow(table.header)
    names = [[]] * len(table.values) if table.row_names is None else [[name] for name in table.row_names]
    writer.writerows([*name, *row] for name, row in zip(names, table.values.tolist(), strict=True))
    path.write_text(text.getvalue(), encoding="utf-8")
