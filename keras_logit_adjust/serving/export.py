"""Export of models to `.keras`, SavedModel, TFLite and ONNX; a file is written completely or not at all."""

import collections
import importlib.util
import warnings

import keras

from keras_logit_adjust import _checks, _keras
from keras_logit_adjust.layers import MinimumRiskDecision, PredictionSet
from keras_logit_adjust.posthoc import _graph
from keras_logit_adjust.posthoc.adjust import class_axis
from keras_logit_adjust.serving import _files, _signature
from keras_logit_adjust.serving.description import describe

FORMATS = tuple(_files.SUFFIXES)
# The backends on which Keras writes a format: torch has no SavedModel of any batch size, JAX has no TFLite.
BACKENDS = {
    "savedmodel": ("tensorflow", "jax"),
    "tflite": ("tensorflow",),
    "onnx": ("tensorflow", "torch"),
}
ONNX_PACKAGES = {"tensorflow": ("onnx", "tf2onnx"), "torch": ("onnx",)}
KERAS_FORMATS = {"tflite": "litert", "onnx": "onnx"}


def export(
    model,
    path,
    *,
    to=None,
    class_names=None,
    prior_name=None,
    top_k=5,
    output="auto",
    overwrite=False,
):
    """Write a model for serving: as it is, or as a SavedModel that names labels and the prior of its probabilities.

    `.keras`, TFLite and ONNX files give the output of the model, for batches of any size. A SavedModel gives this
    output under the signature "raw". Its default signature gives, for classes that exclude each other:

    - `label` int64 `[B]`, the argmax, and `class_name` string `[B]`;
    - `probabilities` float32 `[B, L]`, the softmax where the model gives logits;
    - `prior` string `[B]`, the class mix that they are posteriors under: "uniform" after `kla.adjust` with τ = 1,
      "target" with a target prior, and in words where τ is another;
    - `top_k_labels`, `top_k_class_names`, `top_k_probabilities` `[B, k]`, best first.

    Heads over positions (convolutions) give `[B, …]` instead of `[B]`. One sigmoid unit serves its two classes,
    negative first. Independent labels serve the probability of each label, ranked in `top_k_…`, without `label` or
    `class_name`, because a threshold decides which labels are on. Class names are served if you give them. Behind a
    `kla.layers.MinimumRiskDecision` there are no probabilities: the file serves `decision` int64 `[B]`, `scores`
    `[B, D]` and `prior`.

    Args:
        model: a built `keras.Model`, adjusted or not; a subclassed one must have been called.
        path: the path of the file, or of the folder of a SavedModel. The file is written beside it and moved there when
            it is complete. A failure leaves no new file, and keeps the file that was there before.
        to: "keras", "savedmodel", "tflite" or "onnx". By default the suffix decides; a path without a suffix is the
            folder of a SavedModel.
        class_names: `[L]` strings in order of class id, a list or array, for a SavedModel.
        prior_name: the prior's name, for a SavedModel. By default it is read from the model. A folded model
            from a file looks like one that was never adjusted, and serves "training, if nothing was folded into the
            bias". So give "uniform" (or the result of `kla.serving.name_prior`) for a folded model from a file, and
            "training" for one that was never adjusted.
        top_k: how many of the best classes a SavedModel lists; all where there are fewer.
        output: what the model gives, for a SavedModel. "auto" reads it from the model, or takes it from `kla.adjust`.
            The others are "logits", "softmax", "sigmoid", and "binary_logits" for the logits of independent labels.
            "auto" cannot tell these in a folded model.
        overwrite: replace a file, or a SavedModel, that exists; a link to one is refused.

    Returns:
        The `pathlib.Path` written.

    Raises:
        ValueError: for a path that exists, has another format's suffix or no folder; class names of another number or
            twice the same; a model whose output is not known; a format that the backend, or Keras for this model,
            cannot write; packages that are missing.
        OSError: for a path that cannot be written to.

    Example:

    >>> import pathlib, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    >>> path = export(model, pathlib.Path(tempfile.mkdtemp(), "model.keras"))
    >>> path.name, keras.saving.load_model(path).output_shape
    ('model.keras', (None, 2))

    Reference: Menon et al. (2021), §4, equation 9; posteriors under another prior after Saerens et al. (2002), §2.2.
    """
    if not isinstance(model, keras.Model):
        _graph.require_model(model)
    path, to = _files.as_destination(path, to, overwrite)
    check_writable(to)
    _signature.build(model)
    inputs = _signature.input_signature(model)
    write = _writer(model, to, inputs, class_names=class_names, prior_name=prior_name, top_k=top_k, output=output)
    with _files.replacing(path) as partial:
        try:
            write(partial)
        except (ValueError, OSError):
            raise
        except Exception as error:  # converters raise errors of many types
            reason = str(error).strip().split("\n", 1)[0]
            raise ValueError(
                f"Keras cannot write model {model.name!r} as {to}: {type(error).__name__}: {reason}{_remedy(model, to)}"
            ) from error
    return path


def _remedy(model, to):
    """The remedy if layers that Keras quantized may be the reason why `model` cannot be written; else an empty text."""
    if not any(getattr(layer, "quantization_mode", None) for layer in _keras.layers_of(model)):
        return ""
    converter = "let the converter quantize the model as it was before, or " if to == "tflite" else ""
    return f". The model has layers that Keras quantized: {converter}write .keras or a SavedModel."


def check_writable(to):
    """Raise if the backend cannot write the format `to`, or if packages for it are missing."""
    backend = keras.backend.backend()
    if backend not in BACKENDS.get(to, (backend,)):
        raise ValueError(
            f"Writing {to} needs the {' or '.join(BACKENDS[to])} backend; this one is {backend}. Save the model as "
            f".keras, and export that file under KERAS_BACKEND={BACKENDS[to][0]}."
        )
    needed = ONNX_PACKAGES[backend] if to == "onnx" else ()
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"Writing ONNX on the {backend} backend needs {' and '.join(missing)}, not installed here: "
            'pip install "keras_logit_adjust[onnx]".'
        )


def _writer(model, to, inputs, *, class_names, prior_name, top_k, output):
    """The function that writes `model` to a path, after a check of all arguments."""
    if to == "savedmodel":
        description = describe(model)
        _checks.check_choice(output, "output", ("auto", *_signature.OUTPUTS))
        _check_decisions(model, description, class_names)
        _check_axis(model)
        served = _signature.Served(
            output=_as_output(description, output),
            class_names=None if class_names is None else _as_class_names(class_names),
            prior=description.prior if prior_name is None else str(prior_name),
            top_k=_checks.check_integer(top_k, "top_k", minimum=1),
        )
        return lambda path: _signature.write(model, path, inputs, served)
    given = {"class_names": class_names is not None, "prior_name": prior_name is not None, "output": output != "auto"}
    if named := [name for name, is_given in given.items() if is_given]:
        names, them = " and ".join(f"`{name}`" for name in named), "it" if len(named) == 1 else "them"
        raise _checks.ArgumentError(
            named[0],
            f"A {to} file has no place for {names}, which a SavedModel has. Leave {them} out, or write a SavedModel, a "
            "folder: `path` without a suffix.",
        )
    if to == "keras":
        return model.save
    return lambda path: _convert(model, str(path), KERAS_FORMATS[to], inputs)


def _convert(model, path, to, inputs):
    with warnings.catch_warnings():
        # Keras raises this warning when it makes tf2onnx work with NumPy 2.
        warnings.filterwarnings("ignore", r".*np\.object", FutureWarning)
        model.export(path, to, verbose=False, input_signature=inputs)


def _check_axis(model):
    """Raise if the classes are known to be in another axis than the last."""
    if (axis := class_axis(model)) != -1:
        raise ValueError(
            f"A SavedModel serves labels of the last axis. Model {model.name!r} has its classes in axis {axis}: put "
            "keras.layers.Permute behind it, or export to .keras, .tflite or .onnx."
        )


def _check_decisions(model, description, class_names):
    if any(isinstance(layer, PredictionSet) for layer in _keras.layers_of(model)):
        raise ValueError(
            f"A SavedModel serves labels with their probabilities. Model {description.model!r} gives prediction sets: "
            "model.export(path) writes them, and export to .keras, .tflite or .onnx."
        )
    if description.output == "decisions":
        if class_names is not None:
            raise _checks.ArgumentError(
                "class_names",
                f"`class_names` name classes; model {description.model!r} gives decisions, served by number. Leave "
                "`class_names` out.",
            )
    elif any(isinstance(layer, MinimumRiskDecision) for layer in _keras.layers_of(model)):
        raise ValueError(
            "A SavedModel of decisions must be a Functional or Sequential model with one output, from its "
            f"MinimumRiskDecision. Model {description.model!r} has one elsewhere: export to .keras, .tflite or .onnx."
        )


def _as_class_names(class_names):
    """`class_names` as a list of different strings. A dict or set has no order, and a string is not a list."""
    unordered = (str, bytes, collections.abc.Mapping, collections.abc.Set)
    if isinstance(class_names, unordered) or not isinstance(class_names, collections.abc.Iterable):
        raise _checks.ArgumentError(
            "class_names",
            f"`class_names` must be a list of strings, in order of class id. Received a {type(class_names).__name__}: "
            "for a dict by class id give [names[c] for c in range(len(names))].",
        )
    class_names = list(class_names)
    if not all(isinstance(name, str) for name in class_names):
        raise _checks.ArgumentError(
            "class_names", f"`class_names` must be strings, in order of class id. Received: {class_names[:8]!r}"
        )
    if twice := [name for name, number in collections.Counter(class_names).items() if number > 1]:
        raise _checks.ArgumentError(
            "class_names",
            f"Every name in `class_names` must belong to one class. Received more than once: "
            f"{twice[:8]!r}. Rename all but one.",
        )
    return class_names


def _as_output(description, output):
    """The output of the model, as one of `_signature.OUTPUTS`."""
    if description.output in ("features", "top classes"):
        predictor = "model.predictor(k)" if description.output == "features" else "predictor"
        raise ValueError(
            f"A SavedModel of labels and probabilities needs all scores. Model {description.model!r} gives "
            f"{description.output}: write ids and scores of the top classes with Keras, {predictor}.export(path)."
        )
    if output != "auto":
        if description.output not in (None, output.removeprefix("binary_")):
            raise ValueError(f"`output` says {output!r}, but model {description.model!r} gives {description.output!r}.")
        return output
    if description.output is None:
        raise ValueError(
            f"The output of model {description.model!r} is not known: {description.note.rstrip('.')}. Say what it is: "
            f"output={' | '.join(map(repr, _signature.OUTPUTS))}."
        )
    return description.served_output
