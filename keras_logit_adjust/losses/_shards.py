"""Classes spread over devices: what is computed of each device's own part of the kernel, on that device.

A loop over chunks of a kernel that lies on several devices would fetch every chunk from the device that has it. Here
each device goes through the chunks of its own classes, and what it found stays where it is, as one entry of a leading
axis. Maxima and sums over that axis are left to the compiler (GSPMD), which makes one exchange of each.
"""

import typing

import keras
from keras import ops

from keras_logit_adjust import _checks


class Spread(typing.NamedTuple):
    """Classes cut into `number` equal parts along the axis `axis` of a mesh of JAX's."""

    mesh: typing.Any
    axis: str
    number: int


def as_spread(layout, class_axis, num_classes=None):
    """How a `keras.distribution.TensorLayout` of the kernel spreads its classes; None if each device has them all."""
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
    """Raise for the argument or function `name` where Keras spreads no tensor over devices."""
    if keras.backend.backend() != "jax":
        raise _checks.ArgumentError(
            name,
            f"Keras spreads a kernel over devices on JAX alone. Received `{name}` on the backend "
            f"{keras.backend.backend()!r}. Remedy: KERAS_BACKEND=jax; or the whole kernel on each device, by chunks.",
        )


def rows_of(spread, tensor, ids, axis):
    """`ops.take(tensor, ids, axis)` of a tensor whose classes are spread: each device gives the rows that it has.

    Its gradient stays spread as well, which a look-up that the compiler cuts up does not promise.
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
    """`tensor` whole on each device: the compiler would cut it up for a product and put it together again."""
    import jax

    return jax.lax.with_sharding_constraint(
        tensor, jax.sharding.NamedSharding(spread.mesh, jax.sharding.PartitionSpec())
    )


def on_each(spread, function, shared, parts, *, axes, kept=()):
    """Run `function(first, shared, parts)` on each device, of its own part of the classes.

    Args:
        spread: `Spread`, or None: one part, here.
        function: gives a tuple of tensors `[...]`; `first` is the id of the first class of the part.
        shared: a tuple of tensors that each device gets whole.
        parts: a tuple of tensors of which each gets its part.
        axes: the axis of the classes in each of `parts`.
        kept: for each of the last tensors that `function` gives, the axis of the classes: the parts are put side by
            side there. The other tensors get a leading axis of the parts.
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
    # Compiled, for a function of some axes of a mesh cannot be run step by step.
    stacked, pieces = jax.jit(mapped)(size * jnp.arange(spread.number, dtype="int32"), shared, parts)
    return *stacked, *pieces
