"""Every name of Keras's that its documentation does not promise, with the reason; `tf_distribute/_keras.py` has more.

No other file uses such a name: `tests/test_private_names.py` reads them all. Each is looked up when it is needed, so
that a file that Keras moves breaks one ability and not the import of the package.
"""

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


def is_functional(model):
    """Whether a model was made of symbolic tensors: `keras.Model(inputs, outputs)` has no public class of its own."""
    return hasattr(model, "_inputs_struct")


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
    return name in ("_kernel", "lora_kernel_b")


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
