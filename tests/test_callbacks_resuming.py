"""`DeferredReweighting`: the same runs with the weights built into the loss, and runs that resume."""

import keras
import numpy as np
import pytest
from helpers.reweighted_runs import (
    COUNTS,
    EAGER,
    IDS,
    LATE,
    LOG_PRIOR,
    LOSSES,
    ONE_HOT,
    ONES,
    STAGES,
    Interrupt,
    bias_only,
    fit,
    mean,
    zeros,
)

import keras_logit_adjust as kla

BUILT_IN = {
    "adjusted": (
        lambda: kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5),
        lambda: kla.losses.PairwiseMarginCrossentropy(
            COUNTS, class_weight=LATE, label_margin=-0.5 * LOG_PRIOR, rival_margin=0.5 * LOG_PRIOR
        ),
    ),
    "adaptive": (
        lambda: kla.losses.AdaptiveMarginCrossentropy(COUNTS, max_margin=2.0),
        lambda: kla.losses.PairwiseMarginCrossentropy(
            COUNTS, class_weight=LATE, label_margin=2.0 * (1 / np.array(COUNTS)) ** 0.25
        ),
    ),
    "focal": (
        lambda: kla.losses.FocalCrossentropy(gamma=1.5),
        lambda: kla.losses.FocalCrossentropy(gamma=1.5, class_weight=LATE),
    ),
    "Keras's own": 2 * (lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),),
}


def network(loss, outputs=1):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh")(inputs)
    heads = [keras.layers.Dense(3, name=f"head_{i}")(hidden) for i in range(outputs)]
    model = keras.Model(inputs, heads if outputs > 1 else heads[0])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **EAGER)
    return model


def data(rng):
    return rng.normal(size=(24, 4)).astype("float32"), rng.integers(0, 3, 24)


def train(model, x, y, stages, callbacks=(), **options):
    callbacks = [*callbacks] if stages is None else [kla.callbacks.DeferredReweighting(stages), *callbacks]
    options = {"epochs": 6, "batch_size": 12, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, callbacks=callbacks, **options).history


def check_equal_weights(model, other):
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adaptive", pytest.param("adjusted", marks=pytest.mark.slow)])
def test_weights_from_the_first_epoch_on_equal_weights_built_into_the_loss(name, rng):
    x, y = data(rng)
    staged, weighted = (network(make()) for make in BUILT_IN[name])
    weighted.set_weights(staged.get_weights())
    options = {"epochs": 2, "validation_data": (x[:5], y[:5])}
    history = train(staged, x, y, {0: LATE}, **options)
    expected = train(weighted, x, y, None, **options)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-5)
    check_equal_weights(staged, weighted)


def named(parts):
    return {f"head_{i}": part for i, part in enumerate(parts)}


@pytest.mark.parametrize(
    ("pack", "names"), [(list, ("adjusted", "focal")), (named, ("Keras's own", "adaptive"))], ids=["list", "dict"]
)
def test_every_loss_of_several_outputs_is_weighed_but_keras_s_own(pack, names, rng):
    x, y = data(rng)
    staged, weighted = (network(pack(BUILT_IN[name][i]() for name in names), outputs=2) for i in range(2))
    weighted.set_weights(staged.get_weights())
    train(staged, x, pack([y, y[::-1]]), {0: LATE}, epochs=2)
    train(weighted, x, pack([y, y[::-1]]), None, epochs=2)
    check_equal_weights(staged, weighted)


@pytest.fixture(scope="module")
def uninterrupted():
    """Data, the weights that a model begins with, and what it is after six epochs: for all that are interrupted."""
    (x, y), done = data(np.random.default_rng(0)), network(BUILT_IN["adaptive"][0]())
    start = done.get_weights()
    train(done, x, y, STAGES)
    return x, y, start, done


def begun(start):
    model = network(BUILT_IN["adaptive"][0]())
    model.set_weights(start)
    return model


@pytest.mark.parametrize("epoch", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_from_a_saved_model_ends_where_an_uninterrupted_one_does(epoch, uninterrupted, tmp_path):
    x, y, start, done = uninterrupted
    model = begun(start)
    train(model, x, y, STAGES, epochs=epoch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    train(loaded, x, y, STAGES, initial_epoch=epoch)
    check_equal_weights(loaded, done)


@pytest.mark.parametrize(("epoch", "fresh"), [(2, True), pytest.param(5, False, marks=pytest.mark.slow)])
def test_a_run_restored_from_its_backup_ends_as_an_uninterrupted_one(epoch, fresh, uninterrupted, tmp_path):
    x, y, start, done = uninterrupted
    model = begun(start)
    with pytest.raises(RuntimeError, match="power cut"):
        train(model, x, y, STAGES, [keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt(epoch)])
    resumed = network(BUILT_IN["adaptive"][0]()) if fresh else model
    epochs = []
    follow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    train(resumed, x, y, STAGES, [keras.callbacks.BackupAndRestore(tmp_path / "backup"), follow])
    assert epochs == list(range(epoch, 6))
    check_equal_weights(resumed, done)


@pytest.mark.parametrize("name", ["adjusted", "weighted focal"])
def test_a_model_saved_within_a_stage_is_loaded_without_its_weights(name, tmp_path):
    make, by_hand = LOSSES[name]
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    biases, _ = fit(bias_only(make()), IDS, STAGES, epochs=2, callbacks=[save])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert loaded.loss.get_config() == make().get_config()
    assert loaded.loss.stage_weight is None
    expected = mean(by_hand, ONE_HOT, biases[1], ONES)[0]
    np.testing.assert_allclose(loaded.evaluate(zeros(), IDS, verbose=0), expected, rtol=1e-5)
