"""Balanced accuracy, the recall of every class, and the smallest recall."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks
from keras_logit_adjust.metrics._per_class import PerClassMetric, PriorWeightedMetric


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class BalancedAccuracy(PriorWeightedMetric):
    """Balanced accuracy, the mean of the per-class recalls: `(1/L) Σ_y P[y in the k best | y]`.

    The paper's balanced error is one minus this value. With `class_prior` the mean is weighted: it is the plain
    accuracy in a deployment with that class mix.

    Args:
        num_classes: number of classes `L`.
        k: a prediction is right when fewer than `k` classes score higher; for ids, when the label is among the first
            `k`.
        ignore_class: a class id left out.
        class_prior: `[L]` counts or probabilities of the class mix to judge by; equal classes by default.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and `num_classes=2`: 0.5 for probabilities, 0 for logits.
        name: name of the metric.

    Result: a scalar in [0, 1]; NaN before any example was seen.

    Raises:
        ValueError: for `k` outside [1, L], a `class_prior` of another length, labels of a wrong shape.

    Example:

    >>> import numpy as np
    >>> metric = BalancedAccuracy(num_classes=2)
    >>> metric.update_state(np.array([0, 0, 0, 1]), np.array([[1, 0], [1, 0], [1, 0], [1, 0]]))
    >>> float(metric.result())  # plain accuracy is 0.75
    0.5
    >>> metric = BalancedAccuracy(num_classes=1000, k=2)
    >>> metric.update_state(np.array([7, 5]), {"ids": np.array([[3, 7], [3, 8]])})  # of a predictor of many classes
    >>> float(metric.result())
    0.5

    Reference: Menon et al. (2021), §2, equation 1; Brodersen et al. (2010).
    """

    _arguments = (*PriorWeightedMetric._arguments, "k")

    def __init__(self, num_classes, *, k=1, ignore_class=None, class_prior=None, threshold=None, name=None):
        k = _checks.check_integer(k, "k", minimum=1)
        name = name or ("balanced_accuracy" if k == 1 else f"top_{k}_balanced_accuracy")
        super().__init__(
            num_classes, k=k, ignore_class=ignore_class, class_prior=class_prior, threshold=threshold, name=name
        )

    def result(self):
        return self._mean_over_present(self._recall(), self._importance)


class _Recalls(PerClassMetric):
    """A metric whose value does not depend on a class mix."""

    @classmethod
    def from_config(cls, config):
        prior = config.get("class_prior")  # files of earlier versions have it; it had no effect
        if prior is not None:
            raise ValueError(
                f"Recalls do not depend on a class mix, and {cls.__name__} takes no `class_prior`. Received: "
                f"class_prior={prior!r}. Load the model with `compile=False` and compile it without; its results are "
                "the same."
            )
        return cls(**{name: value for name, value in config.items() if name != "class_prior"})


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PerClassAccuracy(_Recalls):
    """The recall of every class, `P[ŷ = y | y]`.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and `num_classes=2`: 0.5 for probabilities, 0 for logits.
        name: name of the metric.

    Result: a vector `[L]`; NaN for a class without examples. In `fit` the history holds the vector, the progress bar
    its mean.

    Example:

    >>> import numpy as np
    >>> metric = PerClassAccuracy(num_classes=3)
    >>> metric.update_state(np.array([0, 0, 1]), np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]]))
    >>> metric.result().__array__().tolist()
    [0.5, 1.0, nan]

    Reference: Menon et al. (2021), §2, equation 1.
    """

    def __init__(self, num_classes, *, ignore_class=None, threshold=None, name="per_class_accuracy"):
        super().__init__(num_classes, ignore_class=ignore_class, threshold=threshold, name=name)

    def result(self):
        return self._recall()


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class WorstClassAccuracy(_Recalls):
    """The smallest per-class recall, `min_y P[ŷ = y | y]`.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and `num_classes=2`: 0.5 for probabilities, 0 for logits.
        name: name of the metric.

    Result: a scalar in [0, 1], over the classes that have examples; NaN before any was seen.

    Example:

    >>> import numpy as np
    >>> metric = WorstClassAccuracy(num_classes=2)
    >>> metric.update_state(np.array([0, 0, 1]), np.array([[1, 0], [0, 1], [0, 1]]))
    >>> float(metric.result())
    0.5

    Reference: Sagawa et al. (2020), worst-group accuracy, with classes for groups.
    """

    def __init__(self, num_classes, *, ignore_class=None, threshold=None, name="worst_class_accuracy"):
        super().__init__(num_classes, ignore_class=ignore_class, threshold=threshold, name=name)

    def result(self):
        present = self._present()
        worst = ops.min(ops.where(present, self._recall(), np.inf))
        number = ops.sum(ops.where(present, self._recall(), 0.0))  # NaN if any recall is NaN: `min` may ignore NaN
        return ops.where(ops.any(present), worst + 0.0 * number, np.nan)
