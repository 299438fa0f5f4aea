"""The guard against correcting a prior twice: the signs of a correction in a model, and a check of its loss."""

import warnings
import weakref

import keras
import numpy as np

from keras_logit_adjust import _checks, _keras, layers, losses, priors
from keras_logit_adjust.losses import _base, _marks
from keras_logit_adjust.posthoc._graph import require_keras_model

_ROUNDING = 1e-9  # largest difference between log-priors that count as equal
_folded = weakref.WeakKeyDictionary()  # head → the adjustment in its bias. No file shows it; this process knows it.


def mark_folded(head, adjustment):
    """Remember that the `LogitAdjustment` `adjustment` was added to the bias of `head`."""
    adjustment.folded_into = head.name
    _folded[head] = adjustment


def carry_marks(layer, twin):
    """Let the copy `twin` of a layer keep what is known of the layer: its fold, and the loss that trained it."""
    _marks.carry(layer, twin)
    if isinstance(layer, keras.Layer) and layer in _folded:
        _folded[twin] = _folded[layer]


def check_plain(model, purpose):
    """Raise if `purpose` needs a model without a correction, and `model` shows one."""
    for reason, _ in _found(model):
        raise ValueError(
            f"{purpose} needs a model whose prior was not corrected. Received model {model.name!r}, which {reason}: "
            "give the model as it was before the correction."
        )


def check_not_adjusted(model, allow_double_correction):
    """Raise if the prior of `model` was corrected already, as far as the model shows it."""
    found = _found(model)
    for reason, _ in () if allow_double_correction else found:
        raise ValueError(
            f"The prior would be corrected twice: model {model.name!r} {reason}. Its plain argmax is balanced already. "
            "To add another class mix only, use kla.adjust(model, [1, 1, …], target_prior=[…]), and num_examples=2 for "
            "independent labels; or pass allow_double_correction=True if that is what you want."
        )


def _found(model):
    """`corrections` as a list, after a check that `model` is one of Keras."""
    require_keras_model(model)
    found = list(corrections(model))
    # Models that reuse these layers stay marked: for example a model of one output, after this model was refused.
    for part in _models_in(model):
        _marks.mark(part, [loss for _, loss in found])
    return found


def adds_target_alone(class_counts, num_examples, target_prior):
    """Whether an adjustment subtracts no prior, because its counts are uniform, and adds a target prior."""
    if target_prior is None:
        return False
    prior = priors.as_prior(class_counts, num_examples)
    return bool(np.ptp(prior.logits) < _ROUNDING if not prior.are_labels else np.abs(prior.logits).max() < _ROUNDING)


def hides_its_prior(model, *, adds_target=False):
    """Whether the served prior of `model` is unknown after an adjustment, because `corrections` finds something.

    An adjustment that only adds a target (`adds_target`) may follow one correction that made the prior uniform.
    """
    found = [part for _, part in corrections(model)]
    return bool(found) and not (adds_target and len(found) == 1 and _made_uniform(found[0]))


def _made_uniform(part):
    """Whether a loss or layer removed the whole prior and added no other prior."""
    known = (losses.LogitAdjustedCrossentropy, losses.BinaryLogitAdjustedCrossentropy, layers.PriorAwareDense)
    if not isinstance(part, (*known, layers.ManyClassDense, layers.LogitAdjustment)) or part.tau is None:
        return False
    has_target = getattr(part, "target_prior", None) is not None
    return bool((np.asarray(part.tau) == 1).all()) and not has_target and not getattr(part, "corrected_before", False)


def is_corrected(model):
    """Whether `corrections` finds something."""
    return next(corrections(model), None) is not None


def corrections(model):
    """(reason in words, the loss or layer) for everything that corrects the prior of `model`, as far as it shows it."""
    compiled = keras.tree.flatten([getattr(part, "loss", None) for part in _models_in(model)])
    compiled = [loss for loss in compiled if isinstance(loss, _base.MaskedLoss) and _marks.corrects_prior(loss)]
    for loss in compiled:
        yield f"was compiled with the adjusted loss {type(loss).__name__}", loss
    for layer in _keras.layers_of(model):
        if isinstance(layer, (layers.PriorAwareDense, layers.StreamingPriorDense)):
            yield f"has the prior-aware head {layer.name!r}", layer
        elif isinstance(layer, layers.ManyClassDense) and not layer.is_plain:
            tau = _checks.shown(np.asarray(layer.tau).tolist())
            yield f"has the head {layer.name!r}, which trains the adjusted loss with tau={tau}", layer
        elif isinstance(layer, layers.LogitAdjustment):
            yield f"is adjusted already, by layer {layer.name!r}", layer
    heads = list(_heads_of(model))
    heads += [getattr(layer, "head", None) for layer in heads]  # a predictor's head is inside its last layer
    for head in heads:
        if not isinstance(head, keras.layers.Layer) or head not in _folded:
            continue
        yield f"has the adjustment in the bias of {head.name!r}", _folded[head]
    for loss, layer in () if compiled else _marked(model):
        yield f"has the layer {layer.name!r}, which the adjusted loss {type(loss).__name__} trained", loss


def _models_in(model):
    return [part for part in _keras.layers_of(model) if isinstance(part, keras.Model)]


def _heads_of(model):
    """The last layers with weights of each output; without a graph, all layers."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return _keras.layers_of(model)
    return dict.fromkeys(layer for output in outputs for layer in _keras.last_layers_with_weights(output))


def _marked(model):
    """(loss, layer) of the heads that an adjusted loss trained."""
    found = {}
    for layer in _heads_of(model):
        if (loss := _marks.trained_by(layer)) is not None:
            found.setdefault(id(loss), (loss, layer))
    return list(found.values())


def warn_of_probability_loss(model, output):
    """Warn if a model that gives logits was compiled with a loss that reads its output as probabilities."""
    for loss in keras.tree.flatten(getattr(model, "loss", None)) if output == "logits" else ():
        if _takes_probabilities(loss):
            name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", None))
            warnings.warn(
                f"Model {model.name!r} has no softmax or sigmoid, but it was compiled with the loss {name!r} without "
                "from_logits=True. This loss reads its outputs as probabilities; here they are adjusted as logits. "
                "Train it with from_logits=True, or give its head the activation.",
                stacklevel=4,
            )


def _takes_probabilities(loss):
    """Whether a loss is a cross-entropy of Keras without `from_logits=True`."""
    if isinstance(loss, keras.losses.Loss):
        return getattr(loss, "from_logits", None) is False
    is_keras = isinstance(loss, str) or getattr(loss, "__module__", "").startswith("keras.")
    name = str(loss if isinstance(loss, str) else getattr(loss, "__name__", ""))
    return is_keras and (name.lower().endswith("crossentropy") or name.lower() == "bce")
