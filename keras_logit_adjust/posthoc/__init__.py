"""What is done to a model after training."""

from keras_logit_adjust.posthoc._predict import predict_logits
from keras_logit_adjust.posthoc.adjust import AdjustedModel, adjust, fold_into_bias
from keras_logit_adjust.posthoc.calibration import Calibration, calibrate, calibration_error, reliability
from keras_logit_adjust.posthoc.experts import product_of_experts
from keras_logit_adjust.posthoc.label_shift import TargetPrior, estimate_target_prior
from keras_logit_adjust.posthoc.offsets import TunedOffsets, tune_offsets
from keras_logit_adjust.posthoc.tau import BestTau, TauPath
from keras_logit_adjust.posthoc.tuning import TunedTau, tune_tau
from keras_logit_adjust.posthoc.weight_norm import normalize_weights

__all__ = [
    "AdjustedModel",
    "BestTau",
    "Calibration",
    "TargetPrior",
    "TauPath",
    "TunedOffsets",
    "TunedTau",
    "adjust",
    "calibrate",
    "calibration_error",
    "estimate_target_prior",
    "fold_into_bias",
    "normalize_weights",
    "predict_logits",
    "product_of_experts",
    "reliability",
    "tune_offsets",
    "tune_tau",
]
