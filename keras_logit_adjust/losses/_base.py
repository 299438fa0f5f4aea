"""The base class of every loss. It handles labels, masks, weights and means.

`keras.losses.Loss.__call__` casts labels to `floatx` (2,049 becomes 2,048 in bfloat16) and aligns weights to the left.
Under `tf.distribute` it divides a local mean by the number of replicas. This is wrong if the replicas have unequal
shares of a batch. This base class overrides only this method, and keeps the rest of Keras's contract.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision, _replicas, _scores
from keras_logit_adjust.losses import _marks

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_REDUCTIONS = (*_MEANS, "sum", "none", None)


class MaskedLoss(keras.losses.Loss):
    """A Keras loss whose subclasses compute values and a mask, `values_and_mask(y_true, y_pred)`.

    Attributes:
        stage_weight: `[L]` factors of the class weights, which `kla.callbacks.DeferredReweighting` sets, or None. It is
            a state of training, and not part of the config.
    """

    _arguments = ()  # the subclass's own arguments that its config has
    stage_weight = None

    def __new__(cls, *args, **kwargs):
        _checks.refuse_dtype(
            cls,
            kwargs,
            "it computes in float32 (float64 logits in float64) whatever the policy, and labels keep their own",
        )
        return super().__new__(cls)

    def __init__(self, *, label_smoothing, ignore_class, reduction, name):
        if not isinstance(reduction, (str, type(None))) or reduction not in _REDUCTIONS:
            raise _checks.ArgumentError(
                "reduction",
                f"`reduction` must be one of {', '.join(map(repr, _REDUCTIONS))}. Received: reduction={reduction!r}",
            )
        super().__init__(name=name, reduction=reduction)
        self._options = checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
        self.label_smoothing, self.ignore_class = self._options["label_smoothing"], self._options["ignore_class"]

    def values_and_mask(self, y_true, y_pred):
        """Per-position values, and a boolean mask or shares in [0, 1] of the positions that count (None: all count).

        A mean divides by the sum of the mask or of the shares. If a value is a sum over several labels, the share is
        the part of the labels that is known.
        """
        raise NotImplementedError

    def reweighted(self, class_weight=None):
        """`class_weight` (None: 1) times the weights of the training stage. None if both are None."""
        if class_weight is None or self.stage_weight is None:
            return self.stage_weight if class_weight is None else class_weight
        return class_weight * self.stage_weight

    def call(self, y_true, y_pred):
        return _labels.zero_masked(*self.values_and_mask(y_true, y_pred))

    def __call__(self, y_true, y_pred, sample_weight=None):
        _scores.check_pair(y_true, y_pred, ("y_true", "y_pred"))
        _labels.check_logits(y_pred, f"Loss {self.name!r}")
        layer_mask = _keras.mask_of(y_pred)
        with keras.name_scope(self.name):
            y_pred = _labels.to_tensor_of_gradients(y_pred)
            if layer_mask is not None:  # it stays, because padded labels must not be rivals of a batch
                y_pred = _keras.keep_mask(_labels.zero_masked(y_pred, layer_mask), layer_mask)
            _replicas.refuse_unusual_steps()
            values, counted = self.values_and_mask(y_true, y_pred)
            mask = _labels.combine_masks(len(values.shape), layer_mask, counted)
            weight = None if sample_weight is None else _labels.align_weight(sample_weight, values)
            counted = ops.ones_like(values) if counted is None else ops.cast(counted, values.dtype)
            result = _reduce(values, mask, weight, counted, self.reduction)
            _marks.mark_in_training(self)  # only now: a call with bad labels raises before, and trains no head
            return result

    def get_config(self):
        own = {name: np.asarray(getattr(self, name)).tolist() for name in self._arguments}
        return {**own, **self._options, "reduction": self.reduction, "name": self.name}


def checked_options(*, label_smoothing, ignore_class):
    """Check the options that every loss has, and return them."""
    return {
        "label_smoothing": _checks.check_fraction(label_smoothing, "label_smoothing"),
        "ignore_class": _checks.check_ignore_class(ignore_class),
    }


def expected_cost(targets, class_weight, excess, cost=None):
    """`Σ_y t_y·α_y·cost(x_y)`. A target of 0 costs 0 even if its excess is infinite (for a logit of −inf)."""
    # Select before the cost, so that the gradient is finite too.
    excess = ops.where(ops.equal(targets, 0.0), ops.zeros_like(excess), excess)
    return ops.sum(targets * class_weight * (excess if cost is None else cost(excess)), axis=-1)


def warn_of_bounded_logits(y_pred, adjustment):
    """Warn if the scale of a cosine head is too small for the prior that it must learn with an adjusted loss."""
    bound = _keras.noted(y_pred, "logit_bound")  # a `CosineDense` stored it
    if bound is not None and bound < np.ptp(adjustment):
        needed = f"{np.ptp(adjustment):.3g}"
        warnings.warn(
            f"The logits come from a cosine head and lie in [−{bound:g}, {bound:g}]; the adjustment spans {needed}, "
            f"which they cannot express. Give `CosineDense` a scale of at least {needed} (30 is usual).",
            stacklevel=2,
        )


def _reduce(values, mask, weight, counted, reduction):
    weighted = _labels.zero_masked(values if weight is None else values * weight, mask)
    if reduction in (None, "none"):
        return _added_by_keras(weighted) if _replicas.in_compiled_loss() else weighted
    if reduction not in _MEANS:
        return _over_replicas(ops.sum(weighted), None)
    # A mean divides by the number of positions that count, or by the sum of their weights.
    if weight is not None and reduction == "mean_with_sample_weight":
        counted = counted * weight
    return _over_replicas(ops.sum(weighted), ops.sum(_labels.zero_masked(counted, mask)))


def _added_by_keras(values):
    """Values that Keras's trainer would add up for the gradient, and average on each replica for its report.

    The trainer multiplies the report by the number of replicas, and the average is NaN on a replica without examples.
    So this gives one number. Its gradient is that of the local sum. Its value is the mean over all replicas.
    """
    total = ops.sum(values)
    reported = _over_replicas(total, ops.sum(ops.ones_like(values)))
    return (total - ops.stop_gradient(total)) + ops.stop_gradient(reported)


def _over_replicas(total, divisor):
    """`total / divisor` over all replicas of `tf.distribute`, in the form that Keras's trainer expects.

    The trainer sums gradients over replicas, and multiplies reported losses by their number. So each replica gives its
    local sum divided by the *global* divisor. A term without gradient makes its value the global value divided by the
    number of replicas.
    """
    replica = _replicas.replica_context()
    if replica is None:
        return total if divisor is None else _precision.divide_no_nan(total, divisor)
    one = ops.ones_like(total)
    parts = [ops.stop_gradient(total), one if divisor is None else ops.stop_gradient(divisor)]
    global_total, global_divisor = replica.all_reduce("SUM", parts)
    if divisor is None:
        global_divisor = one
    local = _precision.divide_no_nan(total, global_divisor)
    reported = _precision.divide_no_nan(global_total, global_divisor) / replica.num_replicas_in_sync
    return local + ops.stop_gradient(reported - local)
