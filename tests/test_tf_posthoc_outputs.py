"""Adjusted models of several outputs, exported (TensorFlow only)."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_logit_adjust as kla

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own export")

COUNTS = {"species": [90, 9, 1], "genus": [70, 30]}
X = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")


def network():
    inputs = keras.Input((6,))
    features = layers.Dense(5, "tanh")(inputs)
    heads = {"species": layers.Dense(3, "softmax", name="species"), "genus": layers.Dense(2, name="genus")}
    return keras.Model(inputs, {name: head(features) for name, head in heads.items()})


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_an_exported_model_of_several_outputs_serves_them_all(make, tmp_path):
    model = make(network(), COUNTS)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    served, predicted = loaded.serve(tf.constant(X)), model.predict(X, verbose=0)
    assert served.keys() == predicted.keys() == COUNTS.keys()
    for name in COUNTS:
        np.testing.assert_array_equal(served[name], predicted[name])
    if make is kla.adjust:
        path = kla.serving.export(model, tmp_path / "model.keras")
        again = keras.models.load_model(path).predict(X, verbose=0)
        for name in COUNTS:
            np.testing.assert_array_equal(again[name], predicted[name])
        for output in ("auto", "softmax"):
            with pytest.raises(ValueError, match="several outputs|needs one output"):
                kla.serving.export(model, tmp_path / f"labels_{output}", to="savedmodel", output=output)
