"""The batches of a dataset as a training reads them: epoch after epoch, from any batch on."""

from keras_logit_adjust import _checks
from keras_logit_adjust.tf_distribute import _data


class Feed:
    """The batches of a dataset, epoch after epoch, cut over the replicas.

    Attributes:
        first_batch: for its shapes.
        steps: batches in an epoch, None where nobody knows.
        is_full: whether every replica always gets the same number of examples.
    """

    def __init__(self, dataset, strategy, steps, sampler=None, class_weight=None, name="dataset"):
        self.strategy, self.steps, self.name = strategy, steps, name
        self._sampler, self._given, self._class_weight = sampler, dataset, class_weight
        if sampler is not None:
            if not callable(dataset):
                raise ValueError(
                    "With `sampler`, `dataset` must be a function of it, for it begins anew at another batch: "
                    f"`lambda sampler: sampler.dataset((x, y))`. Received: {type(dataset).__name__}"
                )
            self.steps = self.steps or sampler.steps_per_epoch
        if steps is not None:
            _checks.check_integer(steps, "steps_per_epoch", minimum=1)
        whole = self._beginning_at(0)
        _data.check_dataset(whole, name)
        self.first_batch = _data.first_batch(whole, strategy, name)
        self.is_full = _data.has_full_batches(whole, strategy)
        self._is_continuous = self.steps is not None
        if not self._is_continuous:
            self.steps = self._count_batches(whole)
        self._whole = _data.distribute(whole, strategy)
        self._iterator = None

    def _count_batches(self, dataset):
        import tensorflow as tf

        if isinstance(dataset, tf.distribute.DistributedDataset):
            return None
        number = int(dataset.cardinality())
        if number == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                f"`{self.name}` never ends: say where an epoch does, `steps_per_epoch` (of a validation "
                "`validation_steps`)."
            )
        return None if number == tf.data.UNKNOWN_CARDINALITY else number

    def _beginning_at(self, step):
        dataset = self._given
        if self._sampler is not None:
            dataset = dataset(self._sampler.starting_at(self._sampler.start_step + step))
        elif step:
            dataset = dataset.skip(step)
        _data.check_dataset(dataset, self.name)
        return dataset if self._class_weight is None else _data.weigh_classes(dataset, self._class_weight)

    def iterator(self, place):
        """What gives the batches from `place` on."""
        if not self._is_continuous:
            return self._iterate(place.batch)
        if self._iterator is None:
            self._iterator = self._iterate(place.steps)
        return self._iterator

    def _iterate(self, done):
        if not done:
            return iter(self._whole)
        if hasattr(self._given, "skip") or self._sampler is not None:
            return iter(_data.distribute(self._beginning_at(done), self.strategy))
        iterator = iter(self._whole)  # a distributed dataset cannot skip: drawn and thrown away
        for _ in range(done):
            next(iterator)
        return iterator

    def from_start(self):
        """What gives the batches from the first on."""
        return self._iterate(0)

    def check_end(self, place):
        """Raise where the data ended before an epoch of a given length did."""
        if self._is_continuous:
            raise ValueError(
                f"`{self.name}` ran out of batches {place}, before the {self.steps} that make an epoch. Remedy: leave "
                "`steps_per_epoch` out, or call `.repeat()` on it."
            )
