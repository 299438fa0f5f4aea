"""Models whose logits are corrected for the prior already."""

import keras
from keras import layers

import keras_logit_adjust as kla
from helpers.posthoc_models import COUNTS, WIDTH, sequential


def compiled_with(loss, *behind):
    model = sequential(layers.Dense(3, name="head"), *behind)
    model.compile("sgd", loss)
    return model


def twice_named(loss):
    model = keras.Model(model_input := keras.Input((WIDTH,)), layers.Dense(3, name="head")(model_input))
    model.compile("sgd", {"head": loss})
    return model


ADJUSTED_LOSS = kla.losses.LogitAdjustedCrossentropy(COUNTS)
CORRECTED = {
    "loss": (lambda: compiled_with(ADJUSTED_LOSS), "adjusted loss LogitAdjustedCrossentropy"),
    "loss in a list": (lambda: compiled_with([ADJUSTED_LOSS]), "adjusted loss LogitAdjustedCrossentropy"),
    "loss in a dict": (lambda: twice_named(ADJUSTED_LOSS), "adjusted loss LogitAdjustedCrossentropy"),
    "loss for labels": (
        lambda: compiled_with(kla.losses.BinaryLogitAdjustedCrossentropy([1, 2, 3], 100)),
        "adjusted loss BinaryLogitAdjustedCrossentropy",
    ),
    "loss of a nested model": (
        lambda: sequential(compiled_with(ADJUSTED_LOSS)),
        "adjusted loss LogitAdjustedCrossentropy",
    ),
    "head": (lambda: sequential(kla.layers.PriorAwareDense(3, COUNTS, name="head")), "prior-aware head 'head'"),
    "nested head": (
        lambda: sequential(sequential(kla.layers.PriorAwareDense(3, COUNTS, name="head"))),
        "prior-aware head 'head'",
    ),
    "layer": (
        lambda: sequential(layers.Dense(3), kla.layers.LogitAdjustment(COUNTS, name="shift")),
        "is adjusted already, by layer 'shift'",
    ),
    "adjusted": (lambda: kla.adjust(sequential(layers.Dense(3, "softmax")), COUNTS), "is adjusted already, by layer"),
}
