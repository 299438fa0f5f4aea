"""The base classes of metrics by class: how they read labels, and count weighted hits and examples of each class."""

import math

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision, _scores, _top_ids, priors
from keras_logit_adjust.metrics._float32 import Float32Metric

_OF_ROWS = "Beside ids of the best classes one-hot rows are not read: give ids, `np.argmax(y_true, axis=-1)`."


class PerClassMetric(Float32Metric):
    """Weighted hits and examples of each class. A prediction is right if fewer than `k` classes score higher."""

    _arguments = ("num_classes", "ignore_class", "name", "threshold")  # the config has these

    def __init__(self, num_classes, *, k=1, ignore_class=None, threshold=None, name=None):
        super().__init__(name)
        self.num_classes = _labels.check_num_classes(num_classes)
        self.k = k
        if self.k > self.num_classes:
            raise ValueError(f"`k` must be at most the number of classes, {self.num_classes}. Received: k={k}")
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        self.threshold = _check_threshold(threshold, self.num_classes)
        self.correct = self._add_counter("correct")
        self.total = self._add_counter("total")

    def _add_counter(self, name):
        return self.add_variable((self.num_classes,), "zeros", dtype="float32", name=name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        _scores.check_pair(y_true, y_pred, ("y_true", "y_pred"))
        top, ignored = _top_ids.read(y_pred), {"ignore_class": self.ignore_class}
        layer_mask = _keras.mask_of(y_pred if top is None else top.ids)
        if top is None:
            y_pred = self._as_classes(_labels.to_tensor(y_pred))
            _refuse_ids(y_pred, y_true, self.num_classes)
            labels = _labels.read(y_true, y_pred, self.num_classes, **ignored, allow_negative=True)
        else:
            y_pred, leading = top, tuple(top.ids.shape)[:-1]
            labels = _labels.read_ids(y_true, leading, self.num_classes, **ignored, remedy=_OF_ROWS)
        ids, kept = labels.ids, labels.kept
        if ids is None:
            ids, kept = ops.cast(ops.argmax(labels.rows, axis=-1), "int32"), ops.any(ops.not_equal(labels.rows, 0), -1)
        weight = labels.spoil(ops.ones_like(ids, dtype="float32"))
        if sample_weight is not None:
            weight = weight * _labels.align_weight(sample_weight, weight)
        weight = _labels.zero_masked(weight, _labels.combine_masks(len(ids.shape), layer_mask, kept))
        self._count(ids, y_pred, weight)

    def _as_classes(self, y_pred):
        """Scores `[..., L]`, also from the scores `[..., 1]` of one sigmoid unit."""
        if self.num_classes != 2 or tuple(y_pred.shape)[-1:] != (1,):
            if self.threshold is not None:
                raise ValueError(
                    f"`threshold` is for one sigmoid unit, [..., 1]. Received threshold={self.threshold:g} beside "
                    f"`y_pred` of shape {tuple(y_pred.shape)}, where the largest score wins: leave it out."
                )
            return y_pred
        if self.threshold is None:
            raise ValueError(
                f"{type(self).__name__} must be told where one sigmoid unit says yes. Received `y_pred` of shape "
                f"{tuple(y_pred.shape)} without `threshold`: give threshold=0.5 for probabilities, or 0 for logits."
            )
        _labels.check_threshold_of(y_pred, self.threshold)
        return _labels.of_unit(y_pred, self.threshold)

    def _count(self, ids, y_pred, weight):
        self.total.assign_add(_labels.sum_by_class(weight, ids, self.num_classes))
        self.correct.assign_add(_labels.sum_by_class(weight * self._hits(ids, y_pred), ids, self.num_classes))

    def _hits(self, ids, y_pred):
        """1 where the prediction is right, else 0. A row of scores with NaN predicts no class, so it is never right."""
        if isinstance(y_pred, _top_ids.TopIds):
            return ops.cast(y_pred.have(ids[..., None], self.k)[..., 0], "float32")
        if self.k == 1:
            return ops.cast(ops.equal(ids, ops.cast(best_class(y_pred), "int32")), "float32")
        own = ops.take_along_axis(y_pred, ops.expand_dims(ids, -1), axis=-1)
        # `in_top_k` counts every tie as a hit, so a constant model would be perfect.
        earlier = ops.less(ops.arange(self.num_classes, dtype="int32"), ops.expand_dims(ids, -1))
        better = ops.logical_or(ops.greater(y_pred, own), ops.logical_and(ops.equal(y_pred, own), earlier))
        is_best = ops.less(ops.sum(ops.cast(better, "int32"), axis=-1), self.k)
        return ops.cast(ops.logical_and(is_best, _top_ids.are_numbers(y_pred)), "float32")

    def _ratio(self, numerator, denominator):
        """The quotient for each class. NaN for a class without examples, and for all classes after a bad label."""
        present = self._present()
        quotient = ops.where(present, _precision.divide_no_nan(numerator, denominator), np.nan)
        return quotient + 0.0 * ops.sum(ops.convert_to_tensor(self.total))  # after a bad label every class is NaN

    def _recall(self):
        return self._ratio(ops.convert_to_tensor(self.correct), ops.convert_to_tensor(self.total))

    def _present(self):
        return ops.not_equal(
            ops.convert_to_tensor(self.total), 0.0
        )  # true for NaN, so that a bad label makes the result NaN

    def get_config(self):
        return {name: np.asarray(getattr(self, name)).tolist() for name in self._arguments}


def _refuse_ids(y_pred, y_true, num_classes):
    """Raise for predictions that are ids of classes, or one column, and so have no score for each class."""
    shape, dtype = tuple(y_pred.shape), keras.backend.standardize_dtype(y_pred.dtype)
    is_column = len(shape) == 1 or shape[-1:] == (1,)
    are_ids = is_column or "int" in dtype and shape == tuple(getattr(y_true, "shape", np.shape(y_true)))
    if not shape or shape[-1] in (None, num_classes) or not are_ids:
        return
    unit = (
        " Scores of one sigmoid unit, [..., 1], go with num_classes=2 and `threshold`: 0.5 for probabilities, 0 for "
        "logits."
    )
    raise ValueError(
        f"`y_pred` must be scores of shape [..., {num_classes}], one column for each class. Received shape {shape}: "
        f"give scores, not predicted ids.{unit if is_column else ''}"
    )


def best_class(y_pred):
    """The id of the best class of each position, the first of equal ones; −1, no class, where a score is NaN."""
    if isinstance(y_pred, _top_ids.TopIds):
        return y_pred.best(1)[..., 0]
    best = ops.argmax(y_pred, axis=-1)  # the backends do not agree on NaN
    return ops.where(_top_ids.are_numbers(y_pred), best, ops.full_like(best, -1))


def _check_threshold(threshold, num_classes):
    if threshold is None:
        return None
    threshold = _checks.check_number(threshold, "threshold", minimum=-math.inf)
    if num_classes != 2:
        raise _checks.ArgumentError(
            "threshold",
            f"`threshold` goes with one sigmoid unit, which has 2 classes. Received: threshold={threshold:g} for "
            f"{num_classes} classes: leave it out.",
        )
    return threshold


class PriorWeightedMetric(PerClassMetric):
    """A metric whose value depends on a class mix.

    Attributes:
        class_prior: the class mix, float64 `[L]`. None means equal classes, or the class mix of the test set.
    """

    _arguments = (*PerClassMetric._arguments, "class_prior")

    def __init__(self, num_classes, *, k=1, ignore_class=None, class_prior=None, threshold=None, name=None):
        super().__init__(num_classes, k=k, ignore_class=ignore_class, threshold=threshold, name=name)
        self.class_prior, self._importance = None, np.ones(self.num_classes, "float32")
        if class_prior is not None:
            self.class_prior = priors.as_prior(class_prior, independent=False, name="class_prior").probabilities
            _checks.check_length(self.class_prior, self.num_classes, "class_prior", "the metric")
            self._importance = (self.class_prior * self.num_classes).astype("float32")

    def _mean_over_present(self, values, weights):
        present = self._present()
        weights = ops.where(present, ops.convert_to_tensor(weights), 0.0)
        return ops.sum(ops.where(present, values * weights, 0.0)) / ops.sum(weights)
