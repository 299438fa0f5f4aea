"""The methods `compare` knows: one row of a table each."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from keras_logit_adjust import models, priors
from keras_logit_adjust.layers import PriorAwareDense
from keras_logit_adjust.losses import LogitAdjustedCrossentropy


@dataclasses.dataclass(frozen=True)
class Method:
    """How a row of the table is trained, and what is done to its logits afterwards.

    Attributes:
        title: the row's name in a report.
        loss: class_counts → the loss to compile with.
        head: class_counts → a callable that makes the output layer from the number of classes.
        class_weight: class_counts → weights `{class: weight}` for `fit`, or None.
        trained_as: the row whose trained model this one uses, where it needs none of its own.
        transform: (logits `[N, L]`, class_counts) → logits, after training.
    """

    title: str
    loss: Callable = lambda class_counts: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head: Callable = lambda class_counts: models.dense_head
    class_weight: Callable | None = None
    trained_as: str | None = None
    transform: Callable = lambda logits, class_counts: logits


def balanced_weights(class_counts):
    """scikit-learn's "balanced" weights, `N / (L·n_y)`: what Keras users pass as `class_weight` today."""
    weights = class_counts.sum() / (class_counts.size * class_counts)
    return dict(enumerate(weights.tolist()))


def subtract_log_prior(logits, class_counts):
    """Post-hoc adjustment at τ = 1 (Menon et al., 2021, equation 9)."""
    return (logits - priors.log_prior(class_counts)).astype("float32")


def prior_aware_head(class_counts):
    """A `PriorAwareDense` in place of the output layer."""
    return lambda units: PriorAwareDense(units, np.asarray(class_counts), dtype="float32", name="head")


METHODS = {
    "erm": Method("cross-entropy (ERM)"),
    "class_weight": Method("balanced class_weight", class_weight=balanced_weights),
    "la_posthoc": Method("logit adjustment, post hoc", trained_as="erm", transform=subtract_log_prior),
    "la_loss": Method("logit-adjusted loss", loss=LogitAdjustedCrossentropy),
    "la_head": Method("prior-aware head", head=prior_aware_head),
}


@functools.cache
def training_of(name):
    """The row that trains the model `name` uses."""
    return METHODS[name].trained_as or name
