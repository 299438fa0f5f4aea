"""Weight normalization: a correction that logit adjustment is compared with, and the assumption behind it.

Under SGD with momentum the norms of a head's class weights follow the prior, so dividing by the norms helps rare
classes. Under Adam they do not, and the division corrects nothing (Menon et al., 2021, §3, Figure 1).
"""

import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, priors
from keras_logit_adjust.posthoc import _copy, _graph, _guard, _operations, _task


def normalize_weights(model, *, tau=1.0, by="norm", class_counts=None, bias="keep", allow_double_correction=False):
    """A copy of the model that predicts with `w_yᵀΦ(x) / ν_y^τ (+ b_y)`, `ν_y = ‖w_y‖₂` or `ν_y = π_y`.

    This is not logit adjustment, which subtracts. A negative logit that is divided by a small norm gets smaller, not
    larger, so the rule is not consistent for the balanced error. The given model is not changed, and the copy shares no
    weight with it (except for models of KerasHub, as in `fold_into_bias`).

    Args:
        model: a trained Functional or Sequential `keras.Model` with one Dense or convolution head of `L ≥ 2` units.
        tau: exponent, a number or a vector `[L]`; 0 changes nothing (with the bias kept), 1 makes all norms one.
        by: "norm" divides by the norm of each class's weights, "prior" by its prior.
        class_counts: `[L]` training examples of each class, for `by="prior"` only.
        bias: "keep" leaves the head's bias as it is, "drop" leaves it out, as the original code does.
        allow_double_correction: normalize even a model whose prior was corrected already, as in `kla.adjust`.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: for a head that cannot be normalized: none found, one unit, used twice, tied or quantized, weights
            that are all zero; for `by="prior"` without counts; for a prior that would be corrected twice.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    >>> model.layers[0].set_weights([np.array([[3.0, 0.0], [4.0, 2.0]])])
    >>> normalize_weights(model).layers[0].get_weights()[0].round(4).tolist()  # columns over 5 and over 2
    [[0.6, 0.0], [0.8, 1.0]]

    Reference: Kang et al. (2020), τ-normalized classifier; Menon et al. (2021), §3, equation 4.
    """
    _guard.check_not_adjusted(model, allow_double_correction)
    _graph.require_model(model)
    _checks.check_choice(by, "by", ("norm", "prior"))
    _checks.check_choice(bias, "bias", ("keep", "drop"))
    head = _head_to_normalize(model)
    if by == "norm" and class_counts is not None:
        raise ValueError('`class_counts` go with `by="prior"`. Received them with by="norm": leave them out.')
    if by == "prior" and class_counts is None:
        raise ValueError('`by="prior"` divides by the class prior: give `class_counts` too.')
    size = _own_norms(head.layer) if by == "norm" else priors.as_prior(class_counts, independent=False).probabilities
    _checks.check_length(size, head.width, "class_counts", "the head")
    with np.errstate(over="ignore"):
        divisor = size ** _checks.as_tau(tau, head.width)
    if not ((divisor > 1 / _checks.LARGEST) & (divisor < _checks.LARGEST)).all():
        raise _checks.ArgumentError("tau", f"`tau` must leave {by} ** tau within float32. Received: tau={tau!r}")
    use_bias = head.layer.use_bias and bias == "keep"
    _task.check_copyable(model, head.layer, use_bias=use_bias, way_out='Keep the bias, with bias="keep".')
    copy, twin = _copy.clone_with_head(model, head.layer, use_bias=use_bias)
    for name, variable in _graph.variables_of(twin):
        if _keras.scales_kernel(name):
            variable.assign(ops.convert_to_numpy(variable).astype("float64") / divisor)
    return copy


def class_norms(layer):
    """`‖w_y‖₂` of every class of a Dense or convolution layer, `[L]` in float64."""
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    return np.sqrt(np.square(kernel).sum(axis=tuple(range(kernel.ndim - 1))))


def _own_norms(layer):
    """`class_norms`, after a check that it is possible to divide by them."""
    norms = class_norms(layer)
    for bad, what in ((norms == 0, "of norm 0"), (~np.isfinite(norms), "that are not finite")):
        if bad.any():
            raise ValueError(
                f"Class weights {what} cannot be normalized. Head {layer.name!r} has them at "
                f"{_checks.name_classes(bad)}: train it first."
            )
    return norms


def _head_to_normalize(model):
    if not _graph.is_graph(model):
        raise ValueError(
            f"Only the head of a Functional or Sequential model can be normalized; {model.name!r} is subclassed."
        )
    try:
        head = _graph.find_head(model)
    except _graph.NoHeadError as error:
        raise ValueError(_no_kernel(model)) from error
    if not isinstance(head.layer, _operations.KERNEL_HEADS) or head.stop is not None:
        raise ValueError(_no_kernel(model))
    if head.width < 2:
        raise ValueError(f"Head {head.layer.name!r} has one unit: there are no class weights to compare.")
    _copy.check_own_head(model, head.layer, "Give `normalize_weights` a model whose head is its own.")
    return head


def _no_kernel(model):
    return (
        f"`normalize_weights` divides the weights of a Dense or convolution head. {model.name!r} has no such head "
        "(a cosine head is normalized already)."
    )
