"""How a training fares on frequent and rare classes, told while it runs."""

import warnings

import keras
import numpy as np
from keras.src.utils import io_utils

from keras_logit_adjust import _checks, metrics
from keras_logit_adjust.callbacks import _event_files, _validation

_SECTION = "long_tail"  # of the tags in TensorBoard
_TAKEN = ("balanced", "worst_class")


class LongTailReport(keras.callbacks.Callback):
    """Many-, medium- and few-shot accuracy and the worst classes after every epoch: mean recalls `(1/|G|) Σ_{y∈G} r_y`.

    With r_y = P[ŷ = y | y] on the validation data, an epoch's logs get `val_many_accuracy`, `val_medium_accuracy` and
    `val_few_accuracy` (or the groups that there are), `val_balanced_accuracy` and `val_worst_class_accuracy`, the
    smallest r_y. So the progress line, `History` and every callback that is listed after this one have them:
    `EarlyStopping("val_few_accuracy", mode="max")`. The worst classes are named in a line below, unless `verbose=0`.
    A key that a metric of the model has put there already stays as it is.

    A training step costs what it did: the figures come from a pass of their own over `validation_data` at the end of an
    epoch, which takes as long as `model.evaluate`. Where `fit` validates anyway, and on several workers, leave
    `validation_data` out and compile `kla.metrics.PerClassAccuracy`: its values are taken, without a pass.

    Args:
        class_counts: `[L]` training examples of each class (true counts).
        validation_data: `(x, y)` or `(x, y, sample_weight)`, or a `tf.data.Dataset`, a `PyDataset` or another iterable
            (no iterator) of such batches; None to read the model's own metric. Labels are ids `[N, …]` or one-hot rows
            `[N, …, L]`, predictions logits or probabilities `[N, …, L]`; sample weights count.
        bounds: `(few, many)`, as in `kla.metrics.GroupAccuracy`.
        groups: instead of bounds, the group name of each class, as there.
        worst: how many of the worst classes to name.
        class_names: `[L]` names; ids by default.
        log_dir: folder for TensorBoard, section "long_tail": every figure, a histogram of the recalls, the worst
            classes, and once, with the extra `plots`, the figure `kla.plots.class_counts`. The step is the epoch, so
            that a run that goes on writes on.
        batch_size: of arrays.
        every: epochs from one report to the next; in the others the keys are missing, as with `validation_freq`.
        ignore_class: a class id left out.

    Attributes:
        per_class_accuracy: `[L]` recalls of the last report, NaN for a class without examples; None before.

    Raises:
        ValueError: for counts, bounds or groups that `GroupAccuracy` refuses, data that is not pairs or does not end,
            labels that are no classes; as training begins, for predictions or labels of another number of classes, a
            model of several outputs, one without `PerClassAccuracy` where there is no `validation_data`, or several
            workers where there is.

    Warns:
        UserWarning: where `log_dir` is given and matplotlib is not there, so that the figure is left out; after a
            training in which there was nothing to report.

    Example:

    >>> x, y = np.eye(3), np.array([0, 1, 2])
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="identity")])
    >>> model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> report = LongTailReport([500, 50, 5], (x, [0, 1, 1]))
    >>> history = model.fit(x, y, callbacks=[report], verbose=0).history
    >>> {name: history[name] for name in ("val_many_accuracy", "val_medium_accuracy", "val_balanced_accuracy")}
    {'val_many_accuracy': [1.0], 'val_medium_accuracy': [0.5], 'val_balanced_accuracy': [0.75]}

    Reference: Liu et al. (2019), OLTR (the groups); Menon et al. (2021), §2, equation 1 (the balanced error).
    """

    def __init__(
        self,
        class_counts,
        validation_data=None,
        *,
        bounds=(20, 100),
        groups=None,
        worst=3,
        class_names=None,
        log_dir=None,
        batch_size=256,
        every=1,
        ignore_class=None,
    ):
        super().__init__()
        rule = metrics.GroupAccuracy(class_counts, bounds, groups, ignore_class)
        self.class_counts, self.ignore_class = rule.class_counts, rule.ignore_class
        self._members = _members(rule)
        self.worst = _checks.check_integer(worst, "worst", minimum=1)
        self.batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
        self.every = _checks.check_integer(every, "every", minimum=1)
        self.class_names = _check_names(class_names, self.class_counts.size)
        self.validation_data = validation_data
        if validation_data is not None:
            self.validation_data = _validation.check_data(validation_data, self.class_counts.size, self.ignore_class)
        self.log_dir = log_dir
        self._draws = log_dir is not None and _can_draw()
        self.per_class_accuracy = None
        self._pass = self._metric_key = self._events = self._line = None
        self._lacked = False

    def on_train_begin(self, logs=None):
        self.per_class_accuracy, self._line, self._lacked = None, None, False
        if self.validation_data is None:
            self._metric_key = f"val_{_compiled_metric(self.model, self.class_counts.size).name}"
            return
        data = (self.validation_data, self.class_counts.size, self.ignore_class, self.batch_size)
        self._pass = _validation.ValidationPass(self.model, *data)
        self._pass.try_first_batch()

    def on_epoch_begin(self, epoch, logs=None):
        self._print()  # the progress line of the last epoch is complete only now

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        recall = self._pass.recall() if self.validation_data is not None else self._read(logs)
        if recall is None:
            self._lacked = True
            return
        self.per_class_accuracy = recall
        figures = {key: logs.setdefault(key, value) for key, value in self._figures(recall).items()}
        self._line = self._describe_worst(recall)
        if self.log_dir is not None and _is_chief(self.model):
            self._write(epoch, figures, recall)

    def on_train_end(self, logs=None):
        self._print()
        self._pass = None
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lacked and self.per_class_accuracy is None:
            warnings.warn(
                f"`LongTailReport` found no {self._metric_key!r} after any epoch: give `fit` its `validation_data`, or "
                "give it to the callback.",
                stacklevel=2,
            )

    def _read(self, logs):
        """The recalls that the model's own metric gives; None after an epoch without validation."""
        found = logs.get(self._metric_key)
        return None if found is None else np.asarray(keras.ops.convert_to_numpy(found), "float64")

    def _figures(self, recall):
        """`{key: number}`; NaN for a group of which no class was seen."""
        seen = ~np.isnan(recall)
        figures = {f"val_{name}_accuracy": _over(np.mean, recall[own & seen]) for name, own in self._members.items()}
        figures["val_balanced_accuracy"] = _over(np.mean, recall[seen])
        figures["val_worst_class_accuracy"] = _over(np.min, recall[seen])
        return figures

    def _describe_worst(self, recall):
        """The worst classes in words, of equal ones the first."""
        order = [c for c in np.argsort(recall, kind="stable") if not np.isnan(recall[c])][: self.worst]
        found = [f"{self.class_names[c]} {recall[c]:.4f} ({self.class_counts[c]:g})" for c in order]
        return f"worst classes: {', '.join(found)}"

    def _print(self):
        if self._line is not None and self.params.get("verbose"):
            io_utils.print_msg(self._line)
        self._line = None

    def _write(self, epoch, figures, recall):
        self._events = self._events or _event_files.EventFile(self.log_dir)
        self._events.write(
            epoch,
            {f"{_SECTION}/{key}": value for key, value in figures.items()},
            {f"{_SECTION}/per_class_accuracy": recall[~np.isnan(recall)]},
            {f"{_SECTION}/worst_classes": self._line},
            self._draw() if self._draws else None,
        )
        self._draws = False

    def _draw(self):
        from keras_logit_adjust import plots

        return f"{_SECTION}/class_counts", plots.class_counts(self.class_counts)


def _members(rule):
    """`{group: bool [L]}`, the most frequent first where the groups go by counts."""
    if rule.groups is None:
        names = metrics.groups_of_counts(rule.class_counts, rule.bounds)
        order = [name for name in ("many", "medium", "few") if name in names]
    else:
        names = rule.groups
        order = [name for name in dict.fromkeys(names) if name is not None]
        if taken := [name for name in order if name in _TAKEN]:
            raise ValueError(
                f"The groups of a `LongTailReport` must not be named {' or '.join(map(repr, _TAKEN))}, which its other "
                f"figures are. Received: {taken[0]!r}"
            )
    return {group: np.array([name == group for name in names]) for group in order}


def _check_names(class_names, num_classes):
    if class_names is None:
        return list(map(str, range(num_classes)))
    names = list(class_names)
    if isinstance(class_names, str) or len(names) != num_classes:
        raise ValueError(
            f"`class_names` must name each of the {num_classes} classes that class_counts has. Received {len(names)}: "
            f"{class_names!r}"
        )
    return list(map(str, names))


def _can_draw():
    found = _event_files.has_matplotlib()
    if not found:
        warnings.warn(
            "`LongTailReport` leaves the figure of class counts out of TensorBoard: it needs matplotlib. Remedy: "
            'pip install "keras_logit_adjust[plots]".',
            stacklevel=3,
        )
    return found


def _compiled_metric(model, num_classes):
    """The `PerClassAccuracy` that a model was compiled with."""
    # Keras's container of them tells its metrics only once it is built, on TensorFlow with the first step.
    named = [
        (getattr(part, "_user_metrics", part), getattr(part, "_user_weighted_metrics", None)) for part in model.metrics
    ]
    for metric in keras.tree.flatten(named):
        if isinstance(metric, metrics.PerClassAccuracy):
            _checks.check_length(np.empty(num_classes), metric.num_classes, "class_counts", f"metric {metric.name!r}")
            return metric
    raise ValueError(
        "`LongTailReport` needs validation data. Received: validation_data=None, and a model without "
        "`PerClassAccuracy`. Remedy: `LongTailReport(class_counts, validation_data)`, or compile the model with "
        f"`metrics=[kla.metrics.PerClassAccuracy({num_classes})]` and give `validation_data` to `fit`."
    )


def _is_chief(model):
    """Whether this process is the one that writes."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or strategy.extended.should_save_summary


def _over(reduce, values):
    return float(reduce(values)) if values.size else np.nan
