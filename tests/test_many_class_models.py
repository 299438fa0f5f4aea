"""The head and model of very many classes: they train as all logits would, and serve the top k."""

import copy
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import array
from helpers.gradients import BACKEND
from keras import ops

import keras_logit_adjust as kla
from keras_logit_adjust.layers import ManyClassDense, ManyClassModel, TopClasses

L, D = 13, 4
COUNTS = np.arange(L, 0, -1) ** 2
EAGER = {"run_eagerly": BACKEND == "tensorflow"}  # where a trace takes longer than the steps


def network(head=None, steps=(), **options):
    """A model of two layers; its last is `head`, by default a `ManyClassDense` of three chunks."""
    inputs = keras.Input((*steps, 3))
    hidden = keras.layers.Masking() if steps else keras.layers.Identity()
    features = keras.layers.Dense(D, "tanh", kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    head = head or ManyClassDense(L, COUNTS, **{"chunk_size": 5, **options})
    maker = ManyClassModel if isinstance(head, ManyClassDense) else keras.Model
    return maker(inputs, head(features(hidden(inputs))))


def dense_twin(model):
    """The same weights with a plain `Dense` head."""
    dense = network(keras.layers.Dense(L), steps=model.input_shape[1:-1])
    dense.set_weights([*model.layers[2].get_weights(), *model.head.to_dense().get_weights()])
    return dense


def logits_of(model, x):
    """All logits of a model, in NumPy."""
    weights, bias = (array(w).astype("float64") for w in model.layers[2].get_weights())
    return np.tanh(x @ weights + bias) @ array(model.head.kernel).T + array(model.head.bias)


def data(rng, *leading):
    return rng.normal(size=(*leading, 3)).astype("float32"), rng.integers(0, L, leading)


@pytest.mark.parametrize(
    "steps", [pytest.param((), id="rows", marks=pytest.mark.slow), pytest.param((3,), id="sequences")]
)
def test_fit_is_that_of_all_logits(rng, steps):
    x, y = data(rng, 8, *steps)
    if steps:
        x[0, 2], x[5, 1:] = 0, 0  # masked
    weight, model = rng.uniform(0.5, 2, 8).astype("float32"), network(steps=steps, tau=0.7)
    dense = dense_twin(model)
    dense.compile(keras.optimizers.SGD(0.5), kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.7))
    model.compile(keras.optimizers.SGD(0.5))
    histories = [m.fit(x, y, sample_weight=weight, batch_size=8, epochs=3, verbose=0) for m in (model, dense)]
    np.testing.assert_allclose(*(history.history["loss"] for history in histories), rtol=1e-5)
    np.testing.assert_allclose(array(model.head.kernel).T, array(dense.layers[-1].kernel), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(model.head.bias), array(dense.layers[-1].bias), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), dense.evaluate(x, y, verbose=0), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"num_rivals": 4}, id="partition"),
        pytest.param(
            {"num_rivals": 6, "estimator": "posterior", "distribution": "prior"}, id="posterior", marks=pytest.mark.slow
        ),
        pytest.param({"num_rivals": "batch"}, id="batch", marks=pytest.mark.slow),
        pytest.param({"num_rivals": 4, "seed": 0}, id="by XLA", marks=pytest.mark.slow),
    ],
)
def test_drawn_rivals_train_and_evaluation_is_exact(rng, options):
    x, y = data(rng, 16)
    model = network(**options)
    xla = BACKEND == "jax" or (BACKEND == "tensorflow" and "seed" in options)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=xla)
    before = model.evaluate(x, y, verbose=0)
    scores = logits_of(model, x) + reference.log_prior(COUNTS)
    exact, _ = reference.over_rows(reference.crossentropy, np.eye(L)[y], scores)
    assert before == pytest.approx(exact.mean(), rel=1e-5)
    losses = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert len(set(losses[:3])) == 3
    assert model.evaluate(x, y, verbose=0) < before - 0.05


def test_the_predictor_gives_the_classes_of_the_largest_logits(rng):
    x, _ = data(rng, 6)
    for chunk_size in (5, 100):
        model = network(chunk_size=chunk_size, kernel_initializer="he_normal")
        model.head.bias.assign(rng.normal(size=L))
        logits, predictor = logits_of(model, x), model.predictor(7)
        assert predictor.layers[-1].head is model.head
        top = predictor.predict(x, verbose=0)
        order = np.argsort(-logits, axis=-1)[:, :7]
        np.testing.assert_array_equal(top["ids"], order)
        np.testing.assert_allclose(top["scores"], np.take_along_axis(logits, order, axis=-1), rtol=1e-5, atol=1e-6)


def test_both_models_come_back_from_a_file(rng, tmp_path):
    x, y = data(rng, 8)
    model = network(num_rivals=4, kernel_regularizer=keras.regularizers.L2(0.01), ignore_class=3)
    model.compile("sgd", **EAGER)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    model.predictor(3).save(tmp_path / "predictor.keras")
    loaded, predictor = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("model", "predictor"))
    expected = model.predictor(3).predict(x, verbose=0)
    keras.tree.map_structure(np.testing.assert_array_equal, predictor.predict(x, verbose=0), expected)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [m.fit(x, y, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_many_counts_live_in_the_weights(rng, tmp_path):
    counts, x = np.arange(10_001, 0, -1), rng.normal(size=(4, 3)).astype("float32")
    inputs = keras.Input((3,))
    model = ManyClassModel(inputs, ManyClassDense(10_001, counts, num_rivals=20, dtype="float32")(inputs))
    model.save(tmp_path / "model.keras")
    assert model.head.get_config()["class_counts"] is None
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.head.prior.probabilities, counts / counts.sum(), rtol=1e-6)
    assert np.isfinite(float(array(loaded.head.loss(np.array([0, 1, 2, 10_000]), x))))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="SavedModel is TensorFlow's")
def test_a_saved_model_gives_the_same_top_classes(rng, tmp_path):
    import tensorflow as tf

    x, _ = data(rng, 5)
    predictor = network().predictor(3)
    predictor.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    keras.tree.map_structure(np.testing.assert_array_equal, dict(loaded.serve(x)), predictor.predict(x, verbose=0))


@pytest.mark.parametrize("policy", [pytest.param("mixed_float16", marks=pytest.mark.slow), "mixed_bfloat16"])
def test_mixed_precision_keeps_the_kernel_and_its_scores_in_float32(rng, policy):
    keras.config.set_dtype_policy(policy)
    x, y = data(rng, 8)
    model = network()
    model.compile("sgd", **EAGER)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    assert model.head.kernel.dtype == "float32"
    assert model.predictor(2).output["scores"].dtype == "float32"


def test_weights_are_float32_where_all_others_have_half_the_digits():
    keras.config.set_dtype_policy("bfloat16")
    assert [weight.dtype for weight in network().head.weights] == ["float32"] * 3


def test_every_number_of_a_penalty_is_added_to_the_loss(rng):
    class Penalty(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.convert_to_tensor([1.0, 20.0]))
            return inputs

    x, y = data(rng, 4)
    inputs = keras.Input(x.shape[1:])
    head = ManyClassDense(L, COUNTS, kernel_initializer="zeros")
    values = []
    for body in (keras.layers.Identity(), Penalty()):
        model = ManyClassModel(inputs, head(body(inputs)))
        model.compile("sgd", run_eagerly=True)
        values.append(model.evaluate(x, y, verbose=0))
    assert values[1] - values[0] == pytest.approx(21.0)


def test_a_head_without_counts_does_not_pass_for_one_with_a_prior(rng):
    head = ManyClassDense(L, None, num_rivals=3)
    model = network(head)
    model.compile("sgd", run_eagerly=True)
    x, y = data(rng, 4)
    assert np.isnan(model.evaluate(x, y, verbose=0))
    with pytest.raises(ValueError, match="does not know its class counts.*load weights"):
        model.fit(x, y, verbose=0)


def all_scores(model):
    """The model whose last layer is a plain `Dense` of the head."""
    return keras.Model(model.input, model.head.to_dense()(model.head.input))


@pytest.mark.parametrize("activation", [pytest.param(None, marks=pytest.mark.slow), "softmax"])
def test_a_dense_head_moves_in_and_out(rng, activation):
    x, y = data(rng, 8)
    dense = network(keras.layers.Dense(L, activation, bias_initializer="normal", name="head"))
    head = ManyClassDense.from_dense(dense.layers[-1], COUNTS, tau=0, chunk_size=5)
    model = ManyClassModel(dense.input, head(dense.layers[-1].input))
    assert head.name == "head"
    scores = logits_of(model, x)
    expected = array(dense(x))
    found = keras.ops.convert_to_numpy(keras.ops.softmax(scores)) if activation else scores
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(all_scores(model)(x)), scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(array(model.predictor(1)(x)["ids"])[:, 0], expected.argmax(axis=-1))
    before = array(dense.layers[-1].kernel)
    model.compile(keras.optimizers.SGD(0.1), **EAGER)
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(array(dense.layers[-1].kernel), before)  # a copy
    assert np.ptp(array(model.head.kernel).T - before) > 1e-4


def test_a_head_comes_from_nothing_but_a_dense_layer_of_logits():
    built = keras.layers.Dense(L, "relu")
    built.build((None, D))
    with pytest.raises(ValueError, match="`dense` must give logits or their softmax.*relu"):
        ManyClassDense.from_dense(built, COUNTS)
    for layer in (keras.layers.Dense(L), keras.layers.Embedding(L, D)):
        with pytest.raises(ValueError, match="`dense` must be a `keras.layers.Dense` with weights, not quantized"):
            ManyClassDense.from_dense(layer, COUNTS)
    built = kla.layers.PriorAwareDense(L, COUNTS)
    built.build((None, D))
    with pytest.raises(ValueError, match=r"a PriorAwareDense, which has a `call` of its own.*`to_dense\(\)`"):
        ManyClassDense.from_dense(built, COUNTS)
    assert ManyClassDense.from_dense(built.to_dense(), COUNTS).units == L
    built = keras.layers.Dense(L, use_bias=False)
    built.build((None, D))
    assert ManyClassDense.from_dense(built, COUNTS).bias is None
    with pytest.raises(ValueError, match=f"units={L}.*7 classes|7.*{L}|{L}.*7"):
        ManyClassDense.from_dense(built, COUNTS[:7])
    for option, value in {"use_bias": True, "units": L}.items():
        with pytest.raises(ValueError, match=f"`{option}` must be that of `dense`, .*{option}={value}. Leave it out"):
            ManyClassDense.from_dense(built, COUNTS, **{option: value})


BAD = {
    "units": ({"units": 5}, r"units=5 has 5 classes|class_counts.*5"),
    "tau": ({"tau": -1.0}, "`tau` must be a number of at least 0"),
    "tau of fewer classes": ({"tau": [1.0] * 3}, f"`tau` must be a number or a vector of {L} numbers"),
    "tau below 0": ({"tau": [1.0] * (L - 1) + [-0.5]}, rf"`tau` must be at least 0.*\[-0.5\] at class {L - 1}"),
    "no tau": ({"tau": None}, "`tau` must be a number of at least 0"),
    "smoothing": ({"num_rivals": 3, "label_smoothing": 0.1}, "`label_smoothing` must be 0 with drawn rivals"),
    "rivals": ({"num_rivals": L + 1}, "Without replacement `num_rivals` must be at most"),
    "chunk": ({"chunk_size": 0}, "`chunk_size` must be an integer of at least 1"),
    "estimator": ({"estimator": "exact"}, "`estimator` must be one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_head_with_bad_options_is_refused(case):
    change, match = BAD[case]
    with pytest.raises(ValueError, match=match):
        ManyClassDense(**{"units": L, "class_counts": COUNTS, **change})


def test_a_model_without_its_head_and_too_large_a_k_are_refused(rng):
    inputs = keras.Input((3,))
    model = ManyClassModel(inputs, keras.layers.Dense(L)(inputs))
    with pytest.raises(ValueError, match="must have one `ManyClassDense`.*Received 0"):
        model.predictor(1)
    with pytest.raises(ValueError, match=f"`k` must be an integer of at least 1 and at most {L}"):
        TopClasses(ManyClassDense(L, COUNTS), k=L + 1)
    with pytest.raises(ValueError, match="has no weights yet"):
        ManyClassDense(L, COUNTS).to_dense()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, "has the loss of its head. Received: loss='mse'"),
        ({"metrics": ["accuracy"]}, r"metrics would measure nothing.*`model.predictor\(k\)`"),
        ({"weighted_metrics": ["accuracy"]}, r"metrics would measure nothing.*`model.predictor\(k\)`"),
    ],
)
def test_a_loss_or_metrics_of_features_are_refused(options, message):
    inputs = keras.Input((3,))
    model = ManyClassModel(inputs, ManyClassDense(L, COUNTS)(inputs))
    model.compile("sgd", run_eagerly=True, **options)
    with pytest.raises(ValueError, match=message):
        model.evaluate(np.ones((2, 3)), np.array([0, 1]), verbose=0)


def test_the_head_passes_features_on(rng):
    x = ops.convert_to_tensor(rng.normal(size=(2, 3)).astype("float32"))
    np.testing.assert_array_equal(array(ManyClassDense(L, COUNTS)(x)), array(x))


def test_the_ids_of_a_predictor_are_int32_on_every_backend(rng):
    inputs = keras.Input((4,))
    model = ManyClassModel(inputs, ManyClassDense(7, [7, 6, 5, 4, 3, 2, 1], chunk_size=3)(inputs))
    found = model.predictor(2)(rng.normal(size=(3, 4)).astype("float32"))
    assert keras.backend.standardize_dtype(found["ids"].dtype) == "int32"


@pytest.mark.parametrize("own_input", [False, True])
def test_models_that_share_a_head_have_predictors_of_their_own(own_input, rng):
    inputs, head = keras.Input((4,)), ManyClassDense(7, [7, 6, 5, 4, 3, 2, 1])
    ManyClassModel(inputs, head(keras.layers.Dense(4)(inputs)))
    inputs = keras.Input((4,)) if own_input else inputs
    model, x = ManyClassModel(inputs, head(keras.layers.Dense(4)(inputs))), rng.normal(size=(12, 4)).astype("float32")
    scores = array(model(x)).astype("float64") @ array(head.kernel).T + array(head.bias)
    np.testing.assert_array_equal(array(model.predictor(3)(x)["ids"]), np.argsort(-scores)[:, :3])


def test_a_layer_behind_the_head_is_refused(rng):
    inputs = keras.Input((4,))
    outputs = keras.layers.UnitNormalization(name="unit")(ManyClassDense(7, [7, 6, 5, 4, 3, 2, 1])(inputs))
    model = ManyClassModel(inputs, outputs)
    model.compile("sgd")
    for use in (lambda: model.predictor(2), lambda: model.fit(np.ones((3, 4)), np.array([0, 1, 2]), verbose=0)):
        with pytest.raises(ValueError, match="must end in its `ManyClassDense`. Received an output of 'unit'"):
            use()


def padded(num_rivals):
    """A model of padded positions, and its data."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    features = keras.layers.Embedding(10, 5, mask_zero=True)(inputs)
    model = ManyClassModel(inputs, ManyClassDense(6, [60, 50, 40, 30, 20, 10], num_rivals=num_rivals)(features))
    model.compile(keras.optimizers.SGD(0.5))
    return model, np.array([[1, 2, 0, 0], [3, 4, 5, 0]]), np.array([[0, 2, 9, 9], [1, 3, 4, 9]])


@pytest.mark.parametrize("num_rivals", [None, 3, "batch"])
def test_labels_of_padding_change_neither_loss_nor_weights(num_rivals):
    found = []
    for padding in (0, 5, -1):
        model, x, y = padded(num_rivals)
        losses = model.fit(x, np.where(y == 9, padding, y), epochs=3, verbose=0).history["loss"]
        found.append([*losses, *array(model.head.kernel).ravel()])
    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-5, atol=1e-6)


def test_a_subclass_with_a_call_of_its_own_trains():
    program = pathlib.Path(__file__).with_name("helpers") / "own_many_class_model.py"
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_head_without_weights_can_be_copied():
    head = copy.deepcopy(ManyClassDense(5, [5, 4, 3, 2, 1], tau=0.5))
    assert (head.units, head.tau, head.built) == (5, 0.5, False)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless a process asks for it")
def test_under_a_policy_of_float64_an_adjusted_head_stays_in_float32(rng):
    keras.config.set_dtype_policy("float64")
    inputs, counts = keras.Input((4,)), [7, 6, 5, 4, 3, 2, 1]
    model, x = ManyClassModel(inputs, ManyClassDense(7, counts, tau=0.0)(inputs)), rng.normal(size=(5, 4))
    adjusted = kla.adjust(model, counts, calibration=kla.Calibration(2.0, np.arange(7) / 5))
    found = adjusted.predictor(7)(x)
    scores = (x @ array(model.head.kernel).T + array(model.head.bias)) / 2 + np.arange(7) / 5 - np.log(counts)
    scores = -np.sort(-(scores + np.log(np.sum(counts))))
    np.testing.assert_allclose(array(found["scores"]), scores, rtol=1e-5, atol=1e-5)
