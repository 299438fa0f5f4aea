"""Sums by class: a float32 counts by ones to 2²⁴ and no further, so a large update is summed in parts."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from keras import ops

import keras_logit_adjust as kla
from keras_logit_adjust import _labels
from keras_logit_adjust._labels import masks

COUNTS = [2**24 + 1000, 3, 0, 24]


def test_an_update_of_more_positions_than_2_to_the_24_is_counted():
    ids = np.repeat(np.arange(4, dtype="uint8"), COUNTS)
    sums = _labels.sum_by_class(np.ones(ids.size, "float32"), ops.convert_to_tensor(ids), 4)
    np.testing.assert_allclose(as_float64(sums), COUNTS, rtol=1e-7)


@pytest.mark.parametrize("part", [1, 3, 7, 12, 100])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (0,)])
def test_parts_add_up_to_the_sums_of_all(rng, monkeypatch, part, shape):
    monkeypatch.setattr(masks, "_PART", part)
    ids, values = rng.integers(0, 5, shape), rng.normal(size=shape).astype("float32")
    expected = np.bincount(ids.ravel(), values.ravel(), minlength=5)
    np.testing.assert_allclose(as_float64(_labels.sum_by_class(values, ids, 5)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_parts_are_taken_in_a_step_whose_batch_has_any_size(rng, monkeypatch, compiled):
    if "jit_compile" in compiled and keras.backend.backend() == "torch":
        pytest.skip("torch compiles through a C++ compiler, for minutes")
    monkeypatch.setattr(masks, "_PART", 4)
    ids, scores = rng.integers(0, 3, 21), rng.normal(size=(21, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    metric = kla.metrics.BalancedAccuracy(3, name="balanced")
    model.compile(loss=kla.losses.LogitAdjustedCrossentropy([2, 1, 1]), metrics=[metric], **compiled)
    seen = model.evaluate(scores, ids, batch_size=8, verbose=0, return_dict=True)
    right = scores.argmax(axis=1) == ids
    expected = np.bincount(ids, right, minlength=3) / np.bincount(ids, minlength=3)
    np.testing.assert_allclose(seen["balanced"], expected.mean(), rtol=1e-6)


def test_more_rows_than_2_to_the_24_are_counted():
    rows = ops.ones((2**24 + 1000, 1), "float32")
    np.testing.assert_allclose(as_float64(_labels.sum_rows(rows)), [2**24 + 1000], rtol=1e-7)


@pytest.mark.parametrize("part", [1, 3, 7, 12, 100])
def test_sums_of_rows_in_parts_are_the_sums_at_once(rng, monkeypatch, part):
    monkeypatch.setattr(masks, "_PART", part)
    values = rng.normal(size=(21, 4)).astype("float32")
    np.testing.assert_allclose(as_float64(_labels.sum_rows(ops.convert_to_tensor(values))), values.sum(0), rtol=1e-5)


def test_an_update_of_more_rows_than_2_to_the_24_is_counted():
    rows = np.zeros((2**24 + 1000, 2), "float32")
    rows[:, 0], rows[:24] = 1, [0, 1]
    streaming = kla.priors.StreamingPrior(2)
    streaming.update(rows)
    np.testing.assert_allclose(streaming.class_counts, [2**24 + 976, 24], rtol=1e-7)
