"""The decision of least expected cost: against the sum over classes, in every precision, masked, saved and compiled."""

import keras
import numpy as np
import pytest
from helpers.arrays import array
from reference import softmax

import keras_logit_adjust as kla
from keras_logit_adjust.layers import MinimumRiskDecision

COSTS = np.array([[0.0, 1.0, 7.0, 0.5], [20.0, 0.0, 2.0, 0.5], [3.0, 5.0, -1.0, 0.5]])  # the last decision: ask


def expected_costs(probabilities, costs):
    """`Σ_y P(y|x)·C[y, d]` by loops, in float64."""
    expected = np.zeros((len(probabilities), costs.shape[1]))
    for i, row in enumerate(probabilities.astype("float64")):
        for y, p in enumerate(row):
            for d in range(costs.shape[1]):
                expected[i, d] += p * costs[y, d]
    return expected


def rows(rng, *shape):
    return rng.normal(0, 2, shape).astype("float32")


@pytest.mark.parametrize("decisions", [2, 3, 4])
def test_the_scores_are_the_expected_costs_with_a_minus(decisions, rng):
    logits, costs = 3 * rows(rng, 40, 3), COSTS[:, :decisions]
    expected = expected_costs(softmax(logits.astype("float64")), costs)
    scores = array(MinimumRiskDecision(costs)(logits))
    np.testing.assert_allclose(scores, -expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores.argmax(-1), expected.argmin(-1))
    assert len(set(scores.argmax(-1))) == decisions


def test_probabilities_are_taken_as_they_are(rng):
    probabilities = softmax(rows(rng, 40, 3))
    scores = array(MinimumRiskDecision(COSTS, from_logits=False)(probabilities))
    np.testing.assert_allclose(scores, -expected_costs(probabilities, COSTS), rtol=1e-5, atol=1e-5)


def test_where_errors_cost_the_same_the_decision_is_the_most_probable(rng):
    logits = rows(rng, 40, 5)
    scores = array(MinimumRiskDecision(1 - np.eye(5))(logits))
    np.testing.assert_allclose(scores, softmax(logits) - 1, atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(-1), logits.argmax(-1))


def test_a_cost_per_class_decides_as_its_logarithm_added_to_the_logits(rng):
    logits, costs = rows(rng, 40, 3), np.array([1.0, 4.0, 30.0])
    scores = array(MinimumRiskDecision(costs[:, None] * (1 - np.eye(3)))(logits))
    np.testing.assert_array_equal(scores.argmax(-1), (logits + np.log(costs)).argmax(-1))
    assert (scores.argmax(-1) != logits.argmax(-1)).any()


@pytest.mark.parametrize("shape", [(), (2,), (2, 5)])
def test_leading_axes_are_kept(shape, rng):
    logits = rows(rng, *shape, 4, 3)
    layer = MinimumRiskDecision(COSTS)
    flat = array(layer(logits.reshape(-1, 3)))
    np.testing.assert_allclose(array(layer(logits)), flat.reshape(*shape, 4, 4), rtol=1e-6, atol=1e-6)
    assert layer(keras.Input((*shape, 3))).shape == (None, *shape, 4)


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_one_sigmoid_unit_has_the_risks_of_its_two_classes(shape, rng):
    logits, costs = rows(rng, *shape, 1), np.array([[0.0, 1.0, 0.3], [10.0, 0.0, 0.4]])
    yes = 1 / (1 + np.exp(-logits.astype("float64")))
    probabilities = np.concatenate([1 - yes, yes], axis=-1)
    expected = -expected_costs(probabilities.reshape(-1, 2), costs).reshape(*shape, 3)
    np.testing.assert_allclose(array(MinimumRiskDecision(costs)(logits)), expected, rtol=1e-5, atol=1e-5)
    given = MinimumRiskDecision(costs, from_logits=False)(yes.astype("float32"))
    np.testing.assert_allclose(array(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_half_precision_logits_are_decided_on_in_float32(policy, rng):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((3,))
    logits = keras.layers.Activation("linear")(inputs)
    layer = MinimumRiskDecision(COSTS + 1000.1)  # not to be had in half precision
    model, read = keras.Model(inputs, layer(logits)), keras.Model(inputs, logits)
    data = rows(rng, 8, 3)
    scores, given = model(data), array(read(data)).astype("float64")
    assert keras.backend.standardize_dtype(scores.dtype) == "float32" == model.output.dtype
    np.testing.assert_allclose(array(scores), -expected_costs(softmax(given), COSTS + 1000.1), rtol=1e-6)


def test_masks_pass_through():
    tokens = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(6, 3, mask_zero=True)(tokens)
    outputs = keras.layers.GlobalAveragePooling1D()(MinimumRiskDecision(COSTS)(embedded))
    model = keras.Model(tokens, outputs)
    short, padded = np.array([[1, 2, 1, 2]]), np.array([[1, 2, 0, 0]])  # the mean over two tokens, twice or once
    np.testing.assert_allclose(array(model(short)), array(model(padded)), rtol=1e-5)
    assert np.abs(array(model(short)) - array(model(np.array([[1, 2, 5, 5]])))).max() > 1e-4


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_saved_model_decides_the_same_and_a_config_keeps_every_argument(from_logits, rng, tmp_path):
    layer = MinimumRiskDecision(COSTS, from_logits=from_logits, name="decision")
    copy = MinimumRiskDecision.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.costs.tolist(), copy.from_logits, copy.name) == (COSTS.tolist(), from_logits, "decision")
    inputs = keras.Input((3,))
    model, data = keras.Model(inputs, layer(inputs)), softmax(rows(rng, 8, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))


def test_a_compiled_model_learns_through_the_layer_and_its_costs_stay(rng):
    inputs = keras.Input((5,))
    head = keras.layers.Dense(3)
    model = keras.Model(inputs, MinimumRiskDecision(COSTS)(head(inputs)))
    x, y = rows(rng, 16, 5), np.eye(4)[rng.integers(0, 4, 16)]
    kernel, bias = array(head.kernel).astype("float64"), array(head.bias)
    # The loss is the mean score of a decision that is given: its gradient by the logits is −p·(C − Σ p·C).
    model.compile(keras.optimizers.SGD(0.1), lambda y_true, y_pred: keras.ops.sum(y_true * y_pred, axis=-1))
    loss = model.fit(x, y, batch_size=16, verbose=0).history["loss"][0]
    p = softmax(x.astype("float64") @ kernel + bias)
    cost = (COSTS @ y.T).T  # of each class, under the decision of each example
    expected = (p * cost).sum(-1, keepdims=True)
    np.testing.assert_allclose(loss, -expected.mean(), rtol=1e-5)
    step = 0.1 * x.T @ (p * (cost - expected)) / 16
    np.testing.assert_allclose(array(head.kernel), kernel + step, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(array(model.layers[-1].matrix), COSTS.astype("float32"))
    assert len(model.trainable_weights) == 2
    scores = model.predict(x, verbose=0)
    p = softmax(x @ array(head.kernel) + array(head.bias))
    np.testing.assert_allclose(scores, -expected_costs(p, COSTS), rtol=1e-4, atol=1e-4)


def test_behind_an_adjusted_model_it_decides_for_the_mix_of_the_deployment(rng):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    adjusted = kla.adjust(model, [90, 9, 1], target_prior=[0.2, 0.3, 0.5])
    data = rows(rng, 20, 5)
    scores = array(MinimumRiskDecision(COSTS, from_logits=False)(adjusted(data)))
    p = array(model(data)) / [0.9, 0.09, 0.01] * [0.2, 0.3, 0.5]
    expected = expected_costs(p / p.sum(-1, keepdims=True), COSTS)
    np.testing.assert_allclose(scores, -expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: MinimumRiskDecision([1.0, 2.0]),
            r"finite matrix \[L, D\].*\(2,\).*kla.tune_offsets\(…, objective=costs",
        ),
        (lambda: MinimumRiskDecision(3.0), r"`costs` must be a finite matrix.*\(\)"),
        (lambda: MinimumRiskDecision(np.zeros((2, 3, 3))), r"`costs` must be a finite matrix.*\(2, 3, 3\)"),
        (lambda: MinimumRiskDecision([[1, 2]]), r"`costs` must be a finite matrix.*L ≥ 2.*\(1, 2\)"),
        (lambda: MinimumRiskDecision([[1], [2]]), r"`costs` must be a finite matrix.*D ≥ 2.*\(2, 1\)"),
        (lambda: MinimumRiskDecision([[0, np.nan], [1, 0]]), "`costs` must be a finite matrix"),
        (lambda: MinimumRiskDecision([[0, np.inf], [1, 0]]), "`costs` must be a finite matrix"),
        (lambda: MinimumRiskDecision("high"), "`costs` must be a finite matrix"),
        (lambda: MinimumRiskDecision([[0, 1], [1]]), "`costs` must be a finite matrix"),
        (lambda: MinimumRiskDecision([[0], [1]]), r"2 decisions. Received shape \(2, 1\)"),
        (lambda: MinimumRiskDecision(COSTS, from_logits="no"), "`from_logits` must be True or False"),
        (lambda: MinimumRiskDecision([[0, 1]]), r"2 classes.*Received shape \(1, 2\)"),
        (lambda: MinimumRiskDecision(COSTS)(np.zeros((2, 4))), "the input has 4 classes, `costs` has 3"),
        (lambda: MinimumRiskDecision(1 - np.eye(2))(np.zeros((2, 1, 3))), "the input has 3 classes, `costs` has 2"),
    ],
)
def test_bad_arguments_are_refused_with_rule_value_and_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_softmax_in_front_is_refused_unless_probabilities_were_announced():
    inputs = keras.Input((4,))
    for probabilities in (keras.layers.Dense(3, "softmax")(inputs), keras.layers.Softmax()(inputs[:, :3])):
        with pytest.raises(ValueError, match="takes logits. Received the softmax of layer"):
            MinimumRiskDecision(COSTS)(probabilities)
        MinimumRiskDecision(COSTS, from_logits=False)(probabilities)


def test_a_sigmoid_in_front_is_refused_unless_probabilities_were_announced():
    unit = keras.layers.Dense(1, "sigmoid")(keras.Input((4,)))
    with pytest.raises(ValueError, match="takes logits. Received the sigmoid of layer"):
        MinimumRiskDecision(1 - np.eye(2))(unit)
    assert MinimumRiskDecision(1 - np.eye(2), from_logits=False)(unit).shape == (None, 2)
