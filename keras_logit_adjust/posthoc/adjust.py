"""Post-hoc adjustment of a trained model: as a layer (`adjust`) or inside the head's bias (`fold_into_bias`).

What was trained with plain cross-entropy estimates `P(y|x)`; subtracting `τ·log π` from its logits makes its argmax
the balanced one (Menon et al., 2021, §4, equation 9). Nothing is trained, and no model given is changed.
"""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks
from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.posthoc import _clone, _head

OUTPUTS = ("auto", "logits", "softmax", "sigmoid")


def adjust(
    model,
    class_counts,
    tau=1.0,
    target_prior=None,
    output="auto",
    num_examples=None,
    *,
    allow_double_correction=False,
):
    """A new model that predicts with `f_y(x) − τ·log π_y + log target_y`.

    The head's logits are adjusted, also where its activation hides them, and the activation is put back: a softmax
    model gives probabilities again, now under the target prior. The new model is not compiled, and it shares every
    weight with the one given.

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
        allow_double_correction: adjust even a model whose prior was corrected already. Without it, a model that was
            compiled with an adjusted loss, has a `PriorAwareDense` head or a `LogitAdjustment` raises. Not seen:
            a model loaded with `compile=False`, a custom training loop, a folded model, class weights, a resampled
            training set.

    Returns:
        A new, uncompiled `keras.Model`.

    Raises:
        ValueError: for a model whose logits are not found, several outputs, counts that do not fit, or a prior that
            would be corrected twice.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")])
    >>> balanced = adjust(model, class_counts=[75, 25])
    >>> balanced(np.ones((1, 3))).__array__().round(4).tolist()  # ½/¾ against ½/¼
    [[0.25, 0.75]]

    Reference: Menon et al. (2021), §4, equation 9.
    """
    _head.require_model(model)
    _checks.check_choice(output, "output", OUTPUTS)
    _head.check_not_adjusted(model, allow_double_correction)
    head = _find_head(model, output)
    if head is None:
        layer = _adjustment_layer(None, output, class_counts, tau, target_prior, num_examples)
        return AdjustedModel(model, layer, output, name=f"{model.name}_adjusted")
    layer = _adjustment_layer(head.width, head.output, class_counts, tau, target_prior, num_examples)
    return _adjust_graph(model, head, layer)


def _find_head(model, output):
    """The head of a graph; None where only the model's output can be adjusted."""
    if not _head.is_graph(model):
        if output == "auto":
            raise ValueError(
                f"Model {model.name!r} is a subclassed model, whose logits cannot be read off. Say what it gives: "
                'output="logits", "softmax" or "sigmoid".'
            )
        return None
    try:
        head = _head.find_head(model)
    except _head.NoHeadError:
        if output == "auto":
            raise
        return None
    if output not in ("auto", head.output):
        raise ValueError(f"`output` says {output!r}, but head {head.layer.name!r} gives {head.output!r}.")
    return head


def _adjustment_layer(width, output, class_counts, tau, target_prior, num_examples):
    """The `LogitAdjustment` for `width` outputs (None: not known), after checking that the counts go with them."""
    counts = _checks.as_vector(getattr(class_counts, "effective_prior", class_counts), "class_counts")
    if num_examples is not None and output == "softmax":
        raise ValueError("`num_examples` is for independent sigmoid labels; the model gives a softmax over classes.")
    if output == "sigmoid" and num_examples is None and width is None:
        width = 1 if counts.size == 2 else counts.size
    if width == 1 and num_examples is None:
        return _one_unit_layer(counts, tau, target_prior)
    if output == "sigmoid" and num_examples is None:
        raise ValueError(
            "A sigmoid head over several labels needs `num_examples`: class_counts are then the positives of each "
            "label, adjusted by log(π/(1−π)). Normalizing them to sum to one would be wrong."
        )
    if width is not None:
        _checks.check_length(counts, width, "class_counts", "the head")
    return LogitAdjustment(class_counts, tau, target_prior, num_examples=num_examples, name="logit_adjustment")


def _one_unit_layer(counts, tau, target_prior):
    """One sigmoid unit is the log-odds of two classes: adjusted by the log-odds of the second."""
    counts = _checks.as_counts(counts)
    _checks.check_length(counts, 2, "class_counts", "a head of one sigmoid unit")
    if target_prior is not None:
        target = _checks.as_counts(target_prior, "target_prior")
        _checks.check_length(target, 2, "target_prior", "a head of one sigmoid unit")
        target_prior = target[1:] / target.sum()
    return LogitAdjustment(counts[1:], tau, target_prior, num_examples=counts.sum(), name="logit_adjustment")


def _adjust_graph(model, head, layer):
    """Rebuild from the logits outwards: the graph before them, and every weight, is the given model's own."""
    logits = head.source
    if head.layer.activation is not keras.activations.linear:
        logits = _head.linear_twin(head.layer)(logits)
    layer.name = _head.free_name(model, layer.name)
    outputs = layer(logits)
    if head.output != "logits":
        outputs = keras.layers.Activation(head.output, dtype=outputs.dtype, name=f"adjusted_{head.output}")(outputs)
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
        if self.output_kind == "logits":
            return self.adjustment(outputs)
        outputs = ops.cast(outputs, "float32")
        logits = _safe_log(outputs)
        if self.output_kind == "softmax":
            return ops.softmax(self.adjustment(logits))
        return ops.sigmoid(self.adjustment(logits - _safe_log(1.0 - outputs)))

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


def _safe_log(probabilities):
    return ops.log(ops.maximum(probabilities, np.finfo("float32").tiny))


def fold_into_bias(
    model,
    class_counts,
    tau=1.0,
    target_prior=None,
    num_examples=None,
    *,
    allow_double_correction=False,
):
    """A copy of the model with the adjustment inside its head's bias: `b_y ← b_y − τ·log π_y + log target_y`.

    Equals `adjust` to rounding and costs nothing when served: where the head has a bias, the copy has the operations
    of the original. The model given is not changed and shares no weight with the copy.

    Args:
        model: a trained Functional or Sequential `keras.Model` with one float32 Dense or convolution head.
        class_counts: as in `adjust`.
        tau: as in `adjust`.
        target_prior: as in `adjust`.
        num_examples: as in `adjust`.
        allow_double_correction: as in `adjust`. A folded model looks like any other: the guard cannot see it.

    Returns:
        A new, uncompiled model, Sequential or Functional as the one given.

    Raises:
        ValueError: for a head that is shared, tied, used twice, not last, quantized or in half precision, each with the
            way out; and as `adjust`.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="zeros")])
    >>> fold_into_bias(model, class_counts=[75, 25]).layers[-1].bias.numpy().round(4).tolist()
    [0.2877, 1.3863]

    Reference: Menon et al. (2021), §4, equation 9.
    """
    _head.require_model(model)
    _head.check_not_adjusted(model, allow_double_correction)
    if not _head.is_graph(model):
        raise ValueError(
            f"Only the head of a Functional or Sequential model can be folded; {model.name!r} is a subclassed model. "
            'Use kla.adjust(model, class_counts, output="logits" | "softmax" | "sigmoid").'
        )
    head = _head.find_head(model)
    _check_foldable(model, head)
    layer = _adjustment_layer(head.width, head.output, class_counts, tau, target_prior, num_examples)
    folded, twin = _clone.clone_with_head(model, head.layer, use_bias=True)
    # In float64, and rounded once.
    twin.bias.assign(ops.convert_to_numpy(twin.bias).astype("float64") - layer.values)
    return folded


def _check_foldable(model, head):
    layer, way_out = head.layer, "Use `kla.adjust`, which adds a layer behind it instead."
    _head.check_own_head(model, layer, way_out)
    if layer.compute_dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"Head {layer.name!r} adds its bias in {layer.compute_dtype}, which would round the prior (−36.9 becomes "
            f'−37.0 in bfloat16). Build the head with dtype="float32". {way_out}'
        )
