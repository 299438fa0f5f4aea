"""float64 in is float64 out, to its last digits, where the backend has it: Keras rounds some results to float32."""

import pathlib
import re

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import as_float64
from keras import ops

import keras_logit_adjust as kla

if keras.backend.backend() == "jax":
    pytest.skip("JAX has no float64 unless a process asks for it", allow_module_level=True)

COUNTS = np.array([70, 20, 7, 3])
LOG_PRIOR = reference.log_prior(COUNTS)
RNG = np.random.default_rng(0)
LOGITS, COSTS = RNG.normal(0, 3, (5, 4)), RNG.integers(0, 9, (4, 3))
FEATURES, KERNEL = RNG.normal(size=(5, 6)), RNG.normal(size=(4, 6))
IDS = np.array([0, 3, 1, 0, 2])
ROWS = np.eye(4)[IDS]
SMOOTH = 0.8 * ROWS + 0.05
ADJUSTED = LOGITS + 0.7 * LOG_PRIOR
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def tensor(values):
    return ops.convert_to_tensor(values, dtype="float64")


def mean_over_rows(function, targets, scores, *more):
    return np.mean([function(t, s, *more)[0] for t, s in zip(targets, scores, strict=True)])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cosines():
    layer = kla.layers.CosineDense(4, scale=9.0, dtype="float64")
    layer.build((None, 6))
    layer.set_weights([KERNEL.T])
    return layer(tensor(FEATURES))


def adjusted_softmax():
    inputs = keras.Input((4,), dtype="float64")
    return kla.adjust(keras.Model(inputs, keras.layers.Softmax(dtype="float64")(inputs)), COUNTS, tau=0.7)(
        tensor(LOGITS)
    )


def loss(name, targets=IDS, **options):
    made = getattr(kla.losses, name)(COUNTS, **options)
    return made(targets, tensor(LOGITS))


OF_HEAD = (IDS, tensor(FEATURES), tensor(KERNEL), None, LOG_PRIOR)
ALL_RIVALS = kla.losses.RivalSampler(COUNTS, num_rivals=4, distribution="uniform")
RESULTS = {
    "a mean of the adjusted loss": (
        lambda: loss("LogitAdjustedCrossentropy", tau=0.7, label_smoothing=0.2),
        lambda: mean_over_rows(reference.crossentropy, SMOOTH, ADJUSTED),
    ),
    "a mean over independent labels": (
        lambda: loss("BinaryLogitAdjustedCrossentropy", ROWS, num_examples=100, tau=0.7),
        lambda: mean_over_rows(
            lambda t, s: (np.mean(reference.sigmoid_crossentropy(t, s)[0]), None),
            ROWS,
            LOGITS + 0.7 * reference.log_odds(COUNTS, 100),
        ),
    ),
    "the loss of many classes by chunks": (
        lambda: kla.losses.linear_logit_adjusted_crossentropy(*OF_HEAD, tau=0.7, class_axis=0, chunk_size=3),
        lambda: reference.over_rows(reference.crossentropy, ROWS, FEATURES @ KERNEL.T + 0.7 * LOG_PRIOR)[0],
    ),
    "the loss against all classes as rivals": (
        lambda: kla.losses.sampled_logit_adjusted_crossentropy(
            *OF_HEAD, tau=0.7, class_axis=0, rivals=ALL_RIVALS.draw(0, step=0)
        ),
        lambda: reference.over_rows(reference.crossentropy, ROWS, FEATURES @ KERNEL.T + 0.7 * LOG_PRIOR)[0],
    ),
    "cosines": (cosines, lambda: 9.0 * unit(FEATURES) @ unit(KERNEL).T),
    "costs": (
        lambda: kla.layers.MinimumRiskDecision(COSTS, dtype="float64")(tensor(LOGITS)),
        lambda: -reference.softmax(LOGITS) @ COSTS,
    ),
    "an adjusted softmax": (
        adjusted_softmax,
        lambda: reference.softmax(LOGITS - 0.7 * LOG_PRIOR),
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_have_all_digits(name):
    ours, expected = (make() for make in RESULTS[name])
    assert keras.backend.standardize_dtype(ours.dtype) == "float64"
    np.testing.assert_allclose(as_float64(ours), expected, **EXACT)


def test_ids_in_float64_are_read_beyond_what_float32_holds():
    log_prior = np.zeros(2**24 + 3, "float32")
    features, kernel = np.zeros((1, 1), "float32"), np.zeros((len(log_prior), 1), "float32")
    kernel[-2] = 1.0
    value = kla.losses.linear_logit_adjusted_crossentropy(
        np.array([2.0**24 + 1]), features + 1, kernel, None, log_prior, class_axis=0, chunk_size=2**23
    )
    np.testing.assert_allclose(as_float64(value), np.log(len(log_prior) + np.e - 1) - 1, rtol=1e-5)


def test_the_functions_of_keras_that_lose_digits_are_called_nowhere():
    lossy = re.compile(r"\bops\.(matmul|mean|var|norm|prod|cumsum|divide_no_nan|power)\(")
    paths = [path for path in pathlib.Path(kla.__file__).parent.rglob("*.py") if path.name != "_precision.py"]
    assert [(path.name, found) for path in paths for found in lossy.findall(path.read_text())] == []
