"""Percentages are no logits, for every function that chooses on held-out logits."""

import numpy as np
import pytest
from reference import softmax

import keras_logit_adjust as kla

COUNTS = [900, 90, 10]
Y = np.repeat([0, 1, 2], [30, 20, 10])
LOGITS = 2 * np.random.default_rng(0).normal(size=(60, 3)) + 3 * np.eye(3)[Y] + np.log(COUNTS)
TAKERS = {
    "TauPath": lambda z: kla.TauPath(Y, z, COUNTS),
    "batches": lambda z: kla.TauPath.from_batches([(Y[:30], z[:30]), (Y[30:], z[30:])], COUNTS),
    "tune_tau": lambda z: kla.tune_tau(z, Y, COUNTS),
    "tune_offsets": lambda z: kla.tune_offsets(z, Y, COUNTS),
    "calibrate": lambda z: kla.calibrate(z, Y),
    "target prior": lambda z: kla.estimate_target_prior(z, COUNTS),
    "bbse": lambda z: kla.estimate_target_prior(LOGITS, COUNTS, method="bbse", validation=(z, Y)),
    "source prior": lambda z: kla.held_out.estimate_source_prior(z, Y),
    "sets": lambda z: kla.held_out.PredictionSets(z, Y, COUNTS),
    "later sets": lambda z: kla.held_out.PredictionSets(LOGITS, Y, COUNTS).sets(z),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("taker", TAKERS)
def test_percentages_are_refused_as_logits(taker, dtype):
    percentages = (100 * softmax(LOGITS)).astype(dtype)
    with pytest.raises(ValueError, match=r"must be logits. Received percentages.*sums to 100.*np\.log\(percentages"):
        TAKERS[taker](percentages)


def test_logits_that_resemble_percentages_are_taken():
    assert kla.TauPath([0], [[60.0, 40.0]], [1, 1]).at(1.0) == 1.0  # one row, by chance
    assert kla.TauPath([0, 1], [[60.0, 40.0], [30.0, 70.5]], [1, 1]).at(1.0) == 1.0
    assert kla.TauPath([0, 1], [[101.0, -1.0], [30.0, 70.0]], [1, 1]).at(1.0) == 1.0
    labels = kla.TauPath([[1, 1], [1, 1]], [[60.0, 40.0], [30.0, 70.0]], [5, 5], num_examples=9)
    assert labels.at(1.0) == 1.0


def test_percentages_are_no_probabilities_and_are_to_be_divided():
    with pytest.raises(ValueError, match="divide percentages by 100"):
        kla.held_out.calibration_error(100 * softmax(LOGITS), Y)
