"""Find the losses that correct a prior, and mark the layers that they trained. A mark lives as long as its layer.

A compiled model knows its losses. Another model of the same layers, for example of one output, does not know them.
"""

import weakref

import keras
import numpy as np

from keras_logit_adjust import _keras

_trained = weakref.WeakKeyDictionary()  # layer → the loss that corrected its logits


def corrects_prior(loss):
    """Whether a loss shifts or scales logits by class, or weighs classes. Label margins alone correct no prior."""
    names = ("rival_margin", "class_weight", "logit_scale", "stage_weight")
    vectors = (getattr(loss, name, None) for name in names)
    is_uneven = any(vector is not None and np.ptp(vector) > 0 for vector in vectors)
    return is_uneven or bool(np.any(getattr(loss, "adjustment", 0)))


def knows_no_prior(loss):
    """Whether a loss of Keras or of this package corrects no prior. False for a user's own loss: it is unknown."""
    if isinstance(loss, str):
        return True
    module = getattr(loss if hasattr(loss, "__name__") else type(loss), "__module__", None) or ""
    return module.startswith(("keras.", "keras_logit_adjust.")) and not corrects_prior(loss)


def mark_in_training(loss):
    """If a model trains now and `loss` corrects the prior, mark the heads of the model."""
    model = _keras.model_in_training()
    if model is not None and corrects_prior(loss):
        mark(model, [loss])


def mark(model, losses):
    """Mark the output layers of `model` for which one of `losses` is compiled, if it corrects the prior."""
    for output, loss in compiled_pairs(model):
        if any(loss is other for other in losses):
            _mark_layers(output, loss)


def mark_outputs(model, loss):
    """Mark the output layers of `model`. `loss` trained it, and is no longer compiled."""
    if corrects_prior(loss):
        for output in getattr(model, "outputs", None) or ():
            _mark_layers(output, loss)


def _mark_layers(output, loss):
    for layer in _keras.last_layers_with_weights(output):
        _trained[layer] = loss


def trained_by(layer):
    """The loss that trained a layer and corrects the prior, or None."""
    return _trained.get(layer)


def carry(layer, twin):
    """Mark the copy `twin` of a layer as the layer is marked."""
    if isinstance(layer, keras.Layer) and layer in _trained:
        _trained[twin] = _trained[layer]


def compiled_pairs(model):
    """Pairs (symbolic output, loss) of a compiled graph, if each loss belongs to a known output."""
    outputs, compiled = list(getattr(model, "outputs", None) or ()), getattr(model, "loss", None)
    if not outputs:
        return []
    if isinstance(compiled, dict):
        named = dict(zip(model.output_names, outputs, strict=True))
        named.update(model.output if isinstance(model.output, dict) else {})
        return [(named[name], loss) for name, loss in compiled.items() if name in named]
    losses = compiled if isinstance(compiled, (list, tuple)) else [compiled] * len(outputs)
    losses = keras.tree.flatten(losses) if len(losses) != len(outputs) else losses
    return list(zip(outputs, losses, strict=False))
