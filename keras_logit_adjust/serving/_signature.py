"""The serving signature of a SavedModel: label, class name, probabilities, the k best classes, and the prior's name."""

import dataclasses

import keras

from keras_logit_adjust import _checks, _keras
from keras_logit_adjust.posthoc import _graph
from keras_logit_adjust.posthoc._outputs import AdjustedOutputs
from keras_logit_adjust.posthoc.adjust import AdjustedModel

# The outputs of a model. "binary_logits" are for independent labels, as in BinaryCrossentropy(from_logits=True).
OUTPUTS = ("logits", "binary_logits", "softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Served:
    """The contents of a signature besides the model: the kind of output ("decisions" too), the names of the classes,
    the name of the prior, and k.
    """

    output: str
    class_names: list | None
    prior: str
    top_k: int


def input_signature(model):
    """The inputs of a built model as a list of arguments, each a structure of `keras.InputSpec` of any batch size."""
    if isinstance(model, (AdjustedModel, AdjustedOutputs)) and model.model.built:
        return input_signature(model.model)
    if isinstance(model, keras.Sequential):
        return [_spec(tensor.shape, tensor.dtype, tensor.name) for tensor in model.inputs]
    if _graph.is_graph(model) or getattr(model, "inputs", None):
        return [keras.tree.map_structure(lambda tensor: _spec(tensor.shape, tensor.dtype, tensor.name), model.input)]
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict", {"inputs_shape": config.get("input_shape")})
    if not model.built or None in shapes.values():
        raise ValueError(
            f"Model {model.name!r} was never called, so its inputs are not known. Call it once on data, as in "
            "model(x[:1]), before you export it."
        )
    _check_ids(model)
    dtype = keras.backend.result_type(model.input_dtype, "float32")  # the policy casts it, as it does in `predict`
    return [_specs_of(shape, dtype, name.removesuffix("_shape")) for name, shape in shapes.items()]


def _check_ids(model):
    """Raise if the inputs of a subclassed model are ids that its policy would round. It keeps no dtypes of inputs."""
    is_half = model.compute_dtype in ("float16", "bfloat16")
    if is_half and any(isinstance(layer, keras.layers.Embedding) for layer in _keras.layers_of(model)):
        raise ValueError(
            f"Model {model.name!r} is subclassed and has an Embedding, under the policy {model.dtype_policy.name}. "
            f"Its signature would take ids as numbers in {model.compute_dtype}, which rounds them. Give their dtype: "
            'inputs = keras.Input(shape, dtype="int32"), then keras.Model(inputs, model(inputs)), and adjust that.'
        )


def build(model):
    """Build an `AdjustedModel` that was never called, if the inputs of the model in it are known."""
    if isinstance(model, AdjustedModel) and not model.built and model.model.built:
        specs = input_signature(model.model)
        model(*keras.tree.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype), specs))


def _spec(shape, dtype, name):
    return keras.InputSpec(shape=(None, *shape[1:]), dtype=dtype, name=name)


def _specs_of(shape, dtype, name):
    """The specs of one shape, or of a dict or list of shapes."""
    if isinstance(shape, dict):
        return {key: _specs_of(value, dtype, key) for key, value in shape.items()}
    if any(isinstance(part, (list, tuple, dict)) for part in shape):
        return [_specs_of(part, dtype, f"{name}_{number}") for number, part in enumerate(shape)]
    return _spec(shape, dtype, name)


def write(model, path, inputs, served):
    """Write a SavedModel with the default signature described by `served`, and "raw" with the model's own output."""
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    raw = archive.track_and_add_endpoint("raw", model, inputs)

    def serve(*arguments):
        return outputs_by_name(raw(*arguments), served)

    specs = keras.tree.map_structure(lambda spec: tf.TensorSpec(spec.shape, spec.dtype, spec.name), inputs)
    endpoint = tf.function(serve, input_signature=specs, autograph=False)
    endpoint.get_concrete_function()
    archive.add_endpoint("serving_default", endpoint)
    archive.write_out(str(path), verbose=False)


def outputs_by_name(outputs, served):
    """The named outputs for the model's output `[B, …, L]`."""
    import tensorflow as tf

    if keras.tree.is_nested(outputs) or len(outputs.shape) < 2 or outputs.shape[-1] is None:
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
        raise ValueError(
            "A signature of labels needs one output of shape [B, …, L], L known. "
            f"The model has {shapes}: export it to .keras, .tflite or .onnx, or each output on its own."
        )
    prior = tf.fill(tf.shape(outputs)[:1], served.prior)
    if served.output == "decisions":
        return {"decision": tf.argmax(outputs, axis=-1), "scores": tf.cast(outputs, "float32"), "prior": prior}
    scores, probabilities, is_exclusive = _scores(tf.cast(outputs, "float32"), served.output)
    if served.class_names is not None and len(served.class_names) != scores.shape[-1]:
        raise _checks.ArgumentError(
            "class_names",
            f"`class_names` must have one name for each class: the model has {scores.shape[-1]} classes, `class_names` "
            f"has {len(served.class_names)}.",
        )
    # Ranked by the scores: softmax could round their order away. The first is the argmax of the model's output.
    _, best = tf.math.top_k(scores, min(served.top_k, scores.shape[-1]))
    named = {
        "probabilities": probabilities,
        "prior": prior,
        "top_k_labels": tf.cast(best, "int64"),
        "top_k_probabilities": tf.gather(probabilities, best, batch_dims=len(scores.shape) - 1),
    }
    if served.class_names is not None:
        named["top_k_class_names"] = tf.gather(tf.constant(served.class_names), best)
    for whole, first in (("top_k_labels", "label"), ("top_k_class_names", "class_name")):
        if is_exclusive and whole in named:
            named[first] = named[whole][..., 0]
    return named


def _scores(outputs, output):
    """(scores that rank the classes, their probabilities, whether the classes exclude each other)."""
    import tensorflow as tf

    if outputs.shape[-1] == 1 and output != "softmax":  # one unit stands for two classes
        negative = 1.0 - outputs if output == "sigmoid" else tf.zeros_like(outputs)
        outputs = tf.concat([negative, outputs], axis=-1)
        output = "softmax" if output == "sigmoid" else "logits"
    activation = {"logits": tf.nn.softmax, "binary_logits": tf.nn.sigmoid}.get(output, tf.identity)
    return outputs, activation(outputs), output in ("logits", "softmax")
