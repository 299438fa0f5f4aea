"""Losses that weigh examples and do not shift logits. Weights depend on class frequency, or on how hard examples are.

Weights decide which examples are fitted first. If a flexible model fits all examples, weights have little effect. This
is the paper's reason (§3) to shift the logits instead.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.losses import _base, _rivals
from keras_logit_adjust.losses.pairwise_margin import PairwiseMarginCrossentropy

# For larger log-odds of an error, (1 − p)^γ is 1 to the last digit. At infinity its gradient would be 0·∞.
_CERTAIN = 80.0


MEANS = ("classes", "examples")


def class_balanced_weights(class_counts, *, beta=0.9999, mean_over="classes"):
    """Weights by effective number of examples, `α_y ∝ (1 − β)/(1 − β^{n_y})`, with a mean of one.

    With `β = 0` all classes weigh the same. With `β → 1` they weigh by inverse frequency.

    Args:
        class_counts: `[L]` training examples of each class (true counts, not probabilities).
        beta: β in [0, 1).
        mean_over: "classes" or "examples": the weights have a mean of one over these. With "classes" they sum to L, as
            in the paper. With "examples" `Σ_y π_y·α_y = 1`. Keras divides a weighted loss by the number of examples, so
            its steps are then as long as without weights.

    Returns:
        Float64 array `[L]`.

    Raises:
        ValueError: for β outside [0, 1), probabilities in place of counts, or another `mean_over`.

    Example:

    >>> class_balanced_weights([2, 1], beta=0.5).round(4).tolist()  # ½/¾ and ½/½, times 2/(⅔ + 1)
    [0.8, 1.2]
    >>> class_balanced_weights([2, 1], beta=0.5, mean_over="examples").round(4).tolist()  # over ⅔·0.8 + ⅓·1.2
    [0.8571, 1.2857]

    Reference: Cui et al. (2019), class-balanced loss.
    """
    counts = _checks.as_true_counts(class_counts)
    beta = _checks.check_fraction(beta, "beta")
    _checks.check_choice(mean_over, "mean_over", MEANS)
    if beta == 0.0:
        return np.ones(counts.size)
    # expm1 computes 1 − β^n. At β = 0.999999 and n = 1 a plain difference would lose ten digits.
    weights = 1.0 / -np.expm1(counts * np.log(beta))
    if mean_over == "examples":
        return weights / (weights @ (counts / counts.sum()))
    return weights * (counts.size / weights.sum())


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class ClassBalancedCrossentropy(PairwiseMarginCrossentropy):
    """Class-balanced cross-entropy, `α_y · −log softmax(f)_y` with `α_y ∝ (1 − β)/(1 − β^{n_y})`, normalized to sum L.

    Values are those of `pairwise_margin_crossentropy`.

    Args:
        class_counts: `[L]` training examples of each class (true counts, not probabilities).
        beta: β in [0, 1).
        label_smoothing: as in `PairwiseMarginCrossentropy`.
        ignore_class: as in `PairwiseMarginCrossentropy`.
        reduction: as in `PairwiseMarginCrossentropy`.
        name: name of the loss.

    Raises:
        ValueError: for β outside [0, 1), or probabilities in place of counts.

    Example:

    >>> ClassBalancedCrossentropy([2, 1], beta=0.5).class_weight.round(4).tolist()
    [0.8, 1.2]

    Reference: Cui et al. (2019), class-balanced loss.
    """

    _arguments = ("class_counts", "beta")

    def __init__(
        self,
        class_counts,
        *,
        beta=0.9999,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="class_balanced_crossentropy",
    ):
        super().__init__(
            class_counts,
            class_weight=class_balanced_weights(class_counts, beta=beta),
            label_smoothing=label_smoothing,
            ignore_class=ignore_class,
            reduction=reduction,
            name=name,
        )
        self.beta = float(beta)


def focal_crossentropy(y_true, y_pred, *, gamma=2.0, class_weight=None, label_smoothing=0.0, ignore_class=None):
    """Per-example focal loss of a softmax, `−α_y·(1 − p_y)^γ·log p_y` with `p = softmax(f)`.

    The loss is computed from the log-odds of an error in the log domain. Nothing is clipped. The gradient is finite for
    γ < 1 too, where the usual form divides by `1 − p`. Soft labels give `Σ_y t_y·ℓ(y, f)`.

    Args:
        y_true: class ids `[...]` or `[..., 1]`, or one-hot or soft rows `[..., L]`; told apart by static shape.
        y_pred: logits `[..., L]`.
        gamma: γ ≥ 0; 0 is cross-entropy.
        class_weight: `α`, `[L]` numbers > 0; 1 by default.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions give 0 (ids only).

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range, or the sum of
        a row is above 1 (by more than rounding).

    Raises:
        ValueError: for a γ that is negative or not finite, weights that are not > 0 or do not go with the logits.

    Example:

    >>> losses = focal_crossentropy(np.array([0, 1]), np.log([[3, 1], [3, 1]]), gamma=2)
    >>> [round(float(x), 4) for x in losses]  # −(1 − ¾)²·log ¾ and −(1 − ¼)²·log ¼
    [0.018, 0.7798]

    Reference: Lin et al. (2017), focal loss, for a softmax.
    """
    gamma = _checks.check_number(gamma, "gamma", minimum=0.0)
    options = _base.checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
    return _labels.zero_masked(*_focal_values(y_true, y_pred, gamma, class_weight, **options))


def _focal_values(y_true, y_pred, gamma, class_weight, **options):
    y_pred = _labels.to_tensor_of_gradients(y_pred)
    num_classes, other = _rivals.num_classes_of(y_pred), f"`y_pred` of shape {tuple(y_pred.shape)}"
    margins = _rivals.as_margins(num_classes, class_weight=class_weight, other=other)

    def cost(error_log_odds):
        """`(1 − p)^γ·(−log p)`. The logarithms of 1 − p and p are softplus terms of the log-odds of an error."""
        is_certain = error_log_odds > _CERTAIN
        moderate = ops.where(is_certain, ops.zeros_like(error_log_odds), error_log_odds)
        product = ops.exp(-gamma * ops.softplus(-moderate)) * ops.softplus(moderate)
        return ops.where(is_certain, ops.softplus(error_log_odds), product)

    return _rivals.rival_costs(y_true, y_pred, margins, cost=cost, **options)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class FocalCrossentropy(_base.MaskedLoss):
    """Focal loss of a softmax, `−α_y·(1 − p_y)^γ·log p_y` with `p = softmax(f)`.

    Values are those of `focal_crossentropy`.

    Args:
        gamma: γ ≥ 0; 0 is cross-entropy.
        class_weight: `α`, `[L]` numbers > 0; 1 by default.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions are left out of value, gradient and mean (ids only).
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Call arguments: as in `LogitAdjustedCrossentropy`. `y_pred` gives the number of classes.

    Raises:
        ValueError: for a γ that is negative or not finite, weights that are not > 0 or do not go with the logits.

    Example:

    >>> import numpy as np
    >>> loss = FocalCrossentropy(gamma=2)
    >>> round(float(loss(np.array([0]), np.zeros((1, 2)))), 4)  # (1 − ½)²·log 2
    0.1733

    Reference: Lin et al. (2017), focal loss, for a softmax.
    """

    _arguments = ("gamma", "class_weight")

    def __init__(
        self,
        gamma=2.0,
        *,
        class_weight=None,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="focal_crossentropy",
    ):
        super().__init__(label_smoothing=label_smoothing, ignore_class=ignore_class, reduction=reduction, name=name)
        self.gamma = _checks.check_number(gamma, "gamma", minimum=0.0)
        self.class_weight = (
            None if class_weight is None else _checks.as_class_vector(class_weight, "class_weight", positive=True)
        )

    def values_and_mask(self, y_true, y_pred):
        return _focal_values(y_true, y_pred, self.gamma, self.reweighted(self.class_weight), **self._options)
