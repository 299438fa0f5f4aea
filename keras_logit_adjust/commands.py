"""The commands `adjust` and `inspect`: from the file of a trained model to one of an adjusted one, or to what it is."""

import contextlib
import dataclasses
import pathlib
import sys
import warnings
import zipfile

import keras
from keras import ops

from keras_logit_adjust import _checks, held_out, posthoc, serving
from keras_logit_adjust.data import _sources
from keras_logit_adjust.data.profiles import read_class_counts
from keras_logit_adjust.posthoc import _graph
from keras_logit_adjust.serving import _files
from keras_logit_adjust.serving.export import check_writable

WRITTEN = {"keras": "a Keras model", "savedmodel": "a SavedModel", "tflite": "a TFLite model", "onnx": "an ONNX model"}
_SHOWN = 300  # characters of another library's message before it is cut
# What messages of the package tell a caller in Python to do, as options.
_OPTIONS = {
    'Use kla.adjust(model, class_counts, output="logits" | "softmax" | "sigmoid").': "Leave out --fold.",
    'kla.adjust(model, class_counts, output="logits" | "softmax" | "sigmoid")': "--gives logits | softmax | sigmoid",
    'output="logits", "softmax" or "sigmoid"': "--gives logits, softmax or sigmoid",
    "Use `kla.adjust`, which": "Leave out --fold, which",
    "`num_examples`": "--num-examples",
    "`output`": "--gives",
    "`class_counts`": "--counts",
    "`target_prior`": "--target-prior",
}


def inspect(model):
    """What is known of the model in the file `model`, in a few lines."""
    return str(serving.describe(load_model(model)))


def adjust(
    model,
    counts,
    output,
    *,
    tau=1.0,
    calibrate=False,
    validation=None,
    target_prior=None,
    num_examples=None,
    gives="auto",
    fold=False,
    allow_double_correction=False,
    to=None,
    class_names=None,
    force=False,
):
    """Adjust the model in a file and write it to another; all paths but `output` are read.

    Args:
        model: path of a Keras model.
        counts: path of a CSV file with the columns `class_id` and `count`.
        output: path to write to.
        tau: strength, a number; "auto" chooses it on `validation`, after calibration if there is one.
        calibrate: on `validation`, as `kla.calibrate` does by "bias_corrected_temperature", for the mix of `counts`.
        validation: path of an `.npz` file with held-out arrays `x` and `y`, for "auto" and `calibrate`.
        target_prior: path of a CSV file as `counts`, of the class mix to be right for.
        num_examples: the number of training examples, for independent labels.
        gives: what a subclassed model gives, "logits", "softmax" or "sigmoid".
        fold: into the bias of the head, and not as a layer.
        allow_double_correction: as in `kla.adjust`.
        to: the format, as in `kla.serving.export`.
        class_names: path of a text file with a name a line, for a SavedModel.
        force: overwrite `output`.

    Returns:
        What was done, in a few lines, and what was written.

    Raises:
        ValueError: for a file that is not what it should be, or options that do not go together.
        OSError: for a file that cannot be read or written.
    """
    # Before anything that takes time: may it be written there?
    output, to = _files.as_destination(output, to, overwrite=force)
    check_writable(to)
    _check_options(tau, calibrate, validation, target_prior, num_examples)
    options = {"class_names": _read_lines(class_names)} if class_names else {}
    settings = {
        "class_counts": _read_counts(counts, num_examples),
        "target_prior": _read_counts(target_prior) if target_prior else None,
        "num_examples": num_examples,
        "allow_double_correction": allow_double_correction,
    }
    validation_set = _read_held_out(validation) if validation else None
    trained = _check_no_nan(load_model(model))
    _check_not_adjusted(trained, model, allow_double_correction, validation_set)
    adjusted, description = _adjusted(trained, 1.0 if tau == "auto" else tau, gives, fold, settings)
    chosen = ""
    if validation_set is not None:
        tau, settings["calibration"], chosen = _choose(trained, validation_set, tau, calibrate, gives, settings)
        adjusted, description = _adjusted(trained, tau, gives, fold, settings)
    if to == "savedmodel":  # a folded model does not know either
        options.update(prior_name=description.prior, output=description.served_output)
    serving.export(adjusted, output, to=to, overwrite=force, **options)
    return f"{chosen}{description}", WRITTEN[to]


def _adjusted(trained, tau, gives, fold, settings):
    """The adjusted model and its description, which knows of a folded adjustment too."""
    with _as_options():
        adjusted = posthoc.adjust(trained, tau=tau, output=gives, **settings)
    description = serving.describe(adjusted)
    if not fold:
        return adjusted, description
    *others, last = description.corrections
    last = dataclasses.replace(last, means=f"the bias of {description.head!r}")
    with _as_options():
        folded = posthoc.fold_into_bias(trained, tau=tau, **settings)
    return folded, dataclasses.replace(description, model=folded.name, corrections=(*others, last))


@contextlib.contextmanager
def _as_options():
    """Raise a `ValueError` of the package with the options of the command in place of arguments."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for argument, option in _OPTIONS.items():
            message = message.replace(argument, option)
        raise ValueError(message) from error


def _check_options(tau, calibrate, validation, target_prior, num_examples):
    if (tau == "auto" or calibrate) != (validation is not None):
        raise ValueError(
            "--tau auto and --calibrate need held-out data, which nothing else uses: give one of them and --validation "
            f"FILE.npz together, or neither. Received --tau {tau}{' --calibrate' if calibrate else ''} "
            f"{'with' if validation else 'without'} --validation."
        )
    if tau == "auto" and target_prior is not None:
        raise ValueError("--tau auto is right for balanced accuracy. For the class mix of --target-prior give --tau 1.")
    if num_examples is not None and target_prior is not None:
        raise ValueError(
            "--target-prior has the counts of classes that exclude each other; --num-examples says that labels are "
            "independent. Give their target probabilities from Python: kla.adjust(…, target_prior=…)."
        )


def _check_not_adjusted(model, path, allow_double_correction, validation_set):
    reason, _ = next(_graph.corrections(model), (None, None))
    if reason is not None and validation_set is not None:
        raise ValueError(
            f"--tau auto and --calibrate need a model whose prior was not corrected. The one in {path} {reason}: give "
            "a number as --tau, without --calibrate."
        )
    if reason is not None and not allow_double_correction:
        raise ValueError(
            f"The prior would be corrected twice: the model in {path} {reason}. Its plain argmax is balanced already. "
            "Give --allow-double-correction if that is what you want."
        )


def _choose(model, validation_set, tau, calibrate, gives, settings):
    """τ and the calibration (None: none) for held-out data, and lines that say what they are."""
    calibration, text, examples = None, "", (model, validation_set)
    with _warnings_as_lines(), _as_options():
        if calibrate:
            calibration, text, examples = _calibrate(model, validation_set, gives, settings)
        if tau != "auto":
            return tau, calibration, text
        counts, num_examples = settings["class_counts"], settings["num_examples"]
        best = held_out.tune_tau(*examples, counts, num_examples=num_examples, output=gives)
    interval = "{:.4g} to {:.4g}".format(*best.interval)
    text += (
        f"tau       {best.tau:.4g}, chosen on {len(validation_set[1])} validation examples; interval {interval}, "
        f"balanced accuracy {best.balanced_accuracy:.4f}\n"
    )
    return best.tau, calibration, text


def _calibrate(model, validation_set, gives, settings):
    """The calibration on held-out data, a line that says what it is, and the calibrated logits with their labels."""
    counts, num_examples = settings["class_counts"], settings["num_examples"]
    x, labels = validation_set
    logits = held_out.predict_logits(model, x, output=gives)
    are_labels = num_examples is not None
    prior = counts / num_examples if are_labels else counts
    how = "bias_corrected_temperature"
    found = held_out.calibrate(logits, labels, method=how, class_prior=prior, independent=are_labels)
    text = (
        f"logits    calibrated on {len(labels)} validation examples; temperature {found.temperature:.4g}, "
        f"biases {min(found.bias):.4g} to {max(found.bias):.4g}\n"
    )
    return found, text, (found.apply(logits), labels)


@contextlib.contextmanager
def _warnings_as_lines():
    """Show warnings as lines of the command, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *place: print(f"keras-logit-adjust: {message}", file=sys.stderr)
        yield


def load_model(path):
    """The Keras model in a file, or a `ValueError` that says in one line why there is none."""
    _check_model_file(pathlib.Path(path))
    try:
        with warnings.catch_warnings():
            # Keras warns that it has built no optimizer to load; nothing is trained here.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(path)
    except Exception as error:  # a damaged file raises whatever zipfile, JSON or a layer stumbles over
        reason = str(error).strip().split("\n", 1)[0][:_SHOWN]
        raise ValueError(
            f"{path} must be a Keras model, as model.save writes it, without classes of your own: adjust such a model "
            f"from Python, where they are known. Loading failed: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} must be a Keras model. It holds a {type(model).__name__}.")
    return model


def _check_model_file(path):
    """Raise where Keras would say of a file that is no model that there is none."""
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    if path.is_dir():
        kind = "a folder"
    elif path.stat().st_size == 0:
        kind = "empty"
    elif path.suffix == ".keras" and not zipfile.is_zipfile(path):
        kind = "no zip archive, which a .keras file is"
    else:
        return
    raise ValueError(f"{path} must be a Keras model, as model.save writes it. It is {kind}: save the model again.")


def _check_no_nan(model):
    for weight in model.weights:
        if "float" in weight.dtype and ops.any(ops.isnan(ops.convert_to_tensor(weight))):
            raise ValueError(
                f"Weights of the model must not be NaN, as its logits are then. Received NaN in {weight.path}: the "
                "training has diverged; train again with a smaller learning rate."
            )
    return model


def _read_counts(path, num_examples=None):
    """The class counts in a file, all of them with a finite log-prior (or log-odds)."""
    counts = read_class_counts(path)
    if (counts == 0).any():
        raise ValueError(
            f"Every count in {path} must be greater than zero: a class that was never seen has no finite log-prior. "
            f"Received 0 at {_checks.name_classes(counts == 0)}. Add a pseudo-count in the file, 1 to every count."
        )
    if num_examples is not None and (bad := counts >= num_examples).any():
        raise ValueError(
            f"Every count in {path} must be below --num-examples {num_examples}: a label that is always on has no "
            f"finite log-odds. Received {counts[bad][:8].tolist()} at {_checks.name_classes(bad)}. Add an example of "
            "each kind: 1 to every count in the file, 2 to --num-examples."
        )
    return counts


def _read_held_out(path):
    x, y = _sources.read_npz(pathlib.Path(path))
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or not len(y):
        raise ValueError(
            f"x and y in {path} must have a row for each held-out example, and there must be some. Received shapes "
            f"{x.shape} and {y.shape}."
        )
    return x, y


def _read_lines(path):
    try:
        names = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A file of class names must be UTF-8 text. Received {path}: {error}. Save it as UTF-8."
        ) from error
    if not names or not all(name.strip() for name in names):
        raise ValueError(
            "A file of class names must have one name a line, in order of class id. Received "
            f"{path}, which is empty or has empty lines."
        )
    return [name.strip() for name in names]
