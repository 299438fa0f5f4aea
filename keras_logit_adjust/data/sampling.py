"""Batches drawn by class from a labeled set that can be indexed. Shares are exact, and every step can be resumed."""

import copy
import hashlib
import json
import reprlib

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust.data import _feeding, _strategies
from keras_logit_adjust.data._plan import Plan
from keras_logit_adjust.data.profiles import check_ids

_FORMAT = 1  # the format of `state()`; increase it if the same settings give other batches
_BESIDE_SETTINGS = {"format", "step", "labels_sha256"}


class LongTailSampler:
    """Batches of row numbers in which every class has the share that a strategy gives it.

    The share of class c with `n_c` examples is `p_c ∝ n_c^q` for an exponent q:

    - "instance": q = 1, every example equally often;
    - "square_root": q = ½;
    - "balanced": q = 0, every class equally often; also any other number q;
    - "effective_number": `p_c ∝ n_c / E_c` with `E_c = (1 − β^n_c)/(1 − β)`, as by class-balanced weights;
    - "progressive": q from 1 in the first to 0 in the last of `progressive_epochs` epochs, and 0 after them;
    - a vector `[L]`: the shares themselves.

    After any number of epochs the draws of a class match its share, up to one draw (a few with thousands of classes).
    An example comes again only after all others of its class. A batch depends only on (labels, settings, seed, step).
    It is the same in every process, with any number of readers, and after a restart. Every batch is full.

    Shares are exact over many batches. With `per_batch="exact"` they are exact in each batch.

    Give the sampler to a loss or head as its `class_counts`: it then corrects by `effective_prior`, the class mix that
    the model sees. A loss that is adjusted by the original counts would correct twice on balanced batches.

    Args:
        labels: `[N]` integer class ids.
        batch_size: examples in a batch.
        strategy: see above.
        seed: int ≥ 0 that every draw follows from.
        num_classes: the number of classes `L`; by default the largest id plus one.
        per_batch: "exact" puts every class into every batch equally often (within one where `batch_size` is no
            multiple of the classes). Needs equal shares, and as many places as classes.
        replacement: whether each draw is independent of the draws before: a class by its share, then any of its
            examples, as in torch's `WeightedRandomSampler`.
        progressive_epochs: epochs over which "progressive" goes from q = 1 to 0.
        beta: `0 ≤ β < 1` of "effective_number".

    Attributes:
        class_counts: int64 `[L]` examples of each class.
        steps_per_epoch: batches in an epoch, `⌈N / batch_size⌉`, as in `fit` with arrays.
        start_step: number of the first batch. It is 0 unless `from_state` or `starting_at` made the sampler.

    Raises:
        ValueError: for labels that are empty, negative or no integers; no seed; an unknown strategy; a distribution
            that does not sum to one or asks for an absent class; fewer places than classes with `per_batch="exact"`.

    Example:

    >>> sampler = LongTailSampler([0, 0, 0, 0, 0, 0, 1, 1], batch_size=4, strategy="balanced", seed=0)
    >>> sampler.effective_prior.tolist(), sampler.steps_per_epoch
    ([0.5, 0.5], 2)
    >>> rows = np.concatenate([sampler.rows(step) for step in range(6)])  # 24 draws, 12 of each class
    >>> np.bincount(rows).tolist()
    [2, 2, 2, 2, 2, 2, 6, 6]

    Reference: Kang et al. (2020), §4.1 (the exponent; its progressive sampling mixes the distributions themselves);
    Cui et al. (2019), §3 (effective number); Shen et al. (2016) (class-aware batches).
    """

    _setting_names = frozenset(
        ("batch_size", "strategy", "seed", "num_classes", "per_batch", "replacement", "progressive_epochs", "beta")
    )

    def __init__(
        self,
        labels,
        batch_size,
        *,
        strategy="balanced",
        seed=None,
        num_classes=None,
        per_batch=None,
        replacement=False,
        progressive_epochs=None,
        beta=0.9999,
    ):
        seed, labels = _checks.check_seed(seed), check_ids(labels)
        if num_classes is not None:
            num_classes = _checks.check_integer(num_classes, "num_classes", minimum=1)
        if num_classes and labels.max() >= num_classes:
            raise _checks.ArgumentError(
                "labels", f"`labels` must be class ids below num_classes={num_classes:,}. Received {labels.max()}."
            )
        replacement = _checks.check_bool(replacement, "replacement")
        batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
        class_counts = np.bincount(labels, minlength=num_classes or 0)
        epochs, beta = _strategies.check_epochs(progressive_epochs, strategy), _checks.check_fraction(beta, "beta")
        target = (
            _strategies.Fixed(_strategies.class_shares(class_counts, strategy, beta=beta))
            if epochs is None
            else _strategies.Progressive(class_counts, epochs, _batches(labels.size, batch_size) * batch_size)
        )
        if _checks.check_choice(per_batch, "per_batch", (None, "exact")):
            _strategies.check_equal_shares(target, strategy, batch_size)
        settings = {
            "batch_size": batch_size,
            "strategy": _strategies.as_setting(strategy),
            "seed": seed,
            "num_classes": class_counts.size,
            "per_batch": per_batch,
            "replacement": replacement,
            "progressive_epochs": epochs,
            "beta": beta,
        }
        in_turn = per_batch is not None
        plan = Plan(labels, class_counts, target, seed=seed, in_turn=in_turn, replacement=replacement)
        self._begin(plan, settings, class_counts=class_counts, num_examples=labels.size, labels_hash=_hash(labels))

    def _begin(self, plan, settings, *, class_counts, num_examples, labels_hash):
        """Set all attributes, from checked values. `settings` are the arguments that a state keeps."""
        self.batch_size = settings["batch_size"]
        self.class_counts, self.num_examples, self.start_step = class_counts, num_examples, 0
        self.steps_per_epoch = _batches(num_examples, self.batch_size)
        self._plan, self._settings, self._labels_hash = plan, settings, labels_hash
        self._epochs = {}  # a cache of the last epochs
        self._part = (0, 1)  # this sampler gives part 0 of 1 of each batch

    @property
    def effective_prior(self):
        """The class prior of the batches, float64 `[L]`. A loss or head must be adjusted by it.

        Raises:
            ValueError: for "progressive", whose prior changes in every epoch.
        """
        if isinstance(self._plan.target, _strategies.Progressive):
            raise ValueError(
                'A sampler with strategy="progressive" has no effective prior: its shares change from epoch to epoch. '
                "Train with a plain cross-entropy, or take a strategy that stays."
            )
        return self._plan.target.shares.copy()

    def rows(self, step):
        """The row numbers of batch `step`, int64 `[batch_size]` (for a shard its part of them).

        Raises:
            ValueError: for a step that is no integer of at least 0.
        """
        return self.block(_check_step(step), 1)[0]

    def indices(self):
        """An endless iterator over the row numbers of each batch, for any loader; its `state()` is its position.

        A loader with workers takes more batches than it has given. Then use `state(step)` of the sampler.

        Example:

        >>> batches = LongTailSampler([0, 0, 0, 1], batch_size=2, seed=0).indices()
        >>> next(batches).shape, batches.state()["step"]
        ((2,), 1)
        """
        return _feeding.Indices(self)

    def dataset(self, data, *, map_fn=None, num_parallel_calls=None, input_context=None):
        """An endless `tf.data.Dataset` of full batches, each gathered at once.

        The dataset is endless, so pass `fit` also `steps_per_epoch=sampler.steps_per_epoch` (and `validation_steps`).
        Pass `shuffle=False` too: otherwise `fit` warns. Every iterator begins with batch `start_step`, and so does each
        call of `fit`.

        `tf.train.Checkpoint` saves an iterator in about 2 KB, and the iterator continues with the very next batch.
        Restoring it with other labels or settings raises an error. The random state of `tf.random.uniform` or of
        Keras's augmentation layers in a `map_fn` is not saved. Their draws then differ. Draws of
        `tf.random.stateless_…` do not differ.

        Under a `tf.distribute` strategy every replica gets its part of each batch (`batch_size` must divide). `fit` and
        `strategy.experimental_distribute_dataset` divide whole batches. Or each worker draws only its own part:

            strategy.distribute_datasets_from_function(
                lambda context: sampler.dataset((features, labels), input_context=context))

        Args:
            data: array or nested structure of arrays `[N, …]`, as `(features, labels)`; also memory-mapped. NumPy
                arrays are not copied.
            map_fn: batch → batch, called as `Dataset.map` calls it. If it has an argument `seed`, this is an int32
                `[2]` tensor for `tf.random.stateless_…`, and differs in each batch.
            num_parallel_calls: as in `Dataset.map`; by default TensorFlow's choice. The batches are the same.
            input_context: `tf.distribute.InputContext`: per-replica batches of this worker's part.

        Raises:
            ValueError: for data of another length than the labels; a batch that does not divide by the replicas.

        Example:

        >>> sampler = LongTailSampler([0, 0, 0, 1], batch_size=2, per_batch="exact", seed=0)
        >>> features, labels = np.arange(8.0).reshape(4, 2), np.array([0, 0, 0, 1])
        >>> for x, y in sampler.dataset((features, labels)).take(2):
        ...     print(x.shape, sorted(y.numpy().tolist()))
        (2, 2) [0, 1]
        (2, 2) [0, 1]
        """
        return _feeding.tf_dataset(
            self, data, map_fn=map_fn, num_parallel_calls=num_parallel_calls, input_context=input_context
        )

    def py_dataset(self, data, *, map_fn=None, **kwargs):
        """An endless `keras.utils.PyDataset` of the same batches, for `fit` on any backend without TensorFlow's data.

        As with `dataset`, give `fit` also `steps_per_epoch=sampler.steps_per_epoch` and `shuffle=False`.

        Args:
            data: as in `dataset`.
            map_fn: as in `dataset`, on NumPy arrays.
            **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of `keras.utils.PyDataset`. With more than
                one worker Keras drops the first batch on JAX and torch.

        Raises:
            ValueError: for data of another length than the labels.

        Example:

        >>> sampler = LongTailSampler([0, 0, 0, 1], batch_size=2, per_batch="exact", seed=0)
        >>> x, y = sampler.py_dataset((np.arange(4.0), np.array([0, 0, 0, 1])))[0]
        >>> sorted(y.tolist())
        [0, 1]
        """
        return _feeding.PyBatches(self, data, map_fn=map_fn, **kwargs)

    def shard(self, num_shards, index):
        """A sampler of part `index` of `num_shards` equal parts of every batch: one for each training process.

        The parts in order make up the batch. `batch_size` stays the size of the whole batch.

        Raises:
            ValueError: for an index outside the shards; a batch that does not divide by them.

        Example:

        >>> whole = LongTailSampler([0, 0, 0, 1], batch_size=4, seed=0)
        >>> parts = [whole.shard(2, i).rows(7).tolist() for i in range(2)]
        >>> parts[0] + parts[1] == whole.rows(7).tolist()
        True
        """
        num_shards = _checks.check_integer(num_shards, "num_shards", minimum=1)
        index = _checks.check_integer(index, "index", minimum=0)
        if index >= num_shards:
            raise ValueError(f"`index` must be below num_shards={num_shards}. Received: index={index}")
        outer, parts = self._part[0], self._part[1] * num_shards
        if self.batch_size % parts:
            raise ValueError(
                f"`batch_size` must divide by the parts that every batch is cut into. Received: "
                f"batch_size={self.batch_size} for {parts} parts."
            )
        part = copy.copy(self)
        part._part = (outer * num_shards + index, parts)
        return part

    def starting_at(self, step):
        """This sampler, beginning with batch `step`.

        Example:

        >>> sampler = LongTailSampler([0, 0, 0, 1], batch_size=2, seed=0)
        >>> next(sampler.starting_at(5).indices()).tolist() == sampler.rows(5).tolist()
        True
        """
        moved = copy.copy(self)
        moved.start_step = _check_step(step)
        return moved

    def state(self, step):
        """The values that `from_state` needs to continue with batch `step`: under 1 KB of JSON, plus the shares if they
        were given as a vector.

        Args:
            step: the number of batches that were used; `kla.callbacks.SamplerBackup` counts them in `fit`. With
                prefetching or torch workers, more batches were taken than used.

        Raises:
            ValueError: for a step that is no integer of at least 0.

        Example:

        >>> sampler = LongTailSampler([0, 0, 0, 1], batch_size=2, seed=0)
        >>> resumed = LongTailSampler.from_state(sampler.state(step=5), labels=[0, 0, 0, 1])
        >>> next(resumed.indices()).tolist() == sampler.rows(5).tolist()
        True
        """
        return {"format": _FORMAT, "step": _check_step(step), "labels_sha256": self._labels_hash, **self._settings}

    @classmethod
    def from_state(cls, state, labels):
        """The sampler of this `state(step)`. It begins with this step. To get a shard, call `shard` again.

        Args:
            state: the result of `state`, also read back from JSON.
            labels: the labels that the sampler was made with. A `MultiLabelSampler` needs its targets.

        Raises:
            ValueError: for other labels, or a state of another format.
        """
        keys = cls._setting_names | _BESIDE_SETTINGS
        if not isinstance(state, dict) or state.get("format") != _FORMAT or state.keys() != keys:
            raise ValueError(
                f"`state` must come from `{cls.__name__}.state` of this version. Received: {reprlib.repr(state)}"
            )
        found, what, received = cls._identity(labels)
        if found != state["labels_sha256"]:
            raise ValueError(
                f"`labels` must be {what} that the state was saved with: their hash differs. Received {received}. "
                "Restore the same data in the same order, or begin with a new sampler."
            )
        settings = {name: value for name, value in state.items() if name in cls._setting_names}
        return cls(labels, **settings).starting_at(state["step"])

    @classmethod
    def _identity(cls, labels):
        """The hash of `labels`, and two parts of the message about others: their name and their number."""
        labels = check_ids(labels)
        return _hash(labels), "those", f"{len(labels)} labels"

    @property
    def fingerprint(self):
        """Hex digits that differ if labels or settings differ."""
        return hashlib.sha256(json.dumps(self.state(0), sort_keys=True).encode()).hexdigest()

    @property
    def rows_in_batch(self):
        """The number of rows in each batch of this sampler. A shard has fewer than `batch_size`."""
        return self.batch_size // self._part[1]

    def block(self, step, steps):
        """`rows` of `steps` consecutive batches, `[steps, rows_in_batch]`."""
        blocks = []
        while steps:
            epoch, place = divmod(step, self.steps_per_epoch)
            blocks.append(self._epoch(epoch)[place : place + steps])
            step, steps = step + len(blocks[-1]), steps - len(blocks[-1])
        first = self._part[0] * self.rows_in_batch
        return np.concatenate(blocks)[:, first : first + self.rows_in_batch]

    def map_seeds(self, step, steps, pieces=1):
        """Int32 seeds `[steps · pieces, 2]` for random operations on each piece of each batch."""
        which, parts = self._part
        batch = np.arange(step, step + steps)[:, None] * parts + which
        return self._plan.seeds((batch * pieces + np.arange(pieces)).ravel())

    def _epoch(self, epoch):
        if (known := self._epochs.get(epoch)) is None:
            known = self._plan.rows(
                epoch * self.steps_per_epoch * self.batch_size, self.steps_per_epoch, self.batch_size
            )
            # Replace the dict and do not change it, because several threads may read it.
            self._epochs = {**dict([*self._epochs.items()][-1:]), epoch: known}
        return known


def _batches(num_examples, batch_size):
    return -(-num_examples // batch_size)


def _hash(labels):
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def _check_step(step):
    step = _checks.check_integer(step, "step", minimum=0)
    if step >= _feeding.MOST_STEPS:
        raise ValueError(f"`step` must be below {_feeding.MOST_STEPS}. Received: step={step}")
    return step
