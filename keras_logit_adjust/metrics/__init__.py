"""Streaming metrics in which rare classes count as much as frequent ones. Their state is O(L).

Classes without examples are left out. Labels are read as in the losses: ids, one-hot or soft rows, by static shape. A
soft row counts for the class of its largest entry. A row of zeros counts for no class. The metrics use Keras masks,
`ignore_class` and `sample_weight`. A fractional or out-of-range label makes the result NaN. (On JAX, Keras loses the
mask before the training metrics of `fit`. In validation the mask is there.)

Predictions are logits or probabilities. If scores are equal, the first class wins, as in `argmax`. A row of scores with
NaN predicts no class: it is wrong in the recall of its own class. In place of scores, metrics of one label take the ids
of the best classes: a dict of `ids` `[..., k]` and optional `scores`. The predictor of a `kla.layers.ManyClassModel`
gives such a dict. `PropensityScoredPrecision` takes only ids, and several labels.

Metrics whose names begin with `MultiLabel` or `PerLabel` are for independent labels: rows of 0 and 1, and a threshold.

`class_prior=` judges a model as if the classes occurred with these frequencies: class y has weight `L·π_y`. For means
of per-class recalls this is exact on every test set. For precision and F1 it is exact on a balanced test set. A
per-class recall does not depend on it.
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
