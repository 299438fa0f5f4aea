"""Adjusted models as `.keras`, SavedModel, TFLite and ONNX: run as they are served (TensorFlow only)."""

import collections
import importlib.util

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, adjusted_by_hand, build, numpy, rows, sequential
from keras import layers
from reference import log_prior, sigmoid, softmax

import keras_logit_adjust as kla
from keras_logit_adjust import serving
from keras_logit_adjust.serving import _signature

tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the backend that writes every format"),
    # TensorFlow's own interpreter warns of its successor, a package of its own.
    pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning"),
]

NAMES = ["head", "middle", "tail"]
SUFFIX = {"keras": ".keras", "savedmodel": "", "tflite": ".tflite", "onnx": ".onnx"}
CASES = {
    "softmax, a layer": ("functional softmax", kla.adjust),
    "softmax, folded": ("functional softmax", kla.fold_into_bias),
    "convolution, a layer": ("conv2d", kla.adjust),
    "convolution, folded": ("conv2d", kla.fold_into_bias),
    "inputs in a dict, a layer": ("inputs in a dict", kla.adjust),
}


def made(case, rng):
    """The adjusted model of a case, inputs, and what it must give: its original's outputs adjusted by hand."""
    if case == "subclassed":
        model, kind, data = Subclassed(3, "softmax"), "softmax", rows(rng, 7, WIDTH)
        adjusted = kla.adjust(model, COUNTS, tau=0.5, output="softmax")
        expected = adjusted_by_hand(model(data), kind, 0.5 * log_prior(COUNTS))
        adjusted(data)
        return adjusted, data, expected
    name, make = CASES[case]
    model, kind, data = build(name, rng)
    return make(model, COUNTS, tau=0.5), data, adjusted_by_hand(model(data), kind, 0.5 * log_prior(COUNTS))


def served(path, to, *sets):
    """What the file gives for each of `sets` of inputs, run by what serves it, which reads the file once."""
    if to == "keras":
        model = keras.saving.load_model(path)
        outputs = [model.predict(data, verbose=0) for data in sets]
    else:
        run = runner_of(path, to)
        outputs = [run(keras.tree.flatten(data)) for data in sets]
    return outputs if len(sets) > 1 else outputs[0]


def runner_of(path, to):
    if to == "savedmodel":
        loaded = tf.saved_model.load(str(path))
        return lambda given: next(iter(signature_of(loaded, "raw", given).values()))
    if to == "tflite":
        runner = tf.lite.Interpreter(str(path)).get_signature_runner()
        slots = sorted(runner.get_input_details())
        return lambda given: next(iter(runner(**dict(zip(slots, given, strict=True))).values()))
    session = onnxruntime.InferenceSession(str(path))
    slots = [slot.name for slot in session.get_inputs()]
    return lambda given: session.run(None, dict(zip(slots, given, strict=True)))[0]


def signature(path, name, given):
    return signature_of(tf.saved_model.load(str(path)), name, given)


def signature_of(loaded, name, given):
    function = loaded.signatures[name]
    slots = sorted(function.structured_input_signature[1])
    outputs = function(**{slot: tf.constant(value) for slot, value in zip(slots, given, strict=True)})
    return {key: value.numpy() for key, value in outputs.items()}


@pytest.mark.parametrize("to", SUFFIX)
@pytest.mark.parametrize("case", [*CASES, "subclassed"])
def test_every_format_serves_the_adjusted_predictions_for_any_batch_size(case, to, rng, tmp_path):
    adjusted, data, expected = made(case, rng)
    path = serving.export(adjusted, tmp_path / f"served{SUFFIX[to]}")
    first = keras.tree.map_structure(lambda part: part[:1], data)
    whole, one = served(path, to, data, first)
    np.testing.assert_allclose(whole, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(one, expected[:1], rtol=2e-5, atol=2e-5)
    if to == "keras":  # bit for bit what was saved
        np.testing.assert_array_equal(whole, adjusted.predict(data, verbose=0))


def test_a_subclassed_model_exports_again_after_it_was_loaded(rng, tmp_path):
    adjusted, data, expected = made("subclassed", rng)
    loaded = keras.saving.load_model(serving.export(adjusted, tmp_path / "served.keras"))
    path = serving.export(loaded, tmp_path / "served.onnx")
    np.testing.assert_allclose(served(path, "onnx", data), expected, rtol=2e-5, atol=2e-5)


def test_a_model_adjusted_behind_an_operation_needs_no_call_before_export(rng, tmp_path):
    inputs, data = keras.Input((WIDTH,)), rows(rng, 7, WIDTH)
    model = keras.Model(inputs, keras.ops.softmax(layers.Dense(3)(inputs)))
    path = serving.export(kla.adjust(model, COUNTS, output="softmax"), tmp_path / "served.keras")
    expected = adjusted_by_hand(model(data), "softmax", log_prior(COUNTS))
    np.testing.assert_allclose(served(path, "keras", data), expected, rtol=1e-5)


def operations(path, to):
    """How often each type of operation is in an exported graph."""
    if to == "savedmodel":
        graph = tf.saved_model.load(str(path)).signatures["serving_default"].graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        return collections.Counter(node.op for node in nodes)
    if to == "onnx":
        return collections.Counter(node.op_type for node in onnx.load(path).graph.node)
    undelegated = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(str(path), experimental_op_resolver_type=undelegated)
    return collections.Counter(operation["op_name"] for operation in interpreter._get_ops_details())


@pytest.mark.slow
@pytest.mark.parametrize("to", ["savedmodel", "tflite", "onnx"])
@pytest.mark.parametrize("name", ["sequential softmax", "conv2d"])
def test_the_graph_of_a_folded_model_has_the_operations_of_the_original(name, to, rng, tmp_path):
    model, _, _ = build(name, rng)
    original = operations(serving.export(model, tmp_path / f"original{SUFFIX[to]}"), to)
    folded = serving.export(kla.fold_into_bias(model, COUNTS), tmp_path / f"folded{SUFFIX[to]}")
    assert sum(original.values()) >= 1
    assert operations(folded, to) == original
    # TFLite's converter folds a layer behind a convolution by itself; what is behind a softmax head it leaves alone.
    if name == "sequential softmax":
        adjusted = operations(serving.export(kla.adjust(model, COUNTS), tmp_path / f"adjusted{SUFFIX[to]}"), to)
        assert sum(adjusted.values()) > sum(original.values())


@pytest.mark.parametrize("case", ["softmax, a layer", "convolution, a layer", "subclassed"])
def test_a_savedmodel_serves_labels_names_probabilities_under_a_prior(case, rng, tmp_path):
    adjusted, data, expected = made(case, rng)
    path = serving.export(adjusted, tmp_path / "served", class_names=NAMES, top_k=2)
    outputs = signature(path, "serving_default", [data])
    probabilities = softmax(expected) if case.startswith("convolution") else expected
    order = np.argsort(-probabilities, axis=-1)
    names = np.array(NAMES, "S")
    np.testing.assert_allclose(outputs["probabilities"], probabilities, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(outputs["label"], order[..., 0])
    np.testing.assert_array_equal(outputs["class_name"].astype("S"), names[order[..., 0]])
    np.testing.assert_array_equal(outputs["top_k_labels"], order[..., :2])
    np.testing.assert_array_equal(outputs["top_k_class_names"].astype("S"), names[order[..., :2]])
    best = np.take_along_axis(probabilities, order[..., :2], -1)
    np.testing.assert_allclose(outputs["top_k_probabilities"], best, rtol=2e-5, atol=2e-5)
    assert outputs["prior"].tolist() == [b"training prior to the power 0.5, renormalized (tau=0.5)"] * len(data)


def served_prior(model, folder, **options):
    path = serving.export(model, folder, overwrite=True, **options)
    return signature(path, "serving_default", [np.ones((1, WIDTH), "float32")])["prior"].tolist()


def test_the_served_prior_is_uniform_the_target_or_what_the_caller_says(tmp_path):
    model = sequential(layers.Dense(3))
    assert served_prior(kla.adjust(model, COUNTS), tmp_path / "a") == [b"uniform"]
    assert served_prior(kla.adjust(model, COUNTS, target_prior=[1, 2, 3]), tmp_path / "a") == [b"target"]
    assert served_prior(model, tmp_path / "a") == [b"training, if nothing was folded into the bias"]
    assert served_prior(kla.fold_into_bias(model, COUNTS), tmp_path / "a", prior_name="uniform") == [b"uniform"]


def test_the_served_prior_is_unknown_where_training_corrected_it_too(tmp_path):
    model = sequential(layers.Dense(3))
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5))
    adjusted = kla.adjust(model, COUNTS, tau=0.5, allow_double_correction=True)
    assert served_prior(adjusted, tmp_path / "a") == [b"unknown: corrected more than once"]
    assert served_prior(adjusted, tmp_path / "a", prior_name="uniform") == [b"uniform"]


def deciding(costs):
    adjusted = kla.adjust(sequential(layers.Dense(3)), COUNTS, target_prior=[1, 2, 3])
    return adjusted, keras.Model(adjusted.inputs, kla.layers.MinimumRiskDecision(costs)(adjusted.outputs[0]))


def test_a_model_of_decisions_serves_them_with_scores_no_probabilities(rng, tmp_path):
    costs, data = np.array([[0.0, 1.0], [5.0, 0.0], [2.0, 0.3]]), rows(rng, 9, WIDTH)
    adjusted, model = deciding(costs)
    outputs = signature(serving.export(model, tmp_path / "served"), "serving_default", [data])
    scores = -softmax(numpy(adjusted(data))) @ costs
    assert outputs.keys() == {"decision", "scores", "prior"}
    np.testing.assert_allclose(outputs["scores"], scores, rtol=1e-5)
    np.testing.assert_array_equal(outputs["decision"], scores.argmax(-1))
    assert outputs["decision"].dtype == "int64" and outputs["prior"].tolist() == [b"target"] * 9


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_sigmoid_unit_serves_both_its_classes(activation, rng, tmp_path):
    model, data = sequential(layers.Dense(1, activation)), rows(rng, 9, WIDTH)
    path = serving.export(kla.adjust(model, [90, 10]), tmp_path / "served", class_names=["no", "yes"])
    outputs = signature(path, "serving_default", [data])
    logits = numpy(model(data))[:, 0] if activation is None else np.log(1 / (1 / numpy(model(data))[:, 0] - 1))
    positive = sigmoid(logits - np.log(10 / 90))
    np.testing.assert_allclose(outputs["probabilities"], np.stack([1 - positive, positive], -1), rtol=1e-4)
    np.testing.assert_array_equal(outputs["label"], positive > 0.5)
    assert outputs["class_name"].tolist() == [b"yes" if on else b"no" for on in positive > 0.5]


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_independent_labels_serve_their_own_probabilities_and_no_label(activation, rng, tmp_path):
    model, data = sequential(layers.Dense(3, activation)), rows(rng, 9, WIDTH)
    path = serving.export(kla.adjust(model, [50, 20, 10], num_examples=100), tmp_path / "served", class_names=NAMES)
    outputs = signature(path, "serving_default", [data])
    given = numpy(model(data))
    logits = given if activation is None else np.log(given / (1 - given))
    expected = sigmoid(logits - np.log([1, 20 / 80, 10 / 90]))
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-4)
    np.testing.assert_array_equal(outputs["top_k_labels"], np.argsort(-expected, axis=-1))
    assert not {"label", "class_name"} & outputs.keys()


def test_the_caller_says_that_logits_are_those_of_independent_labels(rng, tmp_path):
    model, data = sequential(layers.Dense(3)), rows(rng, 5, WIDTH)
    path = serving.export(model, tmp_path / "served", output="binary_logits")
    outputs = signature(path, "serving_default", [data])
    np.testing.assert_allclose(outputs["probabilities"], sigmoid(numpy(model(data))), rtol=1e-5)


def test_labels_follow_the_logits_where_their_probabilities_round_to_a_tie(tmp_path):
    model = sequential(layers.Dense(2, kernel_initializer="zeros"))
    model.layers[0].bias.assign([16.0, np.nextafter(np.float32(16), np.float32(17))])
    outputs = signature(serving.export(model, tmp_path / "a"), "serving_default", [np.ones((1, WIDTH), "float32")])
    assert outputs["label"].tolist() == [1]


def half_written(model, path, inputs, served):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"half")
    raise RuntimeError("the disk is full")


def test_a_failed_write_leaves_nothing_and_what_stood_there_before(rng, tmp_path, monkeypatch):
    adjusted, data, expected = made("softmax, a layer", rng)
    path = serving.export(adjusted, tmp_path / "served")
    monkeypatch.setattr(_signature, "write", half_written)
    for overwrite, target in ((True, path), (False, tmp_path / "other")):
        with pytest.raises(ValueError, match="as savedmodel: RuntimeError: the disk is full"):
            serving.export(adjusted, target, overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == ["served"]
    np.testing.assert_allclose(served(path, "savedmodel", data), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("to", SUFFIX)
def test_what_exists_is_overwritten_when_allowed_only(to, rng, tmp_path):
    path = serving.export(sequential(layers.Dense(3)), tmp_path / f"served{SUFFIX[to]}")
    adjusted, data, expected = made("softmax, a layer", rng)
    with pytest.raises(ValueError, match="exists and is not overwritten"):
        serving.export(adjusted, path)
    serving.export(adjusted, path, overwrite=True)
    np.testing.assert_allclose(served(path, to, data), expected, rtol=2e-5, atol=2e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_no_savedmodel_is_never_overwritten(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="Only a SavedModel is overwritten by a SavedModel"):
        serving.export(sequential(layers.Dense(3)), tmp_path / "work", overwrite=True)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("to", ["keras", "savedmodel"])
def test_a_link_is_never_overwritten_nor_what_it_links_to(to, tmp_path):
    target = serving.export(sequential(layers.Dense(3)), tmp_path / f"target{SUFFIX[to]}")
    link = tmp_path / f"link{SUFFIX[to]}"
    link.symlink_to(target)
    with pytest.raises(ValueError, match=f"A link is not overwritten.*links to {target}: give that path"):
        serving.export(sequential(layers.Dense(3)), link, overwrite=True)
    assert link.is_symlink() and target.exists()


def test_a_folder_of_any_name_is_a_savedmodel_when_it_is_said(tmp_path):
    path = serving.export(sequential(layers.Dense(3)), tmp_path / "model-1.0", to="savedmodel")
    assert (path / "saved_model.pb").is_file()


def called():
    model = Subclassed(3)
    model(np.ones((1, WIDTH), "float32"))
    return model


def two_outputs():
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])


def softmax_of_decisions():
    _, model = deciding(np.eye(3))
    return keras.Model(model.inputs, keras.ops.softmax(model.outputs[0]))


BAD = {
    "no model": (lambda: 3, "a", {}, "must be a `keras.Model`"),
    "suffix": (None, "a.tflite", {"to": "onnx"}, "must be named ….onnx"),
    "a folder named as a file": (None, "a.h5", {"to": "savedmodel"}, "A SavedModel is a folder"),
    "no such folder": (None, "b/a.keras", {}, "does not exist"),
    "unknown format": (None, "a", {"to": "pickle"}, "must be one of 'keras', 'savedmodel'"),
    "too few names": (None, "a", {"class_names": ["x"]}, "3 classes, `class_names` has 1"),
    "names that are numbers": (None, "a", {"class_names": [1, 2, 3]}, "must be strings"),
    "names in a dict": (
        None,
        "a",
        {"class_names": dict.fromkeys(NAMES)},
        r"in order of class id. Received a dict: for a dict",
    ),
    "names in a string": (None, "a", {"class_names": "abc"}, "Received a str"),
    "a name twice": (None, "a", {"class_names": ["x", "y", "x"]}, r"Received more than once: \['x'\]"),
    "no path": (None, None, {}, "`path` must be the path of a file, .*Received: path=None"),
    "unknown suffix": (None, "a.json", {}, "must be .keras, .tflite, .onnx, or empty.*Received .json"),
    "decisions as probabilities": (lambda: deciding(np.eye(3))[1], "a", {"output": "softmax"}, "gives 'decisions'"),
    "names of decisions": (lambda: deciding(np.eye(3))[1], "a", {"class_names": NAMES}, "served by number"),
    "a softmax of decisions": (softmax_of_decisions, "a", {"output": "softmax"}, "has one elsewhere"),
    "names for a file": (None, "a.tflite", {"class_names": NAMES}, "A tflite file has no place"),
    "another output": (None, "a", {"output": "softmax"}, "gives 'logits'"),
    "top-k": (None, "a", {"top_k": 0}, "`top_k` must be an integer of at least 1"),
    "never called": (lambda: Subclassed(3), "a", {"output": "logits"}, "was never called"),
    "two outputs": (two_outputs, "a", {"output": "logits"}, "needs one output of shape"),
    "not told": (called, "a", {}, "Say what it is: output="),
}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_subclassed_model_in_half_precision_takes_inputs_in_float32(policy, rng, tmp_path):
    model, data = Subclassed(3, "softmax", dtype=policy), rows(rng, 7, WIDTH)
    model.dense.dtype_policy = keras.DTypePolicy("float32")
    adjusted = kla.adjust(model, COUNTS, output="softmax")
    expected = adjusted.predict(data, verbose=0)
    outputs = signature(serving.export(adjusted, tmp_path / "served"), "serving_default", [data])
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_written(name, tmp_path):
    make, path, options, message = BAD[name]
    model = sequential(layers.Dense(3)) if make is None else make()
    with pytest.raises(ValueError, match=message):
        serving.export(model, path and tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_their_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx and tf2onnx, not installed.*keras_logit_adjust\[onnx\]"):
        serving.export(sequential(layers.Dense(3)), tmp_path / "a.onnx")
