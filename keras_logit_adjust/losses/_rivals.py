"""A label against its rivals: `r_y = u_y + log Σ_{y'≠y} e^{s_y'·f_y' + v_y'} − s_y·f_y`, the log-odds of an error.

Equation 11 of Menon et al. (2021) is `α_y · log(1 + e^{r_y})`, focal loss another function of the same `r`. Leaving the
label out of the sum, and not subtracting it from the whole, keeps full precision where an example is fitted well.
"""

import numpy as np
from keras import ops

from keras_logit_adjust import _labels

_LOWEST = float(np.finfo("float32").min)  # in place of log 0, whose gradient is no number


def rival_costs(y_true, y_pred, margins, cost, class_weight, label_smoothing, ignore_class):
    """`Σ_y t_y·α_y·cost(r_y)` for every position, and the mask of those that count (None where all do).

    Args:
        y_true: ids or rows, as every loss takes them.
        y_pred: logits `[..., L]`.
        margins: `(u, v, s)`, float64 vectors `[L]`: of the label, of its rivals, and what scales the logits.
        cost: the loss as a function of `r`, element by element.
        class_weight: `α`, a float64 vector `[L]`.
        label_smoothing: share of the target spread evenly.
        ignore_class: an id left out, or None.
    """
    y_true, y_pred = _labels.to_tensor(y_true), _labels.to_tensor(y_pred)
    leading = _labels.check_width(y_pred, class_weight.size)
    if not _labels.are_ids(y_true, leading, class_weight.size):
        _labels.refuse_ignored_rows(ignore_class)
        logits = _labels.at_least_float32(y_pred)
        return _row_costs(ops.cast(y_true, logits.dtype), logits, margins, cost, class_weight, label_smoothing), None
    ids, proper, kept = _labels.settle_ids(y_true, leading, class_weight.size, ignore_class)
    if kept is not None:
        y_pred = _labels.zero_masked(y_pred, kept)
    logits = _labels.at_least_float32(y_pred)
    if label_smoothing:
        rows = ops.one_hot(ids, class_weight.size, dtype=logits.dtype)
        values = _row_costs(rows, logits, margins, cost, class_weight, label_smoothing)
    else:
        values = _id_costs(ids, logits, margins, cost, class_weight)
    # A factor of NaN, not a constant: the gradient of an improper label must not pass for one of class 0.
    return values * ops.where(proper, ops.ones_like(values), np.nan), kept


def _id_costs(ids, logits, margins, cost, class_weight):
    """`α_y·cost(r_y)` of one label for each position."""
    label_margin = ops.convert_to_tensor(margins[0], dtype=logits.dtype)
    own, rivals = _scores(logits, margins)
    is_label = _is_class(ids, logits.shape[-1])
    log_rivals = _log_sum_exp(ops.where(is_label, -np.inf, rivals))
    score = ops.squeeze(ops.take_along_axis(own, ops.expand_dims(ids, -1), axis=-1), axis=-1)
    weight = ops.take(ops.convert_to_tensor(class_weight, dtype=logits.dtype), ids)
    return weight * cost(ops.take(label_margin, ids) + log_rivals - score)


def _row_costs(targets, logits, margins, cost, class_weight, label_smoothing):
    """`Σ_y t_y·α_y·cost(r_y)` of soft targets."""
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + label_smoothing / class_weight.size
    label_margin = ops.convert_to_tensor(margins[0], dtype=logits.dtype)
    own, rivals = _scores(logits, margins)
    error_log_odds = label_margin + _log_sums_of_others(rivals) - own
    # A logit of −inf costs nothing where its target is 0; selecting before the cost keeps its gradient finite too.
    costs = cost(ops.where(ops.equal(targets, 0.0), ops.zeros_like(own), error_log_odds))
    return ops.sum(targets * ops.convert_to_tensor(class_weight, dtype=logits.dtype) * costs, axis=-1)


def _scores(logits, margins):
    """The scaled logits, and what they are as rivals; both less the largest, so that margins meet no large number."""
    _, rival_margin, scale = margins
    own = logits * ops.convert_to_tensor(scale, dtype=logits.dtype)
    own = own - _finite_max(own)
    return own, own + ops.convert_to_tensor(rival_margin, dtype=logits.dtype)


def _finite_max(scores):
    """The largest score `[..., 1]`, without gradient, and never −inf."""
    # An initial value also because without one Keras refuses an empty batch.
    return ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True, initial=_LOWEST))


def _log_sum_exp(scores):
    """`log Σ exp`, finite with a gradient of 0 where every score is −inf."""
    top = _finite_max(scores)
    total = ops.sum(ops.exp(scores - top), axis=-1)
    nothing = ops.equal(total, 0.0)
    return ops.where(nothing, _LOWEST, ops.log(ops.where(nothing, ops.ones_like(total), total)) + top[..., 0])


def _log_sums_of_others(scores):
    """`log Σ_{y'≠y} exp` for every class y at once.

    A total less a term cancels only where that term is the larger half, so the top class, and it alone, gets a sum of
    its own.
    """
    top = _finite_max(scores)
    is_top = _is_class(ops.argmax(scores, axis=-1), scores.shape[-1])
    exponentials = ops.exp(scores - top)
    others = ops.sum(exponentials, axis=-1, keepdims=True) - exponentials
    others = ops.log(ops.where(is_top, ops.ones_like(others), others)) + top
    without_top = _log_sum_exp(ops.where(is_top, -np.inf, scores))
    return ops.where(is_top, ops.expand_dims(without_top, -1), others)


def _is_class(ids, num_classes):
    return ops.equal(ops.expand_dims(ops.cast(ids, "int32"), -1), ops.arange(num_classes, dtype="int32"))
