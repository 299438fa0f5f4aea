"""Long-tail profiles: how many examples each class keeps, and which."""

import numbers

import numpy as np

from keras_logit_adjust import _checks

PROFILES = ("exponential", "step", "zipf")


def long_tail_counts(num_classes, max_count, imbalance_ratio, profile="exponential"):
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
        raise ValueError(
            f"`imbalance_ratio` must lie between 1 and max_count={max_count}, so that every class keeps an example. "
            f"Received: imbalance_ratio={imbalance_ratio!r}"
        )
    position = np.arange(num_classes)
    if profile == "exponential":
        exponent = position / (num_classes - 1)
    elif profile == "step":
        exponent = (position >= num_classes // 2).astype("float64")
    else:
        exponent = np.log1p(position) / np.log(num_classes)
    counts = max_count * float(imbalance_ratio) ** -exponent
    return np.floor(counts * (1 + 1e-12)).astype("int64")  # 9.999999999999998 is ten


def subsample(labels, class_counts, seed):
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
    wanted = _checks.as_vector(class_counts, "class_counts")
    if (wanted != np.floor(wanted)).any():
        raise ValueError(
            "`class_counts` must be whole numbers of examples. "
            f"Received {wanted[:8].tolist()}: multiply probabilities by the number of examples to keep, and round."
        )
    wanted = wanted.astype("int64")
    if labels.max() >= wanted.size:
        raise ValueError(f"`labels` must be below the {wanted.size} classes of class_counts. Received {labels.max()}.")
    available = np.bincount(labels, minlength=wanted.size)
    if (wanted > available).any() or (wanted < 0).any():
        short = (wanted > available) | (wanted < 0)
        raise ValueError(
            f"`class_counts` must not ask for more examples than there are. Asked for {wanted[short][:8].tolist()} of "
            f"{available[short][:8].tolist()} at {_checks.name_classes(short)}: lower `max_count`."
        )
    keys = np.random.default_rng(seed).random(labels.size)
    order = np.lexsort((keys, labels))
    start = np.cumsum(available) - available
    rank = np.arange(labels.size) - start[labels[order]]
    return np.sort(order[rank < wanted[labels[order]]])


def check_ids(labels, name="`labels`"):
    """`labels` as a non-empty int64 vector of ids of at least 0."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a non-empty vector of integer class ids. "
            f"Received shape {labels.shape}, dtype {labels.dtype}. One-hot rows: `labels.argmax(axis=-1)`."
        )
    if labels.min() < 0:
        raise ValueError(f"{name} must be class ids of at least 0. Received {labels.min()}.")
    return labels.astype("int64")
