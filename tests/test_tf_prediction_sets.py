"""Prediction sets as they are exported: every format gives the sets of the arrays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_logit_adjust as kla

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning")
COUNTS = [70, 20, 10]


@pytest.fixture(scope="module")
def made():
    """A model that gives sets, its inputs, and which classes are in their sets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4)).astype("float32")
    inputs = keras.Input((4,))
    logits = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=0))(inputs)
    given = keras.Model(inputs, logits).predict(x, verbose=0)
    sets = kla.held_out.PredictionSets(given, rng.choice(3, 100, p=np.array(COUNTS) / 100), COUNTS, alpha=0.5)
    return keras.Model(inputs, sets.layer()(logits)), x, sets.sets(given)


def test_a_saved_model_gives_the_sets(made, tmp_path):
    model, x, expected = made
    model.export(tmp_path / "sets", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "sets"))
    np.testing.assert_array_equal(loaded.serve(x).numpy(), expected)
    assert 0.1 < expected.mean() < 0.9


def test_a_tflite_model_gives_the_sets(made, tmp_path):
    model, x, expected = made
    kla.serving.export(model, tmp_path / "sets.tflite")
    runner = tf.lite.Interpreter(str(tmp_path / "sets.tflite")).get_signature_runner()
    (name,) = runner.get_input_details()
    (found,) = runner(**{name: x}).values()
    np.testing.assert_array_equal(found, expected)


def test_an_onnx_model_gives_the_sets(made, tmp_path):
    model, x, expected = made
    kla.serving.export(model, tmp_path / "sets.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "sets.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_array_equal(found, expected)
