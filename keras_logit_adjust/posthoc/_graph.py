"""Where the logits of a trained model are: the head, its activation, and whether the prior was corrected already.

A copy of a graph is made layer by layer: `keras.models.clone_model` copies a compiled model with its compilation, and
`set_weights` leaves out what is state but not weights (the statistics of `Normalization`, the vocabulary of a lookup).
"""

import dataclasses
import tempfile

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, layers
from keras_logit_adjust.losses import _base

HEADS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# What may stand between the logits and the output.
KNOWN = (
    *HEADS,
    keras.layers.Activation,
    keras.layers.Softmax,
    keras.layers.Identity,
    layers.LogitAdjustment,
)
ACTIVATIONS = {"linear": "logits", "softmax": "softmax", "sigmoid": "sigmoid"}


class NoHeadError(_checks.ArgumentError):
    """The model's output cannot be traced to the pre-activation of a head."""


@dataclasses.dataclass(frozen=True)
class Head:
    """A head found in a graph.

    Attributes:
        layer: the Dense or convolution layer whose pre-activation is the logits.
        width: the number of its logits.
        output: what the model serves: "logits", "softmax" or "sigmoid".
        source: the symbolic logits; where the head's own activation hides them, the head's input.
        calls: the nodes at which nested models are called, from the outermost to the one that holds `source`.
    """

    layer: keras.layers.Layer
    width: int
    output: str
    source: keras.KerasTensor
    calls: tuple


def is_graph(model):
    """Whether `model` is Functional or Sequential with Keras's own `call`: what it computes can be read off."""
    return (
        isinstance(model, keras.Model)
        and (isinstance(model, keras.Sequential) or _keras.is_functional(model))
        and _is_called_as_in(model, "keras.")
    )


def _is_called_as_in(layer, *packages):
    """Whether `call` comes from one of `packages`, and not from a user's subclass, whose `call` may do anything."""
    return type(layer).call.__module__.startswith(packages)


def require_model(model):
    """Raise unless `model` is a Keras model with one output and, as a graph, built."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: {type(model).__name__}")
    if is_graph(model) and isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so its head is not known. Give it a `keras.Input`, or call it once."
        )
    if is_graph(model) and len(model.outputs) != 1:
        raise ValueError(
            f"`model` must have one output. Model {model.name!r} has {len(model.outputs)}: adjust each on its own, "
            "with `keras.Model(model.inputs, model.outputs[i])`, or put `kla.layers.LogitAdjustment` behind its logits."
        )


def find_head(model):
    """The head of a Functional or Sequential model, looked for from the output backwards.

    Raises:
        NoHeadError: for a model of another kind, or naming the operation that hides the logits.
    """
    if not is_graph(model):
        raise NoHeadError(
            "output",
            f"Model {model.name!r} is a subclassed model, whose logits cannot be read off. Say what it gives: "
            'output="logits", "softmax" or "sigmoid".',
        )
    output, source, calls_to_source = "logits", model.outputs[0], ()
    for node, calls in _nodes_backwards(model):
        operation = node.operation
        activation = _activation_of(operation)
        if activation != "linear":
            if output != "logits":
                raise NoHeadError(f"The output passes two activations, the first of them in {operation.name!r}.")
            output = ACTIVATIONS[activation]
            source, calls_to_source = node.input_tensors[0], calls
        if isinstance(operation, HEADS):
            if getattr(operation, "data_format", "channels_last") != "channels_last":
                raise NoHeadError(
                    f"Head {operation.name!r} has data_format='channels_first': the adjustment needs classes in the "
                    "last axis."
                )
            return Head(operation, node.output_tensors[0].shape[-1], output, source, calls_to_source)


def _nodes_backwards(model):
    """The nodes of a graph that its output comes from, the last first, as far as each has one input.

    Beside each the nodes at which nested models are called, down to the one that holds it.
    """
    inputs, calls = model.outputs[:1], ()
    while len(inputs) == 1:
        node = _keras.node_of(inputs[0])
        if is_graph(node.operation) and len(node.operation.outputs) == 1:
            inputs, calls = node.operation.outputs, (*calls, node)
        else:
            yield node, calls
            inputs = node.input_tensors


def decides(model):
    """Whether the one output of a model comes from a `MinimumRiskDecision`."""
    if not is_graph(model) or len(getattr(model, "outputs", None) or ()) != 1:
        return False
    node, _ = next(_nodes_backwards(model))
    return isinstance(node.operation, layers.MinimumRiskDecision)


def _activation_of(operation):
    """ "linear", "softmax" or "sigmoid": what `operation` does to the logits, or an error saying why not."""
    if not isinstance(operation, KNOWN) or not _is_called_as_in(operation, "keras.", "keras_logit_adjust."):
        raise NoHeadError(
            "output",
            f"No Dense or convolution head was found: the output comes from {operation.name!r} "
            f"({type(operation).__name__}). If what it gives are logits or probabilities, say so: "
            'output="logits", "softmax" or "sigmoid".',
        )
    activation = getattr(operation, "activation", keras.activations.linear)
    name = getattr(activation, "__name__", str(activation))
    if isinstance(operation, keras.layers.Softmax):
        name = "softmax" if operation.axis in (-1, (-1,), [-1]) else f"softmax over axis {operation.axis}"
    if name not in ACTIVATIONS:
        raise NoHeadError(
            f"The activation of {operation.name!r} must be one of {', '.join(ACTIVATIONS)}, applied to the last axis. "
            f"Received: {name}. Replace it, or put `kla.layers.LogitAdjustment` behind the logits by hand."
        )
    return name


def logits_tensor(head):
    """The symbolic logits of a head, also where its own activation hides them."""
    return head.source if head.layer.activation is keras.activations.linear else linear_twin(head.layer)(head.source)


def linear_twin(layer):
    """A layer with the weights of `layer` (shared, not copied) and no activation."""
    if layer.quantization_mode is not None:
        raise ValueError(
            f"Head {layer.name!r} is quantized and applies its activation itself. Adjust the model before quantizing."
        )
    twin = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    for name, variable in variables_of(layer):
        setattr(twin, name, variable)
    if not layer.use_bias:
        twin.bias = None
    twin.lora_enabled = layer.lora_enabled
    twin.input_spec, twin.built = layer.input_spec, True
    return twin


def variables_of(layer):
    """The attributes of a head that are variables: (name, variable)."""
    return [(name, value) for name, value in vars(layer).items() if isinstance(value, keras.Variable)]


def uses_of(model, layer):
    """The nodes at which the graph of `model`, or of a model nested in it, calls `layer`."""
    seen, frontier = set(), list(model.outputs)
    while frontier:
        node = _keras.node_of(frontier.pop())
        if id(node) not in seen:
            seen.add(id(node))
            frontier.extend(node.input_tensors)
            if node.operation is layer:
                yield node
            elif is_graph(node.operation):
                yield from uses_of(node.operation, layer)


def free_name(model, name):
    """`name`, lengthened until no layer of `model` has it: a model adjusted twice has two adjustment layers."""
    taken = {layer.name for layer in _keras.layers_of(model)}
    while name in taken:
        name += "_again"
    return name


def check_own_head(model, layer, way_out):
    """Raise where a copy of `model` could not have the head `layer` changed alone: `way_out` says what to do then."""
    if len(list(uses_of(model, layer))) > 1:
        raise ValueError(
            f"Head {layer.name!r} is used more than once in {model.name!r}: its weights serve both. {way_out}"
        )
    own = {id(variable) for variable in layer.variables}
    for other in _keras.layers_of(model):
        if other is not layer and any(id(variable) in own for variable in _keras.direct_variables(other)):
            raise ValueError(
                f"Head {layer.name!r} is tied: it shares a variable with layer {other.name!r}, and a copy would part "
                f"them. {way_out}"
            )
    if layer.quantization_mode is not None:
        raise ValueError(f"Head {layer.name!r} is quantized. Do this before quantizing. {way_out}")


def check_not_adjusted(model, allow_double_correction):
    """Raise where the prior of `model` was corrected already, as far as a model shows it."""
    for reason, _ in () if allow_double_correction else corrections(model):
        raise ValueError(
            f"The prior would be corrected twice: model {model.name!r} {reason}. Its plain argmax is balanced already. "
            "Pass allow_double_correction=True if that is what you want."
        )


def is_corrected(model):
    """Whether `corrections` finds anything."""
    return next(corrections(model), None) is not None


def _corrects_prior(loss):
    """Whether a loss shifts or scales logits by class or weighs classes. Margins of the label alone correct nothing."""
    vectors = (getattr(loss, name, None) for name in ("rival_margin", "class_weight", "logit_scale"))
    is_uneven = any(vector is not None and np.ptp(vector) > 0 for vector in vectors)
    return is_uneven or bool(np.any(getattr(loss, "adjustment", 0)))


def corrections(model):
    """(reason in words, the loss or layer) of everything that corrects the prior of `model`, as far as it shows it."""
    losses = [getattr(part, "loss", None) for part in _keras.layers_of(model) if isinstance(part, keras.Model)]
    for loss in keras.tree.flatten(losses):
        if isinstance(loss, _base.MaskedLoss) and _corrects_prior(loss):
            yield f"was compiled with the adjusted loss {type(loss).__name__}", loss
    for layer in _keras.layers_of(model):
        if isinstance(layer, (layers.PriorAwareDense, layers.StreamingPriorDense)):
            yield f"has the prior-aware head {layer.name!r}", layer
        elif isinstance(layer, layers.LogitAdjustment):
            yield f"is adjusted already, by layer {layer.name!r}", layer


def clone_with_head(model, head, *, use_bias):
    """An uncompiled copy of `model`, and its copy of the layer `head`, whose bias is zeros where it had none."""
    copies = {}

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = layer, _clone_graph(layer, copy) if is_graph(layer) else _clone_layer(layer)
        return copies[id(layer)][1]

    def _clone_layer(layer):
        changed = {"use_bias": use_bias} if layer is head else {}
        return type(layer).from_config({**layer.get_config(), **changed})

    clone = _clone_graph(model, copy)
    for layer, twin in copies.values():
        if layer is head:
            _copy_head(layer, twin)
        elif isinstance(layer, keras.Layer) and not is_graph(layer):
            _copy_state(layer, twin)
    return clone, copies[id(head)][1]


def _clone_graph(model, copy):
    """A model of the copies of the layers of `model`, which keeps those that are used twice one layer."""
    if isinstance(model, keras.Sequential):
        copied = [_input_like(model.inputs[0], copy), *map(copy, model.layers)]
        return keras.Sequential(copied, name=model.name, trainable=model.trainable)
    inputs = keras.tree.map_structure(lambda tensor: _input_like(tensor, copy), model.input)
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(uncompiled, inputs, clone_function=copy)


def _input_like(tensor, copy):
    inputs = copy(_keras.operation_of(tensor)).output
    inputs.name = tensor.name  # by which a serving signature calls it; the layer's may be another
    return inputs


def _copy_head(layer, twin):
    if twin.use_bias:
        twin.bias.assign(np.zeros(twin.bias.shape))
    for name, variable in variables_of(layer):
        if name != "bias" or twin.use_bias:
            getattr(twin, name).assign(ops.convert_to_numpy(variable))


def _copy_state(layer, twin):
    for part, part_twin in zip(_keras.layers_of(layer), _keras.layers_of(twin), strict=True):
        state = {}
        part.save_own_variables(state)
        part_twin.load_own_variables({name: ops.convert_to_numpy(value) for name, value in state.items()})
        if hasattr(part, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                part_twin.load_assets(folder)
