"""Metrics of several figures and reports: their names do not collide, or an error says so."""

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla

FINE, COARSE = [300, 100, 50, 5], [400, 10]


def network():
    inputs = keras.Input((4,))
    outputs = {
        "fine": keras.layers.Dense(4, name="fine")(inputs),
        "coarse": keras.layers.Dense(2, name="coarse")(inputs),
    }
    return keras.Model(inputs, outputs)


def fit(metrics, **options):
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), {"fine": loss, "coarse": loss}, metrics=metrics)
    x, labels = np.eye(4, dtype="float32"), {"fine": np.arange(4), "coarse": np.array([0, 0, 1, 1])}
    history = model.fit(x, labels, verbose=0, validation_data=(x, labels), **options).history
    return history, model.predict(x, verbose=0)


def test_two_groups_with_names_of_their_own_have_figures_of_their_own():
    history, predicted = fit(
        {"fine": kla.metrics.GroupAccuracy(FINE), "coarse": kla.metrics.GroupAccuracy(COARSE, name="coarse")}
    )
    right = predicted["fine"].argmax(axis=-1) == np.arange(4)
    expected = {"many": right[:2].mean(), "medium": right[2], "few": right[3]}
    right = predicted["coarse"].argmax(axis=-1) == [0, 0, 1, 1]
    expected |= {"coarse_many": right[:2].mean(), "coarse_few": right[2:].mean()}
    for name, value in expected.items():
        assert history[f"{name}_accuracy"] == history[f"val_{name}_accuracy"] == [pytest.approx(float(value))]


def test_two_groups_of_one_name_are_refused_before_a_figure_is_lost():
    metrics = {"fine": kla.metrics.GroupAccuracy(FINE), "coarse": kla.metrics.GroupAccuracy(COARSE)}
    with pytest.raises(ValueError, match=r"different names\. Received two of 'many_accuracy'.*name='fine'"):
        fit(metrics)
    same = [kla.metrics.GroupAccuracy(FINE, groups=["balanced", *"abc"]), kla.metrics.BalancedAccuracy(4)]
    with pytest.raises(ValueError, match="Received two of 'balanced_accuracy', of 'group_accuracy' and 'balanced_acc"):
        fit({"fine": same})


def test_a_metric_that_is_read_alone_needs_no_name():
    for _ in range(2):
        assert list(kla.metrics.GroupAccuracy(FINE).result()) == ["many_accuracy", "medium_accuracy", "few_accuracy"]
    assert list(kla.metrics.GroupAccuracy(COARSE, name="c").result()) == ["c_many_accuracy", "c_few_accuracy"]


def reports(*names):
    recalls = {"fine": (FINE, "fine_recalls"), "coarse": (COARSE, "coarse_recalls")}
    return [
        kla.callbacks.LongTailReport(counts, metric=metric, name=name)
        for (counts, metric), name in zip(recalls.values(), names, strict=True)
    ]


def test_two_reports_of_one_model_have_figures_of_their_own(capsys):
    metrics = {
        "fine": kla.metrics.PerClassAccuracy(4, name="recalls"),
        "coarse": kla.metrics.PerClassAccuracy(2, name="recalls"),
    }
    history, predicted = fit(metrics, callbacks=reports(None, "coarse"))
    recall = np.diag(np.eye(4)[predicted["fine"].argmax(axis=-1)])
    assert history["val_balanced_accuracy"] == [pytest.approx(recall.mean())]
    coarse = (predicted["coarse"].argmax(axis=-1) == [0, 0, 1, 1]).reshape(2, 2).mean(axis=1)
    assert history["val_coarse_balanced_accuracy"] == [pytest.approx(coarse.mean())]
    assert history["val_coarse_few_accuracy"] == [pytest.approx(coarse[1])]
    for names in ((None, None), ("same", "same")):
        with pytest.raises(ValueError, match=rf"must have its own name\. Received two with name={names[0]!r}"):
            fit(metrics, callbacks=reports(*names))


@pytest.mark.parametrize("name", ["", 3, ["a"]])
def test_a_name_of_a_report_is_a_text(name):
    with pytest.raises(ValueError, match="`name` must be a text or None"):
        kla.callbacks.LongTailReport(COARSE, metric="m", name=name)
