"""Long-tailed data sets that are ready for training: a source, a profile, a validation set and class counts."""

import dataclasses
import hashlib
import os

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.data import _sources, profiles

VALIDATIONS = ("stratified", "outside", "aside", "none")
_ASIDE = 20  # validation examples of each class with "aside"
EMBEDDED = {"fashion_mnist_lt": _sources.read_fashion, "banking77_lt": _sources.read_banking}
_RATIOS = {"banking77_lt": 50}  # from 100 to 2 examples of a class: its classes have few more than 100
_RATIO = 100
_LONG_TAILED = ("imagenet_lt", "i_naturalist2018", "i_naturalist2021")  # these are long-tailed already
_CIFAR = {"cifar10_lt": "cifar10", "cifar100_lt": "cifar100"}
_BARS = "▁▂▃▄▅▆▇█"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LongTailDataset:
    """A long-tailed training set with its validation and test sets, as `load` gives it.

    Attributes:
        name: the name by which it was loaded.
        train: `(x, y)` NumPy arrays (images in their own dtype, int64 ids), so `model.fit(*data.train)`; a
            `tf.data.Dataset` of single `(x, y)` where images differ in size or do not fit in memory.
        validation: the same, or None.
        test: the test set of the source, whole, in the same form.
        class_counts: `[L]` training examples of each class, after the validation cut; give them to the losses.
        class_names: `L` names.
        validation_kind: "stratified" (cut from the training subset), "outside" (unused examples of the source), "aside"
            (the first 20 of each class of the source) or "none". "outside" and "aside" are extra data, which a real
            long-tailed set does not have.
        profile: "exponential", "step", "zipf", or "as it is".
        seed: the seed of the draw.
        split_hash: SHA-256 of examples, labels and their order (of streams just labels and order): the same split has
            the same hash on every machine.
    """

    name: str
    train: tuple
    validation: tuple | None
    test: tuple
    class_counts: np.ndarray
    class_names: list
    validation_kind: str
    profile: str
    seed: int
    split_hash: str

    @property
    def num_classes(self):
        """The number of classes `L`."""
        return self.class_counts.size

    @property
    def imbalance_ratio(self):
        """The largest class count over the smallest."""
        return float(self.class_counts.max() / self.class_counts.min())

    def __repr__(self):
        splits = {
            "train": f"{int(self.class_counts.sum()):,}",
            f"validation ({self.validation_kind})": None if self.validation is None else _size(self.validation),
            "test": _size(self.test),
        }
        counts = self.class_counts
        shown = ", ".join(f"{n:,}" for n in counts) if counts.size <= 12 else f"{counts.max():,} … {counts.min():,}"
        return (
            f"LongTailDataset {self.name!r}: {self.num_classes} classes, {self.profile} profile, imbalance ratio "
            f"{self.imbalance_ratio:.0f}, seed {self.seed}, split {self.split_hash[:12]}\n"
            f"  {', '.join(f'{size} {split}' for split, size in splits.items() if size)}\n"
            f"  counts {shown}  {_sketch(counts)}"
        )


def _size(split):
    return f"{len(split[1]):,}" if isinstance(split, tuple) else f"{int(split.cardinality()):,}"


def _sketch(counts, width=20):
    """The class counts as one line of bars on a log scale."""
    sample = np.sort(counts)[::-1][np.linspace(0, counts.size - 1, min(width, counts.size)).round().astype(int)]
    height = np.log(sample) / max(np.log(sample[0]), 1e-9)
    return "".join(_BARS[int(round(h * (len(_BARS) - 1)))] for h in height)


def load(
    name,
    *,
    imbalance_ratio=None,
    profile="auto",
    validation="stratified",
    seed=0,
    data_dir=None,
    test=None,
    max_count=None,
    validation_fraction=0.1,
):
    """Load a data set as a long tail, without ever touching the network.

    Args:
        name: one of
            - "fashion_mnist_lt", in the package: 2,478 training images at ratio 100, with 1,000 in the largest class,
              and the whole test set of 10,000. Each seed draws other images from a pool of 4,956;
            - "banking77_lt", in the package: customers' questions to a bank in 77 intents, as rows of 384 features of a
              frozen sentence encoder. It has 1,917 training rows at ratio 50, from 100 to 2 for each class, and the
              whole test set of 3,080. They are drawn from a pool of 8,066 with at most 110 for each class;
            - "cifar10_lt", "cifar100_lt": 12,406 and 10,847 training images at ratio 100, from TFDS data on disk;
            - any classification set of TensorFlow Datasets that is on disk;
            - a pair of arrays `(x, y)` or the path of an `.npz` file with `x` and `y`: images `[N, H, W, C]` or
              `[N, H, W]`, or rows `[N, columns]`. Give `test` too.
        imbalance_ratio: the largest count over the smallest, by default 100, and 50 for "banking77_lt". It and
            `max_count` need a profile other than "none".
        profile: "exponential", "step", "zipf", or "none" for the set as it is. "auto" is "exponential", but "none" for
            your own arrays and for sets that are long-tailed already ("imagenet_lt", "i_naturalist2018" and
            "i_naturalist2021").
        validation: "stratified" cuts `validation_fraction` of every class (at least one example of classes that have
            two) from the training subset. "outside" takes unused examples of the source. "aside" takes the first 20
            examples of every class, for every seed, and draws the training subset from the others. "none" takes none.
            "outside" and "aside" are extra data: use them only to tune, and not in training runs that you report.
        seed: seed of the training subset and of the validation cut.
        data_dir: folder of TFDS data; by default TFDS's own, or `$TFDS_DATA_DIR`.
        test: your own test set, in the form of `name`.
        max_count: examples of the largest class; by default as many as the source allows.
        validation_fraction: share of each class to cut, in [0, 1); "aside" does not ask for it.

    Returns:
        A `LongTailDataset`.

    Raises:
        FileNotFoundError: where the data is not on disk, with the command that downloads it.
        ValueError: for an unknown name, profile or validation, and for data that does not fit.

    Example:

    >>> data = load("fashion_mnist_lt", seed=0)
    >>> data.class_counts.tolist()
    [900, 539, 323, 193, 116, 69, 41, 24, 14, 9]
    >>> load("fashion_mnist_lt", validation="none").class_counts.sum()
    np.int64(2478)
    >>> x, y = load("banking77_lt", validation="none").train
    >>> x.shape, x.dtype
    ((1917, 384), dtype('float32'))

    Reference: Menon et al. (2021), §6.2; Xiao et al. (2017), Fashion-MNIST; Casanueva et al. (2020), BANKING77.
    """
    _checks.check_choice(validation, "validation", VALIDATIONS)
    _checks.check_choice(profile, "profile", ("auto", "none", *profiles.PROFILES))
    _checks.check_fraction(validation_fraction, "validation_fraction")
    seed = _checks.check_seed(seed)
    validation = validation if validation_fraction or validation == "aside" else "none"
    source = _find_source(name, data_dir, test)
    title = name if isinstance(name, str) else os.fspath(name) if isinstance(name, os.PathLike) else "arrays"
    profile = resolve_profile(name, profile)
    for argument, value in {"imbalance_ratio": imbalance_ratio, "max_count": max_count}.items():
        if profile == "none" and value is not None:
            raise _checks.ArgumentError(
                argument,
                f"`{argument}` is for a tail that is imposed, and {title!r} is taken as it is. Received: "
                f'{argument}={value}. Leave it out, or give profile="exponential".',
            )
    # Two independent random streams, so that the validation setting does not change the subset.
    subset_seed, cut_seed = np.random.SeedSequence(seed).spawn(2)
    aside = _first_of_each(source) if validation == "aside" else np.array([], dtype="int64")
    chosen = _impose(
        source,
        np.setdiff1d(np.arange(source.train[1].size), aside),
        {"imbalance_ratio": default_ratio(name) if imbalance_ratio is None else imbalance_ratio, "profile": profile},
        max_count=max_count,
        seed=subset_seed,
    )
    held_out, extra = (aside, None) if aside.size else _cut(source, chosen, validation, validation_fraction, cut_seed)
    kept = np.setdiff1d(chosen, held_out) if validation == "stratified" else chosen
    class_counts = source.count(kept)
    if (empty := class_counts == 0).any():
        raise _checks.ArgumentError(
            "name", f"Every class needs a training example. None at {_checks.name_classes(empty)}: leave such ids out."
        )
    return LongTailDataset(
        name=title,
        train=_take(source, kept),
        validation=_take(source, held_out) if held_out.size else extra,
        test=_as_split(source.test),
        class_counts=class_counts,
        class_names=list(source.class_names),
        validation_kind=validation,
        profile="as it is" if profile == "none" else profile,
        seed=seed,
        split_hash=_hash(source, kept, held_out),
    )


def resolve_profile(name, profile):
    """The profile that `load` applies. "auto" depends on the data."""
    if profile != "auto":
        return profile
    is_balanced = isinstance(name, str) and not name.endswith(".npz") and name not in _LONG_TAILED
    return "exponential" if is_balanced else "none"


def default_ratio(name):
    """The imbalance ratio that `load` applies by default."""
    return _RATIOS.get(name, _RATIO) if isinstance(name, str) else _RATIO


def _find_source(name, data_dir, test):
    if isinstance(name, str) and not name.endswith(".npz"):
        if test is not None:
            raise _checks.ArgumentError(
                "test", f"`test` goes with data of your own. Received a test set beside the name {name!r}."
            )
        if name in EMBEDDED:
            return EMBEDDED[name]()
        return _sources.read_tfds(_CIFAR.get(name, name), None if data_dir is None else os.fspath(data_dir))
    return _sources.read_arrays(name, test)


def _first_of_each(source):
    """The indices of the first examples of every class."""
    labels, counts = source.train[1], source.count(slice(None))
    if (few := counts <= _ASIDE).any():
        raise _checks.ArgumentError(
            "validation",
            f"validation='aside' sets {_ASIDE} examples of every class aside, and needs more. Too few are at "
            f"{_checks.name_classes(few)}: choose validation='stratified'.",
        )
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:_ASIDE] for c in range(counts.size)]))


def _impose(source, pool, tail, *, max_count, seed):
    """The indices of a training subset of `pool` with the profile and ratio of `tail`."""
    labels = source.train[1][pool]
    if tail["profile"] == "none":
        return pool
    available = source.count(pool)
    if max_count is None:
        shape = profiles.share_of_largest(available.size, **tail)
        max_count = min(source.max_count or int(available.max()), int(np.floor((available + 1) / shape - 1e-6).min()))
    counts = profiles.long_tail_counts(available.size, max_count=max_count, **tail)
    return pool[profiles.subsample(labels, counts, seed=seed)]


def _cut(source, chosen, validation, fraction, seed):
    """The indices held out for validation, and the validation data of the source (or None)."""
    labels, nothing, counts = source.train[1], np.array([], dtype="int64"), source.count(chosen)
    if validation == "none":
        return nothing, None
    if validation == "stratified":
        wanted = np.where(counts >= 2, np.clip(np.floor(counts * fraction + 0.5), 1, counts - 1), 0)
        return chosen[profiles.subsample(labels[chosen], wanted, seed=seed)], None
    if source.outside is not None:
        return nothing, _as_split(source.outside)
    unused = np.setdiff1d(np.arange(labels.size), chosen)
    if ((spare := source.count(unused)) == 0).any():
        raise _checks.ArgumentError(
            "validation",
            "validation='outside' needs unused examples of every class. None are left at "
            f"{_checks.name_classes(spare == 0)}: give a smaller `max_count`, or validation='stratified'.",
        )
    wanted = np.minimum(spare, max(1, int(counts.max() * fraction)))
    return unused[profiles.subsample(labels[unused], wanted, seed=seed)], None


def _as_split(pair):
    """Copies of the arrays `(x, y)`, because sources are cached. For a stream only its `tf.data.Dataset`."""
    return pair[0] if _sources.is_stream(pair) else tuple(part.copy() for part in pair)


def _take(source, indices):
    """The training examples `indices`, as arrays or as a filtered stream."""
    x, y = source.train
    if not _sources.is_stream(source.train):
        return x[indices], y[indices]
    import tensorflow as tf

    keep = np.isin(np.arange(y.size), indices)
    kept = x.enumerate().filter(lambda i, _: tf.gather(tf.constant(keep), i)).map(lambda _, example: example)
    return kept.apply(tf.data.experimental.assert_cardinality(indices.size))


def _hash(source, kept, held_out):
    """SHA-256 of the training, validation and test examples."""
    (x, y), (x_test, y_test) = source.train, source.test
    parts = [np.ascontiguousarray(part, dtype="<i8") for part in (kept, held_out, y[kept], y[held_out], y_test)]
    parts += [] if _sources.is_stream(source.train) else [x[kept], x[held_out]]
    parts += [] if _sources.is_stream(source.test) else [x_test]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes())
    return digest.hexdigest()
