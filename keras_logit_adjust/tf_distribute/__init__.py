"""Training on several devices and machines with TensorFlow, which Keras's own `fit` does not support in full."""

from keras_logit_adjust.tf_distribute._cluster import WorkerLostError, is_chief, multi_worker_strategy
from keras_logit_adjust.tf_distribute.training import evaluate, fit, predict

__all__ = ["WorkerLostError", "evaluate", "fit", "is_chief", "multi_worker_strategy", "predict"]
