"""Post-hoc adjustment of a trained model, as a layer behind its logits.

What was trained with plain cross-entropy estimates `P(y|x)`; subtracting `τ·log π` from its logits makes its argmax
the balanced one (Menon et al., 2021, §4, equation 9). Nothing is trained, and no model given is changed. A calibration
found on held-out logits goes into the same affine step, before the prior.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, losses
from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.posthoc import _graph

OUTPUTS = ("auto", "logits", "softmax", "sigmoid")
# The losses whose trained logits are those of a plain model, adjusted with the loss's own counts and τ.
ADJUSTED_LOSSES = (losses.LogitAdjustedCrossentropy, losses.BinaryLogitAdjustedCrossentropy)


def adjust(
    model,
    class_counts,
    tau=1.0,
    target_prior=None,
    output="auto",
    num_examples=None,
    *,
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
    options = {"num_examples": num_examples, "calibration": calibration}
    if head is None:
        layer = adjustment_layer(None, output, class_counts, tau, target_prior, **options)
        layer.trained_tau = trained_tau(model, layer)
        return AdjustedModel(model, layer, output, name=f"{model.name}_adjusted")
    layer = adjustment_layer(head.width, head.output, class_counts, tau, target_prior, **options)
    layer.trained_tau = trained_tau(model, layer)
    return _adjust_graph(model, head, layer)


def trained_tau(model, layer):
    """The strength with which the logits of `model` are corrected already for the prior of `layer`, a new one behind.

    None where it is not known: of losses that correct in another way, another prior, a target of their own, or behind
    a calibration, which makes up for part of it.
    """
    if next(_graph.corrections(model), None) is None:
        return np.zeros(())
    part = last_correction(model)
    if part is None or layer.calibration is not None or not _corrects_towards_uniform(part, layer):
        return None
    before = getattr(part, "trained_tau", 0.0)
    return None if before is None else np.asarray(part.tau + before)


def last_correction(model):
    """Of the losses and layers that correct the prior of `model` the one that accounts for all, or None."""
    parts = [part for _, part in _graph.corrections(model)]
    if len(parts) == 1:
        return parts[0]
    own_losses = keras.tree.flatten(getattr(model, "loss", None))
    if not parts or any(part is loss for part in parts for loss in own_losses):
        return None
    if isinstance(model, AdjustedModel):
        last = model.adjustment
    else:
        operations = _graph.last_operations(model) if _graph.is_graph(model) else ()
        last = next((operation for operation in operations if isinstance(operation, LogitAdjustment)), None)
    # One that was put behind the others by hand does not know of them.
    return last if last is not None and np.any(last.trained_tau) else None


def counts_of(part):
    """The training counts that a loss or layer corrects for; None where they are not known."""
    if isinstance(part, keras.losses.Loss) and not isinstance(part, ADJUSTED_LOSSES):
        return None
    counts = getattr(part, "class_counts", getattr(part, "positive_counts", None))
    # A layer rebuilt from the config of very many classes knows its adjustment, and not what it was made of.
    return None if counts is None else np.asarray(getattr(counts, "class_counts", counts))  # a `StreamingPrior` counts


def _corrects_towards_uniform(part, layer):
    """Whether `part` corrects for the prior that `layer` does, and towards no other than the uniform one."""
    counts, total = counts_of(part), getattr(part, "num_examples", None)
    if counts is None or getattr(part, "target_prior", None) is not None or counts.size != layer.class_counts.size:
        return False
    if (total is None) != (layer.num_examples is None):
        return False
    own = layer.class_counts / (layer.num_examples or layer.class_counts.sum())
    return np.allclose(counts / (total or counts.sum()), own, rtol=1e-6, atol=0.0)


def head_to_adjust(model, output):
    """The head of a graph; None where only the model's output can be adjusted."""
    if not _graph.is_graph(model):
        if output == "auto":
            raise ValueError(
                f"Model {model.name!r} is a subclassed model, whose logits cannot be read off. Say what it gives: "
                'output="logits", "softmax" or "sigmoid".'
            )
        return None
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
        raise ValueError(f"`output` says {output!r}, but head {head.layer.name!r} gives {head.output!r}.")
    return head


def adjustment_layer(width, output, class_counts, tau, target_prior, num_examples, calibration):
    """The `LogitAdjustment` for `width` outputs (None: not known), after checking that the counts go with them."""
    counts = _checks.as_vector(getattr(class_counts, "effective_prior", class_counts), "class_counts")
    if num_examples is not None and output == "softmax":
        raise ValueError("`num_examples` is for independent sigmoid labels; the model gives a softmax over classes.")
    if output == "sigmoid" and num_examples is None and width is None:
        width = 1 if counts.size == 2 else counts.size
    if width == 1 and num_examples is None:
        return _one_unit_layer(counts, tau, target_prior, calibration)
    if output == "sigmoid" and num_examples is None:
        raise ValueError(
            "A sigmoid head over several labels needs `num_examples`: class_counts are then the positives of each "
            "label, adjusted by log(π/(1−π)). Normalizing them to sum to one would be wrong."
        )
    if width is not None:
        _checks.check_length(counts, width, "class_counts", "the head")
    return LogitAdjustment(class_counts, tau, target_prior, num_examples, calibration, name="logit_adjustment")


def _one_unit_layer(counts, tau, target_prior, calibration):
    """One sigmoid unit is the log-odds of two classes: adjusted by the log-odds of the second."""
    counts = _checks.as_counts(counts)
    _checks.check_length(counts, 2, "class_counts", "a head of one sigmoid unit")
    if target_prior is not None:
        target = _checks.as_counts(target_prior, "target_prior")
        _checks.check_length(target, 2, "target_prior", "a head of one sigmoid unit")
        target_prior = target[1:] / target.sum()
    return LogitAdjustment(counts[1:], tau, target_prior, counts.sum(), calibration, name="logit_adjustment")


def _adjust_graph(model, head, layer):
    """Rebuild from the logits outwards: the graph before them, and every weight, is the given model's own."""
    layer.name = _graph.free_name(model, layer.name)
    outputs = layer(_graph.logits_tensor(head))
    if head.output != "logits":
        outputs = keras.layers.Activation(head.output, dtype=outputs.dtype, name=f"adjusted_{head.output}")(outputs)
    return rebuild(model, head, outputs)


def rebuild(model, head, outputs):
    """`model` up to `head`, with `outputs`, made from the head's logits, in place of its own."""
    models = [model, *(call.operation for call in head.calls)]
    adjusted = _model_like(models.pop(), outputs)
    for call in reversed(head.calls):
        adjusted = _model_like(models.pop(), adjusted(*call.arguments.args, **call.arguments.kwargs))
    return adjusted


def _model_like(model, outputs):
    outputs = keras.tree.pack_sequence_as(_structure(model, "output"), keras.tree.flatten(outputs))
    return keras.Model(_structure(model, "input"), outputs, name=f"{model.name}_adjusted")


def _structure(model, side):
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

    def __init__(self, model, adjustment, output, **kwargs):
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
    logits = _safe_log(outputs)
    return logits if kind == "softmax" else logits - _safe_log(1.0 - outputs)


def _safe_log(probabilities):
    return ops.log(ops.maximum(probabilities, np.finfo("float32").tiny))
