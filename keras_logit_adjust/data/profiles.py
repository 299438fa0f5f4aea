"""Long-tail profiles: the number of examples that each class keeps, and the choice of these examples."""

import numbers

import numpy as np

from keras_logit_adjust import _arrays, _checks
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
    shares = share_of_largest(num_classes, imbalance_ratio=imbalance_ratio, profile=profile, largest=max_count)
    # The factor turns 9.999999999999998 into ten. It adds a hundredth to 10¹², which `floor` removes again.
    return np.floor(max_count * shares * (1 + 1e-14)).astype("int64")


def share_of_largest(num_classes, *, imbalance_ratio, profile, largest=_checks.MOST_EXAMPLES):
    """`n_c / n_max` of every class before it is rounded, `[L]`, for a ratio of at most `largest`.

    Example:

    >>> share_of_largest(4, imbalance_ratio=8, profile="exponential").round(4).tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    is_number = isinstance(imbalance_ratio, numbers.Real) and not isinstance(imbalance_ratio, bool)
    if not is_number or not 1 <= imbalance_ratio <= largest:
        raise _checks.ArgumentError(
            "imbalance_ratio",
            f"`imbalance_ratio` must lie between 1 and max_count={largest}, so that every class keeps an example. "
            f"Received: imbalance_ratio={_arrays.shown(imbalance_ratio)}",
        )
    position = np.arange(num_classes)
    exponents = {
        "exponential": position / (num_classes - 1),
        "step": (position >= num_classes // 2).astype("float64"),
        "zipf": np.log1p(position) / np.log(num_classes),
    }
    return float(imbalance_ratio) ** -exponents[profile]


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
    seed = seed if isinstance(seed, np.random.SeedSequence) else _checks.check_seed(seed)
    return smallest_keys(labels, wanted, np.random.default_rng(seed))


def smallest_keys(labels, wanted, rng):
    """Give every example a random key. Return the rows of the `wanted[c]` smallest keys of each class c, ascending."""
    order = np.lexsort((rng.random(labels.size), labels))
    owner, rank = ragged(np.bincount(labels))
    return np.sort(order[rank < wanted[owner]])


def as_whole_counts(counts, name):
    """`counts` as an int64 vector of at least 0."""
    counts = _checks.as_vector(counts, name)
    _checks.refuse_numbers(
        counts > _checks.MOST_EXAMPLES,
        counts,
        name,
        f"Every number in `{name}` must be at most {_checks.MOST_EXAMPLES:,} examples.",
    )
    if (counts != np.floor(counts)).any() or (counts < 0).any():
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be whole numbers of examples of at least 0. Received {counts[:8].tolist()}: multiply "
            "probabilities by the number of examples to keep, and round.",
        )
    return counts.astype("int64")


def check_available(wanted, available):
    """Raise if a class has fewer examples than wanted."""
    if (short := wanted > available).any():
        raise _checks.ArgumentError(
            "class_counts",
            f"`class_counts` must not ask for more examples than there are. Asked for {wanted[short][:8].tolist()} of "
            f"{available[short][:8].tolist()} at {_checks.name_classes(short)}: lower `max_count`.",
        )


def check_ids(labels, name="`labels`", *, argument="labels"):
    """`labels` as a non-empty int64 vector of ids of at least 0."""
    given = labels
    labels = _arrays.to_numpy(labels, argument, "a vector of integer class ids")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0 or _arrays.kind_of(labels.dtype) not in "iu":
        remedies = dict.fromkeys("fb", ": give `labels.astype(int)`")
        remedies |= dict.fromkeys("OUS", f": make ids of names {_arrays.IDS_OF_NAMES}")
        remedy = remedies.get(_arrays.kind_of(labels.dtype), "") if labels.size else ""
        if labels.ndim > 1:
            remedy = ": give `labels.argmax(axis=-1)` of one-hot rows"
        if hasattr(given, "element_spec"):
            remedy = ": for a `tf.data.Dataset` use kla.data.rebalance"
        raise _checks.ArgumentError(
            argument,
            f"{name} must be a non-empty vector of integer class ids. "
            f"Received shape {labels.shape}, dtype {labels.dtype}{remedy}.",
        )
    if (bad := labels < 0).any():
        raise _checks.ArgumentError(
            argument,
            f"{name} must be class ids of at least 0. Received {labels[bad][0]} at position {bad.argmax()} "
            f"({bad.sum()} below 0): leave these examples out.",
        )
    if labels.max() >= _checks.MOST_CLASSES:
        raise _checks.ArgumentError(
            argument,
            f"{name} must be class ids below {_checks.MOST_CLASSES:,}. Received {labels.max()}: renumber them, "
            f"{_arrays.IDS_OF_NAMES}.",
        )
    return labels.astype("int64")
