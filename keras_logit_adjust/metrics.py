"""Streaming metrics in which the rare classes count: O(L) state, classes without examples left out.

Every metric takes labels as the losses do: ids, one-hot or soft rows by static shape (a soft row counts for its largest
entry, an all-zero row for none). Keras masks, `ignore_class` and `sample_weight` are honored; a fractional or
out-of-range label turns the result into NaN. Predictions are logits or probabilities; of equal scores the first class
wins, as `argmax` has it. (On JAX, Keras loses the mask on its way to the training metrics of `fit`; validation has it.)

`class_prior=` judges a model as if the classes occurred with those frequencies: class y weighs `L·π_y`. For averages of
per-class recalls that is exact on any test set; for precision and F1 it is exact on a balanced one. Recalls themselves
do not depend on it.
"""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, priors


class _PerClassMetric(keras.metrics.Metric):
    """Weighted hits, examples and (where a subclass needs them) predictions of each class."""

    _direction = "up"  # `EarlyStopping` reads it: no `mode` needed
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
        layer_mask = _labels.keras_mask(y_pred)
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


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class BalancedAccuracy(_PerClassMetric):
    """Balanced accuracy, the mean of the per-class recalls: `(1/L) Σ_y P[y in the k best | y]`.

    One minus it is the paper's balanced error. With `class_prior` the mean is weighted by it: the plain accuracy in a
    deployment with that class mix.

    Args:
        num_classes: number of classes `L`.
        k: a prediction is right when fewer than `k` classes score higher.
        ignore_class: a class id left out.
        class_prior: `[L]` counts or probabilities of the class mix to judge by; the uniform one by default.
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

    Reference: Menon et al. (2021), §2, equation 1; Brodersen et al. (2010).
    """

    def __init__(self, num_classes, k=1, ignore_class=None, class_prior=None, name=None):
        name = name or ("balanced_accuracy" if k == 1 else f"top_{k}_balanced_accuracy")
        super().__init__(num_classes, ignore_class, class_prior, name)
        self.k = _checks.check_integer(k, "k", minimum=1)
        if self.k > self.num_classes:
            raise ValueError(f"`k` must be at most the number of classes, {self.num_classes}. Received: k={k}")

    def _hits(self, ids, y_pred):
        if self.k == 1:
            return super()._hits(ids, y_pred)
        # Rank by hand: `in_top_k` calls every tie a hit, so a constant model would be perfect.
        own = ops.take_along_axis(y_pred, ops.expand_dims(ids, -1), axis=-1)
        earlier = ops.less(ops.arange(self.num_classes, dtype="int32"), ops.expand_dims(ids, -1))
        better = ops.logical_or(ops.greater(y_pred, own), ops.logical_and(ops.equal(y_pred, own), earlier))
        rank = ops.sum(ops.cast(better, "int32"), axis=-1)
        is_number = ops.equal(own, own)[..., 0]
        return ops.cast(ops.logical_and(ops.less(rank, self.k), is_number), "float32")

    def result(self):
        return self._mean_over_present(self._recall(), self._importance)

    def get_config(self):
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PerClassAccuracy(_PerClassMetric):
    """The recall of every class, `P[ŷ = y | y]`.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: accepted for uniformity; recalls do not depend on it.
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

    def __init__(self, num_classes, ignore_class=None, class_prior=None, name="per_class_accuracy"):
        super().__init__(num_classes, ignore_class, class_prior, name)

    def result(self):
        return self._recall()


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PerClassPrecision(_PerClassMetric):
    """The precision of every class, `P[y = c | ŷ = c]`: 0 for a class that has examples and is never predicted.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: `[L]` class mix to judge by, on a balanced test set; the test set's own mix by default.
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

    _counts_predictions = True

    def __init__(self, num_classes, ignore_class=None, class_prior=None, name="per_class_precision"):
        super().__init__(num_classes, ignore_class, class_prior, name)

    def result(self):
        correct = ops.multiply(self.correct, self._importance)
        return self._ratio(correct, ops.convert_to_tensor(self.predicted))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MacroF1(_PerClassMetric):
    """Macro-averaged F1, the mean over classes of `2·TP / (2·TP + FP + FN)`.

    Adjustment serves the balanced error. At the *training* prior (`class_prior=class_counts`) macro-F1 often falls at
    τ = 1; say which of the two you are judged by.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: `[L]` class mix to judge by, on a balanced test set; the test set's own mix by default.
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

    _counts_predictions = True

    def __init__(self, num_classes, ignore_class=None, class_prior=None, name="macro_f1"):
        super().__init__(num_classes, ignore_class, class_prior, name)

    def result(self):
        correct = ops.multiply(self.correct, self._importance)
        total = ops.multiply(self.total, self._importance)
        scores = self._ratio(2.0 * correct, total + ops.convert_to_tensor(self.predicted))
        return self._mean_over_present(scores, np.ones(self.num_classes, "float32"))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class WorstClassAccuracy(_PerClassMetric):
    """The smallest per-class recall, `min_y P[ŷ = y | y]`.

    Args:
        num_classes: number of classes `L`.
        ignore_class: a class id left out.
        class_prior: accepted for uniformity; recalls do not depend on it.
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

    def __init__(self, num_classes, ignore_class=None, class_prior=None, name="worst_class_accuracy"):
        super().__init__(num_classes, ignore_class, class_prior, name)

    def result(self):
        present = self._present()
        worst = ops.min(ops.where(present, self._recall(), np.inf))
        number = ops.sum(ops.where(present, self._recall(), 0.0))  # NaN if any is: `min` may overlook it
        return ops.where(ops.any(present), worst + 0.0 * number, np.nan)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class GroupAccuracy(_PerClassMetric):
    """Accuracy of groups of classes, each the mean recall of its classes, in one pass.

    By default the groups are the field's: `many` with at least 100 training examples, `few` with at most 20, `medium`
    between. A group of no classes does not appear.

    Args:
        class_counts: `[L]` training examples of each class (true counts).
        bounds: `(few, many)`: a class with at most `few` examples is few-shot, with at least `many` many-shot.
        groups: instead of bounds, the group name of each class: a sequence of `L` names, or a dict class → name
            (classes without a name are left out).
        ignore_class: a class id left out.
        class_prior: `[L]` weights of the classes within their groups; equal by default.
        name: name of the metric.

    Result: a dict `{"many_accuracy": …, "medium_accuracy": …, "few_accuracy": …}`; NaN for a group whose classes were
    not seen. `EarlyStopping(monitor="val_few_accuracy")` needs `mode="max"`: Keras looks up directions by metric name.

    Raises:
        ValueError: for probabilities in place of counts, bounds that are not increasing, groups that do not fit.

    Example:

    >>> import numpy as np
    >>> metric = GroupAccuracy(class_counts=[500, 50, 5])
    >>> metric.update_state(np.array([0, 1, 2]), np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]]))
    >>> {name: float(value) for name, value in metric.result().items()}
    {'many_accuracy': 1.0, 'medium_accuracy': 1.0, 'few_accuracy': 0.0}

    Reference: Menon et al. (2021), appendix E.4; Liu et al. (2019), OLTR (the bounds).
    """

    def __init__(
        self,
        class_counts,
        bounds=(20, 100),
        groups=None,
        ignore_class=None,
        class_prior=None,
        name="group_accuracy",
    ):
        counts = _checks.as_true_counts(class_counts)
        super().__init__(counts.size, ignore_class, class_prior, name)
        self.class_counts = counts
        self.bounds = _check_bounds(bounds)
        names = groups_of_counts(counts, self.bounds) if groups is None else _group_names(groups, counts.size)
        self.groups = None if groups is None else names
        self._members = {
            name: np.array([own == name for own in names], dtype="float32")
            for name in dict.fromkeys(own for own in names if own is not None)
        }

    def result(self):
        recall = self._recall()
        return {
            f"{name}_accuracy": self._mean_over_present(recall, members * self._importance)
            for name, members in self._members.items()
        }

    def get_config(self):
        config = super().get_config()
        del config["num_classes"]
        return {**config, "class_counts": self.class_counts.tolist(), "bounds": self.bounds, "groups": self.groups}


def groups_of_counts(class_counts, bounds=(20, 100)):
    """The name of each class's group by its number of training examples: "many", "medium" or "few".

    Args:
        class_counts: `[L]` training examples of each class.
        bounds: `(few, many)`, both inclusive.

    Returns:
        List of `L` names.

    Example:

    >>> groups_of_counts([500, 100, 99, 20])
    ['many', 'many', 'medium', 'few']

    Reference: Menon et al. (2021), appendix E.4.
    """
    few, many = bounds
    return ["many" if count >= many else "few" if count <= few else "medium" for count in class_counts]


def _check_bounds(bounds):
    try:
        few, many = map(float, bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`bounds` must be a pair of numbers (few, many). Received: bounds={bounds!r}") from error
    if not 0 <= few < many:
        raise ValueError(f"`bounds` must increase, 0 <= few < many. Received: bounds={(few, many)}")
    return [few, many]


def _group_names(groups, num_classes):
    """One group name (or None) for each class."""
    if isinstance(groups, Mapping):
        unknown = [key for key in groups if key not in range(num_classes)]
        if unknown or not groups:
            raise ValueError(
                f"`groups` must map class ids in [0, {num_classes}) to group names. Received keys {list(groups)[:8]}."
            )
        groups = [groups.get(c) for c in range(num_classes)]
    groups = list(groups)
    are_names = all(name is None or isinstance(name, str) for name in groups) and any(groups)
    if len(groups) != num_classes or not are_names:
        raise ValueError(
            f"`groups` must name the group of each of the {num_classes} classes. Received {len(groups)} entries: "
            f"{groups[:8]}"
        )
    return groups
