"""A separate pass over validation data: it changes neither the metrics of the model nor its compiled steps."""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, metrics
from keras_logit_adjust.callbacks import _outputs
from keras_logit_adjust.layers import ManyClassModel
from keras_logit_adjust.priors.counting import is_endless

_KINDS = "(x, y) arrays, or a dataset of batches (x, y)"


def refuse_workers(model, message):
    """Raise if `model` trains on several workers: there a callback sees only a part of the data."""
    strategy = getattr(model, "distribute_strategy", None)  # on TensorFlow
    if strategy is not None:
        import tensorflow as tf

        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise ValueError(message)


def scope_of(model):
    """The scope of the strategy of `model`, for objects that evaluate it."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def compile_as(model, judge, weighted_metrics):
    """Compile `judge` for evaluation only, in the mode in which `model` was compiled."""
    replicas = getattr(getattr(model, "distribute_strategy", None), "num_replicas_in_sync", 1)
    judge.compile(
        optimizer=None,
        weighted_metrics=weighted_metrics,
        run_eagerly=model.run_eagerly,
        # Keras cannot compile a step of several replicas by XLA.
        jit_compile=model.jit_compile and replicas == 1,
    )


def evaluated(judge, data, batch_size, **options):
    """The results of `evaluate`, by name, on validation data that passed `check_data`."""
    with warnings.catch_warnings():
        # Keras warns of an interruption when a dataset of unknown length ends.
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        return judge.evaluate(**_arguments(data, batch_size), verbose=0, return_dict=True, **options)


class ValidationPass:
    """Per-class accuracy of a model on validation data, by Keras's own `evaluate`.

    Args:
        model: built; its prediction at `output_name` is one tensor `[…, L]`.
        data: validation data that passed `check_data`.
        num_classes: number of classes `L`.
        independent: whether they are independent labels, which are measured by their balanced accuracy.
        ignore_class: a class id (or a target) left out.
        threshold: for one sigmoid unit, or for labels.
        batch_size: the batch size for arrays.
        output_name: the name or position of the output, or None.
    """

    def __init__(self, model, data, *, num_classes, independent, ignore_class, threshold, batch_size, output_name):
        refuse_workers(
            model,
            f"`LongTailReport` cannot evaluate `validation_data` itself on several workers. Leave it out, compile the "
            f"model with `metrics=[{recommended(num_classes, independent, threshold)}]`, give the callback "
            f'`metric="{name_of_recommended(independent)}"`, and `validation_data` to `kla.tf_distribute.fit`.',
        )
        self._data, self._batch_size, self._num_classes = data, batch_size, num_classes
        self._independent = independent
        kind = metrics.PerLabelBalancedAccuracy if independent else metrics.PerClassAccuracy
        with scope_of(model):
            self._metric = kind(num_classes, ignore_class=ignore_class, threshold=threshold)
            # The training model of very many classes gives features, not scores.
            self._judged = (
                model.predictor(1)
                if isinstance(model, ManyClassModel)
                else _Judged(
                    model, output_name, wants_threshold=num_classes == 2 and not independent and threshold is None
                )
            )
            if hasattr(model, "preprocess_samples"):
                self._data = _preprocessed(data, model.preprocess_samples)
            compile_as(model, self._judged, [self._metric])

    def recall(self):
        """The recall of each class, float64 `[L]`; NaN for a class without examples."""
        self._run()
        if not self._seen().any():
            what = (
                "a label that is on in one example and off in another"
                if self._independent
                else "an example with a label"
            )
            raise ValueError(f"`validation_data` must have {what}. Received none.")
        return ops.convert_to_numpy(self._metric.result()).astype("float64")

    def try_first_batch(self):
        """Raise for errors that show in the first batch, before hours of training."""
        self._run(steps=1)
        self._seen()

    def _run(self, **options):
        evaluated(self._judged, self._data, self._batch_size, **options)

    def _seen(self):
        if self._independent:
            positives, negatives = (ops.convert_to_numpy(x) for x in (self._metric.positives, self._metric.negatives))
            if np.isnan(positives + negatives).any():
                raise ValueError(
                    "Every target of `validation_data` must lie in [0, 1]. Received one that does not. Remedy: "
                    "`ignore_class` for a value that marks unknown targets."
                )
            return positives * negatives
        total = ops.convert_to_numpy(self._metric.total)
        if np.isnan(total).any():
            raise ValueError(
                f"Every label of `validation_data` must be an integer in [0, {self._num_classes}), one for each number "
                "in `class_counts`, or the row of one label. Received one that is not. Remedy: counts of all classes, "
                "`ignore_class` for a label that marks no class, or, for rows of several labels, `num_examples`: "
                "LongTailReport(positive_counts, num_examples=…, threshold=…)."
            )
        return total


class _Judged(keras.Model):
    """One output of a model, as a model whose losses are not computed."""

    def __init__(self, model, output_name, *, wants_threshold):
        super().__init__(name="judged")  # TensorFlow refuses a name that begins with "_"
        self.model, self.output_name, self.wants_threshold = model, output_name, wants_threshold
        self.built = True

    def call(self, x, training=False):
        y_pred = self._judged_output(x)
        if self.wants_threshold and getattr(y_pred, "shape", ())[-1:] == (1,):
            raise ValueError(
                f"`LongTailReport` needs the threshold of one sigmoid unit. Received outputs of shape "
                f"{tuple(y_pred.shape)} without `threshold`: give `LongTailReport(…, threshold=0.5)` for "
                "probabilities, or 0 for logits."
            )
        return y_pred

    def _judged_output(self, x):
        y_pred = self.model(x)
        if self.output_name is not None:
            names = getattr(self.model, "output_names", None)
            return _outputs.part(y_pred, self.output_name, f"model {self.model.name!r}", names)
        if len(outputs := keras.tree.flatten(y_pred)) != 1:
            raise ValueError(
                f"`LongTailReport` is for a model of one output. Received a model of {len(outputs)}: give the one that "
                f"it reports, LongTailReport(…, output_name={_outputs.names_in(y_pred)[0]!r})."
            )
        return y_pred

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=False):
        return ops.zeros(())


def recommended(num_classes, independent, threshold):
    """The code that makes the metric that a report reads."""
    if independent:
        return f"kla.metrics.PerLabelBalancedAccuracy({num_classes}, threshold={_checks.shown(threshold)})"
    return f"kla.metrics.PerClassAccuracy({num_classes})"


def name_of_recommended(independent):
    """The name of that metric in `fit`."""
    return "per_label_balanced_accuracy" if independent else "per_class_accuracy"


def _preprocessed(data, preprocess):
    """The data after the preprocessing that a model of KerasHub does in `fit` and `evaluate`, outside its graph."""
    if isinstance(data, tuple):
        x, *others = data
        is_text = getattr(getattr(x, "dtype", None), "kind", None) in ("U", "S", "O")  # some tokenizers need a list
        return preprocess(x.tolist() if is_text else x, *others)
    if hasattr(data, "element_spec"):
        return data.map(preprocess)
    batches = map(data.__getitem__, range(data.num_batches)) if isinstance(data, keras.utils.PyDataset) else data
    return [preprocess(*_check_batch(batch)) for batch in batches]


def _arguments(data, batch_size):
    """The arguments of `evaluate` for the data."""
    if isinstance(data, tuple):
        return {**dict(zip(("x", "y", "sample_weight"), data, strict=False)), "batch_size": batch_size}
    if hasattr(data, "element_spec") or isinstance(data, keras.utils.PyDataset):
        return {"x": data}
    return {"x": (_check_batch(batch) for batch in data)}  # Keras reads generators; each is read once


def check_data(data, *, num_classes=None, ignore_class=None, output_name=None):
    """Validation data with the labels of the output `output_name`, which can be read many times; arrays as arrays.

    Ids of arrays are checked against `num_classes`, if that is given.
    """
    if isinstance(data, tuple):
        data = data if output_name is None else _outputs.of_batch(data, output_name)
        return _check_arrays(data, num_classes=num_classes, ignore_class=ignore_class)
    is_keras = isinstance(data, keras.utils.PyDataset)
    if hasattr(data, "element_spec"):
        _check_batch(data.element_spec)
    elif not is_keras and (hasattr(data, "shape") or isinstance(data, dict) or not hasattr(data, "__iter__")):
        raise ValueError(f"`validation_data` must be {_KINDS}. Received: {type(data).__name__}")
    elif not is_keras and iter(data) is data:
        raise ValueError(
            "`validation_data` is read after every epoch. Received an iterator, which is empty after the first: give "
            "a list of its batches, or a dataset."
        )
    if is_endless(data):
        raise ValueError("`validation_data` must end. Received an endless dataset: leave out `.repeat()`.")
    return data if output_name is None else _outputs.of_data(data, output_name)


def _check_batch(batch):
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        size = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ValueError(
            f"`validation_data` must be {_KINDS}. Received a batch that is a {type(batch).__name__}{size}: labels are "
            "needed beside the inputs."
        )
    return tuple(batch)


def _check_arrays(data, *, num_classes, ignore_class):
    if len(data) not in (2, 3):
        raise ValueError(f"`validation_data` must be (x, y) or (x, y, sample_weight). Received {len(data)} of them.")
    x, y, *weights = data
    x = np.asarray(x) if isinstance(x, list) and x and isinstance(x[0], str) else x
    y, *weights = (np.asarray(part) if isinstance(part, (list, tuple)) else part for part in (y, *weights))
    if not hasattr(y, "shape"):
        raise ValueError(f"The labels of `validation_data` must be an array. Received: {type(y).__name__}")
    sizes = sorted({len(array) for array in keras.tree.flatten((x, y, *weights)) if array is not None})
    if len(sizes) > 1 or sizes[0] == 0:
        raise ValueError(f"The arrays of `validation_data` must have as many rows, at least 1. Received {sizes}.")
    if num_classes is not None and np.size(y) == len(y):  # otherwise the predictions show whether y is ids or rows
        labels = _labels.as_labels(ops.convert_to_numpy(y) if ops.is_tensor(y) else y, "validation_data").reshape(-1)
        bad = (labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))
        if ignore_class is not None:
            bad &= labels != ignore_class
        if bad.any():
            raise ValueError(
                f"Every label of `validation_data` must be an integer in [0, {num_classes}), one for each number in "
                f"`class_counts`. Received {labels[bad][0]} in row {np.flatnonzero(bad)[0]} ({bad.sum()} in all). "
                "Remedy: counts of all classes, or `ignore_class` for a label that marks no class."
            )
    return (x, y, *weights)
