"""The logit-adjusted losses: cross-entropy of `f + τ·log π`. After training the *unadjusted* `argmax f` is balanced.

The loss adds the term, and `kla.adjust` subtracts it. Both for one model would correct the prior twice.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, _precision, priors
from keras_logit_adjust.losses import _base

_LARGEST_LOG_ODDS = 100  # 10⁴³ examples to one: larger numbers are counts


def logit_adjusted_crossentropy(y_true, y_pred, log_prior, *, tau=1.0, label_smoothing=0.0, ignore_class=None):
    """Per-example logit-adjusted cross-entropy, `−log softmax(f + τ·log π)_y`.

    For soft labels `t` the loss is `Σ_y t_y·(lse(g) − g_y)` with `g = f + τ·log π`; a term with `t_y = 0` is 0. For ids
    it equals `keras.losses.sparse_categorical_crossentropy(y_true, y_pred + tau * log_prior, from_logits=True)`, and
    for rows Keras's categorical cross-entropy. Ids stay exact here, and half-precision logits are raised to float32
    first.

    Args:
        y_true: class ids `[...]` or `[..., 1]`, or one-hot or soft rows `[..., L]`; told apart by static shape.
        y_pred: logits `[..., L]`. Do not give probabilities: the function cannot tell them from logits.
        log_prior: `[L]` finite natural logarithms, from `kla.priors.log_prior`; none above 0.
        tau: strength of the adjustment, a number or a vector `[L]`; 0 is plain cross-entropy.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions give 0 (ids only).

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range, or the sum of a row is above 1
        (by more than rounding). A row of zeros costs 0.

    Raises:
        ValueError: for shapes that do not fit; a prior or τ that is not finite or of another length; counts in place of
            a log-prior; NumPy rows with numbers outside [0, 1].

    Example:

    >>> import numpy as np
    >>> logits = np.zeros((2, 2), "float32")
    >>> losses = logit_adjusted_crossentropy(np.array([0, 1]), logits, np.log([0.75, 0.25]))
    >>> [round(float(x), 4) for x in losses]  # −log ¾ and −log ¼
    [0.2877, 1.3863]

    Reference: Menon et al. (2021), §5, equation 10.
    """
    log_prior = _checks.as_log_prior(log_prior)
    adjustment = _checks.as_tau(tau, log_prior.size) * log_prior
    options = _base.checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
    return _labels.zero_masked(*_softmax_values(y_true, y_pred, adjustment, **options))


def binary_logit_adjusted_crossentropy(y_true, y_pred, log_odds, *, tau=1.0, label_smoothing=0.0, ignore_class=None):
    """Per-example logit-adjusted sigmoid cross-entropy, `Σ_l [−t·log σ(g) − (1 − t)·log σ(−g)] / L`.

    Here `g_l = f_l + τ·log(π_l / (1 − π_l))`. If every label is known, this equals
    `keras.losses.binary_crossentropy(y_true, y_pred + tau * log_odds, from_logits=True)`.

    Args:
        y_true: targets in [0, 1], `[..., L]` (`[...]` when `L = 1`).
        y_pred: logits `[..., L]`.
        log_odds: `[L]` finite log-odds of each label, from `kla.priors.log_odds`.
        tau: strength of the adjustment, a number or a vector `[L]`; 0 is plain cross-entropy.
        label_smoothing: share ε in [0, 1): targets become `t·(1 − ε) + ε/2`.
        ignore_class: a target value, such as −1, that marks an unknown label. An unknown label adds 0, so every known
            label weighs the same.

    Returns:
        Tensor `[...]` of losses in nats; 0 where no label is known, NaN where a target is outside [0, 1].

    Raises:
        ValueError: for shapes that do not fit, log-odds or τ that are not finite or of another length, and log-odds
            beyond ±100, which are counts.

    Example:

    >>> import numpy as np
    >>> losses = binary_logit_adjusted_crossentropy(np.array([[1, 0]]), np.zeros((1, 2)), np.log([1 / 3, 1]))
    >>> [round(float(x), 4) for x in losses]  # (−log ¼ − log ½) / 2
    [1.0397]

    Reference: Menon et al. (2021), §5, equation 10 for two classes.
    """
    log_odds = _checks.as_vector(log_odds, "log_odds")
    _checks.refuse_numbers(
        np.abs(log_odds) > _LARGEST_LOG_ODDS,
        log_odds,
        "log_odds",
        f"Every number in `log_odds` must be from −{_LARGEST_LOG_ODDS} to {_LARGEST_LOG_ODDS}.",
        remedy=": give kla.priors.log_odds(positive_counts, num_examples).",
    )
    adjustment = _checks.as_tau(tau, log_odds.size) * log_odds
    options = _base.checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
    return _sigmoid_values(y_true, y_pred, adjustment, **options)[0]


def _softmax_values(y_true, y_pred, adjustment, *, label_smoothing, ignore_class, class_weight=None):
    """Values and mask of the softmax cross-entropy of `y_pred + adjustment`. Label y has weight `class_weight[y]`."""
    labels = _labels.read(y_true, y_pred, adjustment.size, ignore_class=ignore_class)
    logits = _adjust(labels.logits, adjustment)
    weight = None if class_weight is None else ops.convert_to_tensor(class_weight, dtype=logits.dtype)
    # With smoothing the target has several classes, each with its own weight. So rows are needed.
    if labels.ids is None or (label_smoothing and weight is not None):
        targets = labels.targets(logits.dtype, label_smoothing)
        scores, log_total = _log_softmax_parts(logits)
        excess = ops.expand_dims(log_total, -1) - scores
        return labels.spoil(_base.expected_cost(targets, 1.0 if weight is None else weight, excess)), labels.kept
    if not label_smoothing and _prefers_fused_kernel(labels.y_pred):
        values = ops.sparse_categorical_crossentropy(labels.ids, logits, from_logits=True)
    else:
        values = _id_values(labels.ids, logits, label_smoothing)
    return labels.spoil(values if weight is None else ops.take(weight, labels.ids) * values), labels.kept


def _sigmoid_values(y_true, y_pred, adjustment, *, label_smoothing, ignore_class, class_weight=None):
    """The sigmoid cross-entropy of `y_pred + adjustment`, summed over known labels and divided by L; their share."""
    labels = _labels.read_targets(y_true, y_pred, adjustment.size, ignore_class=ignore_class)
    logits = _adjust(labels.logits, adjustment)
    targets = labels.rows * (1.0 - label_smoothing) + 0.5 * label_smoothing
    # Two softplus terms have full relative precision. softplus(f) − t·f would lose digits.
    values = labels.spoil(targets * ops.softplus(-logits) + (1.0 - targets) * ops.softplus(logits))
    if class_weight is not None:
        values = values * ops.convert_to_tensor(class_weight, dtype=values.dtype)
    known = None if labels.kept is None else _precision.mean(ops.cast(labels.kept, values.dtype))
    return _precision.mean(_labels.zero_masked(values, labels.kept)), known


def _adjust(y_pred, adjustment):
    logits = _labels.at_least_float32(y_pred)
    adjustment = ops.convert_to_tensor(adjustment, dtype=logits.dtype)
    if logits is y_pred or len(logits.shape) < 2 or not _runs_op_by_op():
        return logits + adjustment
    import tensorflow as tf

    return tf.nn.bias_add(logits, adjustment)  # the same sum, but an eager tape keeps no float32 copy of it


def _id_values(ids, logits, label_smoothing):
    scores, log_total = _log_softmax_parts(logits)
    chosen = ops.squeeze(ops.take_along_axis(scores, ops.expand_dims(ids, -1), axis=-1), axis=-1)
    if label_smoothing:
        chosen = (1.0 - label_smoothing) * chosen + label_smoothing * _precision.mean(scores)
    return log_total - chosen


def _prefers_fused_kernel(y_pred):
    """Whether the fused kernel of TensorFlow or torch is better than several operations.

    It is faster if operations run one by one. It is not faster when compiled. But for half-precision logits it makes
    only a third of the float32 copies.
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
    """`z = g − max g` and `log Σ exp z`. `log Σ exp z − z` is `−log softmax(g)`, even for very large logits."""
    # Without an initial value Keras refuses an empty batch.
    shifted = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True, initial=-np.inf))
    return shifted, ops.log(ops.sum(ops.exp(shifted), axis=-1))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class LogitAdjustedCrossentropy(_base.MaskedLoss):
    """Logit-adjusted softmax cross-entropy, `log[1 + Σ_{y'≠y} (π_y'/π_y)^τ · e^{f_y' − f_y}]`.

    The loss trains `f + τ·log π`. Predict with the plain `argmax f`. At `τ = 1` the minimizer is Bayes-optimal for the
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

    _arguments = ("class_counts", "tau")

    def __init__(
        self,
        class_counts,
        *,
        tau=1.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="logit_adjusted_crossentropy",
    ):
        super().__init__(label_smoothing=label_smoothing, ignore_class=ignore_class, reduction=reduction, name=name)
        self.prior = priors.as_prior(class_counts, independent=False)
        self.class_counts = self.prior.counts
        self.tau = _checks.as_tau(tau, self.prior.size)
        self.adjustment = self.tau * self.prior.logits

    def values_and_mask(self, y_true, y_pred):
        _base.warn_of_bounded_logits(y_pred, self.adjustment)
        return _softmax_values(y_true, y_pred, self.adjustment, class_weight=self.reweighted(), **self._options)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class BinaryLogitAdjustedCrossentropy(_base.MaskedLoss):
    """Logit-adjusted sigmoid cross-entropy for independent labels, on `f_l + τ·log(π_l / (1 − π_l))`.

    Each label is a problem of two classes. The value of an example is the mean over its labels, as in
    `keras.losses.BinaryCrossentropy`. Predict with the unadjusted logits: the threshold of every label is 0. If some
    labels are unknown, the mean is over all known labels of the batch together, so each known label weighs the same.
    Values are those of `binary_logit_adjusted_crossentropy`.

    Args:
        positive_counts: `[L]` training examples in which each label is on, strictly between 0 and `num_examples`; or a
            `kla.priors.Prior` of independent labels, for example a smoothed one.
        num_examples: the number of training examples. A `Prior` knows it.
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

    _arguments = ("positive_counts", "num_examples", "tau")

    def __init__(
        self,
        positive_counts,
        num_examples=None,
        *,
        tau=1.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="binary_logit_adjusted_crossentropy",
    ):
        super().__init__(label_smoothing=label_smoothing, ignore_class=ignore_class, reduction=reduction, name=name)
        self.prior = priors.as_prior(positive_counts, num_examples, independent=True, name="positive_counts")
        self.positive_counts, self.num_examples = self.prior.counts, self.prior.num_examples
        self.tau = _checks.as_tau(tau, self.prior.size)
        self.adjustment = self.tau * self.prior.logits

    def values_and_mask(self, y_true, y_pred):
        return _sigmoid_values(y_true, y_pred, self.adjustment, class_weight=self.stage_weight, **self._options)
