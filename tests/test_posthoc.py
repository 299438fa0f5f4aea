"""Post-hoc adjustment: `adjust` and `fold_into_bias` against the formulas."""

import keras
import numpy as np
import pytest
from helpers.posthoc_models import (
    COUNTS,
    GRAPHS,
    WIDTH,
    Subclassed,
    adjusted_by_hand,
    branching,
    build,
    numpy,
    randomize,
    reload,
    rows,
    sequential,
)
from keras import layers, ops
from reference import log_prior, softmax

import keras_logit_adjust as kla


@pytest.mark.parametrize("name", GRAPHS)
def test_an_adjusted_graph_subtracts_tau_log_prior_from_the_logits(name, rng):
    model, kind, data = build(name, rng)
    tau = np.array([0.5, 2.0, -1.0])
    for value in (1.0, tau):
        expected = adjusted_by_hand(model(data), kind, value * log_prior(COUNTS))
        np.testing.assert_allclose(numpy(kla.adjust(model, COUNTS, tau=value)(data)), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_folded_model_equals_the_adjusted_one(name, rng):
    model, _, data = build(name, rng)
    adjusted, folded = kla.adjust(model, COUNTS, tau=1.5), kla.fold_into_bias(model, COUNTS, tau=1.5)
    expected = numpy(adjusted(data))
    np.testing.assert_allclose(numpy(folded(data)), expected, rtol=1e-6, atol=1e-6)
    assert not folded.compiled
    assert type(folded) is type(model)


@pytest.mark.parametrize("name", ["sequential softmax", "several inputs", "nested twice", "branching", "low-rank head"])
def test_a_folded_model_has_the_original_layers_and_none_of_its_variables(name, rng):
    model, _, data = build(name, rng)
    before = numpy(model(data)), [numpy(weight) for weight in model.weights]
    folded = kla.fold_into_bias(model, COUNTS)
    assert [(type(part), part.name) for part in folded._flatten_layers()] == [
        (type(part), part.name) for part in model._flatten_layers()
    ]
    without_bias = name == "branching"
    assert len(folded.weights) == len(model.weights) + without_bias
    assert not {id(variable) for variable in folded.variables} & {id(variable) for variable in model.variables}
    for weight in folded.weights:
        weight.assign(ops.zeros_like(ops.convert_to_tensor(weight)))
    np.testing.assert_array_equal(numpy(model(data)), before[0])
    for weight, value in zip(model.weights, before[1], strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


def test_folding_adds_to_a_bias_that_is_not_zero_and_rounds_once():
    model = sequential(layers.Dense(2))
    bias = np.array([0.1, -37.0], "float32")
    model.layers[0].bias.assign(bias)
    folded = kla.fold_into_bias(model, [437_511, 2], tau=3.0)
    expected = (bias.astype("float64") - 3 * log_prior([437_511, 2])).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(folded.layers[0].bias), expected)


@pytest.mark.parametrize("trainable", [True, False])
def test_every_weight_of_a_partly_frozen_model_goes_to_its_own_place(trainable, rng):
    inputs = keras.Input((WIDTH,))
    stem = layers.Dense(WIDTH, trainable=False)
    frozen, live = layers.BatchNormalization(trainable=False), layers.BatchNormalization()
    head = layers.Dense(3, use_bias=False, name="head")
    model = keras.Model(inputs, head(live(frozen(stem(inputs)))))
    head.trainable = trainable
    live.gamma.trainable = False
    randomize(model, rng)
    folded = kla.fold_into_bias(model, COUNTS)
    for layer, copy in zip(model.layers, folded.layers, strict=True):
        assert copy.trainable == layer.trainable
        for name, value in vars(layer).items():
            if isinstance(value, keras.Variable):
                np.testing.assert_array_equal(numpy(getattr(copy, name)), numpy(value))
    np.testing.assert_allclose(numpy(folded.get_layer("head").bias), -log_prior(COUNTS), rtol=1e-6)
    data = rows(rng, 5, WIDTH)
    np.testing.assert_allclose(numpy(folded(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5, atol=1e-5)


def test_a_layer_shared_with_a_nested_model_stays_shared(rng):
    model, data = branching(shared_with_nested=True), rows(rng, 5, WIDTH)
    randomize(model, rng)
    folded = kla.fold_into_bias(model, COUNTS)
    np.testing.assert_allclose(numpy(folded(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5, atol=1e-6)
    assert len(folded.weights) == len(model.weights) + 1


def test_a_custom_layer_with_parts_and_a_frozen_weight_is_copied_whole(rng):
    class Shifted(layers.Layer):
        def __init__(self, scale=1.0, **kwargs):
            super().__init__(**kwargs)
            self.scale, self.inner = scale, layers.Dense(4)

        def build(self, input_shape):
            self.inner.build(input_shape)
            self.shift = self.add_weight(shape=(4,), initializer="random_normal", trainable=False)

        def call(self, inputs):
            return self.inner(inputs) * self.scale + self.shift

        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    model, data = sequential(Shifted(3.0), layers.Dense(3, use_bias=False)), rows(rng, 5, WIDTH)
    folded = kla.fold_into_bias(model, COUNTS)
    np.testing.assert_allclose(numpy(folded(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize("inside", [False, True])
def test_a_model_compiled_with_a_user_s_function_gives_an_uncompiled_one(make, inside, rng):
    model = sequential(layers.Dense(WIDTH), layers.Dense(3))
    model.compile("sgd", lambda y_true, y_pred: ops.mean(y_pred - y_true, axis=-1))
    data = rows(rng, 5, WIDTH)
    outer = sequential(model) if inside else model
    made = make(outer, COUNTS)
    assert model.compiled
    assert not made.compiled
    np.testing.assert_allclose(numpy(made(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize(
    ("output", "kind", "counts", "examples", "shift"),
    [
        ("sigmoid", "sigmoid", [1, 50, 99], 100, np.log([1 / 99, 50 / 50, 99 / 1])),
        (None, "logits", [1, 50, 99], 100, np.log([1 / 99, 50 / 50, 99 / 1])),
        ("sigmoid", "sigmoid", [90, 10], None, np.log([10 / 90])),
        (None, "logits", [90, 10], None, np.log([10 / 90])),
        ("sigmoid", "sigmoid", [10], 100, np.log([10 / 90])),
    ],
    ids=["labels", "linear labels", "one sigmoid unit", "one linear unit", "one label"],
)
def test_independent_labels_and_single_units_are_adjusted_by_log_odds(make, output, kind, counts, examples, shift, rng):
    model, data = sequential(layers.Dense(shift.size, output)), rows(rng, 7, WIDTH)
    made = make(model, counts, tau=0.7, num_examples=examples)
    expected = adjusted_by_hand(model(data), kind, 0.7 * shift)
    np.testing.assert_allclose(numpy(made(data)), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_a_sigmoid_unit_equals_the_softmax_over_its_two_classes(make, rng):
    unit, pair, data = sequential(layers.Dense(1, "sigmoid")), sequential(layers.Dense(2)), rows(rng, 7, WIDTH)
    kernel = rows(rng, WIDTH, 1)
    unit.layers[0].kernel.assign(kernel)
    pair.layers[0].kernel.assign(np.hstack([np.zeros_like(kernel), kernel]))
    target = [0.3, 0.7]
    expected = softmax(numpy(make(pair, [90, 10], tau=1.5, target_prior=target)(data)))[:, 1:]
    np.testing.assert_allclose(
        numpy(make(unit, [90, 10], tau=1.5, target_prior=target)(data)), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize("target", [[0.2, 0.3, 0.5], [2, 3, 5]])
def test_a_target_prior_multiplies_the_probabilities(make, target, rng):
    model, data = sequential(layers.Dense(3, "softmax")), rows(rng, 7, WIDTH)
    weighted = numpy(model(data)) / np.asarray(COUNTS) * np.asarray(target, "float64")
    expected = weighted / weighted.sum(-1, keepdims=True)
    np.testing.assert_allclose(numpy(make(model, COUNTS, target_prior=target)(data)), expected, rtol=1e-5, atol=1e-7)


def test_target_priors_of_labels_are_probabilities_of_each(rng):
    model, data = sequential(layers.Dense(2, "sigmoid")), rows(rng, 7, WIDTH)
    made = kla.adjust(model, [10, 50], target_prior=[0.5, 0.2], num_examples=100)
    shift = np.log([10 / 90, 50 / 50]) - np.log([0.5 / 0.5, 0.2 / 0.8])
    np.testing.assert_allclose(numpy(made(data)), adjusted_by_hand(model(data), "sigmoid", shift), rtol=1e-5)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_tau_zero_and_the_training_prior_as_target_leave_the_predictions(make, activation, rng):
    model, data = sequential(layers.Dense(3, activation)), rows(rng, 7, WIDTH)
    np.testing.assert_array_equal(numpy(make(model, COUNTS, tau=0)(data)), numpy(model(data)))
    same = make(model, COUNTS, target_prior=COUNTS)
    np.testing.assert_allclose(numpy(same(data)), numpy(model(data)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_uniform_counts_change_no_probability(make, rng):
    model, data = sequential(layers.Dense(3, "softmax")), rows(rng, 7, WIDTH)
    np.testing.assert_allclose(numpy(make(model, [5, 5, 5], tau=3.0)(data)), numpy(model(data)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("output", "activation", "units", "options", "shift"),
    [
        ("logits", None, 3, {}, log_prior(COUNTS)),
        ("softmax", "softmax", 3, {}, log_prior(COUNTS)),
        ("sigmoid", "sigmoid", 3, {"num_examples": 100}, np.log([90 / 10, 9 / 91, 1 / 99])),
    ],
)
def test_a_subclassed_model_is_adjusted_by_the_logarithms_of_what_it_gives(
    output, activation, units, options, shift, rng
):
    model, data = Subclassed(units, activation), rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(model(data), output, shift)
    adjusted = kla.adjust(model, COUNTS, output=output, **options)
    np.testing.assert_allclose(numpy(adjusted(data)), expected, rtol=1e-5, atol=1e-6)
    assert not adjusted.compiled
    assert [id(w) for w in adjusted.trainable_weights] == [id(w) for w in model.trainable_weights]


def test_a_subclassed_sigmoid_unit_takes_two_counts(rng):
    model, data = Subclassed(1, "sigmoid"), rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(model(data), "sigmoid", np.log([10 / 90]))
    np.testing.assert_allclose(numpy(kla.adjust(model, [90, 10], output="sigmoid")(data)), expected, rtol=1e-5)


def test_probabilities_that_rounded_to_zero_stay_finite():
    model = Subclassed(3, "softmax")
    model(np.zeros((1, WIDTH), "float32"))
    model.dense.bias.assign([200.0, 0.0, -200.0])
    result = numpy(kla.adjust(model, COUNTS, output="softmax")(np.zeros((1, WIDTH), "float32")))
    np.testing.assert_allclose(result, [[1.0, 0.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("layer", [layers.LayerNormalization(), layers.Reshape((3,))], ids=["normalized", "reshaped"])
def test_a_graph_without_a_last_head_is_adjusted_if_its_output_is_named(layer, rng):
    model, data = sequential(layers.Dense(3), layer), rows(rng, 7, WIDTH)
    adjusted = kla.adjust(model, COUNTS, output="logits")
    np.testing.assert_allclose(numpy(adjusted(data)), numpy(model(data)) - log_prior(COUNTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("activation", "function"), [(None, np.asarray), ("softmax", softmax)])
def test_half_precision_logits_meet_the_prior_in_float32(activation, function, rng):
    counts, data = [437_513, 2, 2], rows(rng, 7, WIDTH)
    plain = sequential(layers.Dense(3, dtype="mixed_bfloat16"))
    model = sequential(layers.Dense(3, activation, dtype="mixed_bfloat16"))
    model.set_weights(plain.get_weights())
    made = kla.adjust(model, counts, tau=3.0)(data)
    assert keras.backend.standardize_dtype(made.dtype) == "float32"
    expected = function(numpy(ops.cast(plain(data), "float32")) - 3 * log_prior(counts))
    np.testing.assert_allclose(numpy(made), expected, rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless a process asks for it")
@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_model_in_float64_keeps_its_digits(activation, make, rng, tmp_path):
    inputs = keras.Input((6,), dtype="float64")
    model = keras.Model(inputs, layers.Dense(3, activation, dtype="float64")(inputs))
    x = rng.normal(size=(5, 6))
    before = numpy(model(x))
    expected = before - log_prior(COUNTS) if activation is None else softmax(np.log(before) - log_prior(COUNTS))
    adjusted = make(model, COUNTS)
    for served in (adjusted, reload(adjusted, tmp_path)):
        np.testing.assert_allclose(numpy(served(x)), expected, rtol=0, atol=1e-14)
