"""Classes that are spread over devices. Each device computes with its own part of the kernel.

If a kernel is on several devices, a simple loop over chunks would copy every chunk from its device. Here each device
goes through the chunks of its own classes. Its result stays on the device, as one entry of a leading axis. The compiler
(GSPMD) computes maxima and sums over this axis, with one exchange between devices for each.
"""

import typing

import keras
from keras import ops

from keras_logit_adjust import _checks


class Spread(typing.NamedTuple):
    """Classes in `number` equal parts, along the axis `axis` of a JAX mesh."""

    mesh: typing.Any
    axis: str
    number: int


def as_spread(layout, class_axis, num_classes=None):
    """The `Spread` of a kernel with this `keras.distribution.TensorLayout`. None if each device has all classes."""
    if layout is None:
        return None
    if not isinstance(layout, keras.distribution.TensorLayout) or len(layout.axes) != 2 or layout.device_mesh is None:
        raise _checks.ArgumentError(
            "kernel_layout",
            "`kernel_layout` must be a `keras.distribution.TensorLayout` of the kernel, with two axes and a device "
            f"mesh. Received: kernel_layout={_checks.shown(layout)}",
        )
    axis = layout.axes[class_axis % 2]
    if axis is None:
        return None
    refuse_other_backends("kernel_layout")
    mesh = layout.device_mesh.backend_mesh
    number = mesh.shape[axis]
    if num_classes is not None and num_classes % number:
        raise _checks.ArgumentError(
            "kernel_layout",
            f"The parts of the kernel must be equal: the number of classes must be a multiple of the {number} devices "
            f"of the mesh axis {axis!r}. Received {num_classes} classes. Remedy: a `kla.layers.ManyClassDense`, which "
            "adds rows that are no classes.",
        )
    return Spread(mesh, axis, number) if number > 1 else None


def refuse_other_backends(name):
    """Raise for the argument or function `name` if the backend is not JAX. Keras spreads tensors on JAX only."""
    if keras.backend.backend() != "jax":
        raise _checks.ArgumentError(
            name,
            f"Keras spreads a kernel over devices on JAX alone. Received `{name}` on the backend "
            f"{keras.backend.backend()!r}. Remedy: KERAS_BACKEND=jax; or the whole kernel on each device, by chunks.",
        )


def rows_of(spread, tensor, ids, axis):
    """`ops.take(tensor, ids, axis)` for a tensor whose classes are spread. Each device gives the rows that it has.

    Its gradient is spread too. If the compiler divided a plain look-up, this would not be certain.
    """
    if spread is None:
        return ops.take(tensor, ids, axis=axis)

    def local(first, shared, parts):
        (ids,), (part,) = shared, parts
        places = ids - first
        inside = ops.logical_and(places >= 0, places < part.shape[axis])
        rows = ops.take(part, ops.where(inside, places, 0), axis=axis)
        shape = [1] * len(rows.shape)
        shape[axis] = -1
        return (ops.where(ops.reshape(inside, shape), rows, ops.zeros_like(rows)),)

    return whole(spread, ops.sum(on_each(spread, local, (whole(spread, ids),), (tensor,), axes=(axis,))[0], axis=0))


def whole(spread, tensor):
    """`tensor` whole on each device. Otherwise the compiler would divide it for a product, and then join it again."""
    import jax

    return jax.lax.with_sharding_constraint(
        tensor, jax.sharding.NamedSharding(spread.mesh, jax.sharding.PartitionSpec())
    )


def on_each(spread, function, shared, parts, *, axes, kept=()):
    """Run `function(first, shared, parts)` on each device, for its own part of the classes.

    Args:
        spread: `Spread`, or None for one part on this device.
        function: returns a tuple of tensors `[...]`. `first` is the id of the first class of the part.
        shared: a tuple of tensors. Each device gets them whole.
        parts: a tuple of tensors. Each device gets its part.
        axes: the axis of the classes in each of `parts`.
        kept: the axis of the classes in each of the last tensors that `function` returns. The results of the devices
            are joined along this axis. The other tensors get a leading axis with one entry for each device.
    """
    if spread is None:
        return function(0, shared, parts)
    import jax
    from jax import numpy as jnp
    from jax.sharding import PartitionSpec

    def along(axis):
        return PartitionSpec(*([None] * axis), spread.axis)

    def local(first, shared, parts):
        found = function(first[0], shared, parts)
        number = len(found) - len(kept)
        return tuple(tensor[None] for tensor in found[:number]), tuple(found[number:])

    size = parts[0].shape[axes[0]] // spread.number
    mapped = jax.shard_map(
        local,
        mesh=spread.mesh,
        in_specs=(along(0), PartitionSpec(), tuple(map(along, axes))),
        out_specs=(along(0), tuple(map(along, kept))),
        axis_names={spread.axis},
        check_vma=False,
    )
    # Compile: JAX cannot run a function over only some axes of a mesh eagerly.
    stacked, pieces = jax.jit(mapped)(size * jnp.arange(spread.number, dtype="int32"), shared, parts)
    return *stacked, *pieces
