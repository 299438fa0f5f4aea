"""A prior counted while the model trains: its arithmetic, who takes it, and the head that follows it."""

import json
from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import array

import keras_logit_adjust as kla
from keras_logit_adjust.layers import LogitAdjustment, PriorAwareDense, StreamingPriorDense
from keras_logit_adjust.losses import LogitAdjustedCrossentropy
from keras_logit_adjust.priors import StreamingPrior

TARGET = [0.2, 0.3, 0.5]
VECTOR = [0.5, 1.0, 3.0]
IDS = np.array([0, 2, 0, 0, 1, 0])
COUNTS = [4, 1, 1]
SOFT = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.125, 0.0, 0.875]])
log_prior = partial(reference.log_prior, smoothing=1)


def counted(counts=COUNTS, **kwargs):
    """A StreamingPrior that has seen `counts` labels of each class."""
    streaming = StreamingPrior(len(counts), **kwargs)
    streaming.update(np.repeat(np.arange(len(counts)), counts))
    return streaming


def decayed(batches, half_life, num_classes):
    """The counts of batches of ids as a float64 loop."""
    counts = np.zeros(num_classes)
    for ids in batches:
        counts = counts * 2.0 ** (-len(ids) / half_life)
        for label in ids:
            counts[label] += 1
    return counts


LABELS = {
    "ids": (IDS, COUNTS),
    "ids in a column": (IDS[:, None], COUNTS),
    "ids of sequences": (IDS.reshape(3, 2), COUNTS),
    "ids in bytes": (IDS.astype("uint8"), COUNTS),
    "whole floats": (IDS.astype("float32"), COUNTS),
    "a list": (IDS.tolist(), COUNTS),
    "no examples": (IDS[:0], [0, 0, 0]),
    "one-hot rows": (np.eye(3, dtype="float32")[IDS], COUNTS),
    "one-hot sequences": (np.eye(3, dtype="float32")[IDS].reshape(3, 2, 3), COUNTS),
    "soft rows": (SOFT.astype("float32"), SOFT.sum(axis=0).tolist()),
}


@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS.keys())
def test_every_form_of_label_is_counted(case):
    labels, expected = case
    streaming = StreamingPrior(3)
    streaming.update(labels)
    streaming.update(keras.ops.convert_to_tensor(labels))
    assert streaming.class_counts.dtype == np.float64
    assert streaming.class_counts.tolist() == [2 * n for n in expected]


def test_predictions_tell_sequences_of_ids_from_rows():
    sequences = np.array([[0, 1, 0], [1, 0, 0]])  # as wide as there are classes, and summing to one or less
    rows, ids = StreamingPrior(3), StreamingPrior(3)
    with pytest.raises(ValueError, match=r"may be ids or one-hot rows.*shape \(2, 3\) for 3 classes: give `y_pred`"):
        rows.update(sequences)
    rows.update(sequences.astype("float32"))
    rows.update(sequences, np.zeros((2, 3), "float32"))
    ids.update(sequences, np.zeros((2, 3, 3), "float32"))
    assert rows.class_counts.tolist() == [2, 2, 0]
    assert ids.class_counts.tolist() == [4, 2, 0]
    ids.update(sequences, np.zeros((2, 3), "float32"))
    assert ids.class_counts.tolist() == [5, 3, 0]


def test_many_batches_add_up_to_the_count_of_them_all(rng):
    labels = rng.integers(0, 5, (12, 8))
    streaming = StreamingPrior(5)
    for batch in labels:
        streaming.update(batch)
    np.testing.assert_array_equal(streaming.class_counts, np.bincount(labels.ravel(), minlength=5))


@pytest.mark.parametrize("exponent", [20, 24, 25, 43])
def test_one_example_more_counts_at_any_size(exponent):
    streaming = StreamingPrior(3)
    start = 2**exponent - 3
    streaming.counts.assign([[start % 2**20, 5, 0], [start - start % 2**20, 0, 2**40]])
    for step in range(1, 7):
        streaming.update([0])
        assert streaming.class_counts.tolist() == [start + step, 5, 2**40]
    low, high = array(streaming.counts)
    assert (low >= 0).all() and (low < 2**20).all()
    assert (high % 2**20 == 0).all()


def test_large_soft_batches_are_carried_exactly():
    streaming = StreamingPrior(2)
    streaming.counts.assign([[0.5, 0], [2**25, 0]])
    rows = np.repeat(np.array([[1, 0], [0.75, 0.25], [0, 0.5]], "float32"), [2**19, 1, 1], axis=0)
    for _ in range(9):
        streaming.update(rows)
    assert streaming.class_counts.tolist() == [2**25 + 0.5 + 9 * (2**19 + 0.75), 9 * 0.75]


def test_a_row_of_several_labels_makes_the_counts_nan():
    for row in ([1, 1, 0], [0.9, 0.9, 0], [2, -1, 0], [np.nan, 0, 0]):
        streaming = StreamingPrior(3)
        streaming.update(np.array([[0, 0, 1], row], "float32"))
        assert np.isnan(streaming.class_counts).all()


@pytest.mark.parametrize("half_life", [1, 7.5, 1000])
def test_a_half_life_forgets_as_the_loop_does(rng, half_life):
    batches = [rng.integers(0, 4, size) for size in (6, 6, 1, 6)]
    streaming = StreamingPrior(4, half_life=half_life)
    for batch in batches:
        streaming.update(batch)
    expected = decayed(batches, half_life, 4)
    np.testing.assert_allclose(streaming.class_counts, expected, rtol=1e-6)
    np.testing.assert_allclose(streaming.snapshot(), (expected + 1) / (expected.sum() + 4), rtol=1e-6)


def test_after_a_half_life_a_label_counts_half():
    streaming = counted([8, 0], half_life=8)
    streaming.update([1] * 8)
    assert streaming.class_counts.tolist() == [4, 8]


def test_a_mix_that_drifts_is_followed():
    before, after = np.array([0] * 8 + [1] * 2), np.array([0] * 1 + [1] * 9)
    streaming = StreamingPrior(2, half_life=20, smoothing=1e-6)
    for batch in (*[before] * 40, *[after] * 8):  # 20 half-lives, then 4
        streaming.update(batch)
    # What n examples weigh after m others is in proportion to (1 − 2^(−n/h)) · 2^(−m/h).
    old, new = (1 - 2.0**-20) * 2.0**-4, 1 - 2.0**-4
    expected = (old * np.array([0.8, 0.2]) + new * np.array([0.1, 0.9])) / (old + new)
    np.testing.assert_allclose(streaming.snapshot(), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.01, 2.5])
def test_the_snapshot_is_the_smoothed_prior_in_float64(smoothing):
    streaming = counted([7, 0, 2], smoothing=smoothing)
    snapshot = streaming.snapshot()
    assert snapshot.dtype == np.float64
    assert abs(snapshot.sum() - 1) < 1e-15
    np.testing.assert_array_equal(snapshot, kla.priors.prior([7, 0, 2], smoothing=smoothing))
    np.testing.assert_allclose(array(streaming.log_prior()), log_prior([7, 0, 2], smoothing=smoothing), rtol=1e-6)
    assert keras.backend.standardize_dtype(streaming.log_prior().dtype) == "float32"


def test_before_any_label_the_prior_is_uniform():
    assert StreamingPrior(4, smoothing=0.3).snapshot().tolist() == [0.25] * 4


@pytest.mark.parametrize("half_life", [None, 4])
def test_an_ignored_class_is_neither_counted_nor_a_step_of_time(half_life):
    streaming, plain = StreamingPrior(3, half_life=half_life, ignore_class=-1), StreamingPrior(3, half_life=half_life)
    for labels in ([0, -1, 2, 0, -1], [-1, -1, -1, -1, -1], [1, 1, -1, 0, -1]):
        streaming.update(labels)
        plain.update([label for label in labels if label >= 0])
    np.testing.assert_allclose(streaming.class_counts, plain.class_counts, rtol=1e-6)
    expected = [3, 2, 1] if half_life is None else decayed([[0, 2, 0], [], [1, 1, 0]], half_life, 3)
    np.testing.assert_allclose(streaming.class_counts, expected, rtol=1e-6)


def test_a_proper_class_can_be_ignored():
    streaming = StreamingPrior(3, ignore_class=0)
    streaming.update(IDS)
    assert streaming.class_counts.tolist() == [0, 1, 1]


@pytest.mark.parametrize("half_life", [None, 10])
@pytest.mark.parametrize("labels", [[0, -1], [3, 1], [0.5, 1.0], [255, 1], [np.nan, 1.0]], ids=str)
def test_an_id_that_is_none_makes_the_prior_nan(labels, half_life):
    streaming = counted(half_life=half_life)
    streaming.update(np.array(labels))
    assert np.isnan(streaming.class_counts).any()
    assert np.isnan(streaming.snapshot()).all()
    assert np.isnan(array(streaming.log_prior())).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StreamingPrior(1), "`num_classes` must be an integer of at least 2.*num_classes=1"),
        (lambda: StreamingPrior(3.0), r"`num_classes` must be an integer.*num_classes=3\.0"),
        (lambda: StreamingPrior(3, half_life=0), "`half_life` must be a positive number.*half_life=0"),
        (lambda: StreamingPrior(3, half_life=-1), "`half_life` must be a positive number.*half_life=-1"),
        (lambda: StreamingPrior(3, half_life=np.nan), "`half_life` must be a positive number.*half_life=nan"),
        (lambda: StreamingPrior(3, half_life=np.inf), "`half_life` must be a positive number.*half_life=inf"),
        (lambda: StreamingPrior(3, half_life="x"), "`half_life` must be a positive number.*half_life='x'"),
        (lambda: StreamingPrior(3, smoothing=0), "`smoothing` must be a positive number.*smoothing=0"),
        (lambda: StreamingPrior(3, smoothing=-1), "`smoothing` must be a positive number.*smoothing=-1"),
        (lambda: StreamingPrior(3, smoothing=None), "`smoothing` must be a positive number.*smoothing=None"),
        (lambda: StreamingPrior(3, ignore_class="x"), "`ignore_class` must be an integer.*ignore_class='x'"),
        (lambda: counted().update(IDS, np.zeros((6, 4))), r"one column for each class.*3 classes.*\(6, 4\)"),
        (lambda: counted().update(IDS, np.zeros((5, 3))), "must agree in every dimension but the last"),
        (lambda: counted(ignore_class=-1).update(np.eye(3)), "`ignore_class` goes with class ids.*one-hot"),
        (lambda: StreamingPriorDense(4, counted()), "units=4 has 4 classes, `streaming_prior` has 3"),
        (lambda: StreamingPriorDense(3, counted(), tau=[1, 2]), r"`tau` must be .* a vector of 3 numbers.*\(2,\)"),
        (lambda: StreamingPriorDense(3, counted(), target_prior=[1, 2]), "`target_prior` must have one number.* 3.* 2"),
        (lambda: StreamingPriorDense(3, COUNTS), "must be a `kla.priors.StreamingPrior`.*list.*PriorAwareDense"),
        (lambda: StreamingPriorDense(3, counted(), activation="relu"), "`StreamingPriorDense` gives logits"),
    ],
)
def test_bad_arguments_are_refused_with_rule_value_and_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def plain_model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3)(inputs))


FIXED = {
    "a loss": LogitAdjustedCrossentropy,
    "a reweighted loss": kla.losses.ClassBalancedCrossentropy,
    "a layer": LogitAdjustment,
    "a head of fixed counts": lambda prior: PriorAwareDense(3, prior),
    "a target": lambda prior: LogitAdjustment([3, 2, 1], target_prior=prior),
    "adjust": lambda prior: kla.adjust(plain_model(), prior),
    "prior": kla.priors.prior,
    "log_prior": kla.priors.log_prior,
    "a metric": lambda prior: kla.metrics.BalancedAccuracy(3, class_prior=prior),
}


@pytest.mark.parametrize("take", FIXED.values(), ids=FIXED.keys())
def test_what_takes_a_fixed_prior_refuses_a_streaming_one(take):
    with pytest.raises(
        ValueError, match=r"takes a prior that stays: give it `streaming_prior\.snapshot\(\)`.*StreamingPriorDense"
    ):
        take(counted())


def test_a_snapshot_is_the_prior_of_a_loss_and_stays_that(rng):
    streaming, logits = counted(), rng.normal(size=(4, 3)).astype("float32")
    ids = np.array([0, 2, 1, 0])
    loss = LogitAdjustedCrossentropy(streaming.snapshot(), reduction=None)
    streaming.update([2] * 100)
    scores = logits + log_prior(COUNTS)
    expected = np.log(np.exp(scores).sum(axis=-1)) - scores[np.arange(4), ids]
    np.testing.assert_allclose(array(loss(ids, logits)), expected, rtol=1e-5)


def assert_trains_with(head, x, shift):
    """`head(x)` is `Wx + b` in inference, and `shift` more in training."""
    served = array(head(x))
    plain = x @ array(head.kernel).astype("float64") + array(head.bias)
    np.testing.assert_allclose(served, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(head(x, training=False)), plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(head(x, training=True)), plain + shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [None, TARGET, [2, 3, 5]])
@pytest.mark.parametrize("tau", [0, 1.0, VECTOR])
def test_the_head_follows_the_prior_in_training_and_is_plain_in_inference(rng, tau, target):
    streaming, x = StreamingPrior(3, smoothing=0.5), rng.normal(size=(2, 4)).astype("float32")
    head = StreamingPriorDense(3, streaming, tau=tau, target_prior=target, bias_initializer="ones")
    log_target = 0 if target is None else np.log(TARGET)
    for counts in ([0, 0, 0], COUNTS, [8, 2, 2]):
        assert_trains_with(head, x, np.asarray(tau) * log_prior(counts, smoothing=0.5) - log_target)
        streaming.update(IDS)
    assert len(head.trainable_weights) == 2


def test_set_changes_the_head_that_follows(rng):
    streaming, x = counted(), rng.normal(size=(2, 4)).astype("float32")
    head = StreamingPriorDense(3, streaming)
    head.set(tau=2)
    assert_trains_with(head, x, 2 * log_prior(COUNTS))
    head.set(target_prior=[2, 3, 5])
    assert_trains_with(head, x, 2 * log_prior(COUNTS) - np.log(TARGET))
    head.set(tau=VECTOR)
    streaming.update(IDS)
    assert_trains_with(head, x, VECTOR * log_prior([8, 2, 2]) - np.log(TARGET))
    head.set(target_prior="uniform")
    assert_trains_with(head, x, VECTOR * log_prior([8, 2, 2]))


def test_a_refused_change_leaves_the_head_as_it_was():
    head, x = StreamingPriorDense(3, counted(), tau=2), np.ones((1, 4), "float32")
    before = array(head(x, training=True))
    for change, message in (
        ({"tau": "x", "target_prior": TARGET}, "`tau` must be a number"),
        ({"tau": 3, "target_prior": [1, 2]}, "`target_prior` must have one number"),
        ({"tau": 3, "target_prior": "training"}, "`target_prior` must be one of 'uniform'"),
    ):
        with pytest.raises(ValueError, match=message):
            head.set(**change)
    np.testing.assert_array_equal(array(head(x, training=True)), before)
    assert head.tau == 2 and head.target_prior is None


def test_to_dense_serves_the_same_without_the_prior(rng):
    head, x = StreamingPriorDense(3, counted(), bias_initializer="ones"), rng.normal(size=(2, 4)).astype("float32")
    served = array(head(x))
    dense = head.to_dense()
    assert type(dense) is keras.layers.Dense and len(dense.weights) == 2
    np.testing.assert_array_equal(array(dense(x)), served)
    np.testing.assert_array_equal(array(dense(x, training=True)), served)


def test_configs_rebuild_the_prior_and_the_head():
    streaming = StreamingPrior(3, half_life=50, smoothing=2, ignore_class=-1)
    head = StreamingPriorDense(3, streaming, tau=VECTOR, target_prior=TARGET, use_bias=False, name="head")
    for layer in (streaming, head):
        text = json.dumps(keras.saving.serialize_keras_object(layer))
        for copy in (
            keras.saving.deserialize_keras_object(json.loads(text)),
            type(layer).from_config(layer.get_config()),
        ):
            assert type(copy) is type(layer)
            assert copy.get_config() == layer.get_config()
    assert copy.streaming_prior is not streaming
    copy(np.ones((1, 4)))
    head(np.ones((1, 4)))
    assert [w.shape for w in copy.weights] == [w.shape for w in head.weights]


def test_a_cloned_model_counts_for_itself_from_zero(rng):
    inputs, streaming = keras.Input((4,)), counted()
    model = keras.Model(inputs, StreamingPriorDense(3, streaming, tau=VECTOR, target_prior=TARGET)(inputs))
    head = keras.models.clone_model(model).layers[-1]
    head.streaming_prior.update([1, 1])
    assert streaming.class_counts.tolist() == COUNTS
    assert_trains_with(head, np.ones((1, 4), "float32"), VECTOR * log_prior([0, 2, 0]) - np.log(TARGET))


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"one column for each of the 3 classes\. Received shape \(2, 5\)"):
        StreamingPrior(3).update(np.eye(5, dtype="float32")[[1, 2]])


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("padding", [0, -1])
def test_padding_is_not_counted(rows, padding):
    """Padded positions have a label too, as a rule class 0. The loss leaves them out, and so does the prior."""
    x, y = np.array([[3, 4, 0, 0], [5, 6, 7, 0]]), np.array([[1, 2, 0, 0], [2, 1, 2, 0]])
    inputs, streaming = keras.Input((4,)), StreamingPrior(3)
    features = keras.layers.Embedding(10, 4, mask_zero=True)(inputs)
    model = kla.priors.CountingModel(inputs, StreamingPriorDense(3, streaming)(features))
    loss = keras.losses.CategoricalCrossentropy if rows else keras.losses.SparseCategoricalCrossentropy
    model.compile("sgd", loss(from_logits=True, **({} if rows else {"ignore_class": -1})))
    labels = np.where(x == 0, padding, y)
    model.fit(x, (np.eye(3)[y] if rows else labels), verbose=0)
    np.testing.assert_array_equal(streaming.class_counts, [0, 2, 3])
