"""Logit adjustment for long-tailed classification in Keras: in the loss, in the head, or after training."""

__version__ = "0.1.0"

from keras_logit_adjust import layers, losses, metrics, priors

__all__ = ["layers", "losses", "metrics", "priors"]
