"""Models whose heads post-hoc changes refuse."""

import keras
from keras import layers

from helpers.posthoc_models import WIDTH, sequential


def plain(activation=None, units=3):
    return sequential(layers.Dense(units, activation, name="head"))


def with_outputs(number):
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, [layers.Dense(3)(inputs) for _ in range(number)])


def one_of_two_nested_outputs():
    inner, inputs = with_outputs(2), keras.Input((WIDTH,))
    return keras.Model(inputs, inner(inputs)[1])


def used_twice():
    inputs, head = keras.Input((3,)), layers.Dense(3, name="head")
    return keras.Model(inputs, head(head(inputs)))


def nested_used_twice():
    inputs, inner = keras.Input((3,)), sequential(layers.Dense(3, name="head"), width=3)
    return keras.Model(inputs, inner(inner(inputs)))


def used_inside_and_outside():
    inputs, head = keras.Input((3,)), layers.Dense(3, name="head")
    return keras.Model(inputs, sequential(head, width=3)(head(inputs)))


def tied(variable):
    first, head = layers.Dense(3, name="first"), layers.Dense(3, name="head")
    model = sequential(first, head, width=3)
    head._tracker.unlock()
    setattr(head, variable, getattr(first, variable))
    return model


def quantized(activation):
    head = layers.Dense(3, activation, name="head")
    model = sequential(head)
    head.quantize("int8")
    return model
