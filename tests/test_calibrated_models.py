"""A calibration and the adjustment as one affine step: in the layer, behind models of every kind, and folded."""

import json

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, build, numpy, rows, sequential
from keras import layers
from reference import log_prior, sigmoid, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import calibrate, calibration_error
from keras_logit_adjust.layers import Calibration, LogitAdjustment

CALIBRATION = Calibration(1.7, [0.5, -0.75, 0.25])


def by_hand(outputs, kind, calibration, shift):
    """The model's logits (read off its probabilities), calibrated and then adjusted."""
    outputs = numpy(outputs)
    bias = 0.0 if calibration.bias is None else np.array(calibration.bias)
    if kind == "logits":
        return outputs / calibration.temperature + bias - shift
    if kind == "softmax":
        return softmax(np.log(outputs) / calibration.temperature + bias - shift)
    return sigmoid((np.log(outputs) - np.log(1 - outputs)) / calibration.temperature + bias - shift)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize(
    "name",
    ["sequential softmax", "softmax layer", "nested softmax", "branching", "low-rank head", "conv1d", "conv2d"],
)
def test_a_graph_is_calibrated_and_adjusted_in_one_step(name, make, rng):
    model, kind, data = build(name, rng)
    before = numpy(model(data))
    made = make(model, COUNTS, tau=1.5, target_prior=[1, 2, 3], calibration=CALIBRATION)
    shift = 1.5 * log_prior(COUNTS) - log_prior([1, 2, 3])
    np.testing.assert_allclose(numpy(made(data)), by_hand(before, kind, CALIBRATION, shift), rtol=5e-5, atol=5e-6)
    np.testing.assert_array_equal(numpy(model(data)), before)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_labels_and_units_are_calibrated_too(make, rng):
    labels, unit, data = (
        sequential(layers.Dense(3, "sigmoid")),
        sequential(layers.Dense(1, "sigmoid")),
        rows(rng, 7, WIDTH),
    )
    made = make(labels, [1, 50, 99], num_examples=100, calibration=CALIBRATION)
    expected = by_hand(labels(data), "sigmoid", CALIBRATION, np.log([1 / 99, 50 / 50, 99 / 1]))
    np.testing.assert_allclose(numpy(made(data)), expected, rtol=5e-5, atol=5e-6)
    one = Calibration(0.5, [0.25])
    expected = by_hand(unit(data), "sigmoid", one, np.log(10 / 90))
    np.testing.assert_allclose(numpy(make(unit, [90, 10], calibration=one)(data)), expected, rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize(("activation", "kind"), [(None, "logits"), ("softmax", "softmax"), ("sigmoid", "sigmoid")])
def test_a_subclassed_model_is_calibrated_by_the_logarithms_it_gives(activation, kind, rng, tmp_path):
    model, data = Subclassed(3, activation), rows(rng, 7, WIDTH)
    options = {"num_examples": 100} if kind == "sigmoid" else {}
    shift = np.log([90 / 10, 9 / 91, 1 / 99]) if kind == "sigmoid" else log_prior(COUNTS)
    made = kla.adjust(model, COUNTS, output=kind, calibration=CALIBRATION, **options)
    np.testing.assert_allclose(numpy(made(data)), by_hand(model(data), kind, CALIBRATION, shift), rtol=1e-5, atol=1e-6)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), made.predict(data, verbose=0))


def test_folding_scales_and_shifts_in_float64_and_rounds_once(rng):
    model = sequential(layers.Dense(3))
    model.layers[0].bias.assign([0.1, -37.0, 3.0])
    kernel, bias = (numpy(weight) for weight in model.weights)
    folded = kla.fold_into_bias(model, COUNTS, calibration=CALIBRATION).layers[0]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(folded.kernel), (kernel / 1.7).astype("float32"))
    expected = bias / 1.7 - (log_prior(COUNTS) - CALIBRATION.bias)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(folded.bias), expected.astype("float32"), rtol=1.2e-7)


def test_temperature_alone_keeps_every_decision_of_the_unadjusted_model(rng):
    model, data = sequential(layers.Dense(3, "softmax")), rows(rng, 50, WIDTH)
    made = kla.adjust(model, COUNTS, tau=0.0, calibration=Calibration(3.0))
    np.testing.assert_array_equal(numpy(made(data)).argmax(-1), numpy(model(data)).argmax(-1))


def test_a_layer_without_a_calibration_has_one_weight_and_subtracts_once(rng):
    logits = rows(rng, 5, 3)
    plain, neutral = LogitAdjustment(COUNTS, tau=0.5), LogitAdjustment(COUNTS, tau=0.5, calibration=Calibration())
    expected = logits - (0.5 * log_prior(COUNTS)).astype("float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(plain(logits)), expected)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(neutral(logits)), expected)
    assert [weight.path.split("/")[-1] for weight in plain.weights] == ["adjustment"]
    assert [weight.path.split("/")[-1] for weight in neutral.weights] == ["adjustment", "inverse_temperature"]
    assert not neutral.trainable_weights and neutral.inverse_temperature.dtype == "float32"
    older = {key: value for key, value in plain.get_config().items() if key != "calibration"}
    assert LogitAdjustment.from_config(older).get_config() == plain.get_config()


def calibrated_model(**options):
    model = keras.Sequential([keras.Input((3,)), LogitAdjustment(COUNTS, calibration=CALIBRATION, **options)])
    return model, model.layers[-1]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_saved_layer_is_calibrated_as_it_was(policy, rng, tmp_path):
    keras.config.set_dtype_policy(policy)
    (model, layer), logits = calibrated_model(tau=2.0), rows(rng, 5, 3)
    expected = CALIBRATION.apply(logits) - 2 * log_prior(COUNTS)
    np.testing.assert_allclose(model.predict(logits, verbose=0), expected, rtol=1e-6, atol=1e-6)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(logits, verbose=0), model.predict(logits, verbose=0))
    assert loaded.layers[-1].calibration == layer.calibration == CALIBRATION
    loaded.layers[-1].set(tau=0.0)
    np.testing.assert_allclose(loaded.predict(logits, verbose=0), CALIBRATION.apply(logits), rtol=1e-6, atol=1e-6)


def test_set_changes_the_calibration_of_a_running_model(rng):
    (model, layer), logits = calibrated_model(), rows(rng, 5, 3)
    model.predict(logits, verbose=0)
    for calibration in (Calibration(0.25, [1.0, 0.0, -1.0]), Calibration(3.0), Calibration()):
        layer.set(calibration=calibration)
        layer.set(tau=2.0)  # changes nothing else
        expected = calibration.apply(logits) - 2 * log_prior(COUNTS)
        np.testing.assert_allclose(model.predict(logits, verbose=0), expected, rtol=1e-6, atol=1e-6)
        assert LogitAdjustment.from_config(layer.get_config()).calibration == calibration
    late = LogitAdjustment(COUNTS)
    late.set(calibration=CALIBRATION)
    expected = CALIBRATION.apply(logits) - log_prior(COUNTS)
    np.testing.assert_allclose(numpy(late(logits)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": 2.0}, "`calibration` must be a `kla.Calibration`.*calibration=2.0"),
        ({"calibration": Calibration(2.0, [1, 2])}, "class_counts has 3 classes, `calibration.bias` has 2"),
        ({"calibration": Calibration(2.0), "tau": np.nan}, "`tau` must be finite"),
    ],
)
def test_a_refused_calibration_leaves_the_layer_as_it_was(change, message, rng):
    (model, layer), logits = calibrated_model(), rows(rng, 5, 3)
    before, config = model.predict(logits, verbose=0), layer.get_config()
    with pytest.raises(ValueError, match=message):
        layer.set(**change)
    np.testing.assert_array_equal(model.predict(logits, verbose=0), before)
    assert layer.get_config() == config


def test_a_layer_built_without_a_calibration_says_how_to_have_one():
    layer = LogitAdjustment(COUNTS)
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"built without a calibration.*calibration=kla.Calibration\(\)"):
        layer.set(calibration=CALIBRATION)
    assert layer.calibration is None


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias, LogitAdjustment])
def test_a_calibration_of_something_else_is_refused(make):
    args = (COUNTS,) if make is LogitAdjustment else (sequential(layers.Dense(3)), COUNTS)
    with pytest.raises(ValueError, match="must be a `kla.Calibration`.*Received: calibration='bcts'"):
        make(*args, calibration="bcts")
    with pytest.raises(ValueError, match="`calibration.bias` must have one number for each class.*has 2"):
        make(*args, calibration=Calibration(1.0, [0.5, -0.5]))


def test_beyond_ten_thousand_classes_weights_alone_restore_the_calibration(rng, tmp_path):
    counts = np.arange(1, 10_002, dtype="float64")
    calibration = Calibration(2.5, rng.normal(size=counts.size))
    layer = LogitAdjustment(counts, calibration=calibration)
    model, logits = keras.Sequential([keras.Input((counts.size,)), layer]), rows(rng, 2, counts.size)
    expected = calibration.apply(logits) - log_prior(counts)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for made in (model, loaded):
        np.testing.assert_allclose(made.predict(logits, verbose=0), expected, rtol=1e-5, atol=1e-5)
    copy = loaded.layers[-1]
    assert len(json.dumps(copy.get_config())) < 2000
    with pytest.raises(
        ValueError, match="the bias of its calibration.*`class_counts`, `tau` and `calibration` together"
    ):
        copy.set(class_counts=counts, tau=1.0)
    copy.set(class_counts=counts, tau=0.5, calibration=calibration)
    expected = calibration.apply(logits) - 0.5 * log_prior(counts)
    np.testing.assert_allclose(loaded.predict(logits, verbose=0), expected, rtol=1e-5, atol=1e-5)


def test_calibrated_first_adjusted_posteriors_are_right_under_uniform(rng):
    counts, kernel = np.array([9000, 900, 100]), 4.5 * np.eye(3, dtype="float32")
    model = sequential(layers.Dense(3, "softmax"), width=3)
    model.layers[0].set_weights([kernel, 3 * np.log(counts / counts.sum())])  # three times too certain

    def examples(per_class):
        y_true = np.repeat(np.arange(3), per_class)
        return (rng.normal(size=(y_true.size, 3)) + 1.5 * np.eye(3)[y_true]).astype("float32"), y_true

    (held_out, ids), (test, test_ids) = examples(counts), examples([1000] * 3)
    found = calibrate(np.log(model.predict(held_out, verbose=0)), ids)
    assert found.temperature == pytest.approx(3.0, abs=0.2)
    errors = [
        calibration_error(kla.adjust(model, counts, calibration=c).predict(test, verbose=0), test_ids)
        for c in (None, found)
    ]
    assert errors[0] > 0.15 and errors[1] < 0.03


def test_a_prior_of_labels_weighs_as_its_probabilities_do(rng):
    logits = 3 * rng.normal(size=(200, 3))
    on = rng.random((200, 3)) < 1 / (1 + np.exp(2 - logits / 2))
    options = {"independent": True, "method": "bias_corrected_temperature"}
    prior = kla.priors.as_prior([30, 5, 10], 100)
    found = kla.calibrate(logits, on, class_prior=prior, **options)
    assert found == kla.calibrate(logits, on, class_prior=[0.3, 0.05, 0.1], **options)
