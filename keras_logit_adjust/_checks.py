"""The shared argument checks: each states the rule, what arrived and the remedy."""

import math
import numbers

import numpy as np

_SHOWN = 8  # offending classes named in a message before it is cut


class ArgumentError(ValueError):
    """A `ValueError` that knows the argument it is about, by which the command line finds the option.

    Attributes:
        argument: its name in the signature. None where the error was made again from its message alone, as Keras does
            inside of a layer.
    """

    def __init__(self, argument, message=None):
        self.argument = None if message is None else argument
        super().__init__(argument if message is None else message)


def name_classes(mask):
    """The indices where `mask` is true, as text for a message."""
    classes = np.flatnonzero(mask)
    shown = ", ".join(str(c) for c in classes[:_SHOWN])
    more = f", … ({classes.size} in all)" if classes.size > _SHOWN else ""
    return f"class{'es' if classes.size > 1 else ''} {shown}{more}"


def _as_float64(values, name, rule):
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US":  # NumPy would read "5" as 5
            raise TypeError("text is not a number")
        return array.astype("float64")
    except (TypeError, ValueError) as error:
        raise ArgumentError(name, f"`{name}` must be {rule}. Received: {name}={values!r}") from error


def refuse_numbers(bad, values, name, rule, *, remedy="."):
    """Raise where any number of `values` is `bad`: the rule, those numbers and their classes, the remedy."""
    if bad.any():
        received = f"Received {values[bad][:_SHOWN].tolist()} at {name_classes(bad)}"
        raise ArgumentError(name, f"{rule} {received}{remedy}")


def as_vector(values, name):
    """`values` as a finite float64 vector."""
    _check_order(values, name)
    vector = _as_float64(values, name, "a list or vector of numbers, one for each class in order of class id")
    if vector.ndim != 1 or vector.size == 0:
        raise ArgumentError(
            name,
            f"`{name}` must be a non-empty vector with one number for each class. "
            f"Received an array of shape {vector.shape}: count labels with `kla.priors.count_classes(labels)`.",
        )
    refuse_numbers(~np.isfinite(vector), vector, name, f"`{name}` must be finite.")
    return vector


def _check_order(values, name):
    """Raise for a pandas Series whose index says that its numbers are in another order than that of class ids."""
    index = getattr(values, "index", None)
    if not hasattr(values, "sort_index") or getattr(index, "dtype", None) is None or index.dtype.kind not in "iu":
        return
    ids = np.asarray(index)
    if (np.diff(ids) < 0).any():
        raise ArgumentError(
            name,
            f"`{name}` must be in order of class id. Received a Series with the index {ids[:_SHOWN].tolist()}"
            f"{', …' if ids.size > _SHOWN else ''}: add .sort_index().",
        )


def as_counts(class_counts, name="class_counts", *, allow_zero=False):
    """`class_counts` (or a sampler's `effective_prior`) as a float64 vector of at least two positive numbers."""
    is_drawn = hasattr(type(class_counts), "effective_prior")
    counts = as_vector(getattr(class_counts, "effective_prior", class_counts), name)
    if counts.size < 2:
        raise ArgumentError(
            name,
            f"`{name}` must name at least two classes. Received {counts.tolist()}: "
            "for one sigmoid unit give [negatives, positives].",
        )
    bad = counts < 0 if allow_zero else counts <= 0
    remedy = f", or give them a pseudo-count, {name}=kla.priors.prior({name}, smoothing=1)"
    if bad[0] and counts[0] == 0 and bad.sum() == 1:
        remedy = f"{remedy}. If your ids begin with 1: ids, y = np.unique(y, return_inverse=True)"
    refuse_numbers(
        bad,
        counts,
        name,
        f"Every number in `{name}` must {'not be negative' if allow_zero else 'be greater than zero'}: a class that "
        "was never seen has no finite log-prior.",
        remedy=f". Remedy: leave such classes out{'' if is_drawn else remedy}.",
    )
    return counts


def as_true_counts(class_counts, name="class_counts"):
    """`class_counts` as `as_counts` has it, refusing probabilities."""
    if hasattr(class_counts, "effective_prior"):
        raise ArgumentError(
            name,
            f"`{name}` must be numbers of examples here. Received a {type(class_counts).__name__}, which has a prior: "
            "give its `class_counts`, the examples that there are.",
        )
    counts = as_counts(class_counts, name)
    if abs(counts.sum() - 1.0) < 1e-3:
        raise ArgumentError(
            name,
            f"`{name}` must be numbers of examples here, not probabilities. "
            f"Received numbers that sum to {counts.sum():.6g}: multiply them by the number of training examples.",
        )
    return counts


def as_positive_counts(positive_counts, num_examples):
    """Per-label positive counts, each strictly between 0 and `num_examples`."""
    rule = "the number of training examples that the positives were counted in"
    _check_scalar(num_examples, "num_examples", rule, lambda number: 0 < number < math.inf)
    counts = as_vector(positive_counts, "positive_counts")
    if num_examples > 1 and ((counts > 0) & (counts < 1)).all():
        raise ArgumentError(
            "positive_counts",
            "`positive_counts` must be numbers of examples, not probabilities. "
            f"Received {counts[:_SHOWN].tolist()}: multiply them by num_examples={num_examples}.",
        )
    refuse_numbers(
        (counts <= 0) | (counts >= num_examples),
        counts,
        "positive_counts",
        f"Every number in `positive_counts` must lie strictly between 0 and num_examples={num_examples}: a label that "
        "is never or always on has no finite log-odds.",
        remedy=". Remedy: leave such labels out, or add one pseudo-example of each kind (positive_counts + 1, "
        "num_examples + 2).",
    )
    return counts


def as_tau(tau, num_classes, name="tau"):
    """`tau` as a float64 scalar or vector `[num_classes]`."""
    tau = _as_float64(tau, name, "a number or one number for each class")
    if not np.isfinite(tau).all():
        raise ArgumentError(name, f"`{name}` must be finite. Received: {name}={tau.tolist()}")
    if tau.shape not in ((), (num_classes,)):
        raise ArgumentError(
            name,
            f"`{name}` must be a number or a vector of {num_classes} numbers, one for each class. "
            f"Received an array of shape {tau.shape}.",
        )
    return tau


def as_class_vector(values, name, num_classes=None, *, default=None, positive=False, other="class_counts"):
    """`values` as a float64 vector `[num_classes]`, as many as `other` has; `default` everywhere where it is None."""
    vector = np.full(num_classes, default) if values is None and default is not None else as_vector(values, name)
    if num_classes is not None:
        check_length(vector, num_classes, name, other)
    if positive:
        refuse_numbers(vector <= 0, vector, name, f"Every number in `{name}` must be greater than zero.")
    return vector


def check_length(vector, num_classes, name, other):
    """Raise unless `vector` has one number for each of the `num_classes` classes that `other` has."""
    if vector.size != num_classes:
        raise ArgumentError(
            name,
            f"`{name}` must have one number for each class: {other} has {num_classes} classes, "
            f"`{name}` has {vector.size}.",
        )


def _check_scalar(value, name, rule, holds, *, kind=numbers.Real):
    """Raise unless `value` is a number of this kind, no bool, for which `holds`."""
    if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
        raise ArgumentError(name, f"`{name}` must be {rule}. Received: {name}={value!r}")
    return int(value) if kind is numbers.Integral else float(value)


def check_integer(value, name, minimum):
    """`value` as an int of at least `minimum`."""
    rule = f"an integer of at least {minimum}"
    return _check_scalar(value, name, rule, lambda number: number >= minimum, kind=numbers.Integral)


def check_axis(axis, name="axis"):
    """`axis` as an int, which may be negative."""
    return _check_scalar(axis, name, "an integer", lambda number: True, kind=numbers.Integral)


def check_number(value, name, minimum, maximum=math.inf):
    """`value` as a finite float in [minimum, maximum]."""
    rule = f"a number of at least {minimum}{'' if maximum == math.inf else f' and at most {maximum}'}"
    return _check_scalar(value, name, rule, lambda number: math.isfinite(number) and minimum <= number <= maximum)


def check_positive(value, name):
    """`value` as a finite float above 0."""
    return _check_scalar(value, name, "a positive number", lambda number: 0 < number < math.inf)


def check_fraction(value, name):
    """`value` as a float in [0, 1)."""
    return _check_scalar(value, name, "a number in [0, 1)", lambda number: 0 <= number < 1)


def check_ignore_class(ignore_class):
    """`ignore_class` as an int or None."""
    if ignore_class is None:
        return None
    rule = "an integer class id or None"
    return _check_scalar(ignore_class, "ignore_class", rule, lambda number: True, kind=numbers.Integral)


def check_choice(value, name, choices):
    """`value` if it is one of `choices`."""
    if value not in choices:
        raise ArgumentError(
            name, f"`{name}` must be one of {', '.join(map(repr, choices))}. Received: {name}={value!r}"
        )
    return value
