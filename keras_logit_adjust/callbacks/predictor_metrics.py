"""Metrics of the top classes of a model of very many classes; its training step computes no scores."""

import collections

import keras

from keras_logit_adjust import _checks, layers
from keras_logit_adjust.callbacks import _validation


class PredictorMetrics(keras.callbacks.Callback):
    """Metrics of the predictor of a `kla.layers.ManyClassModel` after every epoch, `val_…` in the logs.

    A `ManyClassModel` returns features, so `fit` cannot measure its top classes. This callback evaluates
    `model.predictor(k)` on the validation data. The predictor shares the weights and is compiled once. The progress
    line, `History` and every callback that is listed after this one have the results:
    `EarlyStopping("val_top_5_balanced_accuracy", mode="max")`, `ModelCheckpoint`, `CSVLogger`. `mode` is needed there:
    Keras looks directions up among the metrics of the training model. A key that is in the logs already stays as it is.

    Args:
        validation_data: `(x, y)` or `(x, y, sample_weight)`, or a `tf.data.Dataset`, a `PyDataset` or another iterable
            (no iterator) of such batches. Sample weights count.
        metrics: a list of metrics that take the ids of the best classes, as those of `kla.metrics` do.
        k: how many of the best classes are predicted; by default the largest `k` of the metrics.
        batch_size: the batch size for arrays.
        every: an evaluation comes after every so many epochs. Other epochs have no such keys, as with
            `validation_freq`.

    Raises:
        ValueError: for no metrics or two of one name, data that is not pairs or does not end; as training begins, for
            a model that is no `ManyClassModel`, a metric of more than `k` classes, or several workers. After a label
            outside [0, L) a metric is NaN.

    Example:

    >>> import numpy as np, keras_logit_adjust as kla
    >>> counts = np.arange(1000, 0, -1)
    >>> inputs = keras.Input((3,))
    >>> model = kla.layers.ManyClassModel(inputs, kla.layers.ManyClassDense(1000, counts)(inputs))
    >>> model.compile("adam")
    >>> x, y = np.eye(3), np.array([0, 7, 999])
    >>> top = PredictorMetrics((x, y), metrics=[kla.metrics.BalancedAccuracy(1000, k=5)])
    >>> sorted(model.fit(x, y, epochs=2, callbacks=[top], verbose=0).history)
    ['loss', 'val_top_5_balanced_accuracy']

    Reference: Menon et al. (2021), §2, equation 1 (the balanced error).
    """

    def __init__(self, validation_data, *, metrics, k=None, batch_size=256, every=1):
        super().__init__()
        metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        if not metrics or not all(isinstance(metric, keras.Metric) for metric in metrics):
            raise _checks.ArgumentError(
                "metrics",
                "`metrics` must be a list of metrics that take the ids of the best classes, such as "
                f"`kla.metrics.BalancedAccuracy(num_classes, k=5)`. Received: {metrics!r}",
            )
        if twice := [name for name, number in collections.Counter(m.name for m in metrics).items() if number > 1]:
            raise _checks.ArgumentError(
                "metrics",
                f"Every metric in `metrics` must have its own name, under which it is logged. Received more than "
                f"once: {twice}. Give all but one another `name`.",
            )
        self.metrics = metrics
        k = max(getattr(metric, "k", 1) for metric in metrics) if k is None else k
        self.k = _checks.check_integer(k, "k", 1)
        self.batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
        self.every = _checks.check_integer(every, "every", minimum=1)
        self.validation_data = _validation.check_data(validation_data)
        self._judged = self._predictor = None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, layers.ManyClassModel):
            raise ValueError(
                "`PredictorMetrics` is for a `kla.layers.ManyClassModel`. Received a "
                f"{type(self.model).__name__}, whose metrics see its scores: pass the metrics to `compile`."
            )
        _validation.refuse_workers(
            self.model, "`PredictorMetrics` cannot evaluate on several workers: evaluate `model.predictor(k)` after."
        )
        if self._judged is not self.model:
            with _validation.scope_of(self.model):
                self._judged, self._predictor = self.model, self.model.predictor(self.k)
                _validation.compile_as(self.model, self._predictor, self.metrics)
        self._evaluate(steps=1)  # errors show before hours of training

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            for name, value in self._evaluate().items():
                if name != "loss":
                    logs.setdefault(f"val_{name}", value)

    def _evaluate(self, **options):
        return _validation.evaluated(self._predictor, self.validation_data, self.batch_size, **options)
