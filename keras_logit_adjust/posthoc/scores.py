"""Adjustment of scores that exist already, from any classifier: arrays, tables and tensors, without a model.

The arithmetic is the same as in `kla.adjust`, in float64: logits are the logarithms of probabilities, and
`τ·log π − log target` is subtracted.
"""

import importlib
import warnings

import keras
import numpy as np

from keras_logit_adjust import _arrays, _checks, _scores, priors
from keras_logit_adjust.layers.adjustment import settle

KINDS = ("probabilities", "logits", "log_probabilities")
_MISSING = ("NAType", "NoneType", "NaTType")  # types of pandas, which is not imported here
_FEW = 8  # so few rows may have only probabilities of 0 and 1 by chance
_MAKERS = {
    "jax": ("jax.numpy", "asarray"),
    "jaxlib": ("jax.numpy", "asarray"),
    "tensorflow": ("tensorflow", "constant"),
}


def adjust_scores(
    scores, class_counts, *, kind="probabilities", tau=1.0, target_prior=None, num_examples=None, class_names=None
):
    """Scores of any classifier, adjusted: `f_y − τ·log π_y + log target_y`, with `f = log p` of probabilities.

    Probabilities become `p_y·target_y/π_y^τ`, divided by their sum. They are posteriors under the target prior, or
    under the uniform prior if you give none. A probability of 0 stays 0. Arithmetic is float64. `kla.adjust` does the
    same inside a Keras model. Gradients do not pass: in a model use `kla.layers.LogitAdjustment`.

    A model that was trained with `class_weight` or on resampled data has another prior in it. Undo it with
    `adjust_scores(p, kla.priors.effective_prior(class_counts, class_weight=…), target_prior=class_counts)`.

    Args:
        scores: `[N, L]`, or `[..., L]`, of a classifier that was trained without a correction. They are an array, a
            list, a pandas `DataFrame` with a column for each class, or a tensor of TensorFlow, JAX or torch. `[N]` or
            `[N, 1]` for two classes: the score of the second, as a booster of two classes gives it.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0, in order of the columns;
            [negatives, positives] for the score of the second class. Counts by name (a dict, a `Series`) are put in
            order by `class_names`, or by the columns of a `DataFrame`, which needs them by name.
        kind: what the scores are: "probabilities", "logits" or "log_probabilities". The result is of the same kind.
        tau: strength, a number or a vector `[L]`, also by name; 1 is right for scores that estimate `P(y|x)`.
        target_prior: class mix that the result should be right for, in the form of `class_counts`; uniform by default.
        num_examples: for independent labels only: the number of training examples, among which `class_counts` are
            positives. Each label is adjusted by its log-odds; `target_prior` has the probability of each.
        class_names: `[L]` names in order of the columns, such as `model.classes_` of scikit-learn. A `DataFrame` whose
            columns have names does not need them, and other names are refused.

    Returns:
        The same kind as `scores`: an array, a frame with the same index and columns, or a tensor of the same library,
            in the same precision (float64 for integers and lists).

    Raises:
        ValueError: for half precision; NaN; a column of text; probabilities that are negative or rows of them that do
            not sum to one (to 1e-3); probabilities called logits; counts that do not fit; a `Series` of counts whose
            index is 0, 1, … beside columns that have other names; `class_names` that are not those of the columns.

    Warns:
        UserWarning: if more than 8 rows have only probabilities of 0 and 1: these are decisions, which do not change.

    Example:

    >>> adjust_scores([[0.75, 0.25], [1.0, 0.0]], class_counts=[75, 25]).tolist()  # ¾/¾ against ¼/¼
    [[0.5, 0.5], [1.0, 0.0]]
    >>> weights = {0: 1.0, 1: 3.0}  # a model trained with them said ½
    >>> prior = priors.effective_prior([75, 25], class_weight=weights)
    >>> adjust_scores([[0.5, 0.5]], prior, target_prior=[75, 25]).tolist()
    [[0.75, 0.25]]

    Reference: Menon et al. (2021), §4, equation 9; Saerens, Latinne and Decaestecker (2002), equation 2.4, from one
    prior to another; Elkan (2001), theorem 2, for two classes.
    """
    _checks.check_choice(kind, "kind", KINDS)
    array = _as_floats(scores)
    are_labels = num_examples is not None or getattr(class_counts, "are_labels", False)
    is_unit = not are_labels and (array.ndim == 1 or array.shape[-1:] == (1,))
    if hasattr(scores, "columns") and not is_unit:
        class_names = _names_of(scores, class_names)
    elif is_unit and class_names is not None:
        _check_second(scores, class_names)
    if class_names is not None:
        is_frame = hasattr(scores, "columns") and not is_unit
        columns = scores.columns if is_frame else class_names
        _scores.check_order(columns, is_frame, "scores", class_counts=class_counts, target_prior=target_prior, tau=tau)
    prior = priors.as_prior(class_counts, num_examples, class_names=class_names)
    target_prior = _arrays.in_order(target_prior, "target_prior", class_names)
    _check_shape(array, prior, is_unit)
    tau = _arrays.in_order(tau, "tau", class_names)
    _, target, shift = settle(prior, tau=tau, target_prior=target_prior)
    if is_unit:  # the log-odds of two classes
        shift = np.diff(shift)
    given = array.reshape(-1, 1 if is_unit else prior.size).astype("float64")
    _warn_of_decisions(given, kind)
    convert = _adjust_labels if is_unit or prior.are_labels else _adjust_classes
    return _like(scores, convert(given, kind, shift).astype(array.dtype).reshape(array.shape))


def _as_floats(scores):
    """`scores` as a NumPy array of float32 or float64."""
    if hasattr(scores, "columns"):
        _check_no_text(scores)
    array = _arrays.as_array(scores, "scores", "an array, table or tensor of numbers")
    if _arrays.kind_of(array.dtype) == "f" and array.dtype.itemsize < 4:
        raise _checks.ArgumentError(
            "scores",
            f"`scores` must be float32 or float64. Received {array.dtype}, which rounds the scores of rare classes "
            "away: let the model predict in float32. A conversion does not restore rounded scores.",
        )
    return array if array.dtype in ("float32", "float64") else array.astype("float64")


def _check_no_text(frame):
    """Raise if a column of a frame holds text, for example names of the rows, or if values are missing."""
    values = np.asarray(frame)
    if values.ndim != 2 or values.dtype.kind not in "OUS":
        return
    for place, column in enumerate(np.asarray(frame.columns).tolist()):
        if gaps := [row for row, value in enumerate(values[:, place]) if type(value).__name__ in _MISSING]:
            raise _checks.ArgumentError(
                "scores",
                f"`scores` must not have missing values. Received {len(gaps)} missing in column {column!r}, first in "
                f"row {gaps[0]}: leave these rows out, scores.dropna().",
            )
        if texts := [value for value in values[:, place] if isinstance(value, (str, bytes))]:
            if _is_number(texts[0]):
                raise _checks.ArgumentError(
                    "scores",
                    f"Every column of `scores` must have numbers. Received text, {_arrays.shown(texts[0])}, in column "
                    f'{column!r}: convert it, scores.astype("float64").',
                )
            raise _checks.ArgumentError(
                "scores",
                f"Every column of `scores` must have the numbers of a class. Received text, {_arrays.shown(texts[0])}, "
                f"in column {column!r}: if it names the rows, make it the index, scores.set_index({column!r}), or read "
                "the file by pandas.read_csv(…, index_col=0).",
            )


def _is_number(text):
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _names_of(frame, class_names):
    """The names of the classes of a frame: its columns, or `class_names` if the columns are only numbered."""
    columns = np.asarray(frame.columns).tolist()
    if class_names is None:
        return columns
    names = _arrays.as_names(class_names)
    texts, given = [str(column) for column in columns], [str(name) for name in names]
    if texts == given or texts == [str(c) for c in range(len(columns))]:
        return names
    if sorted(texts) == sorted(given):
        remedy = "Numbers in another order name their classes: class_counts=dict(zip(class_names, class_counts))"
    else:
        remedy = "If the columns have wrong names, use scores.set_axis(class_names, axis=1)"
    raise _checks.ArgumentError(
        "class_names",
        "`class_names` must be the columns of `scores` in their order: the columns name the scores. Received "
        f"{_arrays.shown(names)} beside columns {_arrays.shown(columns)}: leave `class_names` out. {remedy}.",
    )


def _check_second(scores, class_names):
    """Raise if the only column of scores has the name of a class other than the second."""
    columns = getattr(scores, "columns", [getattr(scores, "name", None)])
    (name,), names = np.asarray(columns, object).tolist(), _arrays.as_names(class_names)
    if name is not None and name in names and name != names[-1]:
        raise _checks.ArgumentError(
            "class_names",
            "The last of `class_names` must be the class of the only column of `scores`. Received "
            f"class_names={_arrays.shown(names)} beside column {name!r}: put that class last.",
        )


def _check_shape(array, prior, is_unit):
    if is_unit and prior.size != 2:
        raise _checks.ArgumentError(
            "scores",
            f"`scores` must have shape [N, {prior.size}]: a row for each example, a column for each class. Received "
            f"shape {array.shape}; a single column is the score of the second of two classes.",
        )
    if not array.size or not (is_unit or array.shape[-1:] == (prior.size,)):
        raise _checks.ArgumentError(
            "scores",
            f"`scores` must have shape [N, {prior.size}], N ≥ 1: a row for each example, a column for each class of "
            f"`class_counts`. Received shape {array.shape}.",
        )


def _refuse_rows(bad, values, rule, remedy):
    """Raise if a row of `values` has a number that is `bad`."""
    if bad.any():
        rows = bad.any(axis=1)
        first = int(rows.argmax())
        raise _checks.ArgumentError(
            "scores",
            f"{rule} Received {values[first][bad[first]][0]:.6g} in row {first} ({rows.sum()} of {rows.size} rows): "
            f"{remedy}.",
        )


def _check_numbers(rows, kind):
    """Raise for numbers that are not scores of their kind, column by column."""
    _refuse_rows(
        np.isnan(rows),
        rows,
        "`scores` must not be NaN.",
        "leave these rows out, or find out why the model gives them",
    )
    if kind == "probabilities":
        outside = (rows < 0) | (rows > 1 + _scores.SUM)
        remedy = 'divide percentages by 100; scores of other kinds: kind="logits"'
        _refuse_rows(outside, rows, "Every probability in `scores` must lie between 0 and 1.", remedy)
    elif kind == "log_probabilities":
        remedy = 'log-probabilities up to a constant: kind="logits"'
        _refuse_rows(rows > _scores.SUM, rows, "Every log-probability in `scores` must be at most 0.", remedy)
    else:
        _refuse_rows(rows == np.inf, rows, "No logit in `scores` may be infinite.", "leave these rows out")


# --- Classes that exclude each other ---------------------------------------------------------------------------------


def _adjust_classes(rows, kind, shift):
    from scipy import special

    _check_numbers(rows, kind)
    with np.errstate(divide="ignore"):  # the logarithm of 0: the score stays -inf
        logits = np.log(rows) if kind == "probabilities" else rows
    peak = logits.max(axis=1, keepdims=True)
    _check_possible(peak[:, 0] > -np.inf, kind)
    if kind == "logits":
        _check_no_distributions(rows)
        return logits - shift
    _check_sums(special.logsumexp(logits, axis=1, keepdims=True) if kind != "probabilities" else rows, kind)
    return (special.softmax if kind == "probabilities" else special.log_softmax)(logits - shift, axis=1)


def _warn_of_decisions(rows, kind):
    """Warn where every probability of several rows is 0 or 1, which no prior changes."""
    no, yes = (0.0, 1.0) if kind == "probabilities" else (-np.inf, 0.0)
    if kind != "logits" and len(rows) > _FEW and ((rows == no) | (rows == yes)).all():
        warnings.warn(
            "Every probability in `scores` is 0 or 1. These are decisions, which no prior can adjust, and they come "
            "back as they are: give the scores that the decisions were made of.",
            stacklevel=3,
        )


def _check_possible(is_possible, kind):
    """Raise for rows in which every class has a probability of 0."""
    if not is_possible.all():
        zeros = "zeros" if kind == "probabilities" else "-inf"
        raise _checks.ArgumentError(
            "scores",
            f"Every row of `scores` must have a class that is possible. Received only {zeros} in row "
            f"{int(is_possible.argmin())} ({(~is_possible).sum()} of {is_possible.size} rows): leave these rows out.",
        )


def _check_sums(rows, kind):
    sums = rows.sum(axis=1, keepdims=True) if kind == "probabilities" else np.exp(rows)
    _refuse_rows(
        np.abs(sums - 1.0) > _scores.SUM,
        sums,
        "Every row of probabilities must sum to 1, because the classes exclude each other.",
        "divide rounded rows by their sum; probabilities of independent labels need `num_examples`",
    )


def _check_no_distributions(rows):
    # One row of logits may sum to one by chance.
    if len(rows) < 2:
        return
    for total, kind, remedy in ((1, "probabilities", "Leave"), (100, "percentages", "Divide them by 100, and leave")):
        if _scores.sums_to(rows, total):
            raise _checks.ArgumentError(
                "scores",
                f'`scores` must be logits where kind="logits". Received {kind}: no number is below 0, and every row '
                f'sums to {total}. {remedy} out `kind`, or give "probabilities".',
            )


# --- Labels with separate probabilities, and the second of two classes -----------------------------------------------


def _adjust_labels(rows, kind, shift):
    from scipy import special

    _check_numbers(rows, kind)
    if kind == "logits":
        if 0 <= rows.min() < rows.max() <= 1:
            raise _checks.ArgumentError(
                "scores",
                '`scores` must be logits where kind="logits". Received numbers in [0, 1], which look like '
                'probabilities: leave out `kind`, or give "probabilities".',
            )
        return rows - shift
    if kind == "probabilities":
        return special.expit(special.logit(np.minimum(rows, 1.0)) - shift)
    logs = np.minimum(rows, 0.0)
    with np.errstate(divide="ignore"):  # a certain label: its log-odds are infinite and stay infinite
        return special.log_expit(logs - np.log(-np.expm1(logs)) - shift)


# --- What comes back -------------------------------------------------------------------------------------------------


def _like(scores, array):
    """`array` as the type of `scores`: array, table or tensor."""
    if hasattr(scores, "index") and hasattr(scores, "sort_index"):  # a type of pandas, which is not imported here
        own = {"columns": scores.columns} if hasattr(scores, "columns") else {"name": scores.name}
        return type(scores)(array, index=scores.index, **own)
    if hasattr(scores, "new_tensor"):  # a tensor of torch, on its device
        return (scores if scores.is_floating_point() else scores.double()).new_tensor(array)
    if keras.ops.is_tensor(scores) or isinstance(scores, keras.Variable):
        return keras.ops.convert_to_tensor(array)
    library = type(scores).__module__.split(".")[0]
    if library not in _MAKERS:
        return array
    module, make = _MAKERS[library]
    return getattr(importlib.import_module(module), make)(array)
