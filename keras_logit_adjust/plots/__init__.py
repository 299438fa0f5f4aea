"""Figures: each takes results, computes nothing, and returns a `matplotlib.figure.Figure`. They need the extra `plots`.

A notebook shows a figure as it is; elsewhere use `figure.savefig("figure.svg")`. Colors are safe for color-blind
readers. In gray, markers, dashes, hatches and numbers show the differences.
"""

import importlib.util

if importlib.util.find_spec("matplotlib") is None:
    raise ModuleNotFoundError('Figures need matplotlib. pip install "keras_logit_adjust[plots]"', name="matplotlib")

from keras_logit_adjust.plots.accuracy import confusion, error_by_sample_size, group_accuracy, per_class_accuracy
from keras_logit_adjust.plots.findings import class_norms, label_noise, label_shift
from keras_logit_adjust.plots.scores import decision_boundaries, margins, reliability, tau_path
from keras_logit_adjust.plots.tails import class_counts, class_shares, images

__all__ = [
    # The data
    "class_counts",
    "class_shares",
    "images",
    # The accuracy of methods
    "per_class_accuracy",
    "group_accuracy",
    "confusion",
    "error_by_sample_size",
    # The reasons
    "tau_path",
    "margins",
    "decision_boundaries",
    "reliability",
    # The paper's and other findings
    "class_norms",
    "label_noise",
    "label_shift",
]
