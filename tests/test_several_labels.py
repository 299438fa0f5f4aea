"""Losses and metrics for one label an example that are given rows of several: NaN, never another figure."""

import keras
import numpy as np
import pytest
from helpers.gradients import MODES, value_and_gradient
from keras import ops

import keras_logit_adjust as kla

L = 3
COUNTS = [300, 50, 5]
METRICS = {
    "balanced": lambda: kla.metrics.BalancedAccuracy(L),
    "per_class": lambda: kla.metrics.PerClassAccuracy(L),
    "precision": lambda: kla.metrics.PerClassPrecision(L),
    "macro_f1": lambda: kla.metrics.MacroF1(L),
    "worst": lambda: kla.metrics.WorstClassAccuracy(L),
    "group": lambda: kla.metrics.GroupAccuracy(COUNTS),
}
LOSSES = {
    "adjusted": lambda **options: kla.losses.LogitAdjustedCrossentropy(COUNTS, **options),
    "margins": lambda **options: kla.losses.PairwiseMarginCrossentropy(COUNTS, rival_margin=[0, 1, 2], **options),
    "focal": lambda **options: kla.losses.FocalCrossentropy(**options),
}
SINGLE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])


def values(metric):
    return np.concatenate([np.ravel(ops.convert_to_numpy(value)) for value in keras.tree.flatten(metric.result())])


@pytest.mark.parametrize("kind", ["float32", "int32", "bool", "float16"])
@pytest.mark.parametrize("name", METRICS)
def test_a_row_of_several_labels_makes_every_metric_nan(name, kind):
    metric = METRICS[name]()
    metric.update_state(SINGLE.astype(kind), SINGLE.astype("float32"))
    assert (values(metric) == 1.0).all()
    several = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], kind)
    metric.update_state(several, several.astype("float32"))
    assert np.isnan(values(metric)).all()


@pytest.mark.parametrize("row", [[0.9, 0.9, 0.0], [2.0, -1.0, 0.0], [np.nan, 0.0, 1.0], [3.0, 0.0, 0.0]], ids=str)
def test_a_row_that_is_no_distribution_is_none_of_one_label(row):
    metric = kla.metrics.BalancedAccuracy(L)
    metric.update_state(np.array([row], "float32"), SINGLE[:1].astype("float32"))
    assert np.isnan(values(metric)).all()


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_soft_rows_of_one_label_count_as_before(kind):
    rows = keras.ops.softmax(np.random.default_rng(0).normal(size=(50, 1000)).astype("float32"))
    metric = kla.metrics.BalancedAccuracy(1000)
    metric.update_state(ops.cast(rows, kind), rows)
    best = np.unique(ops.convert_to_numpy(ops.argmax(ops.cast(rows, kind), axis=-1)))
    assert np.isfinite(values(metric)).all() and best.size > 1
    smooth = 0.9 * SINGLE + 0.1 / L
    metric = kla.metrics.MacroF1(L)
    metric.update_state(np.concatenate([smooth, np.zeros((1, L))]), np.eye(4, L, dtype="float32"))  # none: left out
    assert (values(metric) == 1.0).all()


def test_a_compiled_evaluation_of_several_labels_is_nan_too():
    model = keras.Sequential([keras.Input((L,)), keras.layers.Activation("sigmoid")])
    model.compile(loss="binary_crossentropy", metrics=[kla.metrics.MacroF1(L)])
    several = np.array([[1, 1, 0], [0, 1, 1]], "float32")
    logs = model.evaluate(8 * several - 4, several, verbose=0, return_dict=True)
    assert np.isnan(logs["macro_f1"]) and logs["loss"] < 0.1


def test_a_report_on_several_labels_names_the_metric_to_use():
    several = np.array([[1, 1, 0], [0, 1, 1]], "float32")
    model = keras.Sequential([keras.Input((L,)), keras.layers.Dense(L, "sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(several, several))
    with pytest.raises(
        ValueError,
        match=r"or the row of one label.*several labels, `num_examples`: LongTailReport\(positive_counts,",
    ):
        model.fit(several, several, verbose=0, callbacks=[report])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_row_of_several_labels_makes_a_loss_nan_and_no_other_row(name, mode, rng):
    good = np.array([[0, 1, 0], [0, 0, 0], [0.2, 0.3, 0.5], [0.9, 0.05, 0.0]], "float32")
    bad = np.array([[1, 1, 0], [1, 1, 1], [0.9, 0.9, 0], [2, 0, 0], [np.nan, 0, 1]], "float32")
    logits = rng.normal(size=(9, L)).astype("float32")
    loss = LOSSES[name](reduction=None)
    value, gradient = value_and_gradient(loss, np.concatenate([good, bad]), logits, mode)
    assert np.isnan(value[4:]).all() and np.isnan(gradient[4:]).all()
    shares, each = good.sum(axis=-1), np.eye(L, dtype="float32")
    alone = [value_and_gradient(loss, np.tile(row, (4, 1)), logits[:4])[0] for row in each]
    np.testing.assert_allclose(value[:4], (good.T * alone).sum(axis=0), rtol=1e-5, atol=1e-6)
    assert value[1] == 0.0 and np.isfinite(gradient[:4]).all() and not shares[1]  # no class: no cost
    assert np.isnan(value_and_gradient(LOSSES[name](), np.concatenate([good, bad[:1]]), logits[:5], mode)[0])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_loss_takes_soft_rows_that_half_precision_rounded(kind):
    rows = ops.softmax(np.random.default_rng(0).normal(size=(50, 1000)).astype("float32"))
    loss = kla.losses.LogitAdjustedCrossentropy(np.arange(1.0, 1001), tau=0)
    value = ops.convert_to_numpy(loss(ops.cast(rows, kind), np.zeros((50, 1000), "float32")))
    np.testing.assert_allclose(value, np.log(1000), rtol=0.01)
