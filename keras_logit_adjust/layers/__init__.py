"""Heads, the adjustment as a layer, decisions of least cost, and prediction sets."""

from keras_logit_adjust.layers.adjustment import LogitAdjustment
from keras_logit_adjust.layers.calibration import Calibration
from keras_logit_adjust.layers.class_sharding import many_class_layout
from keras_logit_adjust.layers.cosine import CosineDense
from keras_logit_adjust.layers.decision import MinimumRiskDecision
from keras_logit_adjust.layers.large import ManyClassDense
from keras_logit_adjust.layers.many_class_model import ManyClassModel
from keras_logit_adjust.layers.prediction_set import PredictionSet
from keras_logit_adjust.layers.prior_aware import PriorAwareDense
from keras_logit_adjust.layers.streaming import StreamingPriorDense
from keras_logit_adjust.layers.top_classes import ManyClassPredictor, TopClasses

__all__ = [
    "Calibration",
    "CosineDense",
    "LogitAdjustment",
    "ManyClassDense",
    "ManyClassModel",
    "ManyClassPredictor",
    "MinimumRiskDecision",
    "PredictionSet",
    "PriorAwareDense",
    "StreamingPriorDense",
    "TopClasses",
    "many_class_layout",
]
