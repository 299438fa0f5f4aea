"""A report during training: how accurate the model is on frequent and on rare classes."""

import warnings
import weakref

import keras
import numpy as np

from keras_logit_adjust import _checks, metrics, priors
from keras_logit_adjust._printing import say
from keras_logit_adjust.callbacks import _outputs, _validation

_RUNNING = weakref.WeakSet()  # reports whose `fit` has begun


class LongTailReport(keras.callbacks.Callback):
    """Many-, medium- and few-shot accuracy and the worst classes after every epoch: mean recalls `(1/|G|) Σ_{y∈G} r_y`.

    With r_y = P[ŷ = y | y] on the validation data, an epoch's logs get `val_many_accuracy`, `val_medium_accuracy` and
    `val_few_accuracy` (or the groups that there are), `val_balanced_accuracy` and `val_worst_class_accuracy`, the
    smallest r_y. Classes without training examples are a group of their own, `val_unseen_accuracy`. The progress line,
    `History` and every callback that is listed after this one can use these figures:
    `EarlyStopping("val_few_accuracy", mode="max")`, `TensorBoard`, `CSVLogger`. A line below names the worst classes,
    unless `verbose=0`. If a metric of the model has set a key already, the key is not changed. A `name` stands in each
    key, `val_{name}_few_accuracy`, and makes the keys of a report unique.

    With `num_examples` the labels are independent, rows of 0 and 1, and `r_l = (TPR_l + TNR_l) / 2` is the balanced
    accuracy of label l, in groups by its positives. The smallest is `val_worst_label_accuracy`.

    For a model with several outputs, `output` names the output to judge. Without `name` the output stands in each key,
    `val_species_few_accuracy`.

    A `kla.layers.ManyClassModel` is judged by the best class of its predictor; metrics of its top k are for
    `PredictorMetrics`.

    A training step takes no longer. The figures come from a pass over `validation_data` at the end of an epoch, which
    takes as long as `model.evaluate`. If `fit` validates anyway, or on several workers, compile
    `kla.metrics.PerClassAccuracy(L)` and give `metric="per_class_accuracy"`: the report then reads the metric and needs
    no pass.

    Args:
        class_counts: `[L]` training examples of each class (true counts); some may be 0. For independent labels the
            positives of each.
        num_examples: for independent labels, the number of training examples.
        validation_data: `(x, y)` or `(x, y, sample_weight)`, or a `tf.data.Dataset`, a `PyDataset` or another iterable
            (no iterator) of such batches. Labels are ids `[N, …]` or one-hot rows `[N, …, L]`, predictions logits or
            probabilities `[N, …, L]`; sample weights count. With `output_name` labels and weights are a dict or list of
            all outputs', or those of the one.
        output_name: the key or the position of the output to judge, for a model that gives a dict or a list.
        metric: in place of `validation_data`, the name of a `PerClassAccuracy` of the model, as `fit` shows it. For
            independent labels it is a `PerLabelBalancedAccuracy`.
        bounds: `(few, many)`, as in `kla.metrics.GroupAccuracy`.
        inclusive: as in `kla.metrics.GroupAccuracy`.
        groups: instead of bounds, the group name of each class, as in `kla.metrics.GroupAccuracy`.
        worst: how many of the worst classes to name.
        class_names: `[L]` names; ids by default. With them `class_counts` may be by name, a dict or a `Counter`;
            a class that is not in it has 0.
        batch_size: the batch size for arrays.
        every: a report comes after every so many epochs. Other epochs have no such keys, as with `validation_freq`.
        ignore_class: a class id left out; for independent labels a value, such as −1, of unknown targets.
        threshold: for a model with one sigmoid unit and two counts, [negatives, positives]: 0.5 for probabilities, 0
            for logits. Independent labels need a threshold: a number, or one for each label.
        name: a part of each key; by default `output_name`. If one `fit` has several reports, all but one need a name.

    Attributes:
        per_class_accuracy: `[L]` recalls of the last report, NaN for a class without examples; None before. For
            independent labels their balanced accuracies, NaN for a label without positives or negatives.

    Raises:
        ValueError: for counts, bounds or groups that `GroupAccuracy` refuses; for data that is not pairs or does not
            end; for labels that are no classes; for data and a metric together, or neither; for independent labels
            without a threshold;
            as training begins, for predictions or labels of another number of classes, a model of several outputs
            without `output_name`, an output that is not there, or data on several workers; after the first validation,
            for a metric that is not there or has another number of classes.

    Warns:
        UserWarning: after a training in which `fit` never validated, so that `metric` had no values.

    Example:

    >>> x, y = np.eye(3), np.array([0, 1, 2])
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="identity")])
    >>> model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> report = LongTailReport([500, 50, 5], validation_data=(x, [0, 1, 1]))
    >>> history = model.fit(x, y, callbacks=[report], verbose=0).history
    >>> {name: history[name] for name in ("val_many_accuracy", "val_medium_accuracy", "val_balanced_accuracy")}
    {'val_many_accuracy': [1.0], 'val_medium_accuracy': [0.5], 'val_balanced_accuracy': [0.75]}

    Reference: Liu et al. (2019), OLTR (the groups); Menon et al. (2021), §2, equation 1 (the balanced error).
    """

    def __init__(
        self,
        class_counts,
        *,
        num_examples=None,
        validation_data=None,
        output_name=None,
        metric=None,
        bounds=(20, 100),
        inclusive=True,
        groups=None,
        worst=3,
        class_names=None,
        batch_size=256,
        every=1,
        ignore_class=None,
        threshold=None,
        name=None,
    ):
        super().__init__()
        rule, self.independent = _rule(
            class_counts,
            num_examples,
            class_names,
            bounds=bounds,
            inclusive=inclusive,
            groups=groups,
            ignore_class=ignore_class,
            threshold=threshold,
        )
        self.class_counts = rule.positive_counts if self.independent else rule.class_counts
        self.ignore_class, self.threshold = rule.ignore_class, rule.threshold
        self.output_name, self.name = _outputs.check_output_name(output_name), _check_name(name)
        if self.name is None and output_name is not None:
            self.name = self.output_name if isinstance(output_name, str) else f"output_{self.output_name}"
        self._worst = "worst_label" if self.independent else "worst_class"
        self._members = _members(self.class_counts, rule, taken=("balanced", self._worst))
        self.worst = _checks.check_integer(worst, "worst", minimum=1)
        self.batch_size = _checks.check_integer(batch_size, "batch_size", minimum=1)
        self.every = _checks.check_integer(every, "every", minimum=1)
        self.class_names = list(map(str, range(self.class_counts.size) if class_names is None else class_names))
        if (validation_data is None) == (metric is None):
            metric_of_it = _validation.recommended(self.class_counts.size, self.independent, self.threshold)
            raise ValueError(
                "`LongTailReport` needs `validation_data`, or the name of a metric that `fit` validates with: compile "
                f'`{metric_of_it}` and give `metric="{_validation.name_of_recommended(self.independent)}"`. '
                f"Received {'neither' if metric is None else 'both'}."
            )
        if metric is None:
            validation_data = _validation.check_data(
                validation_data,
                num_classes=None if self.independent else self.class_counts.size,
                ignore_class=self.ignore_class,
                output_name=self.output_name,
            )
        elif output_name is not None:
            raise _checks.ArgumentError(
                "output_name",
                f"`output_name` goes with `validation_data`. Received: output_name={output_name!r}, metric={metric!r}. "
                'The name of a metric includes the name of its output, as in metric="species_per_class_accuracy".',
            )
        self.validation_data, self.metric = validation_data, metric
        self.per_class_accuracy = self._pass = self._line = None

    def on_train_begin(self, logs=None):
        self.per_class_accuracy, self._line, self._lacked = None, None, False
        self._refuse_same_name()
        if self.metric is None:
            self._pass = _validation.ValidationPass(
                self.model,
                self.validation_data,
                num_classes=self.class_counts.size,
                independent=self.independent,
                ignore_class=self.ignore_class,
                threshold=self.threshold,
                batch_size=self.batch_size,
                output_name=self.output_name,
            )
            self._pass.try_first_batch()

    def on_epoch_begin(self, epoch, logs=None):
        self._print()  # only now is the progress line of the last epoch complete

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        recall = self._pass.recall() if self.metric is None else self._read(logs)
        if recall is None:
            self._lacked = True
            return
        self.per_class_accuracy, seen = recall, ~np.isnan(recall)
        figures = {name: _over(np.mean, recall[own & seen]) for name, own in self._members.items()}
        figures |= {"balanced": _over(np.mean, recall[seen]), self._worst: _over(np.min, recall[seen])}
        prefix = "val_" if self.name is None else f"val_{self.name}_"
        for name, value in figures.items():
            logs.setdefault(f"{prefix}{name}_accuracy", value)
        worst = np.argsort(recall, kind="stable")[: min(self.worst, seen.sum())]  # the first of equal ones; NaN is last
        named = (f"{self.class_names[c]} {recall[c]:.4f} ({self.class_counts[c]:g})" for c in worst)
        kind = "labels" if self.independent else "classes"
        self._line = f"worst {kind}{f' of {self.name}' if self.name else ''}: {', '.join(named)}"

    def on_train_end(self, logs=None):
        self._print()
        self._pass = None
        if self._lacked and self.per_class_accuracy is None:
            warnings.warn(
                f"`LongTailReport` found no 'val_{self.metric}' after any epoch: give `fit` its `validation_data`, or "
                "give it to the callback.",
                stacklevel=2,
            )

    def _refuse_same_name(self):
        """Raise if another report of this `fit` has the same keys: the second report would have no effect."""
        for other in list(_RUNNING):
            # All callbacks of one `fit` share one dict.
            if other is not self and other.params is self.params and other.name == self.name:
                raise _checks.ArgumentError(
                    "name",
                    f"Every `LongTailReport` of one `fit` must have its own name. Received two with "
                    f"name={self.name!r}: LongTailReport(…, name='fine').",
                )
        _RUNNING.add(self)

    def _read(self, logs):
        """The recalls from the model's own metric; None after an epoch without validation."""
        key = f"val_{self.metric}"
        if key not in logs and "val_loss" not in logs:
            return None
        if key not in logs:
            found = ", ".join(repr(name.removeprefix("val_")) for name in logs if name.startswith("val_"))
            remedy = _validation.recommended(self.class_counts.size, self.independent, self.threshold)
            raise ValueError(
                f"`metric` must be the name of a `{remedy.split('(')[0]}` of the model. Received: "
                f"metric={self.metric!r}, and a validation of {found}. Remedy: compile the model with "
                f"`metrics=[{remedy}]`."
            )
        recall = np.asarray(keras.ops.convert_to_numpy(logs[key]), "float64")
        _checks.check_length(self.class_counts, recall.size, "class_counts", f"metric {self.metric!r}")
        return recall

    def _print(self):
        if self._line is not None and self.params.get("verbose"):
            say(self._line)
        self._line = None


def _rule(class_counts, num_examples, class_names, *, threshold, **options):
    """The metric of groups for the arguments of a report, and whether it is for independent labels."""
    if num_examples is None and not getattr(class_counts, "are_labels", False):
        counts = _checks.as_true_counts(class_counts, allow_zero=True, class_names=class_names)
        return metrics.GroupAccuracy(counts, threshold=threshold, **options), False
    counts = _checks.as_true_counts(class_counts, "positive_counts", allow_zero=True, class_names=class_names)
    if isinstance(class_counts, priors.Prior):
        num_examples = priors.as_prior(class_counts, num_examples, name="positive_counts").num_examples
    num_examples = _checks.check_number(num_examples, "num_examples", minimum=1)
    _checks.refuse_numbers(
        counts > num_examples,
        counts,
        "positive_counts",
        f"Every number in `positive_counts` must be at most num_examples={num_examples:g}.",
    )
    if threshold is None:
        raise _checks.ArgumentError(
            "threshold",
            "A `LongTailReport` of independent labels needs the threshold of the scores. Received no `threshold`: "
            "give threshold=0.5 for probabilities, or 0 for logits.",
        )
    return metrics.MultiLabelGroupAccuracy(counts, threshold=threshold, **options), True


def _members(counts, rule, *, taken):
    """`{group: bool [L]}`; groups by counts come in order of frequency, the most frequent first."""
    names = rule.groups or metrics.groups_of_counts(counts, bounds=rule.bounds, inclusive=rule.inclusive)
    order = [
        name
        for name in dict.fromkeys(rule.groups or ("many", "medium", "few", "unseen"))
        if name in names and name is not None
    ]
    if found := [name for name in order if name in taken]:
        raise ValueError(
            f"The groups of a `LongTailReport` must not be named {' or '.join(map(repr, taken))}, the names of its "
            f"other figures. Received: {found[0]!r}"
        )
    return {group: np.array([name == group for name in names]) for group in order}


def _check_name(name):
    if name is not None and (not isinstance(name, str) or not name):
        raise _checks.ArgumentError("name", f"`name` must be a text or None. Received: name={name!r}")
    return name


def _over(reduce, values):
    return float(reduce(values)) if values.size else np.nan
