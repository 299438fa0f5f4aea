"""Accuracy of groups of classes: many-, medium- and few-shot, or the user's own groups."""

from collections.abc import Mapping

import keras
import numpy as np

from keras_logit_adjust import _arrays, _checks, _keras
from keras_logit_adjust.metrics._per_class import PriorWeightedMetric

_NAME = "group_accuracy"


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class GroupAccuracy(PriorWeightedMetric):
    """Accuracy of groups of classes, each the mean recall of its classes, in one pass.

    The default groups are from Menon et al.: `many` with at least 100 training examples, `few` with at most 20,
    `medium` between. `inclusive=False` gives the groups of OLTR and code from it: more than 100, fewer than 20.
    Classes without training examples are a group of their own, `unseen`. A group without classes does not appear.

    Args:
        class_counts: `[L]` training examples of each class (true counts); 0 is allowed.
        bounds: `(few, many)`: a class with at most `few` examples is few-shot, with at least `many` many-shot.
        inclusive: whether a class with exactly `few` or `many` examples is few- or many-shot; False makes it
            medium-shot. Published tables differ here: say which one you report.
        groups: instead of bounds, the group name of each class: a sequence of `L` names, or a dict class → name
            (classes without a name are left out).
        k: a prediction is right when fewer than `k` classes score higher, as in `BalancedAccuracy`.
        ignore_class: a class id left out.
        class_prior: `[L]` weights of the classes within their groups; equal by default.
        threshold: for one sigmoid unit, `y_pred` `[..., 1]` and two counts, [negatives, positives]: 0.5 for
            probabilities, 0 for logits.
        name: name of the metric. A name that you give stands before every name of the result, `fine_many_accuracy`.
            Keras merges the dicts of several metrics, so all but one of them need a name. With `k=5` it is "top_5" by
            default.

    Result: a dict `{"many_accuracy": …, "medium_accuracy": …, "few_accuracy": …}`; NaN for a group whose classes
    do not occur in the data. If some classes have no training examples, there is also `unseen_accuracy`.
    `EarlyStopping(monitor="val_few_accuracy")` needs `mode="max"`: Keras looks up directions by metric name.

    Raises:
        ValueError: for probabilities in place of counts, bounds that are not increasing, groups that do not fit; in
            `fit`, where another metric of the model has a result of the same name.

    Example:

    >>> import numpy as np
    >>> metric = GroupAccuracy(class_counts=[500, 50, 5])
    >>> metric.update_state(np.array([0, 1, 2]), np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]]))
    >>> {name: float(value) for name, value in metric.result().items()}
    {'many_accuracy': 1.0, 'medium_accuracy': 1.0, 'few_accuracy': 0.0}

    Reference: Menon et al. (2021), appendix E.4 (the default); Liu et al. (2019), OLTR (`inclusive=False`).
    """

    _arguments = (
        "ignore_class",
        "name",
        "threshold",
        "class_prior",
        "k",
        "class_counts",
        "bounds",
        "inclusive",
        "groups",
    )

    def __init__(
        self,
        class_counts,
        *,
        bounds=(20, 100),
        inclusive=True,
        groups=None,
        k=1,
        ignore_class=None,
        class_prior=None,
        threshold=None,
        name=None,
    ):
        counts = _checks.as_true_counts(class_counts, allow_zero=True)
        k = _checks.check_integer(k, "k", minimum=1)
        name = name or (_NAME if k == 1 else f"top_{k}")
        super().__init__(
            counts.size, k=k, ignore_class=ignore_class, class_prior=class_prior, threshold=threshold, name=name
        )
        self.class_counts = counts
        self.bounds, self.inclusive = check_bounds(bounds), _checks.check_bool(inclusive, "inclusive")
        self.groups, self._members = members_of(counts, self.bounds, self.inclusive, groups)

    @property
    def _results(self):
        """`{name in the result: whether each class belongs to the group}`."""
        return results_by_name(self, _NAME)

    def result(self):
        refuse_same_results(self)
        recall = self._recall()
        return {name: self._mean_over_present(recall, own * self._importance) for name, own in self._results.items()}


def groups_of_counts(class_counts, *, bounds=(20, 100), inclusive=True):
    """The name of each class's group by its number of training examples: "many", "medium", "few", or "unseen" of 0.

    Args:
        class_counts: `[L]` training examples of each class; 0 is allowed.
        bounds: `(few, many)`, as in `GroupAccuracy`.
        inclusive: as in `GroupAccuracy`.

    Returns:
        List of `L` names.

    Raises:
        ValueError: for counts that are negative or not finite, probabilities in place of counts, bounds that are not
            increasing.

    Example:

    >>> groups_of_counts([500, 100, 99, 20, 0])
    ['many', 'many', 'medium', 'few', 'unseen']
    >>> groups_of_counts([500, 100, 99, 20], inclusive=False)
    ['many', 'medium', 'medium', 'medium']

    Reference: Menon et al. (2021), appendix E.4 (the default); Liu et al. (2019), OLTR (`inclusive=False`).
    """
    counts = _checks.as_true_counts(class_counts, allow_zero=True)
    few, many = check_bounds(bounds)
    if not _checks.check_bool(inclusive, "inclusive"):
        few, many = np.nextafter([few, many], [-np.inf, np.inf])
    return ["unseen" if n == 0 else "many" if n >= many else "few" if n <= few else "medium" for n in counts]


def members_of(counts, bounds, inclusive, groups):
    """`groups` as one name for each class (None if the counts make the groups), and `{group: its classes as bools}`."""
    if groups is None:
        names = groups_of_counts(counts, bounds=bounds, inclusive=inclusive)
    else:
        groups = names = _group_names(groups, counts.size)
    found = dict.fromkeys(own for own in names if own is not None)
    return groups, {name: np.array([own == name for own in names]) for name in found}


def results_by_name(metric, default):
    """`{name in the result: the classes of the group as bools}`. `default` is the default name of the metric."""
    prefix = "" if metric.name == default else f"{metric.name}_"
    return {f"{prefix}{name}_accuracy": members for name, members in metric._members.items()}


def refuse_same_results(metric):
    """Raise if another metric of the compiled model has a result of the same name: Keras would merge them."""
    for other in _keras.metrics_read_now():
        taken = getattr(other, "_results", [other.name])
        same = [] if other is metric else [name for name in metric._results if name in taken]
        if same:
            raise ValueError(
                f"Metrics of one model must have results of different names. Received two of {same[0]!r}, of "
                f"{metric.name!r} and {other.name!r}: give one a name of its own, {type(metric).__name__}(…, "
                "name='fine')."
            )


def check_bounds(bounds):
    bounds = _arrays.as_array(bounds, "bounds", "a pair of numbers (few, many)").astype("float64")
    if bounds.shape != (2,):
        raise _checks.ArgumentError(
            "bounds", f"`bounds` must be a pair of numbers (few, many). Received: bounds={bounds.tolist()}"
        )
    few, many = bounds.tolist()
    if not 0 <= few < many:
        raise _checks.ArgumentError(
            "bounds", f"`bounds` must increase, 0 <= few < many. Received: bounds={(few, many)}"
        )
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
