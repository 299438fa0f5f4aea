"""TFLite files of low precision, adjusted by a layer, folded, or by their scores (TensorFlow only)."""

import functools
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from reference import log_prior, softmax

import keras_logit_adjust as kla

tf = pytest.importorskip("tensorflow")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the backend that writes TFLite"),
    # TensorFlow's own, of its successor and of representative rows; and Keras's, of layers that it cannot quantize.
    pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method:UserWarning"),
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning"),
]

WIDTH, CLASSES = 64, 16  # TFLite leaves kernels of fewer than 1,024 weights as they are
COUNTS = np.exp(np.linspace(12, 0, CLASSES))
SHIFT = log_prior(COUNTS)
# What a number of the size of the prior is rounded to, where it is a constant of the file.
ROUNDING = {"float16": 12 * 2.0**-11, "int8_weights": 1e-5}
FORMATS = [
    pytest.param("float16", marks=pytest.mark.slow),
    "int8_weights",
    "int8",
    pytest.param("int16", marks=pytest.mark.slow),
]


@functools.cache
def benchmark():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "served_precision.py"
    spec = importlib.util.spec_from_file_location("served_precision", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def problem():
    """Rows, a kernel and a bias whose logits say at most rows that a frequent class is the best."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, WIDTH)).astype("float32")
    return x, rng.normal(scale=0.4, size=(WIDTH, CLASSES)).astype("float32"), SHIFT.astype("float32")


@functools.cache
def served(precision, way):
    """The scores of a file in float64, and the step of its output; the representative rows are those asked for."""
    x, kernel, bias = problem()
    head = keras.layers.Dense(CLASSES, "softmax" if precision.endswith("softmax") else None)
    model = keras.Sequential([keras.Input((WIDTH,)), head])
    head.set_weights([kernel, bias])
    adjust = {"layer": kla.adjust, "folded": kla.fold_into_bias}.get(way, lambda model, _: model)
    found, step = benchmark().scores_of(adjust(model, COUNTS), precision, x, x)
    return np.asarray(found, "float64"), step


def exact():
    x, kernel, bias = (part.astype("float64") for part in problem())
    return x @ kernel + bias


@pytest.mark.parametrize("way", ["layer", "folded"])
@pytest.mark.parametrize("precision", FORMATS)
def test_the_prior_adds_no_more_than_roundings_to_the_error_of_a_file(precision, way):
    plain, _ = served(precision, "plain")
    found, step = served(precision, way)
    own = np.abs(plain - exact()).max()
    assert own < 0.5
    assert np.abs(found - (exact() - SHIFT)).max() <= own + 2 * step + 2 * ROUNDING.get(precision, 0)


@pytest.mark.parametrize("precision", FORMATS)
def test_the_scores_of_a_file_are_adjusted_with_no_error_of_their_own(precision):
    plain, _ = served(precision, "plain")
    found = kla.adjust_scores(plain, COUNTS, kind="logits")
    np.testing.assert_allclose(found - (exact() - SHIFT), plain - exact(), atol=1e-12)


def test_an_int8_file_has_at_most_256_steps_over_the_range_of_its_logits():
    found, step = served("int8", "folded")
    assert np.unique(found).size <= 256
    assert step == pytest.approx(np.ptp(exact() - SHIFT) / 255, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["layer", "folded"])
def test_a_softmax_in_an_int8_file_is_right_where_the_prior_came_before(way):
    found, step = served("int8_softmax", way)
    assert step == 1 / 256
    logits, _ = served("int8", way)
    error = np.abs(logits - (exact() - SHIFT)).max()
    right = np.apply_along_axis(softmax, 1, exact() - SHIFT)
    assert np.abs(found - right).max() <= 1 / 256 + error / 2  # a softmax moves by at most half of what its logits do


def test_a_softmax_in_an_int8_file_has_lost_the_tail_before_it_is_adjusted():
    found, step = served("int8_softmax", "plain")
    assert step == 1 / 256
    posterior, best = np.apply_along_axis(softmax, 1, exact()), (exact() - SHIFT).argmax(axis=1)
    is_lost = posterior[np.arange(best.size), best] < 1 / 1024
    assert is_lost.mean() > 0.1
    adjusted = kla.adjust_scores(found / found.sum(axis=1, keepdims=True), COUNTS)
    assert (adjusted[is_lost, best[is_lost]] == 0).all()


def test_a_model_that_keras_quantized_is_served_by_a_savedmodel(tmp_path):
    x, kernel, bias = problem()
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(CLASSES)])
    model.set_weights([kernel, bias])
    model.quantize("int8")
    adjusted, expected = kla.adjust(model, COUNTS), keras.ops.convert_to_numpy(model(x)) - SHIFT
    with pytest.raises(ValueError, match="Keras quantized: let the converter quantize .* write .keras or a SavedModel"):
        kla.serving.export(adjusted, tmp_path / "a.tflite")
    serve = tf.saved_model.load(str(kla.serving.export(adjusted, tmp_path / "a"))).signatures["raw"]
    (found,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
