"""Adjusted models outside Python: export for serving, with the name of the prior, and a description."""

from keras_logit_adjust.serving.description import Correction, Description, describe, name_prior
from keras_logit_adjust.serving.export import FORMATS, export

__all__ = ["FORMATS", "Correction", "Description", "describe", "export", "name_prior"]
