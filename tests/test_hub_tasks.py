"""KerasHub's tasks, adjusted and folded: strings and raw images in, softmax(log p − τ·log π) out, in float64."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import hub_tasks
from helpers.arrays import as_float64
from helpers.posthoc_models import reload
from reference import log_prior, softmax

import keras_logit_adjust as kla

keras_hub = pytest.importorskip("keras_hub", reason="no KerasHub here")
pytest.importorskip("tensorflow_text", reason="KerasHub's tokenizers need tensorflow-text")
pytestmark = [
    # Keras's, for every task of KerasHub that is loaded, and KerasHub's own on torch.
    pytest.mark.filterwarnings("ignore:`compile..` was not called as part of model loading"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence.*"),
]
COUNTS, TAU = [90, 9, 1], 1.5


def expected_of(outputs, kind):
    if kind == "logits":
        return as_float64(outputs) - TAU * log_prior(COUNTS)
    return softmax(np.log(as_float64(outputs)) - TAU * log_prior(COUNTS))


def eager(task, data):
    """What a task gives for raw inputs, without a step that is traced but on JAX, which compiles operations alone."""
    task.run_eagerly = keras.backend.backend() != "jax"
    return as_float64(task.predict_on_batch(data))


def traced(task, data):
    return as_float64(task.predict(data, verbose=0))


def served_inputs(task, data):
    """What an exported graph takes: integers, where the preprocessor gives a mask of truth values."""
    import tensorflow as tf

    cast = lambda array: tf.cast(array, "int32") if array.dtype == tf.bool else tf.convert_to_tensor(array)  # noqa: E731
    return keras.tree.map_structure(cast, task.preprocessor(data))


def check(name, predict, tmp_path, after=lambda made, task, data, result: None):
    """A task adjusted and folded predicts what is expected, keeps its preprocessor, and is saved and loaded."""
    kind = "logits" if name in hub_tasks.WITHOUT_ACTIVATION else "softmax"
    task, data = hub_tasks.make(name, activation=None if kind == "logits" else kind)
    before = predict(task, data)
    assert np.ptp(before.reshape(-1, hub_tasks.CLASSES), axis=0).max() > 1e-4  # examples differ
    made = [kla.adjust(task, COUNTS, tau=TAU)]
    assert kla.serving.describe(made[0]).prior == kla.serving.name_prior(tau=TAU)
    if name == "DeepLabV3ImageSegmenter":
        with pytest.raises(ValueError, match="has no bias, and KerasHub would not load one with it.*kla.adjust"):
            kla.fold_into_bias(task, COUNTS)
    else:
        made.append(kla.fold_into_bias(task, COUNTS, tau=TAU))
        assert type(made[1]) is type(task)
        shared = {id(variable) for variable in task.variables}
        own = [variable for variable in made[1].variables if id(variable) not in shared]
        assert [variable.shape[-1] for variable in own] == [hub_tasks.CLASSES] * 2  # the kernel and bias of the head
    for other in made:
        result = predict(other, data)
        np.testing.assert_allclose(result, expected_of(before, kind), rtol=1e-5, atol=1e-5)
        assert isinstance(other, type(task)) and other.output_shape == task.output_shape
        assert other.compiled == (type(other) is type(task))  # as KerasHub makes its tasks
        assert other.preprocessor is task.preprocessor and other.backbone is task.backbone
        loaded = reload(other, tmp_path)
        np.testing.assert_allclose(predict(loaded, data), result, rtol=1e-6, atol=1e-6)
        assert isinstance(loaded, type(task)) and isinstance(loaded.preprocessor, type(task.preprocessor))
        after(other, task, data, result)
    np.testing.assert_array_equal(predict(task, data), before)


def test_a_task_whose_layers_cannot_be_made_again_is_adjusted_and_folded(tmp_path):
    check("ViTImageClassifier", eager, tmp_path)


ONE_OF_EACH_KIND = ("BertTextClassifier", "ResNetImageClassifier", "SegFormerImageSegmenter")


@pytest.mark.slow
@pytest.mark.parametrize("name", hub_tasks.NAMES)
def test_a_task_of_every_class_is_adjusted_folded_saved_and_loaded(name, tmp_path):
    if keras.backend.backend() != "torch" and name not in ONE_OF_EACH_KIND:
        pytest.skip("the others are tried on torch, where a backbone is built fastest")
    check(name, eager, tmp_path)


@pytest.mark.slow  # steps and graphs are traced
@pytest.mark.parametrize("name", ["BertTextClassifier", "SwinTransformerImageClassifier", "DeepLabV3ImageSegmenter"])
def test_a_task_predicts_what_its_export_gives(name, tmp_path):
    def export(made, task, data, result):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            graph = made
            if "Segmenter" in name:  # part of KerasHub's is as in training where nobody says that it is not
                graph = keras.Model(made.input, made(made.input, training=False))
            graph.export(str(tmp_path / type(made).__name__), verbose=False)
            served = tf.saved_model.load(str(tmp_path / type(made).__name__))
            given = as_float64(served.serve(served_inputs(task, data)))
            np.testing.assert_allclose(given, result, rtol=1e-5, atol=1e-5)

    check(name, traced, tmp_path, export)


@pytest.fixture(scope="module")
def classifier():
    """A `BertTextClassifier` that gives logits, as by default, and its strings as a list."""
    task, data = hub_tasks.make("BertTextClassifier")
    return task, data


def test_the_loss_that_keras_hub_compiles_by_itself_does_not_forbid_labels(classifier):
    task, strings = classifier
    assert "crossentropy" in type(task.loss).__name__.lower()
    share = np.array(COUNTS) / 200
    made = kla.adjust(task, COUNTS, num_examples=200)
    expected = eager(task, strings) - np.log(share / (1 - share))
    np.testing.assert_allclose(eager(made, strings), expected, rtol=1e-5, atol=1e-5)


def test_a_task_that_takes_strings_takes_them_adjusted_and_folded(classifier):
    task, strings = classifier
    before = eager(task, strings)
    for made in (kla.adjust(task, COUNTS, tau=TAU), kla.fold_into_bias(task, COUNTS, tau=TAU)):
        np.testing.assert_allclose(eager(made, strings), expected_of(before, "logits"), rtol=1e-5, atol=1e-5)
        assert isinstance(made, keras_hub.models.BertTextClassifier)
    np.testing.assert_array_equal(eager(task, strings), before)


@pytest.mark.filterwarnings("ignore:Every good τ is negative")  # the task was not trained
def test_held_out_logits_of_a_task_are_read_from_strings(classifier):
    task, strings = classifier
    before = eager(task, strings)
    np.testing.assert_allclose(kla.held_out.predict_logits(task, strings), before, rtol=1e-6, atol=1e-6)
    tuned = kla.tune_tau(task, (strings * 4, np.arange(12) % 3), COUNTS, min_examples=1)
    of_logits = kla.tune_tau(np.tile(before, (4, 1)), np.arange(12) % 3, COUNTS, min_examples=1)
    assert tuned.tau == pytest.approx(of_logits.tau, rel=1e-4)
    made = kla.adjust(task, COUNTS, calibration=kla.Calibration(temperature=2.0))
    expected = before / 2 - log_prior(COUNTS)
    np.testing.assert_allclose(eager(made, strings), expected, rtol=1e-5, atol=1e-5)


def test_normalized_weights_of_a_task_leave_its_body_shared(classifier):
    task, strings = classifier
    made = kla.normalize_weights(task)
    kernel, bias = (as_float64(variable) for variable in (task.output_dense.kernel, task.output_dense.bias))
    expected = (eager(task, strings) - bias) / np.linalg.norm(kernel, axis=0) + bias
    np.testing.assert_allclose(eager(made, strings), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='has a bias, and KerasHub would not load one without it.*bias="keep"'):
        kla.normalize_weights(task, bias="drop")


def test_an_adjusted_task_is_refused_where_it_could_not_be_loaded_again(classifier, tmp_path):
    adjusted = kla.adjust(classifier[0], COUNTS)
    with pytest.raises(ValueError, match="would be corrected twice"):
        kla.fold_into_bias(adjusted, COUNTS)
    for change in (kla.fold_into_bias, lambda *args, **kwargs: kla.normalize_weights(args[0], **kwargs)):
        with pytest.raises(ValueError, match="is adjusted by a layer.*adjusted.task"):
            change(adjusted, COUNTS, allow_double_correction=True)
    with pytest.raises(ValueError, match="A preset has no place for an adjustment.*fold_into_bias"):
        adjusted.save_to_preset(str(tmp_path / "preset"))
    assert adjusted.task.output_dense is classifier[0].output_dense and not adjusted.task.compiled


def test_experts_that_preprocess_are_refused_and_their_graphs_are_joined(classifier):
    task, strings = classifier
    with pytest.raises(ValueError, match="the preprocessor of .* is not in its graph"):
        kla.product_of_experts([task, task], COUNTS)
    graph = keras.Model(task.input, task.output)
    product = kla.product_of_experts([graph, graph], COUNTS)
    logits = as_float64(product.predict_on_batch(task.preprocessor(strings)))
    expected = np.log(softmax(eager(task, strings))) - log_prior(COUNTS)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_a_task_that_scores_no_classes_is_refused_by_name(classifier):
    backbone = classifier[0].backbone
    task = keras_hub.models.BertMaskedLM(backbone)
    with pytest.raises(ValueError, match="a BertMaskedLM. .*keras.Model.task.input, task.outputs"):
        kla.adjust(task, COUNTS)


def test_a_task_whose_logits_cannot_be_found_is_refused_by_name():
    task, data = hub_tasks.make("ViTImageClassifier", activation="log_softmax")
    with pytest.raises(ValueError, match="No head was found: the output comes from 'predictions'"):
        kla.adjust(task, COUNTS)
    with pytest.raises(ValueError, match="a ViTImageClassifier of KerasHub, were not found.*keras.Model.task.input"):
        kla.adjust(task, COUNTS, output="logits")
    made = kla.adjust(keras.Model(task.input, task.output), COUNTS, output="logits")
    inputs = task.preprocessor(data)
    expected = as_float64(task(inputs, training=False)) - log_prior(COUNTS)
    np.testing.assert_allclose(as_float64(made(inputs, training=False)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backbone_with_lora_is_shared_whenever_it_was_enabled(when):
    task, data = hub_tasks.make("BertTextClassifier")
    make_both = lambda: [kla.adjust(task, COUNTS, tau=TAU), kla.fold_into_bias(task, COUNTS, tau=TAU)]  # noqa: E731
    made = make_both() if when == "after" else []
    task.backbone.enable_lora(2)
    for variable in task.backbone.trainable_variables:
        variable.assign(variable + 0.5)
    made = made or make_both()
    inputs = task.preprocessor(data)
    expected = expected_of(keras.ops.convert_to_numpy(task(inputs, training=False)), "logits")
    for model in made:
        result = keras.ops.convert_to_numpy(model(inputs, training=False))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_a_head_whose_precision_is_not_saved_is_folded_with_a_warning():
    task, data = hub_tasks.make("ViTImageClassifier", dtype="bfloat16", head_dtype="float32")
    with pytest.warns(UserWarning, match="KerasHub does not save the dtype of the head"):
        folded = kla.fold_into_bias(task, COUNTS)
    before, inputs = as_float64(task(task.preprocessor(data), training=False)), task.preprocessor(data)
    result = as_float64(folded(inputs, training=False))
    np.testing.assert_allclose(result, before - log_prior(COUNTS), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="adds its bias in bfloat16.*kla.adjust"):
        kla.fold_into_bias(hub_tasks.make("ViTImageClassifier", dtype="bfloat16")[0], COUNTS)


def test_a_folded_model_of_ones_own_shares_its_backbone_of_the_hub():
    task, data = hub_tasks.make("ViTImageClassifier")
    backbone = task.backbone
    hidden = keras.layers.Dense(4, "relu")(backbone(backbone.input)[:, 0])
    model = keras.Model(backbone.input, keras.layers.Dense(3)(hidden))
    inputs = task.preprocessor(data)
    before = as_float64(model(inputs, training=False))
    folded = kla.fold_into_bias(model, COUNTS, tau=TAU)
    np.testing.assert_allclose(
        as_float64(folded(inputs, training=False)), expected_of(before, "logits"), rtol=1e-5, atol=1e-5
    )
    shared = {id(variable) for variable in model.variables} & {id(variable) for variable in folded.variables}
    assert shared == {id(variable) for variable in backbone.variables}


@pytest.mark.slow  # pipelines of strings
def test_the_adjusted_loss_trains_a_task_on_strings_and_reports_on_them():
    task, data = hub_tasks.make("BertTextClassifier", dropout=0.0)
    strings, labels = data * 4, np.array([0, 0, 1, 0, 0, 2] * 2)
    counts = [8, 2, 2]
    logits = keras.ops.convert_to_numpy(task(task.preprocessor(strings), training=False)).astype("float64")
    adjusted = np.log(softmax(logits + log_prior(counts)))
    hits = [(logits.argmax(-1)[labels == y] == y).mean() for y in range(3)]
    task.compile(keras.optimizers.SGD(0.0), kla.losses.LogitAdjustedCrossentropy(counts), metrics=[], run_eagerly=True)
    report = kla.callbacks.LongTailReport(counts, validation_data=(strings, labels))
    history = task.fit(strings, labels, callbacks=[report], shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(-adjusted[np.arange(12), labels].mean(), rel=1e-5)]
    assert history["val_balanced_accuracy"] == [pytest.approx(np.mean(hits), rel=1e-5)]
    with pytest.raises(ValueError, match="would be corrected twice"):
        kla.adjust(task, counts)


def test_the_package_never_imports_kerashub():
    for path in pathlib.Path(kla.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) keras_hub", path.read_text(), re.MULTILINE), path


@pytest.mark.slow  # a process of its own
def test_an_adjusted_task_is_loaded_where_only_this_package_is_imported(tmp_path):
    task, data = hub_tasks.make("ViTImageClassifier")
    kla.adjust(task, COUNTS).save(tmp_path / "adjusted.keras")
    np.save(tmp_path / "data.npy", data)
    code = """
import keras, numpy, keras_logit_adjust
model = keras.saving.load_model("adjusted.keras")
numpy.save("logits.npy", model.predict(numpy.load("data.npy"), verbose=0))
print(type(model).__name__)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment, "timeout": 300}
    result = subprocess.run([sys.executable, "-c", code], **options)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] == "AdjustedViTImageClassifier"
    expected = traced(task, data) - log_prior(COUNTS)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # pipelines of strings
def test_a_prior_aware_head_trains_in_a_task_on_strings_and_is_loaded(tmp_path):
    @keras.saving.register_keras_serializable(package="test_hub_tasks")
    class PriorAwareClassifier(keras_hub.models.TextClassifier):
        def __init__(self, backbone, class_counts, preprocessor=None, **kwargs):
            self.backbone, self.preprocessor = backbone, preprocessor
            self.output_dense = kla.layers.PriorAwareDense(len(class_counts), class_counts, name="logits")
            outputs = self.output_dense(backbone(backbone.input)["pooled_output"])
            super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)
            self.class_counts = class_counts

        def get_config(self):
            return {**super().get_config(), "class_counts": self.class_counts}

    plain, data = hub_tasks.make("BertTextClassifier")
    strings, labels, counts = data * 2, np.array([0, 0, 1, 0, 0, 2]), [4, 1, 1]
    task = PriorAwareClassifier(plain.backbone, counts, preprocessor=plain.preprocessor)
    task.compile(keras.optimizers.SGD(0.0), task.loss, run_eagerly=True)  # KerasHub's default, from logits
    logits = eager(task, strings)
    history = task.fit(strings, labels, shuffle=False, verbose=0).history
    adjusted = np.log(softmax(logits + log_prior(counts)))
    assert history["loss"] == [pytest.approx(-adjusted[np.arange(6), labels].mean(), rel=1e-5)]
    with pytest.raises(ValueError, match="has the prior-aware head 'logits'"):
        kla.adjust(task, counts)
    np.testing.assert_allclose(eager(reload(task, tmp_path), strings), logits, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_an_adjusted_task_is_served_by_names_for_preprocessed_inputs(classifier, tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a SavedModel of names is TensorFlow's")
    import tensorflow as tf

    task, strings = classifier
    path = kla.serving.export(kla.adjust(task, COUNTS), tmp_path / "served", class_names=["a", "b", "c"])
    served = tf.saved_model.load(str(path)).signatures["serving_default"](**served_inputs(task, strings))
    expected = softmax(eager(task, strings) - log_prior(COUNTS))
    np.testing.assert_allclose(served["probabilities"].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert served["prior"].numpy().tolist() == [b"uniform"] * 3
