"""The adjustment as a layer: values, precision, changing it in use, configs, saved models and equal training."""

import json

import keras
import numpy as np
import pytest
from helpers.arrays import array, as_float64
from reference import softmax

import keras_logit_adjust as kla
from keras_logit_adjust.layers import Calibration, CosineDense, LogitAdjustment, MinimumRiskDecision, PriorAwareDense

COUNTS = [437_000, 511, 2]
TARGET = [0.2, 0.3, 0.5]
VECTOR = [0.5, 1.0, 3.0]
POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
MANY = np.arange(1, 10_002, dtype="float64")


def adjustment(counts=COUNTS, tau=1.0, target=None):
    """τ·log π − log target in float64."""
    counts = np.asarray(counts, "float64")
    value = np.asarray(tau) * np.log(counts / counts.sum())
    return value if target is None else value - np.log(np.asarray(target) / np.sum(target))


def assert_rounded(actual, expected):
    """Equal up to the rounding of a float32 sum."""
    actual = array(actual)
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=4 * 2.0**-24 * np.abs(expected).max())


def logits_like(rng, *shape):
    return rng.normal(0, 4, (*shape, len(COUNTS))).astype("float32")


def adjusted_model(**kwargs):
    inputs = keras.Input((3,))
    return keras.Model(inputs, LogitAdjustment(COUNTS, **kwargs)(inputs))


def head_model(layer, width=4):
    inputs = keras.Input((width,))
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("target", [None, TARGET, [2, 3, 5]])
@pytest.mark.parametrize("tau", [0.0, 1.0, 3, VECTOR])
def test_the_layer_subtracts_the_log_prior_and_adds_the_log_target(rng, tau, target, shape):
    logits = logits_like(rng, *shape)
    layer = LogitAdjustment(COUNTS, tau=tau, target_prior=target)
    assert_rounded(layer(logits), logits - adjustment(tau=tau, target=target))
    kept = None if target is None else np.divide(target, np.sum(target)).tolist()
    assert layer.target_prior is kept or layer.target_prior.tolist() == pytest.approx(kept)


def test_the_rarest_class_is_lifted_in_full():
    out = LogitAdjustment([437_511, 2], tau=3)(np.zeros((1, 2), "float32"))
    assert_rounded(out, [[3 * np.log(437_513 / 437_511), 3 * np.log(437_513 / 2)]])
    assert array(out)[0, 1] > 36.8


@pytest.mark.parametrize("target", [None, [0.5, 0.5, 0.01]])
def test_independent_labels_are_adjusted_by_their_log_odds(rng, target):
    counts, examples, logits = np.array([1.0, 500, 999]), 1000, logits_like(rng, 4)
    expected = logits - 0.5 * np.log(counts / (examples - counts))
    if target is not None:
        expected = expected + np.log(np.array(target) / (1 - np.array(target)))
    layer = LogitAdjustment(counts, tau=0.5, num_examples=examples, target_prior=target)
    assert_rounded(layer(logits), expected)
    layer.set(class_counts=counts[::-1])  # of as many examples
    assert_rounded(layer(logits), expected + 0.5 * np.log(counts / (examples - counts)) * 2)


def test_strength_zero_is_the_identity_a_uniform_prior_keeps_probabilities(rng):
    logits = logits_like(rng, 6)
    np.testing.assert_array_equal(array(LogitAdjustment(COUNTS, tau=0)(logits)), logits)
    even = keras.ops.softmax(LogitAdjustment([7, 7, 7])(logits))
    np.testing.assert_allclose(array(even), array(keras.ops.softmax(logits)), rtol=1e-5)


def test_a_sampler_stands_for_the_prior_it_gives(rng):
    class Sampler:
        effective_prior = np.array(TARGET)

    logits = logits_like(rng, 2)
    assert_rounded(LogitAdjustment(Sampler())(logits), logits - np.log(TARGET))
    assert_rounded(
        PriorAwareDense(3, Sampler(), kernel_initializer="zeros")(logits, training=True), [np.log(TARGET)] * 2
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_float32_logits_are_not_rounded_under_a_mixed_policy(rng, policy):
    keras.config.set_dtype_policy(policy)
    layer = LogitAdjustment(COUNTS, tau=3)
    logits = logits_like(rng, 5)
    assert_rounded(layer(logits), logits - adjustment(tau=3))
    assert_rounded(layer(keras.ops.convert_to_tensor(logits)), logits - adjustment(tau=3))
    inputs = keras.Input((3,), dtype="float32")
    model = keras.Model(inputs, LogitAdjustment(COUNTS, tau=3)(keras.layers.Dense(3, dtype="float32")(inputs)))
    model.layers[1].set_weights([np.eye(3), np.zeros(3)])
    assert_rounded(model(logits), logits - adjustment(tau=3))
    assert layer.adjustment.dtype == "float32"
    assert layer.trainable_weights == []
    assert [weight.path.split("/")[-1] for weight in layer.non_trainable_weights] == ["adjustment"]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless a process asks for it")
def test_float64_logits_stay_float64_symbolic_and_eager(rng):
    logits = keras.ops.convert_to_tensor(logits_like(rng, 5), dtype="float64")
    layers = [LogitAdjustment(COUNTS, dtype="float64"), CosineDense(4, dtype="float64")]
    layers += [MinimumRiskDecision(1 - np.eye(3), dtype="float64")]
    if keras.backend.backend() == "tensorflow":  # on torch Keras's own `Dense` gives float32
        layers += [PriorAwareDense(3, COUNTS, dtype="float64")]
    for layer in layers:
        symbol, value = layer(keras.KerasTensor((5, 3), dtype="float64")), layer(logits)
        assert symbol.dtype == keras.backend.standardize_dtype(value.dtype) == "float64"
        assert symbol.shape == tuple(value.shape)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless a process asks for it")
def test_float64_logits_keep_their_digits(rng):
    logits, costs = rng.normal(size=(5, 3)), rng.random((3, 2))
    layer = LogitAdjustment(COUNTS, tau=0.3, target_prior=[1, 2, 5], calibration=Calibration(1.7), dtype="float64")
    expected = logits / 1.7 - adjustment(tau=0.3, target=[1, 2, 5])
    np.testing.assert_allclose(as_float64(layer(logits)), expected, rtol=0, atol=1e-14)
    layer.set(tau=0.7)
    expected = logits / 1.7 - adjustment(tau=0.7, target=[1, 2, 5])
    np.testing.assert_allclose(as_float64(layer(logits)), expected, rtol=0, atol=1e-14)
    scores = MinimumRiskDecision(costs, dtype="float64")(logits)
    np.testing.assert_allclose(as_float64(scores), -softmax(logits) @ costs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
def test_symbolic_and_eager_results_agree_in_type_and_shape(policy, dtype):
    keras.config.set_dtype_policy(policy)
    for layer in (LogitAdjustment(COUNTS), PriorAwareDense(3, COUNTS), CosineDense(3)):
        symbol, value = layer(keras.KerasTensor((2, 5, 3), dtype=dtype)), layer(keras.ops.zeros((2, 5, 3), dtype=dtype))
        assert symbol.dtype == keras.backend.standardize_dtype(value.dtype) == "float32"
        assert symbol.shape == tuple(value.shape) == (2, 5, 3)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("tau", "target"), [(1.0, None), (VECTOR, TARGET)])
def test_the_head_adds_in_training_only_and_stays_in_float32(rng, policy, tau, target):
    keras.config.set_dtype_policy(policy)
    layer = PriorAwareDense(3, COUNTS, tau=tau, target_prior=target, bias_initializer="ones")
    x = np.round(rng.normal(size=(4, 2, 5)) * 4).astype("float32") / 4
    served = layer(x)
    assert keras.backend.standardize_dtype(served.dtype) == "float32"
    plain = keras.layers.Dense(3)
    plain.build(x.shape)
    plain.set_weights([array(layer.kernel), array(layer.bias)])
    np.testing.assert_array_equal(array(served), array(keras.ops.cast(plain(x), "float32")))
    np.testing.assert_array_equal(array(layer(x, training=False)), array(served))
    assert_rounded(layer(x, training=True), array(served) + adjustment(tau=tau, target=target))
    assert len(layer.trainable_weights) == 2
    assert layer.adjustment.dtype == "float32"


def test_a_model_in_training_mode_reaches_the_head(rng):
    model, x = head_model(PriorAwareDense(3, COUNTS)), rng.normal(size=(2, 4)).astype("float32")
    assert_rounded(model(x, training=True), array(model(x)) + adjustment())
    np.testing.assert_array_equal(model.predict(x, verbose=0), array(model(x, training=False)))


@pytest.mark.parametrize("tau", [VECTOR, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_head_trains_like_a_dense_layer_under_the_adjusted_loss(rng, tau):
    counts = [40, 15, 5]
    y = np.repeat(np.arange(3), counts)
    x = (rng.normal(size=(60, 4)) + np.eye(4)[y]).astype("float32")
    head, dense = head_model(PriorAwareDense(3, counts, tau=tau)), head_model(keras.layers.Dense(3))
    start = [rng.normal(size=(4, 3)), rng.normal(size=3)]
    for model in (head, dense):
        for variable, value in zip(model.trainable_variables, start, strict=True):
            variable.assign(value)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    histories = []
    for model, loss in ((head, plain), (dense, kla.losses.LogitAdjustedCrossentropy(counts, tau=tau))):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        fit = model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0)
        histories.append(fit.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)
    for ours, theirs, first in zip(head.trainable_variables, dense.trainable_variables, start, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=1e-6)
        assert np.abs(array(ours) - first).max() > 0.1
    np.testing.assert_allclose(head.predict(x, verbose=0), dense.predict(x, verbose=0), atol=1e-5)


def test_set_changes_what_a_compiled_model_predicts(rng):
    logits = logits_like(rng, 4)
    model = adjusted_model()
    model.compile("sgd", "mse")
    layer = model.layers[-1]
    assert_rounded(model.predict(logits, verbose=0), logits - adjustment())
    layer.set(tau=0.25)
    assert_rounded(model.predict(logits, verbose=0), logits - adjustment(tau=0.25))
    layer.set(target_prior=TARGET)
    assert_rounded(model.predict(logits, verbose=0), logits - adjustment(tau=0.25, target=TARGET))
    layer.set(tau=VECTOR)
    assert_rounded(model.predict(logits, verbose=0), logits - adjustment(tau=VECTOR, target=TARGET))
    layer.set(target_prior="uniform", class_counts=[5, 6, 7])
    assert_rounded(model.predict(logits, verbose=0), logits - adjustment([5, 6, 7], VECTOR))
    assert layer.get_config()["class_counts"] == [5, 6, 7]
    assert_rounded(keras.models.clone_model(model)(logits), logits - adjustment([5, 6, 7], VECTOR))


def test_set_changes_a_head_that_is_training(rng):
    taus = [0.0, 1.0, 2.0, 0.5]
    x, y = rng.normal(size=(8, 4)).astype("float32"), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    layer = PriorAwareDense(3, COUNTS, tau=taus[0])
    model = head_model(layer)
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: layer.set(tau=taus[min(epoch + 1, 3)]))
    losses = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[first]).history["loss"]
    second = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: layer.set(tau=taus[3]))
    losses += model.fit(x, y, batch_size=4, epochs=1, verbose=0, callbacks=[second]).history["loss"]
    served = model.predict(x, verbose=0).astype("float64")
    for tau, loss in zip(taus, losses, strict=True):
        scores = served + adjustment(tau=tau)
        expected = np.mean(np.log(np.exp(scores).sum(-1)) - scores[np.arange(8), y])
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_set_before_building_counts_too(rng):
    layer, logits = LogitAdjustment(COUNTS), logits_like(rng, 2)
    layer.set(tau=2, target_prior=TARGET)
    assert_rounded(layer(logits), logits - adjustment(tau=2, target=TARGET))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": "x"}, "`tau` must be a number"),
        ({"tau": [1, 2]}, r"`tau` must be a number or a vector of 3 numbers.*\(2,\)"),
        ({"target_prior": "flat"}, "`target_prior` must be one of 'uniform'.*'flat'"),
        ({"target_prior": [1, 1]}, "`target_prior` must have one number for each class.*3 classes.*has 2"),
        ({"target_prior": [1, 0, 1]}, "`target_prior` must be greater than zero.*class 1"),
        ({"class_counts": [1, 2, 3, 4]}, "`class_counts` must have one number for each class.*has 3 classes.*has 4"),
        ({"class_counts": [1, -2, 3]}, "`class_counts` must be greater than zero.*class 1"),
    ],
)
def test_a_refused_change_leaves_the_layer_as_it_was(rng, change, message):
    layer, logits = LogitAdjustment(COUNTS, tau=2, target_prior=TARGET), logits_like(rng, 2)
    before, config = array(layer(logits)), layer.get_config()
    with pytest.raises(ValueError, match=message):
        layer.set(**change)
    np.testing.assert_array_equal(array(layer(logits)), before)
    assert layer.get_config() == config


LAYERS = {
    "adjustment": lambda: LogitAdjustment(COUNTS, tau=VECTOR, target_prior=[2, 1, 1], name="shift"),
    "log-odds": lambda: LogitAdjustment([9, 1, 5], tau=2.0, target_prior=[0.5, 0.25, 0.75], num_examples=10),
    "head": lambda: PriorAwareDense(3, COUNTS, tau=VECTOR, target_prior=[2, 1, 1], name="head"),
    "unbiased head": lambda: PriorAwareDense(3, COUNTS, tau=0.5, use_bias=False, kernel_regularizer="l2"),
    "cosine": lambda: CosineDense(3, scale=7, kernel_initializer="he_normal", name="cosine"),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def test_the_shape_of_the_result_is_a_tuple():
    assert LogitAdjustment([3, 1]).compute_output_shape([None, 2]) == (None, 2)


@every_layer
def test_a_config_round_trip_keeps_every_argument(name):
    layer = LAYERS[name]()
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    x = np.ones((1, 3), "float32")
    layer(x), copy(x)
    if name != "cosine":
        np.testing.assert_array_equal(array(copy.adjustment), array(layer.adjustment))
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


@pytest.mark.filterwarnings("ignore:.*trains with a loss that knows no prior")
@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, "float32") for name in LAYERS), ("adjustment", "mixed_bfloat16"), ("head", "mixed_bfloat16")],
)
def test_a_trained_and_saved_model_predicts_the_same_bits(rng, tmp_path, name, policy):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, LAYERS[name]()(keras.layers.Dense(3)(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)  # files are looked at, not traces
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.integers(0, 3, 8)
    model.fit(x, y, epochs=1, verbose=0)
    if name != "cosine":
        fresh = LAYERS[name]()
        fresh.build((None, 3))
        np.testing.assert_array_equal(array(model.layers[-1].adjustment), array(fresh.adjustment))
        model.layers[-1].set(tau=0.75)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("name", ["adjustment", "head"])
def test_a_cloned_model_keeps_the_adjustment(rng, name):
    model = head_model(LAYERS[name](), width=3)
    clone = keras.models.clone_model(model)
    assert_rounded(clone.layers[-1].adjustment, adjustment(tau=VECTOR, target=[2, 1, 1]))
    assert clone.layers[-1].adjustment is not model.layers[-1].adjustment


@pytest.mark.parametrize("build", [LogitAdjustment, lambda counts, **kw: PriorAwareDense(counts.size, counts, **kw)])
def test_beyond_ten_thousand_classes_a_copy_says_nan_until_weights_load(rng, tmp_path, build):
    assert build(MANY[:-1]).get_config()["class_counts"] == MANY[:-1].tolist()
    model = head_model(build(MANY, tau=0.5), width=MANY.size if build is LogitAdjustment else 2)
    config = model.layers[-1].get_config()
    assert config["class_counts"] is None
    assert len(json.dumps(config)) < 2000
    x = rng.normal(size=(1, model.input_shape[1])).astype("float32")
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    copy = keras.models.clone_model(model)
    for training in (False, True):
        expected = array(model(x, training=training))
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(array(reloaded(x, training=training)), expected)
        if training or build is LogitAdjustment:
            assert np.isnan(array(copy(x, training=training))).all()
    assert_rounded(reloaded.layers[-1].adjustment, adjustment(MANY, 0.5))
    for change in ({"tau": 1.0}, {"class_counts": MANY}):
        with pytest.raises(ValueError, match="does not know its class counts.*Give `class_counts` and `tau` together"):
            copy.layers[-1].set(**change)
    copy.layers[-1].set(class_counts=MANY, tau=2)
    assert_rounded(copy.layers[-1].adjustment, adjustment(MANY, 2))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_to_dense_serves_the_same_from_weights_of_its_own(rng, policy, use_bias):
    keras.config.set_dtype_policy(policy)
    layer = PriorAwareDense(3, COUNTS, use_bias=use_bias, bias_initializer="ones", dtype=policy)
    x = np.round(rng.normal(size=(4, 5)) * 2).astype("float32")
    layer.build(x.shape)
    layer.kernel.assign(np.round(rng.normal(size=(5, 3)) * 8) / 8)  # exact in bfloat16 too
    before = array(layer(x))
    dense = layer.to_dense()
    assert type(dense) is keras.layers.Dense
    assert len(dense.weights) == 1 + use_bias
    np.testing.assert_array_equal(array(dense(x)), before)
    assert keras.backend.standardize_dtype(dense(x).dtype) == "float32"
    dense.kernel.assign(np.zeros((5, 3)))
    np.testing.assert_array_equal(array(layer(x)), before)


@every_layer
def test_masks_pass_through_every_layer(name):
    tokens = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(6, 3, mask_zero=True)(tokens)
    outputs = keras.layers.GlobalAveragePooling1D()(LAYERS[name]()(embedded))
    model = keras.Model(tokens, outputs)
    short, padded = np.array([[1, 2, 1, 2]]), np.array([[1, 2, 0, 0]])  # the mean over two tokens, twice or once
    np.testing.assert_allclose(array(model(short)), array(model(padded)), rtol=1e-6)
    assert np.abs(array(model(short)) - array(model(np.array([[1, 2, 5, 5]])))).max() > 1e-4


def test_the_weight_of_a_cosine_head_is_its_kernel():
    layer = CosineDense(3)
    layer.build((None, 2))
    assert [weight.name for weight in layer.weights] == ["kernel"]


def test_to_dense_serves_what_lora_trained(rng):
    layer, x = PriorAwareDense(3, COUNTS), rng.normal(size=(5, 4)).astype("float32")
    layer.build((None, 4))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(rng.normal(size=layer.lora_kernel_b.shape))
    np.testing.assert_allclose(array(layer.to_dense()(x)), array(layer(x)), rtol=1e-5, atol=1e-5)


def test_counts_of_labels_change_with_their_number_of_examples():
    layer = LogitAdjustment([10, 20], num_examples=100)
    layer.build((None, 2))
    layer.set(class_counts=kla.priors.as_prior([500, 90], 1000))
    np.testing.assert_allclose(layer.values, np.log([1, 90 / 910]), rtol=1e-12, atol=1e-12)
    assert layer.num_examples == 1000
    layer.set(class_counts=[250, 90])
    np.testing.assert_allclose(layer.values, np.log([250 / 750, 90 / 910]), rtol=1e-12)
    with pytest.raises(ValueError, match="`num_examples` must be that of the prior"):
        layer.set(class_counts=kla.priors.as_prior([500, 90]))
