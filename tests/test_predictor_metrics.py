"""Metrics of a predictor of many classes at work: in `compile` and `evaluate`, with masks, weights and files."""

import keras
import numpy as np
import pytest
from helpers import reference_metrics

import keras_logit_adjust as kla

L = 13
COUNTS = np.arange(L, 0, -1) * 12
PSP = "top_3_propensity_scored_precision"


def trained_nowhere(steps=()):
    """A `ManyClassModel` with random weights, and its `predictor(4)`."""
    inputs = keras.Input((*steps, 3))
    hidden = keras.layers.Masking()(inputs) if steps else inputs
    features = keras.layers.Dense(5, "tanh")(hidden)
    model = kla.layers.ManyClassModel(inputs, kla.layers.ManyClassDense(L, COUNTS, chunk_size=5)(features))
    return model, model.predictor(4)


def scores_of(model, x):
    """All scores, by a plain `Dense`."""
    return np.asarray(keras.Model(model.input, model.head.to_dense()(model.head.input)).predict(x, verbose=0))


def compiled(predictor):
    metrics = [kla.metrics.BalancedAccuracy(L, k=4), kla.metrics.GroupAccuracy(COUNTS)]
    precision = kla.metrics.PropensityScoredPrecision(COUNTS, COUNTS.sum(), k=3)
    predictor.compile(metrics=[precision], weighted_metrics=metrics)
    return predictor


def expected(y, scores, weight=None):
    groups = kla.metrics.groups_of_counts(COUNTS)
    best = np.argsort(-scores, axis=-1)[:, :4]
    return {
        "top_4_balanced_accuracy": reference_metrics.balanced_accuracy(y, scores, weight, k=4),
        **reference_metrics.group_accuracy(y, scores, groups, weight),
        PSP: reference_metrics.propensity_scored_precision([{c} for c in y], best, COUNTS, COUNTS.sum(), k=3),
    }


def test_evaluation_of_a_predictor_reports_what_all_scores_give(rng, tmp_path):
    x, y, weight = rng.normal(size=(50, 3)).astype("float32"), rng.integers(0, L, 50), rng.uniform(0.1, 2, 50)
    model, predictor = trained_nowhere()
    data = {"x": x, "y": y, "sample_weight": weight, "batch_size": 20, "verbose": 0, "return_dict": True}
    predictor.save(tmp_path / "predictor.keras")
    found = compiled(predictor).evaluate(**data)
    assert found.pop("loss") == 0
    for name, value in expected(y, scores_of(model, x), weight).items():
        assert float(found[name]) == pytest.approx(value, rel=2e-6), name
    loaded = keras.saving.load_model(tmp_path / "predictor.keras")
    assert isinstance(loaded, kla.layers.ManyClassPredictor)
    again = compiled(loaded).evaluate(**data)
    assert {name: again[name] for name in found} == found


def test_positions_under_a_mask_are_not_counted(rng):
    x, y = rng.normal(size=(6, 4, 3)).astype("float32"), rng.integers(0, L, (6, 4))
    x[1, 2:], y[1, 2:], x[4], y[4] = 0, -7, 0, L  # padding, with labels that are no classes
    model, predictor = trained_nowhere(steps=(4,))
    seen = (x != 0).any(axis=-1)
    metrics = [kla.metrics.BalancedAccuracy(L, k=4), kla.metrics.PropensityScoredPrecision(COUNTS, 10_000, k=3)]
    predictor.compile(metrics=metrics)
    found = predictor.evaluate(x, np.where(seen, y, 0), batch_size=4, verbose=0, return_dict=True)
    rows, scores = y[seen], scores_of(model, x)[seen]
    assert found["top_4_balanced_accuracy"] == pytest.approx(
        reference_metrics.balanced_accuracy(rows, scores, k=4), rel=2e-6
    )
    best = np.argsort(-scores, axis=-1)
    precision = reference_metrics.propensity_scored_precision([{c} for c in rows], best, COUNTS, 10_000, k=3)
    assert found[PSP] == pytest.approx(precision, rel=2e-6)


def test_a_loss_and_metrics_of_scores_are_refused(rng):
    x, y = rng.normal(size=(4, 3)).astype("float32"), rng.integers(0, L, 4)
    model, predictor = trained_nowhere()
    predictor.compile(loss="mse")
    with pytest.raises(ValueError, match="of which no loss is computed.*`ManyClassModel` that it comes from"):
        predictor.evaluate(x, y, verbose=0)
    predictor = model.predictor(4)
    predictor.compile(metrics=["accuracy"])
    with pytest.raises(AttributeError, match="Ids of the best classes have no 'shape'.*`y_pred.ids`"):
        predictor.evaluate(x, y, verbose=0)
    predictor.compile(metrics=[keras.metrics.SparseCategoricalAccuracy()])
    with pytest.raises(TypeError, match="Ids of the best classes are no array of scores.*`y_pred.ids`"):
        predictor.evaluate(x, y, verbose=0)
    predictor.compile(metrics=[kla.metrics.BalancedAccuracy(L, k=5)])
    with pytest.raises(ValueError, match=r"`k` must be at most the number of ids.*, 4.*predictor\(k=5\)"):
        predictor.evaluate(x, y, verbose=0)


def test_a_model_whose_scores_are_nan_hits_no_class():
    _, predictor = trained_nowhere()
    predictor.compile(metrics=[kla.metrics.BalancedAccuracy(L, k=3)])
    found = predictor.evaluate(np.full((L, 3), np.nan, "float32"), np.arange(L), verbose=0, return_dict=True)
    assert found["top_3_balanced_accuracy"] == 0


class LabelIsFirst(keras.metrics.Mean):
    """A metric of a user's own."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(keras.ops.equal(y_pred.ids[..., 0], keras.ops.cast(y_true, "int32")), sample_weight)


def test_a_metric_of_the_user_reads_the_ids(rng):
    x = rng.normal(size=(10, 3)).astype("float32")
    model, predictor = trained_nowhere()
    y = np.where(np.arange(10) < 7, scores_of(model, x).argmax(axis=-1), 0)
    predictor.compile(metrics=[LabelIsFirst(name="first")])
    share = (scores_of(model, x).argmax(axis=-1) == y).mean()
    assert predictor.evaluate(x, y, verbose=0, return_dict=True)["first"] == pytest.approx(share)
