"""The model that counts its labels while it trains: what is counted, when, and that compiled steps see it."""

from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import array

from keras_logit_adjust.layers import PriorAwareDense, StreamingPriorDense
from keras_logit_adjust.priors import CountingModel, StreamingPrior

BACKEND = keras.backend.backend()
TARGET = [0.2, 0.3, 0.5]
VECTOR = [0.5, 1.0, 3.0]
LABELS = np.array([0, 0, 0, 1, 2, 2, 0, 0, 1, 0])
COUNTS = np.bincount(LABELS)
X = np.random.default_rng(1).normal(size=(10, 4)).astype("float32")


log_prior = partial(reference.log_prior, smoothing=1)


def crossentropy(labels, shift):
    """The loss, for each label, of a head whose logits are `shift` alone."""
    return np.log(np.exp(shift).sum()) - np.asarray(shift)[labels]


def counting_model(streaming, kernel="zeros", rate=0.0, one_hot=False, **compiled):
    """A head on `streaming` that starts from zero and, at rate 0, stays there."""
    inputs = keras.Input((4,))
    head = StreamingPriorDense(streaming.num_classes, streaming, kernel_initializer=kernel, name="head")
    model = CountingModel(inputs, head(inputs))
    loss = keras.losses.CategoricalCrossentropy if one_hot else keras.losses.SparseCategoricalCrossentropy
    model.compile(keras.optimizers.SGD(rate), loss(from_logits=True), **compiled)
    return model


def fit(model, y=LABELS, batch_size=4, epochs=1, **kwargs):
    """The losses of the epochs."""
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(X[: len(y)], y, **options).history["loss"]


def test_fit_counts_every_training_label_once_an_epoch_and_no_other():
    streaming = StreamingPrior(3)
    model = counting_model(streaming, "glorot_uniform", rate=0.1)
    fit(model, epochs=3, shuffle=True, validation_split=0.2)  # batches of 4 and 4, and 2 for validation
    expected = 3 * np.bincount(LABELS[:8])
    np.testing.assert_array_equal(streaming.class_counts, expected)
    model.evaluate(X[:4], LABELS[:4], batch_size=4, verbose=0)
    np.testing.assert_array_equal(streaming.class_counts, expected)
    fit(model, validation_data=(X[:4], LABELS[:4]))  # batches of 4, 4 and 2
    np.testing.assert_array_equal(streaming.class_counts, expected + COUNTS)


FORMS = {
    "a column": LABELS[:, None],
    "bytes": LABELS.astype("uint8"),
    "one-hot rows": np.eye(3, dtype="float32")[LABELS],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_are_counted_in_fit(form):
    streaming = StreamingPrior(3)
    fit(counting_model(streaming, one_hot=form == "one-hot rows"), FORMS[form], batch_size=5)
    np.testing.assert_array_equal(streaming.class_counts, COUNTS)


def test_batches_by_hand_count_in_training_only():
    streaming = StreamingPrior(3)
    model = counting_model(streaming)
    model.train_on_batch(X, LABELS)
    model.test_on_batch(X, LABELS)
    np.testing.assert_array_equal(streaming.class_counts, COUNTS)


COMPILED = {
    "tensorflow": [{"run_eagerly": True}, {}, {"jit_compile": True}, {"steps_per_execution": 3}],
    "jax": [{}],
    "torch": [{}],
}[BACKEND]


def test_a_loss_by_hand_is_one_of_training_unless_it_says_otherwise():
    streaming = StreamingPrior(3)
    model = counting_model(streaming)
    for options, total in (({}, 10), ({"training": True}, 20), ({"training": False}, 20)):
        model.compute_loss(X, keras.ops.convert_to_tensor(LABELS), model(X, training=False), **options)
        assert array(streaming.class_counts).sum() == total


@pytest.mark.parametrize("compiled", COMPILED, ids=str)
def test_a_step_is_trained_with_the_prior_of_the_labels_before_it(compiled):
    streaming = StreamingPrior(3)
    model = counting_model(streaming, **compiled)
    (loss,) = fit(model)
    seen, expected = np.zeros(3), []
    for batch in (LABELS[:4], LABELS[4:8], LABELS[8:]):
        expected.extend(crossentropy(batch, log_prior(seen)))
        seen += np.bincount(batch, minlength=3)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_array_equal(streaming.class_counts, COUNTS)


def test_the_first_step_knows_nothing_and_the_second_the_first():
    model = counting_model(StreamingPrior(3))
    losses = fit(model, batch_size=10, epochs=3)
    np.testing.assert_allclose(losses[0], np.log(3), rtol=1e-6)
    for epoch in (1, 2):
        expected = crossentropy(LABELS, log_prior(epoch * COUNTS)).mean()
        np.testing.assert_allclose(losses[epoch], expected, rtol=1e-5)


def test_validation_is_plain_whatever_was_counted():
    model = counting_model(StreamingPrior(3))
    history = model.fit(X, LABELS, validation_data=(X, LABELS), epochs=2, verbose=0).history
    np.testing.assert_allclose(history["val_loss"], [np.log(3)] * 2, rtol=1e-6)


def test_a_half_life_and_an_ignored_class_count_in_compiled_steps():
    streaming = StreamingPrior(3, half_life=4, ignore_class=2)
    model = counting_model(streaming)
    fit(model)
    expected = np.zeros(3)
    for batch in ([0, 0, 0, 1], [0, 0], [1, 0]):
        expected = expected * 2.0 ** (-len(batch) / 4) + np.bincount(batch, minlength=3)
    np.testing.assert_allclose(streaming.class_counts, expected, rtol=1e-6)


def test_sample_weights_weigh_the_loss_and_not_the_counts():
    streaming, weight = StreamingPrior(3), np.linspace(0, 3, 10)
    model = counting_model(streaming)
    fit(model, batch_size=10, sample_weight=weight)
    np.testing.assert_array_equal(streaming.class_counts, COUNTS)
    losses = fit(model, batch_size=10, sample_weight=weight)
    expected = np.mean(weight * crossentropy(LABELS, log_prior(COUNTS)))
    np.testing.assert_allclose(losses, [expected], rtol=1e-5)


def test_set_changes_the_next_step_of_a_compiled_fit():
    streaming = StreamingPrior(3)
    model = counting_model(streaming)
    head = model.get_layer("head")
    changes = [{"tau": 2}, {"target_prior": TARGET}, {"tau": VECTOR, "target_prior": "uniform"}]
    within = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: head.set(**changes[epoch]))
    losses = fit(model, batch_size=10, epochs=3, callbacks=[within])
    losses += fit(model, batch_size=10)
    head.set(tau=0)
    losses += fit(model, batch_size=10)
    taus, log_targets = [1, 2, 2, VECTOR, 0], [0, 0, np.log(TARGET), 0, 0]
    for epoch, (tau, log_target) in enumerate(zip(taus, log_targets, strict=True)):
        shift = np.asarray(tau) * log_prior(epoch * COUNTS) - log_target
        np.testing.assert_allclose(losses[epoch], crossentropy(LABELS, shift).mean(), rtol=1e-5)


def test_the_head_trains_like_a_fixed_one_with_the_same_counts():
    streaming = StreamingPrior(3, smoothing=1e-3)
    streaming.counts.assign([[0, 0, 0], [2**40, 2**38, 2**37]])  # what ten labels more do not change
    models = [counting_model(streaming, rate=0.5)]
    inputs = keras.Input((4,))
    models.append(keras.Model(inputs, PriorAwareDense(3, [8, 2, 1], kernel_initializer="zeros")(inputs)))
    models[1].compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = [fit(model, epochs=3) for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=1e-6)
        assert np.abs(array(ours)).max() > 0.1


def test_every_streaming_prior_in_the_model_is_shown_the_labels():
    inputs, exact, recent = keras.Input((4,)), StreamingPrior(3), StreamingPrior(3, half_life=10)
    inner = keras.Model(inputs, StreamingPriorDense(3, exact)(inputs))  # of another model inside
    model = CountingModel(inputs, keras.layers.Average()([inner(inputs), StreamingPriorDense(3, recent)(inputs)]))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, batch_size=10, epochs=2)
    np.testing.assert_array_equal(exact.class_counts, 2 * COUNTS)
    np.testing.assert_allclose(recent.class_counts, 1.5 * COUNTS, rtol=1e-6)


def two_heads(streaming):
    """Two heads of one prior."""
    inputs = keras.Input((4,))
    heads = [StreamingPriorDense(3, streaming, kernel_initializer="zeros", name=name)(inputs) for name in "ab"]
    model = CountingModel(inputs, keras.layers.Average()(heads))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_a_prior_that_two_heads_share_counts_once():
    streaming = StreamingPrior(3)
    fit(two_heads(streaming))
    np.testing.assert_array_equal(streaming.class_counts, COUNTS)


def nested_heads(streaming):
    """As `two_heads`, each in a model of its own."""
    inputs = keras.Input((4,))
    parts = [
        keras.Sequential([keras.Input((4,)), StreamingPriorDense(3, streaming, kernel_initializer="zeros", name=name)])
        for name in "ab"
    ]
    model = CountingModel(inputs, keras.layers.Average()([part(inputs) for part in parts]))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("make", [two_heads, nested_heads])
def test_a_saved_model_whose_heads_share_a_prior_goes_on(make, tmp_path):
    streaming = StreamingPrior(3)
    streaming.update(LABELS)
    model = make(streaming)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    for times in (1, 2):
        expected = crossentropy(LABELS, log_prior(times * COUNTS)).mean()
        np.testing.assert_allclose(fit(reloaded, batch_size=10), [expected], rtol=1e-5)


def test_loaded_heads_that_shared_a_prior_count_alike(tmp_path):
    model = two_heads(StreamingPrior(3))
    fit(model)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    fit(reloaded)
    for name in "ab":
        np.testing.assert_array_equal(reloaded.get_layer(name).class_counts, 2 * COUNTS)


def test_counts_are_exact_and_the_shift_is_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    streaming = StreamingPrior(3)
    streaming.counts.assign([[2**20 - 1, 3, 0], [2**25, 0, 0]])
    before = np.array([2**25 + 2**20 - 1, 3, 0])
    model = counting_model(streaming, one_hot=True)
    ids = np.repeat([0, 1, 2], [400, 257, 3])  # bfloat16 has no 257
    x, y = np.ones((660, 4)), np.eye(3, dtype="float32")[ids]
    expected = []
    for start in (0, 330):
        expected.extend(
            crossentropy(ids[start : start + 330], log_prior(before + np.bincount(ids[:start], minlength=3)))
        )
    loss = model.fit(x, y, batch_size=330, shuffle=False, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert streaming.class_counts.tolist() == (before + np.bincount(ids)).tolist()


def test_a_saved_model_keeps_its_counts_and_goes_on_counting(tmp_path):
    streaming = StreamingPrior(3)
    streaming.counts.assign([[7, 0, 0], [2**25, 0, 0]])
    model = counting_model(streaming, "glorot_uniform", rate=0.1)
    fit(model)
    model.get_layer("head").set(tau=2)
    before = streaming.class_counts.tolist()
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    copy = reloaded.get_layer("head").streaming_prior
    assert type(reloaded) is CountingModel and copy is not streaming
    assert copy.class_counts.tolist() == before == (COUNTS + [2**25 + 7, 0, 0]).tolist()
    np.testing.assert_array_equal(reloaded.predict(X, verbose=0), model.predict(X, verbose=0))
    np.testing.assert_allclose(*(fit(m, epochs=2) for m in (reloaded, model)), rtol=1e-6)
    np.testing.assert_array_equal(copy.class_counts, before + 2 * COUNTS)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = counting_model(StreamingPrior(3))
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.get_layer("head").class_counts, before + 2 * COUNTS)


def test_a_bad_label_shows_in_the_loss_of_the_next_step():
    streaming = StreamingPrior(3)
    model = counting_model(streaming)
    model.compile(keras.optimizers.SGD(0.0), lambda y_true, y_pred: keras.ops.mean(y_pred, axis=-1))
    first, second = fit(model, np.array([0, 1, 3, 2]), epochs=2)
    assert np.isfinite(first) and np.isnan(second)


def test_targets_of_several_outputs_are_refused_with_the_remedy():
    inputs = keras.Input((4,))
    model = CountingModel(inputs, {"a": StreamingPriorDense(3, StreamingPrior(3), name="a")(inputs)})
    model.compile("sgd", {"a": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    with pytest.raises(ValueError, match=r"one output\. Received targets \{'a': '…'\}: call `streaming_prior\.update"):
        model.fit(X, {"a": LABELS}, verbose=0)


def test_a_model_without_a_streaming_prior_is_a_plain_model():
    inputs = keras.Input((4,))
    model = CountingModel(inputs, {"a": keras.layers.Dense(3, name="a")(inputs)})
    model.compile("sgd", {"a": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    assert np.isfinite(model.fit(X, {"a": LABELS}, verbose=0).history["loss"]).all()


def test_in_a_plain_model_nothing_is_counted_and_nothing_adjusted():
    streaming, inputs = StreamingPrior(3), keras.Input((4,))
    model = keras.Model(inputs, StreamingPriorDense(3, streaming, kernel_initializer="zeros")(inputs))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(fit(model, epochs=3), [np.log(3)] * 3, rtol=1e-6)
    assert streaming.class_counts.tolist() == [0, 0, 0]
