"""How the models are trained: configuration of what Keras ships, nothing more."""

import dataclasses

import keras

from keras_logit_adjust import models

RECIPES = ("quick", "paper", "released")
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
        momentum: of SGD; None for Adam.
        nesterov: whether SGD looks ahead.
        weight_decay: `λ` of the penalty `λ/2·‖w‖²`, in the models that have one.
        augment: whether images are shifted and mirrored, in the models that can.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 0
    drops: tuple = ()
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    augment: bool = False

    def optimizer(self):
        """A new optimizer."""
        if self.momentum is None:
            return keras.optimizers.Adam(self.learning_rate)
        return keras.optimizers.SGD(self.learning_rate, momentum=self.momentum, nesterov=self.nesterov)

    def rate(self, epoch):
        """The learning rate of an epoch, counted from 0."""
        rate = self.learning_rate * min(1.0, (epoch + 1) / max(self.warmup, 1))
        for start, factor in self.drops:
            if epoch >= start:
                rate = self.learning_rate * factor
        return rate


_QUICK_STEPS = 360

# The released code's own ResNet-32 stacks 1×1, 3×3, 1×1 blocks; here both recipes train He's 3×3 blocks.
_PAPER = Recipe(200, 128, 0.1, 5, ((160, 0.1), (180, 0.01)), momentum=0.9, weight_decay=1e-4, augment=True)
_RELEASED = {
    "cifar10_lt": dataclasses.replace(
        _PAPER, epochs=1241, warmup=20, drops=((604, 0.1), (926, 0.01), (1128, 0.001)), nesterov=True
    ),
    "cifar100_lt": dataclasses.replace(
        _PAPER, epochs=1419, warmup=22, drops=((691, 0.1), (1059, 0.01), (1290, 0.001)), nesterov=True
    ),
}


def find_recipe(name, dataset, epochs=None, batch_size=None, num_examples=None):
    """The recipe called `name`, with its schedule stretched or squeezed to `epochs`.

    "quick" runs 20 epochs, and as many more as a small training set needs for 360 steps: those of the embedded data.
    """
    if name == "released" and dataset not in _RELEASED:
        raise ValueError(
            f"Recipe 'released' is the paper's code for {' and '.join(_RELEASED)}. Received data set {dataset!r}: use "
            "--recipe paper or quick."
        )
    recipe = {"quick": Recipe(20, learning_rate=2e-3), "paper": _PAPER}.get(name) or _RELEASED[dataset]
    if epochs is None and name == "quick" and num_examples is not None:
        epochs = max(recipe.epochs, -(-_QUICK_STEPS // -(-num_examples // (batch_size or recipe.batch_size))))
    if epochs is not None:
        scale = epochs / recipe.epochs
        drops = tuple((round(start * scale), factor) for start, factor in recipe.drops)
        recipe = dataclasses.replace(recipe, epochs=epochs, warmup=round(recipe.warmup * scale), drops=drops)
    return recipe if batch_size is None else dataclasses.replace(recipe, batch_size=batch_size)


def resolve_model(name, example_shape):
    """The name of the model for examples of `example_shape`, after checking that the two go together."""
    is_image = len(example_shape) == 3
    if name == "auto":
        return "linear" if not is_image else "resnet32" if example_shape == (32, 32, 3) else "small_cnn"
    if is_image != (name in ("small_cnn", "resnet32")):
        kind = "images" if is_image else "rows of features"
        raise ValueError(f"Model {name!r} does not take {kind} of shape {tuple(example_shape)}: use --model auto.")
    return name


def check_heads(model_name, heads):
    """Raise where a method brings a head to the model that has one of its own, before anything is trained."""
    own = [method for method, head in heads.items() if head is not models.dense_head]
    if model_name == "cosine" and own:
        raise ValueError(f"Model 'cosine' has a head of its own: method {own[0]!r} needs --model linear.")


def build_model(name, example_shape, num_classes, head, recipe):
    """An uncompiled model for one run."""
    if name == "small_cnn":
        return models.small_cnn(example_shape, num_classes, head)
    if name == "resnet32":
        return models.resnet32(num_classes, example_shape, head, recipe.weight_decay, recipe.augment)
    if name == "linear":
        return models.linear_head(example_shape[0], num_classes, head)
    return models.cosine_head(example_shape[0], num_classes)
