"""Logit adjustment for long-tailed classification in Keras: in the loss, in the head, or after training."""

__version__ = "0.2.0"

import importlib

from keras_logit_adjust import (
    _interrupts,  # noqa: F401 - it must be first, before the slow imports
    _process,  # noqa: F401 - it must come before a backend is imported
    callbacks,
    data,
    held_out,
    layers,
    losses,
    metrics,
    models,
    posthoc,
    priors,
    serving,
    tf_distribute,
)
from keras_logit_adjust.held_out import TauPath, calibrate, estimate_target_prior, tune_offsets, tune_tau
from keras_logit_adjust.layers import Calibration
from keras_logit_adjust.losses import is_fisher_consistent
from keras_logit_adjust.posthoc import adjust, adjust_scores, fold_into_bias, normalize_weights, product_of_experts

__all__ = [
    "Calibration",
    "TauPath",
    "adjust",
    "adjust_scores",
    "calibrate",
    "callbacks",
    "data",
    "estimate_target_prior",
    "fold_into_bias",
    "held_out",
    "is_fisher_consistent",
    "layers",
    "losses",
    "metrics",
    "models",
    "normalize_weights",
    "plots",
    "posthoc",
    "priors",
    "product_of_experts",
    "serving",
    "tf_distribute",
    "tune_offsets",
    "tune_tau",
]


def __getattr__(name):
    if name == "plots":  # needs matplotlib, which is optional
        return importlib.import_module("keras_logit_adjust.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
