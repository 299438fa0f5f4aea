"""Everything that is chosen on held-out logits and labels: τ, offsets, a calibration, a prior, prediction sets."""

from keras_logit_adjust.held_out.calibration import calibrate, calibration_error, reliability
from keras_logit_adjust.held_out.label_shift import TargetPrior, estimate_target_prior
from keras_logit_adjust.held_out.linear_probe import LinearProbe, fit_linear_probe
from keras_logit_adjust.held_out.offsets import TunedOffsets, tune_offsets
from keras_logit_adjust.held_out.predict import predict_logits
from keras_logit_adjust.held_out.prediction_sets import PredictionSets, SetReport
from keras_logit_adjust.held_out.source_prior import SourcePrior, estimate_source_prior
from keras_logit_adjust.held_out.tau import TunedTau, tune_tau
from keras_logit_adjust.held_out.tau_path import BestTau, TauPath

__all__ = [
    "BestTau",
    "LinearProbe",
    "PredictionSets",
    "SetReport",
    "SourcePrior",
    "TargetPrior",
    "TauPath",
    "TunedOffsets",
    "TunedTau",
    "calibrate",
    "calibration_error",
    "estimate_source_prior",
    "estimate_target_prior",
    "fit_linear_probe",
    "predict_logits",
    "reliability",
    "tune_offsets",
    "tune_tau",
]
