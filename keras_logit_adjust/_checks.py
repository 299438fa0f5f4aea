"""The shared argument checks. Each message states the rule, the value received and the remedy.

`as_…` functions read one number for each class (`_arrays` reads the arrays). `check_…` functions read single values.
"""

import math
import numbers

import numpy as np

from keras_logit_adjust._arrays import ArgumentError, as_array, as_names, in_order, shown

_SHOWN = 8  # a message names at most so many classes
# {name of the argument: its largest value}. A larger value is a mistake (a hash, a size in bytes): it would fill memory
# or overflow.
_MOST = {
    "num_classes": 10**8,
    "units": 10**8,
    "max_count": 10**12,
    "num_examples": 10**12,
    "batch_size": 2**31 - 1,
    "block_size": 2**31 - 1,
    "replicates": 10**6,
    "num_bins": 10**6,
    "bags": 10**4,
    "sweeps": 10**4,
}
MOST_EXAMPLES = 10**12  # examples of one class: up to here float64 arithmetic on shares is right to one example
MOST_CLASSES = _MOST["num_classes"]
_ROUNDING = 0.01  # half precision rounds a logarithm near 0 by less than this
LARGEST = 1e37  # a larger number could be infinite in float32, and a number below 1 / LARGEST could be 0
_LARGEST_TAU = 1e6  # times the logarithm of any float64, this is far below the largest float32
_LARGEST_SEED = 2**128 - 1  # NumPy recommends seeds of this size: `secrets.randbits(128)`


def name_classes(mask):
    """The indices where `mask` is true, as text for a message."""
    classes = np.flatnonzero(mask)
    shown = ", ".join(str(c) for c in classes[:_SHOWN])
    more = f", … ({classes.size} in all)" if classes.size > _SHOWN else ""
    return f"class{'es' if classes.size > 1 else ''} {shown}{more}"


def _as_float64(values, name, rule):
    array = as_array(values, name, rule)
    if array.dtype.kind != "f" or array.dtype.itemsize <= 8:
        return array.astype("float64")
    with np.errstate(over="ignore"):  # a number too large for float64 becomes infinite, and is refused later
        return array.astype("float64")


def refuse_numbers(bad, values, name, rule, *, remedy="."):
    """Raise if any number of `values` is `bad`. The message has the rule, these numbers, their classes, the remedy."""
    if bad.any():
        found = list(dict.fromkeys(values[bad].tolist()))  # each number once
        received = f"Received {found[:_SHOWN]} at {name_classes(bad)}"
        raise ArgumentError(name, f"{rule} {received}{remedy}")


def as_vector(values, name, class_names=None, *, missing=None):
    """`values` as a finite float64 vector. If it names its classes, it is put in the order of `class_names`."""
    values = in_order(values, name, class_names, missing=missing)
    vector = _as_float64(values, name, "a list or vector of numbers, one for each class in order of class id")
    if vector.ndim != 1 or vector.size == 0:
        raise ArgumentError(
            name,
            f"`{name}` must be a non-empty vector with one number for each class. "
            f"Received an array of shape {vector.shape}: count labels with `kla.priors.count_classes(labels)`.",
        )
    if class_names is not None:
        check_length(vector, len(as_names(class_names)), name, "class_names")
    refuse_numbers(~np.isfinite(vector), vector, name, f"`{name}` must be finite.")
    return vector


def as_log_prior(log_prior, name="log_prior"):
    """`log_prior` as a float64 vector. Counts and probabilities are refused: a log-probability is at most 0."""
    vector = as_vector(log_prior, name)
    is_above = vector > 0  # rounding puts at most one log-probability above 0, and probabilities are all above it
    refuse_numbers(
        is_above if is_above.sum() > 1 else vector > _ROUNDING,
        vector,
        name,
        f"Every number in `{name}` must be at most 0, the logarithm of a probability.",
        remedy=": give kla.priors.log_prior(class_counts).",
    )
    return vector


def as_counts(class_counts, name="class_counts", *, allow_zero=False, class_names=None, are_true=False):
    """`class_counts` (or a sampler's `effective_prior`) as a float64 vector of at least two positive numbers.

    If zeros are allowed and the counts name their classes, a class without a name in the counts gets 0.
    """
    is_drawn = hasattr(type(class_counts), "effective_prior")
    counts = getattr(class_counts, "effective_prior", class_counts)
    counts = as_vector(counts, name, class_names, missing=0 if allow_zero else None)
    if counts.size < 2:
        raise ArgumentError(
            name,
            f"`{name}` must name at least two classes. Received {counts.tolist()}: "
            "for one sigmoid unit give [negatives, positives].",
        )
    if allow_zero:
        remedy = ": count labels with `kla.priors.count_classes(labels)`."
        refuse_numbers(counts < 0, counts, name, f"Every number in `{name}` must not be negative.", remedy=remedy)
    else:
        _refuse_zeros(counts, name, is_drawn, are_true)
    with np.errstate(over="ignore"):
        total = counts.sum()
    if not np.isfinite(total):
        raise ArgumentError(
            name,
            f"The numbers in `{name}` must have a sum below 1.8e308. Received {counts[:_SHOWN].tolist()}: divide them "
            "by the largest.",
        )
    return counts


def _refuse_zeros(counts, name, is_drawn, are_true):
    """Raise for counts that are not above zero. If the caller needs true counts, the remedy gives true counts."""
    if (counts > 0).all():
        return
    pseudo = f"np.maximum({name}, 1)" if are_true else f"kla.priors.prior({name}, smoothing=1)"
    remedy = "" if is_drawn else f", or give them a pseudo-count, {name}={pseudo}"
    if abs(counts.sum() - 1.0) < 1e-3 and not is_drawn and not are_true:  # shares, to which no examples can be added
        meaning = ": the class is then hardly ever predicted" if name == "target_prior" else ""
        remedy = f", or give them a small share in place of 0, such as 1e-6{meaning}"
    elif counts[0] == 0 and (counts[1:] > 0).all() and not is_drawn:
        remedy = f"{remedy}. If your ids begin with 1: y = y - 1"
    reason = "weight" if are_true else "log-prior"
    refuse_numbers(
        counts <= 0,
        counts,
        name,
        f"Every number in `{name}` must be greater than zero: a class that was never seen has no finite {reason}.",
        remedy=f". Remedy: leave such classes out{remedy}.",
    )


def as_true_counts(class_counts, name="class_counts", *, allow_zero=False, class_names=None):
    """`class_counts` as in `as_counts`, but probabilities are refused."""
    if hasattr(class_counts, "effective_prior"):
        raise ArgumentError(
            name,
            f"`{name}` must be numbers of examples here. Received a {type(class_counts).__name__}, which has a prior: "
            "give its `class_counts`, the examples that there are.",
        )
    if allow_zero:  # a class that has pseudo-examples alone was never seen
        class_counts = getattr(class_counts, "unsmoothed", class_counts)
    counts = as_counts(class_counts, name, allow_zero=allow_zero, class_names=class_names, are_true=True)
    if abs(counts.sum() - 1.0) < 1e-3:
        raise ArgumentError(
            name,
            f"`{name}` must be numbers of examples here, not probabilities. "
            f"Received numbers that sum to {counts.sum():.6g}: multiply them by the number of training examples.",
        )
    return counts


def as_positive_counts(positive_counts, num_examples, *, class_names=None, allow_bounds=False):
    """Per-label positive counts, each strictly between 0 and `num_examples`.

    If the bounds are allowed and the counts name their labels, a label without a name in the counts gets 0.
    """
    rule = "the number of training examples that the positives were counted in"
    _check_scalar(num_examples, "num_examples", rule, lambda number: 0 < number < math.inf)
    counts = as_vector(positive_counts, "positive_counts", class_names, missing=0 if allow_bounds else None)
    if num_examples > 1 and ((counts > 0) & (counts < 1)).all():
        raise ArgumentError(
            "positive_counts",
            "`positive_counts` must be numbers of examples, not probabilities. "
            f"Received {counts[:_SHOWN].tolist()}: multiply them by num_examples={num_examples}.",
        )
    if allow_bounds:
        rule = f"Every number in `positive_counts` must be from 0 to num_examples={num_examples}."
        is_bad = (counts < 0) | (counts > num_examples)
        refuse_numbers(is_bad, counts, "positive_counts", rule, remedy=": count them anew.")
        return counts
    refuse_numbers(
        (counts <= 0) | (counts >= num_examples),
        counts,
        "positive_counts",
        f"Every number in `positive_counts` must lie strictly between 0 and num_examples={num_examples}: a label that "
        "is never or always on has no finite log-odds.",
        remedy=". Remedy: leave such labels out, or add pseudo-examples, kla.priors.as_prior(positive_counts, "
        f"num_examples={num_examples}, smoothing=1).",
    )
    return counts


def as_tau(tau, num_classes, name="tau"):
    """`tau` as a float64 scalar or vector `[num_classes]`."""
    tau = _as_float64(in_order(tau, name, None), name, "a number or one number for each class")
    if not np.isfinite(tau).all():
        raise ArgumentError(name, f"`{name}` must be finite. Received: {name}={tau.tolist()}")
    if (np.abs(tau) > _LARGEST_TAU).any():
        raise ArgumentError(
            name,
            f"`{name}` must be at most {_LARGEST_TAU:,.0f} in size, so that its product with a log-prior is finite in "
            f"float32. Received: {name}={tau.tolist()}",
        )
    if tau.shape not in ((), (num_classes,)):
        raise ArgumentError(
            name,
            f"`{name}` must be a number or a vector of {num_classes} numbers, one for each class. "
            f"Received an array of shape {tau.shape}.",
        )
    return tau


def as_class_vector(values, name, num_classes=None, *, default=None, positive=False, other="class_counts"):
    """`values` as a float64 vector `[num_classes]`, as long as `other`. For None it is `default` everywhere."""
    vector = np.full(num_classes, default) if values is None and default is not None else as_vector(values, name)
    refuse_beyond_float32(vector, name)
    if num_classes is not None:
        check_length(vector, num_classes, name, other)
    if positive:
        refuse_numbers(vector <= 0, vector, name, f"Every number in `{name}` must be greater than zero.")
    return vector


def refuse_beyond_float32(values, name):
    """Raise if any of the finite `values` would be infinite in float32. Models compute in float32."""
    bad = np.abs(values) > LARGEST
    if bad.any():
        rule = f"Every number in `{name}` must be at most {LARGEST:g} in size, as float32 is."
        raise ArgumentError(name, f"{rule} Received {values[bad][:_SHOWN].tolist()}.")


def check_length(vector, num_classes, name, other):
    """Raise unless `vector` has one number for each of the `num_classes` classes of `other`."""
    if vector.size != num_classes:
        raise ArgumentError(
            name,
            f"`{name}` must have one number for each class: {other} has {num_classes} classes, "
            f"`{name}` has {vector.size}.",
        )


def _check_scalar(value, name, rule, holds, *, kind=numbers.Real):
    """`value` as a number. Raise unless it is of this kind, is not a bool, and `holds(value)` is true."""
    convert = int if kind is numbers.Integral else float
    try:
        if not isinstance(value, bool) and isinstance(value, kind) and holds(convert(value)):
            if convert is int or abs(convert(value)) <= LARGEST:
                return convert(value)
            rule = f"{rule}, and at most {LARGEST:g} in size, as float32 is"
    except OverflowError:  # an integer that is larger than every float
        pass
    raise ArgumentError(name, f"`{name}` must be {rule}. Received: {name}={shown(value)}")


def check_integer(value, name, minimum, maximum=None):
    """`value` as an int from `minimum` to `maximum`. By default the name of the argument gives the maximum."""
    most = _MOST.get(name, 2**63 - 1) if maximum is None else maximum
    is_above = isinstance(value, numbers.Integral) and value > most
    rule = f"an integer of at least {minimum}{f' and at most {most:,}' if is_above else ''}"
    return _check_scalar(value, name, rule, lambda number: minimum <= number <= most, kind=numbers.Integral)


def check_seed(seed, name="seed"):
    """`seed` as an int of at least 0. None is refused, so that random results can be repeated."""
    if seed is None:
        raise ArgumentError(name, f"`{name}` must be given: what is random is to be the same when it is drawn again.")
    rule = "an integer of at least 0"
    return _check_scalar(seed, name, rule, lambda number: 0 <= number <= _LARGEST_SEED, kind=numbers.Integral)


def check_axis(axis, name="axis"):
    """`axis` as an int, which may be negative."""
    return _check_scalar(axis, name, "an integer", lambda number: True, kind=numbers.Integral)


def check_number(value, name, minimum, maximum=math.inf):
    """`value` as a finite float in [minimum, maximum]."""
    rule = f"a number of at least {minimum}{'' if maximum == math.inf else f' and at most {maximum}'}"
    return _check_scalar(value, name, rule, lambda number: math.isfinite(number) and minimum <= number <= maximum)


def check_positive(value, name):
    """`value` as a finite float above 0."""
    rule = "a positive number"
    if isinstance(value, numbers.Real) and 0 < value <= 1 / LARGEST:
        rule = f"a number above {1 / LARGEST:g}, so that float32 holds its inverse"
    return _check_scalar(value, name, rule, lambda number: 1 / LARGEST < number < math.inf)


def check_fraction(value, name):
    """`value` as a float in [0, 1)."""
    return _check_scalar(value, name, "a number in [0, 1)", lambda number: 0 <= number < 1)


def check_open_fraction(value, name):
    """`value`, such as the level of an interval, as a float strictly between 0 and 1."""
    return _check_scalar(value, name, "a number strictly between 0 and 1", lambda number: 0 < number < 1)


def check_ignore_class(ignore_class):
    """`ignore_class` as an int or None."""
    if ignore_class is None:
        return None
    rule = "an integer class id or None"
    ignore_class = _check_scalar(ignore_class, "ignore_class", rule, lambda number: True, kind=numbers.Integral)
    if not -(2**31) <= ignore_class < 2**31:
        raise ArgumentError(
            "ignore_class",
            f"`ignore_class` must be an id that an int32 holds. Received: ignore_class={shown(ignore_class)}",
        )
    return ignore_class


def check_bool(value, name):
    """`value` if it is True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(name, f"`{name}` must be True or False. Received: {name}={shown(value)}")
    return value


def check_choice(value, name, choices):
    """`value` if it is one of `choices`."""
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):  # `in` fails for arrays
        raise ArgumentError(
            name, f"`{name}` must be one of {', '.join(map(repr, choices))}. Received: {name}={shown(value)}"
        )
    return value


def refuse_dtype(cls, options, reason):
    """Raise if a loss or metric of this package gets Keras's argument `dtype`: it would have no effect."""
    if "dtype" in options:
        raise ArgumentError(
            "dtype",
            f"`{cls.__name__}` takes no `dtype`: {reason}. Received: dtype={options['dtype']!r}. Leave it out.",
        )
