"""A copy of a trained graph, state included, whose head is free to change.

`keras.models.clone_model` copies a compiled model with its compilation, and `set_weights` leaves out what is state but
not weights (the statistics of `Normalization`, the vocabulary of a lookup): so both go layer by layer here.
"""

import tempfile

import keras
import numpy as np
from keras import ops

from keras_logit_adjust.posthoc import _head


def clone_with_head(model, head, use_bias):
    """An uncompiled copy of `model`, and its copy of the layer `head`, whose bias is zeros where it had none."""
    copies = {}

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = layer, _clone_graph(layer, copy) if _head.is_graph(layer) else _clone_layer(layer)
        return copies[id(layer)][1]

    def _clone_layer(layer):
        config = layer.get_config()
        if layer is head:
            config["use_bias"] = use_bias
        return type(layer).from_config(config)

    clone = _clone_graph(model, copy)
    for layer, twin in copies.values():
        if layer is head:
            _copy_head(layer, twin)
        elif isinstance(layer, keras.Layer) and not _head.is_graph(layer):
            _copy_state(layer, twin)
    return clone, copies[id(head)][1]


def _clone_graph(model, copy):
    """A model of the copies of the layers of `model`, which keeps those that are used twice one layer."""
    if isinstance(model, keras.Sequential):
        inputs = _input_like(model.inputs[0], copy)
        return keras.Sequential([inputs, *map(copy, model.layers)], name=model.name, trainable=model.trainable)
    inputs = keras.tree.map_structure(lambda tensor: _input_like(tensor, copy), model.input)
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(uncompiled, inputs, clone_function=copy)


def _input_like(tensor, copy):
    inputs = copy(tensor._keras_history.operation).output
    inputs.name = tensor.name  # by which a serving signature calls it; the layer's may be another
    return inputs


def _copy_head(layer, twin):
    if twin.use_bias:
        twin.bias.assign(np.zeros(twin.bias.shape))
    for name, variable in _head.variables_of(layer):
        if name != "bias" or twin.use_bias:
            getattr(twin, name).assign(ops.convert_to_numpy(variable))


def _copy_state(layer, twin):
    for part, part_twin in zip(layer._flatten_layers(), twin._flatten_layers(), strict=True):
        state = {}
        part.save_own_variables(state)
        part_twin.load_own_variables({name: ops.convert_to_numpy(value) for name, value in state.items()})
        if hasattr(part, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                part_twin.load_assets(folder)
