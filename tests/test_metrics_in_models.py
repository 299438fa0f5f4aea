"""The metrics at work: in `compile`, `fit`, callbacks, configs and saved models; and what they refuse."""

import json

import keras
import numpy as np
import pytest
from helpers import reference_metrics

import keras_logit_adjust as kla

L = 3
COUNTS = [200, 50, 5]
PRIOR = [0.5, 0.375, 0.125]
GROUP_NAMES = ["many_accuracy", "medium_accuracy", "few_accuracy"]
CONFIGURED = {
    "balanced": lambda: kla.metrics.BalancedAccuracy(L, k=2, ignore_class=-1, class_prior=PRIOR, name="top"),
    "per_class": lambda: kla.metrics.PerClassAccuracy(L, ignore_class=-1, name="recalls"),
    "precision": lambda: kla.metrics.PerClassPrecision(L, ignore_class=-1, class_prior=PRIOR, name="precisions"),
    "macro_f1": lambda: kla.metrics.MacroF1(L, ignore_class=-1, class_prior=PRIOR, name="f1"),
    "worst": lambda: kla.metrics.WorstClassAccuracy(L, ignore_class=-1, name="least"),
    "bounds": lambda: kla.metrics.GroupAccuracy(COUNTS, bounds=(5, 200), ignore_class=-1, class_prior=PRIOR, name="g"),
    "groups": lambda: kla.metrics.GroupAccuracy(COUNTS, groups={0: "head", 2: "tail"}, ignore_class=-1),
}
every_metric = pytest.mark.parametrize("name", CONFIGURED)


def all_metrics():
    m = kla.metrics
    return [
        *(cls(L) for cls in (m.BalancedAccuracy, m.PerClassAccuracy, m.PerClassPrecision)),
        *(cls(L) for cls in (m.MacroF1, m.WorstClassAccuracy)),
        m.BalancedAccuracy(L, k=2),
        m.GroupAccuracy(COUNTS),
    ]


def expected_logs(ids, scores, weight=None):
    ref = reference_metrics
    return {
        "balanced_accuracy": ref.balanced_accuracy(ids, scores, weight),
        "per_class_accuracy": ref.per_class_accuracy(ids, scores, weight),
        "per_class_precision": ref.per_class_precision(ids, scores, weight),
        "macro_f1": ref.macro_f1(ids, scores, weight),
        "worst_class_accuracy": ref.worst_class_accuracy(ids, scores, weight),
        "top_2_balanced_accuracy": ref.balanced_accuracy(ids, scores, weight, k=2),
        **ref.group_accuracy(ids, scores, ["many", "medium", "few"], weight),
    }


def check_logs(logs, expected, prefix=""):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(logs[prefix + name]), value, rtol=2e-6, err_msg=name)


def linear_model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(L)])


def draw(rng, size):
    ids = rng.integers(0, L, size)
    return (rng.normal(size=(size, 2)) + 2 * np.eye(L)[ids][:, :2]).astype("float32"), ids


@pytest.mark.parametrize("labels", ["ids", "one-hot"])
def test_fit_and_evaluate_report_every_metric_of_the_whole_set(rng, labels):
    x, ids = draw(rng, 26)
    x[20:], ids[20:] = x[0], 0  # the last of three uneven batches holds one class only
    y = {"ids": ids, "one-hot": np.eye(L, dtype="float32")[ids]}[labels]
    weight = rng.uniform(0.1, 3, 26).astype("float32")
    model = linear_model()
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS)
    metrics = {"metrics": all_metrics(), "weighted_metrics": [WeightedF1(L)]}
    model.compile(keras.optimizers.SGD(0.0), loss, **metrics, run_eagerly=labels == "one-hot")
    scores = model.predict(x, verbose=0)
    expected = expected_logs(ids, scores) | {"weighted_f1": reference_metrics.macro_f1(ids, scores, weight)}
    data = {"x": x, "y": y, "sample_weight": weight, "batch_size": 10, "verbose": 0}
    check_logs(model.evaluate(**data, return_dict=True), expected)
    history = model.fit(**data, epochs=2, validation_data=(x, y, weight), shuffle=False).history
    for epoch in range(2):  # a learning rate of zero: each epoch sees the same model, from a fresh state
        logs = {name: values[epoch] for name, values in history.items()}
        check_logs(logs, expected)
        check_logs(logs, expected, prefix="val_")


class WeightedF1(kla.metrics.MacroF1):
    def __init__(self, num_classes):
        super().__init__(num_classes, name="weighted_f1")


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 1)])
def test_per_position_labels_are_counted_in_fit(rng, shape):
    axes = len(shape) - (shape[-1] == 1)
    inputs = keras.Input((*[None] * axes, 2))  # unknown sizes
    model = keras.Model(inputs, keras.layers.Dense(L)(inputs))
    ids = rng.integers(0, L, (5, *shape))
    ids.flat[::4] = -1
    x = rng.normal(size=(5, *shape[:axes], 2)).astype("float32")
    metric = kla.metrics.BalancedAccuracy(L, ignore_class=-1)
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS, ignore_class=-1)
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[metric, kla.metrics.MacroF1(L, ignore_class=-1)])
    logs = model.fit(x, ids, batch_size=2, verbose=0).history
    kept, scores = ids.ravel() != -1, model.predict(x, verbose=0).reshape(-1, L)
    for name in ("balanced_accuracy", "macro_f1"):
        expected = getattr(reference_metrics, name)(ids.ravel()[kept], scores[kept])
        np.testing.assert_allclose(logs[name], [expected], rtol=2e-6)


def test_a_bad_label_is_nan_in_a_compiled_evaluation(rng):
    x, ids = draw(rng, 12)
    model = linear_model()
    metrics = [m for m in all_metrics() if not m.name.startswith("per_class")]
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS), metrics=metrics)
    for bad in (-1, L, 0.5):
        y = ids.astype("float32")
        assert np.isfinite(list(model.evaluate(x, y, batch_size=5, verbose=0, return_dict=True).values())).all()
        y[3] = bad
        logs = model.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
        assert {name for name, value in logs.items() if np.isnan(value)} == set(logs)


def test_metrics_of_half_precision_models_are_kept_in_float32(rng):
    x, ids = draw(rng, 301)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = linear_model()
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS), metrics=all_metrics())
    logs = model.evaluate(x, ids, batch_size=301, verbose=0, return_dict=True)
    scores = np.asarray(model.predict(x, batch_size=301, verbose=0), "float64")
    check_logs(logs, expected_logs(ids, scores))


def test_early_stopping_takes_more_for_better(rng):
    x, ids = draw(rng, 12)
    model = linear_model()
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS)
    model.compile("sgd", loss, metrics=all_metrics(), run_eagerly=True)  # the logs are set by hand below
    names = ["balanced_accuracy", "macro_f1", "worst_class_accuracy", "top_2_balanced_accuracy"]
    stoppers = [keras.callbacks.EarlyStopping(monitor=f"val_{name}", patience=1) for name in names]
    # Keras finds a direction by the name of the metric only, and this is a part of one.
    stoppers.append(keras.callbacks.EarlyStopping(monitor="val_few_accuracy", patience=1, mode="max"))
    model.fit(x, ids, validation_data=(x, ids), epochs=1, verbose=0, callbacks=stoppers)
    for stopper in stoppers:
        model.stop_training = False
        for epoch, value, stops in [(1, 1.5, False), (2, 1.75, False), (3, 1.6, True)]:
            stopper.on_epoch_end(epoch, {stopper.monitor: value})
            assert model.stop_training == stops, (stopper.monitor, epoch)


@every_metric
def test_a_config_round_trip_keeps_every_argument(rng, name):
    metric = CONFIGURED[name]()
    text = json.dumps(keras.saving.serialize_keras_object(metric))
    copy = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(copy) is type(metric)
    assert copy.name == metric.name
    assert copy.get_config() == metric.get_config()
    ids, scores = rng.integers(-1, L, 40), rng.normal(size=(40, L)).astype("float32")
    for each in (metric, copy):
        each.update_state(ids, scores)
    values, copied = (keras.tree.flatten(each.result()) for each in (metric, copy))
    for a, b in zip(values, copied, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
    assert all(np.isfinite(keras.ops.convert_to_numpy(a)).all() for a in values)


def test_a_saved_model_brings_its_metrics_back(rng, tmp_path):
    x, ids = draw(rng, 30)
    model = linear_model()
    metrics = [build() for build in CONFIGURED.values()]
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS, ignore_class=-1)
    model.compile("sgd", loss, metrics=metrics, run_eagerly=True)  # files are looked at, not traces
    model.fit(x, ids, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    before = model.evaluate(x, ids, verbose=0, return_dict=True)
    after = reloaded.evaluate(x, ids, verbose=0, return_dict=True)
    assert before.keys() == after.keys() >= {"top", "recalls", "precisions", "f1", "least"}
    assert {f"g_{name}" for name in GROUP_NAMES} <= before.keys()
    assert {"head_accuracy", "tail_accuracy"} <= before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


RECALLS = [kla.metrics.PerClassAccuracy, kla.metrics.WorstClassAccuracy]


@pytest.mark.parametrize("recalls", RECALLS)
def test_recalls_of_files_that_name_no_class_prior_load(recalls):
    metric = recalls(L, ignore_class=-1)
    serialized = keras.saving.serialize_keras_object(metric)
    serialized["config"]["class_prior"] = None  # as earlier versions wrote it
    assert keras.saving.deserialize_keras_object(serialized).get_config() == metric.get_config()


@pytest.mark.parametrize("recalls", RECALLS)
def test_recalls_of_files_with_a_class_prior_say_how_to_load(recalls):
    config = {**recalls(L).get_config(), "class_prior": PRIOR}
    with pytest.raises(ValueError, match=r"takes no `class_prior`\. Received: class_prior=\[0\.5.*`compile=False`"):
        recalls.from_config(config)


GROUPS = kla.metrics.GroupAccuracy


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.BalancedAccuracy(1), r"`num_classes` must be an integer of at least 2.*num_classes=1"),
        (lambda m: m.BalancedAccuracy(COUNTS), r"`num_classes` must be an integer.*\[200, 50, 5\]"),
        (lambda m: m.PerClassAccuracy(2.0), r"`num_classes` must be an integer.*2\.0"),
        (lambda m: m.BalancedAccuracy(L, k=0), r"`k` must be an integer of at least 1.*k=0"),
        (lambda m: m.BalancedAccuracy(L, k=4), r"`k` must be at most the number of classes, 3.*k=4"),
        (lambda m: m.MacroF1(L, dtype="float16"), r"takes no `dtype`: it counts in float32.*float16.*Leave it out"),
        (lambda m: m.MacroF1(2**63), r"`num_classes` must be .* at most 100,000,000.*9223372036854775808"),
        (lambda m: m.MacroF1(L, ignore_class=0.5), r"`ignore_class` must be an integer class id or None.*0\.5"),
        (lambda m: m.MacroF1(L, class_prior=[1, 0, 2]), r"`class_prior` must be greater than zero.*class 1.*Remedy"),
        (lambda m: m.MacroF1(L, class_prior=[1, 2]), r"`class_prior` must have one number for each class.*3.*2"),
        (lambda m: m.MacroF1(L, class_prior=[1, np.nan, 1]), r"`class_prior` must be finite.*class 1"),
        (lambda m: m.PerClassPrecision(L, class_prior=[[1, 1]]), r"`class_prior` must be a non-empty vector.*\(1, 2\)"),
        (lambda m: GROUPS([0.7, 0.2, 0.1]), r"numbers of examples here, not probabilities.*sum to 1: multiply"),
        (lambda m: GROUPS([7, -1, 1]), r"`class_counts` must not be negative. Received \[-1\.0\] at class 1: count"),
        (lambda m: GROUPS(COUNTS, bounds=20), r"`bounds` must be a pair of numbers \(few, many\).*bounds=20"),
        (lambda m: GROUPS(COUNTS, bounds=("a", "b")), r"`bounds` must be a pair of numbers.*'a', 'b'"),
        (lambda m: GROUPS(COUNTS, bounds=(100, 20)), r"`bounds` must increase, 0 <= few < many.*100.*20"),
        (lambda m: GROUPS(COUNTS, bounds=(np.nan, 20)), r"`bounds` must increase.*nan"),
        (lambda m: GROUPS(COUNTS, groups=["a", "b"]), r"`groups` must name the group of each of the 3 classes.*2"),
        (lambda m: GROUPS(COUNTS, groups=["a", 1, "b"]), r"`groups` must name the group of each.*'a', 1, 'b'"),
        (lambda m: GROUPS(COUNTS, groups={0: "a", 3: "b"}), r"`groups` must map class ids in \[0, 3\).*\[0, 3\]"),
        (lambda m: GROUPS(COUNTS, groups={}), r"`groups` must map class ids"),
        (lambda m: GROUPS(COUNTS, groups=[None] * 3), r"`groups` must name"),
    ],
)
def test_bad_arguments_are_refused_with_rule_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build(kla.metrics)


@pytest.mark.parametrize(
    ("labels", "scores", "weight", "message"),
    [
        ((4,), (4, 2), None, r"`y_pred` must have one column for each class.*3 classes.*\(4, 2\)\. Give .* 3 units"),
        ((4,), (4, 5), None, r"\(4, 5\)\. Where the last classes have no examples: .*num_classes=5"),
        (
            (4, 8, 8),
            (4, 3, 8, 8),
            None,
            r"last axis\. Received shape \(4, 3, 8, 8\) .* in axis 1: give keras.ops.moveaxis\(y_pred, 1, -1\)",
        ),
        ((4,), (), None, r"`y_pred` must have a last dimension of 3"),
        ((4, 2), (4, 3), None, r"`y_true` must be class ids of shape.*one-hot rows.*Received shape \(4, 2\)"),
        ((4, 3, 1), (4, 3), None, r"`y_true` must be class ids of shape"),
        ((5,), (4, 3), None, r"must agree in every dimension but the last"),
        ((4,), (4, 3), (4, 2), r"`sample_weight` must not have more axes.*\(4, 2\)"),
        ((4, 2), (4, 2, 3), (4, 3), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(4, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(labels, scores, weight, message):
    metric = kla.metrics.BalancedAccuracy(L)
    arrays = [np.zeros(labels, "int32"), np.zeros(scores, "float32"), None if weight is None else np.ones(weight)]
    with pytest.raises(ValueError, match=message):
        metric.update_state(*arrays)


def test_ignore_class_with_one_hot_rows_is_refused_as_in_the_losses():
    rows = np.eye(L, dtype="float32")
    with pytest.raises(ValueError, match="`ignore_class` goes with class ids.*weight of 0"):
        kla.metrics.MacroF1(L, ignore_class=0).update_state(rows, rows)
