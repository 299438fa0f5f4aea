"""What `fit` is fed: plain arrays, or batches that a sampler draws, mixed with layers that Keras ships."""

import warnings

import keras
import numpy as np

from keras_logit_adjust.data import LongTailSampler


class Training:
    """A training set as a recipe wants it.

    Args:
        x: examples.
        y: ids `[N]`.
        recipe: a `Recipe`.
        num_classes: number of classes `L`.
        seed: of the order, the draws and the augmentation.
        strategy: of a `LongTailSampler`; None for every example once an epoch.

    Attributes:
        sampler: the `LongTailSampler`, or None without a strategy.
    """

    def __init__(self, x, y, *, recipe, num_classes, seed, strategy=None):
        self.x, self.y, self.recipe, self.seed = x, y, recipe, seed
        self.sampler = self._sampler(strategy) if strategy else None
        # Mixing needs rows too, and comes with label smoothing.
        self.labels = np.eye(num_classes, dtype="float32")[y] if recipe.label_smoothing else y

    def _sampler(self, strategy):
        return LongTailSampler(self.y, batch_size=self.recipe.batch_size, strategy=strategy, seed=self.seed)

    def full_batches(self):
        """What draws full batches, and the arrays it draws from."""
        return self.sampler or self._sampler("instance"), (self.x, self.labels)

    def fit_arguments(self, full=False):
        """Arguments of `model.fit`: arrays where nothing has to be done to them, or always full batches."""
        if not self.sampler and not self.recipe.mix and not full:
            return {"x": self.x, "y": self.labels, "batch_size": self.recipe.batch_size}
        sampler, data = self.full_batches()
        mix = _Augmentation(self.seed, is_image=self.x.ndim == 4) if self.recipe.mix else None
        return {
            "x": sampler.py_dataset(data, map_fn=mix),
            "steps_per_epoch": sampler.steps_per_epoch,
            "shuffle": False,
        }


class _Augmentation:
    """Shift, mirror and cutout of images, then MixUp or CutMix, in turn at random; rows of features get MixUp alone."""

    def __init__(self, seed, *, is_image):
        self.rng = np.random.default_rng(seed)
        options = {"seed": seed, "dtype": "float32"}  # whatever the precision of the model
        self.single, self.mixers = [], [keras.layers.MixUp(alpha=0.2, **options)]
        if is_image:
            self.single = [
                keras.layers.RandomTranslation(1 / 8, 1 / 8, "constant", "nearest", **options),
                keras.layers.RandomFlip("horizontal", **options),
                keras.layers.RandomErasing((0.5, 0.5), scale=(0.02, 0.2), value_range=(0, 255), **options),
            ]
            self.mixers.append(keras.layers.CutMix(**options))

    def __call__(self, x, y):
        # Rows of features are images of one pixel: Keras's layers know nothing else.
        images = x.astype("float32").reshape(len(x), *([1] * (4 - x.ndim)), *x.shape[1:])
        for layer in self.single:
            images = layer(images, training=True)
        mixer = self.mixers[self.rng.integers(len(self.mixers))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype int64")  # Keras's MixUp, of JAX
            mixed = mixer({"images": images, "labels": y}, training=True)
        return keras.ops.convert_to_numpy(mixed["images"]).reshape(x.shape), keras.ops.convert_to_numpy(mixed["labels"])
