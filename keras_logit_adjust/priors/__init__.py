"""Class counts from labels, and the prior π and its logarithm from class counts."""

from keras_logit_adjust.priors.counting import count_classes
from keras_logit_adjust.priors.effective import effective_prior
from keras_logit_adjust.priors.formulas import Prior, as_prior, log_odds, log_prior, prior
from keras_logit_adjust.priors.label_counts import LabelCounts, count_labels
from keras_logit_adjust.priors.streaming import CountingModel, StreamingPrior

__all__ = [
    "CountingModel",
    "LabelCounts",
    "Prior",
    "StreamingPrior",
    "as_prior",
    "count_classes",
    "count_labels",
    "effective_prior",
    "log_odds",
    "log_prior",
    "prior",
]
