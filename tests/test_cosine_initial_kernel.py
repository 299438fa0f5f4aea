"""A cosine head that begins with directions that are given, such as embeddings of the classes' names."""

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust.layers import CosineDense


def test_it_begins_with_cosines_trains_and_is_saved_without_them(rng, tmp_path):
    names, x = rng.normal(size=(5, 3)), rng.normal(size=(4, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), CosineDense(3, scale=20, initial_kernel=names)])
    cosines = x @ names / np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(names, axis=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), 20 * cosines, atol=1e-4)
    assert "initial_kernel" not in model.layers[0].get_config()
    model.compile(keras.optimizers.SGD(0.1), kla.losses.LogitAdjustedCrossentropy([9, 3, 1]))
    model.fit(x, np.array([0, 1, 2, 0]), epochs=1, verbose=0)
    trained = keras.ops.convert_to_numpy(model.layers[0].kernel)
    assert np.abs(trained - names).max() > 1e-4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded.layers[0].kernel), trained)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((3, 5)), r"must have shape \[D, 3\], a column for each class.*\(3, 5\): transpose"),
        (np.ones(3), r"must have shape \[D, 3\]"),
        ([[1.0, np.nan, 1.0]], "must be finite and not all 0.*class 1"),
        ([[1.0, 1.0, 0.0]], "must be finite and not all 0.*class 2"),
        ([[1.0, 1e39, 1.0]], "at most 1e"),
        ("names", "`initial_kernel`"),
    ],
)
def test_a_kernel_without_a_direction_for_each_class_is_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        CosineDense(3, initial_kernel=kernel)


def test_a_kernel_of_other_features_is_refused_when_the_head_is_built():
    with pytest.raises(ValueError, match="a row for each of the 4 features.*shape \\(5, 3\\)"):
        CosineDense(3, initial_kernel=np.ones((5, 3))).build((None, 4))
