"""The logits of a model on held-out data, read before the activation that hides them."""

import functools

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _scores, layers
from keras_logit_adjust.posthoc import _graph, _guard, _hub
from keras_logit_adjust.posthoc.adjust import head_to_adjust
from keras_logit_adjust.priors.counting import is_endless


def predict_logits(model, x, *, output="auto", batch_size=256):
    """The logits `[N, …, L]` of a model that ends in an activation, for `kla.calibrate` and `kla.TauPath`.

    Args:
        model: a trained `keras.Model` that is not adjusted: Functional or Sequential, as `kla.adjust` takes it, or,
            with `output` given, any other.
        x: inputs, an array, or a dict or list of arrays as the model takes them.
        output: what the model gives, as in `kla.adjust`. If the model cannot be read, probabilities are turned into
            logits; the differences between classes are the same unless a probability rounded to 0.
        batch_size: the batch size of prediction.

    Returns:
        A NumPy array, with the classes in the last axis whatever their axis in the model is.

    Raises:
        ValueError: for a model that is adjusted already, or whose logits are not found.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax", bias_initializer="ones")])
    >>> predict_logits(model, np.zeros((1, 3))).tolist()
    [[1.0, 1.0]]

    Reference: Menon et al. (2021), §4, equation 9, which adjusts logits.
    """
    batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
    predict, x = logits_model(model, output=output), as_arrays(x)
    if not (size := len(keras.tree.flatten(x)[0])):
        raise _checks.ArgumentError("x", "`x` must have at least one example. Received none.")
    starts = range(0, size, batch_size)
    return np.concatenate([predict(take(x, slice(start, start + batch_size))) for start in starts])


def labels_and_logits(model, data, *, output, batch_size):
    """Pairs `(y_true, logits)` of the batches of `data`: `(x, y)` arrays, or a dataset of batches `(x, y)`."""
    return _labels_and_outputs(logits_model(model, output=output), data, batch_size)


def labels_and_features(model, data, *, batch_size):
    """Pairs `(y_true, features)` of the batches of `data`: the features are what a `ManyClassModel` gives."""
    return _labels_and_outputs(lambda x: ops.convert_to_numpy(model.predict_on_batch(x)), data, batch_size)


def _labels_and_outputs(predict, data, batch_size):
    if is_endless(data):
        raise ValueError("`validation_data` must end. Received an endless dataset: leave out `.repeat()`.")
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(data.num_batches))
    elif isinstance(data, tuple):
        if len(data) != 2:
            raise ValueError(f"`validation_data` must be a pair (x, y). Received a tuple of {len(data)}.")
        _scores.check_rows(data[1], data[0], ("y", "x"))
        x, y = as_arrays(data[0]), _arrays.to_numpy(data[1], "y_true")
        sizes = {len(array) for array in keras.tree.flatten(x)} | {len(y)}
        if len(sizes) != 1:
            raise ValueError(f"x and y of `validation_data` must have as many rows. Received {sorted(sizes)}.")
        data = ((take(x, slice(i, i + batch_size)), y[i : i + batch_size]) for i in range(0, len(y), batch_size))
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(
                "`validation_data` must be (x, y) arrays or a dataset of batches (x, y). "
                f"Received a batch that is a {type(batch).__name__}: labels are needed beside the inputs."
            )
        if len(batch) > 2 and batch[2] is not None:
            raise ValueError(
                "Sample weights are not used here. Received batches (x, y, sample_weight): leave out the weights, and "
                "the examples whose weight is 0."
            )
        yield _arrays.to_numpy(batch[1], "y_true"), predict(batch[0])


def logits_model(model, *, output):
    """A function from a batch to the logits of `model`, which must not be adjusted already.

    For a graph these are the logits themselves. For another model they are the logarithms of its probabilities, which
    have the same differences between classes unless a probability rounded to 0.
    """
    if isinstance(model, layers.ManyClassModel):
        raise _checks.ArgumentError(
            "model",
            f"`model` must give logits. Received {model.name!r}, a `ManyClassModel`, which gives features so that no "
            "tensor of all logits exists. Use `kla.tune_tau`, which takes it as it is; `model.predictor(k)` for the "
            "best scores; or `model.head.to_dense()`, a head of all logits.",
        )
    if isinstance(model, layers.ManyClassPredictor):
        raise _checks.ArgumentError(
            "model",
            f"`model` must give logits. Received {model.name!r}, which gives the top classes of a `ManyClassModel`: "
            "`kla.tune_tau` takes that model as it is.",
        )
    _guard.check_plain(model, "Choosing on held-out data")
    _graph.require_model(model)
    head = head_to_adjust(model, output)
    kind, axis = ("logits", head.axis) if head is not None else (output, -1)
    if head is None or head.output == "logits" and not _hub.is_task(model):
        return lambda x: np.moveaxis(_predict(model, x, kind), axis, -1)
    graph = _graph.rebuild(model, head, lambda logits: logits)
    prepare = functools.partial(_hub.preprocessed, model) if _hub.is_task(model) else lambda x: x
    return lambda x: np.moveaxis(_predict(graph, prepare(x), kind), axis, -1)


def _predict(model, x, kind):
    return ops.convert_to_numpy(_graph.logits_of(ops.convert_to_tensor(model.predict_on_batch(x)), kind))


def take(x, rows):
    """The rows of an array, or of every array in a dict or list."""
    return keras.tree.map_structure(lambda array: array[rows], x)


def as_arrays(x):
    """`x` as an array, or as a dict or list of arrays; a list of numbers or of rows is one array."""
    if isinstance(x, list) and x and not hasattr(x[0], "shape"):
        return _arrays.to_numpy(x, "x")
    return keras.tree.map_structure(lambda array: _arrays.to_numpy(array, "x"), x)
