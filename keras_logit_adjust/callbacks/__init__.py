"""Callbacks for `model.fit`."""

from keras_logit_adjust.callbacks.long_tail_report import LongTailReport
from keras_logit_adjust.callbacks.predictor_metrics import PredictorMetrics
from keras_logit_adjust.callbacks.reweighting import DeferredReweighting
from keras_logit_adjust.callbacks.sampler_backup import SamplerBackup

__all__ = ["DeferredReweighting", "LongTailReport", "PredictorMetrics", "SamplerBackup"]
