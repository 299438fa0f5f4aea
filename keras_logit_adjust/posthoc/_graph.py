"""The place of the logits in a trained model: the layer that makes them, and the last softmax or sigmoid."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras
from keras_logit_adjust.posthoc import _hub, _operations


class NoHeadError(_checks.ArgumentError):
    """The model's output cannot be traced to logits, or to the softmax or sigmoid of logits."""


@dataclasses.dataclass(frozen=True)
class Head:
    """The output of a graph, and the place where its logits are.

    Attributes:
        layer: the layer that makes the logits, or the operation that the output comes from if no such layer is known.
        output: the model's output: "logits", "softmax" or "sigmoid"; None if it is not known.
        axis: the axis of the classes, counted from the end.
        source: a symbolic tensor: the logits, the input of `fused`, or the probabilities; None stands for the output.
        gives: the kind of `source`: "logits", "softmax" or "sigmoid".
        fused: the layer whose own activation hides the logits; None if no layer does.
        stop: the operation behind `layer` that does not pass a shift of the logits unchanged; None if all pass it.
        offset: an operation behind `layer` that adds to the logits; None if there is none.
        calls: the nodes at which nested models are called, from the outermost to the one that holds `source`.
        width: the number of classes; None if it is not static.
        reason: the reason why the output is not known.
    """

    layer: keras.layers.Layer
    output: str | None
    axis: int = -1
    source: keras.KerasTensor | None = None
    gives: str = "logits"
    fused: keras.layers.Layer | None = None
    stop: object = None
    offset: object = None
    calls: tuple = ()
    width: int | None = None
    reason: str | None = None


def is_graph(model):
    """Whether `model` is Functional or Sequential with Keras's own `call`: then its graph says what it computes."""
    return (
        isinstance(model, keras.Model)
        and (isinstance(model, keras.Sequential) or _keras.is_functional(model))
        and _operations.is_called_as_in(model, "keras.")
    )


def require_keras_model(model):
    """Raise unless `model` is a Keras model, made by the Keras that this package uses."""
    if isinstance(model, keras.Model):
        return
    parts = type(model).__module__.split(".")
    name = type(model).__name__
    if isinstance(model, keras.Layer) or parts[0] == "builtins":
        raise ValueError(f"`model` must be a `keras.Model`. Received: {name}")
    remedy = (
        f": a model of another Keras than `keras` {keras.__version__}. Build it again with `import keras`, and load "
        "its weights (in TensorFlow, do not set TF_USE_LEGACY_KERAS)."
    )
    other = remedy if "keras" in parts or "tf_keras" in parts else ""
    raise ValueError(f"`model` must be a `keras.Model`. Received: {'.'.join(parts)}.{name}{other}")


def require_model(model):
    """Raise unless `model` is a Keras model with one output; a graph must be built."""
    require_keras_model(model)
    _hub.check_task(model)
    if is_graph(model) and isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so its head is not known. Give it a `keras.Input`, or call it once."
        )
    if is_graph(model) and len(model.outputs) != 1:
        structure = structure_of(model, "output")
        key = next(iter(structure)) if isinstance(structure, dict) else 0
        one = f"model.output[{key!r}]" if isinstance(structure, (dict, list, tuple)) else "model.outputs[0]"
        raise ValueError(
            f"`model` must have one output. Model {model.name!r} has {len(model.outputs)}: adjust each by its own "
            f"counts, `kla.adjust(model, {{output: counts}})`, or take one, `keras.Model(model.input, {one})`; or "
            "put `kla.layers.LogitAdjustment` behind its logits."
        )


def find_head(model):
    """The `Head` of a Functional or Sequential model, found by going backwards from the output.

    Raises:
        NoHeadError: for a model of another kind, or with the name of the operation that hides the logits.
    """
    if not is_graph(model):
        raise NoHeadError(
            "output",
            f"Model {model.name!r} is a subclassed model, so its logits cannot be found. Give the kind of its output: "
            'output="logits", "softmax" or "sigmoid".',
        )
    head = _look(model.outputs[0], ())
    if head.output is None:
        raise NoHeadError("output", head.reason)
    if head.source is None:
        output = model.outputs[0]
        head = dataclasses.replace(head, source=output, calls=(), width=output.shape[head.axis])
    return head


def _look(tensor, calls):
    """The `Head` of a symbolic tensor in the innermost of `calls`; its source is None if `tensor` is the source."""
    node = _keras.node_of(tensor)
    operation, inputs = node.operation, node.input_tensors
    if is_graph(operation) and len(operation.outputs) == 1:
        return _look(operation.outputs[0], (*calls, node))
    if isinstance(operation, keras.layers.InputLayer) and calls and len(calls[-1].input_tensors) == 1:
        return _look(calls[-1].input_tensors[0], calls[:-1])
    layer, inner = _operations.head_of(operation), _operations.inside(operation)
    if layer is not None:
        return _made_by(layer, node, calls)
    if inner is not operation and is_graph(inner) and len(inner.outputs) == 1:  # a model at every time step
        return _without_source(_look(inner.outputs[0], ()))
    if len(inputs) == 1 and (activation := _operations.activation_of(operation)):
        head = _activated(*activation, node, calls)
        # A mask of classes is an argument of the call. So the activation stays, and its probabilities are adjusted.
        return _without_source(head) if _operations.has_options(node) else head
    if not _operations.is_passed(node):  # before the branches: following every branch takes too long
        return _unknown(operation)
    return _behind(node, [_look(part, calls) for part in inputs])


def _unknown(operation):
    """The `Head` that holds only the operation it comes from, and the reason why it is not known."""
    activation = _operations.activation_name(operation)
    gives_logits = activation == "log_softmax"  # which are logits up to a constant of each position
    if activation in _operations.ACTIVATIONS or gives_logits or not _operations.is_known(operation):
        reason = (
            f"No head was found: the output comes from {operation.name!r} ({type(operation).__name__}). If the output "
            'is logits or probabilities, say so to kla.adjust: output="logits", "softmax" or "sigmoid".'
        )
    else:
        reason = (
            f"The activation of {operation.name!r} must be one of {', '.join(_operations.ACTIVATIONS)}. "
            f"Received: {activation}. Replace it, or put `kla.layers.LogitAdjustment` behind the logits by hand."
        )
    return Head(operation, None, stop=operation, reason=reason)


def _made_by(layer, node, calls):
    """The `Head` of a layer that makes logits, with or without an activation of its own."""
    operation, output = node.operation, node.output_tensors[0]
    kind = _operations.ACTIVATIONS.get(_operations.activation_name(layer))
    if kind is None:
        return _unknown(layer)
    axis = _operations.axis_of_head(layer, len(output.shape) - isinstance(operation, keras.layers.TimeDistributed))
    if kind == "softmax" and axis != -1:
        stop = layer  # its axis is not the axis of the layer's classes
        return Head(layer, kind, gives=kind, stop=stop)
    head = Head(layer, kind, axis=axis, width=output.shape[axis])
    if kind == "logits":
        return head
    if layer.quantization_mode is not None or isinstance(operation, keras.layers.SpectralNormalization):
        return dataclasses.replace(head, gives=kind)  # its activation cannot be removed
    return dataclasses.replace(head, source=node.input_tensors[0], fused=operation, calls=calls)


def _activated(kind, axis, node, calls):
    """The `Head` of a separate softmax or sigmoid, for any source of its logits."""
    logits = node.input_tensors[0]
    before = _look(logits, calls)
    if before.output in ("softmax", "sigmoid"):
        reason = f"The output passes two activations, the first of them in {before.layer.name!r}."
        return dataclasses.replace(before, output=None, reason=reason)
    if kind == "sigmoid":
        axis = before.axis
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    if not isinstance(axis, int):
        reason = f"The activation of {node.operation.name!r} must be applied to one axis. Received: {kind} over {axis}."
        return Head(node.operation, None, stop=node.operation, reason=reason)
    axis = axis if axis < 0 else axis - len(logits.shape)
    stop = before.stop
    if before.output is not None and axis != before.axis:
        stop = node.operation
    return dataclasses.replace(
        before,
        output=kind,
        axis=axis,
        source=logits,
        gives="logits",
        fused=None,
        stop=stop,
        calls=calls,
        width=logits.shape[axis],
        reason=None,
    )


def _behind(node, parts):
    """The `Head` behind an operation on one or more tensors; `parts` are the `Head`s of these tensors."""
    operation, first = node.operation, parts[0]
    if len(parts) > 1 and len({(part.output, part.axis) for part in parts}) > 1:
        return _unknown(operation)
    is_single, are_logits = len(parts) == 1, first.output == "logits"
    if is_single and _operations.is_identity(operation):
        return first
    if is_single and _operations.is_offset(node) and are_logits:
        return dataclasses.replace(first, offset=operation)
    if _operations.is_scale(node) and are_logits:
        return dataclasses.replace(first, stop=first.stop or operation)
    if first.output is None:
        return first
    is_move = _operations.is_move(node)
    axis = _operations.axis_behind(node, first.axis) if is_move or _operations.is_mix(node) else None
    if axis is None:
        return _unknown(operation)
    # An average of probabilities is not the softmax of average logits.
    is_linear = is_single and (is_move or are_logits)
    return _without_source(dataclasses.replace(first, axis=axis, stop=first.stop or (None if is_linear else operation)))


def _without_source(head):
    """The same head, but the output itself is adjusted: logits or probabilities."""
    return dataclasses.replace(head, source=None, gives=head.output or "logits", fused=None, calls=(), width=None)


def ends_in(model, kind):
    """Whether the one output of a model comes from a layer of this class."""
    if not is_graph(model) or len(getattr(model, "outputs", None) or ()) != 1:
        return False
    operation = _keras.operation_of(model.outputs[0])
    while is_graph(operation) and len(operation.outputs) == 1:
        operation = _keras.operation_of(operation.outputs[0])
    return isinstance(operation, kind)


def logits_tensor(head):
    """The symbolic logits of a head, even if an activation hides them."""
    if head.fused is not None:
        return linear_twin(head.fused)(head.source)
    return logits_of(head.source, head.gives)


def logits_of(outputs, kind):
    """Logits that give `outputs`: the same, the logarithms of a softmax, or the log-odds of a sigmoid."""
    if kind == "logits":
        return outputs
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    if dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"Probabilities are adjusted by their logarithms, so they must be float32 or float64. Received a {kind} in "
            f'{dtype}, which rounds rare classes to 0. Give the layer of the {kind} dtype="float32".'
        )
    to_logits = log_of_probabilities if kind == "softmax" else log_odds_of_probabilities
    return keras.layers.Activation(to_logits, dtype=dtype, name=f"logits_of_{kind}")(outputs)  # a layer keeps the mask


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
def log_of_probabilities(probabilities):
    """The logits of a softmax, up to a constant of each position."""
    return _safe_log(probabilities)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
def log_odds_of_probabilities(probabilities):
    """The logits of a sigmoid."""
    return _safe_log(probabilities) - _safe_log(1.0 - probabilities)


def _safe_log(probabilities):
    return ops.log(
        ops.clip(probabilities, float(np.finfo("float32").tiny), np.inf)
    )  # Keras's maximum is float32 on torch


def linear_twin(layer):
    """A layer with the weights of `layer` (shared, not copied) and no activation."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return keras.layers.TimeDistributed(linear_twin(layer.layer), name=layer.name, dtype=layer.dtype_policy)
    twin = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    for name, variable in variables_of(layer):
        setattr(twin, name, variable)
    if layer.bias is None:
        twin.bias = None
    twin.lora_enabled = getattr(layer, "lora_enabled", False)
    twin.input_spec, twin.built = layer.input_spec, True
    return twin


def variables_of(layer):
    """The attributes of a head that are variables: (name, variable)."""
    return [(name, value) for name, value in vars(layer).items() if isinstance(value, keras.Variable)]


def activated(logits, kind, axis):
    """The logits as the kind of output that a model gives: "logits", "softmax" or "sigmoid". A mask is kept."""
    if kind == "logits":
        return logits
    options = {"dtype": keras.backend.standardize_dtype(logits.dtype), "name": f"adjusted_{kind}"}
    if kind == "softmax" and axis != -1:
        return keras.layers.Softmax(axis=axis, **options)(logits)
    return keras.layers.Activation(kind, **options)(logits)


def rebuild(model, head, transform):
    """`model` up to the logits of `head`, with `transform(logits)` as its output.

    All layers and weights before the logits are shared with the given model. The given model is not changed.
    """
    with _keras.leaving_no_calls(model):
        models = [model, *(call.operation for call in head.calls)]
        rebuilt = _model_like(models.pop(), transform(logits_tensor(head)))
        for call in reversed(head.calls):
            rebuilt = _model_like(models.pop(), rebuilt(*call.arguments.args, **call.arguments.kwargs))
    return rebuilt


def _model_like(model, outputs):
    outputs = keras.tree.pack_sequence_as(structure_of(model, "output"), keras.tree.flatten(outputs))
    return keras.Model(structure_of(model, "input"), outputs, name=f"{model.name}_adjusted")


def structure_of(model, side):
    """The symbolic "input" or "output" of a graph, in the dicts or lists with which it was built."""
    return getattr(model, f"{side}s")[0] if isinstance(model, keras.Sequential) else getattr(model, side)


def free_name(model, name):
    """`name`, lengthened until no layer of `model` has it: a model adjusted twice has two adjustment layers."""
    taken = {layer.name for layer in _keras.layers_of(model)}
    while name in taken:
        name += "_again"
    return name
