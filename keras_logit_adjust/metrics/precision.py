"""Precision and macro-F1. Both depend on the class mix."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _labels
from keras_logit_adjust.metrics._per_class import PriorWeightedMetric, best_class


class _CountsPredictions(PriorWeightedMetric):
    """A metric that also counts how often each class is predicted."""

    def __init__(self, num_classes, *, ignore_class=None, class_prior=None, threshold=None, name=None):
        super().__init__(
            num_classes, ignore_class=ignore_class, class_prior=class_prior, threshold=threshold, name=name
        )
        self.predicted = self._add_counter("predicted")

    def _count(self, ids, y_pred, weight):
        super()._count(ids, y_pred, weight)
        weight = weight * ops.take(ops.convert_to_tensor(self._importance), ids)
        best = best_class(y_pred)
        is_class = ops.logical_and(best >= 0, best < self.num_classes)
        weight, best = _labels.zero_masked(weight, is_class), _labels.zero_masked(best, is_class)
        self.predicted.assign_add(_labels.sum_by_class(weight, best, self.num_classes))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PerClassPrecision(_CountsPredictions):
    """The precision of every class, `P[y = c | ŷ = c]`: 0 for a class that has examples and is never predicted.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: `[L]` class mix to judge by, on a balanced test set; the test set's own mix by default.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and `num_classes=2`: 0.5 for probabilities, 0 for logits.
        name: name of the metric.

    Result: a vector `[L]`; NaN for a class without examples.

    Example:

    >>> import numpy as np
    >>> metric = PerClassPrecision(num_classes=2, class_prior=[9, 1])
    >>> metric.update_state(np.array([0, 0, 1, 1]), np.array([[1, 0], [0, 1], [0, 1], [0, 1]]))
    >>> metric.result().__array__().round(4).tolist()  # 1 and 2·0.1 / (2·0.1 + 1·0.9)
    [1.0, 0.1818]

    Reference: Menon et al. (2021), §2 (the setting).
    """

    def __init__(self, num_classes, *, ignore_class=None, class_prior=None, threshold=None, name="per_class_precision"):
        super().__init__(
            num_classes, ignore_class=ignore_class, class_prior=class_prior, threshold=threshold, name=name
        )

    def result(self):
        return self._ratio(ops.multiply(self.correct, self._importance), ops.convert_to_tensor(self.predicted))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MacroF1(_CountsPredictions):
    """Macro-averaged F1, the mean over classes of `2·TP / (2·TP + FP + FN)`.

    Adjustment aims at the balanced error. At the *training* prior (`class_prior=class_counts`) macro-F1 often falls at
    τ = 1. Say which of the two errors you report.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: `[L]` class mix to judge by, on a balanced test set; the test set's own mix by default.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and `num_classes=2`: 0.5 for probabilities, 0 for logits.
        name: name of the metric.

    Result: a scalar in [0, 1], over the classes that have examples.

    Example:

    >>> import numpy as np
    >>> metric = MacroF1(num_classes=2)
    >>> metric.update_state(np.array([0, 0, 0, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    >>> round(float(metric.result()), 4)  # (4/5 + 2/3) / 2
    0.7333

    Reference: Opitz and Burst (2019), "Macro F1 and Macro F1" (the mean of F1 scores).
    """

    def __init__(self, num_classes, *, ignore_class=None, class_prior=None, threshold=None, name="macro_f1"):
        super().__init__(
            num_classes, ignore_class=ignore_class, class_prior=class_prior, threshold=threshold, name=name
        )

    def result(self):
        correct = ops.multiply(self.correct, self._importance)
        total = ops.multiply(self.total, self._importance)
        scores = self._ratio(2.0 * correct, total + ops.convert_to_tensor(self.predicted))
        return self._mean_over_present(scores, np.ones(self.num_classes, "float32"))
