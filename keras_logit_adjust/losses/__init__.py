"""Losses that plug into `model.compile`."""

from keras_logit_adjust.losses.consistency import Consistency, Witness, is_fisher_consistent
from keras_logit_adjust.losses.logit_adjusted import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    logit_adjusted_crossentropy,
)
from keras_logit_adjust.losses.pairwise_margin import (
    AdaptiveMarginCrossentropy,
    EqualizedCrossentropy,
    PairwiseMarginCrossentropy,
    VectorScalingCrossentropy,
)
from keras_logit_adjust.losses.reweighted import (
    ClassBalancedCrossentropy,
    FocalCrossentropy,
    class_balanced_weights,
)

__all__ = [
    "AdaptiveMarginCrossentropy",
    "BinaryLogitAdjustedCrossentropy",
    "ClassBalancedCrossentropy",
    "Consistency",
    "EqualizedCrossentropy",
    "FocalCrossentropy",
    "LogitAdjustedCrossentropy",
    "PairwiseMarginCrossentropy",
    "VectorScalingCrossentropy",
    "Witness",
    "class_balanced_weights",
    "is_fisher_consistent",
    "logit_adjusted_crossentropy",
]
