"""Models of many classes trained plain, then adjusted or folded: in the head, by chunks, served as the top classes."""

import keras
import numpy as np
import pytest
from helpers.arrays import array
from helpers.gradients import BACKEND

import keras_logit_adjust as kla

L, D = 13, 4
COUNTS = np.arange(L, 0, -1) ** 2
LOG_PRIOR = np.log(COUNTS / COUNTS.sum())


def plain(rng, *, units=L, counts=COUNTS, use_bias=True, **options):
    """A `ManyClassModel` for the plain loss, with a random bias."""
    inputs = keras.Input((3,), name="x")
    features = keras.layers.Dense(D, "tanh", name="hidden")(inputs)
    options = {"tau": 0, "chunk_size": 5, "use_bias": use_bias, "name": "head", **options}
    model = kla.layers.ManyClassModel(inputs, kla.layers.ManyClassDense(units, counts, **options)(features), name="m")
    if use_bias:
        model.head.bias.assign(rng.normal(size=units))
    return model


def scores_of(model, x):
    """All scores of the head, unadjusted, in float64."""
    weights, bias = (array(w).astype("float64") for w in model.get_layer("hidden").get_weights())
    scores = np.tanh(x @ weights + bias) @ array(model.head.kernel).T
    return scores if model.head.bias is None else scores + array(model.head.bias)


def check_top(top, scores):
    order = np.argsort(-scores, axis=-1)[:, :4]
    np.testing.assert_array_equal(top["ids"], order)
    np.testing.assert_allclose(top["scores"], np.take_along_axis(scores, order, axis=-1), rtol=1e-5, atol=2e-6)


CALIBRATION = kla.Calibration(1.7, np.linspace(-1, 1, L))
WAYS = {
    "adjusted": (kla.adjust, lambda model: model.predictor(4)),
    "folded": (kla.fold_into_bias, lambda model: model.predictor(4)),
    "predictor-adjusted": (lambda model, *args, **kw: kla.adjust(model.predictor(4), *args, **kw), lambda model: model),
    "predictor-folded": (
        lambda model, *args, **kw: kla.fold_into_bias(model.predictor(4), *args, **kw),
        lambda model: model,
    ),
}
OPTIONS = {
    "plain": ({}, -LOG_PRIOR),
    "target": (
        {"tau": np.linspace(0, 2, L), "target_prior": COUNTS[::-1]},
        LOG_PRIOR[::-1] - np.linspace(0, 2, L) * LOG_PRIOR,
    ),
    "calibrated": ({"calibration": CALIBRATION}, CALIBRATION.bias - LOG_PRIOR),
}


CASES = [
    *[("adjusted", True, name) for name in OPTIONS],
    *[("folded", False, name) for name in OPTIONS],
    ("predictor-adjusted", False, "calibrated"),
    ("predictor-folded", True, "calibrated"),
]


@pytest.mark.parametrize(("way", "use_bias", "name"), CASES)
def test_the_top_classes_are_those_of_the_adjusted_scores(rng, way, use_bias, name):
    x, model = rng.normal(size=(6, 3)).astype("float32"), plain(rng, use_bias=use_bias)
    (change, serve), (options, shift) = WAYS[way], OPTIONS[name]
    scores, before = scores_of(model, x), model.get_weights()
    top = serve(change(model, COUNTS, **options)).predict(x, verbose=0)
    check_top(top, (scores / 1.7 if name == "calibrated" else scores) + shift)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_adjusted_model_shares_its_weights_and_a_folded_one_does_not(rng):
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.integers(0, L, 8)
    model = plain(rng)
    adjusted, folded = kla.adjust(model, COUNTS), kla.fold_into_bias(model, COUNTS)
    old = folded.predictor(4).predict(x, verbose=0)
    assert (adjusted.name, folded.name) == ("m_adjusted", "m")
    model.compile(keras.optimizers.SGD(0.5))
    model.fit(x, y, verbose=0)
    check_top(adjusted.predictor(4).predict(x, verbose=0), scores_of(model, x) - LOG_PRIOR)
    np.testing.assert_array_equal(folded.predictor(4).predict(x, verbose=0)["scores"], old["scores"])
    served = adjusted.predictor(4)
    adjusted.head.adjustment.set(tau=0.3)
    check_top(served.predict(x, verbose=0), scores_of(model, x) - 0.3 * LOG_PRIOR)


def test_the_loss_of_an_adjusted_model_is_that_of_its_scores(rng):
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.integers(0, L, 8)
    model = plain(rng)
    adjusted = kla.adjust(model, COUNTS, calibration=CALIBRATION)
    adjusted.compile(keras.optimizers.SGD(0.0))
    scores = scores_of(model, x) / 1.7 + CALIBRATION.bias - LOG_PRIOR
    expected = np.log(np.exp(scores).sum(axis=-1)) - scores[np.arange(8), y]
    assert adjusted.evaluate(x, y, verbose=0) == pytest.approx(expected.mean(), rel=1e-5)
    dense = keras.Model(adjusted.input, adjusted.head.to_dense()(adjusted.head.input))
    np.testing.assert_allclose(dense.predict(x, verbose=0), scores, rtol=1e-5, atol=2e-6)
    with pytest.warns(UserWarning, match="'m_adjusted' is adjusted by layer 'logit_adjustment' and trains a loss that"):
        adjusted.fit(x, y, verbose=0)


@pytest.mark.parametrize("change", [kla.adjust, kla.fold_into_bias])
def test_files_of_adjusted_models_serve_the_same_bits(rng, change, tmp_path):
    x = rng.normal(size=(6, 3)).astype("float32")
    changed = change(plain(rng), COUNTS, calibration=CALIBRATION)
    expected = changed.predictor(4).predict(x, verbose=0)
    changed.save(tmp_path / "model.keras")
    changed.predictor(4).save(tmp_path / "predictor.keras")
    model, predictor = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("model", "predictor"))
    for loaded in (model.predictor(4), predictor):
        keras.tree.map_structure(np.testing.assert_array_equal, loaded.predict(x, verbose=0), expected)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        predictor.export(tmp_path / "served", verbose=False)
        served = tf.saved_model.load(tmp_path / "served")
        keras.tree.map_structure(np.testing.assert_array_equal, dict(served.serve(x)), expected)


@pytest.mark.parametrize("units", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_folded_scores_of_many_classes_are_the_adjusted_ones(rng, units, tmp_path):
    counts = np.maximum(1, 1e6 / np.arange(1, units + 1)).astype(int)
    model = plain(rng, units=units, counts=counts, chunk_size=8192, kernel_initializer="he_normal")
    x = rng.normal(size=(4, 3)).astype("float32")
    changed = [change(model, counts).predictor(10) for change in (kla.adjust, kla.fold_into_bias)]
    adjusted, folded = (predictor.predict(x, verbose=0) for predictor in changed)
    np.testing.assert_allclose(folded["scores"], adjusted["scores"], rtol=1e-6)
    differ = folded["ids"] != adjusted["ids"]
    gaps = np.abs(np.diff(adjusted["scores"], axis=-1)) <= 1e-6 * np.abs(adjusted["scores"][:, 1:])
    ties = np.pad(gaps, ((0, 0), (1, 0))) | np.pad(gaps, ((0, 0), (0, 1)), constant_values=True)
    assert ties[differ].all()
    if units > 50_000:
        return
    changed[0].save(tmp_path / "adjusted.keras")  # the adjustment is in the weights: no config holds as many counts
    loaded = keras.saving.load_model(tmp_path / "adjusted.keras")
    keras.tree.map_structure(np.testing.assert_array_equal, loaded.predict(x, verbose=0), adjusted)


def test_a_prior_is_not_corrected_twice(rng):
    trained = plain(rng, tau=1)
    for change in (kla.adjust, kla.fold_into_bias):
        for model in (trained, trained.predictor(2)):
            with pytest.raises(ValueError, match="corrected twice.*head 'head', which trains the adjusted .*tau=1"):
                change(model, COUNTS)
    twice = kla.adjust(trained, COUNTS, allow_double_correction=True)
    assert kla.serving.describe(twice).prior == "unknown: corrected more than once"
    adjusted = kla.adjust(plain(rng), COUNTS)
    with pytest.raises(ValueError, match="corrected twice.*by layer 'logit_adjustment'"):
        kla.fold_into_bias(adjusted, COUNTS)
    for change in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(ValueError, match=r"takes no second one\. .*model\.head\.adjustment\.set"):
            change(adjusted, COUNTS, allow_double_correction=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "softmax"}, r"""scores classes by logits: output="logits".*'softmax'"""),
        ({"axis": 1}, "`axis` must be the axis of the classes, −1.*axis=1"),
        ({"class_counts": COUNTS[:5]}, "the head has 13 classes, `class_counts` has 5"),
        ({"num_examples": 10_000}, "`num_examples` is for independent sigmoid labels"),
        ({"tau": [1, 2]}, "`tau` must be a number or a vector of 13 numbers"),
    ],
)
def test_an_adjustment_of_many_classes_that_does_not_fit_is_refused(rng, options, message):
    with pytest.raises(ValueError, match=message):
        kla.adjust(plain(rng), **{"class_counts": COUNTS, **options})


def test_a_head_whose_kernel_is_an_embedding_is_adjusted_and_not_folded(rng):
    table = keras.layers.Embedding(L, D)

    class Tied(kla.layers.ManyClassDense):
        def build(self, input_shape):
            super().build(input_shape)
            self.kernel = table.embeddings

    ids = keras.Input((), dtype="int32")
    model = kla.layers.ManyClassModel(ids, Tied(L, COUNTS, tau=0, name="head")(table(ids)))
    with pytest.raises(ValueError, match="'head' is tied.*Use `kla.adjust`, which shares them"):
        kla.fold_into_bias(model, COUNTS)
    adjusted = kla.adjust(model, COUNTS)
    assert adjusted.head.kernel is table.embeddings


def test_features_that_are_the_input_are_folded_too(rng):
    inputs = {"a": keras.Input((D,), name="a")}
    head = kla.layers.ManyClassDense(L, COUNTS, tau=0, chunk_size=5)
    model = kla.layers.ManyClassModel(inputs, head(inputs["a"]))
    x = rng.normal(size=(5, D)).astype("float32")
    check_top(
        kla.fold_into_bias(model, COUNTS).predictor(4).predict({"a": x}, verbose=0),
        x @ array(head.kernel).T.astype("float64") - LOG_PRIOR,
    )


def test_a_description_says_what_models_of_many_classes_give(rng):
    model = plain(rng)
    adjusted = kla.adjust(model, COUNTS, tau=0.5)
    trained = plain(rng, tau=1)
    for each, gives in ((model, "features"), (model.predictor(2), "top classes")):
        found = kla.serving.describe(each)
        assert (found.head, found.head_type, found.num_outputs, found.output) == ("head", "ManyClassDense", L, gives)
        assert not found.is_adjusted and found.prior.startswith("training, if nothing was folded")
    for each in (adjusted, adjusted.predictor(2)):
        (found,) = kla.serving.describe(each).corrections
        assert (found.tau, found.class_counts.tolist()) == (0.5, COUNTS.tolist())
        assert kla.serving.describe(each).prior == kla.serving.name_prior(tau=0.5)
    for each in (trained, trained.predictor(2)):
        (found,) = kla.serving.describe(each).corrections
        assert found.means == "layer 'head' (ManyClassDense)"
        assert kla.serving.describe(each).prior == "uniform"


@pytest.mark.skipif(BACKEND == "torch", reason="torch writes no SavedModel")
def test_an_export_with_probabilities_says_how_the_top_classes_are_written(rng, tmp_path):
    for model, way in ((plain(rng), r"model\.predictor\(k\)"), (plain(rng).predictor(2), "predictor")):
        with pytest.raises(ValueError, match=rf"needs all scores.*{way}\.export\(path\)"):
            kla.serving.export(model, tmp_path / "served")
