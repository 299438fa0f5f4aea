"""Batch normalization in one operation: Keras's values, gradients and moving averages."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_logit_adjust._batch_norm import FusedBatchNormalization

OPTIONS = {"momentum": 0.9, "epsilon": 1e-5}


def normalized(x, gamma, beta, epsilon=1e-5):
    """Ioffe & Szegedy (2015), algorithm 1, in float64; with the mean and the variance of each channel."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta, mean, variance


def layer_with(gamma, beta, **options):
    layer = FusedBatchNormalization(**OPTIONS, **options)
    layer.build((None, None, None, len(gamma)))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    return layer


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 20)),
    seed=st.integers(0, 2**32 - 1),
)
def test_training_has_the_values_and_moving_averages_of_the_formula(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, shape).astype("float32")
    gamma, beta = rng.normal(size=(2, shape[-1])).astype("float32")
    layer = layer_with(gamma, beta)
    output = as_float64(layer(x, training=True))
    expected, mean, variance = normalized(x.astype("float64"), gamma, beta)
    # With a single number a channel, rounding of the mean is all there is: it is divided by the root of epsilon.
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=5e-3 if np.prod(shape[:3]) < 3 else 1e-4)
    np.testing.assert_allclose(as_float64(layer.moving_mean), 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(as_float64(layer.moving_variance), 0.9 + 0.1 * variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "jit_compile"),
    [
        # XLA compiles. Keras on torch warns for each layer, and this layer is Keras's own there.
        pytest.param("float32", keras.backend.backend() != "torch", marks=pytest.mark.slow),
        *(pytest.param(p, False, marks=pytest.mark.slow) for p in ("mixed_bfloat16", "mixed_float16")),
        ("float32", False),
    ],
)
def test_a_step_of_training_is_keras_s(rng, precision, jit_compile):
    x, y = rng.normal(1, 2, (16, 6, 6, 3)).astype("float32"), rng.normal(size=(16, 4)).astype("float32")
    kernel = rng.normal(size=(3, 4)).astype("float32")
    trained = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        inputs = keras.Input((6, 6, 3))
        norm = kind(**OPTIONS, dtype=precision)
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(norm(inputs)))
        model = keras.Model(inputs, keras.layers.Dense(4, dtype="float32")(pooled))
        model.layers[-1].kernel.assign(kernel)
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit_compile)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        trained.append([as_float64(w) for w in model.weights])
    tolerance = 1e-5 if precision == "float32" else 3e-2
    for ours, keras_s in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=tolerance, atol=tolerance)


def test_gradients_are_those_of_finite_differences(rng):
    # An input moves its own output and, through mean and variance, all others of its channel.
    x, weight = rng.normal(size=(2, 2, 2, 2)), rng.normal(size=(2, 2, 2, 2))
    gamma, beta = rng.normal(size=(2, 2))

    def value(x, gamma, beta):
        return (weight * normalized(x, gamma, beta)[0] ** 2).sum()

    inputs = keras.Input((2, 2, 2))
    shifted = keras.layers.EinsumDense("bhwc,cd->bhwd", (2, 2, 2), name="before")(inputs)
    norm = FusedBatchNormalization(**OPTIONS)
    model = keras.Model(inputs, norm(shifted))
    kernel = np.eye(2)
    model.get_layer("before").kernel.assign(kernel)
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    model.compile(keras.optimizers.SGD(1.0), lambda w, output: keras.ops.sum(w * output**2))
    before = [as_float64(w) for w in model.trainable_weights]
    model.train_on_batch(x.astype("float32"), weight.astype("float32"))
    steps = [old - as_float64(new) for old, new in zip(before, model.trainable_weights, strict=True)]

    def difference(at, along):
        h = 1e-6
        return (value(*at(along * h)) - value(*at(-along * h))) / (2 * h)

    expected = [
        [[difference(lambda d: (x @ (kernel + d), gamma, beta), np.outer(i, j)) for j in np.eye(2)] for i in np.eye(2)],
        [difference(lambda d: (x, gamma + d, beta), i) for i in np.eye(2)],
        [difference(lambda d: (x, gamma, beta + d), i) for i in np.eye(2)],
    ]
    for step, right in zip(steps, expected, strict=True):
        # Keras divides the loss by the batch, here by nothing: the loss is one number.
        np.testing.assert_allclose(step.ravel(), np.ravel(right), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "shape"),
    [({"axis": 1}, (2, 3, 4, 5)), ({"scale": False}, (2, 3, 4, 5)), ({"center": False}, (4, 3, 3, 2)), ({}, (6, 5))],
    ids=["channels first", "no scale", "no center", "features"],
)
def test_what_the_operation_cannot_do_is_keras_s(rng, options, shape):
    x = rng.normal(size=shape).astype("float32")
    ours, keras_s = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    np.testing.assert_array_equal(as_float64(ours(x, training=True)), as_float64(keras_s(x, training=True)))


def test_frozen_it_uses_and_keeps_its_moving_averages(rng):
    x = rng.normal(3, 2, (4, 2, 2, 3)).astype("float32")
    layer = layer_with(np.ones(3), np.zeros(3))
    layer.trainable = False
    np.testing.assert_allclose(as_float64(layer(x, training=True)), x / np.sqrt(1 + 1e-5), rtol=1e-5)
    assert as_float64(layer.moving_mean).tolist() == [0, 0, 0]


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_a_layer_whose_weights_are_in_half_precision_is_keras_s(policy, rng):
    """TensorFlow's operation needs float32 weights. Policies without "mixed" have none."""
    x = rng.normal(1, 2, (4, 6, 6, 3)).astype("float32")
    ours, keras_s = (
        kind(**OPTIONS, dtype=policy)(x, training=True)
        for kind in (FusedBatchNormalization, keras.layers.BatchNormalization)
    )
    np.testing.assert_array_equal(as_float64(ours), as_float64(keras_s))
