"""The files that a command reads: a model, class counts, held-out data, class names."""

import contextlib
import json
import pathlib
import warnings
import zipfile

import keras
from keras import ops

from keras_logit_adjust import _keras
from keras_logit_adjust.data import _sources
from keras_logit_adjust.data.counts_file import (
    as_numbers,
    name_classes,
    read_class_values,
    read_class_values_by_name,
    read_numbers,
    read_text,
)
from keras_logit_adjust.losses import _marks

_SHOWN = 300  # characters of another library's message before it is cut


def read_model(path):
    """The Keras model in a file; a `ValueError` that says in one line why it cannot be read."""
    _check_model_file(pathlib.Path(path))
    try:
        with warnings.catch_warnings():
            # Keras warns that it has built no optimizer to load; nothing is trained here.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(path)
    except Exception as error:  # a damaged file raises errors of many types, from zipfile, JSON or a layer
        reason = str(error).strip().split("\n", 1)[0][:_SHOWN]
        raise ValueError(
            f"{path} must be a Keras model, as model.save writes it, without classes of your own: adjust such a model "
            f"from Python, where they are known. Loading failed: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} must be a Keras model. It holds a {type(model).__name__}.")
    if _keras.keeps_no_loss(model) and (loss := _saved_loss(path)) is not None:
        _marks.mark_outputs(model, loss)
    return model


def _saved_loss(path):
    """The loss of this package in a `.keras` file that Keras does not compile the model with; or None."""
    with contextlib.suppress(KeyError, zipfile.BadZipFile), zipfile.ZipFile(path) as parts:
        config = (json.loads(parts.read("config.json")).get("compile_config") or {}).get("loss")
        if isinstance(config, dict) and str(config.get("registered_name")).startswith("keras_logit_adjust>"):
            return keras.saving.deserialize_keras_object(config)
    return None


def _check_model_file(path):
    """Raise for a file that is not a model; Keras's own message would say that the file does not exist."""
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    if path.is_dir():
        kind = "a folder"
    elif path.stat().st_size == 0:
        kind = "empty"
    elif path.suffix == ".keras" and not zipfile.is_zipfile(path):
        kind = "not a zip archive, which a .keras file is"
    else:
        return
    raise ValueError(f"{path} must be a Keras model, as model.save writes it. It is {kind}: save the model again.")


def check_no_nan(model):
    """Raise if a weight is NaN."""
    for weight in model.weights:
        if "float" in weight.dtype and ops.any(ops.isnan(ops.convert_to_tensor(weight))):
            raise ValueError(
                f"Weights of the model must not be NaN: its logits would be NaN too. Received NaN in {weight.path}: "
                "the training has diverged; train again with a smaller learning rate."
            )


def read_counts(path, *, num_examples=None):
    """The class counts (or the prior) in a file, with a finite log-prior (or log-odds): by class id, or a dict by name.

    One rule for every count: greater than zero.
    """
    found = read_numbers(path, or_prior=True)
    counts = as_numbers(found)
    if (bad := counts <= 0).any():
        raise ValueError(
            f"Every count in {path} must be greater than zero: a class that was never seen has no finite log-prior. "
            f"Received {counts[bad][:8].tolist()} at {name_classes(found, bad)}. Add a pseudo-count in the file, 1 to "
            "every count."
        )
    if num_examples is not None and (bad := counts >= num_examples).any():
        raise ValueError(
            f"Every count in {path} must be below --num-examples {num_examples}: a label that is always on has no "
            f"finite log-odds. Received {counts[bad][:8].tolist()} at {name_classes(found, bad)}. Add an example of "
            "each kind: 1 to every count in the file, 2 to --num-examples."
        )
    return found


def read_weights(text):
    """Class weights: "balanced", or the weights in a file, by class id or a dict by name."""
    if text in (None, "balanced"):
        return text
    weights = read_class_values_by_name(text, "weight")
    weights = read_class_values(text, "weight") if weights is None else weights
    if weights is None:
        raise ValueError(
            "--class-weight must be balanced, or a file with the columns class_id and weight (or class and weight). "
            f"Received: {text}"
        )
    return weights


def read_held_out(path):
    """The arrays x and y in a file."""
    x, y = _sources.read_npz(pathlib.Path(path))
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or not len(y):
        raise ValueError(
            f"x and y in {path} must have a row for each held-out example, and there must be some. Received shapes "
            f"{x.shape} and {y.shape}."
        )
    return x, y


def read_lines(path):
    """The class names in a file."""
    names = read_text(path, "class names").splitlines()
    if not names or not all(name.strip() for name in names):
        raise ValueError(
            "A file of class names must have one name a line, in order of class id. Received "
            f"{path}, which is empty or has empty lines."
        )
    return [name.strip() for name in names]
