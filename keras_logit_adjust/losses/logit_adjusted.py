"""The logit-adjusted losses: cross-entropy of `f + τ·log π`, which makes the *unadjusted* `argmax f` balanced.

The loss adds, `kla.adjust` subtracts; doing both to one model corrects the prior twice.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, priors
from keras_logit_adjust.losses import _base


def logit_adjusted_crossentropy(y_true, y_pred, log_prior, *, tau=1.0, label_smoothing=0.0, ignore_class=None):
    """Per-example logit-adjusted cross-entropy, `−log softmax(f + τ·log π)_y`.

    For soft labels `t`, `Σ_y t_y·(lse(g) − g_y)` with `g = f + τ·log π`, 0 where `t_y` is 0. Equals
    `keras.losses.sparse_categorical_crossentropy(y_true, y_pred + tau * log_prior, from_logits=True)` and its
    categorical twin, with ids kept exact and half-precision logits raised to float32 first.

    Args:
        y_true: class ids `[...]` or `[..., 1]`, or one-hot or soft rows `[..., L]`; told apart by static shape.
        y_pred: logits `[..., L]`. Probabilities are not accepted and cannot be told apart: give logits.
        log_prior: `[L]` finite natural logarithms, from `kla.priors.log_prior`.
        tau: strength of the adjustment, a number or a vector `[L]`; 0 is plain cross-entropy.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions give 0 (ids only).

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range.

    Raises:
        ValueError: for shapes that do not fit, a prior or τ that is not finite or of another length.

    Example:

    >>> import numpy as np
    >>> logits = np.zeros((2, 2), "float32")
    >>> losses = logit_adjusted_crossentropy(np.array([0, 1]), logits, np.log([0.75, 0.25]))
    >>> [round(float(x), 4) for x in losses]  # −log ¾ and −log ¼
    [0.2877, 1.3863]

    Reference: Menon et al. (2021), §5, equation 10.
    """
    log_prior = _checks.as_vector(log_prior, "log_prior")
    adjustment = _checks.as_tau(tau, log_prior.size) * log_prior
    label_smoothing = _checks.check_fraction(label_smoothing, "label_smoothing")
    ignore_class = _checks.check_ignore_class(ignore_class)
    values, mask = _adjusted_values(y_true, y_pred, adjustment, label_smoothing, ignore_class)
    return values if mask is None else ops.where(mask, values, ops.zeros_like(values))


def _adjusted_values(y_true, y_pred, adjustment, label_smoothing, ignore_class, class_weight=None):
    """Values and mask of the softmax cross-entropy of `y_pred + adjustment`, label y weighing `class_weight[y]`."""
    y_true, y_pred = _labels.to_tensor(y_true), _labels.to_tensor(y_pred)
    leading = _labels.check_width(y_pred, adjustment.size)
    if not _labels.are_ids(y_true, leading, adjustment.size):
        _labels.refuse_ignored_rows(ignore_class)
        return _soft_values(y_true, _adjust(y_pred, adjustment), label_smoothing, class_weight), None
    ids, proper, kept = _labels.settle_ids(y_true, leading, adjustment.size, ignore_class)
    if kept is not None:
        y_pred = _labels.zero_masked(y_pred, kept)
    fused = not label_smoothing and _prefers_fused_kernel(y_pred)
    values = _id_values(ids, _adjust(y_pred, adjustment), label_smoothing, class_weight, fused)
    # A factor of NaN, not a constant: the gradient of an improper label must not pass for one of class 0.
    return values * ops.where(proper, ops.ones_like(values), np.nan), kept


def _adjust(y_pred, adjustment):
    logits = _labels.at_least_float32(y_pred)
    adjustment = ops.convert_to_tensor(adjustment, dtype=logits.dtype)
    if logits is y_pred or len(logits.shape) < 2 or not _runs_op_by_op():
        return logits + adjustment
    import tensorflow as tf

    return tf.nn.bias_add(logits, adjustment)  # the same sum, of which an eager tape keeps no float32 copy


def _id_values(ids, logits, label_smoothing, class_weight, fused):
    if class_weight is not None:
        if label_smoothing:  # weighs every class of the smoothed target by its own weight
            return _soft_values(ops.one_hot(ids, logits.shape[-1]), logits, label_smoothing, class_weight)
        weight = ops.take(ops.convert_to_tensor(class_weight, dtype=logits.dtype), ids)
        return weight * _id_values(ids, logits, label_smoothing, None, fused)
    if fused:
        return ops.sparse_categorical_crossentropy(ids, logits, from_logits=True)
    scores, log_total = _log_softmax_parts(logits)
    chosen = ops.squeeze(ops.take_along_axis(scores, ops.expand_dims(ids, -1), axis=-1), axis=-1)
    if label_smoothing:
        chosen = (1.0 - label_smoothing) * chosen + label_smoothing * ops.mean(scores, axis=-1)
    return log_total - chosen


def _prefers_fused_kernel(y_pred):
    """Whether the one fused kernel of TensorFlow or torch serves better than a handful of operations.

    Run op by op it is faster. Compiled it is not, but of half-precision logits it makes a third of the float32 copies.
    """
    backend = keras.backend.backend()
    is_half = keras.backend.standardize_dtype(y_pred.dtype) in ("float16", "bfloat16")
    return backend == "torch" or _runs_op_by_op() or (backend == "tensorflow" and is_half)


def _runs_op_by_op():
    """Whether TensorFlow runs eagerly."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.executing_eagerly()


def _log_softmax_parts(logits):
    """`z = g − max g` and `log Σ exp z`, whose difference is `−log softmax(g)`, however large the logits are."""
    # An initial value, for without one Keras refuses an empty batch.
    shifted = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True, initial=-np.inf))
    return shifted, ops.log(ops.sum(ops.exp(shifted), axis=-1))


def _soft_values(targets, logits, label_smoothing, class_weight):
    scores, log_total = _log_softmax_parts(logits)
    targets = ops.cast(targets, scores.dtype)
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[-1]
    if class_weight is not None:
        targets = targets * ops.convert_to_tensor(class_weight, dtype=targets.dtype)
    costs = ops.expand_dims(log_total, -1) - scores
    # A logit of −inf costs nothing where its target is 0; selecting inside keeps the gradient finite too.
    costs = ops.where(ops.equal(targets, 0.0), ops.zeros_like(costs), costs)
    return ops.sum(targets * costs, axis=-1)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class LogitAdjustedCrossentropy(_base.MaskedLoss):
    """Logit-adjusted softmax cross-entropy, `log[1 + Σ_{y'≠y} (π_y'/π_y)^τ · e^{f_y' − f_y}]`.

    Trains on `f + τ·log π`; predict with the plain `argmax f`. At `τ = 1` its minimizer is Bayes-optimal for the
    balanced error. Values are those of `logit_adjusted_crossentropy`.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0; or an object with an
            `effective_prior`, such as a sampler.
        tau: strength of the adjustment, a number or a vector `[L]`; 0 is plain cross-entropy.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions are left out of value, gradient and mean (ids only).
        reduction: as in `keras.losses.Loss`; a mean is over valid positions, under `tf.distribute` over all replicas.
        name: name of the loss.

    Call arguments: `y_true` class ids `[...]` or `[..., 1]`, or one-hot or soft rows `[..., L]`; `y_pred` logits
    `[..., L]`; `sample_weight` any leading part of `[...]`, expanded to the right.

    Raises:
        ValueError: for counts, τ or shapes that do not fit, naming the classes.

    Example:

    >>> import numpy as np
    >>> loss = LogitAdjustedCrossentropy(class_counts=[75, 25])
    >>> round(float(loss(np.array([0, 1]), np.zeros((2, 2)))), 4)  # (−log ¾ − log ¼) / 2
    0.837

    Reference: Menon et al. (2021), §5, equation 10 and Theorem 1.
    """

    def __init__(
        self,
        class_counts,
        tau=1.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="logit_adjusted_crossentropy",
    ):
        super().__init__(reduction=reduction, name=name)
        self.class_counts = _checks.as_counts(class_counts)
        self.tau = _checks.as_tau(tau, self.class_counts.size)
        self.label_smoothing = _checks.check_fraction(label_smoothing, "label_smoothing")
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        self.adjustment = self.tau * priors.log_prior(self.class_counts)

    def values_and_mask(self, y_true, y_pred):
        _base.warn_of_bounded_logits(y_pred, self.adjustment)
        options = (self.label_smoothing, self.ignore_class, self.reweighted())
        return _adjusted_values(y_true, y_pred, self.adjustment, *options)

    def get_config(self):
        return {
            "class_counts": self.class_counts.tolist(),
            "tau": self.tau.tolist(),
            "label_smoothing": self.label_smoothing,
            "ignore_class": self.ignore_class,
            **super().get_config(),
        }


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class BinaryLogitAdjustedCrossentropy(_base.MaskedLoss):
    """Logit-adjusted sigmoid cross-entropy for multi-label problems, on `f_l + τ·log(π_l / (1 − π_l))`.

    Each label is a problem of two classes of its own; the value of an example is the mean over its labels, as in
    `keras.losses.BinaryCrossentropy`. Predict with the unadjusted logits: the threshold of every label is 0.

    Args:
        positive_counts: `[L]` training examples in which each label is on, strictly between 0 and `num_examples`.
        num_examples: the number of training examples.
        tau: strength of the adjustment, a number or a vector `[L]`.
        label_smoothing: share ε in [0, 1): targets become `t·(1 − ε) + ε/2`.
        ignore_class: a target value, such as −1, that marks an unknown label: left out of value, gradient and mean.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Call arguments: `y_true` targets in [0, 1] of shape `[..., L]` (`[...]` when `L = 1`); `y_pred` logits `[..., L]`.
    A target outside [0, 1] gives NaN.

    Raises:
        ValueError: for counts, τ or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> loss = BinaryLogitAdjustedCrossentropy(positive_counts=[25, 50], num_examples=100)
    >>> round(float(loss(np.array([[1, 0]]), np.zeros((1, 2)))), 4)  # (−log ¼ − log ½) / 2
    1.0397

    Reference: Menon et al. (2021), §5, equation 10 for two classes.
    """

    def __init__(
        self,
        positive_counts,
        num_examples,
        tau=1.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="binary_logit_adjusted_crossentropy",
    ):
        super().__init__(reduction=reduction, name=name)
        self.positive_counts = _checks.as_positive_counts(positive_counts, num_examples)
        self.num_examples = float(num_examples)
        self.tau = _checks.as_tau(tau, self.positive_counts.size)
        self.adjustment = self.tau * priors.log_odds(self.positive_counts, self.num_examples)
        self.label_smoothing = _checks.check_fraction(label_smoothing, "label_smoothing")
        self.ignore_class = _checks.check_ignore_class(ignore_class)

    def values_and_mask(self, y_true, y_pred):
        targets, known = self._settle_targets(y_true, y_pred)
        if known is not None:
            y_pred = _labels.zero_masked(y_pred, known)
        logits = _adjust(y_pred, self.adjustment)
        targets = ops.cast(targets, logits.dtype)
        proper = ops.logical_and(ops.greater_equal(targets, 0.0), ops.less_equal(targets, 1.0))
        targets = targets * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        # Two softplus terms keep full relative precision where softplus(f) − t·f cancels.
        values = targets * ops.softplus(-logits) + (1.0 - targets) * ops.softplus(logits)
        values = values * ops.where(proper, ops.ones_like(values), np.nan)
        if self.stage_weight is not None:
            values = values * ops.convert_to_tensor(self.stage_weight, dtype=values.dtype)
        if known is None:
            return ops.mean(values, axis=-1), None
        values = ops.where(known, values, ops.zeros_like(values))
        number = ops.sum(ops.cast(known, values.dtype), axis=-1)
        return ops.divide_no_nan(ops.sum(values, axis=-1), number), ops.greater(number, 0.0)

    def _settle_targets(self, y_true, y_pred):
        """Targets of the shape of `y_pred`, and which of them are known (None where all are)."""
        num_labels = self.adjustment.size
        leading = _labels.check_width(y_pred, num_labels)
        shape = _labels.static_shape(y_true, "y_true")
        if num_labels == 1 and len(shape) == len(leading):
            y_true = ops.expand_dims(y_true, axis=-1)
        elif len(shape) != len(leading) + 1 or shape[-1] != num_labels:
            remedy = _labels.UNKNOWN if None in shape[-1:] else "For class ids use `LogitAdjustedCrossentropy`."
            raise ValueError(
                f"`y_true` must have the shape of `y_pred`, {(*leading, num_labels)}, one target for each label. "
                f"Received shape {shape}. {remedy}"
            )
        _labels.check_agreement(shape[: len(leading)], leading)
        if self.ignore_class is None:
            return y_true, None
        known = ops.not_equal(y_true, self.ignore_class)
        return ops.where(known, y_true, ops.zeros_like(y_true)), known

    def get_config(self):
        return {
            "positive_counts": self.positive_counts.tolist(),
            "num_examples": self.num_examples,
            "tau": self.tau.tolist(),
            "label_smoothing": self.label_smoothing,
            "ignore_class": self.ignore_class,
            **super().get_config(),
        }
