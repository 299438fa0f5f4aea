"""Models that Keras quantized, holds in half precision or gave low-rank parts, adjusted and folded (all backends)."""

import json
import pathlib

import keras
import ml_dtypes
import numpy as np
import pytest
from helpers.combinations import fast_first
from helpers.posthoc_models import adjusted_by_hand, numpy, randomize, reload, rows, sequential
from keras import layers
from reference import log_prior

import keras_logit_adjust as kla

# Keras's own, of the layers that it cannot quantize.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method:UserWarning")

COUNTS = [160_000, 400, 20, 1]  # the prior spans 12 nats
SHIFT = log_prior(COUNTS)
KINDS = {"logits": None, "softmax": "softmax"}
WAYS = {"adjust": kla.adjust, "fold": kla.fold_into_bias}
FAST = [("logits", "adjust"), ("softmax", "fold")]
INT4 = pytest.param("int4", marks=pytest.mark.slow)  # the same code of ours, and of Keras's another
INTEGERS = ("int8", INT4)


def made(kind="logits", dtype=None):
    """A model whose weights are the same at every call."""
    model = sequential(
        layers.Dense(16, "relu", dtype=dtype, name="body"), layers.Dense(4, KINDS[kind], dtype=dtype, name="head")
    )
    randomize(model, np.random.default_rng(0))
    return model


def quantized(kind, mode):
    model = made(kind)
    model.quantize(mode)
    return model


def low_rank(model, alpha=None):
    """`model` with low-rank parts that change what it gives."""
    rng = np.random.default_rng(1)
    for layer in model.layers[-2:]:
        layer.enable_lora(2, lora_alpha=alpha)
        for part in (layer.lora_kernel_a, layer.lora_kernel_b):
            part.assign(rng.normal(scale=0.5, size=part.shape))
    return model


@pytest.fixture
def data(rng):
    return rows(rng, 9, 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [*INTEGERS, "float8"])
def test_a_quantized_model_is_adjusted_as_by_hand_and_not_folded(mode, kind, data, tmp_path):
    model = quantized(kind, mode)
    expected = adjusted_by_hand(model(data), kind, SHIFT)
    adjusted = kla.adjust(model, COUNTS)
    found = numpy(adjusted(data))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(numpy(reload(adjusted, tmp_path)(data)), found)
    with pytest.raises(ValueError, match="'head' is quantized. Do this before quantizing. Use `kla.adjust`"):
        kla.fold_into_bias(model, COUNTS)


@fast_first(("mode", "kind", "way"), [("int8", *way) for way in FAST], ("int8", "int4"), KINDS, WAYS)
def test_an_adjusted_model_is_quantized_as_its_original_would_be(mode, kind, way, data):
    adjusted = WAYS[way](made(kind), COUNTS)
    adjusted.quantize(mode)
    assert mode in {layer.quantization_mode for layer in adjusted.layers if isinstance(layer, layers.Dense)}
    expected = adjusted_by_hand(quantized(kind, mode)(data), kind, SHIFT)
    np.testing.assert_allclose(numpy(adjusted(data)), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", INTEGERS)
def test_a_prior_aware_head_stays_in_float_and_its_dense_is_quantized(mode, data):
    head = kla.layers.PriorAwareDense(4, COUNTS, name="head")
    model = sequential(layers.Dense(16, "relu", name="body"), head)
    randomize(model, np.random.default_rng(0))
    head.set(class_counts=COUNTS)  # what was drawn for the adjustment goes
    dense = sequential(model.layers[0], head.to_dense())
    model.quantize(mode)
    assert (model.layers[0].quantization_mode, head.quantization_mode) == (mode, None)
    before = numpy(dense(data))  # of the same body
    np.testing.assert_allclose(numpy(model(data)), before, rtol=1e-5, atol=1e-5)
    dense.layers[-1].quantize(mode)
    error = np.abs(numpy(dense(data)) - before).max()
    assert 0 < error < (0.2 if mode == "int8" else 3)


def test_float8_rounds_a_folded_prior_and_no_layer(data):
    """Keras adds the bias of a float8 layer in bfloat16."""
    plain, model = numpy(quantized("logits", "float8")(data)), made()
    bias = numpy(model.layers[-1].bias)
    adjusted = kla.adjust(made(), COUNTS)
    folded = kla.fold_into_bias(model, COUNTS)
    for each in (adjusted, folded):
        each.quantize("float8")
    np.testing.assert_allclose(numpy(adjusted(data)), plain - SHIFT, rtol=1e-5)
    rounded, before = ((bias - shift).astype(ml_dtypes.bfloat16).astype(float) for shift in (SHIFT, 0 * SHIFT))
    np.testing.assert_allclose(numpy(folded(data)), plain - before + rounded, rtol=1e-5)
    assert np.abs(rounded - before + SHIFT).max() > 0.005


def test_a_copy_from_a_file_is_quantized_and_the_original_not(data, tmp_path):
    model = made()
    before = numpy(model(data))
    copy = reload(kla.adjust(model, COUNTS), tmp_path)
    copy.quantize("int8")
    np.testing.assert_array_equal(numpy(model(data)), before)
    np.testing.assert_allclose(numpy(copy(data)), numpy(quantized("logits", "int8")(data)) - SHIFT, rtol=1e-5)


@fast_first(("alpha", "kind", "way"), [(5, *way) for way in FAST], (5, None), KINDS, WAYS)
def test_low_rank_parts_count_before_and_after_they_are_merged(alpha, kind, way, data, tmp_path):
    model = low_rank(made(kind), alpha)
    assert np.abs(numpy(model(data)) - numpy(made(kind)(data))).max() > 0.05
    expected = adjusted_by_hand(model(data), kind, SHIFT)
    adjusted = WAYS[way](model, COUNTS)
    np.testing.assert_allclose(numpy(adjusted(data)), expected, rtol=2e-5, atol=2e-5)
    merged = reload(model, tmp_path)  # Keras merges them where it saves
    assert not numpy(merged.layers[-1].lora_kernel_b).any()
    for each in (WAYS[way](merged, COUNTS), reload(adjusted, tmp_path)):
        np.testing.assert_allclose(numpy(each(data)), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", INTEGERS)
def test_low_rank_parts_of_a_quantized_model_count_too(mode, data):
    model = low_rank(quantized("logits", mode), 5)
    np.testing.assert_allclose(numpy(kla.adjust(model, COUNTS)(data)), numpy(model(data)) - SHIFT, rtol=1e-5)
    with pytest.raises(ValueError, match="'head' is quantized. Do this before quantizing. Use `kla.adjust`"):
        kla.fold_into_bias(model, COUNTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "policy", ["float16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixed_float16", "bfloat16"))]
)
def test_a_half_precision_head_meets_the_prior_in_float32_only(policy, kind, data):
    model = made(kind, dtype=policy)
    logits = sequential(layers.Dense(16, "relu", dtype=policy), layers.Dense(4, dtype=policy))
    logits.set_weights(model.get_weights())
    shifted = numpy(logits(data)) - SHIFT
    expected = shifted if kind == "logits" else np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    found = kla.adjust(model, COUNTS)(data)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(numpy(found), expected, rtol=1e-5)
    with pytest.raises(ValueError, match='Build the head with dtype="float32". Use `kla.adjust`'):
        kla.fold_into_bias(model, COUNTS)


def test_what_the_page_on_serving_says_of_int8_is_on_file():
    root = pathlib.Path(__file__).parents[1]
    page = " ".join((root / "docs" / "guide" / "serving.md").read_text().split())
    data = json.loads((root / "benchmarks" / "results" / "served_precision.json").read_text())["data"]
    lost = {
        (name, precision, way): round(round(cell["balanced_error"], 1) - round(found["exact"], 1), 1)
        for name, found in data.items()
        for precision, cells in found["formats"].items()
        for way, cell in cells.items()
    }
    after = lost.pop(("normal_12_nats", "int8_softmax", "after"))
    int8 = max(points for (_, precision, _), points in lost.items() if precision.startswith("int8"))
    assert f"cost at most {int8} points" in page
    assert f"adjusted after, {after} points are lost" in page
    assert all(points == 0 for (_, precision, _), points in lost.items() if not precision.startswith("int8"))
