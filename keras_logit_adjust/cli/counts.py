"""The class counts, weights and target prior for `adjust`, from files by class id or by class name."""

import numpy as np

from keras_logit_adjust import priors
from keras_logit_adjust.cli import files

_SHOWN = 5  # columns with their numbers in a line before it is cut


def read(options):
    """The values by option: `[L]` by class id, a dict by class name, "balanced" or None."""
    if options.num_examples is not None and options.target_prior is not None:
        raise ValueError(
            "--target-prior has the counts of classes that exclude each other, but --num-examples says that labels are "
            "independent. Give their target probabilities in Python: kla.adjust(…, target_prior=…)."
        )
    given = {"counts": files.read_counts(options.counts, num_examples=options.num_examples)}
    given["class_weight"] = files.read_weights(options.class_weight)
    for name in ("resampled_counts", "target_prior"):
        path = getattr(options, name)
        given[name] = None if path is None else files.read_counts(path)
    undone = given["class_weight"] is not None or given["resampled_counts"] is not None
    if undone and options.num_examples is not None:
        raise ValueError(
            "--class-weight and --resampled-counts are for classes that exclude each other, but --num-examples says "
            "that labels are independent. Leave one out."
        )
    return given


def name_classes(given):
    """Whether any of the values from `read` are by name, so that they need an order."""
    return any(isinstance(values, dict) and not _are_ids(values) for values in given.values())


def settings(given, options, *, names=None, scores=None):
    """The prior that training left in a model, and the target prior, as arguments of `adjust`.

    Args:
        given: the result of `read`.
        options: the options of the command.
        names: the names of the classes, in order of the columns of a file of scores, or of the class ids of a model;
            None if there are none.
        scores: the path of that file; None for a model.
    """
    given = {name: _in_order(values, getattr(options, name), names, scores) for name, values in given.items()}
    counts, how = given["counts"], {name: given[name] for name in ("class_weight", "resampled_counts")}
    if any(values is not None for values in how.values()):
        counts = priors.effective_prior(counts, **how)
    return {"class_counts": counts, "target_prior": given["target_prior"]}


def _in_order(values, path, names, scores):
    """`values` in order of `names`; by position if they have class ids and `names` are not ids of columns."""
    if isinstance(values, dict) and _are_ids(values):
        values = np.array([values[str(c)] for c in range(len(values))])
    if isinstance(values, dict):
        return _by_name(values, path, names, scores)
    if values is None or isinstance(values, str) or names is None or len(names) != len(values):
        return values
    if scores is None or not _are_ids(names):
        return values
    return values[[int(name) for name in names]]


def _are_ids(names):
    return sorted(names) == sorted(str(c) for c in range(len(names)))


def _by_name(values, path, names, scores):
    if names is None:
        place = "a model has them by class id" if scores is None else f"{scores} has no line of names"
        remedy = ", or give the names in order of class id, --class-names FILE.txt" if scores is None else ""
        remedy = ", or begin the scores with a line of names" if scores and scores.suffix == ".csv" else remedy
        raise ValueError(
            f"{path} names its classes, but {place}: put the column class_id in place of class, 0 for the first class "
            f"and so on{remedy}."
        )
    check_names(values, path, names, "--class-names" if scores is None else f"the first line of {scores}")
    return np.array([values[name] for name in names])


def check_names(values, path, names, place):
    """Raise unless the `values` in the file `path` have the same classes as the `names` in `place`."""
    missing, other = [name for name in names if name not in values], [name for name in values if name not in names]
    if not missing and not other and len({*names}) == len(names):
        return
    remedies = []
    if missing:
        remedies.append(
            f"give each a row in {path} (if some have no examples, add 1 to every count), or leave it out of {place}"
        )
    if other:
        remedies.append(f"remove from {path} the names that {place} does not have")
    remedy = "; ".join(remedies) or "name each class once"
    raise ValueError(
        f"{path} must name every class in {place} once, and no other. Received {len(values)} names for {len(names)}; "
        f"missing in {path}: {missing[:8]}, missing in {place}: {other[:8]}. Remedy: {remedy}."
    )


def pairing(given, options, names, *, scores=None, is_unit=False):
    """Lines that show which number each column, or each class of a model, was given, if they have names."""
    if names is None or names == [str(c) for c in range(len(names))]:
        return []
    what = "class" if scores is None else "column"
    lines = []
    for option, values in given.items():
        if values is None or isinstance(values, str) or len(values) != len(names):
            continue
        by_id = scores is not None and _are_ids(names)
        how = "by class id" if by_id else "by name" if isinstance(values, dict) else "by position"
        numbers = _in_order(values, getattr(options, option), names, scores)
        pairs = [f"{what} {name!r} ← {number:.12g}" for name, number in zip(names, numbers, strict=True)]
        pairs = pairs[-1:] if is_unit else pairs
        rest = f", … ({len(pairs)} in all)" if len(pairs) > _SHOWN else ""
        lines.append(f"paired    {getattr(options, option)} {how}: {', '.join(pairs[:_SHOWN])}{rest}")
    return lines
