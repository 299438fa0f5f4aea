"""Metrics of independent labels. An example has no label, one or many, and each label is a problem of two classes.

For each label a metric adds up the weights of positives, of negatives, and of both if they are predicted right. These
sums add over batches and replicas. A label is predicted on if its score is above its threshold.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _keras, _labels, _precision, _scores
from keras_logit_adjust.metrics._float32 import Float32Metric
from keras_logit_adjust.metrics.groups import check_bounds, members_of, refuse_same_results, results_by_name

_GROUP_NAME = "multi_label_group_accuracy"


class _MultiLabelMetric(Float32Metric):
    """Weighted positives and negatives of each label, positives predicted right and negatives predicted wrong.

    Negatives are nearly all of the examples. So their errors are counted: a difference of two large sums in float32
    would lose them.
    """

    _arguments = ("num_labels", "threshold", "ignore_class", "name")  # the config has these

    def __init__(self, num_labels, *, threshold, ignore_class=None, name=None):
        super().__init__(name)
        self.num_labels = _checks.check_integer(num_labels, "num_labels", minimum=1)
        self.threshold = check_thresholds(threshold, self.num_labels)
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        self.positives, self.true_positives = self._add_counter("positives"), self._add_counter("true_positives")
        self.negatives, self.false_positives = self._add_counter("negatives"), self._add_counter("false_positives")

    def _add_counter(self, name):
        return self.add_variable((self.num_labels,), "zeros", dtype="float32", name=name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        _scores.check_pair(y_true, y_pred, ("y_true", "y_pred"))
        y_pred = _labels.to_tensor(y_pred)
        _labels.check_threshold_of(y_pred, self.threshold)
        layer_mask = _keras.mask_of(y_pred)
        labels = _labels.read_targets(y_true, y_pred, self.num_labels, ignore_class=self.ignore_class)
        target, scores = ops.cast(labels.rows, "float32"), _labels.at_least_float32(y_pred)
        weight = labels.spoil(ops.ones_like(target))
        if sample_weight is not None:
            weight = weight * _labels.align_weight(sample_weight, weight)
        weight = _labels.zero_masked(weight, _labels.combine_masks(len(target.shape), layer_mask, labels.kept))
        threshold = ops.cast(ops.convert_to_tensor(np.asarray(self.threshold)), scores.dtype)
        # Both are false for NaN, so a score of NaN is never right.
        says_yes, says_no = ops.greater(scores, threshold), ops.less_equal(scores, threshold)
        for total, part, mass, is_counted in (
            (self.positives, self.true_positives, weight * target, says_yes),
            (self.negatives, self.false_positives, weight * (1.0 - target), ops.logical_not(says_no)),
        ):
            total.assign_add(self._sum(mass))
            part.assign_add(self._sum(ops.where(is_counted, mass, 0.0)))

    def _sum(self, values):
        return _labels.sum_rows(ops.reshape(values, (-1, self.num_labels)))

    def _balanced(self):
        """`(TPR + TNR) / 2` of each label, NaN for a label without positives or without negatives."""
        positives, negatives = ops.convert_to_tensor(self.positives), ops.convert_to_tensor(self.negatives)
        right = _precision.divide_no_nan(ops.convert_to_tensor(self.true_positives), positives)
        right = right + 1.0 - _precision.divide_no_nan(ops.convert_to_tensor(self.false_positives), negatives)
        return self._where(ops.logical_and(ops.not_equal(positives, 0.0), ops.not_equal(negatives, 0.0)), right / 2.0)

    def _f1(self):
        """`2·TP / (2·TP + FP + FN)` of each label, NaN for a label without positives."""
        positives = ops.convert_to_tensor(self.positives)
        right = ops.convert_to_tensor(self.true_positives)
        score = _precision.divide_no_nan(2.0 * right, ops.add(right + positives, self.false_positives))
        return self._where(ops.not_equal(positives, 0.0), score)

    def _where(self, present, values):
        # A bad target made the sums of its label NaN. Make the result of every label NaN.
        spoiled = 0.0 * ops.sum(ops.add(self.positives, self.negatives))
        return ops.where(present, values, np.nan) + spoiled, present

    def get_config(self):
        return {name: np.asarray(getattr(self, name)).tolist() for name in self._arguments}


def _mean(values, among):
    """The mean of the values `[L]` where `among` is true. NaN if it is true nowhere."""
    return ops.sum(ops.where(among, values, 0.0)) / ops.sum(ops.cast(among, "float32"))


def check_thresholds(threshold, num_labels):
    """`threshold` as a float, or a list of one float for each label."""
    array = _arrays.as_array(threshold, "threshold", "a number or one number for each label").astype("float64")
    if array.shape not in ((), (num_labels,)) or not np.isfinite(array).all():
        raise _checks.ArgumentError(
            "threshold",
            f"`threshold` must be a finite number, or one for each of the {num_labels} labels: 0.5 for probabilities, "
            f"0 for logits. Received: threshold={_checks.shown(threshold)}",
        )
    _checks.refuse_beyond_float32(np.atleast_1d(array), "threshold")
    return array.tolist()


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MultiLabelBalancedAccuracy(_MultiLabelMetric):
    """Balanced accuracy of independent labels, `(1/L) Σ_l (TPR_l + TNR_l) / 2`.

    `TPR_l` is the share of the positives of label l that are predicted on, `TNR_l` the share of its negatives that are
    predicted off. A label that is always off scores ½, however rare it is.

    Args:
        num_labels: the number of labels `L`.
        threshold: a label is predicted on if its score is above this: 0.5 for probabilities, 0 for logits. A number, or
            one number for each label.
        ignore_class: a target value, such as −1, that marks an unknown target.
        name: name of the metric.

    Call arguments: `y_true` targets `[..., L]` (`[...]` when `L = 1`), `y_pred` scores `[..., L]`; `sample_weight` any
    leading part of `[..., L]`. A target t between 0 and 1 counts as t positives and 1 − t negatives. A target outside
    [0, 1] gives NaN.

    Result: a scalar in [0, 1], over the labels that have positives and negatives. NaN if no label has both.

    Raises:
        ValueError: for targets that are not as wide as the scores, or thresholds that are not numbers.

    Example:

    >>> metric = MultiLabelBalancedAccuracy(num_labels=2, threshold=0)
    >>> y_true = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])
    >>> metric.update_state(y_true, np.array([[2.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [-2.0, -1.0]]))
    >>> round(float(metric.result()), 4)  # ((2/3 + 1)/2 + (0 + 2/3)/2) / 2
    0.5833

    Reference: Brodersen et al. (2010), for each label; Menon et al. (2021), §2, equation 1, for two classes.
    """

    def __init__(self, num_labels, *, threshold, ignore_class=None, name="multi_label_balanced_accuracy"):
        super().__init__(num_labels, threshold=threshold, ignore_class=ignore_class, name=name)

    def result(self):
        return _mean(*self._balanced())


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PerLabelBalancedAccuracy(_MultiLabelMetric):
    """The balanced accuracy of every label, `(TPR_l + TNR_l) / 2`.

    Args:
        num_labels: the number of labels `L`.
        threshold: as in `MultiLabelBalancedAccuracy`.
        ignore_class: as in `MultiLabelBalancedAccuracy`.
        name: name of the metric.

    Result: a vector `[L]`; NaN for a label without positives or without negatives. In `fit` the history holds the
    vector, the progress bar its mean.

    Example:

    >>> metric = PerLabelBalancedAccuracy(num_labels=3, threshold=0.5)
    >>> metric.update_state(np.array([[1, 0, 0], [0, 1, 0]]), np.array([[0.9, 0.6, 0.1], [0.2, 0.7, 0.1]]))
    >>> metric.result().__array__().tolist()  # the third label has no positives
    [1.0, 0.5, nan]

    Reference: Brodersen et al. (2010).
    """

    def __init__(self, num_labels, *, threshold, ignore_class=None, name="per_label_balanced_accuracy"):
        super().__init__(num_labels, threshold=threshold, ignore_class=ignore_class, name=name)

    def result(self):
        return self._balanced()[0]


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MultiLabelMacroF1(_MultiLabelMetric):
    """Macro-averaged F1 of independent labels, the mean of `2·TP_l / (2·TP_l + FP_l + FN_l)`.

    If every label has positives, it equals `sklearn.metrics.f1_score(average="macro")`. A label without positives in
    the data is left out here; scikit-learn counts it as 0.

    Args:
        num_labels: the number of labels `L`.
        threshold: as in `MultiLabelBalancedAccuracy`.
        ignore_class: as in `MultiLabelBalancedAccuracy`.
        name: name of the metric.

    Result: a scalar in [0, 1], over the labels that have positives. NaN if no label has positives.

    Example:

    >>> metric = MultiLabelMacroF1(num_labels=2, threshold=0.5)
    >>> metric.update_state(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.6], [0.2, 0.7]]))
    >>> round(float(metric.result()), 4)  # (2/3 + 2/3) / 2
    0.6667

    Reference: Opitz and Burst (2019), "Macro F1 and Macro F1" (the mean of F1 scores).
    """

    def __init__(self, num_labels, *, threshold, ignore_class=None, name="multi_label_macro_f1"):
        super().__init__(num_labels, threshold=threshold, ignore_class=ignore_class, name=name)

    def result(self):
        return _mean(*self._f1())


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class MultiLabelGroupAccuracy(_MultiLabelMetric):
    """Balanced accuracy of groups of independent labels, each the mean over its labels.

    The groups are made as in `GroupAccuracy`, by the positives of each label. Labels without a positive training
    example are the group `unseen`.

    Args:
        positive_counts: `[L]` training examples in which each label is on; 0 is allowed.
        threshold: as in `MultiLabelBalancedAccuracy`.
        bounds: `(few, many)`, as in `GroupAccuracy`.
        inclusive: as in `GroupAccuracy`.
        groups: instead of bounds, the group name of each label, as in `GroupAccuracy`.
        ignore_class: as in `MultiLabelBalancedAccuracy`.
        name: name of the metric. A name that you give is before every name of the result, as in `GroupAccuracy`.

    Result: a dict `{"many_accuracy": …, "medium_accuracy": …, "few_accuracy": …}`, each over the labels that have
    positives and negatives; NaN for a group that has no such label.

    Raises:
        ValueError: as `GroupAccuracy`.

    Example:

    >>> metric = MultiLabelGroupAccuracy(positive_counts=[500, 5], threshold=0)
    >>> metric.update_state(np.array([[1, 0], [0, 1]]), np.array([[3.0, -2.0], [-1.0, -2.0]]))
    >>> {name: float(value) for name, value in metric.result().items()}
    {'many_accuracy': 1.0, 'few_accuracy': 0.5}

    Reference: Menon et al. (2021), appendix E.4 (the groups).
    """

    _arguments = ("threshold", "ignore_class", "name", "positive_counts", "bounds", "inclusive", "groups")

    def __init__(
        self,
        positive_counts,
        *,
        threshold,
        bounds=(20, 100),
        inclusive=True,
        groups=None,
        ignore_class=None,
        name=None,
    ):
        counts = _checks.as_true_counts(positive_counts, "positive_counts", allow_zero=True)
        super().__init__(counts.size, threshold=threshold, ignore_class=ignore_class, name=name or _GROUP_NAME)
        self.positive_counts = counts
        self.bounds, self.inclusive = check_bounds(bounds), _checks.check_bool(inclusive, "inclusive")
        self.groups, self._members = members_of(counts, self.bounds, self.inclusive, groups)

    @property
    def _results(self):
        return results_by_name(self, _GROUP_NAME)

    def result(self):
        refuse_same_results(self)
        balanced, present = self._balanced()
        return {name: _mean(balanced, ops.logical_and(present, own)) for name, own in self._results.items()}
