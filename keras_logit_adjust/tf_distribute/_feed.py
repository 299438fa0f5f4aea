"""The batches of a dataset in the order of a training: epoch after epoch, from any batch on."""

import math

from keras_logit_adjust import _checks
from keras_logit_adjust.tf_distribute import _cluster, _data

_SAME_ORDER = (
    "All workers must read the same batches and take their parts of them: the labels of the first batch differ. Give "
    "`Dataset.shuffle` a seed, or read the same files. (If each worker has its own data, set "
    "`options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF`.)"
)


class Feed:
    """The batches of a dataset, epoch after epoch, divided over the replicas.

    Args:
        dataset: as in `fit`.
        strategy: the strategy of the replicas.
        steps: batches in an epoch; None for all.
        names: the names of the two arguments, for errors.
        sampler: the `LongTailSampler` that makes the batches, or None.
        weigh: a function that adds weights to the batches of a dataset, or None.

    Attributes:
        first_batch: the first batch, for its shapes.
        steps: batches in an epoch; None if it is not known.
        batch_size: rows of the first batch; None if it is not known.
        is_full: whether every replica always gets the same number of examples.
    """

    def __init__(self, dataset, strategy, *, steps, names=("dataset", "steps"), sampler=None, weigh=None):
        self.strategy, self.steps, self.names = strategy, steps, names
        self._sampler, self._given, self._weigh = sampler, dataset, weigh
        if steps is not None:
            _checks.check_integer(steps, names[1], minimum=1)
        if sampler is not None:
            if not callable(dataset):
                raise ValueError(
                    "With `sampler`, `dataset` must be a function of it, because it may start at another batch: "
                    f"`lambda sampler: sampler.dataset((x, y))`. Received: {type(dataset).__name__}"
                )
            self.steps = steps or sampler.steps_per_epoch
        self._is_continuous, self._repeats = self.steps is not None, False
        whole = self._beginning_at(0)
        self.first_batch = _data.first_batch(whole, names[0])
        self.batch_size = _data.whole_rows(whole, self.first_batch, strategy)
        self.is_full = _data.has_full_batches(whole, strategy)
        _cluster.check_same_everywhere(strategy, _data.hash_of_labels(whole, self.first_batch), rule=_SAME_ORDER)
        self._settle_steps(_data.count_batches(whole))
        self._whole = _data.distribute(self._beginning_at(0), strategy)
        self._iterator = None

    def check_fills_replicas(self):
        """Raise if the first batch leaves a replica without examples, which is an error in training."""
        replicas = self.strategy.num_replicas_in_sync
        if self.batch_size is not None and self.batch_size < replicas:
            raise ValueError(
                f"Each of the {replicas} replicas needs an example of a batch. Received a first batch of "
                f"{self.batch_size} in `{self.names[0]}`: make the batches larger, or use fewer devices."
            )

    def _settle_steps(self, length):
        """Set the end of an epoch, from the number of batches: None if unknown, infinite if endless."""
        name, steps_name = self.names
        if not self._is_continuous:
            if length == math.inf:
                raise ValueError(f"`{name}` never ends: give the length of an epoch, `{steps_name}`.")
            self.steps = length
        elif length is not None and length < self.steps:
            raise ValueError(
                f"`{name}` must have the batches of an epoch. Received {length} batches and {steps_name}={self.steps}. "
                f"Remedy: leave `{steps_name}` out, or call `.repeat()` on it."
            )
        else:
            # As in Keras's `fit`: data that ends with an epoch starts again with the next.
            self._repeats = self._sampler is None and length not in (None, math.inf) and length % self.steps == 0

    def _beginning_at(self, step):
        dataset = self._given
        if self._sampler is not None:
            dataset = dataset(self._sampler.starting_at(self._sampler.start_step + step))
        _data.check_dataset(dataset, self.names[0])
        dataset = dataset.repeat() if self._repeats else dataset
        dataset = dataset.skip(step) if step and self._sampler is None else dataset
        return dataset if self._weigh is None else self._weigh(dataset)

    def iterator(self, place):
        """An iterator over the batches from `place` on."""
        if not self._is_continuous:
            return self.iterate(place.batch)
        if self._iterator is None:
            self._iterator = self.iterate(place.steps)
        return self._iterator

    def iterate(self, done=0):
        """An iterator over the batches after the finished ones."""
        if not done:
            return iter(self._whole)
        if hasattr(self._given, "skip") or self._sampler is not None:
            return iter(_data.distribute(self._beginning_at(done), self.strategy))
        iterator = iter(self._whole)  # a distributed dataset cannot skip: batches are read and dropped
        for _ in range(done):
            next(iterator)
        return iterator

    def check_end(self, place):
        """Raise if the data ended before an epoch of a given length did."""
        if self._is_continuous:
            raise ValueError(
                f"`{self.names[0]}` ran out of batches {place}, before the {self.steps} that make an epoch. Remedy: "
                f"leave `{self.names[1]}` out, or call `.repeat()` on it."
            )
