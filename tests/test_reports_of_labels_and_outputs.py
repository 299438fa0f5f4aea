"""Reports after every epoch: of independent labels, and of one output of several."""

import keras
import numpy as np
import pytest
from helpers.batches import Batches
from sklearn.metrics import balanced_accuracy_score

import keras_logit_adjust as kla

N, L = 40, 4
COUNTS = [500, 50, 5, 0]  # the last label is never on
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype("float32")
Y = (RNG.random((N, L)) < [0.6, 0.5, 0.3, 0.0]).astype("float32")
FINE, COARSE = RNG.integers(0, 3, N), RNG.integers(0, 2, N)
WEIGHT = RNG.uniform(0, 2, N)
EAGER = {"run_eagerly": keras.backend.backend() == "tensorflow"}
report_of = kla.callbacks.LongTailReport


def labeled(**options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(L)])
    loss = kla.losses.BinaryLogitAdjustedCrossentropy([500, 50, 5, 1], 1000)
    model.compile(keras.optimizers.SGD(0.5), loss, **EAGER, **options)
    return model


def history_of(model, report, **options):
    return model.fit(X, Y, callbacks=[report], verbose=0, batch_size=16, **options).history


def logs_of(model, report):
    """What a report says of a model as it is, without training it."""
    report.set_model(model)
    report.set_params({"verbose": 0})
    report.on_train_begin()
    logs = {}
    report.on_epoch_end(0, logs)
    return {name: [value] for name, value in logs.items()}


def figures(scores, y=Y, threshold=0.0, kept=None, weight=None):
    kept = np.ones(y.shape, bool) if kept is None else kept
    scored = []
    for c in range(3):
        rows = kept[:, c]
        own = None if weight is None else weight[rows]
        scored.append(balanced_accuracy_score(y[rows, c], scores[rows, c] > threshold, sample_weight=own))
    many, medium, few = scored
    names = ("many", "medium", "few", "balanced", "worst_label")
    values = (many, medium, few, np.mean(scored), min(scored))
    return {f"val_{name}_accuracy": value for name, value in zip(names, values, strict=True)}


def check(history, wanted):
    assert [name for name in history if name.startswith("val_")] == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(history[name][-1], value, rtol=1e-6, err_msg=name)


def test_a_report_of_independent_labels_has_their_balanced_accuracies(capsys):
    model = labeled()
    report = report_of(COUNTS, num_examples=1000, threshold=0, validation_data=(X, Y, WEIGHT), class_names=list("abcd"))
    history = history_of(model, report, epochs=2)
    assert np.isnan(history.pop("val_unseen_accuracy")).all()  # of the label that is on in no example
    check(history, figures(model.predict(X, verbose=0), weight=WEIGHT))
    assert np.isnan(report.per_class_accuracy[3]) and report.per_class_accuracy[:3].min() > 0
    model.fit(X, Y, callbacks=[report], verbose=2)
    worst = np.nanargmin(report.per_class_accuracy)
    assert f"worst labels: {'abc'[worst]} {np.nanmin(report.per_class_accuracy):.4f}" in capsys.readouterr().out


def test_unknown_targets_of_batches_are_left_out_of_a_report():
    kept = RNG.random((N, L)) < 0.7
    batches = [(X[i : i + 16], np.where(kept, Y, -1)[i : i + 16]) for i in range(0, N, 16)]
    prior = kla.priors.as_prior([500, 50, 5, 1], num_examples=1000)
    model = labeled()
    report = report_of(prior, threshold=[0.1, 0, -0.1, 0], ignore_class=-1, validation_data=batches)
    check(logs_of(model, report), figures(model.predict(X, verbose=0) - np.float32([0.1, 0, -0.1, 0]), kept=kept))


def test_a_report_reads_the_metric_of_labels():
    metric = kla.metrics.PerLabelBalancedAccuracy(L, threshold=0)
    model = labeled(metrics=[metric])
    report = report_of(COUNTS, num_examples=1000, threshold=0, metric="per_label_balanced_accuracy")
    history = history_of(model, report, validation_data=(X, Y))
    for name, value in figures(model.predict(X, verbose=0)).items():
        np.testing.assert_allclose(history[name], [value], rtol=1e-6)
    wrong = report_of(COUNTS, num_examples=1000, threshold=0, metric="recalls")
    with pytest.raises(
        ValueError, match=r"compile the model with `metrics=\[kla\.metrics\.PerLabelBalancedAccuracy\(4,"
    ):
        history_of(model, wrong, validation_data=(X, Y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": None}, "independent labels needs the threshold of the scores"),
        ({"threshold": [0, 1]}, "one for each of the 4 labels"),
        ({"num_examples": 499}, r"`positive_counts` must be at most num_examples=499\. Received \[500.0\] at class 0"),
        ({"num_examples": "many"}, "`num_examples` must be a number"),
        ({"groups": ["worst_label", None, None, None]}, "must not be named 'balanced' or 'worst_label'"),
        ({"validation_data": None}, r"compile `kla\.metrics\.PerLabelBalancedAccuracy\(4, threshold=0.0\)` and give"),
    ],
    ids=str,
)
def test_a_report_of_labels_refuses_what_does_not_fit(options, message):
    options = {"num_examples": 1000, "threshold": 0, "validation_data": (X, Y), **options}
    with pytest.raises(ValueError, match=message):
        report_of(COUNTS, **options)


@pytest.mark.parametrize(
    ("y", "message"),
    [(np.where(Y, 2, 0), r"target of `validation_data` must lie in \[0, 1\]"), (0 * Y, "on in one example and off in")],
    ids=["improper", "never on"],
)
def test_validation_targets_that_tell_nothing_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        logs_of(labeled(), report_of(COUNTS, num_examples=1000, threshold=0, validation_data=(X, y)))


def network(form):
    inputs = keras.Input((3,))
    heads = {"fine": keras.layers.Dense(3, name="fine")(inputs), "coarse": keras.layers.Dense(2, name="coarse")(inputs)}
    model = keras.Model(inputs, heads if form == "dict" else form(heads.values()))
    model.compile(keras.optimizers.SGD(0.5), "mse", **EAGER)
    return model


def data(form):
    y = {"fine": FINE, "coarse": COARSE}
    return y if form == "dict" else form(y.values())


def cut(form, start):
    rows, parts = slice(start, start + 16), data(form)
    y = {k: v[rows] for k, v in parts.items()} if form == "dict" else form(v[rows] for v in parts)
    return X[rows], y


SOURCES = {
    "arrays": lambda form: (X, data(form)),
    "weights": lambda form: (X, data(form), WEIGHT),
    "labels of the output": lambda form: (X, COARSE.tolist()),
    "PyDataset": lambda form: Batches([cut(form, start) for start in range(0, N, 16)]),
    "batches": lambda form: [cut(form, start) for start in range(0, N, 16)],
}


def recalls(scores, weight=None):
    weight = np.ones(N) if weight is None else weight
    right = scores.argmax(axis=-1) == COARSE
    return [np.average(right[own], weights=weight[own]) for own in (COARSE == 0, COARSE == 1)]


@pytest.mark.parametrize(
    ("form", "source"),
    [*(("dict", source) for source in SOURCES), (list, "arrays"), (list, "batches"), (tuple, "weights")],
)
def test_a_report_is_of_the_output_that_it_names(form, source):
    model, output = network(form), "coarse" if form == "dict" else 1
    report = report_of([300, 5], output_name=output, validation_data=SOURCES[source](form))
    history = logs_of(model, report)
    scores = model.predict(X, verbose=0)
    many, few = recalls(scores["coarse"] if form == "dict" else scores[1], WEIGHT if source == "weights" else None)
    name = "val_coarse" if form == "dict" else "val_output_1"
    wanted = {"many": many, "few": few, "balanced": (many + few) / 2, "worst_class": min(many, few)}
    check(history, {f"{name}_{key}_accuracy": value for key, value in wanted.items()})


def test_an_output_of_a_list_may_have_the_name_of_its_layer():
    model = network(list)
    report = report_of([300, 5], output_name="coarse", name="own", validation_data=(X, COARSE))
    history = logs_of(model, report)
    np.testing.assert_allclose(history["val_own_few_accuracy"], recalls(model.predict(X, verbose=0)[1])[1])


def test_streams_give_the_labels_of_one_output():
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    model = network("dict")
    stream = tf.data.Dataset.from_tensor_slices((X, data("dict"))).batch(16)
    history = logs_of(model, report_of([300, 5], output_name="coarse", validation_data=stream))
    np.testing.assert_allclose(history["val_coarse_few_accuracy"], recalls(model.predict(X, verbose=0)["coarse"])[1])


def test_an_output_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"must be one of \['coarse', 'fine'\] in the labels.*output_name='course'"):
        report_of([300, 5], output_name="course", validation_data=(X, data("dict")))
    cases = {
        "course": r"must be one of \['coarse', 'fine'\] in model .*output_name='course'",
        None: r"is for a model of one output\. Received a model of 2: .*output_name='coarse'",
    }
    for output, message in cases.items():
        with pytest.raises(ValueError, match=message):
            logs_of(network("dict"), report_of([300, 5], output_name=output, validation_data=(X, COARSE)))
    for output in (2, "course"):
        with pytest.raises(ValueError, match=r"must be one of \[0, 1\] in model"):
            logs_of(network(list), report_of([300, 5], output_name=output, validation_data=(X, COARSE)))
    single = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    single.compile("sgd", "mse", **EAGER)
    with pytest.raises(ValueError, match="is for several outputs.*leave it out"):
        logs_of(single, report_of([300, 5], output_name="a", validation_data=(X, COARSE)))
    for output in ("", -1, 1.5, True):
        with pytest.raises(ValueError, match="`output_name` must be"):
            report_of([300, 5], output_name=output, validation_data=(X, COARSE))
    with pytest.raises(ValueError, match="`output_name` goes with `validation_data`"):
        report_of([300, 5], output_name="coarse", metric="coarse_recalls")


def test_labels_and_weights_in_lists_are_read_as_arrays():
    data = (X, FINE, WEIGHT)
    as_lists = (X, FINE.tolist(), WEIGHT.tolist())
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile("sgd", **EAGER)
    found = [logs_of(model, report_of([20, 10, 5], validation_data=given)) for given in (data, as_lists)]
    assert found[0] == found[1] and found[0]
