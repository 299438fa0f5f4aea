"""The prior that a model has learned from class weights or from resampled data."""

import warnings
from collections.abc import Mapping

import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust._arrays import in_order, shown
from keras_logit_adjust.priors.formulas import as_prior

# The resamplers of imbalanced-learn. `_RANDOM` do not change P(x|y). `_SYNTHETIC` add examples between others.
# `_SELECTING` choose examples by their neighbors, so that they change P(x|y).
_RANDOM = ("RandomOverSampler", "RandomUnderSampler")
_SYNTHETIC = ("SMOTE", "SMOTENC", "SMOTEN", "BorderlineSMOTE", "SVMSMOTE", "KMeansSMOTE", "ADASYN")
_SELECTING = (
    *("NearMiss", "TomekLinks", "EditedNearestNeighbours", "RepeatedEditedNearestNeighbours", "AllKNN"),
    *("CondensedNearestNeighbour", "OneSidedSelection", "NeighbourhoodCleaningRule", "InstanceHardnessThreshold"),
    *("ClusterCentroids", "SMOTEENN", "SMOTETomek"),
)


def effective_prior(class_counts, *, class_weight=None, resampled_counts=None, resampler=None, class_names=None):
    """The class prior that a model learns from a weighted or resampled training set, `π_eff,y ∝ n_y·w_y`.

    A model that minimizes weighted cross-entropy estimates `P(y|x)·w_y`, divided by its sum: the posterior under
    `π_eff`. So adjust its scores by `π_eff`, and not by the counts.
    `kla.adjust_scores(p, π_eff, target_prior=class_counts)` undoes the weights. After resampling, `n_y` are the counts
    of the resampled set.

    The prior is exact for weights, random oversampling and random undersampling, if the model is at the minimum of
    cross-entropy and can express it. It is approximate for SMOTE (`resampler` then warns), boosting, trees and
    penalized models. Focal loss, hinge and other margins, one-vs-rest classifiers and resampling that chooses by
    neighbors (NearMiss, Tomek links, edited nearest neighbors) estimate something else: no prior undoes them.

    Args:
        class_counts: `[L]` training examples of each class, before resampling, all > 0.
        class_weight: `[L]` weights > 0; a dict of every class id, as Keras has it, or of every class of `class_names`;
            or "balanced", scikit-learn's `N/(L·n_y)`, which makes all classes equally frequent. By default all are 1.
        resampled_counts: `[L]` examples of each class after resampling, or such a dict, as
            `collections.Counter(y_resampled)`. With `class_weight` too, resampled examples have those weights.
        resampler: an object of imbalanced-learn, or the name of its class. It is refused if no prior undoes it.
        class_names: `[L]` names in order of class id, for counts and weights that name their classes.

    Returns:
        Float64 array `[L]` that sums to one.

    Raises:
        ValueError: where neither weights nor resampled counts are given; for weights or counts that are not positive,
            or not one for each class; for a `resampler` that no prior undoes.

    Warns:
        UserWarning: for a `resampler` that makes new examples, such as SMOTE: undoing it is approximate.

    Example:

    >>> effective_prior([90, 10], class_weight={0: 1.0, 1: 6.0}).tolist()  # 90 against 60
    [0.6, 0.4]
    >>> effective_prior([90, 10], class_weight="balanced").tolist()
    [0.5, 0.5]
    >>> effective_prior([90, 10], resampled_counts=[90, 30]).tolist()
    [0.75, 0.25]

    Reference: Elkan (2001), theorem 2; Saerens, Latinne and Decaestecker (2002), §2.2.
    """
    prior = as_prior(class_counts, independent=False, class_names=class_names)
    if class_weight is None and resampled_counts is None:
        raise _checks.ArgumentError(
            "class_weight",
            "`class_weight` or `resampled_counts` must be given: without both, the prior in a model is that of "
            "`class_counts`, kla.priors.prior(class_counts).",
        )
    if resampler is not None:
        _check_resampler(resampler, resampled_counts)
    counts = prior.counts
    if resampled_counts is not None:
        counts = _each_positive(resampled_counts, "resampled_counts", class_names, prior.size)
    if isinstance(class_weight, str):
        _checks.check_choice(class_weight, "class_weight", ["balanced"])
        return np.full(prior.size, 1.0 / prior.size)
    if class_weight is not None:
        weights = _each_positive(class_weight, "class_weight", class_names, prior.size)
        counts = counts / counts.max() * (weights / weights.max())
    return as_prior(counts).probabilities.copy()


def _each_positive(values, name, class_names, num_classes):
    """`values` as a vector of numbers > 0, one for each class. Without `class_names` the keys of a dict are ids."""
    if isinstance(values, Mapping) and class_names is None:
        if values.keys() != set(range(num_classes)):
            rest = " Give 1.0 to a class that has no weight of its own." if name == "class_weight" else ""
            raise _checks.ArgumentError(
                name,
                f"`{name}` must have the keys 0 … {num_classes - 1}, one for each class id. Received {shown(values)}: "
                f"where keys are names, give `class_names`.{rest}",
            )
        values = [values[c] for c in range(num_classes)]
    values = in_order(values, name, class_names)
    return _checks.as_class_vector(values, name, num_classes, positive=True)


def _check_resampler(resampler, resampled_counts):
    if resampled_counts is None:
        raise _checks.ArgumentError(
            "resampler",
            "`resampler` goes with `resampled_counts`, the examples of each class that it gave: "
            "kla.priors.count_classes(y_resampled). Received it alone.",
        )
    name = resampler if isinstance(resampler, str) else type(resampler).__name__
    if name in _SELECTING:
        raise _checks.ArgumentError(
            "resampler",
            f"`resampler` must not choose examples by their neighbors. Received {name}: what is left of a class is "
            "another P(x|y), which no prior undoes. Train on all data, or draw at random.",
        )
    if name in _SYNTHETIC:
        warnings.warn(
            f"{name} makes examples between those that there are, which changes P(x|y) as well as the prior: undoing "
            "the prior is approximate. Exact are class weights and random oversampling.",
            stacklevel=3,
        )
    elif name not in _RANDOM:
        raise _checks.ArgumentError(
            "resampler",
            f"`resampler` must be known: {', '.join(_RANDOM + _SYNTHETIC)}. Received: resampler={shown(resampler)}. "
            "Leave it out where it draws the examples of a class at random.",
        )
