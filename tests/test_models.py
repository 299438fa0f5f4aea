"""The models of `compare`: sizes, precision, and the cosine head."""

import keras
import numpy as np
import pytest
from helpers.combinations import fast_first

import keras_logit_adjust as kla
from keras_logit_adjust import models

BUILDERS = {
    "small_cnn": (lambda head: models.small_cnn((8, 8, 1), 5, head=head), (8, 8, 1)),
    "resnet32": (lambda head: models.resnet32(5, input_shape=(8, 8, 3), head=head), (8, 8, 3)),
    "linear": (lambda head: models.linear_head(6, 5, head=head), (6,)),
}


def numbers_in(weights):
    return sum(int(np.prod(w.shape)) for w in weights)


def images(rng, shape, size=4):
    return rng.integers(0, 256, (size, *shape)).astype("uint8")


@pytest.fixture(scope="module")
def resnet():
    return models.resnet32(10)


def test_resnet32_has_the_parameters_of_the_paper(resnet):
    # 3×3 kernels of 3 stages of 5 blocks of 2, the stem's, two numbers a channel of normalization, the head's.
    kernels = 3 * 16 + 10 * 16 * 16 + (16 * 32 + 9 * 32 * 32) + (32 * 64 + 9 * 64 * 64)
    channels = 16 + 10 * (16 + 32 + 64)
    assert 9 * kernels + 2 * channels + 65 * 10 == 464_154
    assert numbers_in(resnet.trainable_weights) == 464_154
    assert len([layer for layer in resnet.layers if isinstance(layer, keras.layers.Conv2D)]) == 31  # and the head: 32


def test_resnet32_halves_the_image_twice_and_shortcuts_hold_no_weights(resnet):
    assert [x.output.shape[1:] for x in resnet.layers if isinstance(x, keras.layers.Add)][4::5] == [
        (32, 32, 16),
        (16, 16, 32),
        (8, 8, 64),
    ]
    weighted = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense)
    assert all(isinstance(layer, weighted) for layer in resnet.layers if layer.trainable_weights)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_weight_decay_is_half_the_squared_norm_of_kernels_and_bias(weight_decay):
    model = models.resnet32(3, input_shape=(8, 8, 3), weight_decay=weight_decay)
    model.layers[-1].bias.assign([1.0, -2.0, 3.0])
    weighed = [w for w in model.trainable_weights if w.name in ("kernel", "bias")]
    assert len(weighed) == 32 + 1
    squares = sum((np.asarray(keras.ops.convert_to_numpy(w), "float64") ** 2).sum() for w in weighed)
    penalty = sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses)
    np.testing.assert_allclose(penalty, weight_decay / 2 * squares, rtol=1e-5)


def test_small_cnn_is_the_documented_network(rng):
    model = models.small_cnn((28, 28, 1), 10)
    expected = (9 + 1) * 32 + (9 * 32 + 1) * 64 + (7 * 7 * 64 + 1) * 128 + (128 + 1) * 10
    assert model.count_params() == expected
    assert model.predict(images(rng, (28, 28, 1)), verbose=0).shape == (4, 10)


@pytest.mark.parametrize(("name", "black", "white"), [("small_cnn", 0, 1), ("resnet32", -1, 1)])
def test_images_are_scaled_inside_the_model(name, black, white):
    build, shape = BUILDERS[name]
    rescale = next(x for x in build(models.dense_head).layers if isinstance(x, keras.layers.Rescaling))
    scaled = keras.ops.convert_to_numpy(rescale(np.stack([np.zeros(shape), np.full(shape, 255)])))
    np.testing.assert_allclose(scaled, np.stack([np.full(shape, black), np.full(shape, white)]), atol=1e-6)


def test_images_of_any_number_type_mean_the_same(rng):
    model, x = models.small_cnn((8, 8, 1), 5), images(rng, (8, 8, 1))
    outputs = [keras.ops.convert_to_numpy(model(x.astype(dtype))) for dtype in ("uint8", "float32", "float64")]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-6)


@fast_first(
    ("name", "head"),
    [*((name, "dense") for name in BUILDERS), *((name, "prior-aware") for name in ("small_cnn", "linear"))],
    BUILDERS,
    ("dense", "prior-aware"),
)
def test_logits_are_float32_under_half_precision(name, head, rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    build, shape = BUILDERS[name]
    heads = {
        "dense": models.dense_head,
        "prior-aware": lambda units: kla.layers.PriorAwareDense(units, [9, 5, 3, 2, 1], dtype="float32"),
    }
    model = build(heads[head])
    logits = model(images(rng, shape))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert model.output.dtype == "float32"
    assert keras.backend.standardize_dtype(model.layers[1].compute_dtype) == (
        "float32" if name == "linear" else "bfloat16"
    )


@pytest.mark.parametrize("name", [*BUILDERS, "cosine"])
def test_a_saved_model_predicts_the_same_bits(name, rng, tmp_path):
    if name == "cosine":
        model, x = models.cosine_head(6, 5, scale=7), rng.normal(size=(4, 6)).astype("float32")
    else:
        build, shape = BUILDERS[name]
        model, x = build(models.dense_head), images(rng, shape)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(x)) for m in (model, loaded)))


def test_a_linear_head_is_one_matrix_and_one_bias(rng):
    model, x = models.linear_head(6, 5), rng.normal(size=(3, 6)).astype("float32")
    kernel, bias = model.get_weights()
    assert kernel.shape == (6, 5) and bias.shape == (5,)
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 30])
def test_a_cosine_head_is_the_scaled_cosine(scale, rng):
    model = models.cosine_head(6, 5, scale=scale)
    x, kernel = rng.normal(size=(3, 6)) * [[1e-3], [1], [1e3]], model.get_weights()[0].astype("float64")
    expected = np.array(
        [[scale * np.dot(w, row) / np.sqrt(np.dot(w, w) * np.dot(row, row)) for w in kernel.T] for row in x]
    )
    np.testing.assert_allclose(model.predict(x.astype("float32"), verbose=0), expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_zero_vector_has_zero_logits_and_leaves_training_finite():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, kernel_initializer="zeros", bias_initializer="zeros")(inputs)
    model = keras.Model(inputs, kla.layers.CosineDense(2)(hidden))
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), np.zeros((2, 2)))
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(x, np.array([0, 0]), verbose=0)
    np.testing.assert_allclose(history.history["loss"][0], np.log(2), rtol=1e-6)
    assert all(0 < np.abs(w).max() < 2 for w in model.get_weights())  # moved, neither to NaN nor far away


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "30", True])
def test_a_scale_that_is_no_positive_number_is_refused(scale):
    with pytest.raises(ValueError, match=rf"`scale` must be a positive number\. Received: scale={scale!r}"):
        models.cosine_head(6, 5, scale=scale)
