"""Heads of real models: adjusted, folded, saved and loaded, against softmax(log p − τ·log π) in float64."""

import inspect

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import randomize, reload
from helpers.zoo import FAMILIES, SHAPES, family
from reference import log_odds, log_prior, sigmoid, softmax

import keras_logit_adjust as kla

COUNTS, EXAMPLES, TAU = [90, 9, 1], 100, 1.5


def options_of(kind):
    return {"tau": TAU, **({"num_examples": EXAMPLES} if kind == "sigmoid" else {})}


def expected_of(outputs, kind, axis, counts=COUNTS):
    """softmax(log p − τ·log π), or f − τ·log π, with the classes in `axis`."""
    outputs = np.moveaxis(as_float64(outputs), axis, -1)
    if kind == "logits":
        adjusted = outputs - TAU * log_prior(counts)
    elif kind == "softmax":
        adjusted = softmax(np.log(outputs) - TAU * log_prior(counts))
    else:
        adjusted = sigmoid(np.log(outputs) - np.log(1 - outputs) - TAU * log_odds(counts, EXAMPLES))
    return np.moveaxis(adjusted, -1, axis)


def make(name, rng):
    create, kind, axis, folds = SHAPES[name]
    model = create()
    if not name.startswith("int8"):
        randomize(model, rng)
    data = rng.normal(size=(3, *model.input.shape[1:])).astype("float32")
    return model, kind, axis, folds, data


@pytest.mark.parametrize("name", SHAPES)
def test_a_head_of_any_shape_is_adjusted_saved_and_loaded(name, rng, tmp_path):
    model, kind, axis, _, data = make(name, rng)
    adjusted = kla.adjust(model, COUNTS, **options_of(kind))
    result = adjusted(data)
    np.testing.assert_allclose(as_float64(result), expected_of(model(data), kind, axis), rtol=2e-5, atol=2e-6)
    assert adjusted.output_shape == model.output_shape
    loaded = reload(adjusted, tmp_path)
    np.testing.assert_array_equal(as_float64(loaded(data)), as_float64(result))


@pytest.mark.parametrize("name", SHAPES)
def test_a_head_folds_through_what_leaves_a_constant_shift_constant(name, rng, tmp_path):
    model, kind, axis, folds, data = make(name, rng)
    if isinstance(folds, str):
        with pytest.raises(ValueError, match=f"{folds}.*kla.adjust"):
            kla.fold_into_bias(model, COUNTS, **options_of(kind))
        return
    folded = kla.fold_into_bias(model, COUNTS, **options_of(kind))
    if folds:
        expected = expected_of(model(data), kind, axis)
        np.testing.assert_allclose(as_float64(folded(data)), expected, rtol=2e-5, atol=2e-6)
    assert [layer.name for layer in folded._flatten_layers()] == [layer.name for layer in model._flatten_layers()]
    loaded = reload(folded, tmp_path)
    np.testing.assert_array_equal(as_float64(loaded(data)), as_float64(folded(data)))


def test_every_family_of_the_applications_is_in_the_zoo():
    modules = {name for name, part in vars(keras.applications).items() if inspect.ismodule(part)}
    ours = {getattr(keras.applications, name).__module__.split(".")[-1] for name in FAMILIES}
    assert ours == modules - {"imagenet_utils", "resnet50"}  # helpers, and resnet once more


@pytest.mark.slow  # each takes more than 2 s to make
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_the_applications_is_adjusted_folded_and_saved(name, rng, tmp_path):
    # Once each, where it is fastest: what a head is does not depend on the backend, as the shapes above show.
    backend = "tensorflow" if name == "NASNetMobile" else "torch"  # Keras has no NASNet on torch
    if keras.backend.backend() != backend:
        pytest.skip(f"{name} is tried on {backend}")
    model = family(name, "softmax")
    data = rng.uniform(-1, 1, size=(2, *model.input_shape[1:])).astype("float32")
    expected = expected_of(model(data, training=False), "softmax", -1)
    for make in (kla.adjust, kla.fold_into_bias):
        made = make(model, COUNTS, tau=TAU)
        result = as_float64(made(data, training=False))
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(as_float64(reload(made, tmp_path)(data, training=False)), result)
