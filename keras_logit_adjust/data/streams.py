"""Class shares for streams that cannot be indexed. Examples are left out or repeated, block by block."""

import dataclasses
import functools
import warnings
from typing import Any

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.data import _strategies
from keras_logit_adjust.data.profiles import as_whole_counts, check_available, smallest_keys
from keras_logit_adjust.priors.counting import holds_single_examples, labels_of
from keras_logit_adjust.priors.formulas import as_prior

_BATCHES_IN_BLOCK = 8
_MANY_COPIES = 20
_PREFETCHED = 2
_MOST_OF_A_CLASS = 10**9
_ROUNDING = 0.01  # the sum of a row in half precision has an error of at most this


@dataclasses.dataclass(frozen=True, eq=False)
class RebalancedStream:
    """The result of `rebalance`. A loss or head takes it as `class_counts`, and uses its `effective_prior`.

    Attributes:
        dataset: the `tf.data.Dataset` of full batches.
        effective_prior: float64 `[L]`, the class prior of those batches.
        copies: float64 `[L]`, mean number of times an example of each class comes.
        efficiency: share of the input examples that come at least once, `Σ_c π_c · min(1, copies_c)`, if the stream has
            the prior π of the given counts.
        output_per_input: output examples for each input example, `Σ_c π_c · copies_c`.
    """

    dataset: Any
    effective_prior: np.ndarray
    copies: np.ndarray
    efficiency: float
    output_per_input: float


def rebalance(
    dataset,
    class_counts,
    *,
    strategy="balanced",
    seed=None,
    batch_size=None,
    max_copies=None,
    repeat=True,
    beta=0.9999,
    block_size=None,
):
    """Give each class of a stream its share: leave out examples of frequent classes, and repeat those of rare classes.

    Let π be the prior of the stream and p the shares that you want. An example of class c comes `⌊r_c + u⌋` times, with
    `r_c = s·p_c/π_c` and u uniform in [0, 1). The mean is `r_c` times, so the expected shares are exact, and they vary
    less than with independent draws. With `s = 1` the result has as many examples as the stream. `max_copies` can make
    `s` smaller.

    The stream is read block by block. Memory contains a block and a few batches. The copies of an example come in any
    order among the examples of its block. If the examples can be indexed, `LongTailSampler` is faster, and shows all
    examples of a class before it repeats one.

    Args:
        dataset: a `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)` of any length, with single examples or
            batches of any size. y are ids or one-hot rows. It must be shuffled, as for any training: if many examples
            of a rare class follow each other, there are batches full of this class.
        class_counts: `[L]` counts (or probabilities) of the classes in the stream, all > 0. Wrong counts give wrong
            shares.
        strategy: as in `LongTailSampler`, but not "progressive".
        seed: int ≥ 0 for the choice of examples and their order.
        batch_size: examples in a batch; by default the batch size of `dataset`.
        max_copies: the largest mean number of copies of an example. A smaller number leaves more of the stream unused.
            With 1 examples are only left out; None means no limit.
        repeat: whether a finite dataset is read again and again, with new draws each time. The result is then endless,
            and `fit` needs `steps_per_epoch`. Otherwise the dataset is read once, and an incomplete last batch is
            dropped; another pass over the result makes the same draws.
        beta: β of "effective_number".
        block_size: examples read at a time; 8 batches by default.

    Returns:
        A `RebalancedStream`: the dataset, its prior, and the used share of the stream.

    Raises:
        ValueError: for counts or a strategy that do not fit; single examples without `batch_size`; no seed. While
            reading: for a label outside the classes.

    Warns:
        UserWarning: if the rarest examples come more than 20 times each, and `max_copies` does not ask for this.

    Example:

    >>> import tensorflow as tf
    >>> labels = tf.constant([0] * 90 + [1] * 10, "int64")
    >>> stream = tf.data.Dataset.from_tensor_slices((labels, labels)).repeat()
    >>> balanced = rebalance(stream, [90, 10], seed=0, batch_size=50)
    >>> balanced.copies.round(2).tolist(), round(balanced.efficiency, 2)
    ([0.56, 5.0], 0.6)

    Reference: Chawla et al. (2002), §1 and §2 (over- and undersampling); von Neumann (1951), rejection.
    """
    import tensorflow as tf

    prior, seed = as_prior(class_counts, independent=False), _checks.check_seed(seed) % 2**63
    counts = share_of_stream = prior.probabilities
    if isinstance(strategy, str) and strategy == "progressive":
        raise _checks.ArgumentError(
            "strategy", '`strategy` of a stream must stay the same: "progressive" is for `LongTailSampler`.'
        )
    if isinstance(strategy, str) and strategy == "effective_number":
        counts = _checks.as_true_counts(prior.counts)
    shares = _strategies.class_shares(counts, strategy, beta=beta)
    copies = shares / share_of_stream
    if max_copies is not None:
        copies = copies * min(1.0, _checks.check_positive(max_copies, "max_copies") / copies.max())
    elif copies.max() > _MANY_COPIES:
        warnings.warn(
            f"Examples of class {copies.argmax()} will come {copies.max():.3g} times each, out of one block: batches "
            "of few different ones. `max_copies` limits that, for less of the stream used; or give it to keep this.",
            stacklevel=2,
        )
    blocks, batch_size = _blocks(
        dataset, prior.size, batch_size=batch_size, block_size=block_size, may_be_single=False, repeat=repeat
    )

    def draw(index, block):
        ids = _ids(labels_of(block), prior.size)
        chance = tf.random.stateless_uniform(tf.shape(ids), [seed, 2 * index], dtype=tf.float64)
        times = tf.cast(tf.floor(tf.gather(copies, ids) + chance), tf.int64)
        rows = tf.repeat(tf.range(tf.size(ids)), times)
        rows = tf.random.experimental.stateless_shuffle(rows, [seed, 2 * index + 1])
        # Gather in parts, because the copies of a whole block may be many times as large as the block.
        parts = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
        return parts.map(lambda part: tf.nest.map_structure(lambda leaf: tf.gather(leaf, part), block))

    drawn = blocks.enumerate().flat_map(draw).rebatch(batch_size, drop_remainder=True).prefetch(_PREFETCHED)
    return RebalancedStream(
        drawn,
        shares,
        copies,
        efficiency=float(share_of_stream @ np.minimum(1, copies)),
        output_per_input=float(share_of_stream @ copies),
    )


def subsample_stream(dataset, class_counts, *, available_counts, seed=None, batch_size=None, block_size=512):
    """Keep exactly `class_counts[c]` of the `available_counts[c]` examples of each class, drawn at random.

    This is `subsample` for a stream: one pass that keeps two numbers for each class. Let a block have m examples of a
    class, with k examples still wanted and N still to come. The number that the block keeps is hypergeometric, so every
    subset is equally likely.

    Args:
        dataset: as in `rebalance`, finite and once through: `repeat` it afterwards, for the same subset every time.
        class_counts: `[L]` whole numbers of examples to keep, as `long_tail_counts` gives them.
        available_counts: `[L]` examples of each class in the stream.
        seed: int ≥ 0.
        batch_size: examples in a batch (the last one may be shorter); by default as `dataset` has them, single or in
            batches of its size.
        block_size: examples read at a time.

    Returns:
        A `tf.data.Dataset`.

    Raises:
        ValueError: where more is wanted than there is, naming the classes; batches of unknown size. While reading: for
            a stream with more or fewer examples of a class than `available_counts`, or a label outside the
            classes.

    Example:

    >>> import tensorflow as tf
    >>> stream = tf.data.Dataset.from_tensor_slices(([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0]))
    >>> kept = subsample_stream(stream, [2, 1], available_counts=[3, 1], seed=0)
    >>> sorted(int(y) for _, y in kept)
    [0, 0, 1]

    Reference: Fan, Muller and Rezucha (1962), method 1 (selection without replacement in one pass).
    """
    import tensorflow as tf

    available = as_whole_counts(available_counts, "available_counts")
    wanted = as_whole_counts(class_counts, "class_counts")
    _checks.check_length(wanted, available.size, "class_counts", "available_counts")
    check_available(wanted, available)
    if (available >= _MOST_OF_A_CLASS).any():
        raise ValueError(
            f"`available_counts` must be below {_MOST_OF_A_CLASS:,} a class, the most that NumPy draws hypergeometric "
            f"numbers from. Received {available.max():,}: cut the stream into parts."
        )
    select = functools.partial(_select, _checks.check_seed(seed))
    block_size = _checks.check_integer(block_size, "block_size", minimum=1)
    blocks, batch_size = _blocks(dataset, available.size, batch_size=batch_size, block_size=block_size)

    # The last block has no examples. It checks that all announced examples have come.
    def no_rows(spec):
        inner = spec.shape[1:] if spec.shape.rank else ()
        return tf.zeros([0, *(size or 0 for size in inner)], spec.dtype)

    end = tf.data.Dataset.from_tensors(tf.nest.map_structure(no_rows, blocks.element_spec))

    def keep(state, block):
        index, *counts = state
        ids = _ids(labels_of(block), available.size)
        rows, *counts = tf.numpy_function(select, [index, ids, *counts], [tf.int64] * 3, stateful=False)
        for numbers, size in zip((rows, *counts), (None, available.size, available.size), strict=True):
            numbers.set_shape([size])
        return (index + 1, *counts), tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), block)

    kept = blocks.concatenate(end).scan((tf.constant(0, tf.int64), tf.constant(available), tf.constant(wanted)), keep)
    return kept.unbatch() if batch_size is None else kept.rebatch(batch_size)


def _select(seed, index, ids, remaining, wanted):
    """The rows of a block to keep, and for each class the examples that remain and are wanted after it."""
    seen = np.bincount(ids, minlength=remaining.size)
    if ids.size == 0 and (short := remaining > 0).any():
        raise ValueError(
            f"The stream ended with fewer examples than `available_counts` says: {remaining[short][:8].tolist()} are "
            f"missing at {_checks.name_classes(short)}. Count it with `kla.priors.count_classes`."
        )
    if (seen > remaining).any():
        raise ValueError(
            "The stream has more examples than `available_counts` says at "
            f"{_checks.name_classes(seen > remaining)}. Count it with `kla.priors.count_classes`."
        )
    rng = np.random.default_rng([seed, index])
    kept = rng.hypergeometric(wanted, remaining - wanted, seen)
    return smallest_keys(ids, kept, rng), remaining - seen, wanted - kept


def _blocks(dataset, num_classes, *, batch_size, block_size, may_be_single=True, repeat=False):
    """`dataset` in blocks of examples, and the size of output batches (None for single examples)."""
    if not hasattr(dataset, "element_spec"):
        raise ValueError(
            "A stream must be a `tf.data.Dataset` of (x, y). "
            f"Received: {type(dataset).__name__}. Arrays are for `LongTailSampler`."
        )
    if not ((dtype := labels_of(dataset.element_spec).dtype).is_integer or dtype.is_floating or dtype.is_bool):
        raise ValueError(
            f"Labels of a stream must be class ids, or rows of numbers. Received dtype {dtype.name}: map names to ids "
            "first, for example by keras.layers.StringLookup(vocabulary=class_names, num_oov_indices=0)."
        )
    is_single = holds_single_examples(dataset.element_spec)
    if not is_single and tuple(labels_of(dataset.element_spec).shape) == (num_classes,):
        raise ValueError(
            f"Integer labels of shape [{num_classes}] may be a batch of ids, or the one-hot row of one example of "
            f"{num_classes} classes. Received elements of {dataset.element_spec}: give ids as a column, "
            "dataset.map(lambda x, y: (x, y[:, None])), or rows as floats."
        )
    if batch_size is not None:
        batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
    elif not is_single:
        batch_size = labels_of(dataset.element_spec).shape[0]
    default_block = _BATCHES_IN_BLOCK * (batch_size or 1)
    block_size = _checks.check_integer(default_block if block_size is None else block_size, "block_size", minimum=1)
    if batch_size is None and not (is_single and may_be_single):
        raise _checks.ArgumentError(
            "batch_size",
            "`batch_size` must be given where the dataset does not say it: for single examples, and for batches made "
            f"without `drop_remainder=True`. Received elements of {dataset.element_spec}",
        )
    dataset = dataset.repeat() if repeat else dataset
    return (dataset.batch(block_size) if is_single else dataset.rebatch(block_size)), batch_size


def _ids(labels, num_classes):
    """Class ids `[B]`, from ids `[B]`, `[B, 1]` or one-hot rows `[B, L]`. A bad label raises in the step."""
    import tensorflow as tf

    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        total = tf.reduce_sum(tf.cast(labels, tf.float32), axis=-1)
        rule = "Rows of labels of the stream must be of one label each, and sum to one."
        with tf.control_dependencies([tf.debugging.assert_less(tf.abs(total - 1.0), _ROUNDING, rule)]):
            return tf.argmax(labels, axis=-1)
    if labels.shape.rank == 2 and labels.shape[-1] not in (1, None) or labels.shape.rank not in (1, 2, None):
        raise ValueError(
            f"Labels of a stream must be class ids, or one-hot rows as wide as the {num_classes} classes of the "
            f"counts. Received labels of shape {labels.shape}, the batch first."
        )
    labels = tf.reshape(labels, [-1])
    ids = tf.cast(labels, tf.int64)
    rule = f"Labels of the stream must be class ids, integers of at least 0 and below the {num_classes} of the counts."
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(ids, rule),
            tf.debugging.assert_less(ids, tf.constant(num_classes, tf.int64), rule),
            tf.debugging.assert_equal(tf.cast(ids, labels.dtype), labels, rule),
        ]
    ):
        return tf.identity(ids)
