"""Spread the kernel of a `ManyClassDense` over the devices of a mesh: give Keras a layout, and check the result."""

import keras
from keras import ops

from keras_logit_adjust import _checks
from keras_logit_adjust.losses import _shards

# No other layer has these names. If a key of the layout matched no path, each device would have the whole kernel, and
# Keras would not warn.
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

    After `keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout))`, every model that
    is built is spread.
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
    """A mixin of layers: the devices of the rows of kernel and bias. Keras places the rows when they are built.

    All devices have the same number of rows. The last rows may not belong to classes. They stay 0 and are not saved.
    """

    _rows_layout = _spread = None
    _num_padded = 0

    def _place(self, num_classes):
        """The number of rows of kernel and bias under the current distribution."""
        self._rows_layout = self._layout_now()
        spread = _shards.as_spread(self._rows_layout, 0)
        self._spread, self._num_padded = spread, 0 if spread is None else -num_classes % spread.number
        return num_classes + self._num_padded

    def lie_as(self, other):
        """Take the placement of `other`, because this layer takes its variables."""
        self._rows_layout, self._spread, self._num_padded = other._rows_layout, other._spread, other._num_padded

    def _layout_now(self):
        """The layout of the kernel under the current distribution. None if each device has the whole kernel."""
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
        """Check that the kernel is placed by its layout, and set its rows without classes to 0."""
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
        """Raise if the current distribution would place the kernel differently from that at its build."""
        now, then = self._layout_now(), self._rows_layout
        if (now and (now.axes, now.device_mesh)) != (then and (then.axes, then.device_mesh)):
            raise ValueError(
                f"Layer {self.name!r} was built with {_named(then)}, and the distribution of now has {_named(now)}. "
                "Remedy: `keras.distribution.set_distribution` before the model is built, and not again after."
            )

    def _padded(self, tensor, value=0.0):
        """`tensor [L, ...]` with added rows for no classes. Their value is `value`."""
        if not self._num_padded:
            return tensor
        padding = [(0, self._num_padded), *[(0, 0)] * (len(tensor.shape) - 1)]
        return ops.pad(tensor, padding, constant_values=value)

    def _own_variables(self):
        """`{name in a file: (variable, whether it has rows without classes)}` of the layer."""
        own = {}
        super().save_own_variables(own)
        padded = (self.kernel, self.bias) if self._num_padded else ()
        return {key: (variable, any(variable is p for p in padded)) for key, variable in own.items()}

    def save_own_variables(self, store):
        for key, (variable, is_padded) in self._own_variables().items():
            store[key] = variable[: -self._num_padded] if is_padded else variable

    def load_own_variables(self, store):
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118 - Keras's store is not a dict
        for key, (_, is_padded) in self._own_variables().items():
            if is_padded and key in values:
                values[key] = self._padded(ops.convert_to_tensor(values[key]))
        super().load_own_variables(values)


def _named(layout):
    return "its kernel whole on each device" if layout is None else f"the layout {tuple(layout.axes)} of its kernel"
