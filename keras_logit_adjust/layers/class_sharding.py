"""The kernel of a `ManyClassDense` over the devices of a mesh: the layout that Keras is given, and what came of it."""

import keras
from keras import ops

from keras_logit_adjust import _checks
from keras_logit_adjust.losses import _shards

# Names that no other layer has: a key that matched no path would leave the kernel whole on each device, in silence.
KERNEL, BIAS = "class_kernel", "class_bias"


def many_class_layout(device_mesh, *, axis=None):
    """A `keras.distribution.LayoutMap` that spreads the classes of every `ManyClassDense` over devices (JAX).

    Kernel and bias, and the optimizer's state for them, are cut into equal parts along one axis of the mesh. All other
    variables are whole on each device: add keys for them as to any `LayoutMap`. Set the distribution before the model
    is built.

    Args:
        device_mesh: a `keras.distribution.DeviceMesh`.
        axis: the name of the axis of the mesh over which classes are spread; by default its last.

    Returns:
        A `keras.distribution.LayoutMap`, for `keras.distribution.ModelParallel`.

    Raises:
        ValueError: for an axis that the mesh does not have. Building the head on other backends raises an error.

    Example:

    >>> mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "classes"), ["cpu:0"])  # by default all devices
    >>> layout = many_class_layout(mesh)
    >>> layout["head/class_kernel"].axes
    ('classes', None)

    `keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout))` then spreads what is
    built.
    """
    if not isinstance(device_mesh, keras.distribution.DeviceMesh):
        raise _checks.ArgumentError(
            "device_mesh",
            "`device_mesh` must be a `keras.distribution.DeviceMesh`. Received: "
            f"device_mesh={_checks.shown(device_mesh)}",
        )
    names = tuple(device_mesh.axis_names)
    axis = names[-1] if axis is None else _checks.check_choice(axis, "axis", names)
    layout = keras.distribution.LayoutMap(device_mesh)
    layout[f"(.*/)?{KERNEL}"] = (axis, None)
    layout[f"(.*/)?{BIAS}"] = (axis,)
    return layout


class PlacedRows:
    """Mixed into a layer: where the rows of its kernel and bias lie, which Keras decides when they are built.

    Each device has as many rows; the last of them may be no classes. They stay 0 and are in no file.
    """

    _rows_layout = _spread = None
    _num_padded = 0

    def _place(self, num_classes):
        """How many rows kernel and bias have under the distribution of now."""
        self._rows_layout = self._layout_now()
        spread = _shards.as_spread(self._rows_layout, 0)
        self._spread, self._num_padded = spread, 0 if spread is None else -num_classes % spread.number
        return num_classes + self._num_padded

    def lie_as(self, other):
        """Have the rows of `other`, whose variables this layer takes over."""
        self._rows_layout, self._spread, self._num_padded = other._rows_layout, other._spread, other._num_padded

    def _layout_now(self):
        """The layout that the distribution of now has for the kernel, None for the whole on each device."""
        distribution = keras.distribution.distribution()
        if not isinstance(distribution, keras.distribution.ModelParallel):
            return None
        path = f"{self.path}/{KERNEL}"
        layout = distribution.get_tensor_layout(path)
        if layout is None and distribution.device_mesh.devices.size > 1:
            raise ValueError(
                f"A key of the `LayoutMap` of the distribution must match {path!r}, the kernel of the many classes. "
                "None does: it would be whole on each device. Remedy: `kla.layers.many_class_layout(device_mesh)` as "
                f"the `LayoutMap`; or, if each device is to have it whole, layout_map[{path!r}] = (None, None)."
            )
        return layout

    def _settle_kernel(self):
        """Check that the kernel lies where its layout says, and make its rows that are no classes 0."""
        if self._rows_layout is not None:
            found = ops.convert_to_tensor(self.kernel).sharding
            if not found.is_equivalent_to(self._rows_layout.backend_layout, ndim=2):
                raise ValueError(
                    f"The kernel of layer {self.name!r} must lie on the devices as its layout says, "
                    f"{self._rows_layout.axes}. Found: {found}."
                )
        if self._num_padded:
            self.kernel.assign(self._padded(self.kernel[: -self._num_padded]))

    def _check_placement(self):
        """Raise where the distribution of now would place the kernel otherwise than that of when it was built."""
        now, then = self._layout_now(), self._rows_layout
        if (now and (now.axes, now.device_mesh)) != (then and (then.axes, then.device_mesh)):
            raise ValueError(
                f"Layer {self.name!r} was built with {_named(then)}, and the distribution of now has {_named(now)}. "
                "Remedy: `keras.distribution.set_distribution` before the model is built, and not again after."
            )

    def _padded(self, tensor, value=0.0):
        """`tensor [L, ...]` with `value` in the rows that are no classes."""
        if not self._num_padded:
            return tensor
        padding = [(0, self._num_padded), *[(0, 0)] * (len(tensor.shape) - 1)]
        return ops.pad(tensor, padding, constant_values=value)

    def _own_variables(self):
        """The variables of the layer by their names in a file, and whether they have rows that are no classes."""
        own = {}
        super().save_own_variables(own)
        padded = (self.kernel, self.bias) if self._num_padded else ()
        return {key: (variable, any(variable is p for p in padded)) for key, variable in own.items()}

    def save_own_variables(self, store):
        for key, (variable, is_padded) in self._own_variables().items():
            store[key] = variable[: -self._num_padded] if is_padded else variable

    def load_own_variables(self, store):
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 - a store of Keras's is no dict
        for key, (_, is_padded) in self._own_variables().items():
            if is_padded and key in values:
                values[key] = self._padded(ops.convert_to_tensor(values[key]))
        super().load_own_variables(values)


def _named(layout):
    return "its kernel whole on each device" if layout is None else f"the layout {tuple(layout.axes)} of its kernel"
