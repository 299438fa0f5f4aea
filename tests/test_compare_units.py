"""The units in which models are fed: whatever a column was measured in, pixels from 0 to 255, and nothing beyond."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG

from keras_logit_adjust import data, models
from keras_logit_adjust.compare import compare, devices, units

pytestmark = pytest.mark.usefixtures("folder")


def write(folder, name, x):
    np.savez(folder / f"{name}.npz", x=x, y=np.arange(len(x)) % 3)


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_standardized_as_the_training_set_has_them(rng):
    x = np.column_stack([rng.normal(7, 3, 50), np.full(50, 0.1), rng.integers(0, 2, 50)]).astype("float32")
    scale = units.Scaler(x)
    scaled = scale(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, [0, 2]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:, [0, 2]].std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(scaled[:, 1], 0, atol=1e-6)
    # What was constant in training taught nothing: another value must not count.
    assert scale(x[:1] + np.float32([0, 1, 0]))[0, 1] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e-10, 1e-6, 1.0, 1e9, 1e30])
def test_a_column_is_the_same_in_every_unit(unit, dtype, rng):
    x = np.column_stack([rng.normal(size=50), 7 + rng.normal(size=50), rng.integers(0, 2, 50)])
    found = units.Scaler((unit * x).astype(dtype))((unit * x).astype(dtype))
    np.testing.assert_allclose(found, (x - x.mean(axis=0)) / x.std(axis=0), rtol=1e-4, atol=1e-5)


def test_small_steps_beside_a_large_number_are_no_constant(rng):
    seconds = np.arange(50.0)[:, None]
    moments = 1.7e9 + seconds  # times, to the second
    np.testing.assert_allclose(units.Scaler(moments)(moments), (seconds - 24.5) / seconds.std(), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-10, -3e30, 12345.678])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_a_constant_column_is_zero_for_all_examples(value, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.full((100_001, 1), value).astype(dtype)
    x = np.nan_to_num(x, posinf=1, neginf=-1)
    scale = units.Scaler(x)
    assert not scale(x).any() and not scale(x[:5] + np.ones(5, dtype)[:, None]).any()


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", "int8"])
def test_scaling_in_pieces_is_scaling_at_once(dtype, rng, monkeypatch):
    x = rng.integers(-128 if dtype == "int8" else 0, 2 if dtype == "bool" else 128, (50, 3)).astype(dtype)
    exact = x.astype("float64")
    monkeypatch.setattr(units, "_AT_ONCE", 21)
    np.testing.assert_allclose(
        units.Scaler(x)(x), (exact - exact.mean(axis=0)) / exact.std(axis=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_features_of_every_float_type_are_scaled_without_a_warning(dtype, rng):
    x, y = rng.normal(size=(30, 2)).astype(dtype), np.repeat([0, 1], 15)
    dataset = data.load((x, y), test=(x, y), validation="none")
    exact = x.astype("float64")
    scaled = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    np.testing.assert_allclose(units.scaler_of(dataset)(x), scaled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            1e200,
            1.0,
            r"`train` must be numbers that float32 holds, up to 3\.4e\+38\. Received larger ones in 1 examples",
        ),
        (1.0, 1e200, r"`test` must be numbers that float32 holds.* divide them, or take their logarithm"),
        (1e-12, 1e30, r"`test` must be in the units of training.* deviations of the training examples in column 1"),
    ],
)
def test_what_float32_does_not_hold_is_refused_before_training(train, test, message, rng, trained, folder):
    for name, largest in (("train", train), ("test", test)):
        x = rng.normal(size=(30, 2)) * np.array([1.0, 1e-13])
        x[0, 1] = largest
        write(folder, name, x)
    with pytest.raises(ValueError, match=message):
        compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert trained == [] and not (folder / "out").exists()


def test_logits_that_are_not_finite_are_no_predictions_of_class_0(monkeypatch):
    monkeypatch.setattr(devices.OneDevice, "predict", lambda self, model, x: np.full((len(x), 3), np.nan))
    with pytest.raises(ValueError, match=r"The logits of 'cross-entropy \(ERM\)' are not finite"):
        compare(dataclasses.replace(CONFIG, precision="mixed_float16"), methods=["erm"], seeds=1)


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_reach_the_model_in_the_range_it_takes():
    images = np.full((2, 4, 4, 1), 51, "uint8")
    assert units.Scaler(images)(images) is images
    floats = np.linspace(-1, 1, 48).reshape(1, 4, 4, 3)
    np.testing.assert_allclose(units.Scaler(floats)(floats), 127.5 * (floats + 1), rtol=1e-5)
    np.testing.assert_allclose(units.Scaler(floats)(0 * floats), 127.5, rtol=1e-6)


IMAGES = {
    "bytes": (np.arange(48).astype("uint8"), np.arange(48)),
    "whole floats": (np.arange(48).astype("float32"), np.arange(48)),
    "whole integers": (np.arange(48), np.arange(48)),
    "from 0 to 1": (np.linspace(0, 1, 48), np.linspace(0, 255, 48)),
    "from -1 to 1": (np.linspace(-1, 1, 48, dtype="float32"), np.linspace(0, 255, 48)),
    "of twelve bits": (np.arange(48) * 87, np.linspace(0, 255, 48)),
    "black and white": (np.arange(48) % 2 == 0, 255 * (np.arange(48) % 2 == 0)),
    "zeros and ones": ((np.arange(48) % 2).astype("uint8"), 255 * (np.arange(48) % 2)),
    "of one number": (np.full(48, 9.5), np.zeros(48)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_pixels_go_from_0_to_255_by_one_rule(kind):
    x, expected = (pixels.reshape(1, 4, 4, 3) for pixels in IMAGES[kind])
    np.testing.assert_allclose(units.Scaler(x)(x), expected, rtol=1e-5, atol=1e-4)


def test_images_in_half_precision_are_scaled_in_double(rng):
    """`255 / (high − low)` and the differences are beyond the largest float16, 65504, or of three digits only."""
    for low, high in ((-60000, 60000), (0, 4095), (-1e-3, 1e-3)):
        x = rng.uniform(low, high, (4, 5, 5, 3)).astype("float16")
        exact = x.astype("float64")
        expected = 255 * (exact - exact.min()) / (exact.max() - exact.min())
        np.testing.assert_allclose(units.Scaler(x)(x), expected, rtol=1e-6, atol=1e-4)


def test_bytes_of_a_test_set_are_scaled_as_the_training_images_were():
    train = np.linspace(50, 305, 48).reshape(1, 4, 4, 3)
    images = np.arange(50, 98).astype("uint8").reshape(1, 4, 4, 3)
    np.testing.assert_allclose(units.Scaler(train)(images), images - 50.0, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bright", ["train", "test"])
def test_pixels_of_another_range_in_the_test_set_are_refused(bright, rng, trained, folder):
    for name in ("train", "test"):
        write(folder, name, rng.random((30, 4, 4, 1)) * (255 if name == bright else 1))
    with pytest.raises(
        ValueError, match=r"`test` must have pixels in the range of training, .* bring both to one range"
    ):
        compare(CONFIG, methods=["erm"], seeds=1)
    assert trained == []


def test_darker_test_images_are_no_other_range(rng, trained, folder):
    write(folder, "train", rng.integers(0, 256, (30, 4, 4, 1)).astype("uint8"))
    write(folder, "test", rng.integers(0, 30, (30, 4, 4, 1)).astype("uint8"))
    compare(CONFIG, methods=["erm"], seeds=1)
    assert trained == [(0, "erm")]


@pytest.mark.parametrize("make", [models.small_cnn, lambda shape, num_classes: models.resnet32(10, input_shape=shape)])
@pytest.mark.parametrize("shape", [(3, 3, 1), (1, 28, 28), (0, 9, 1), (28, 28), (8, 8, None)])
def test_a_model_refuses_images_that_are_too_small_for_it(shape, make):
    with pytest.raises(
        ValueError, match=r"`input_shape` must be \(height, width, channels\), of at least 4 × 4 pixels"
    ):
        make(shape, 10)


def test_the_smallest_images_pass_through_both_models(rng):
    images = rng.random((2, 4, 4, 1)).astype("float32")
    for model in (models.small_cnn((4, 4, 1), 3), models.resnet32(3, input_shape=(4, 4, 1))):
        assert np.isfinite(keras.ops.convert_to_numpy(model(images, training=True))).all()


@pytest.mark.parametrize("make", [models.linear_head, models.cosine_head])
def test_a_linear_model_of_no_columns_is_refused(make):
    with pytest.raises(ValueError, match="`num_features` must be an integer of at least 1"):
        make(0, 3)
