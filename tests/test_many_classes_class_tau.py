"""A head of very many classes whose τ is a vector: trained, saved, adjusted, its kernel spread over devices."""

import keras
import numpy as np
import pytest
from helpers.arrays import array
from reference import log_prior

import keras_logit_adjust as kla
from keras_logit_adjust.layers import ManyClassDense, ManyClassModel

L, D = 13, 4
COUNTS = np.arange(L, 0, -1) ** 2
TAU = np.linspace(0, 2, L)


def model_of(rng, *, units=L, counts=COUNTS, tau=TAU, **options):
    """A model of its head alone, whose kernel and bias are drawn."""
    inputs = keras.Input((D,))
    head = ManyClassDense(units, counts, tau=tau, **{"chunk_size": 5, "name": "head", **options})
    model = ManyClassModel(inputs, head(inputs), name="m")
    head.kernel.assign(rng.normal(size=(units, D)))
    head.bias.assign(rng.normal(size=units))
    return model


def crossentropy(scores, y):
    """Float64 `−log softmax_y` of each row."""
    top = scores.max(axis=1, keepdims=True)
    return np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0] - scores[np.arange(y.size), y]


def scores_of(model, x):
    return x.astype("float64") @ array(model.head.kernel).astype("float64").T + array(model.head.bias)


@pytest.fixture
def data(rng):
    return rng.normal(size=(8, D)).astype("float32"), rng.integers(0, L, 8)


def test_the_loss_of_a_vector_tau_is_that_of_float64_arithmetic(rng, data):
    x, y = data
    model = model_of(rng)
    expected = crossentropy(scores_of(model, x) + TAU * log_prior(COUNTS), y)
    values, _ = model.head.values_and_mask(y, keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(array(values), expected, rtol=1e-5)
    # Compiled, and trained as the small loss trains all logits.
    dense = keras.Sequential([keras.Input((D,)), model.head.to_dense()])
    dense.compile(keras.optimizers.SGD(0.5), kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=TAU))
    model.compile(keras.optimizers.SGD(0.5))
    histories = [each.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"] for each in (model, dense)]
    np.testing.assert_allclose(*histories, rtol=1e-5)
    assert histories[0][0] == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(array(model.head.kernel).T, array(dense.layers[-1].kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["partition", "posterior"])
def test_sampled_losses_of_a_vector_tau_are_those_of_the_function(rng, data, estimator):
    x, y = data
    model = model_of(rng, num_rivals=6, estimator=estimator, seed=3)
    head = model.head
    sampler = kla.losses.RivalSampler(COUNTS, num_rivals=6, replacement=estimator == "posterior")
    expected = kla.losses.sampled_logit_adjusted_crossentropy(
        *(y, x, array(head.kernel), array(head.bias), log_prior(COUNTS)),
        rivals=sampler.draw(3, step=0),
        estimator=estimator,
        tau=TAU,
        class_axis=0,
    )
    values, _ = head.values_and_mask(y, keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(array(values), array(expected), rtol=1e-5)
    exact, _ = head.values_and_mask(y, keras.ops.convert_to_tensor(x), exact=True)
    np.testing.assert_allclose(array(exact), crossentropy(scores_of(model, x) + TAU * log_prior(COUNTS), y), rtol=1e-5)


@pytest.mark.parametrize("units", [L, 10_001])
def test_a_vector_tau_comes_back_from_a_file(rng, units, tmp_path):
    counts, tau = np.arange(units, 0, -1) ** 1.5, np.linspace(0, 2, units)
    model = model_of(rng, units=units, counts=counts, tau=tau, chunk_size=4096)
    config = model.head.get_config()
    assert config["tau"] == (tau.tolist() if units == L else None)  # then it is in the weights alone
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.head.tau, tau, rtol=1e-6)
    x, y = keras.ops.convert_to_tensor(rng.normal(size=(3, D)).astype("float32")), np.array([0, 5, units - 1])
    for exact in (False, True):
        before, after = (array(each.head.values_and_mask(y, x, exact=exact)[0]) for each in (model, loaded))
        np.testing.assert_array_equal(before, after)
    assert np.isfinite(before).all()
    again = ManyClassDense.from_config(loaded.head.get_config())
    again.build((None, D))
    assert np.isnan(array(again.values_and_mask(y, x)[0])).all() == (units > L)  # never without a prior, in silence


def test_a_head_of_a_vector_tau_is_adjusted_and_folded_with_it(rng, data):
    x, y = data
    model = model_of(rng)
    for change in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(ValueError, match=r"corrected twice.*trains the adjusted loss with tau=\[0.0, 0.16"):
            change(model, COUNTS)
        changed = change(model, COUNTS, tau=0.5, allow_double_correction=True)
        np.testing.assert_array_equal(changed.head.tau, TAU)
        shifted = scores_of(model, x) - 0.5 * log_prior(COUNTS)
        values, _ = changed.head.values_and_mask(y, keras.ops.convert_to_tensor(x))
        np.testing.assert_allclose(array(values), crossentropy(shifted + TAU * log_prior(COUNTS), y), rtol=1e-5)
    with pytest.raises(ValueError, match=r"was not corrected.*tau=\[0.0, 0.16.*train the head with tau=0"):
        kla.tune_tau(model, (x, y), COUNTS)
    found = kla.serving.describe(model)
    np.testing.assert_array_equal(found.corrections[0].tau, TAU)
    assert found.prior == kla.serving.name_prior(tau=TAU)


def test_a_vector_of_zeros_is_a_plain_head(rng):
    model = model_of(rng, tau=np.zeros(L))
    assert model.head.is_plain and not model_of(rng).head.is_plain
    assert not kla.serving.describe(model).is_adjusted
    kla.adjust(model, COUNTS)


def test_from_dense_takes_a_vector_tau_and_sequences_take_one(rng):
    dense = keras.layers.Dense(L)
    dense.build((None, D))
    head = ManyClassDense.from_dense(dense, COUNTS, tau=TAU.tolist())
    np.testing.assert_array_equal(head.tau, TAU)
    x, y = rng.normal(size=(2, 3, D)).astype("float32"), rng.integers(0, L, (2, 3))
    scores = x.reshape(-1, D).astype("float64") @ array(dense.kernel) + TAU * log_prior(COUNTS)
    values, _ = head.values_and_mask(y, keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(array(values).ravel(), crossentropy(scores, y.ravel()), rtol=1e-5)
