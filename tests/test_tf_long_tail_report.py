"""`LongTailReport` with TensorFlow at hand: datasets, event files, several devices and workers."""

import io
import json
import os
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import reference_metrics

import keras_logit_adjust as kla
from keras_logit_adjust.callbacks import _event_files

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
    history = fit(model, rng, kla.callbacks.LongTailReport(COUNTS, dataset))
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
        kla.callbacks.LongTailReport(COUNTS, make(np.zeros((8, 4))))


def events(folder):
    """`{tag: [(step, value), …]}` of all files of a folder, in the order of their names."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("events.out.tfevents.*")):
        records = [
            tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset([os.fspath(path)])
        ]
        assert records[0].file_version == "brain.Event:2"
        for event in records[1:]:
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def check_scalars(found, history, steps):
    for name in FIGURES:
        written = found[f"long_tail/{name}"]
        assert [step for step, _ in written] == steps
        np.testing.assert_array_equal([value.simple_value for _, value in written], np.float32(history[name]))


def test_event_files_hold_the_history_the_recalls_the_worst_classes_and_once_the_counts(rng, tmp_path):
    x, y = data(rng)
    model = network()
    report = kla.callbacks.LongTailReport(COUNTS, (x, y), worst=2, log_dir=tmp_path / "logs")
    history = fit(model, rng, report)
    found = events(tmp_path / "logs")
    assert set(found) == {f"long_tail/{name}" for name in FIGURES} | {
        "long_tail/per_class_accuracy",
        "long_tail/worst_classes",
        "long_tail/class_counts",
    }
    check_scalars(found, history, [0, 1, 2])
    recall = reference_metrics.per_class_accuracy(y, model.predict(x, verbose=0))
    recall = recall[~np.isnan(recall)]
    assert [step for step, _ in found["long_tail/per_class_accuracy"]] == [0, 1, 2]
    histogram = found["long_tail/per_class_accuracy"][-1][1].histo
    np.testing.assert_allclose(
        [histogram.num, histogram.sum, histogram.sum_squares], [3, sum(recall), sum(recall**2)], rtol=1e-6
    )
    assert list(histogram.bucket) == [
        sum(low <= r < high or r == high == 1 for r in recall)
        for low, high in zip([0, *histogram.bucket_limit[:-1]], histogram.bucket_limit, strict=True)
    ]
    (text,) = tf.make_ndarray(found["long_tail/worst_classes"][-1][1].tensor)
    order = [c for c in np.argsort(report.per_class_accuracy, kind="stable") if c != 2][:2]
    words = ", ".join(f"{c} {report.per_class_accuracy[c]:.4f} ({COUNTS[c]})" for c in order)
    assert text.decode() == f"worst classes: {words}"
    ((step, image),) = found["long_tail/class_counts"]
    pixels = tf.io.decode_png(image.image.encoded_image_string)
    assert (step, *pixels.shape) == (0, image.image.height, image.image.width, image.image.colorspace)
    expected = io.BytesIO()
    kla.plots.class_counts(COUNTS).savefig(expected, format="png")
    np.testing.assert_array_equal(pixels, tf.io.decode_png(expected.getvalue()))


def test_a_run_that_goes_on_writes_on_and_what_was_written_is_on_disk_when_a_training_breaks(rng, tmp_path):
    held_out, model = data(rng), network()

    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("power cut")

    model.history = None
    report = kla.callbacks.LongTailReport(COUNTS, held_out, log_dir=tmp_path)
    x, y = data(rng)
    with pytest.raises(RuntimeError, match="power cut"):
        model.fit(x, y, epochs=4, verbose=0, callbacks=[report, Break()])
    first = model.history.history
    again = kla.callbacks.LongTailReport(COUNTS, held_out, log_dir=tmp_path)
    second = fit(model, rng, again, epochs=4, initial_epoch=2)
    check_scalars(events(tmp_path), {name: first[name] + second[name] for name in FIGURES}, [0, 1, 2, 3])


def test_without_matplotlib_one_warning_says_that_the_figure_is_left_out(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(_event_files, "has_matplotlib", lambda: False)
    with pytest.warns(UserWarning, match=r'needs matplotlib. Remedy: pip install "keras_logit_adjust\[plots\]"'):
        report = kla.callbacks.LongTailReport(COUNTS, data(rng), log_dir=tmp_path)
    history = fit(network(), rng, report, epochs=1)
    found = events(tmp_path)
    check_scalars(found, history, [0])
    assert "long_tail/class_counts" not in found
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kla.callbacks.LongTailReport(COUNTS, data(rng))


def test_mirrored_over_two_devices_the_figures_are_exact_under_keras_s_fit_and_under_ours():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("strategies of tf.distribute are for TensorFlow")
    result = subprocess.run(
        [sys.executable, str(HERE / "mirrored_report.py")], capture_output=True, text=True, timeout=300, env=os.environ
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
    report = kla.callbacks.LongTailReport(COUNTS, data(rng))
    report.set_model(model)
    with pytest.raises(
        ValueError, match=r"on several workers. Leave it out, .*PerClassAccuracy.* `kla.tf_distribute.fit"
    ):
        report.on_train_begin()
