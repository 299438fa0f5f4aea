"""Losses that plug into `model.compile`."""

from keras_logit_adjust.losses._rivals import pairwise_margin_crossentropy
from keras_logit_adjust.losses.consistency import Consistency, Witness, is_fisher_consistent
from keras_logit_adjust.losses.linear import linear_logit_adjusted_crossentropy
from keras_logit_adjust.losses.logit_adjusted import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    binary_logit_adjusted_crossentropy,
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
    focal_crossentropy,
)
from keras_logit_adjust.losses.sampled import Rivals, RivalSampler, sampled_logit_adjusted_crossentropy

__all__ = [
    "AdaptiveMarginCrossentropy",
    "BinaryLogitAdjustedCrossentropy",
    "ClassBalancedCrossentropy",
    "Consistency",
    "EqualizedCrossentropy",
    "FocalCrossentropy",
    "LogitAdjustedCrossentropy",
    "PairwiseMarginCrossentropy",
    "RivalSampler",
    "Rivals",
    "VectorScalingCrossentropy",
    "Witness",
    "binary_logit_adjusted_crossentropy",
    "class_balanced_weights",
    "focal_crossentropy",
    "is_fisher_consistent",
    "linear_logit_adjusted_crossentropy",
    "logit_adjusted_crossentropy",
    "pairwise_margin_crossentropy",
    "sampled_logit_adjusted_crossentropy",
]
