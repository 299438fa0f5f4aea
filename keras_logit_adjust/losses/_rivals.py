"""The log-odds of an error: `r_y = u_y + log Σ_{y'≠y} e^{s_y'·f_y' + v_y'} − s_y·f_y`, the rivals against the label.

Equation 11 of Menon et al. (2021) is `α_y · log(1 + e^{r_y})`. Focal loss is another function of the same `r`. The
label is left out of the sum, and not subtracted from the whole sum. So precision is full even for well fitted examples.
"""

import functools
import typing

import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.losses import _base

_LOWEST = float(np.finfo("float32").min)  # in place of log 0, whose gradient is NaN


class Margins(typing.NamedTuple):
    """The float64 vectors `[L]` that define a member of the family. `as_margins` checks them."""

    class_weight: np.ndarray
    label_margin: np.ndarray
    rival_margin: np.ndarray
    logit_scale: np.ndarray


def as_margins(
    num_classes, *, class_weight=None, label_margin=None, rival_margin=None, logit_scale=None, other="class_counts"
):
    """Checked `Margins`. The default is cross-entropy. `other` names the argument that has the number of classes."""
    vector = functools.partial(_checks.as_class_vector, num_classes=num_classes, other=other)
    return Margins(
        vector(class_weight, "class_weight", default=1.0, positive=True),
        vector(label_margin, "label_margin", default=0.0),
        vector(rival_margin, "rival_margin", default=0.0),
        vector(logit_scale, "logit_scale", default=1.0, positive=True),
    )


def num_classes_of(y_pred):
    """The number of classes of logits, for a loss without class counts."""
    shape = tuple(y_pred.shape)
    if not shape or shape[-1] is None or shape[-1] < 2:
        raise ValueError(f"`y_pred` must be logits [..., L] of at least two classes. Received shape {shape}.")
    return shape[-1]


def pairwise_margin_crossentropy(
    y_true,
    y_pred,
    *,
    class_weight=None,
    label_margin=None,
    rival_margin=None,
    logit_scale=None,
    label_smoothing=0.0,
    ignore_class=None,
):
    """Per-example cross-entropy with margins, `α_y · log[1 + Σ_{y'≠y} e^{u_y + v_y'} · e^{s_y'·f_y' − s_y·f_y}]`.

    With margins of zero and weights of one it is plain cross-entropy. For soft labels `t` it is `Σ_y t_y·ℓ(y, f)`, also
    with label smoothing. It costs O(batch × classes) for all margins.

    Args:
        y_true: class ids `[...]` or `[..., 1]`, or one-hot or soft rows `[..., L]`; told apart by static shape.
        y_pred: logits `[..., L]`.
        class_weight: `α`, `[L]` numbers > 0; 1 by default.
        label_margin: `u`, `[L]` numbers that are added to the log-odds of an error of each class; 0 by default.
        rival_margin: `v`, `[L]` numbers that are added to the score of each class as a rival; 0 by default.
        logit_scale: `s`, `[L]` numbers > 0 that multiply the logits first; 1 by default.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions give 0 (ids only).

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range, or the sum of
        a row is above 1 (by more than rounding).

    Raises:
        ValueError: for vectors of another length than the logits, weights or scales that are not > 0, margins that are
            not finite.

    Example:

    >>> margins = {"class_weight": [1, 3], "label_margin": [0, np.log(2)]}
    >>> values = pairwise_margin_crossentropy(np.array([0, 1]), np.zeros((2, 2)), **margins)
    >>> [round(float(x), 4) for x in values]  # log 2 and 3·log(1 + 2)
    [0.6931, 3.2958]

    Reference: Menon et al. (2021), §5.1, equation 11.
    """
    y_pred = _labels.to_tensor_of_gradients(y_pred)
    margins = as_margins(
        num_classes_of(y_pred),
        class_weight=class_weight,
        label_margin=label_margin,
        rival_margin=rival_margin,
        logit_scale=logit_scale,
        other=f"`y_pred` of shape {tuple(y_pred.shape)}",
    )
    options = _base.checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
    return _labels.zero_masked(*rival_costs(y_true, y_pred, margins, **options))


def rival_costs(y_true, y_pred, margins, *, cost=ops.softplus, label_smoothing, ignore_class):
    """`Σ_y t_y·α_y·cost(r_y)` for every position, and the mask of positions that count (None: all count).

    Args:
        y_true: ids or rows, as every loss takes them.
        y_pred: logits `[..., L]`.
        margins: `Margins`.
        cost: the loss as a function of `r`, element by element.
        label_smoothing: share of the target spread evenly.
        ignore_class: an id left out, or None.
    """
    labels = _labels.read(y_true, y_pred, margins.class_weight.size, ignore_class=ignore_class)
    logits = _labels.at_least_float32(labels.logits)
    weight, label_margin, rival_margin, scale = (ops.convert_to_tensor(v, dtype=logits.dtype) for v in margins)
    own = logits * scale
    own = own - _finite_max(own)  # so that margins are not added to large numbers
    rivals = own + rival_margin
    if labels.ids is None or label_smoothing:
        error_log_odds = label_margin + _log_sums_of_others(rivals) - own
        targets = labels.targets(logits.dtype, label_smoothing)
        values = _base.expected_cost(targets, weight, error_log_odds, cost)
    else:
        log_rivals = log_sum_exp(ops.where(_is_class(labels.ids, logits.shape[-1]), -np.inf, rivals))
        score = ops.squeeze(ops.take_along_axis(own, ops.expand_dims(labels.ids, -1), axis=-1), axis=-1)
        error_log_odds = ops.take(label_margin, labels.ids) + log_rivals - score
        values = ops.take(weight, labels.ids) * cost(error_log_odds)
    return labels.spoil(values), labels.kept


def _finite_max(scores):
    """The largest score `[..., 1]`, without gradient. It is never −inf."""
    # Without an initial value Keras refuses an empty batch.
    return ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True, initial=_LOWEST))


def log_sum_exp(scores):
    """`log Σ exp`. If every score is −inf, it is finite, and its gradient is 0."""
    top = _finite_max(scores)
    total = ops.sum(ops.exp(scores - top), axis=-1)
    nothing = ops.equal(total, 0.0)
    return ops.where(nothing, _LOWEST, ops.log(ops.where(nothing, ops.ones_like(total), total)) + top[..., 0])


def _log_sums_of_others(scores):
    """`log Σ_{y'≠y} exp` for every class y at once.

    The total minus one term loses digits only if the term is more than half of the total. Only the term of the top
    class can be so large, so only this class gets its own sum.
    """
    top = _finite_max(scores)
    is_top = _is_class(ops.argmax(scores, axis=-1), scores.shape[-1])
    exponentials = ops.exp(scores - top)
    others = ops.sum(exponentials, axis=-1, keepdims=True) - exponentials
    others = ops.log(ops.where(is_top, ops.ones_like(others), others)) + top
    without_top = log_sum_exp(ops.where(is_top, -np.inf, scores))
    return ops.where(is_top, ops.expand_dims(without_top, -1), others)


def _is_class(ids, num_classes):
    return ops.equal(ops.expand_dims(ops.cast(ids, "int32"), -1), ops.arange(num_classes, dtype="int32"))
