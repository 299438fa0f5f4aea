"""Functions that change a trained model or its scores: adjust, fold, normalize weights, join several models."""

from keras_logit_adjust.posthoc._outputs import AdjustedOutputs
from keras_logit_adjust.posthoc.adjust import AdjustedModel, adjust
from keras_logit_adjust.posthoc.experts import product_of_experts
from keras_logit_adjust.posthoc.fold import fold_into_bias
from keras_logit_adjust.posthoc.scores import adjust_scores
from keras_logit_adjust.posthoc.weight_norm import normalize_weights

__all__ = [
    "AdjustedModel",
    "AdjustedOutputs",
    "adjust",
    "adjust_scores",
    "fold_into_bias",
    "normalize_weights",
    "product_of_experts",
]
