"""The layout that spreads very many classes over devices: its keys, and what is refused where there is one device."""

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla

BACKEND = keras.backend.backend()
LOSSES = {
    "linear": kla.losses.linear_logit_adjusted_crossentropy,
    "sampled": lambda *args, **options: kla.losses.sampled_logit_adjusted_crossentropy(
        *args, rivals="batch", **options
    ),
}


def mesh(shape=(1, 1), names=("batch", "classes")):
    return keras.distribution.DeviceMesh(shape, names, ["cpu:0"])


@pytest.mark.parametrize("path", ["head/class_{}", "model/block/my_head/class_{}", "class_{}"])
def test_kernel_and_bias_of_any_head_are_spread_over_the_last_axis(path):
    layout = kla.layers.many_class_layout(mesh())
    assert layout[path.format("kernel")].axes == ("classes", None)
    assert layout[path.format("bias")].axes == ("classes",)
    assert kla.layers.many_class_layout(mesh(), axis="batch")[path.format("kernel")].axes == ("batch", None)


@pytest.mark.parametrize("path", ["head/kernel", "head/log_prior", "dense/kernel", "head/class_kernel_2"])
def test_every_other_variable_is_left_whole(path):
    assert kla.layers.many_class_layout(mesh())[path] is None


def test_the_keys_are_the_names_of_the_variables_of_a_head():
    head = kla.layers.ManyClassDense(3, [3, 2, 1], name="mine")
    head.build((None, 2))
    layout = kla.layers.many_class_layout(mesh())
    assert [layout[variable.path] is not None for variable in (head.kernel, head.bias, head.log_prior)] == [1, 1, 0]


def test_what_is_no_mesh_and_an_axis_that_it_has_not_are_refused():
    with pytest.raises(ValueError, match=r"`device_mesh` must be a `keras.distribution.DeviceMesh`. Received.*'cpu:0'"):
        kla.layers.many_class_layout(["cpu:0"])
    with pytest.raises(ValueError, match="`axis` must be one of 'batch', 'classes'. Received: axis='model'"):
        kla.layers.many_class_layout(mesh(), axis="model")


@pytest.mark.parametrize("name", LOSSES)
def test_a_layout_of_the_kernel_is_read_on_jax_alone(name):
    def loss(axes):
        layout = keras.distribution.TensorLayout(axes, mesh())
        args = np.array([0, 1]), np.ones((2, 3)), np.ones((3, 4)), None, np.log([0.25] * 4)
        return LOSSES[name](*args, kernel_layout=layout)

    expected = keras.ops.convert_to_numpy(loss(("batch", None)))  # the classes are whole: each device has them all
    if BACKEND == "jax":
        np.testing.assert_array_equal(loss((None, "classes")), expected)
    else:
        with pytest.raises(ValueError, match="on JAX alone. Received `kernel_layout` on.*Remedy: KERAS_BACKEND=jax"):
            loss((None, "classes"))


@pytest.mark.parametrize("layout", [("classes", None), "classes", "of a vector"])
@pytest.mark.parametrize("name", LOSSES)
def test_what_is_no_layout_of_a_kernel_is_refused(name, layout):
    layout = keras.distribution.TensorLayout(("classes",), mesh()) if layout == "of a vector" else layout
    with pytest.raises(ValueError, match="`kernel_layout` must be a `keras.distribution.TensorLayout` of the kernel"):
        LOSSES[name](np.array([0]), np.ones((1, 3)), np.ones((3, 4)), None, np.zeros(4), kernel_layout=layout)
