"""The product of experts: against its arithmetic for every kind of head, in use and saved, and what it refuses."""

import keras
import numpy as np
import pytest
from helpers.posthoc_models import (
    COUNTS,
    WIDTH,
    Subclassed,
    build,
    functional,
    half,
    numpy,
    randomize,
    rows,
    sequential,
    several_inputs,
)
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.layers import LogitAdjustment, PriorAwareDense

TARGET = [0.2, 0.3, 0.5]


def log_softmax(logits):
    return np.log(softmax(logits))


def product_by_hand(outputs, kinds, taus, target=None):
    """The mean over experts of log-probabilities less τ·log π, plus log target; a softmax where all give one."""
    total = 0
    for output, kind, tau in zip(outputs, kinds, taus, strict=True):
        total = total + (np.log(output) if kind == "softmax" else log_softmax(output)) - tau * log_prior(COUNTS)
    logits = total / len(taus) + (0 if target is None else np.log(target))
    return softmax(logits) if set(kinds) == {"softmax"} else logits


def plain(rng, activation=None, name=None):
    model = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(3, activation, name="head")], name=name)
    randomize(model, rng)
    return model


# Graphs of `helpers.posthoc_models`, and what is still to be subtracted from each.
PRODUCTS = {
    "logits": (["sequential logits", "sequential logits"], [1.0, 1.0]),
    "softmax": (["sequential softmax", "functional softmax"], [0.0, 2.0]),
    "logits and softmax": (["sequential logits", "softmax layer"], [1.0, 0.5]),
    "three": (["softmax without bias", "activation layers", "low-rank head"], [0.0, 1.0, 2.5]),
    "nested": (["nested logits", "nested softmax", "nested twice"], [1.0, -1.0, 0.5]),
    "branches and statistics": (["branching", "normalization layer"], [1.0, 0.3]),
    "conv1d": (["conv1d", "conv1d"], [1.0, 0.0]),
    "conv2d": (["conv2d", "conv2d"], [1.0, 2.0]),
    "several inputs": (["several inputs", "several inputs"], [1.0, 2.0]),
    "inputs in a dict": (["inputs in a dict", "inputs in a dict"], [1.0, 2.0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_the_mean_of_the_corrected_log_probabilities(name, rng, tmp_path):
    names, taus = PRODUCTS[name]
    built = [build(name, rng) for name in names]
    models, kinds, data = [model for model, _, _ in built], [kind for _, kind, _ in built], built[0][2]
    before = [(model.name, [layer.name for layer in model.layers], numpy(model(data))) for model in models]
    product = kla.product_of_experts(models, COUNTS, taus=taus, target_prior=TARGET)
    expected = product_by_hand([output for _, _, output in before], kinds, taus, np.array(TARGET))
    np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)
    assert not product.compiled
    for model, (model_name, layer_names, output) in zip(models, before, strict=True):
        assert [layer.name for layer in model.layers] == layer_names and model.name == model_name
        np.testing.assert_array_equal(numpy(model(data)), output)
    product.save(tmp_path / "product.keras")
    loaded = keras.models.load_model(tmp_path / "product.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), product.predict(data, verbose=0))


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_one_tau_is_that_of_every_expert_and_uniform_the_default_target(activation, rng):
    models, data = [plain(rng, activation) for _ in range(3)], rows(rng, 7, WIDTH)
    outputs, kinds = [numpy(model(data)) for model in models], [activation or "logits"] * 3
    for options, tau in (({}, 1.0), ({"taus": 0.3}, 0.3), ({"taus": 2}, 2.0)):
        product = kla.product_of_experts(models, COUNTS, **options)
        expected = product_by_hand(outputs, kinds, [tau] * 3)
        np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)


def test_of_one_expert_twice_the_product_is_that_expert_adjusted(rng, tmp_path):
    model, data = plain(rng, "softmax"), rows(rng, 7, WIDTH)
    product = kla.product_of_experts([model, model], COUNTS)
    np.testing.assert_allclose(numpy(product(data)), numpy(kla.adjust(model, COUNTS)(data)), rtol=1e-5, atol=1e-6)
    product.save(tmp_path / "product.keras")
    loaded = keras.models.load_model(tmp_path / "product.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), product.predict(data, verbose=0))


def test_experts_of_one_name_keep_it_and_are_told_apart(rng):
    models, data = [plain(rng, name="expert_1") for _ in range(2)], rows(rng, 7, WIDTH)
    product = kla.product_of_experts(models, COUNTS, taus=[0, 1])
    expected = product_by_hand([numpy(model(data)) for model in models], ["logits"] * 2, [0, 1])
    np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)
    assert [model.name for model in models] == ["expert_1"] * 2


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_product_follows_the_weights_of_its_experts(activation, rng):
    models, data = [plain(rng, activation) for _ in range(2)], rows(rng, 7, WIDTH)
    product = kla.product_of_experts(models, COUNTS)
    before = numpy(product(data))
    randomize(models[1], rng)
    expected = product_by_hand([numpy(model(data)) for model in models], [activation or "logits"] * 2, [1, 1])
    np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)
    assert np.abs(before - expected).max() > 0.01
    own = {id(variable) for model in models for variable in model.trainable_variables}
    assert {id(variable) for variable in product.trainable_variables} == own


@pytest.mark.filterwarnings("ignore:.*trains with a loss that knows no prior")
def test_a_product_trains_its_experts_as_one_model(rng):
    models, data = [plain(rng) for _ in range(2)], rows(rng, 12, WIDTH)
    start = [numpy(model(data)) for model in models]
    product, y = kla.product_of_experts(models, COUNTS), rng.integers(0, 3, 12)
    logits = numpy(product(data))
    product.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = product.fit(data, y, batch_size=12, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, -log_softmax(logits)[np.arange(12), y].mean(), rtol=1e-5)
    for model, outputs in zip(models, start, strict=True):
        assert np.abs(numpy(model(data)) - outputs).max() > 1e-3


def test_the_prior_of_a_product_can_be_set_anew(rng):
    models, data = [plain(rng) for _ in range(2)], rows(rng, 7, WIDTH)
    outputs = [numpy(model(data)) for model in models]
    product = kla.product_of_experts(models, COUNTS, taus=[0.5, 2.0])
    product.predict(data, verbose=0)
    layer = product.get_layer("logit_adjustment")
    for change, tau, target in (({"target_prior": TARGET}, 1.25, TARGET), ({"tau": 0.0}, 0.0, TARGET)):
        layer.set(**change)
        expected = product_by_hand(outputs, ["logits"] * 2, [tau] * 2, np.array(target))
        np.testing.assert_allclose(product.predict(data, verbose=0), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_half_precision_logits_are_averaged_in_float32(policy, activation, rng):
    models, data = [half(policy, layers.Dense(3, dtype=policy)) for _ in range(2)], rows(rng, 7, WIDTH)
    for model in models:
        randomize(model, rng)
    outputs = [numpy(model(data)) for model in models]  # exact: what the half-precision heads give
    if activation:
        models = [keras.Model(m.input, layers.Activation(activation, dtype=policy)(m.output)) for m in models]
    product = kla.product_of_experts(models, COUNTS, taus=[1, 2])
    expected = product_by_hand(outputs, ["logits"] * 2, [1, 2])
    actual = product(data)
    assert keras.backend.standardize_dtype(actual.dtype) == "float32"
    np.testing.assert_allclose(numpy(actual), softmax(expected) if activation else expected, rtol=1e-5, atol=1e-5)


def test_one_input_in_a_functional_and_in_a_sequential_model_are_the_same(rng):
    models, data = [plain(rng), functional(layers.Dense(3, "softmax"))], rows(rng, 7, WIDTH)
    product = kla.product_of_experts(models, COUNTS)
    expected = product_by_hand([numpy(model(data)) for model in models], ["logits", "softmax"], [1, 1])
    np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)


# --- the name of the prior -------------------------------------------------------------------------------------------


def trained_with(tau):
    model = sequential(layers.Dense(3))
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=tau))
    return model


def with_weighted_loss():
    model = sequential(layers.Dense(3))
    model.compile("sgd", kla.losses.ClassBalancedCrossentropy(COUNTS, beta=0.9))
    return model


def power(exponent):
    return f"training prior to the power {exponent}, renormalized (tau={1 - exponent:g})"


TWICE = "unknown: corrected more than once"
NAMED = {
    "plain": (lambda: [dense(), dense()], 1.0, None, "uniform"),
    "plain, towards a target": (lambda: [dense(), dense()], 1.0, TARGET, "target"),
    "plain, corrected by half": (lambda: [dense(), dense()], 0.5, None, power(0.5)),
    "plain, each by its own": (lambda: [dense(), dense()], [0.5, 1.0], None, power(0.25)),
    "losses that correct nothing": (lambda: [trained_with(0), trained_with(0)], 1.0, None, "uniform"),
    "losses that average to 1": (lambda: [trained_with(tau) for tau in (0, 1, 2)], 0.0, None, TWICE),
    "a loss and a rest": (lambda: [trained_with(0.5), trained_with(0)], [0.5, 1.0], None, TWICE),
    "a head": (lambda: [sequential(PriorAwareDense(3, COUNTS)), dense()], [0.0, 1.0], None, TWICE),
    "an adjusted expert": (lambda: [kla.adjust(dense(), COUNTS), dense()], [0, 1], None, TWICE),
    "another loss": (lambda: [with_weighted_loss(), dense()], [0, 1], None, TWICE),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_prior_of_a_product_is_known_only_where_it_alone_corrects(name, tmp_path):
    make, taus, target, expected = NAMED[name]
    product = kla.product_of_experts(make(), COUNTS, taus=taus, target_prior=target, allow_double_correction=True)
    product.save(tmp_path / "product.keras")
    for model in (product, keras.models.load_model(tmp_path / "product.keras")):
        assert kla.serving.describe(model).prior == expected


# --- guards ----------------------------------------------------------------------------------------------------------


CORRECTED = {
    "an adjusted loss": lambda: trained_with(1),
    "a prior-aware head": lambda: sequential(PriorAwareDense(3, COUNTS)),
    "an adjustment layer": lambda: sequential(layers.Dense(3), LogitAdjustment(COUNTS)),
    "an adjusted softmax": lambda: kla.adjust(sequential(layers.Dense(3, "softmax")), COUNTS),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_an_expert_whose_prior_was_corrected_takes_no_tau_but_zero(name, rng):
    models, data = [plain(rng), CORRECTED[name]()], rows(rng, 7, WIDTH)
    for taus in (1.0, [1.0, 0.5]):
        with pytest.raises(ValueError, match="The prior would be corrected twice.*allow_double_correction=True"):
            kla.product_of_experts(models, COUNTS, taus=taus)
    kinds = ["logits", "softmax" if name == "an adjusted softmax" else "logits"]
    outputs = [numpy(model(data)) for model in models]
    for taus, options in (([1.0, 0.0], {}), ([0.0, 0.5], {"allow_double_correction": True})):
        product = kla.product_of_experts(models, COUNTS, taus=taus, **options)
        expected = product_by_hand(outputs, kinds, taus)
        np.testing.assert_allclose(numpy(product(data)), expected, rtol=2e-5, atol=2e-5)


def dense(units=3, activation=None):
    return sequential(layers.Dense(units, activation))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ([dense()], COUNTS),
            "`models` must be a list of at least two. Received 1: for one model use `kla.adjust`",
        ),
        (lambda: ([], COUNTS), "`models` must be a list of at least two. Received 0"),
        (lambda: (dense(), COUNTS), "`models` must be"),
        (lambda: ([dense(), "model"], COUNTS), "must be a `keras.Model`. Received: str"),
        (lambda: ([dense(), Subclassed()], COUNTS), "must be Functional or Sequential.*subclassed"),
        (lambda: ([dense(), dense(3, "sigmoid")], COUNTS), "exclude each other.*gives a sigmoid"),
        (lambda: ([dense(), dense(3, "relu")], COUNTS), "must be one of linear, softmax, sigmoid.*relu"),
        (lambda: ([dense(), dense(4)], COUNTS), "class_counts has 3 classes, `the head of .*` has 4"),
        (lambda: ([dense(), dense()], [9, 1]), "class_counts has 2 classes, `the head of .*` has 3"),
        (lambda: ([dense(), dense()], [9, 1, 0]), "`class_counts` must be greater than zero.*class 2"),
        (lambda: ([dense(), several_inputs(True)], COUNTS), "Experts must have the same inputs"),
        (lambda: ([several_inputs(False), several_inputs(True)], COUNTS), "Experts must have the same inputs"),
        (
            lambda: ([dense(), sequential(layers.Dense(3), width=WIDTH + 1)], COUNTS),
            r"Experts must have the same inputs. Received: .*\(None, 6\).*\(None, 7\)",
        ),
        (
            lambda: ([dense(), dense()], COUNTS, {"taus": [1, 1, 1]}),
            "`taus` must be one number, or one for each.*3 for 2",
        ),
        (
            lambda: ([dense(), dense()], COUNTS, {"taus": [1, np.nan]}),
            "`taus` must be finite. Received nan for model 1",
        ),
        (lambda: ([dense(), dense()], COUNTS, {"taus": "high"}), "`taus` must be"),
        (
            lambda: ([dense(), dense()], COUNTS, {"target_prior": [1, 1]}),
            "`target_prior` must have one number for each class.*2",
        ),
        (
            lambda: ([dense(), dense()], COUNTS, {"target_prior": [1, 0, 1]}),
            "`target_prior` must be greater than zero.*class 1",
        ),
    ],
)
def test_bad_arguments_are_refused_with_rule_value_and_remedy(build, message):
    models, class_counts, *options = build()
    with pytest.raises(ValueError, match=message):
        kla.product_of_experts(models, class_counts, **dict(*options))
