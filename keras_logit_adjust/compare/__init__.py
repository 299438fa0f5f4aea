"""Train every method on the same long tail and compare them pair by pair."""

from keras_logit_adjust.compare.config import Config
from keras_logit_adjust.compare.methods import GROUPS, METHODS, Method
from keras_logit_adjust.compare.run import compare

__all__ = ["GROUPS", "METHODS", "Config", "Method", "compare"]
