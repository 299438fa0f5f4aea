"""`DeferredReweighting`: whole trajectories by hand."""

import re

import keras
import numpy as np
import pytest
import reference
from helpers.reweighted_runs import (
    COUNTS,
    EARLY,
    IDS,
    LABELS,
    LATE,
    LOSSES,
    ONE_HOT,
    ONES,
    STAGES,
    WEIGHTS,
    Interrupt,
    adjusted_by_hand,
    bias_only,
    consistent_by_hand,
    fit,
    mean,
    trajectory,
    zeros,
)

import keras_logit_adjust as kla

BACKEND = keras.backend.backend()
GRAPH = {"jit_compile": BACKEND == "jax"}  # compiled, but TensorFlow's not by XLA: the stages compile many times


def labels_by_hand(targets, bias, weights):
    """The mean over labels of `w_l` times each label's cost, with π of 20, 50 and 90 % at τ = ½."""
    scores = bias + 0.5 * np.log([20 / 80, 50 / 50, 90 / 10])
    costs = [reference.sigmoid_crossentropy([t], [g]) for t, g in zip(targets, scores, strict=True)]
    gradient = np.array([gradient[0] for _, gradient in costs])
    return np.dot(weights, [value for value, _ in costs]) / 3, weights * gradient / 3


def warned_fit(*args, **options):
    with pytest.warns(UserWarning, match="An adjusted loss needs no weights"):
        return fit(*args, **options)


def check_run(loss, labels, targets, by_hand):
    """Fit over STAGES: biases, losses, validation losses and what is left afterwards, all by hand."""
    model = bias_only(loss)
    biases, history = fit(model, labels, STAGES, validation_data=(zeros(len(labels)), labels))
    expected = trajectory(by_hand, [targets], WEIGHTS)
    before = [np.zeros(3), *expected[:-1]]
    losses = [mean(by_hand, targets, *state)[0] for state in zip(before, WEIGHTS, strict=True)]
    val_losses = [mean(by_hand, targets, *state)[0] for state in zip(expected, WEIGHTS, strict=True)]
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], val_losses, rtol=1e-5)
    assert loss.stage_weight is None
    after = model.evaluate(zeros(len(labels)), labels, batch_size=len(labels), verbose=0)
    np.testing.assert_allclose(after, mean(by_hand, targets, expected[-1], ONES)[0], rtol=1e-5)


RUNS = [("adjusted", "soft", 0.3), ("pairwise", "ids", 0.0), ("weighted focal", "ids", 0.3)]
SLOW_RUNS = [
    ("adjusted", "ids", 0.0),
    ("adjusted", "one-hot", 0.0),
    ("adjusted", "ids", 0.3),
    ("focal", "soft", 0.0),
]


@pytest.mark.parametrize(
    ("name", "labels", "smoothing"), [*RUNS, *(pytest.param(*run, marks=pytest.mark.slow) for run in SLOW_RUNS)]
)
def test_weights_hold_from_their_epoch_to_the_next_and_the_last_ones_stay(name, labels, smoothing):
    (make, by_hand), (labels, targets) = LOSSES[name], LABELS[labels]
    check_run(make(label_smoothing=smoothing), labels, (1 - smoothing) * targets + smoothing / 3, by_hand)


def test_the_weights_of_independent_labels_weigh_each_label():
    targets = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
    loss = kla.losses.BinaryLogitAdjustedCrossentropy([20, 50, 90], 100, tau=0.5)
    check_run(loss, targets, targets, labels_by_hand)


COMPILED = {
    "tensorflow": [
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),  # XLA compiles each stage
        {"run_eagerly": True},
        pytest.param({"jit_compile": False, "steps_per_execution": 2}, marks=pytest.mark.slow),
    ],
    "jax": [{"run_eagerly": True}, {"jit_compile": True, "steps_per_execution": 2}],
    "torch": [{"run_eagerly": True}],
}[BACKEND]


@pytest.mark.parametrize("options", [GRAPH, *COMPILED], ids=str)
def test_a_step_has_the_weights_of_its_epoch_however_it_is_compiled(options):
    make, by_hand = LOSSES["adjusted"]
    biases, _ = fit(bias_only(make(), **options), IDS, STAGES, epochs=5, batch_size=3)
    expected = trajectory(by_hand, [ONE_HOT[:3], ONE_HOT[3:]], WEIGHTS[:5])
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)


def test_training_that_stops_early_leaves_the_loss_as_it_was():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    make, by_hand = LOSSES["adjusted"]
    model = bias_only(make())
    biases, _ = fit(model, IDS, STAGES, callbacks=[Stop()])
    np.testing.assert_allclose(biases, trajectory(by_hand, [ONE_HOT], WEIGHTS[:3]), rtol=1e-5, atol=1e-6)
    assert model.loss.stage_weight is None
    after = mean(by_hand, ONE_HOT, biases[-1], ONES)[0]
    np.testing.assert_allclose(model.evaluate(zeros(), IDS, verbose=0), after, rtol=1e-5)


@pytest.mark.parametrize(
    ("tau", "by_hand", "weights", "run"),
    [
        (0.5, adjusted_by_hand, EARLY, fit),
        (1.0, consistent_by_hand, EARLY, warned_fit),
        (1.0, consistent_by_hand, 2 * ONES, fit),
    ],
    ids=["not consistent", "consistent", "consistent, weights all equal"],
)
def test_an_interrupted_model_that_is_trained_anew_begins_without_weights(tau, by_hand, weights, run):
    model = bias_only(kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=tau))
    with pytest.raises(RuntimeError, match="power cut"):
        run(model, IDS, {1: weights}, callbacks=[Interrupt(2)])
    model.layers[-1].bias.assign(np.zeros(3))
    biases, _ = run(model, IDS, {1: weights}, epochs=3)
    np.testing.assert_allclose(biases, trajectory(by_hand, [ONE_HOT], [ONES, weights, weights]), rtol=1e-5, atol=1e-6)


def test_weights_that_undo_consistency_warn_with_the_reason_and_hold():
    # The weighed loss overrates class b against a by w_b/w_a: by 5 for (0, 2), less for other pairs.
    reason = "Classes 0 and 2 fail Lemma 2: the minimizer prefers class 2 until P(x|0) is 5 times P(x|2)."
    message = f"'mine' is Fisher consistent.*with the weights of `Def.*{re.escape(reason)} An adjusted loss needs no"
    model = bias_only(kla.losses.LogitAdjustedCrossentropy(COUNTS, name="mine"))
    with pytest.warns(UserWarning, match=message):
        biases, _ = fit(model, IDS, {1: EARLY}, epochs=2)
    expected = trajectory(consistent_by_hand, [ONE_HOT], [ONES, EARLY])
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (kla.losses.LogitAdjustedCrossentropy(COUNTS), 2 * ONES),
        (kla.losses.LogitAdjustedCrossentropy(COUNTS), None),
        (kla.losses.AdaptiveMarginCrossentropy(COUNTS), EARLY),
        (kla.losses.FocalCrossentropy(), EARLY),
    ],
    ids=["all equal", "none", "adaptive", "focal"],
)
def test_weights_that_undo_nothing_do_not_warn(loss, weights):
    callback = kla.callbacks.DeferredReweighting({1: weights})
    callback.set_model(bias_only(loss))
    callback.on_train_begin()


def test_an_epoch_has_the_weights_of_the_last_stage_that_began():
    callback = kla.callbacks.DeferredReweighting({np.int64(4): LATE, 1: EARLY, 3: None})
    found = [callback.weights_at(epoch) for epoch in (*range(6), 10**6)]
    for weights, expected in zip(found, WEIGHTS, strict=True):
        np.testing.assert_array_equal(ONES if weights is None else weights, expected)
