"""Losses that plug into `model.compile`."""

from keras_logit_adjust.losses.logit_adjusted import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    logit_adjusted_crossentropy,
)

__all__ = [
    "BinaryLogitAdjustedCrossentropy",
    "LogitAdjustedCrossentropy",
    "logit_adjusted_crossentropy",
]
