"""`LongTailReport`: its figures against loops over each epoch's predictions, where they are seen, what it refuses."""

import re

import keras
import numpy as np
import pytest
from helpers import reference_metrics
from helpers.batches import Batches

import keras_logit_adjust as kla

BACKEND = keras.backend.backend()
EAGER = {"run_eagerly": BACKEND == "tensorflow", "jit_compile": BACKEND == "jax"}
COUNTS = [500, 150, 60, 21, 20, 3]
GROUPS = ["many", "many", "medium", "medium", "few", "few"]
L = len(COUNTS)
FIGURES = [f"val_{name}_accuracy" for name in ("many", "medium", "few", "balanced", "worst_class")]
EPOCHS = 2


class Predictions(keras.callbacks.Callback):
    """What the model predicts for `x` after each epoch."""

    def __init__(self, x):
        super().__init__()
        self.x, self.seen = x, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(keras.ops.convert_to_numpy(self.model.predict_on_batch(self.x)))


def network(rank=1, compiled=False, **options):
    """On TensorFlow not compiled unless asked for: that takes a second each time."""
    how = {"jit_compile": BACKEND == "jax"} if compiled else EAGER
    shape = (4,) if rank == 1 else (*(5,) * (rank - 1), 4)
    model = keras.Sequential([keras.Input(shape), keras.layers.Dense(L, kernel_initializer="glorot_normal")])
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS, ignore_class=-1)
    model.compile(keras.optimizers.SGD(2.0), loss, **how, **options)
    return model


def data(rng, number=70, rank=1):
    """Labels that the inputs tell of, with noise; the fourth class has no examples."""
    y = rng.choice([0, 1, 2, 4, 5], size=(number, *(5,) * (rank - 1)), p=[0.4, 0.2, 0.2, 0.1, 0.1])
    means = np.random.default_rng(7).normal(size=(L, 4))
    return (means[y] + rng.normal(size=(*y.shape, 4))).astype("float32"), y


def fit(model, train, report, *callbacks, epochs=EPOCHS, verbose=0, **options):
    x, y = train
    callbacks = [report, *callbacks]
    return model.fit(x, y, epochs=epochs, batch_size=32, verbose=verbose, callbacks=callbacks, **options).history


def by_hand(y, scores, weight=None, names=GROUPS):
    """The figures of one epoch."""
    if weight is not None:
        y, scores, weight = y[weight > 0], scores[weight > 0], weight[weight > 0]
    groups = reference_metrics.group_accuracy(y, scores, names, weight)
    return {
        **{f"val_{name}": value for name, value in groups.items()},
        "val_balanced_accuracy": reference_metrics.balanced_accuracy(y, scores, weight),
        "val_worst_class_accuracy": reference_metrics.worst_class_accuracy(y, scores, weight),
    }


def check(history, y, predictions, **options):
    for epoch, scores in enumerate(predictions.seen):
        for name, value in by_hand(y, scores, **options).items():
            np.testing.assert_allclose(history[name][epoch], value, rtol=1e-6, err_msg=f"{name}, epoch {epoch}")
    assert len(predictions.seen) == len(history["val_few_accuracy"])


def cut(*arrays):
    return [tuple(array[start : start + 16] for array in arrays) for start in range(0, len(arrays[0]), 16)]


WEIGHT = np.arange(70) % 4 * 0.5
SOURCES = {
    "arrays": lambda x, y: (x, y),
    "a list of labels": lambda x, y: (x, y.tolist()),
    "a column of labels": lambda x, y: (x, y[:, None]),
    "one-hot": lambda x, y: (x, np.eye(L)[y]),
    "weights": lambda x, y: (x, y, WEIGHT),
    "PyDataset": lambda x, y: Batches(cut(x, y)),
    "batches": lambda x, y: cut(x, y),
    "one-hot, weighted batches": lambda x, y: cut(x, np.eye(L)[y], WEIGHT),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_history_has_the_figures_of_every_epoch_for_all_kinds_of_data(source, rng):
    train, (x, y) = data(rng), data(rng)
    predictions = Predictions(x)
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=SOURCES[source](x, y), batch_size=16)
    weight = WEIGHT if "weight" in source else None
    history = fit(network(compiled=source == "arrays"), train, report, predictions)
    check(history, y, predictions, weight=weight)
    if weight is None:
        expected = reference_metrics.per_class_accuracy(y, predictions.seen[-1])
        np.testing.assert_allclose(report.per_class_accuracy, expected, rtol=1e-6)
    assert [name for name in history if name.startswith("val_")] == FIGURES


def test_the_labels_of_pixels_count_but_those_that_are_ignored(rng):
    train, (x, y) = data(rng, rank=3), data(rng, number=9, rank=3)
    ignored = np.where(rng.random(y.shape) < 0.3, -1, y)
    predictions = Predictions(x)
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(x, ignored), ignore_class=-1, batch_size=4)
    history = fit(network(rank=3), train, report, predictions, epochs=2)
    for epoch, scores in enumerate(predictions.seen):
        for name, value in by_hand(ignored[ignored >= 0], scores[ignored >= 0]).items():
            np.testing.assert_allclose(history[name][epoch], value, rtol=1e-6)


def test_groups_go_by_their_names_and_those_without_classes_are_left_out(rng):
    train, (x, y) = data(rng), data(rng)
    groups = ["animals", "tools", "animals", "plants", None, "tools"]
    predictions = Predictions(x)
    named = fit(
        network(),
        train,
        kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y), groups=groups),
        predictions,
        epochs=1,
    )
    expected = by_hand(y, predictions.seen[0], names=groups)
    assert {name for name in named if name.startswith("val_")} == set(expected)
    for name, value in expected.items():  # no plant has an example: NaN
        np.testing.assert_allclose(named[name], [value], rtol=1e-6)
    bounded = fit(
        network(), train, kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y), bounds=(0, 60)), epochs=1
    )
    assert {"val_many_accuracy", "val_medium_accuracy"} < set(bounded)
    assert "val_few_accuracy" not in bounded


def test_a_report_changes_neither_the_training_nor_the_model_s_metrics(rng):
    train, (x, y) = data(rng), data(rng)
    model, other = (network(compiled=True, metrics=["accuracy"]) for _ in range(2))
    other.set_weights(model.get_weights())
    options = {"validation_data": (x[:20], y[:20]), "shuffle": False}
    reported = fit(model, train, kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y)), **options)
    alone = fit(other, train, keras.callbacks.Callback(), **options)
    step = model.train_function
    fit(model, train, kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y)), epochs=0)
    assert model.train_function is step  # not compiled anew
    assert not [name for name in vars(kla.callbacks.LongTailReport) if "batch_" in name]  # nothing runs with a step
    assert alone == {name: reported[name] for name in alone}
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_figure_that_a_metric_of_the_model_gives_already_stays(rng):
    train, (x, y) = data(rng), data(rng)
    model = network(weighted_metrics=[kla.metrics.BalancedAccuracy(L)])
    history = fit(
        model,
        train,
        kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y)),
        validation_data=(x[:10], y[:10]),
        epochs=1,
    )
    own = model.evaluate(x[:10], y[:10], verbose=0, return_dict=True)["balanced_accuracy"]
    assert history["val_balanced_accuracy"] == [own]
    np.testing.assert_allclose(history["val_few_accuracy"], by_hand(y, model.predict(x, verbose=0))["val_few_accuracy"])


def test_a_metric_of_the_model_is_read_in_the_epochs_that_have_it(rng):
    train, (x, y) = data(rng), data(rng)
    model = network(metrics=[kla.metrics.PerClassAccuracy(L, name="recalls"), kla.metrics.PerClassPrecision(L)])
    predictions = Predictions(x)
    report = kla.callbacks.LongTailReport(COUNTS, metric="recalls")
    history = fit(model, train, report, predictions, validation_data=(x, y), validation_freq=2, epochs=4)
    for name, values in ((name, history[name]) for name in FIGURES):
        expected = [by_hand(y, predictions.seen[epoch])[name] for epoch in (1, 3)]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_warning_says_that_fit_did_not_validate(rng):
    model = network(metrics=[kla.metrics.PerClassAccuracy(L)])
    report = kla.callbacks.LongTailReport(COUNTS, metric="per_class_accuracy")
    with pytest.warns(UserWarning, match="found no 'val_per_class_accuracy' after any epoch: give `fit` its `valid"):
        fit(model, data(rng), report, epochs=1)


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("recall", COUNTS, r"Received: metric='recall', and a validation of .*'recalls'.*PerClassAccuracy\(6\)"),
        ("recalls", COUNTS[:4], "metric 'recalls' has 6 classes, `class_counts` has 4"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_after_the_validation(name, counts, message, rng):
    train, held_out = data(rng), data(rng)
    model = network(metrics=[kla.metrics.PerClassAccuracy(L, name="recalls")])
    with pytest.raises(ValueError, match=message):
        fit(model, train, kla.callbacks.LongTailReport(counts, metric=name), validation_data=held_out, epochs=1)


def test_every_second_epoch_is_reported_with_every_2(rng):
    train, (x, y) = data(rng), data(rng)
    reports = []
    follow = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: reports.append("val_few_accuracy" in logs))
    predictions = Predictions(x)
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y), every=2)
    history = fit(network(), train, report, follow, predictions, epochs=5)
    assert reports == [False, True, False, True, False]
    expected = [by_hand(y, predictions.seen[epoch])["val_few_accuracy"] for epoch in (1, 3)]
    np.testing.assert_allclose(history["val_few_accuracy"], expected, rtol=1e-6)


NAMES = ["ship", "cat", "dog", "elk", "yak", "emu"]


def worst_line(y, scores, number, names):
    recalls = reference_metrics.per_class_accuracy(y, scores)
    seen = sorted((c for c in range(L) if not np.isnan(recalls[c])), key=lambda c: recalls[c])[:number]
    return "worst classes: " + ", ".join(f"{names[c]} {recalls[c]:.4f} ({COUNTS[c]})" for c in seen)


@pytest.mark.parametrize(("verbose", "worst", "names"), [("auto", 2, None), (1, 3, None), (2, 99, NAMES)])
def test_the_progress_line_has_the_figures_and_the_next_the_worst_classes(verbose, worst, names, rng, capsys):
    train, (x, y) = data(rng), data(rng)
    predictions = Predictions(x)
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(x, y), worst=worst, class_names=names)
    history = fit(network(), train, report, predictions, verbose=verbose, epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "val_few" in line or "worst classes" in line]
    assert len(lines) == 4
    for epoch, (progress, line) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        for name in FIGURES:
            value = history[name][epoch]
            assert f" - {name}: {value:.4f}" in progress or (value < 1e-3 and f" - {name}: {value:.4e}" in progress)
        assert line == worst_line(y, predictions.seen[epoch], worst, names or range(L))


def test_nothing_is_printed_with_verbose_0(rng, capsys):
    train, held_out = data(rng), data(rng)
    fit(network(), train, kla.callbacks.LongTailReport(COUNTS, validation_data=held_out), verbose=0)
    assert capsys.readouterr().out == ""


def test_callbacks_that_are_listed_after_it_monitor_its_figures(rng, tmp_path):
    train, held_out = data(rng), data(rng)
    model = network()
    stop = keras.callbacks.EarlyStopping("val_few_accuracy", mode="max", patience=1, restore_best_weights=True)
    path = tmp_path / "best.weights.h5"
    save = keras.callbacks.ModelCheckpoint(
        path, "val_few_accuracy", mode="max", save_best_only=True, save_weights_only=True
    )
    table = keras.callbacks.CSVLogger(tmp_path / "table.csv")
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=held_out)
    history = fit(model, train, report, stop, save, table, epochs=20)["val_few_accuracy"]
    assert len(history) == int(np.argmax(history)) + 2 <= 20  # the best, and one that was not better
    x, y = held_out
    best = by_hand(y, model.predict(x, verbose=0))["val_few_accuracy"]
    np.testing.assert_allclose(best, max(history), rtol=1e-6)
    model.load_weights(path)
    np.testing.assert_allclose(by_hand(y, model.predict(x, verbose=0))["val_few_accuracy"], max(history), rtol=1e-6)
    rows = (tmp_path / "table.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_few_accuracy")
    np.testing.assert_allclose([float(row.split(",")[column]) for row in rows[1:]], history)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(L)

    def call(self, inputs):
        return {"logits": self.dense(inputs["a"] + inputs["b"])}["logits"]


def test_a_subclassed_model_of_several_inputs_is_reported_in_each_fit(rng):
    (x, y), (held_x, held_y) = data(rng), data(rng)
    model = Subclassed()
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS), **EAGER)
    predictions = Predictions({"a": held_x, "b": held_x})
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=({"a": held_x, "b": held_x}, held_y))
    for _ in range(2):
        predictions.seen.clear()
        check(fit(model, ({"a": x, "b": x}, y), report, predictions, epochs=1), held_y, predictions)


X, Y = np.zeros((4, 4), "float32"), np.array([0, 1, 2, 5])
REFUSED = {
    "probabilities": (([0.5, 0.5], (X, Y)), {}, "`class_counts` must be numbers of examples here, not probabilities"),
    "a negative": (([5, -1], (X, Y)), {}, "Every number in `class_counts` must not be negative.* at class 1"),
    "worst": ((COUNTS, (X, Y)), {"worst": 0}, "`worst` must be an integer of at least 1. Received: worst=0"),
    "every": ((COUNTS, (X, Y)), {"every": 0}, "`every` must be an integer of at least 1. Received: every=0"),
    "batch_size": ((COUNTS, (X, Y)), {"batch_size": 1.5}, "`batch_size` must be an integer of at least 1"),
    "bounds": ((COUNTS, (X, Y)), {"bounds": (9, 2)}, r"`bounds` must increase, 0 <= few < many"),
    "groups": ((COUNTS, (X, Y)), {"groups": ["a"]}, "`groups` must name the group of each of the 6 classes"),
    "a group's name": ((COUNTS, (X, Y)), {"groups": {0: "balanced"}}, "must not be named .* Received: 'balanced'"),
    "ignore_class": ((COUNTS, (X, Y)), {"ignore_class": 0.5}, "`ignore_class` must be an integer class id or None"),
    "names": ((COUNTS, (X, Y)), {"class_names": ["a", "b"]}, r"class_names has 2 classes, `class_counts` has 6"),
    "one array": ((COUNTS, X), {}, r"`validation_data` must be \(x, y\) arrays, or a dataset .* Received: ndarray"),
    "one array in a tuple": ((COUNTS, (X,)), {}, r"`validation_data` must be \(x, y\) or .* Received 1 of them"),
    "no number": ((COUNTS, 5), {}, r"`validation_data` must be \(x, y\) arrays, .* Received: int"),
    "an iterator": ((COUNTS, iter([(X, Y)])), {}, "read after every epoch. Received an iterator, .* give a list of"),
    "rows": ((COUNTS, (X, Y[:3])), {}, r"arrays of `validation_data` must have as many rows, .* Received \[3, 4\]"),
    "empty": ((COUNTS, (X[:0], Y[:0])), {}, r"must have as many rows, at least 1. Received \[0\]"),
    "no labels": ((COUNTS, (X, None)), {}, "The labels of `validation_data` must be an array. Received: NoneType"),
    "a label": ((COUNTS, (X, [0, 6, 9, 1])), {}, r"integer in \[0, 6\), .* Received 6 in row 1 \(2 in all\)"),
    "an ignored label": (
        (COUNTS, (X, [0, -1, 1, 1])),
        {},
        r"Received -1 in row 1 \(1 in all\). Remedy: .*ignore_class",
    ),
    "neither": ((COUNTS,), {}, r"needs `validation_data`, or .*PerClassAccuracy\(6\).* Received neither"),
    "both": ((COUNTS, (X, Y)), {"metric": "per_class_accuracy"}, "`metric=.*Received both"),
    "a fraction": ((COUNTS, (X, [[0.0], [0.5], [1.0], [1.0]])), {}, r"Received 0.5 in row 1 \(1 in all\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_report_is_refused_when_it_is_made(case):
    (counts, *held_out), options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        kla.callbacks.LongTailReport(counts, **dict(zip(["validation_data"], held_out, strict=False)), **options)


def two_headed():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(L)(inputs), keras.layers.Dense(L)(inputs)])
    model.compile("sgd", [kla.losses.LogitAdjustedCrossentropy(COUNTS)] * 2, **EAGER)
    return model


ONE_HOT = np.eye(L)[Y]
UNFIT = {
    "one-hot of another width": (network, COUNTS, (X, ONE_HOT[:, :5]), {}, r"`y_true` must be class ids of shape"),
    "counts of other classes": (network, COUNTS[:4], (X, Y % 4), {}, r"`y_pred` must have one column for each class"),
    "a bad label in a batch": (network, COUNTS, [(X, Y + 1)], {}, r"Every label of `validation_data` .*in \[0, 6\)"),
    "a batch without labels": (network, COUNTS, [X], {}, r"Received a batch that is a ndarray: labels are needed"),
    "ignored rows": (network, COUNTS, (X, ONE_HOT), {"ignore_class": 0}, "`ignore_class` goes with class ids"),
    "several outputs": (two_headed, COUNTS, (X, Y), {}, "for a model of one output. Received a model of 2"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_the_model_is_refused_before_a_step_is_trained(case):
    make, counts, held_out, options, message = UNFIT[case]
    model, steps = make(), []
    follow = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: steps.append(batch))
    labels = Y if len(model.outputs) == 1 else [Y, Y]
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        fit(
            model,
            (X, labels),
            kla.callbacks.LongTailReport(counts, validation_data=held_out, **options),
            follow,
            epochs=1,
        )
    assert not steps


def test_a_label_that_shows_only_later_is_refused_after_the_epoch():
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=[(X, Y), (X, Y + 1)])
    with pytest.raises(ValueError, match=r"Every label of `validation_data` must be an integer in \[0, 6\)"):
        fit(network(), (X, Y), report, epochs=1)


def test_validation_data_of_nothing_but_ignored_labels_is_refused():
    report = kla.callbacks.LongTailReport(COUNTS, validation_data=(X, 0 * Y - 1), ignore_class=-1)
    with pytest.raises(ValueError, match="`validation_data` must have an example with a label. Received none"):
        fit(network(), (X, Y), report, epochs=1)
