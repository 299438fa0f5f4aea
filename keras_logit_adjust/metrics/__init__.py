"""Streaming metrics in which the rare classes count: O(L) state, classes without examples left out.

Every metric takes labels as the losses do: ids, one-hot or soft rows by static shape (a soft row counts for its largest
entry, an all-zero row for none). Keras masks, `ignore_class` and `sample_weight` are honored; a fractional or
out-of-range label turns the result into NaN. (On JAX, Keras loses the mask on its way to the training metrics of `fit`;
validation has it.)

Predictions are logits or probabilities; of equal scores the first class wins, as `argmax` has it. In place of scores
every metric takes the ids of the best classes, a dict of `ids` `[..., k]` and, where they are known, `scores`, as the
predictor of a `kla.layers.ManyClassModel` gives them. `PropensityScoredPrecision` takes nothing else, and several
labels.

Metrics whose names begin with `MultiLabel` or `PerLabel` are for independent labels: rows of 0 and 1, and a threshold.

`class_prior=` judges a model as if the classes occurred with those frequencies: class y weighs `L·π_y`. For averages of
per-class recalls that is exact on any test set; for precision and F1 it is exact on a balanced one. Recalls themselves
do not depend on it.
"""

from keras_logit_adjust.metrics.groups import GroupAccuracy, groups_of_counts
from keras_logit_adjust.metrics.multi_label import (
    MultiLabelBalancedAccuracy,
    MultiLabelGroupAccuracy,
    MultiLabelMacroF1,
    PerLabelBalancedAccuracy,
)
from keras_logit_adjust.metrics.precision import MacroF1, PerClassPrecision
from keras_logit_adjust.metrics.propensity import PropensityScoredPrecision
from keras_logit_adjust.metrics.recall import BalancedAccuracy, PerClassAccuracy, WorstClassAccuracy

__all__ = [
    "BalancedAccuracy",
    "GroupAccuracy",
    "MacroF1",
    "MultiLabelBalancedAccuracy",
    "MultiLabelGroupAccuracy",
    "MultiLabelMacroF1",
    "PerClassAccuracy",
    "PerClassPrecision",
    "PerLabelBalancedAccuracy",
    "PropensityScoredPrecision",
    "WorstClassAccuracy",
    "groups_of_counts",
]
