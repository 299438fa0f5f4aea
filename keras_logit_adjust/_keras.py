"""All private names of Keras that the package uses, each with the reason. `tf_distribute/_keras.py` has more.

No other file uses a private name: `tests/test_private_names.py` reads all files. Each name is imported only when it is
needed. If Keras moves a file, one function fails, but the import of the package does not.
"""

import contextlib
import sys

import keras


class HigherIsBetter(keras.metrics.Metric):
    """A metric that `EarlyStopping` maximizes without `mode`. Keras's own metrics have this attribute too."""

    _direction = "up"


def metrics_read_now():
    """The metrics of the compiled model whose results Keras collects now. Outside of this step the list is empty.

    Keras merges the dicts of metrics without a warning, even if keys are the same. A metric cannot ask for the other
    metrics or for its output.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "result" and frame.f_code.co_filename.endswith("compile_utils.py"):
            return list(frame.f_locals["self"].metrics)
        frame = frame.f_back
    return []


def has_compiled_metrics(model):
    """Whether a model was compiled with metrics, before they are built. Keras keeps them in one metric of this name."""
    return any(metric.name == "compile_metrics" for metric in model.metrics)


def mask_of(tensor):
    """The mask that a layer left on its output, or None."""
    from keras.src.backend.common import masking  # a JAX tracer has no attribute for the mask

    return masking.get_keras_mask(tensor)


def keep_mask(tensor, mask):
    """`tensor` with the mask of a layer on it."""
    from keras.src.backend.common import masking

    masking.set_keras_mask(tensor, mask)
    return tensor


def note(tensor, name, value):
    """Store `value` with a tensor under `name`. `noted` reads it."""
    from keras.src.backend.common import tensor_attributes  # a JAX tracer accepts no attribute

    tensor_attributes.set_tensor_attr(tensor, f"_kla_{name}", value)


def noted(tensor, name):
    """The value that `note` stored with a tensor, or None."""
    from keras.src.backend.common import tensor_attributes

    return tensor_attributes.get_tensor_attr(tensor, f"_kla_{name}")


def is_activated(tensor):
    """Whether Keras's softmax or sigmoid made a tensor. Keras stores the logits there for its own losses."""
    return hasattr(tensor, "_keras_logits")


def operation_of(tensor):
    """The layer or operation that made a symbolic tensor, by its history. None for any other tensor."""
    return getattr(getattr(tensor, "_keras_history", None), "operation", None)


def node_of(tensor):
    """The call that made a symbolic tensor. A layer can be called several times, and has one node for each call."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def name_of_operation(operation):
    """The class name of a `keras.ops` function in a graph. The class is private. None for a layer."""
    is_function = type(operation).__module__.startswith("keras.src.ops.")
    return type(operation).__name__ if is_function and not isinstance(operation, keras.Layer) else None


@contextlib.contextmanager
def leaving_no_calls(model):
    """In this context, the graph of `model` does not keep the calls of other layers on its tensors.

    Each operation has a list of the calls on its outputs. So it keeps every model alive that was ever built on it.
    Keras never reads the list.
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
    """The model whose `train_step` runs now, else None. Keras does not tell a loss or a layer which model calls it.

    Keras documents the name of the method, and users override it too. AutoGraph adds a prefix to the name.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name.endswith("train_step") and isinstance(frame.f_locals.get("self"), keras.Model):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def is_functional(model):
    """Whether a model was made from symbolic tensors. `keras.Model(inputs, outputs)` has no public class of its own."""
    return hasattr(model, "_inputs_struct")


def keeps_no_loss(model):
    """Whether loading a file of `model` does not restore its loss.

    Keras does not compile a loaded model whose class has its own `compile`.
    """
    kind = type(model)
    own = kind.compile is not keras.Model.compile
    return own and kind.compile_from_config is keras.Model.compile_from_config


def layers_of(layer):
    """A layer or model, and all layers in it, at any depth. `Model.layers` has only the first level."""
    return list(layer._flatten_layers())


def direct_variables(layer):
    """The variables that a layer itself holds. The public lists also have the variables of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def scales_kernel(name):
    """Whether a variable of this name must be multiplied by `c`, so that the layer's kernel is multiplied by `c`.

    The kernel is stored as `_kernel`. LoRA adds the product of `lora_kernel_a` and `lora_kernel_b` to it.
    """
    return name in ("_kernel", "kernel", "pointwise_kernel", "lora_kernel_b")


def is_in_compiled_loss():
    """Whether Keras computes a compiled loss now (TensorFlow), in a name scope that a user's own loop does not have."""
    import tensorflow as tf

    return any(part.startswith("compile_loss") for part in tf.get_current_name_scope().split("/"))


def unusual_step(graph):
    """The argument that makes the traced step of Keras unusual: "jit_compile", "steps_per_execution" or None.

    A loss cannot read its model or these arguments. But XLA marks the graph, and Keras's loop over several steps has
    functions of known names. A user's own loop has other names.
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
    """In this context, TensorFlow's operations are deterministic. Only the name that switches this off is private."""
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
