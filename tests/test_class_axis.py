"""Classes in another axis than the last: the layer, models of a user's own, and what is made of them."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import COUNTS, Subclassed, reload, rows
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.layers import LogitAdjustment

SHIFT = log_prior(COUNTS)[:, None, None]  # of maps [3, H, W]


def maps(*behind):
    inputs = keras.Input((4, 4, 2))
    outputs = layers.Conv2D(3, 1, data_format="channels_last")(inputs)
    for layer in (layers.Permute((3, 1, 2)), *behind):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("axis", [1, -3])
def test_the_layer_shifts_the_axis_of_the_classes(axis, rng, tmp_path):
    calibration = kla.Calibration(2.0, [0.5, 0.0, -0.5])
    layer, data = LogitAdjustment(COUNTS, axis=axis, calibration=calibration), rows(rng, 2, 3, 4, 5)
    expected = as_float64(data) / 2 + np.array([0.5, 0.0, -0.5])[:, None, None] - SHIFT
    np.testing.assert_allclose(as_float64(layer(data)), expected, rtol=1e-5, atol=1e-6)
    inputs = keras.Input((3, 4, 5))
    loaded = reload(keras.Model(inputs, layer(inputs)), tmp_path)
    np.testing.assert_allclose(as_float64(loaded(data)), expected, rtol=1e-5, atol=1e-6)


def test_the_first_of_two_axes_may_be_that_of_the_classes(rng):
    data = rows(rng, 3, 5)
    np.testing.assert_allclose(
        as_float64(LogitAdjustment(COUNTS, axis=-2)(data)), as_float64(data) - log_prior(COUNTS)[:, None], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("axis", "message"),
    [(4, r"static dimension 4. Received \(2, 3, 4, 5\)"), (2, "has 3"), (1.5, "`axis` must be an integer.*1.5")],
)
def test_an_axis_that_is_not_that_of_the_classes_is_refused(axis, message):
    with pytest.raises(ValueError, match=message):
        LogitAdjustment(COUNTS, axis=axis)(np.zeros((2, 3, 4, 5), "float32"))


@pytest.mark.parametrize("output", ["logits", "softmax"])
def test_a_subclass_is_adjusted_in_the_axis_that_is_named(output, rng, tmp_path):
    @keras.saving.register_keras_serializable(package="test_class_axis", name=f"First_{output}")
    class First(Subclassed):
        def call(self, inputs, training=None):
            return keras.ops.moveaxis(self.dense(inputs), -1, 1)

    model, data = First(3, None if output == "logits" else output), rows(rng, 2, 4, 5, 6)
    adjusted = kla.adjust(model, COUNTS, output=output, axis=1)
    before = as_float64(model(data))
    expected = before - SHIFT if output == "logits" else before / np.exp(SHIFT)
    expected = expected if output == "logits" else expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(as_float64(adjusted(data)), expected, rtol=1e-5, atol=1e-6)
    loaded = reload(adjusted, tmp_path)
    np.testing.assert_array_equal(as_float64(loaded(data)), as_float64(adjusted(data)))


def test_an_axis_against_what_a_graph_shows_is_refused():
    assert kla.adjust(maps(), COUNTS, axis=1).output_shape == (None, 3, 4, 4)
    with pytest.raises(ValueError, match="`axis` says -1, but the classes of 'conv2d.*' are in axis 1"):
        kla.adjust(maps(), COUNTS, axis=-1)


def test_logits_for_calibration_have_the_classes_last(rng):
    model, data = maps(layers.Softmax(axis=1)), rows(rng, 2, 4, 4, 2)
    logits = kla.held_out.predict_logits(model, data)
    assert logits.shape == (2, 4, 4, 3)
    expected = np.moveaxis(as_float64(model(data)), 1, -1)
    np.testing.assert_allclose(softmax(logits.astype("float64")), expected, rtol=1e-5, atol=1e-6)


def test_experts_with_classes_elsewhere_are_refused():
    with pytest.raises(ValueError, match="classes in the last axis. Model .* has them in axis -3: .*Permute"):
        kla.product_of_experts([maps(), maps()], COUNTS)


def test_a_calibration_is_not_folded_below_an_adjustment_or_a_scale(rng):
    inputs, calibration = keras.Input((6,)), kla.Calibration(2.0)
    adjusted = keras.Model(inputs, LogitAdjustment(COUNTS, name="shift")(layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match="operation 'shift' .*LogitAdjustment.* does not pass"):
        kla.fold_into_bias(adjusted, COUNTS, calibration=calibration, allow_double_correction=True)
    calibrated = LogitAdjustment(COUNTS, calibration=calibration, name="affine")
    model = keras.Model(inputs, calibrated(layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match="operation 'affine' .*LogitAdjustment.* does not pass"):
        kla.fold_into_bias(model, COUNTS, allow_double_correction=True)


@pytest.mark.parametrize(
    "head",
    [
        lambda: layers.Conv2DTranspose(3, 2, strides=2),
        lambda: layers.SeparableConv2D(3, 2),
        lambda: layers.EinsumDense("bhwd,dc->bhwc", (4, 4, 3), bias_axes="c"),
        lambda: layers.TimeDistributed(layers.Dense(3)),
    ],
    ids=["transposed", "separable", "einsum", "time"],
)
def test_a_temperature_folds_into_every_kind_of_kernel(head, rng):
    inputs, data = keras.Input((4, 4, 2)), rows(rng, 2, 4, 4, 2)
    model = keras.Model(inputs, head()(inputs))
    folded = kla.fold_into_bias(model, COUNTS, calibration=kla.Calibration(2.0, [0.5, 0.0, -0.5]))
    expected = as_float64(model(data)) / 2 + [0.5, 0.0, -0.5] - log_prior(COUNTS)
    np.testing.assert_allclose(as_float64(folded(data)), expected, rtol=1e-5, atol=1e-6)
