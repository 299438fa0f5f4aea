"""`PredictorMetrics` and `LongTailReport` in the `fit` of a model of many classes: values, files, what is refused."""

import keras
import numpy as np
import pytest
from helpers import reference_metrics
from helpers.arrays import array
from helpers.gradients import BACKEND

import keras_logit_adjust as kla

L = 13
COUNTS = np.arange(L, 0, -1) * 12
GROUPS = ["many"] * 5 + ["medium"] * 7 + ["few"]
EAGER = {"run_eagerly": BACKEND == "tensorflow"}


def network(**options):
    inputs = keras.Input((3,))
    features = keras.layers.Dense(5, "tanh", name="hidden")(inputs)
    model = kla.layers.ManyClassModel(inputs, kla.layers.ManyClassDense(L, COUNTS, chunk_size=5)(features))
    model.compile(keras.optimizers.SGD(2.0), **{**EAGER, **options})
    return model


class Scores(keras.callbacks.Callback):
    """All scores of `x` after each epoch."""

    def __init__(self, x):
        super().__init__()
        self.x, self.seen = x, []

    def on_epoch_end(self, epoch, logs=None):
        weights, bias = map(array, self.model.get_layer("hidden").get_weights())
        self.seen.append(
            np.tanh(self.x @ weights + bias) @ array(self.model.head.kernel).T + array(self.model.head.bias)
        )


def draw(rng, size=40):
    y = rng.integers(0, L, size)
    return (np.random.default_rng(7).normal(size=(L, 3))[y] + rng.normal(size=(size, 3))).astype("float32"), y


def test_each_epoch_has_the_metrics_of_its_own_top_classes(rng, tmp_path):
    (x, y), (held_out, labels), weight = draw(rng), draw(rng, 50), rng.uniform(0.1, 3, 50)
    model, scores = network(), Scores(held_out)
    metrics = [kla.metrics.BalancedAccuracy(L, k=3), kla.metrics.GroupAccuracy(COUNTS, k=2)]
    top = kla.callbacks.PredictorMetrics((held_out, labels, weight), metrics=metrics, batch_size=30)
    assert top.k == 3
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(held_out, labels), batch_size=30)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", "val_top_3_balanced_accuracy", save_best_only=True, mode="max"
    )
    stop = keras.callbacks.EarlyStopping("val_top_2_few_accuracy", mode="max", patience=10)
    fit = {"batch_size": 40, "epochs": 2, "verbose": 0}
    logs = model.fit(x, y, callbacks=[top, report, scores, best, stop], **fit).history
    for epoch, seen in enumerate(scores.seen):
        expected = {
            "val_top_3_balanced_accuracy": reference_metrics.balanced_accuracy(labels, seen, weight, k=3),
            "val_balanced_accuracy": reference_metrics.balanced_accuracy(labels, seen),
        }
        groups = reference_metrics.group_accuracy(labels, seen, GROUPS, weight, k=2)
        expected |= {f"val_top_2_{name}": value for name, value in groups.items()}
        groups = reference_metrics.group_accuracy(labels, seen, GROUPS)
        expected |= {f"val_{name}": value for name, value in groups.items()}
        for name, value in expected.items():
            assert float(logs[name][epoch]) == pytest.approx(value, rel=2e-6), (epoch, name)
    assert {*logs} == {"loss", "val_worst_class_accuracy", *expected}
    first, values = int(np.argmax(logs["val_top_3_balanced_accuracy"])), logs["val_top_3_balanced_accuracy"]
    assert len(set(values)) > 1
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    found = loaded.predictor(1).predict(held_out, verbose=0)["ids"][:, 0]
    np.testing.assert_array_equal(found, scores.seen[first].argmax(axis=-1))


def test_the_predictor_is_compiled_once_and_evaluated_as_often_as_asked(rng):
    (x, y), model = draw(rng, 20), network()
    top = kla.callbacks.PredictorMetrics([(x, y)], metrics=kla.metrics.BalancedAccuracy(L), k=2, every=2)
    assert len(model.fit(x, y, epochs=2, callbacks=[top], verbose=0).history["val_balanced_accuracy"]) == 1
    predictor = top._predictor
    assert "val_balanced_accuracy" not in model.fit(x, y, callbacks=[top], verbose=0).history
    assert top._predictor is predictor and predictor.layers[-1].k == 2
    other = network()
    other.fit(x, y, callbacks=[top], verbose=0)
    assert top._predictor.layers[-1].head is other.head


def test_several_labels_are_validated_during_training_with_one(rng):
    (x, y), model = draw(rng, 20), network()
    several = np.stack([y, np.full_like(y, -1)], axis=-1)
    precision = kla.metrics.PropensityScoredPrecision(COUNTS, COUNTS.sum(), k=3)
    top = kla.callbacks.PredictorMetrics((x, several), metrics=[precision])
    logs = model.fit(x, y, callbacks=[top], verbose=0).history
    assert 0 < logs["val_top_3_propensity_scored_precision"][0] <= 1


def test_predictor_metrics_refuse_what_does_not_fit(rng):
    x, y = draw(rng, 8)
    balanced, make = kla.metrics.BalancedAccuracy(L, k=3), kla.callbacks.PredictorMetrics
    for bad in ([], ["accuracy"]):
        with pytest.raises(ValueError, match="`metrics` must be a list of metrics that take the ids"):
            make((x, y), metrics=bad)
    twins = [kla.metrics.BalancedAccuracy(L, k=3), balanced, kla.metrics.GroupAccuracy(COUNTS, k=3)]
    with pytest.raises(ValueError, match=r"its own name.*more than once: \['top_3_balanced_accuracy'\]. Give all"):
        make((x, y), metrics=twins)
    with pytest.raises(ValueError, match=r"must be \(x, y\) or \(x, y, sample_weight\)"):
        make((x,), metrics=[balanced])
    with pytest.raises(ValueError, match="`k` must be an integer of at least 1"):
        make((x, y), metrics=[balanced], k=0)
    model = network()
    with pytest.raises(ValueError, match=r"`k` must be at most the number of ids of each position, 2.*k=3"):
        model.fit(x, y, callbacks=[make((x, y), metrics=[balanced], k=2)], verbose=0)
    with pytest.raises(ValueError, match="must agree in every dimension but the last|cardinality"):
        model.fit(x, y, callbacks=[make([(x, y[:5])], metrics=[balanced])], verbose=0)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(L)])
    dense.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS), **EAGER)
    with pytest.raises(ValueError, match="is for a `kla.layers.ManyClassModel`. Received a Sequential.*to `compile`"):
        dense.fit(x, y, callbacks=[make((x, y), metrics=[balanced])], verbose=0)
