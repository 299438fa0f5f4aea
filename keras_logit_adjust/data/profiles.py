"""Long-tail profiles: how many examples each class keeps, and which."""

import csv
import numbers

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.data._plan import ragged

PROFILES = ("exponential", "step", "zipf")


def long_tail_counts(num_classes, *, max_count, imbalance_ratio, profile="exponential"):
    """Examples per class of a long tail, `n_c` falling from `n_max` to `n_max/ρ`.

    - "exponential": `n_c = ⌊n_max · ρ^{−c/(L−1)}⌋`;
    - "step": the first half of the classes keep `n_max`, the others `⌊n_max/ρ⌋`;
    - "zipf": `n_c = ⌊n_max · (c+1)^{−s}⌋` with `s = log ρ / log L`.

    Args:
        num_classes: number of classes `L ≥ 2`.
        max_count: `n_max`, examples of the largest class.
        imbalance_ratio: `ρ ≥ 1`, the largest count over the smallest.
        profile: "exponential", "step" or "zipf".

    Returns:
        Int64 array `[L]`, from the largest class to the smallest.

    Raises:
        ValueError: for an unknown profile, or a ratio that leaves a class without examples.

    Example:

    >>> long_tail_counts(10, max_count=5000, imbalance_ratio=100).sum()  # CIFAR-10-LT
    np.int64(12406)
    >>> long_tail_counts(4, max_count=100, imbalance_ratio=10, profile="step").tolist()
    [100, 100, 10, 10]

    Reference: Cui et al. (2019), §5.1; Cao et al. (2019), §4; Menon et al. (2021), §6.2.
    """
    num_classes = _checks.check_integer(num_classes, "num_classes", minimum=2)
    max_count = _checks.check_integer(max_count, "max_count", minimum=1)
    _checks.check_choice(profile, "profile", PROFILES)
    if not isinstance(imbalance_ratio, numbers.Real) or not 1 <= imbalance_ratio <= max_count:
        raise _checks.ArgumentError(
            "imbalance_ratio",
            f"`imbalance_ratio` must lie between 1 and max_count={max_count}, so that every class keeps an example. "
            f"Received: imbalance_ratio={imbalance_ratio!r}",
        )
    position = np.arange(num_classes)
    exponents = {
        "exponential": position / (num_classes - 1),
        "step": (position >= num_classes // 2).astype("float64"),
        "zipf": np.log1p(position) / np.log(num_classes),
    }
    # 9.999999999999998 is ten.
    return np.floor(max_count * float(imbalance_ratio) ** -exponents[profile] * (1 + 1e-12)).astype("int64")


def zipf_counts(num_classes, *, num_examples, exponent=1.0):
    """Class counts of a Zipf law with a given total, `n_c = 1 + (N − L)·w_c` with `w_c ∝ (c+1)^{−s}`, rounded.

    Every class keeps an example, and the largest remainders are rounded up, so that the counts sum to N.

    Args:
        num_classes: number of classes `L ≥ 2`.
        num_examples: the total `N ≥ L`.
        exponent: `s ≥ 0`; 0 is uniform, 1 the classic law.

    Returns:
        Int64 array `[L]`, from the largest class to the smallest.

    Raises:
        ValueError: for fewer examples than classes or an exponent below 0.

    Example:

    >>> zipf_counts(4, num_examples=54).tolist()
    [25, 13, 9, 7]
    >>> zipf_counts(8142, num_examples=437_513, exponent=0.5).sum()  # as many as iNaturalist 2018 has
    np.int64(437513)

    Reference: Zipf (1949); as a long tail Newman (2005), §2.
    """
    num_classes = _checks.check_integer(num_classes, "num_classes", minimum=2)
    num_examples = _checks.check_integer(num_examples, "num_examples", minimum=num_classes)
    exponent = _checks.check_number(exponent, "exponent", minimum=0)
    weight = np.arange(1, num_classes + 1.0) ** -exponent
    exact = (num_examples - num_classes) * (weight / weight.sum())
    counts = np.floor(exact).astype("int64")
    largest_remainders = np.argsort(counts - exact, kind="stable")
    counts[largest_remainders[: num_examples - num_classes - counts.sum()]] += 1
    return counts + 1


def read_class_counts(path):
    """Class counts from a CSV file with the columns `class_id` and `count`, in any order of rows.

    Args:
        path: of the file; its first line names the columns.

    Returns:
        Int64 array `[L]` in order of class id.

    Raises:
        ValueError: for text that is not UTF-8, other columns, ids that are not 0 … L − 1 once each, or counts that are
            no whole numbers.

    Example:

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "counts.csv")
    >>> _ = path.write_text("class_id,count\\n1,10\\n0,90\\n")
    >>> read_class_counts(path).tolist()
    [90, 10]
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [[field.strip() for field in line] for line in csv.reader(file, skipinitialspace=True)]
        header, *lines = [line for line in lines if any(line)] or [[]]
        if any(len(line) > len(header) for line in lines):
            raise ValueError("a row has more fields than there are columns")
        rows = [dict(zip(header, line, strict=False)) for line in lines]
        ids, counts = (np.array([_whole(row[name]) for row in rows], "int64") for name in ("class_id", "count"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A file of class counts must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error
    except (KeyError, ValueError, OverflowError, csv.Error) as error:
        raise ValueError(
            "A file of class counts must have the columns `class_id` and `count`, whole numbers both. "
            f"Received {path}: {error!r}"
        ) from error
    if ids.size == 0 or sorted(ids) != list(range(ids.size)) or (counts < 0).any():
        raise ValueError(
            "A file of class counts must name every class from 0 on once, with a count of at least 0. Received "
            f"{path}: {ids.size} rows, ids {sorted(ids.tolist())[:8]}, …, counts {sorted(counts.tolist())[:8]}, …"
        )
    return counts[np.argsort(ids)]


def _whole(text):
    """A whole number, written `900` or, as spreadsheets do, `900.0`."""
    whole, _, fraction = text.partition(".")
    return int(text if fraction.strip("0") else whole)


def subsample(labels, class_counts, *, seed):
    """Draw `class_counts[c]` examples of each class c without replacement.

    One pass of NumPy: every example gets a random key, and each class keeps its smallest keys.

    Args:
        labels: integer ids `[N]`.
        class_counts: `[L]` how many examples of each class to keep (0 is allowed).
        seed: int or `np.random.SeedSequence`; the same seed draws the same examples on every machine.

    Returns:
        Int64 array of `Σ class_counts` indices into `labels`, ascending.

    Raises:
        ValueError: where a class has fewer examples than asked for, naming it; for ids outside [0, L).

    Example:

    >>> subsample([0, 0, 0, 1, 1], class_counts=[2, 1], seed=0).size
    3

    Reference: Menon et al. (2021), §6.2 (long-tail versions of balanced data sets).
    """
    labels = check_ids(labels)
    wanted = as_whole_counts(class_counts, "class_counts")
    if labels.max() >= wanted.size:
        raise _checks.ArgumentError(
            "labels", f"`labels` must be below the {wanted.size} classes of class_counts. Received {labels.max()}."
        )
    check_available(wanted, np.bincount(labels, minlength=wanted.size))
    return smallest_keys(labels, wanted, np.random.default_rng(seed))


def smallest_keys(labels, wanted, rng):
    """Every example gets a random key: the rows, ascending, of the `wanted[c]` smallest keys of each class c."""
    order = np.lexsort((rng.random(labels.size), labels))
    owner, rank = ragged(np.bincount(labels))
    return np.sort(order[rank < wanted[owner]])


def as_whole_counts(counts, name):
    """`counts` as an int64 vector of at least 0."""
    counts = _checks.as_vector(counts, name)
    if (counts != np.floor(counts)).any() or (counts < 0).any():
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be whole numbers of examples of at least 0. Received {counts[:8].tolist()}: multiply "
            "probabilities by the number of examples to keep, and round.",
        )
    return counts.astype("int64")


def check_available(wanted, available):
    """Raise where a class has fewer examples than are wanted of it."""
    if (short := wanted > available).any():
        raise _checks.ArgumentError(
            "class_counts",
            f"`class_counts` must not ask for more examples than there are. Asked for {wanted[short][:8].tolist()} of "
            f"{available[short][:8].tolist()} at {_checks.name_classes(short)}: lower `max_count`.",
        )


def check_ids(labels, name="`labels`", *, argument="labels"):
    """`labels` as a non-empty int64 vector of ids of at least 0."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise _checks.ArgumentError(
            argument,
            f"{name} must be a non-empty vector of integer class ids. "
            f"Received shape {labels.shape}, dtype {labels.dtype}. One-hot rows: `labels.argmax(axis=-1)`; floats: "
            "`labels.astype(int)`.",
        )
    if labels.min() < 0:
        raise _checks.ArgumentError(argument, f"{name} must be class ids of at least 0. Received {labels.min()}.")
    return labels.astype("int64")
