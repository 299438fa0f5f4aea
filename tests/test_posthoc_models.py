"""What post-hoc adjustment leaves alone, shares and saves, and when it refuses to correct a prior twice."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.corrected_models import ADJUSTED_LOSS, CORRECTED, compiled_with
from helpers.posthoc_models import (
    COUNTS,
    GRAPHS,
    WIDTH,
    Subclassed,
    adjusted_by_hand,
    build,
    numpy,
    reload,
    rows,
    sequential,
)
from keras import layers, ops
from reference import log_prior

import keras_logit_adjust as kla

MAKERS = [kla.adjust, kla.fold_into_bias]


@pytest.mark.parametrize("name", ["sequential softmax", "nested softmax", "branching", "conv2d", "low-rank head"])
def test_an_adjusted_model_shares_every_weight_and_adds_an_untrained_one(name, rng):
    model, kind, data = build(name, rng)
    adjusted = kla.adjust(model, COUNTS)
    own = {id(weight) for weight in model.weights}
    (added,) = [weight for weight in adjusted.weights if id(weight) not in own]
    assert not added.trainable
    assert [id(w) for w in adjusted.trainable_weights] == [id(w) for w in model.trainable_weights]
    randomize_trained(model, rng)
    expected = adjusted_by_hand(model(data), kind, log_prior(COUNTS))
    np.testing.assert_allclose(numpy(adjusted(data)), expected, rtol=2e-5, atol=2e-6)


def randomize_trained(model, rng):
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_model_given_is_what_it_was_and_can_be_adjusted_again(name, rng, tmp_path):
    model, _, data = build(name, rng)
    before, config = numpy(model(data)), model.get_config()
    last = model.layers[-1].output
    first, second = kla.adjust(model, COUNTS), kla.adjust(model, COUNTS)
    kla.fold_into_bias(model, COUNTS)
    np.testing.assert_array_equal(numpy(first(data)), numpy(second(data)))
    np.testing.assert_array_equal(numpy(model(data)), before)
    assert model.get_config() == config
    assert model.layers[-1].output is last
    model.save(tmp_path / "model.keras")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_saved_model_predicts_bit_for_bit_what_it_did(name, make, rng, tmp_path):
    model, _, data = build(name, rng)
    made = make(model, COUNTS, tau=[1.0, 0.5, 2.0], target_prior=[0.2, 0.3, 0.5])
    loaded = reload(made, tmp_path)
    np.testing.assert_array_equal(numpy(loaded(data)), numpy(made(data)))


@pytest.mark.parametrize(
    ("activation", "output", "options"),
    [(None, "logits", {}), ("softmax", "softmax", {}), ("sigmoid", "sigmoid", {"num_examples": 100})],
)
def test_a_saved_adjusted_subclassed_model_predicts_exactly_what_it_did(activation, output, options, rng, tmp_path):
    model, data = Subclassed(3, activation), rows(rng, 7, WIDTH)
    model(data)
    adjusted = kla.adjust(model, COUNTS, output=output, **options)
    before = adjusted.predict(data, verbose=0)
    np.testing.assert_array_equal(reload(adjusted, tmp_path).predict(data, verbose=0), before)


@pytest.mark.slow
def test_a_new_process_needs_only_to_import_the_package_to_load_both_kinds(rng, tmp_path):
    model, data = sequential(layers.Dense(3, "softmax")), rows(rng, 7, WIDTH)
    hidden = sequential(layers.Dense(3), layers.LayerNormalization())
    made = {"graph": kla.adjust(model, COUNTS), "wrapped": kla.adjust(hidden, COUNTS, output="logits")}
    np.save(tmp_path / "data.npy", data)
    for name, adjusted in made.items():
        np.save(tmp_path / f"{name}.npy", adjusted.predict(data, verbose=0))
        adjusted.save(tmp_path / f"{name}.keras")
    code = """
import sys, keras, numpy, keras_logit_adjust
for name in ("graph", "wrapped"):
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras")
    made = model.predict(numpy.load(f"{sys.argv[1]}/data.npy"), verbose=0)
    assert numpy.array_equal(made, numpy.load(f"{sys.argv[1]}/{name}.npy"))
print("both")
"""
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.stdout.strip() == "both", result.stderr[-2000:]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("container", [dict, list])
def test_inputs_and_outputs_keep_the_containers_they_had(make, container, rng):
    inputs, data = keras.Input((WIDTH,), name="x"), rows(rng, 7, WIDTH)
    outputs = layers.Dense(3, "softmax")(inputs)
    model = keras.Model({"x": inputs}, {"y": outputs}) if container is dict else keras.Model([inputs], [outputs])
    made = make(model, COUNTS)
    assert isinstance(made.input, container)
    assert isinstance(made.output, container)
    given = {"x": data} if container is dict else [data]
    (result,) = keras.tree.flatten(made(given))
    (before,) = keras.tree.flatten(model(given))
    expected = adjusted_by_hand(before, "softmax", log_prior(COUNTS))
    np.testing.assert_allclose(numpy(result), expected, rtol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "call",
    [lambda inner, x: inner(x), lambda inner, x: inner(x, training=False), lambda inner, x: inner(inputs=x)],
    ids=["plain", "for inference", "by keyword"],
)
def test_a_nested_model_is_called_as_it_was_in_training_too(make, call, rng):
    inner = sequential(layers.BatchNormalization(momentum=1.0), layers.Dense(3, "softmax"))
    inputs, data = keras.Input((WIDTH,)), rows(rng, 7, WIDTH) + 3.0
    model = keras.Model(inputs, call(inner, inputs))
    for training in (False, True):
        expected = adjusted_by_hand(model(data, training=training), "softmax", log_prior(COUNTS))
        result = make(model, COUNTS)(data, training=training)
        np.testing.assert_allclose(numpy(result), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*trains with a loss that knows no prior")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["nested softmax", "branching"])
def test_the_made_model_compiles_evaluates_and_trains(name, make, rng):
    model, kind, data = build(name, rng)
    made, labels = make(model, COUNTS), np.array([0, 1, 2, 0, 1, 2, 0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "logits")
    made.compile(keras.optimizers.SGD(0.1), loss)
    probabilities = numpy(made(data)) if kind == "softmax" else numpy(ops.softmax(made(data)))
    expected = -np.log(probabilities[np.arange(7), labels]).mean()
    np.testing.assert_allclose(made.evaluate(data, labels, verbose=0), expected, rtol=1e-5)
    head, shared = made.trainable_weights[-1], model.trainable_weights[-1]
    before, original = numpy(head), numpy(shared)
    made.fit(data, labels, epochs=1, verbose=0)
    assert not np.array_equal(numpy(head), before)
    assert np.array_equal(numpy(shared), original) == (make is kla.fold_into_bias)


def test_the_adjustment_of_a_deployed_model_can_be_changed(rng):
    model, data = sequential(layers.Dense(3, "softmax")), rows(rng, 7, WIDTH)
    adjusted = kla.adjust(model, COUNTS)
    adjusted.predict(data, verbose=0)
    adjusted.get_layer("logit_adjustment").set(tau=2.0)
    expected = adjusted_by_hand(model(data), "softmax", 2 * log_prior(COUNTS))
    np.testing.assert_allclose(adjusted.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", CORRECTED)
def test_a_prior_that_was_corrected_is_not_corrected_twice_unless_asked(name, make, rng):
    create, reason = CORRECTED[name]
    model, data = create(), rows(rng, 7, WIDTH)
    share = np.array(COUNTS) / 100
    of_labels = {"num_examples": 100} if name == "loss for labels" else {}
    with pytest.raises(ValueError, match=f"corrected twice: .*{reason}.*allow_double_correction=True"):
        make(model, COUNTS, **of_labels)
    made = make(model, COUNTS, **of_labels, allow_double_correction=True)
    kind = "softmax" if name == "adjusted" else "logits"
    (before,) = keras.tree.flatten(model(data))
    expected = adjusted_by_hand(before, kind, np.log(share / (1 - share)) if of_labels else log_prior(COUNTS))
    np.testing.assert_allclose(numpy(made(data)), expected, rtol=1e-5, atol=1e-6)


def test_an_adjusted_subclassed_model_is_not_adjusted_again_unless_asked(rng):
    model, data = kla.adjust(Subclassed(), COUNTS, output="logits"), rows(rng, 7, WIDTH)
    with pytest.raises(ValueError, match="corrected twice: .*is adjusted already"):
        kla.adjust(model, COUNTS, output="logits")
    made = kla.adjust(model, COUNTS, output="logits", allow_double_correction=True)
    np.testing.assert_allclose(numpy(made(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "mse",
    ],
    ids=["tau is 0", "plain", "by name"],
)
def test_a_loss_that_adjusts_nothing_does_not_raise(loss, rng):
    model, data = compiled_with(loss), rows(rng, 7, WIDTH)
    np.testing.assert_allclose(
        numpy(kla.adjust(model, COUNTS)(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5
    )


def test_a_loaded_model_is_recognized_by_its_compiled_loss_alone(tmp_path):
    model = compiled_with(ADJUSTED_LOSS)
    with pytest.raises(ValueError, match="corrected twice"):
        kla.adjust(reload(model, tmp_path), COUNTS)
    kla.adjust(reload(model, tmp_path, compile=False), COUNTS)


def test_a_softmax_over_the_steps_of_a_masked_sequence_is_put_back(rng):
    steps = keras.Input((4,), dtype="int32")
    embedded = layers.Embedding(5, 3, mask_zero=True)(steps)
    model = keras.Model(steps, layers.Dense(3, "softmax")(embedded))
    tokens = np.array([[1, 2, 0, 0], [3, 4, 1, 0]], "int32")
    expected = numpy(model(tokens)) / np.array(COUNTS)
    adjusted = numpy(kla.adjust(model, COUNTS)(tokens))
    np.testing.assert_allclose(adjusted, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-5)
