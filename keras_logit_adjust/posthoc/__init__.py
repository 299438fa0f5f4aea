"""What is done to a model after training."""

from keras_logit_adjust.posthoc.adjust import AdjustedModel, adjust, fold_into_bias
from keras_logit_adjust.posthoc.weight_norm import normalize_weights

__all__ = ["AdjustedModel", "adjust", "fold_into_bias", "normalize_weights"]
