"""The effect of one operation of a graph on logits of classes: it makes, activates, moves, mixes or scales them.

Operations are layers or functions of `keras.ops`. An axis of classes is counted from the end: more batch or time axes
in front change nothing.
"""

import math

import keras
import numpy as np

from keras_logit_adjust import _keras, layers

# Heads whose kernel has the classes in its last axis.
KERNEL_HEADS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
HEADS = (
    *KERNEL_HEADS,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.EinsumDense,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    layers.CosineDense,
)
WRAPPERS = (keras.layers.SpectralNormalization, keras.layers.TimeDistributed)
# Layers without an effect in inference.
_RANDOM = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
_CROPS = (keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.Cropping3D)
_UPSAMPLINGS = (keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D)
_POOLINGS = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "ExpandDims", "Ravel")
_VIEWS = {
    "Permute": lambda x, permute, _: np.transpose(x, (0, *permute.dims)),
    "Transpose": lambda x, transpose, _: np.transpose(x, transpose.axes),
    "Moveaxis": lambda x, move, _: np.moveaxis(x, move.source, move.destination),
    "Swapaxes": lambda x, swap, _: np.swapaxes(x, swap.axis1, swap.axis2),
    "GetItem": lambda x, _, key: x[tuple(key) if isinstance(key, list) else key],
}
ACTIVATIONS = {"linear": "logits", "softmax": "softmax", "sigmoid": "sigmoid"}


def is_called_as_in(layer, *packages):
    """Whether `call` comes from one of `packages`: the `call` of a user's subclass may do anything."""
    return type(layer).call.__module__.startswith(packages)


def is_known(operation):
    """Whether `operation` is defined by Keras or this package, so that its computation is known."""
    return is_called_as_in(operation, "keras.", "keras_logit_adjust.")


def inside(operation):
    """The layer in a wrapper that applies it position by position or with another kernel; else the operation itself."""
    return operation.layer if isinstance(operation, WRAPPERS) and is_known(operation) else operation


def head_of(operation):
    """The layer that makes logits as weighted sums: the operation or the layer that it wraps; None for any other."""
    layer = inside(operation)
    return layer if isinstance(layer, HEADS) and is_known(layer) else None


def axis_of_head(layer, rank):
    """The axis of the classes in the output of a head of `rank` axes, counted from the end."""
    return 1 - rank if getattr(layer, "data_format", "channels_last") == "channels_first" else -1


def has_bias_of_classes(layer):
    """Whether a head has, or its copy can have, one bias for each class."""
    if isinstance(layer, keras.layers.EinsumDense):
        return layer.bias is not None and layer.bias_axes == layer.equation[-1]
    return hasattr(layer, "use_bias")


def activation_name(layer):
    """The name of the activation of a layer; "linear" if it has no activation."""
    activation = getattr(layer, "activation", None) or keras.activations.linear
    return getattr(activation, "__name__", str(activation))


def activation_of(operation):
    """(name, axis) of an operation that is only a softmax or sigmoid; None for any other.

    The axis is None for a sigmoid, which has none.
    """
    name = _keras.name_of_operation(operation)
    if isinstance(operation, (keras.layers.Activation, keras.layers.Softmax)) and is_known(operation):
        name = "Softmax" if isinstance(operation, keras.layers.Softmax) else activation_name(operation).capitalize()
    if name not in ("Softmax", "Sigmoid"):
        return None
    return name.lower(), None if name == "Sigmoid" else getattr(operation, "axis", -1)


def has_options(node):
    """Whether a call has arguments besides its tensor, such as the mask of a `Softmax`."""
    arguments = node.arguments
    return any(part is not None for part in (*arguments.args[1:], *arguments.kwargs.values()))


def is_identity(operation):
    """Whether an operation returns its input, up to the precision."""
    if isinstance(operation, keras.layers.Activation) and is_known(operation):
        return activation_name(operation) == "linear"
    is_layer = isinstance(operation, keras.layers.Identity) and is_known(operation)
    return is_layer or _keras.name_of_operation(operation) == "Cast"


def is_move(node):
    """Whether an operation only moves, repeats or leaves out positions in inference, and computes nothing."""
    operation, name = node.operation, _name(node.operation)
    if name == "UpSampling2D":
        return operation.interpolation == "nearest"
    return name in (*_RESHAPES, *_VIEWS, "StopGradient") or _is_one_of(operation, _RANDOM, _CROPS, _UPSAMPLINGS)


def is_mix(node):
    """Whether an operation averages over positions with nonnegative weights that sum to 1."""
    operation, name = node.operation, _name(node.operation)
    if name in ("Resizing", "Resize"):
        is_average = operation.interpolation in ("nearest", "bilinear")
        return is_average and not getattr(operation, "pad_to_aspect_ratio", False)
    if name == "UpSampling2D":
        return operation.interpolation in ("nearest", "bilinear")
    return name == "Mean" or _is_one_of(operation, (keras.layers.Average,), _POOLINGS)


def is_offset(node):
    """Whether an operation adds the same vector to the logits of every example."""
    if isinstance(node.operation, layers.LogitAdjustment):
        return is_known(node.operation) and node.operation.calibration is None
    return False


def is_scale(node):
    """Whether an operation multiplies logits by a number, adds a number, or sums logits: its output is logits."""
    operation, name = node.operation, _name(node.operation)
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    are_tensors = [isinstance(part, keras.KerasTensor) for part in arguments]
    if name == "Add" and all(are_tensors):
        return True
    if name in ("Add", "Multiply", "Divide", "Subtract", "TrueDivide"):
        is_tensor_first = are_tensors[0] or name in ("Add", "Multiply")
        numbers = [part for part, is_tensor in zip(arguments, are_tensors, strict=True) if not is_tensor]
        return is_tensor_first and len(numbers) == 1 and np.ndim(numbers[0]) == 0
    if name == "Rescaling":
        return np.ndim(operation.scale) == np.ndim(operation.offset) == 0
    return isinstance(operation, layers.LogitAdjustment) and is_known(operation)


def is_passed(node):
    """Whether logits or probabilities behind an operation can be known from its inputs."""
    kinds = (is_move, is_mix, is_offset, is_scale)
    return bool(node.input_tensors) and (is_identity(node.operation) or any(is_kind(node) for is_kind in kinds))


def axis_behind(node, axis):
    """The axis of the classes behind an operation that moves or mixes; None if it separates the classes."""
    operation, name = node.operation, _name(node.operation)
    shape, behind = node.input_tensors[0].shape, node.output_tensors[0].shape
    if not -len(shape) <= axis < 0:
        return None
    if shape[axis] == 1 and (name in _RESHAPES or name in _VIEWS):  # one unit: there is only one class
        return -1 if behind and behind[-1] == 1 else None
    if name in _RESHAPES:
        return _axis_of(shape[axis], _product(shape[axis:][1:]), behind)
    if name in _VIEWS:
        return _axis_in_view(node, axis)
    if name == "Mean":
        return _axis_behind_mean(operation, axis, len(shape))
    if _is_one_of(operation, _RANDOM, (keras.layers.Average,)) or name == "StopGradient":
        return axis
    is_first = getattr(operation, "data_format", "channels_last") == "channels_first"
    if axis != (1 - len(shape) if is_first else -1):
        return None
    return 1 - len(behind) if is_first else -1


def _name(operation):
    """The name of a layer's class, or of a function of `keras.ops`; None for layers of other packages."""
    if isinstance(operation, keras.Layer):
        return type(operation).__name__ if is_called_as_in(operation, "keras.") else None
    return _keras.name_of_operation(operation)


def _is_one_of(operation, *kinds):
    return isinstance(operation, sum(kinds, ())) and is_called_as_in(operation, "keras.")


def _product(sizes):
    """The product of static sizes; None if one of them is not known."""
    return None if None in sizes else math.prod(sizes)


def _axis_of(size, stride, shape):
    """The axis of `shape` that has `size` entries, each `stride` entries from the next; None if no axis has."""
    for axis in range(-1, -len(shape) - 1, -1):
        if stride is not None and shape[axis] == size and _product(shape[axis:][1:]) == stride:
            return axis
    return None


def _axis_in_view(node, axis):
    """The axis of the classes in NumPy's view of `x[..., c, ...] = c`: the only axis with a stride that is not 0."""
    shape = node.input_tensors[0].shape
    size = shape[axis]
    if size is None:
        return None
    labels = np.arange(size).reshape(-1, *[1] * (-axis - 1))
    labels = np.broadcast_to(labels, [4 if length is None else length for length in shape])
    key = next((part for part in node.arguments.args[1:]), node.arguments.kwargs.get("key"))
    view = _VIEWS[_name(node.operation)](labels, node.operation, key)
    (axes,) = np.nonzero([stride and length > 1 for stride, length in zip(view.strides, view.shape, strict=True)])
    if len(axes) != 1 or view.shape[axes[0]] != size or view.strides[axes[0]] < 0:
        return None
    return int(axes[0]) - view.ndim


def _axis_behind_mean(mean, axis, rank):
    averaged = range(rank) if mean.axis is None else np.atleast_1d(mean.axis) % rank
    if axis + rank in averaged:
        return None
    return axis if mean.keepdims else axis + sum(other > axis + rank for other in averaged)
