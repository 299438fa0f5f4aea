"""Several models in one: the product of their probabilities, each corrected for the prior."""

import math
import numbers

import keras
import numpy as np

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.posthoc import _graph, _guard, _hub


def product_of_experts(models, class_counts, *, taus=1.0, target_prior=None, allow_double_correction=False):
    """One model of several, `(1/M) Σ_m [log softmax(f_m(x))_y − τ_m·log π_y] + log target_y`.

    The mean of log-probabilities is the product of the experts' distributions. Experts that are trained with different
    strengths of the adjusted loss, say 0, 1 and 2, are right for different priors and wrong in different ways. If their
    strengths average to 1, their product is balanced already, and every τ_m is 0. Plain models have τ_m = 1.

    Args:
        models: trained Functional or Sequential models of the same inputs and classes that give logits or a
            softmax, as `kla.adjust` takes them.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0.
        taus: the strengths τ_m that are still to be subtracted, `[M]` numbers, or one for all.
        target_prior: `[L]` class mix the predictions should be right for; uniform by default.
        allow_double_correction: subtract even from experts whose prior was corrected already, as in `kla.adjust`. Use
            it if an adjusted loss left a part, such as 0.5 for experts trained with τ = ½.

    Returns:
        A new, uncompiled Functional model that shares the experts' weights. It gives a softmax where all experts do,
        logits otherwise; its `LogitAdjustment` can be re-pointed by `set`. Where training corrected an expert, the
        prior that it serves is not known to `kla.serving.export`: say it as `prior_name`.

    Raises:
        ValueError: for fewer than two models, models whose inputs or classes differ or whose logits are not found, or
            a prior that would be corrected twice.

    Example:

    >>> import keras, numpy as np
    >>> models = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")]) for _ in range(2)]
    >>> together = product_of_experts(models, class_counts=[75, 25])
    >>> x = np.ones((1, 3), "float32")
    >>> odds = np.prod([model.predict(x, verbose=0) for model in models], axis=0) ** 0.5 / [0.75, 0.25]
    >>> np.allclose(together.predict(x, verbose=0), odds / odds.sum(), atol=1e-6)
    True

    Reference: Aimar et al. (2023), BalPoE; Hinton (2002), products of experts.
    """
    if not isinstance(models, (list, tuple)) or len(models) < 2:
        received = len(models) if isinstance(models, (list, tuple)) else type(models).__name__
        raise ValueError(
            f"`models` must be a list of at least two. Received {received}: for one model use `kla.adjust`."
        )
    prior, taus = priors.as_prior(class_counts, independent=False), _as_taus(taus, len(models))
    for model, tau in zip(models, taus, strict=True):
        _graph.require_keras_model(model)
        if not _graph.is_graph(model):
            raise ValueError(
                f"Experts must be Functional or Sequential models, whose logits can be found. {model.name!r} is a "
                "subclassed model."
            )
        if _hub.is_task(model) and model.preprocessor is not None:
            raise ValueError(
                f"Experts are joined in one graph, and the preprocessor of {model.name!r} is not in its graph. Give "
                "keras.Model(task.input, task.output), and call the product with task.preprocessor(x)."
            )
        _guard.check_not_adjusted(model, allow_double_correction or tau == 0)
        _graph.require_model(model)
    heads = [_graph.find_head(model) for model in models]
    _check_alike(models, heads, prior.size)
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
        _graph.structure_of(models[0], "input"),
    )
    logs = [_log_probabilities(*expert, i)(inputs) for i, expert in enumerate(zip(models, heads, strict=True))]
    mean = keras.layers.Average(dtype="float32", name="mean_log_probabilities")(logs)
    # The mean of the experts' adjustments is the adjustment by the mean τ.
    outputs = LogitAdjustment(
        prior,
        tau=float(taus.mean()),
        target_prior=target_prior,
        corrected_before=any(map(_guard.is_corrected, models)),
        name="logit_adjustment",
    )(mean)
    if all(head.output == "softmax" for head in heads):
        outputs = keras.layers.Activation("softmax", dtype="float32", name="adjusted_softmax")(outputs)
    return keras.Model(inputs, outputs, name="product_of_experts")


def _as_taus(taus, num_models):
    """`taus` as a finite vector `[num_models]`."""
    taus = [taus] * num_models if np.ndim(taus) == 0 else taus
    for m, tau in enumerate(taus):
        if isinstance(tau, numbers.Real) and not math.isfinite(tau):
            raise ValueError(f"`taus` must be finite. Received {tau} for model {m}.")
    taus = _checks.as_vector(taus, "taus")
    if taus.size != num_models:
        raise ValueError(f"`taus` must be one number, or one for each model. Received {taus.size} for {num_models}.")
    return taus


def _check_alike(models, heads, num_classes):
    for model, head in zip(models, heads, strict=True):
        if head.output == "sigmoid":
            raise ValueError(
                f"Experts must score classes that exclude each other. Model {model.name!r} gives a sigmoid."
            )
        if head.axis != -1:
            raise ValueError(
                f"Experts must have their classes in the last axis. Model {model.name!r} has them in axis {head.axis}: "
                "put keras.layers.Permute behind it."
            )
        _checks.check_length(np.empty(head.width), num_classes, f"the head of {model.name!r}", "class_counts")
    described = [
        keras.tree.map_structure(lambda tensor: (tensor.shape, tensor.dtype), _graph.structure_of(model, "input"))
        for model in models
    ]
    if any(other != described[0] for other in described[1:]):
        raise ValueError(f"Experts must have the same inputs. Received: {described}.")


def _log_probabilities(model, head, i):
    """The expert as a model that gives `log softmax`, in float32."""
    logs = keras.layers.Activation("log_softmax", dtype="float32", name=f"log_probabilities_{i}")
    expert = _graph.rebuild(model, head, logs)
    expert.name = f"expert_{i}"  # models in one graph must have different names
    return expert
