"""The one base of every loss: labels, masks, weights and means, settled once.

`keras.losses.Loss.__call__` casts labels to `floatx` (2,049 becomes 2,048 in bfloat16), aligns weights to the left and,
under `tf.distribute`, divides a local mean by the number of replicas, which is wrong when the replicas hold unequal
shares of a batch. This base overrides that one method and leaves the rest of Keras's contract as it is.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision, _replicas
from keras_logit_adjust.losses import _marks

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
_REDUCTIONS = (*_MEANS, "sum", "none", None)


class MaskedLoss(keras.losses.Loss):
    """A Keras loss whose subclasses give values and what of each counts, `values_and_mask(y_true, y_pred)`.

    Attributes:
        stage_weight: what `kla.callbacks.DeferredReweighting` multiplies the class weights by, `[L]` or None: a state
            of training, not part of the config.
    """

    _arguments = ()  # those of a subclass's own that its config names
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
        """Per-position values, and what of each position counts: a boolean mask, or shares in [0, 1] (None: all).

        A mean divides by the sum of what counts. A share is that of the labels that are known, where a value is a sum
        over several.
        """
        raise NotImplementedError

    def reweighted(self, class_weight=None):
        """`class_weight` (None: 1) times the weights of the training stage; None where both are."""
        if class_weight is None or self.stage_weight is None:
            return self.stage_weight if class_weight is None else class_weight
        return class_weight * self.stage_weight

    def call(self, y_true, y_pred):
        return _labels.zero_masked(*self.values_and_mask(y_true, y_pred))

    def __call__(self, y_true, y_pred, sample_weight=None):
        _labels.check_logits(y_pred, f"Loss {self.name!r}")
        layer_mask = _keras.mask_of(y_pred)
        with keras.name_scope(self.name):
            y_pred = _labels.zero_masked(_labels.to_tensor_of_gradients(y_pred), layer_mask)
            _replicas.refuse_unusual_steps()
            values, counted = self.values_and_mask(y_true, y_pred)
            mask = _labels.combine_masks(len(values.shape), layer_mask, counted)
            weight = None if sample_weight is None else _labels.align_weight(sample_weight, values)
            counted = ops.ones_like(values) if counted is None else ops.cast(counted, values.dtype)
            result = _reduce(values, mask, weight, counted, self.reduction)
            _marks.mark_in_training(self)  # not before: bad labels train no head
            return result

    def get_config(self):
        own = {name: np.asarray(getattr(self, name)).tolist() for name in self._arguments}
        return {**own, **self._options, "reduction": self.reduction, "name": self.name}


def checked_options(*, label_smoothing, ignore_class):
    """The options that every loss has, checked."""
    return {
        "label_smoothing": _checks.check_fraction(label_smoothing, "label_smoothing"),
        "ignore_class": _checks.check_ignore_class(ignore_class),
    }


def expected_cost(targets, class_weight, excess, cost=None):
    """`Σ_y t_y·α_y·cost(x_y)`, in which a target of 0 costs 0 whatever its excess is (a logit of −inf)."""
    # Selected before the cost: its gradient stays finite too.
    excess = ops.where(ops.equal(targets, 0.0), ops.zeros_like(excess), excess)
    return ops.sum(targets * class_weight * (excess if cost is None else cost(excess)), axis=-1)


def warn_of_bounded_logits(y_pred, adjustment):
    """Warn where a cosine head is too narrow for the prior that an adjusted loss has it learn."""
    bound = _keras.noted(y_pred, "logit_bound")  # of a `CosineDense`
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
    # A mean divides by the number of what counts, or the sum of its weights.
    if weight is not None and reduction == "mean_with_sample_weight":
        counted = counted * weight
    return _over_replicas(ops.sum(weighted), ops.sum(_labels.zero_masked(counted, mask)))


def _added_by_keras(values):
    """Values that Keras's trainer would add up for the gradient and average on each replica for its report.

    It multiplies the report by the number of replicas, and the average is NaN on a replica without examples. So one
    number: its gradient is that of the local sum, its value that of the mean over all replicas.
    """
    total = ops.sum(values)
    reported = _over_replicas(total, ops.sum(ops.ones_like(values)))
    return (total - ops.stop_gradient(total)) + ops.stop_gradient(reported)


def _over_replicas(total, divisor):
    """`total / divisor` over all replicas of `tf.distribute`, in the form Keras's trainer expects of each replica.

    The trainer sums gradients over replicas and multiplies reported losses by their number. So each replica gives its
    local sum over the *global* divisor, lifted by a term without gradient to the global value over the replicas.
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
