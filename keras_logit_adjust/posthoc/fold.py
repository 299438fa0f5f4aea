"""Post-hoc adjustment inside the bias of a head: it costs nothing in serving."""

from keras import ops

from keras_logit_adjust import _keras
from keras_logit_adjust.layers.calibration import as_calibration
from keras_logit_adjust.posthoc import _copy, _graph, _guard, _kind, _many_classes, _operations, _outputs, _task
from keras_logit_adjust.posthoc.adjust import adjustment_layer, head_to_adjust


def fold_into_bias(
    model,
    class_counts,
    *,
    tau=1.0,
    target_prior=None,
    num_examples=None,
    calibration=None,
    allow_double_correction=False,
):
    """A copy of the model with the adjustment inside its head's bias: `b_y ← b_y − τ·log π_y + log target_y`.

    For a model with several outputs, `class_counts` names the outputs to fold, as in `adjust`.

    A calibration goes into the head too: kernel and bias are divided by the temperature, and the calibration's bias is
    added. The result equals that of `adjust` up to rounding, and costs nothing when served: if the head has a bias, the
    copy has the same operations as the original. The given model is not changed, and the copy shares no weight with it.
    There is one exception: a KerasHub task shares all weights outside the head, and another model shares a backbone of
    KerasHub, because some of these layers cannot be made again. As in `adjust`, probabilities are posteriors under the
    target prior, which is uniform by default.

    Args:
        model: a trained Functional or Sequential `keras.Model` with one float32 head: Dense, EinsumDense or a
            convolution. Layers behind the head must leave a shift of the logits as it is: reshaping, flattening,
            permutation, slices, average pooling, resizing, dropout, a softmax or sigmoid. Or a
            `kla.layers.ManyClassModel` or its predictor, whose head gets a bias if it has none.
        class_counts: as in `adjust`.
        tau: as in `adjust`.
        target_prior: as in `adjust`.
        num_examples: as in `adjust`.
        calibration: as in `adjust`, found before folding.
        allow_double_correction: as in `adjust`. The guard knows a folded model until the process ends. A
            file does not show it.

    Returns:
        A new, uncompiled model, Sequential or Functional as the given one. For a KerasHub task, a task of the same
        class, compiled with KerasHub's defaults.

    Raises:
        ValueError: for a head that is tied, used twice, behind two outputs, not last, quantized or in half precision;
            for an operation behind it that scales or mixes, such as an average of heads; and as `adjust`. Each message
            names the way out.

    Warns:
        UserWarning: for a KerasHub task whose head has another precision than its backbone, which is not saved.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="zeros")])
    >>> fold_into_bias(model, class_counts=[75, 25]).layers[-1].bias.numpy().round(4).tolist()
    [0.2877, 1.3863]

    Reference: Menon et al. (2021), §4, equation 9.
    """
    if _outputs.are_by_output(model, class_counts):
        _require_graph(model)
        options = {"tau": tau, "target_prior": target_prior, "num_examples": num_examples, "calibration": calibration}
        options["allow_double_correction"] = allow_double_correction
        return _outputs.folded(head_to_adjust, _fold, model, class_counts, options)
    adds_target = _guard.adds_target_alone(class_counts, num_examples, target_prior)
    _guard.check_not_adjusted(model, allow_double_correction or adds_target)
    options = {"tau": tau, "target_prior": target_prior, "calibration": calibration}
    options["corrected_before"] = _guard.hides_its_prior(model, adds_target=adds_target)
    if _many_classes.has_many_classes(model):
        _many_classes.check_adjustable(model)
        width = _many_classes.head_of(model).units
        layer = adjustment_layer(class_counts, num_examples, width=width, output="softmax", **options)
        folded, twin = _many_classes.folded(model, layer)
        _guard.mark_folded(twin, layer)
        return folded
    _graph.require_model(model)
    _require_graph(model)
    head = head_to_adjust(model, "auto")
    return _fold(model, head, class_counts, num_examples=num_examples, loss=_kind.loss_of(model), **options)


def _require_graph(model):
    _graph.require_keras_model(model)
    if not _graph.is_graph(model):
        raise ValueError(
            f"Only the head of a Functional or Sequential model can be folded; {model.name!r} is a subclassed model. "
            'Use kla.adjust(model, class_counts, output="logits" | "softmax" | "sigmoid").'
        )


def _fold(model, head, class_counts, *, num_examples, calibration, loss, **options):
    """A copy of `model` with the adjustment in the bias of its head `head`."""
    way_out = "Use `kla.adjust`, which adds a layer behind it instead."
    temperature = 1.0 if calibration is None else as_calibration(calibration, None).temperature
    _check_foldable(head, temperature, way_out)
    _copy.check_own_head(model, head.layer, way_out)
    _task.check_copyable(model, head.layer, use_bias=True, way_out=way_out)
    if head.layer.compute_dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"Head {head.layer.name!r} adds its bias in {head.layer.compute_dtype}, which would round the prior (−36.9 "
            f'becomes −37.0 in bfloat16). Build the head with dtype="float32". {way_out}'
        )
    _task.warn_of_lost_precision(model, head.layer)
    layer = adjustment_layer(
        class_counts,
        num_examples,
        width=head.width,
        output=head.output,
        calibration=calibration,
        loss=loss,
        **options,
    )
    folded, twin = _copy.clone_with_head(model, head.layer, use_bias=True)
    # Computed in float64 and rounded once.
    for name, variable in _graph.variables_of(twin):
        values = ops.convert_to_numpy(variable).astype("float64") / temperature
        if _keras.scales_kernel(name):
            variable.assign(values)
        elif name == "bias":
            variable.assign(values - layer.values)
    _guard.mark_folded(twin, layer)
    return folded


def _check_foldable(head, temperature, way_out):
    """Raise if a shift of the bias of a head is not a constant shift of the output or of its logits."""
    stop = head.stop or (head.offset if temperature != 1.0 else None)
    if stop is not None:
        raise ValueError(
            f"The bias cannot take the adjustment: operation {stop.name!r} ({type(stop).__name__}) does not pass a "
            f"shift of the logits unchanged. {way_out}"
        )
    if not _operations.has_bias_of_classes(head.layer):
        raise ValueError(f"Head {head.layer.name!r} ({type(head.layer).__name__}) has no bias of classes. {way_out}")
