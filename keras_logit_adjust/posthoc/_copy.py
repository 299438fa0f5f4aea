"""Copies of a graph with a changed head.

A copy is made layer by layer. `keras.models.clone_model` would copy a compiled model with its compilation.
`set_weights` would leave out state that is not weights: the statistics of `Normalization`, the vocabulary of a lookup.
"""

import tempfile

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _keras
from keras_logit_adjust.posthoc import _guard, _hub, _operations
from keras_logit_adjust.posthoc._graph import is_graph, variables_of


def _uses_of(outputs, layer):
    """The nodes at which the graph of `outputs`, or a model nested in it, calls `layer`."""
    seen, frontier = set(), list(outputs)
    while frontier:
        node = _keras.node_of(frontier.pop())
        if id(node) not in seen:
            seen.add(id(node))
            frontier.extend(node.input_tensors)
            inner = _operations.inside(node.operation)
            if inner is layer:
                yield node
            elif is_graph(inner):
                yield from _uses_of(inner.outputs, layer)


def check_own_head(model, layer, way_out):
    """Raise if the head `layer` cannot be changed alone in a copy of `model`; `way_out` says what to do then."""
    if len(list(_uses_of(model.outputs, layer))) > 1:
        raise ValueError(
            f"Head {layer.name!r} is used more than once in {model.name!r}: its weights serve both. {way_out}"
        )
    if (served := sum(any(True for _ in _uses_of([output], layer)) for output in model.outputs)) > 1:
        raise ValueError(
            f"Head {layer.name!r} serves {served} outputs of {model.name!r}: a change of its weights would change them "
            f"all. {way_out}"
        )
    own = {id(variable) for variable in layer.variables}
    for other in _keras.layers_of(model):
        is_around = _operations.inside(other) is layer  # a wrapper may hold the kernel too
        if not is_around and any(id(variable) in own for variable in _keras.direct_variables(other)):
            raise ValueError(
                f"Head {layer.name!r} is tied: it shares a variable with layer {other.name!r}, and a copy would "
                f"separate them. {way_out}"
            )
    if layer.quantization_mode is not None:
        raise ValueError(f"Head {layer.name!r} is quantized. Do this before quantizing. {way_out}")


def clone(model):
    """An uncompiled copy of a graph."""
    return clone_with_head(model, None, use_bias=False)[0]


def clone_with_head(model, head, *, use_bias):
    """An uncompiled copy of `model`, and its copy of the layer `head`; a new bias is zeros.

    In a task of KerasHub everything except the head is shared with the copy. In any other model the backbones of
    KerasHub are shared: some of their layers cannot be made again from their configs.
    """
    copies = {}

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = layer, _copy(layer)
        return copies[id(layer)][1]

    def _copy(layer):
        if _is_shared(layer):
            return layer
        return _clone_graph(layer, copy) if is_graph(layer) else _clone_layer(layer)

    def _is_shared(layer):
        holds_head = isinstance(layer, keras.Layer) and any(part is head for part in _keras.layers_of(layer))
        return not holds_head and (_hub.is_task(model) or _hub.is_backbone(layer))

    def _clone_layer(layer):
        config, inner = layer.get_config(), _operations.inside(layer)
        if inner is not layer:
            del config["layer"]
            return type(layer)(copy(inner), **config)
        changed = {"use_bias": use_bias} if layer is head and "use_bias" in config else {}
        return type(layer).from_config({**config, **changed})

    with _keras.leaving_no_calls(model):
        clone = _clone_graph(model, copy)
    for layer, twin in copies.values():
        if layer is head:
            _copy_head(layer, twin)
        elif isinstance(layer, keras.Layer) and not is_graph(layer) and twin is not layer:
            _copy_state(layer, twin)
        _guard.carry_marks(layer, twin)
    if _hub.is_task(model):
        replaced = {number: twin for number, (_, twin) in copies.items()}
        clone = _hub.as_task(clone, like=model, replaced=replaced, compile=True)
    return clone, None if head is None else copies[id(head)][1]


def _clone_graph(model, copy):
    """A model of the copies of the layers of `model`; a layer that is used twice is one layer in the copy."""
    if isinstance(model, keras.Sequential):
        copied = [_input_like(model.inputs[0], copy), *map(copy, model.layers)]
        return keras.Sequential(copied, name=model.name, trainable=model.trainable)
    inputs = keras.tree.map_structure(lambda tensor: _input_like(tensor, copy), model.input)
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(uncompiled, inputs, clone_function=copy)


def _input_like(tensor, copy):
    inputs = copy(_keras.operation_of(tensor)).output
    inputs.name = tensor.name  # serving signatures use this name; the layer may have another
    return inputs


def _copy_head(layer, twin):
    if twin.bias is not None:
        twin.bias.assign(np.zeros(twin.bias.shape))
    for name, variable in variables_of(layer):
        if name != "bias" or twin.bias is not None:
            getattr(twin, name).assign(ops.convert_to_numpy(variable))
    if getattr(layer, "lora_enabled", False):
        twin.lora_alpha = layer.lora_alpha  # `build` of Keras's Dense sets it to the rank


def _copy_state(layer, twin):
    is_around = _operations.inside(layer) is not layer  # the layer inside a wrapper is copied on its own
    parts, twins = ([layer], [twin]) if is_around else (_keras.layers_of(layer), _keras.layers_of(twin))
    for part, part_twin in zip(parts, twins, strict=True):
        state = {}
        part.save_own_variables(state)
        part_twin.load_own_variables({name: ops.convert_to_numpy(value) for name, value in state.items()})
        if hasattr(part, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                part_twin.load_assets(folder)
