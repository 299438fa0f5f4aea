"""Logit adjustment for long-tailed classification in Keras: in the loss, in the head, or after training."""

__version__ = "0.1.0"

from keras_logit_adjust import data, layers, losses, metrics, models, posthoc, priors
from keras_logit_adjust.posthoc import adjust, fold_into_bias

__all__ = ["adjust", "data", "fold_into_bias", "layers", "losses", "metrics", "models", "posthoc", "priors"]
