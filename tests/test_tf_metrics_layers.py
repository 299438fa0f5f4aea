"""Metrics and layers under what is TensorFlow's own: MirroredStrategy, XLA, SavedModel."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import reference_metrics

import keras_logit_adjust as kla

COUNTS = [300, 60, 9]

# Trains and evaluates on one device and on two replicas; 67 examples at batch 64 leave a last batch of 2 + 1.
TWO_REPLICAS = """
import json, sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, keras_logit_adjust as kla

counts, rng = [300, 60, 9], np.random.default_rng(0)
y = rng.integers(0, 3, 67)
x = (rng.normal(size=(67, 4)) + 1.5 * np.eye(4)[y]).astype("float32")
weight = rng.uniform(0.1, 3, 67).astype("float32")

def metrics():
    m = kla.metrics
    if sys.argv[1] == "head":
        return [m.BalancedAccuracy(3, class_prior=counts), m.GroupAccuracy(counts)]
    return [m.PerClassAccuracy(3), m.PerClassPrecision(3), m.MacroF1(3), m.WorstClassAccuracy(3)]

def run(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((4,))
        if sys.argv[1] == "head":
            outputs = kla.layers.PriorAwareDense(3, counts)(inputs)
            loss = kla.losses.LogitAdjustedCrossentropy(counts, tau=0.0)  # plain, and exact over uneven replicas
        else:
            outputs = kla.layers.LogitAdjustment(counts, tau=0.5)(keras.layers.Dense(3)(inputs))
            loss = kla.losses.LogitAdjustedCrossentropy(counts)
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics(),
                      weighted_metrics=[kla.metrics.MacroF1(3, name="weighted_f1")])
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(64)
    logs = {"fit " + k: np.asarray(v) for k, v in model.fit(data, epochs=2, verbose=0).history.items()}
    logs |= {"test " + k: np.asarray(v) for k, v in model.evaluate(data, verbose=0, return_dict=True).items()}
    logs |= {w.path: w.numpy() for w in model.weights}
    logs["scores"] = model.predict(x, verbose=0)
    return {name.split("/")[-1]: value.tolist() for name, value in logs.items()}

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
results = {"one": run(tf.distribute.get_strategy()), "two": run(mirrored)}
print("RESULT" + json.dumps(results | {"y": y.tolist(), "weight": weight.tolist()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["head", "behind"])
def test_two_replicas_do_what_one_device_does_on_uneven_batches(place):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TWO_REPLICAS, place]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.split("RESULT")[1])
    one, two, y, weight = result["one"], result["two"], result["y"], result["weight"]
    names = {"head": {"balanced_accuracy", "few_accuracy"}, "behind": {"per_class_precision", "macro_f1"}}[place]
    assert one.keys() == two.keys() >= {"adjustment", "kernel", *(f"fit {name}" for name in names)}
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-6, err_msg=name)
    # Equal to each other, and right.
    scores = np.array(two["scores"])
    expected = {
        "balanced_accuracy": reference_metrics.balanced_accuracy(y, scores, prior=COUNTS),
        "per_class_accuracy": reference_metrics.per_class_accuracy(y, scores),
        "per_class_precision": reference_metrics.per_class_precision(y, scores),
        "macro_f1": reference_metrics.macro_f1(y, scores),
        "weighted_f1": reference_metrics.macro_f1(y, scores, weight),
        "worst_class_accuracy": reference_metrics.worst_class_accuracy(y, scores),
        **reference_metrics.group_accuracy(y, scores, ["many", "medium", "few"]),
    }
    reported = [name for name in two if name.startswith("test ") and name != "test loss"]
    assert {"test weighted_f1", *(f"test {name}" for name in names)} <= set(reported)
    for name in reported:
        np.testing.assert_allclose(two[name], expected[name.removeprefix("test ")], rtol=2e-6, err_msg=name)


def build(name):
    inputs = keras.Input((4,))
    if name == "head":
        return keras.Model(inputs, kla.layers.PriorAwareDense(3, COUNTS, tau=2.0)(inputs))
    hidden = keras.layers.Dense(3)(inputs)
    return keras.Model(inputs, kla.layers.LogitAdjustment(COUNTS, tau=[0.5, 1, 2], target_prior=[1, 2, 3])(hidden))


def loss_of(name):
    """What each trains with: the head brings the prior into plain cross-entropy, the layer behind takes it off."""
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return plain if name == "head" else kla.losses.LogitAdjustedCrossentropy(COUNTS)


def data(rng, size=40):
    y = rng.integers(0, 3, size)
    return (rng.normal(size=(size, 4)) + np.eye(4)[y]).astype("float32"), y


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["head", "behind"])
def test_an_exported_model_serves_the_same_bits(rng, tmp_path, name, policy):
    keras.config.set_dtype_policy(policy)
    model, (x, y) = build(name), data(rng)
    model.compile("adam", loss_of(name), run_eagerly=True)  # what is served was traced, and what is predicted with
    model.fit(x, y, epochs=1, verbose=0)
    model.run_eagerly = False
    model.layers[-1].set(tau=0.75)
    model.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    served = loaded.serve(x)
    assert served.dtype == tf.float32
    np.testing.assert_array_equal(served, model.predict(x, batch_size=len(x), verbose=0))
    if name == "behind":  # the exported graph holds the adjustment, as it was set
        plain = keras.Model(model.input, model.layers[-2].output).predict(x, batch_size=len(x), verbose=0)
        prior = np.array(COUNTS) / np.sum(COUNTS)
        expected = plain.astype("float64") - 0.75 * np.log(prior) + np.log(np.array([1, 2, 3]) / 6)
        np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # XLA compiles
@pytest.mark.parametrize("name", ["head", "behind"])
def test_fit_under_xla_trains_and_reports_as_without(rng, name):
    x, y = data(rng)
    model, weights, logs = build(name), [], []
    start = model.get_weights()
    for jit_compile in (False, True):
        model.set_weights(start)
        metrics = [kla.metrics.BalancedAccuracy(3, k=2), kla.metrics.MacroF1(3), kla.metrics.GroupAccuracy(COUNTS)]
        model.compile(keras.optimizers.SGD(0.1), loss_of(name), metrics=metrics, jit_compile=jit_compile)
        logs.append(model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history)
        weights.append(model.get_weights())
    assert logs[0].keys() == logs[1].keys() >= {"few_accuracy", "top_2_balanced_accuracy"}
    for key in logs[0]:
        np.testing.assert_allclose(logs[1][key], logs[0][key], rtol=1e-5, err_msg=key)
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow  # XLA compiles
def test_a_bad_label_is_nan_under_xla(rng):
    x, y = data(rng)
    model = build("behind")
    metrics = [kla.metrics.BalancedAccuracy(3), kla.metrics.WorstClassAccuracy(3), kla.metrics.GroupAccuracy(COUNTS)]
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS), metrics=metrics, jit_compile=True)
    for bad in (-1, 3):
        y[7] = bad
        assert np.isnan(list(model.evaluate(x, y, verbose=0, return_dict=True).values())).all()


def test_labels_of_unknown_rank_are_refused_with_the_way_out():
    metric = kla.metrics.BalancedAccuracy(3)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int32), tf.TensorSpec((None, 3))])
    def update(y_true, y_pred):
        metric.update_state(y_true, y_pred)

    with pytest.raises(ValueError, match="`y_true` must have a known rank.*set_shape"):
        update(tf.constant([0]), tf.zeros((1, 3)))


def test_labels_of_one_form_and_then_another_say_what_to_do():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS))
    x, y = np.zeros((4, 3), "float32"), np.array([0, 1, 2, 0])
    model.evaluate(x, y, verbose=0)
    with pytest.raises(
        ValueError, match=r"one call had \[N\] and another \[N, 1\]: keep one form .*, or compile again"
    ):
        model.evaluate(x, y[:, None], verbose=0)
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS))
    assert np.isfinite(model.evaluate(x, y[:, None], verbose=0))
