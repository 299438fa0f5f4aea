"""Values and gradients of a loss on whichever backend runs, in every mode it compiles to."""

import keras
from keras import ops
from keras.src.backend import set_keras_mask

from helpers.arrays import as_float64

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["eager", "jit"], "torch": ["eager"]}[BACKEND]


def value_and_gradient(loss, y_true, logits, mode="eager"):
    """`loss(y_true, logits)` and the gradient of its sum by the logits, in float64."""
    y_true, logits = ops.convert_to_tensor(y_true), ops.convert_to_tensor(logits)
    value, gradient = _COMPUTE[BACKEND](loss, y_true, logits, mode)
    return as_float64(value), as_float64(gradient)


def value_and_gradients(function, arguments, mode="eager"):
    """`function(*arguments)` and the gradients of its sum by each of the arguments, as tensors."""
    arguments = [ops.convert_to_tensor(argument) for argument in arguments]
    return _COMPUTE_ALL[BACKEND](function, arguments, mode)


def quickly(function):
    """`function` of arrays, compiled where JAX would compile each of its operations alone."""
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def with_mask(loss, mask, sample_weight=None):
    """`loss` on logits that carry a Keras mask."""

    def call(y_true, y_pred):
        y_pred = y_pred + 0.0  # a tensor of its own, for the mask to hang on
        set_keras_mask(y_pred, ops.convert_to_tensor(mask))
        return loss(y_true, y_pred, sample_weight)

    return call


def _compiled(compute, mode):
    """A graph as of a step of Keras, without AutoGraph, which needs seconds to rewrite the package. XLA has both."""
    import tensorflow as tf

    return compute if mode == "eager" else tf.function(compute, autograph=mode == "xla", jit_compile=mode == "xla")


def _with_tensorflow(loss, y_true, logits, mode):
    import tensorflow as tf

    def compute(y_true, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(y_true, logits)
        return value, tape.gradient(value, logits)

    return _compiled(compute, mode)(y_true, logits)


def _with_jax(loss, y_true, logits, mode):
    import jax

    def compute(logits, y_true):
        value = loss(y_true, logits)
        return value.sum(), value

    compute = jax.value_and_grad(compute, has_aux=True)
    (_, value), gradient = (compute if mode == "eager" else jax.jit(compute))(logits, y_true)
    return value, gradient


def _with_torch(loss, y_true, logits, mode):
    logits = logits.detach().clone().requires_grad_()
    value = loss(y_true, logits)
    value.sum().backward()
    return value.detach(), logits.grad


_COMPUTE = {"tensorflow": _with_tensorflow, "jax": _with_jax, "torch": _with_torch}


def _all_with_tensorflow(function, arguments, mode):
    import tensorflow as tf

    def compute(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        return value, tape.gradient(value, arguments)

    return _compiled(compute, mode)(*arguments)


def _all_with_jax(function, arguments, mode):
    import jax

    def compute(*arguments):
        value = function(*arguments)
        return value.sum(), value

    compute = jax.value_and_grad(compute, argnums=tuple(range(len(arguments))), has_aux=True)
    (_, value), gradients = (compute if mode == "eager" else jax.jit(compute))(*arguments)
    return value, gradients


def _all_with_torch(function, arguments, mode):
    arguments = [argument.detach().clone().requires_grad_() for argument in arguments]
    value = function(*arguments)
    value.sum().backward()
    return value.detach(), [argument.grad for argument in arguments]


_COMPUTE_ALL = {"tensorflow": _all_with_tensorflow, "jax": _all_with_jax, "torch": _all_with_torch}
