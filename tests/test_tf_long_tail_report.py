"""`LongTailReport` with TensorFlow at hand: datasets, TensorBoard, several devices and workers."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import reference_metrics

import keras_logit_adjust as kla

tf = pytest.importorskip("tensorflow")

HERE = pathlib.Path(__file__).parent
COUNTS, GROUPS = [500, 60, 20, 3], ["many", "medium", "few", "few"]
FIGURES = [f"val_{name}_accuracy" for name in ("many", "medium", "few", "balanced", "worst_class")]


def network():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS)
    model.compile(keras.optimizers.SGD(1.0), loss, run_eagerly=True)
    return model


def data(rng, number=40):
    y = rng.choice([0, 1, 3], size=number)  # the third class has no examples
    return (np.eye(4)[y] + rng.normal(size=(number, 4))).astype("float32"), y


def fit(model, rng, report, **options):
    x, y = data(rng)
    return model.fit(x, y, callbacks=[report], **{"epochs": 3, "verbose": 0, **options}).history


def by_hand(y, scores, names=GROUPS):
    groups = reference_metrics.group_accuracy(y, scores, names)
    return {
        **{f"val_{name}": value for name, value in groups.items()},
        "val_balanced_accuracy": reference_metrics.balanced_accuracy(y, scores),
        "val_worst_class_accuracy": reference_metrics.worst_class_accuracy(y, scores),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda dataset: dataset,
        lambda dataset: dataset.filter(lambda x, y: True),  # of unknown length
        lambda dataset: dataset.map(lambda x, y: (x, tf.one_hot(y, 4))),
        lambda dataset: dataset.map(lambda x, y: (x, y, tf.ones_like(y))),
    ],
    ids=["ids", "unknown length", "one-hot", "weights"],
)
def test_a_dataset_is_gone_through_after_every_epoch(change, rng):
    x, y = data(rng)
    model, dataset = network(), change(tf.data.Dataset.from_tensor_slices((x, y)).batch(16))
    history = fit(model, rng, kla.callbacks.LongTailReport(COUNTS, validation_data=dataset))
    for name, value in by_hand(y, model.predict(x, verbose=0)).items():
        np.testing.assert_allclose(history[name][-1], value, rtol=1e-6)
    assert len(history["val_few_accuracy"]) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: tf.data.Dataset.from_tensor_slices(x).batch(4), "Received a batch that is a TensorSpec: labels are"),
        (lambda x: tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(4).repeat(), "must end. Received an endless"),
    ],
    ids=["no labels", "endless"],
)
def test_a_dataset_without_labels_or_without_an_end_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        kla.callbacks.LongTailReport(COUNTS, validation_data=make(np.zeros((8, 4))))


def test_the_keras_callback_for_tensorboard_writes_the_figures(rng, tmp_path):
    pytest.importorskip("tensorboard")
    x, y = data(rng)
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y))
    history = network().fit(x, y, epochs=3, verbose=0, callbacks=[report, board]).history
    found = {}
    for path in sorted((tmp_path / "validation").glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset([os.fspath(path)]):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    for name in FIGURES:
        expected = [(epoch, pytest.approx(value)) for epoch, value in enumerate(history[name])]
        assert found[f"epoch_{name.removeprefix('val_')}"] == expected


@pytest.mark.slow
def test_the_figures_of_mirrored_devices_are_exact_in_both_fits():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("strategies of tf.distribute are for TensorFlow")
    result = subprocess.run(
        [sys.executable, str(HERE / "helpers" / "mirrored_report.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for name, run in found["runs"].items():
        for epoch, scores in enumerate(run["scores"]):
            for figure, value in by_hand(found["labels"], scores).items():
                np.testing.assert_allclose(run["history"][figure][epoch], value, rtol=1e-6, err_msg=f"{name}: {figure}")


def test_several_workers_are_told_to_compile_the_metric(rng):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("strategies of tf.distribute are for TensorFlow")
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = network()
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=data(rng))
    report.set_model(model)
    with pytest.raises(
        ValueError, match=r"on several workers. Leave it out, .*PerClassAccuracy.* `metric=.* `kla.tf_distribute.fit"
    ):
        report.on_train_begin()
