"""Post-hoc adjustment of a trained model, as a layer behind its logits.

What was trained with plain cross-entropy estimates `P(y|x)`; subtracting `τ·log π` from its logits makes its argmax
the balanced one (Menon et al., 2021, §4, equation 9). Nothing is trained, and no model given is changed. A calibration
found on held-out logits goes into the same affine step, before the prior.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.layers.adjustment import as_target
from keras_logit_adjust.posthoc import _graph

OUTPUTS = ("auto", "logits", "softmax", "sigmoid")


def adjust(
    model,
    class_counts,
    *,
    tau=1.0,
    target_prior=None,
    output="auto",
    num_examples=None,
    calibration=None,
    allow_double_correction=False,
):
    """A new model that predicts with `f_y(x) − τ·log π_y + log target_y`; calibrated, `f_y(x) / T + b_y − …`.

    The head's logits are adjusted, also where its activation hides them, and the activation is put back: a softmax
    model gives probabilities again. They are posteriors under the target prior, the uniform one where none is named,
    and not under the deployment's unless that is named: serve them with the name of their prior. The new model is not
    compiled, and it shares every weight with the one given.

    Args:
        model: a trained `keras.Model` with one output: Functional or Sequential with a Dense or convolution head (also
            through `Softmax`, `Activation` and nested models), or, with `output` given, any other.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. For one sigmoid unit two
            numbers, [negatives, positives]; for `L` independent sigmoid labels the positives of each.
        tau: strength, a number or a vector `[L]`. 1 is right for a well-calibrated model.
        target_prior: class mix the predictions should be right for, in the form of `class_counts` (for independent
            labels, the probability of each); uniform by default.
        output: what the model gives. "auto" reads it off a Functional or Sequential model. For others "logits",
            "softmax" or "sigmoid"; probabilities are then adjusted by their logarithms, right to rounding where they
            did not round to 0 or 1.
        num_examples: the number of training examples, for independent labels only: they are adjusted by their
            log-odds, `log(π/(1−π))`.
        calibration: what `kla.calibrate` found on held-out logits of `model`, before any correction; it is
            applied first, in the same step. `layer.set(calibration=…)` can change it later, not add one.
        allow_double_correction: adjust even a model whose prior was corrected already. Without it, a model that was
            compiled with an adjusted loss, has a `PriorAwareDense` head or a `LogitAdjustment` raises. Not seen:
            a model loaded with `compile=False`, a custom training loop, a folded model, class weights, a resampled
            training set.

    Returns:
        A new, uncompiled `keras.Model`.

    Raises:
        ValueError: for a model whose logits are not found, several outputs, counts or a calibration that do not fit, or
            a prior that would be corrected twice.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")])
    >>> balanced = adjust(model, class_counts=[75, 25])
    >>> balanced(np.ones((1, 3))).__array__().round(4).tolist()  # ½/¾ against ½/¼
    [[0.25, 0.75]]

    Reference: Menon et al. (2021), §4, equation 9.
    """
    _graph.require_model(model)
    _checks.check_choice(output, "output", OUTPUTS)
    _graph.check_not_adjusted(model, allow_double_correction)
    head = head_to_adjust(model, output)
    layer = adjustment_layer(
        class_counts,
        num_examples,
        width=None if head is None else head.width,
        output=output if head is None else head.output,
        tau=tau,
        target_prior=target_prior,
        calibration=calibration,
        corrected_before=_graph.is_corrected(model),
    )
    if head is None:
        return AdjustedModel(model, layer, output=output, name=f"{model.name}_adjusted")
    # Rebuilt from the logits outwards: the graph before them, and every weight, is the given model's own.
    layer.name = _graph.free_name(model, layer.name)
    outputs = layer(_graph.logits_tensor(head))
    if head.output != "logits":
        outputs = keras.layers.Activation(head.output, dtype=outputs.dtype, name=f"adjusted_{head.output}")(outputs)
    return rebuild(model, head, outputs)


def head_to_adjust(model, output):
    """The head of a graph; None where only the model's output can be adjusted."""
    if _graph.decides(model):
        raise ValueError(
            f"Model {model.name!r} gives scores of decisions, which are no logits. Adjust the model without its "
            "MinimumRiskDecision, towards the class mix of the deployment, and put that behind again."
        )
    try:
        head = _graph.find_head(model)
    except _graph.NoHeadError:
        if output == "auto":
            raise
        return None
    if output not in ("auto", head.output):
        raise _checks.ArgumentError(
            "output", f"`output` says {output!r}, but head {head.layer.name!r} gives {head.output!r}."
        )
    return head


def adjustment_layer(class_counts, num_examples, *, width, output, target_prior, **options):
    """The `LogitAdjustment` for `width` outputs (None: not known), after checking that the counts go with them."""
    prior = priors.as_prior(class_counts, num_examples)
    if prior.are_labels and output == "softmax":
        raise _checks.ArgumentError(
            "num_examples", "`num_examples` is for independent sigmoid labels; the model gives a softmax over classes."
        )
    if width is None and output == "sigmoid" and prior.size == 2:
        width = 1
    if width == 1 and not prior.are_labels:
        # One sigmoid unit is the log-odds of two classes: adjusted by the log-odds of the second.
        other = "a head of one sigmoid unit"
        _checks.check_length(prior.counts, 2, "class_counts", other)
        target = as_target(target_prior, size=2, other=other)
        target_prior = None if target is None else target.probabilities[1:]
        prior = priors.as_prior(prior.counts[1:], prior.counts.sum())
    elif output == "sigmoid" and not prior.are_labels:
        raise _checks.ArgumentError(
            "num_examples",
            "A sigmoid head over several labels needs `num_examples`: class_counts are then the positives of each "
            "label, adjusted by log(π/(1−π)). Normalizing them to sum to one would be wrong.",
        )
    elif width is not None:
        _checks.check_length(prior.counts, width, "class_counts", "the head")
    return LogitAdjustment(prior, target_prior=target_prior, name="logit_adjustment", **options)


def rebuild(model, head, outputs):
    """`model` up to `head`, with `outputs`, made from the head's logits, in place of its own."""
    models = [model, *(call.operation for call in head.calls)]
    adjusted = _model_like(models.pop(), outputs)
    for call in reversed(head.calls):
        adjusted = _model_like(models.pop(), adjusted(*call.arguments.args, **call.arguments.kwargs))
    return adjusted


def _model_like(model, outputs):
    outputs = keras.tree.pack_sequence_as(structure_of(model, "output"), keras.tree.flatten(outputs))
    return keras.Model(structure_of(model, "input"), outputs, name=f"{model.name}_adjusted")


def structure_of(model, side):
    """The symbolic "input" or "output" of a graph, in the dicts or lists it was built with."""
    return getattr(model, f"{side}s")[0] if isinstance(model, keras.Sequential) else getattr(model, side)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class AdjustedModel(keras.Model):
    """A model whose output is that of another, adjusted: what `kla.adjust` gives for a subclassed model.

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
        outputs = self.model(inputs)  # Keras hands `training` on to nested calls
        logits = self.adjustment(logits_of(outputs, self.output_kind))
        return {"logits": lambda x: x, "softmax": ops.softmax, "sigmoid": ops.sigmoid}[self.output_kind](logits)

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


def logits_of(outputs, kind):
    """Logits that give `outputs`: themselves, the logarithms of a softmax, or the log-odds of a sigmoid."""
    if kind == "logits":
        return outputs
    outputs = ops.cast(outputs, "float32")
    return _safe_log(outputs) if kind == "softmax" else _safe_log(outputs) - _safe_log(1.0 - outputs)


def _safe_log(probabilities):
    return ops.log(ops.maximum(probabilities, np.finfo("float32").tiny))
