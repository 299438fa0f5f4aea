"""Every name of Keras's that its documentation does not promise, with the reason; `tf_distribute/_keras.py` has more.

No other file uses such a name: `tests/test_private_names.py` reads them all. Each is looked up when it is needed, so
that a file that Keras moves breaks one ability and not the import of the package.
"""

import contextlib
import sys

import keras


class HigherIsBetter(keras.metrics.Metric):
    """A metric that `EarlyStopping` maximizes without `mode`; Keras's own metrics say it to its callbacks this way."""

    _direction = "up"


def metrics_read_now():
    """The metrics of a compiled model whose results Keras gathers now, else none.

    It merges their dicts without a word where keys are the same, and a metric knows neither its neighbors nor its
    output.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "result" and frame.f_code.co_filename.endswith("compile_utils.py"):
            return list(frame.f_locals["self"].metrics)
        frame = frame.f_back
    return []


def mask_of(tensor):
    """The mask that a layer left on its output, or None."""
    from keras.src.backend.common import masking  # a tracer of JAX's has no attribute to read

    return masking.get_keras_mask(tensor)


def note(tensor, name, value):
    """Keep `value` on a tensor under `name`, for `noted`."""
    from keras.src.backend.common import tensor_attributes  # a tracer of JAX's takes no attribute

    tensor_attributes.set_tensor_attr(tensor, f"_kla_{name}", value)


def noted(tensor, name):
    """What `note` keeps on a tensor, or None."""
    from keras.src.backend.common import tensor_attributes

    return tensor_attributes.get_tensor_attr(tensor, f"_kla_{name}")


def is_activated(tensor):
    """Whether Keras's softmax or sigmoid made a tensor: it notes the logits there, for its own losses."""
    return hasattr(tensor, "_keras_logits")


def operation_of(tensor):
    """The layer or operation that made a symbolic tensor, None for any other: only its history says which."""
    return getattr(getattr(tensor, "_keras_history", None), "operation", None)


def node_of(tensor):
    """The call that made a symbolic tensor: one layer may be called several times, and only its nodes say with what."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def name_of_operation(operation):
    """The name of the class of a function of `keras.ops` in a graph; the class is private. None for a layer."""
    is_function = type(operation).__module__.startswith("keras.src.ops.")
    return type(operation).__name__ if is_function and not isinstance(operation, keras.Layer) else None


@contextlib.contextmanager
def leaving_no_calls(model):
    """Calls of other layers on tensors of a graph, made inside, are not kept by the graph.

    Each operation lists the calls of what it gives, and so keeps every model that was ever built on it alive. Keras
    reads the list nowhere.
    """
    listed = {operation: len(operation._outbound_nodes) for operation in operations_of(model)}
    try:
        yield
    finally:
        for operation, number in listed.items():
            del operation._outbound_nodes[number:]


def operations_of(model):
    """All layers of a model, at any depth, and the functions that its graphs call."""
    graphs = [layer for layer in layers_of(model) if is_functional(layer) or isinstance(layer, keras.Sequential)]
    return {*layers_of(model), *(operation for graph in graphs for operation in getattr(graph, "operations", ()))}


def last_layers_with_weights(tensor):
    """The last layers with weights that a symbolic tensor comes from, in nested models and wrappers too."""
    found, seen, frontier = [], set(), [tensor]
    while frontier:
        tensor = frontier.pop()
        operation, outputs = operation_of(tensor), getattr(operation_of(tensor), "outputs", None)
        if id(tensor) in seen or operation is None:
            continue
        seen.add(id(tensor))
        if isinstance(operation, keras.Model) and outputs:
            frontier.append(outputs[tensor._keras_history.tensor_index])
        elif getattr(operation, "weights", None):
            found.extend([operation, *([operation.layer] if isinstance(operation, keras.layers.Wrapper) else [])])
        else:
            frontier.extend(node_of(tensor).input_tensors)
    return found


def model_in_training():
    """The model whose `train_step` runs now, None outside: neither a loss nor a layer is told who calls it.

    Keras documents the name of the method, which users override too; autograph puts letters in front of it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name.endswith("train_step") and isinstance(model := frame.f_locals.get("self"), keras.Model):
            return model
        frame = frame.f_back
    return None


def is_functional(model):
    """Whether a model was made of symbolic tensors: `keras.Model(inputs, outputs)` has no public class of its own."""
    return hasattr(model, "_inputs_struct")


def keeps_no_loss(model):
    """Whether a file of `model` does not bring back its loss: Keras compiles no class whose `compile` is its own."""
    kind = type(model)
    own = kind.compile is not keras.Model.compile
    return own and kind.compile_from_config is keras.Model.compile_from_config


def layers_of(layer):
    """A layer or model and all layers in it, at any depth: `Model.layers` does not look into layers."""
    return list(layer._flatten_layers())


def direct_variables(layer):
    """The variables that a layer itself holds: the public lists have those of its sublayers too."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def scales_kernel(name):
    """Whether a layer's kernel is multiplied by `c` where all variables of these names are.

    The kernel is stored as `_kernel`; a low-rank part adds to it the product of `lora_kernel_a` and `lora_kernel_b`.
    """
    return name in ("_kernel", "kernel", "pointwise_kernel", "lora_kernel_b")


def is_in_compiled_loss():
    """Whether Keras computes a compiled loss now (TensorFlow): in a scope of this name, which a user's loop has not."""
    import tensorflow as tf

    return any(part.startswith("compile_loss") for part in tf.get_current_name_scope().split("/"))


def unusual_step(graph):
    """What makes the step that Keras traces into a graph unusual: "jit_compile", "steps_per_execution" or None.

    A loss sees neither its model nor these arguments. XLA leaves its mark on the graph, and Keras's loop over several
    steps the names of its functions; a loop of the user's own has other names.
    """
    from tensorflow.python.ops import control_flow_util

    if control_flow_util.GraphOrParentsInXlaContext(graph):
        return "jit_compile"
    inner = ""
    while graph is not None:
        name = getattr(graph, "name", "")
        if inner.startswith("while_body") and name.startswith("multi_step_on_iterator"):
            return "steps_per_execution"
        graph, inner = getattr(graph, "outer_graph", None), name
    return None


@contextlib.contextmanager
def deterministic_operations():
    """TensorFlow's operations give the same bits again inside; it has a public way to ask for it, and none back."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework import config

    was_enabled = config.is_op_determinism_enabled()
    config.enable_op_determinism()
    try:
        yield
    finally:
        if not was_enabled:
            config.disable_op_determinism()
