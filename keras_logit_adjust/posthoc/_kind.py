"""Independent labels or exclusive classes: what the output of a model and its compiled loss say, against the counts."""

from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks, losses
from keras_logit_adjust.losses import _base, _marks
from keras_logit_adjust.posthoc import _hub

_KINDS = {"softmax": "exclusive", "sigmoid": "independent"}
_OF_LOSSES = {
    "independent": (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy),
    "exclusive": (
        keras.losses.CategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
    ),
}
_NAMES = {kind.__name__.lower(): name for name, kinds in _OF_LOSSES.items() for kind in kinds} | {"bce": "independent"}


def of_loss(loss):
    """The kind of labels that a loss takes, "independent" or "exclusive". None for a loss that does not say it."""
    if isinstance(loss, _base.MaskedLoss):
        return "independent" if isinstance(loss, losses.BinaryLogitAdjustedCrossentropy) else "exclusive"
    for name, kinds in _OF_LOSSES.items():
        if isinstance(loss, kinds):
            return name
    is_keras = isinstance(loss, str) or (getattr(loss, "__module__", None) or "").startswith("keras.")
    return _NAMES.get(_name_of(loss).replace("_", "").lower()) if is_keras else None


def loss_of(model, place=None):
    """The loss that the one output of a model is compiled for, or the output at `place` of a subclass; None: none."""
    if getattr(model, "outputs", None):
        pairs = _marks.compiled_pairs(model)
        loss = pairs[0][1] if len(pairs) == len(model.outputs) == 1 else None
        # KerasHub compiles every task by itself, so its loss of exclusive classes says nothing.
        return None if _hub.is_task(model) and of_loss(loss) == "exclusive" else loss
    loss = getattr(model, "loss", None)
    if isinstance(loss, Mapping):
        return loss.get(place)
    if isinstance(loss, (list, tuple)):
        place = 0 if place is None and len(loss) == 1 else place
        return loss[place] if isinstance(place, int) and place < len(loss) else None
    return loss


def check(prior, output, *, width, loss):
    """Raise where a prior is of the other kind than what a model gives; for logits the loss says what these are of.

    One output, `width` 1, is of both kinds. None, not known, is taken for one output if there are two counts.
    """
    kind = of_loss(loss) if output == "logits" else _KINDS.get(output)
    is_unit = width == 1 or width is None and prior.size == 2
    if prior.are_labels and kind == "exclusive":
        rule = "`num_examples` is for independent sigmoid labels; the model "
        if output == "logits":
            rule += (
                f"gives logits, compiled with the loss {_name_of(loss)!r} of classes that exclude each other. Leave it "
                "out, or compile the model with the loss that trained it"
            )
        else:
            rule += "gives a softmax over classes"
        raise _checks.ArgumentError("num_examples", f"{rule}.")
    if not prior.are_labels and kind == "independent" and not is_unit:
        head, remedy = "A sigmoid head over several labels", ""
        if output == "logits":
            head = f"A head of several logits, compiled with the loss {_name_of(loss)!r} of independent labels,"
            remedy = " For classes that exclude each other, give num_examples=sum(class_counts)."
        raise _checks.ArgumentError(
            "num_examples",
            f"{head} needs `num_examples`: class_counts are then the positives of each label, adjusted by "
            f"log(π/(1−π)). Normalizing them to sum to one would be wrong.{remedy}",
        )


def _name_of(loss):
    return str(loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__))
