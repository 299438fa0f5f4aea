"""A class prior that is estimated while the model trains, for data that cannot be counted before."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _replicas

_CARRY = 2.0**20  # multiples of this are kept in a second number, because float32 counts exactly only up to 2²⁴


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class StreamingPrior:
    """An online estimate of the class prior, `π_y = (n_y + s) / (Σ n + s·L)`, from the labels seen so far.

    - exact, the default: `n_y` counts every label since the beginning, without error up to 2⁴⁴ for each class.
    - with a half-life of h examples: `n_y ← n_y · 2^(−B/h) + (labels y in a batch of B)`, which follows a mix that
      drifts. From `h = 10⁷` on, float32 causes an error of 0.1 % in the prior.

    The counts are a variable. It is saved with the head that uses it, is equal on all replicas of `tf.distribute`, and
    changes in a compiled step on every backend. Give the object to a head, `StreamingPriorDense(L, StreamingPrior(L))`,
    in a `kla.priors.CountingModel`, whose training steps give it their labels. In a training loop of your own call
    `update`. In a plain model nothing counts, and the prior stays uniform.

    A loss takes only a fixed prior and refuses this object: on JAX a variable inside a loss is frozen when the step is
    traced. Give it `snapshot()`.

    Args:
        num_classes: number of classes `L ≥ 2`.
        half_life: examples after which a label counts half; None never forgets.
        smoothing: pseudo-examples `s > 0` of every class, so that a class without examples has a finite log-prior.
        ignore_class: a class id that is not counted.

    Raises:
        ValueError: for arguments that do not fit.

    Example:

    >>> import numpy as np
    >>> streaming = StreamingPrior(num_classes=2, smoothing=1)
    >>> streaming.update(np.array([0, 0, 1]))
    >>> streaming.update(np.array([0, 0, 0]))
    >>> streaming.class_counts.tolist(), streaming.snapshot().tolist()
    ([5.0, 1.0], [0.75, 0.25])

    Reference: Menon et al. (2021), §4 and §5, for `π`; its estimate with Laplace smoothing.
    """

    def __init__(self, num_classes, *, half_life=None, smoothing=1.0, ignore_class=None):
        self.num_classes = _labels.check_num_classes(num_classes)
        self.half_life = half_life if half_life is None else _checks.check_positive(half_life, "half_life")
        self.smoothing = _checks.check_positive(smoothing, "smoothing")
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        self.counts = keras.Variable(
            "zeros",
            shape=(2, self.num_classes),  # the first row is below `_CARRY`, the second has multiples of it
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",  # every replica assigns the same value
            name="counts",
        )

    def update(self, y_true, y_pred=None):
        """Count the labels of one training batch, of all replicas together.

        Args:
            y_true: ids `[…]` or one-hot or soft rows `[…, L]`.
            y_pred: predictions `[…, L]`, whose shape tells ids from rows. Without them several columns of floats are
                rows, and integers with `L` columns are refused.

        Positions that the mask of `y_pred` leaves out, such as padding, are not counted. A fractional or out-of-range
        id makes the counts NaN. A row of several labels does so too.
        """
        (batch,) = _replicas.sum_over_replicas([self._count(y_true, y_pred)])
        low, high = ops.unstack(ops.convert_to_tensor(self.counts), axis=0)
        if self.half_life is not None:
            low = low * ops.exp2(-ops.sum(batch) / self.half_life) + batch
        else:
            low = low + batch
            carried = _CARRY * ops.floor(low / _CARRY)
            low, high = low - carried, high + carried
        self.counts.assign(ops.stack([low, high]))

    def log_prior(self):
        """The current `log π`, a float32 tensor `[L]`. In a compiled step it is computed from the current counts."""
        smoothed = ops.sum(ops.convert_to_tensor(self.counts), axis=0) + self.smoothing
        return ops.log(smoothed) - ops.log(ops.sum(smoothed))

    @property
    def class_counts(self):
        """The current counts, float64 `[L]`, without smoothing."""
        return ops.convert_to_numpy(self.counts).astype("float64").sum(axis=0)

    def snapshot(self):
        """The current prior, float64 `[L]`. Give it as `class_counts` to a loss, a layer or `kla.adjust`."""
        smoothed = self.class_counts + self.smoothing
        return smoothed / smoothed.sum()

    @property
    def effective_prior(self):
        """Raises an error: a function that takes a fixed prior would keep the prior of this moment."""
        raise ValueError(
            "A StreamingPrior changes while the model trains, and this takes a prior that stays: give it "
            "`streaming_prior.snapshot()`. Live it feeds a head, `kla.layers.StreamingPriorDense(L, streaming_prior)`."
        )

    def _count(self, y_true, y_pred):
        labels = _labels.read(y_true, y_pred, self.num_classes, ignore_class=self.ignore_class, allow_negative=True)
        layer_mask = None if y_pred is None else _keras.mask_of(y_pred)
        if labels.ids is None:
            rows = ops.where(ops.expand_dims(labels.proper, -1), ops.cast(labels.rows, "float32"), np.nan)
            rows = _labels.zero_masked(rows, layer_mask)
            return _labels.sum_rows(ops.reshape(rows, (-1, self.num_classes)))
        one = labels.spoil(ops.ones_like(labels.ids, dtype="float32"))
        kept = _labels.combine_masks(len(labels.ids.shape), layer_mask, labels.kept)
        return _labels.sum_by_class(_labels.zero_masked(one, kept), labels.ids, self.num_classes)

    def get_config(self):
        """The arguments as plain values. The counts are saved with the head that uses them."""
        return {
            "num_classes": self.num_classes,
            "half_life": self.half_life,
            "smoothing": self.smoothing,
            "ignore_class": self.ignore_class,
        }

    @classmethod
    def from_config(cls, config):
        """A new `StreamingPrior` with these arguments. It has counted nothing yet."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class CountingModel(keras.Model):
    """A `keras.Model` whose training steps give their labels to every `streaming_prior` of its layers.

    A step trains with the prior of all earlier labels. Then its own labels are counted, in place and on any backend.
    Evaluation counts nothing.

    Raises:
        ValueError: in `fit`, for targets that are not one array of labels.

    Example:

    >>> import numpy as np
    >>> from keras_logit_adjust.layers import StreamingPriorDense
    >>> inputs, streaming = keras.Input((3,)), StreamingPrior(num_classes=2)
    >>> model = CountingModel(inputs, StreamingPriorDense(2, streaming)(inputs))
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> _ = model.fit(np.ones((4, 3)), np.array([0, 0, 0, 1]), epochs=2, verbose=0)
    >>> streaming.class_counts.tolist()
    [6.0, 2.0]
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            followed = (getattr(layer, "streaming_prior", None) for layer in _keras.layers_of(self))
            for streaming_prior in {id(prior): prior for prior in followed if prior is not None}.values():
                self._show(streaming_prior, y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _show(self, streaming_prior, y, y_pred):
        if isinstance(y, (list, tuple)) and len(y) == 1:
            (y,) = y
        if keras.tree.is_nested(y) or y is None:
            raise ValueError(
                "`CountingModel` counts the labels of one output. Received targets "
                f"{keras.tree.map_structure(lambda leaf: '…', y)}: call `streaming_prior.update(labels)` in a "
                "`compute_loss` of your own."
            )
        streaming_prior.update(y, y_pred)
