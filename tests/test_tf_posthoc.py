"""Post-hoc adjusted models as SavedModels, and what a folded one costs (TensorFlow only)."""

import collections

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, GRAPHS, WIDTH, Subclassed, build, normalized, numpy, rows, sequential
from keras import layers

import keras_logit_adjust as kla

tf = pytest.importorskip("tensorflow")
saved_model_pb2 = pytest.importorskip("tensorflow.core.protobuf.saved_model_pb2")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own export")

MAKERS = [kla.adjust, kla.fold_into_bias]
WITHOUT_BIAS = {"softmax without bias", "softmax layer", "nested softmax", "branching", "conv3d without bias"}
SHAPES = ["softmax without bias", "nested softmax", "branching", "conv2d", "low-rank head", "inputs in a dict"]


def served(model, data, folder):
    """What the exported `model` gives in eager calls of its serving function, and what the Keras model predicts."""
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(str(folder))
    given = keras.tree.map_structure(tf.constant, data)
    return loaded.serve(given).numpy(), model.predict(data, verbose=0)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", SHAPES)
def test_an_exported_model_serves_exactly_what_the_keras_model_predicts(name, make, rng, tmp_path):
    model, _, data = build(name, rng)
    exported, predicted = served(make(model, COUNTS, tau=1.5), data, tmp_path)
    np.testing.assert_array_equal(exported, predicted)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_an_exported_subclassed_model_serves_exactly_what_keras_predicts(activation, rng, tmp_path):
    model, data = Subclassed(3, activation), rows(rng, 7, WIDTH)
    adjusted = kla.adjust(model, COUNTS, output=activation or "logits")
    adjusted.predict(data, verbose=0)
    exported, predicted = served(adjusted, data, tmp_path)
    np.testing.assert_array_equal(exported, predicted)


def traced_operations(model):
    """How often each type of operation is in the traced graph."""
    signature = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=tensor.name) for tensor in model.inputs]
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    packed = keras.tree.pack_sequence_as(structure, signature)
    traced = tf.function(lambda inputs: model(inputs, training=False), autograph=False).get_concrete_function(packed)
    return count_operations(traced.graph.as_graph_def())


def exported_operations(model, folder):
    """How often each type of operation is in the exported file."""
    model.export(folder, verbose=False)
    written = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return count_operations(written.meta_graphs[0].graph_def)


def count_operations(graph):
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return collections.Counter(node.op for node in nodes)


@pytest.mark.parametrize("name", sorted(GRAPHS.keys() - WITHOUT_BIAS))
def test_a_folded_model_runs_the_operations_of_the_original(name, rng, tmp_path):
    model, _, _ = build(name, rng)
    folded, adjusted = kla.fold_into_bias(model, COUNTS), kla.adjust(model, COUNTS)
    assert traced_operations(folded) == traced_operations(model) != traced_operations(adjusted)
    assert exported_operations(folded, tmp_path / "folded") == exported_operations(model, tmp_path / "original")


def test_a_folded_model_keeps_the_vocabulary_of_its_lookups():
    lookup = layers.StringLookup(output_mode="one_hot")
    lookup.adapt(np.array(["a", "b", "c", "b"]))
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Dense(3)(lookup(inputs)))
    words = tf.constant([["a"], ["c"], ["z"]])
    expected = numpy(model(words)) - np.log(np.array(COUNTS) / 100)
    np.testing.assert_allclose(numpy(kla.fold_into_bias(model, COUNTS)(words)), expected, rtol=1e-5)


def test_a_folded_model_serves_under_the_names_of_the_original(tmp_path):
    for number, model in enumerate([normalized(), sequential(layers.Dense(3, "softmax"))]):
        names = []
        for part, made in (("original", model), ("folded", kla.fold_into_bias(model, COUNTS))):
            made.export(tmp_path / f"{part}{number}", verbose=False)
            signature = tf.saved_model.load(str(tmp_path / f"{part}{number}")).signatures["serving_default"]
            names.append((sorted(signature.structured_input_signature[1]), sorted(signature.structured_outputs)))
        assert names[0] == names[1]


def test_a_savedmodel_of_labels_needs_the_classes_in_the_last_axis(tmp_path):
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, layers.Permute((3, 1, 2))(layers.Conv2D(3, 1)(inputs)))
    with pytest.raises(ValueError, match="labels of the last axis. Model .* has its classes in axis -3: .*Permute"):
        kla.serving.export(kla.adjust(model, COUNTS), tmp_path / "maps", to="savedmodel")
