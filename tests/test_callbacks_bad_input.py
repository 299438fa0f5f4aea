"""`DeferredReweighting`: stages and losses that it refuses."""

import keras
import numpy as np
import pytest
from helpers.reweighted_runs import ALPHA, COUNTS, EARLY, IDS, ONE_HOT, STAGES, bias_only, fit

import keras_logit_adjust as kla


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, r"`stages` must map epochs to class weights, \{160: weights\}. Received: \{\}"),
        (None, r"`stages` must map epochs to class weights, \{160: weights\}. Received: None"),
        ([(1, EARLY)], r"`stages` must map epochs to class weights, .* Received: \[\(1"),
        ({-1: EARLY}, "`epoch` must be an integer of at least 0. Received: epoch=-1"),
        ({1.5: EARLY}, r"`epoch` must be an integer of at least 0. Received: epoch=1\.5"),
        ({True: EARLY}, "`epoch` must be an integer of at least 0. Received: epoch=True"),
        ({0: EARLY, "1": EARLY}, "`epoch` must be an integer of at least 0. Received: epoch='1'"),
        ({1: [1, 0, 2]}, r"`weights` must be greater than zero. Received \[0\.0\] at class 1"),
        ({1: EARLY, 2: [-1, 1, -2]}, r"`weights` must be greater than zero. Received \[-1\.0, -2\.0\] at classes 0, 2"),
        ({1: [1, 1, np.nan]}, r"`weights` must be finite. Received \[nan\] at class 2"),
        ({1: [1, np.inf, 1]}, r"`weights` must be finite. Received \[inf\] at class 1"),
        ({1: []}, r"`weights` must be a non-empty vector.*shape \(0,\)"),
        ({1: 2.0}, r"`weights` must be a non-empty vector.*shape \(\)"),
        ({1: "many"}, "`weights` must be a list or vector of numbers.*weights='many'"),
    ],
)
def test_stages_that_are_no_weights_of_epochs_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        kla.callbacks.DeferredReweighting(stages)


@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.LogitAdjustedCrossentropy(COUNTS, name="mine"),
        kla.losses.AdaptiveMarginCrossentropy(COUNTS, name="mine"),
        kla.losses.FocalCrossentropy(class_weight=ALPHA, name="mine"),
        kla.losses.BinaryLogitAdjustedCrossentropy([20, 50, 90], 100, name="mine"),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("weights", [[1.0, 2.0], [2.0]], ids=len)
def test_weights_of_other_classes_than_the_loss_s_are_refused(weights, loss):
    with pytest.raises(ValueError, match=f"loss 'mine' has 3 classes, `weights` has {len(weights)}"):
        fit(bias_only(loss), ONE_HOT, {5: weights})


@pytest.mark.parametrize("weights", [[1.0, 2.0], [2.0], [1.0, 2.0, 3.0, 4.0]], ids=len)
def test_weights_of_other_classes_than_the_logits_are_refused(weights):
    with pytest.raises(ValueError, match=r"one (number|column) for each class"):
        fit(bias_only(kla.losses.FocalCrossentropy()), IDS, {0: weights}, epochs=1)


@pytest.mark.parametrize("loss", ["mse", keras.losses.CategoricalCrossentropy(from_logits=True), ["mse"]])
def test_a_model_of_keras_s_own_losses_is_told_of_class_weight(loss):
    with pytest.raises(
        ValueError, match=r"weighs the losses of `kla.losses`; model '.*' .*use `fit\(class_weight=…\)`"
    ):
        fit(bias_only(loss), ONE_HOT, STAGES)
