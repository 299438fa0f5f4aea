"""An adjusted model leaves Python: written for serving, its prior named, and described."""

from keras_logit_adjust.serving.description import Correction, Description, describe, name_prior
from keras_logit_adjust.serving.export import FORMATS, export

__all__ = ["FORMATS", "Correction", "Description", "describe", "export", "name_prior"]
