"""What every metric of recalls keeps and how it reads labels: weighted hits, examples and predictions of each class."""

import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, priors


class PerClassMetric(_keras.HigherIsBetter):
    """Weighted hits, examples and (where a subclass needs them) predictions of each class."""

    _counts_predictions = False

    def __init__(self, num_classes, ignore_class=None, class_prior=None, name=None):
        super().__init__(name=name, dtype="float32")  # whatever `floatx` is: bfloat16 stops counting at 256
        self.num_classes = _checks.check_integer(num_classes, "num_classes", minimum=2)
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        self.class_prior = None
        importance = np.ones(self.num_classes)
        if class_prior is not None:
            self.class_prior = priors.prior(_checks.as_counts(class_prior, "class_prior"))
            _checks.check_length(self.class_prior, self.num_classes, "class_prior", "the metric")
            importance = self.class_prior * self.num_classes
        self._importance = importance.astype("float32")
        shape = (self.num_classes,)
        self.correct = self.add_variable(shape, "zeros", dtype="float32", name="correct")
        self.total = self.add_variable(shape, "zeros", dtype="float32", name="total")
        if self._counts_predictions:
            self.predicted = self.add_variable(shape, "zeros", dtype="float32", name="predicted")

    def update_state(self, y_true, y_pred, sample_weight=None):
        layer_mask = _keras.mask_of(y_pred)
        y_true, y_pred = _labels.to_tensor(y_true), _labels.to_tensor(y_pred)
        ids, weight = self._settle(y_true, y_pred, layer_mask, sample_weight)
        self.total.assign_add(self._sum_by_class(weight, ids))
        self.correct.assign_add(self._sum_by_class(weight * self._hits(ids, y_pred), ids))
        if self._counts_predictions:
            weight = weight * ops.take(ops.convert_to_tensor(self._importance), ids)
            self.predicted.assign_add(self._sum_by_class(weight, ops.argmax(y_pred, axis=-1)))

    def _settle(self, y_true, y_pred, layer_mask, sample_weight):
        """Ids of the leading shape of `y_pred`, and the weight of each."""
        leading = _labels.check_width(y_pred, self.num_classes)
        if _labels.are_ids(y_true, leading, self.num_classes):
            ids, proper, kept = _labels.settle_ids(y_true, leading, self.num_classes, self.ignore_class)
            weight = ops.where(proper, ops.ones_like(ids, dtype="float32"), np.nan)
        elif self.ignore_class is not None:
            raise ValueError(
                "`ignore_class` goes with class ids. Received one-hot labels: give ignored rows a weight of 0, or no "
                "class at all (an all-zero row)."
            )
        else:
            ids, kept = ops.cast(ops.argmax(y_true, axis=-1), "int32"), ops.any(ops.not_equal(y_true, 0), axis=-1)
            weight = ops.ones_like(ids, dtype="float32")
        if sample_weight is not None:
            sample_weight = ops.cast(_labels.to_tensor(sample_weight), "float32")
            weight = weight * _labels.align_weight(sample_weight, leading)
        mask = _labels.combine_masks(len(leading), layer_mask, kept)
        return ids, weight if mask is None else ops.where(mask, weight, ops.zeros_like(weight))

    def _hits(self, ids, y_pred):
        """1 where the prediction is right; a score of NaN never is, although `argmax` may choose it."""
        own = ops.squeeze(ops.take_along_axis(y_pred, ops.expand_dims(ids, -1), axis=-1), axis=-1)
        best = ops.equal(ids, ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        return ops.cast(ops.logical_and(best, ops.equal(own, own)), "float32")

    def _sum_by_class(self, weight, ids):
        flat_ids = ops.cast(ops.reshape(ids, (-1,)), "int32")
        return ops.segment_sum(ops.reshape(weight, (-1,)), flat_ids, num_segments=self.num_classes)

    def _ratio(self, numerator, denominator):
        """The quotient for each class, NaN for a class without examples (and for all, after a bad label)."""
        present = self._present()
        safe = ops.where(present, denominator, ops.ones_like(denominator))
        quotient = ops.where(present, ops.divide_no_nan(numerator, safe), np.nan)
        return quotient + 0.0 * ops.sum(ops.convert_to_tensor(self.total))  # a bad label shows in every class

    def _recall(self):
        return self._ratio(ops.convert_to_tensor(self.correct), ops.convert_to_tensor(self.total))

    def _present(self):
        return ops.not_equal(ops.convert_to_tensor(self.total), 0.0)  # true for NaN: a bad label must show

    def _mean_over_present(self, values, weights):
        present = self._present()
        weights = ops.where(present, ops.convert_to_tensor(weights), 0.0)
        return ops.sum(ops.where(present, values * weights, 0.0)) / ops.sum(weights)

    def get_config(self):
        prior = None if self.class_prior is None else self.class_prior.tolist()
        return {
            "num_classes": self.num_classes,
            "ignore_class": self.ignore_class,
            "class_prior": prior,
            "name": self.name,
        }
