"""TensorFlow's own: unknown static shapes, `tf.data`, and `tf.distribute`."""

import logging

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from helpers import workers
from helpers.gradients import value_and_gradient

import keras_logit_adjust as kla
from keras_logit_adjust.losses import BinaryLogitAdjustedCrossentropy, LogitAdjustedCrossentropy
from keras_logit_adjust.priors import count_classes

COUNTS = [437, 50, 12, 1]
LABELS = np.array([0, 2, 0, 3, 0, 2])
EXPECTED = [3, 0, 2, 1]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def traced(loss, labels, logits, jit_compile=False):
    """`loss` traced for the given static shapes."""
    signature = [tf.TensorSpec(labels, tf.int32), tf.TensorSpec(logits, tf.float32)]
    return tf.function(lambda y_true, y_pred: loss(y_true, y_pred), signature, jit_compile=jit_compile)


def test_bad_input_in_code_that_tensorflow_rewrites_is_a_value_error():
    @tf.function
    def step(y_true, y_pred):
        return LogitAdjustedCrossentropy([2, 0])(y_true, y_pred)

    with pytest.raises(ValueError, match="`class_counts` must be greater than zero"):
        step(tf.constant([0]), tf.zeros((1, 4)))


class Messages(logging.Handler):
    """The messages of a logger."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def test_a_loop_of_ones_own_is_compiled_without_a_warning():
    loss, binary = LogitAdjustedCrossentropy([9, 3, 1]), BinaryLogitAdjustedCrossentropy([9, 3, 1], 20)
    metric, streaming = kla.metrics.BalancedAccuracy(3), kla.priors.StreamingPrior(3)
    ids, logits = np.array([0, 1, 2]), np.zeros((3, 3), "float32")

    @tf.function
    def step(y_true, y_pred):
        metric.update_state(y_true, y_pred)
        streaming.update(y_true)
        rows = tf.one_hot(y_true, 3)
        plain = loss(y_true, y_pred), loss(ids, logits), loss(rows, y_pred), loss(np.eye(3), logits)
        return *plain, binary(rows, y_pred), binary(np.eye(3), logits)

    handler = Messages()
    tf.get_logger().addHandler(handler)
    try:
        values = step(tf.constant(ids), tf.constant(logits))
    finally:
        tf.get_logger().removeHandler(handler)
    assert handler.texts == []
    np.testing.assert_allclose(values[:4], float(loss(ids, logits)), rtol=1e-6)
    np.testing.assert_allclose(values[4:], float(binary(np.eye(3), logits)), rtol=1e-6)


UNKNOWN = {
    "labels of unknown rank": (None, [None, 4], "`y_true` must have a known rank"),
    "logits of unknown rank": ([None], None, "`y_pred` must have a known rank"),
    "labels of unknown width": ([None, None], [None, 4], r"`y_true` must be class ids.*Received shape \(None, None\)"),
    "logits of unknown width": ([None], [None, None], r"`y_pred` must have a last dimension of 4.*\(None, None\)"),
}


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN.keys())
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_shape_that_cannot_tell_ids_from_rows_is_refused_with_the_remedy(case, kind):
    labels, logits, match = case
    if kind == "softmax":
        loss = LogitAdjustedCrossentropy(COUNTS)
    else:
        loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000)
        match = match.replace("be class ids", "have the shape of `y_pred`")
        labels = [None, 4] if labels == [None] else labels
    with pytest.raises(ValueError, match=f"(?s){match}.*set_shape"):
        traced(loss, labels, logits).get_concrete_function()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("labels", [[None], [None, 1], [None, 4]], ids=str)
def test_an_unknown_batch_dimension_is_fine(rng, labels, jit_compile):
    function = traced(LogitAdjustedCrossentropy(COUNTS, reduction=None), labels, [None, 4], jit_compile)
    for rows in (2, 5):
        ids, logits = rng.integers(0, 4, rows), rng.normal(size=(rows, 4)).astype("float32")
        rendered = np.eye(4)[ids] if labels == [None, 4] else ids.reshape([rows, *labels[1:]])
        scores = logits + reference.log_prior(COUNTS)
        expected, _ = reference.over_rows(reference.crossentropy, np.eye(4)[ids], scores)
        np.testing.assert_allclose(function(rendered.astype("int32"), logits), expected, **CLOSE)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_compiled_rare_classes_keep_their_whole_adjustment(mode, tau):
    loss = LogitAdjustedCrossentropy([437511, 2], tau=tau, reduction=None)
    value, gradient = value_and_gradient(loss, np.array([1]), np.zeros((1, 2), "float32"), mode)
    np.testing.assert_allclose(value, tau * np.log(437511 / 2) + np.log1p((2 / 437511) ** tau), rtol=1e-6)
    share = 1 / (1 + (2 / 437511) ** tau)
    np.testing.assert_allclose(gradient, [[share, -share]], rtol=1e-6)


def pairs(labels, features=(5,)):
    return tf.data.Dataset.from_tensor_slices((np.zeros((len(labels), *features), "float32"), labels))


ONE_HOT = np.eye(4, dtype="float32")[LABELS]
DATASETS = {
    "single examples": lambda: pairs(LABELS),
    "batches": lambda: pairs(LABELS).batch(4),
    "batches of static size": lambda: pairs(LABELS).batch(3, drop_remainder=True),
    "columns": lambda: pairs(LABELS[:, None]).batch(4),
    "weighted batches": lambda: pairs(LABELS).batch(4).map(lambda x, y: (x, y, 0.5)),
    "features in a dict": lambda: pairs(LABELS).batch(4).map(lambda x, y: ({"a": x}, y)),
    "one-hot examples": lambda: pairs(ONE_HOT),
    "one-hot integer examples": lambda: pairs(ONE_HOT.astype("int64")),
    "one-hot examples with as many features as classes": lambda: pairs(ONE_HOT, features=(4,)),
    "one-hot batches": lambda: pairs(ONE_HOT).batch(4),
    "one-hot batches as large as classes": lambda: pairs(np.tile(ONE_HOT, (2, 1))).batch(4, True),
    "one-hot bfloat16 batches": lambda: pairs(ONE_HOT).batch(4).map(lambda x, y: (x, tf.cast(y, tf.bfloat16))),
    "labels alone": lambda: tf.data.Dataset.from_tensor_slices(LABELS),
    "batches of labels alone": lambda: tf.data.Dataset.from_tensor_slices(LABELS).batch(4),
    "one-hot labels alone": lambda: tf.data.Dataset.from_tensor_slices(ONE_HOT),
    "unknown cardinality": lambda: pairs(LABELS).filter(lambda x, y: True).batch(4),
    "the start of an endless one": lambda: pairs(LABELS).batch(6).repeat().take(1),
}


@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize("name", DATASETS)
def test_the_labels_of_a_dataset_are_counted(name, num_classes):
    times = 2 if "as large as" in name else 1
    options = {"num_classes": num_classes, "label_form": "rows" if "integer" in name else None}
    assert count_classes(DATASETS[name](), **options).tolist() == [times * n for n in EXPECTED]


def test_an_endless_dataset_is_refused():
    with pytest.raises(ValueError, match=r"endless dataset: count before `\.repeat\(\)`, or `\.take\(n\)`"):
        count_classes(pairs(LABELS).repeat())


def test_a_dataset_of_dicts_is_refused():
    dataset = pairs(LABELS)
    for mapped in (dataset.map(lambda x, y: {"x": x, "y": y}), dataset.map(lambda x, y: (x, {"y": y}))):
        with pytest.raises(ValueError, match=r"must be \(x, y\).*one array of labels.*dict"):
            count_classes(mapped)


def test_a_label_out_of_range_in_a_dataset_is_found():
    with pytest.raises(ValueError, match="below num_classes=3. Received 3 at position 1 of batch 1"):
        count_classes(pairs(LABELS).batch(2), num_classes=3)


@pytest.fixture(scope="module")
def runs():
    """The losses and weights of every case of `mirrored_fit.py`, on one device and mirrored over two."""
    return workers.found_by("mirrored_fit.py", timeout=300)


MIRRORED = [
    *("sum", "sum_over_batch_size", "mean_with_sample_weight"),
    *("sum weighted", "sum_over_batch_size weighted", "mean_with_sample_weight weighted"),
    *("sum ignored", "sum_over_batch_size ignored", "mean_with_sample_weight ignored"),
    *("masked", "one-hot", "multi-label", "multi-label, unknown", "pairwise margins", "focal"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", MIRRORED)
def test_two_mirrored_devices_train_as_one_does(runs, case):
    one, two = runs[case]
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-6)


@pytest.mark.slow
def test_every_mirrored_case_is_looked_at(runs):
    assert set(runs) == set(MIRRORED)


def test_in_a_scope_but_outside_a_replica_the_loss_is_that_of_one_device(rng):
    ids, logits = rng.integers(0, 4, 5), rng.normal(size=(5, 4)).astype("float32")
    loss = LogitAdjustedCrossentropy(COUNTS)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        inside = loss(ids, logits)
    np.testing.assert_allclose(inside, loss(ids, logits), rtol=1e-7)
    assert keras.backend.standardize_dtype(inside.dtype) == "float32"
