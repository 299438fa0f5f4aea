"""The training schedules: settings of what Keras ships."""

import dataclasses
import math

import keras

from keras_logit_adjust import models
from keras_logit_adjust._checks import ArgumentError

RECIPES = ("quick", "paper", "released", "strong", "linear_probe")
OPTIMIZERS = ("auto", "sgd", "adam")
MODELS = ("auto", "small_cnn", "resnet32", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training schedule.

    Attributes:
        epochs: passes over the training set.
        batch_size: examples a step.
        learning_rate: the peak.
        warmup: epochs of linear warm-up.
        drops: `{epoch: factor}`: from that epoch on the peak times the factor.
        momentum: the momentum of SGD; None for Adam.
        nesterov: whether SGD looks ahead.
        weight_decay: `λ` of the penalty `λ/2·‖w‖²`, in the models that have one (`resnet32`).
        shift: pixels that images are moved by at most, over zeros; half of them are then mirrored. 0 for neither.
        cosine: whether the rate falls from the peak to 0 along half a cosine.
        label_smoothing: share of the target spread over all classes; examples are then fed with rows for labels.
        mix: whether batches are augmented and mixed (MixUp, CutMix); needs label rows.
        average: momentum of the averaged weights that are kept in the end, or None.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 0
    drops: tuple = ()
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    shift: int = 0
    cosine: bool = False
    label_smoothing: float = 0.0
    mix: bool = False
    average: float | None = None

    def optimizer(self):
        """A new optimizer."""
        options = {} if self.average is None else {"use_ema": True, "ema_momentum": self.average}
        if self.momentum is None:
            return keras.optimizers.Adam(self.learning_rate, **options)
        return keras.optimizers.SGD(self.learning_rate, momentum=self.momentum, nesterov=self.nesterov, **options)

    def rate(self, epoch):
        """The learning rate of an epoch, counted from 0."""
        factors = [min(1.0, (epoch + 1) / max(self.warmup, 1)), *(f for start, f in self.drops if epoch >= start)]
        rate = self.learning_rate * factors[-1]
        if self.cosine and epoch >= self.warmup:
            rate *= 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / (self.epochs - self.warmup)))
        return rate


_QUICK_STEPS = 360
_ADAM_RATE, _SGD_RATE = 1e-3, 0.02

# The paper states weight decay 1e-4. Its released code has `l2(1e-4)`, 1e-4·‖w‖²: λ = 2e-4, as in LDAM-DRW.
_PAPER = Recipe(200, 128, 0.1, 5, ((160, 0.1), (180, 0.01)), momentum=0.9, weight_decay=2e-4, shift=4)
# The same baseline for every method: a training that is usual today, with layers that Keras ships.
_STRONG = Recipe(
    epochs=200,
    learning_rate=0.1,
    warmup=5,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    cosine=True,
    label_smoothing=0.1,
    mix=True,
    average=0.99,
)
# The schedule, shifts and penalty of the released code. For the other differences see the guide to the commands.
_RELEASED = {
    "cifar10_lt": dataclasses.replace(
        _PAPER, shift=2, epochs=1241, warmup=20, drops=((604, 0.1), (926, 0.01), (1128, 0.001)), nesterov=True
    ),
    "cifar100_lt": dataclasses.replace(
        _PAPER, shift=2, epochs=1419, warmup=22, drops=((691, 0.1), (1059, 0.01), (1290, 0.001)), nesterov=True
    ),
}


def find_recipe(name, *, dataset, epochs=None, batch_size=None, num_examples=None, optimizer="auto", weight_decay=None):
    """The recipe called `name`, its schedule stretched or squeezed to `epochs`, with given values in place of its own.

    "quick" runs 20 epochs, and as many more as a small training set needs for 360 steps: those of the embedded data.
    """
    if name == "released" and dataset not in _RELEASED:
        raise ArgumentError(
            "recipe",
            f"`recipe` 'released' has a schedule for {' and '.join(_RELEASED)}. Received: dataset={dataset!r}. "
            "Choose 'paper', 'strong' or 'quick'.",
        )
    known = {"quick": Recipe(20, learning_rate=2e-3), "paper": _PAPER, "strong": _STRONG, "linear_probe": Recipe(1)}
    recipe = known.get(name) or _RELEASED[dataset]
    if epochs is None and name == "quick" and num_examples is not None:
        size = recipe.batch_size if batch_size is None else batch_size
        epochs = max(recipe.epochs, -(-_QUICK_STEPS // -(-num_examples // size)))
    recipe = recipe if epochs is None else stretch(recipe, epochs)
    if optimizer == "adam" and recipe.momentum is not None:
        recipe = dataclasses.replace(recipe, momentum=None, learning_rate=_ADAM_RATE)
    elif optimizer == "sgd" and recipe.momentum is None:
        recipe = dataclasses.replace(recipe, momentum=0.9, learning_rate=_SGD_RATE)
    given = {"batch_size": batch_size, "weight_decay": weight_decay}
    return dataclasses.replace(recipe, **{name: value for name, value in given.items() if value is not None})


def stretch(recipe, epochs):
    """The recipe with its schedule stretched or squeezed to `epochs`."""
    scale = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup=round(recipe.warmup * scale),
        drops=tuple((round(start * scale), factor) for start, factor in recipe.drops),
    )


def resolve_model(name, example_shape):
    """The name of the model for examples of `example_shape`, after a check that they fit together."""
    is_image = len(example_shape) == 3
    if is_image:
        _check_image(example_shape)
    elif example_shape[0] < 1:
        raise ArgumentError("train", "`train` must have at least one column of features. Received rows without one.")
    if name == "auto":
        return "linear" if not is_image else "resnet32" if example_shape == (32, 32, 3) else "small_cnn"
    if is_image != (name in ("small_cnn", "resnet32")):
        kind = "images" if is_image else "rows of features"
        raise ArgumentError(
            "model", f"`model` {name!r} does not take {kind} of shape {tuple(example_shape)}. Choose 'auto'."
        )
    return name


def check_penalty(model_name, weight_decay):
    """Raise for a weight decay that the model would ignore."""
    if weight_decay is not None and model_name != "resnet32":
        raise ArgumentError(
            "weight_decay",
            f"`weight_decay` would change nothing: model {model_name!r} has no penalty. Received: "
            f"weight_decay={weight_decay}. Leave it out, or choose the model 'resnet32' for images.",
        )


def _check_image(shape):
    height, width, channels = shape
    is_turned = height in (1, 3, 4) and channels > 4
    if is_turned or min(height, width) < models.SMALLEST_IMAGE or channels < 1:
        raise ArgumentError(
            "train",
            f"`train` must have images [N, height, width, channels] of at least {models.SMALLEST_IMAGE} × "
            f"{models.SMALLEST_IMAGE} pixels. Received images of shape {tuple(shape)}."
            + " If channels come first: x = np.moveaxis(x, 1, -1), also for test images."
            * is_turned,
        )


def check_heads(model_name, heads, *, needing_dense=()):
    """Raise before training if a method does not fit a model that has its own head."""
    if model_name != "cosine":
        return
    own = [name for name, head in heads.items() if head not in (models.dense_head, models.cosine_dense_head)]
    for name in (*own, *needing_dense):
        raise ArgumentError("model", f"`model` 'cosine' has its own head: method {name!r} needs 'linear'.")


def left_out(recipe, model_name):
    """A sentence on the parts of a recipe that a model does not have, or None if it has all."""
    parts = {
        "weight decay": recipe.weight_decay and model_name != "resnet32",
        "shifts and mirroring": recipe.shift and model_name in ("linear", "cosine"),
    }
    parts = [part for part, is_missing in parts.items() if is_missing]
    return f"`{model_name}` is trained without the recipe's {' and '.join(parts)}." if parts else None


def build_model(name, head, *, example_shape, num_classes, recipe):
    """An uncompiled model for one run."""
    if name == "small_cnn":
        return models.small_cnn(example_shape, num_classes, head=head)
    if name == "resnet32":
        return models.resnet32(
            num_classes,
            input_shape=example_shape,
            weight_decay=recipe.weight_decay,
            head=head,
        )
    if name == "linear":
        return models.linear_head(example_shape[0], num_classes, head=head)
    return models.cosine_head(example_shape[0], num_classes)
