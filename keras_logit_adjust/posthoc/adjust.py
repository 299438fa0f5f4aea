"""Post-hoc adjustment of a trained model, as a layer behind its logits.

A model that was trained with plain cross-entropy estimates `P(y|x)`. After `τ·log π` is subtracted from its logits, its
argmax is the balanced one (Menon et al., 2021, §4, equation 9). Nothing is trained, and the given model is not changed.
A calibration that was found on held-out logits goes into the same affine step, before the prior.
"""

import keras
import numpy as np

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.layers import LogitAdjustment, MinimumRiskDecision, PredictionSet
from keras_logit_adjust.layers.adjustment import as_target
from keras_logit_adjust.posthoc import _graph, _guard, _hub, _kind, _many_classes, _outputs, _task

OUTPUTS = ("auto", "logits", "softmax", "sigmoid")


def adjust(
    model,
    class_counts,
    *,
    tau=1.0,
    target_prior=None,
    output="auto",
    axis=None,
    num_examples=None,
    calibration=None,
    allow_double_correction=False,
):
    """A new model that predicts with `f_y(x) − τ·log π_y + log target_y`; calibrated, `f_y(x) / T + b_y − …`.

    The input of the last softmax or sigmoid is adjusted, and the activation follows again: a softmax model still gives
    probabilities. These are posteriors under the target prior. Without `target_prior` they assume equal classes, not
    your deployment's mix: serve them with the name of their prior. If an activation cannot be taken off (an int8 head,
    an average of softmax heads), the logarithms of the probabilities are adjusted.

    The new model is not compiled, and it shares every weight with the given model: training one changes the other. If
    you train the new model further with a plain cross-entropy, it unlearns the correction, and the given model gets
    worse for rare classes (`fit` warns). Train the given model, and adjust it again. To change τ or a prior while a
    model serves, use `layer.set` of its `LogitAdjustment`, not a new `adjust` at each request.

    For a model with several outputs, `class_counts` is a dict of counts by output. A list is for Functional models. The
    named outputs are adjusted, and the others do not change. Each other argument is one for all, or a dict too.

    Args:
        model: a trained `keras.Model`, Functional or Sequential. It ends in a softmax or sigmoid, or in a head that
            gives logits; layers and functions behind the head may move, average or scale them, in nested models too.
            With `output` given it may be any other model. The scores of a `kla.layers.ManyClassModel` or its predictor
            are adjusted chunk by chunk; the new model has a predictor of its own. A KerasHub `ImageClassifier`,
            `TextClassifier` or `ImageSegmenter` stays one, with its preprocessor.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. For one sigmoid unit two
            numbers, [negatives, positives]; for `L` independent sigmoid labels the positives of each. By output, a dict
            `{"species": counts, …}`, or a list with counts (or None) for each.
        tau: strength, a number or a vector `[L]`. 1 is right for a well-calibrated model.
        target_prior: class mix the predictions should be right for, in the form of `class_counts` (for independent
            labels, the probability of each); uniform by default.
        output: what the model gives. "auto" reads this from a Functional or Sequential model. For other models give
            "logits", "softmax" or "sigmoid". Float32 probabilities are then adjusted by their logarithms, which is
            exact up to rounding if they are not 0 or 1. Without counts by output, a dict or list must have one tensor
            in it.
        axis: the axis of the classes in the output of the model. By default it is read from a graph, also for maps with
            channels first; for other models it is the last axis.
        num_examples: the number of training examples, for independent labels only: they are adjusted by their
            log-odds, `log(π/(1−π))`. Several logits need it if the model is compiled with a binary cross-entropy.
        calibration: what `kla.calibrate` found on held-out logits of `model`, before any correction; it is
            applied first, in the same step. `layer.set(calibration=…)` can change it later, not add one.
        allow_double_correction: adjust even a model whose prior was corrected already. Without it, three kinds of
            models raise an error: those compiled with an adjusted loss; those with a `PriorAwareDense` head or a
            `LogitAdjustment`; those with a head that `fit` trained with an adjusted loss in this process. The page on
            pitfalls lists corrections that are not seen. Uniform counts with a `target_prior`, such as `[1, 1]`, are
            always allowed: only the target is added.

    Returns:
        A new, uncompiled `keras.Model`.

    Raises:
        ValueError: for a model whose logits are not found; for several outputs without counts by output; for a name
            that is no output; for probabilities in half precision that would have to be adjusted by their logarithms;
            for counts or a calibration that do not fit; for a prior that would be corrected twice.

    Warns:
        UserWarning: for logits of a model that was compiled with a cross-entropy without `from_logits=True`.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")])
    >>> balanced = adjust(model, class_counts=[75, 25])
    >>> keras.ops.convert_to_numpy(balanced(np.ones((1, 3)))).round(4).tolist()  # ½/¾ against ½/¼
    [[0.25, 0.75]]
    >>> inputs = keras.Input((3,))
    >>> names = ("species", "genus")
    >>> heads = [keras.layers.Dense(2, "softmax", kernel_initializer="zeros", name=name)(inputs) for name in names]
    >>> both = adjust(keras.Model(inputs, dict(zip(names, heads))), {"species": [75, 25]})
    >>> {name: keras.ops.convert_to_numpy(y).round(4).tolist() for name, y in both(np.ones((1, 3))).items()}
    {'species': [[0.25, 0.75]], 'genus': [[0.5, 0.5]]}

    Reference: Menon et al. (2021), §4, equation 9.
    """
    if _outputs.are_by_output(model, class_counts):
        options = {"tau": tau, "target_prior": target_prior, "output": output, "axis": axis, "calibration": calibration}
        options |= {"num_examples": num_examples, "allow_double_correction": allow_double_correction}
        return _outputs.adjusted(adjust, model, class_counts, options)
    adds_target = _guard.adds_target_alone(class_counts, num_examples, target_prior)
    _guard.check_not_adjusted(model, allow_double_correction or adds_target)
    _checks.check_choice(output, "output", OUTPUTS)
    options = {
        "tau": tau,
        "target_prior": target_prior,
        "calibration": calibration,
        "corrected_before": _guard.hides_its_prior(model, adds_target=adds_target),
    }
    if _many_classes.has_many_classes(model):
        _many_classes.check_adjustable(model, output, axis)
        width = _many_classes.head_of(model).units
        layer = adjustment_layer(class_counts, num_examples, width=width, output="softmax", **options)
        return _many_classes.adjusted(model, layer)
    _graph.require_model(model)
    head = head_to_adjust(model, output, axis=axis)
    layer = adjustment_layer(
        class_counts,
        num_examples,
        width=None if head is None else head.width,
        output=output if head is None else head.output,
        axis=(-1 if axis is None else axis) if head is None else head.axis,
        loss=_kind.loss_of(model),
        dtype=_double_or_default(model),
        **options,
    )
    if head is None:
        _hub.check_read(model)
        return AdjustedModel(model, layer, output=output, name=f"{model.name}_adjusted")
    layer.name = _graph.free_name(model, layer.name)
    if _hub.is_task(model):
        return _task.adjusted(model, head, layer)
    return _graph.rebuild(model, head, lambda logits: _graph.activated(layer(logits), head.output, head.axis))


def head_to_adjust(model, output, *, axis=None):
    """The head of a graph; None if only the model's output can be adjusted."""
    if _graph.ends_in(model, MinimumRiskDecision):
        raise ValueError(
            f"Model {model.name!r} gives scores of decisions, which are not logits. Adjust the model without its "
            "MinimumRiskDecision, to the class mix of the deployment. Then put the MinimumRiskDecision behind it again."
        )
    if _graph.ends_in(model, PredictionSet):
        raise ValueError(
            f"Model {model.name!r} gives prediction sets, which are not logits; their score includes the prior. Adjust "
            "the model without its PredictionSet."
        )
    try:
        head = _graph.find_head(model)
    except _graph.NoHeadError:
        if output == "auto":
            raise
        _guard.warn_of_probability_loss(model, output)
        return None
    if output not in ("auto", head.output):
        raise _checks.ArgumentError(
            "output", f"`output` says {output!r}, but head {head.layer.name!r} gives {head.output!r}."
        )
    rank = len(model.outputs[0].shape)
    if axis is not None and _checks.check_axis(axis) % rank != head.axis % rank:
        raise _checks.ArgumentError(
            "axis", f"`axis` says {axis}, but the classes of {head.layer.name!r} are in axis {head.axis % rank}."
        )
    _guard.warn_of_probability_loss(model, head.output)
    return head


def adjustment_layer(class_counts, num_examples, *, width, output, target_prior, loss=None, **options):
    """The `LogitAdjustment` for `width` outputs (None: not known), after a check that the counts fit them."""
    prior = priors.as_prior(class_counts, num_examples)
    _kind.check(prior, output, width=width, loss=loss)
    is_sigmoid = output == "sigmoid" or output == "logits" and _kind.of_loss(loss) == "independent"
    if width is None and is_sigmoid and prior.size == 2 and not prior.are_labels:
        width = 1
    if width == 1 and not prior.are_labels:
        # One sigmoid unit is the log-odds of two classes: it is adjusted by the log-odds of the second.
        other = "a head of one sigmoid unit"
        _checks.check_length(prior.counts, 2, "class_counts", other)
        target = as_target(target_prior, size=2, other=other)
        target_prior = None if target is None else target.probabilities[1:]
        prior = priors.as_prior(prior.counts[1:], prior.counts.sum())
    elif width is not None:
        _checks.check_length(prior.counts, width, "class_counts", "the head")
    return LogitAdjustment(prior, target_prior=target_prior, name="logit_adjustment", **options)


def _double_or_default(model):
    """The dtype of the adjustment of a model: float64 for outputs in float64, so that it keeps their digits."""
    outputs = getattr(model, "outputs", None) or ()
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in outputs] or [model.compute_dtype]
    return "float64" if "float64" in dtypes else None


def class_axis(model):
    """The axis of the classes in the output of a model; -1, the last, if it is not known."""
    if isinstance(model, AdjustedModel):
        return model.adjustment.axis
    try:
        return _graph.find_head(model).axis
    except _graph.NoHeadError:
        return -1


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class AdjustedModel(keras.Model):
    """The result of `kla.adjust` for a subclassed model: it calls the model and adjusts the output.

    Args:
        model: the model adjusted, shared and not copied.
        adjustment: the `kla.layers.LogitAdjustment`.
        output: what `model` gives, "logits", "softmax" or "sigmoid"; the adjusted model gives the same.
        **kwargs: as in `keras.Model`.

    Reference: Menon et al. (2021), §4, equation 9.
    """

    def __init__(self, model, adjustment, *, output, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.adjustment = adjustment
        self.output_kind = _checks.check_choice(output, "output", OUTPUTS[1:])

    def call(self, inputs, training=None):
        # Keras passes `training` to nested calls, but JAX's stateless call does not.
        outputs = self.model(inputs, training=training)
        tensors = keras.tree.flatten(outputs)
        if len(tensors) != 1:
            names = list(outputs) if isinstance(outputs, dict) else f"{len(tensors)} tensors"
            raise ValueError(
                f"`kla.adjust` changes one output. Model {self.model.name!r} gives {names}. Remedy: adjust a model "
                "that gives only the logits or probabilities, such as keras.Model(inputs, model(inputs)[name]) with "
                "inputs = keras.Input(…)."
            )
        _check_width(self, tensors[0])
        logits = self.adjustment(_graph.logits_of(tensors[0], self.output_kind), training=training)
        return keras.tree.pack_sequence_as(outputs, [_graph.activated(logits, self.output_kind, self.adjustment.axis)])

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "adjustment": keras.saving.serialize_keras_object(self.adjustment),
            "output": self.output_kind,
        }

    @classmethod
    def from_config(cls, config):
        nested = {key: keras.saving.deserialize_keras_object(config[key]) for key in ("model", "adjustment")}
        return cls(**{**config, **nested})


def _check_width(adjusted, outputs):
    """Raise at the first call if the counts do not fit the outputs, whose number nobody knew before."""
    axis, size = adjusted.adjustment.axis, np.size(adjusted.adjustment.values)
    width = outputs.shape[axis] if -len(outputs.shape) <= axis < len(outputs.shape) else None
    if width is None or width == size or 1 not in (width, size):
        return
    units = "1 value" if width == 1 else f"{width} values"
    meant = "for one sigmoid unit" if size == 1 else f"for {size} classes"
    remedy = "For one unit give two counts, and" if width == 1 else "For independent labels give `num_examples`, or"
    raise _checks.ArgumentError(
        "class_counts",
        f"Model {adjusted.model.name!r} gives {units} for each example, but `class_counts` were read {meant}. {remedy} "
        f"output={'sigmoid' if width == 1 else 'softmax'!r} if it gives probabilities; or compile it with its loss.",
    )
