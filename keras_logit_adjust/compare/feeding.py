"""What `fit` is fed: plain arrays, or batches drawn by class, augmented and mixed with layers that Keras ships."""

import warnings

import keras
import numpy as np


class Training:
    """A training set as a recipe wants it.

    Args:
        x: examples.
        y: ids `[N]`.
        recipe: a `Recipe`.
        num_classes: number of classes `L`.
        seed: of the order, the draws and the augmentation.
        balanced: whether every class is drawn equally often, with replacement.
    """

    def __init__(self, x, y, recipe, num_classes, seed, balanced=False):
        self.x, self.y, self.recipe, self.seed, self.balanced = x, y, recipe, seed, balanced
        # Mixing needs rows too, and comes with label smoothing.
        self.labels = np.eye(num_classes, dtype="float32")[y] if recipe.label_smoothing else y

    def fit_arguments(self):
        """Arguments of `model.fit`: arrays where nothing has to be done to them."""
        if self.balanced or self.recipe.mix:
            return {"x": _Batches(self)}
        return {"x": self.x, "y": self.labels, "batch_size": self.recipe.batch_size}


class _Batches(keras.utils.PyDataset):
    """An epoch's order is drawn from (seed, epoch) at once; batches are cut from it."""

    def __init__(self, training):
        super().__init__()
        self.training, self.epoch = training, 0
        self.augment = _Augmentation(training.seed, training.x.ndim == 4) if training.recipe.mix else None
        self.on_epoch_begin()

    def on_epoch_begin(self):
        rng, labels = np.random.default_rng([self.training.seed, self.epoch]), self.training.y
        if self.training.balanced:
            counts = np.bincount(labels)
            weight = (1.0 / counts[labels]) / np.count_nonzero(counts)
            self.order = rng.choice(labels.size, labels.size, p=weight / weight.sum())
        else:
            self.order = rng.permutation(labels.size)

    def on_epoch_end(self):
        self.epoch += 1

    def __len__(self):
        return -(-self.training.y.size // self.training.recipe.batch_size)

    def __getitem__(self, index):
        size = self.training.recipe.batch_size
        rows = self.order[index * size : (index + 1) * size]
        x, y = self.training.x[rows], self.training.labels[rows]
        return (x, y) if self.augment is None else self.augment(x, y)


class _Augmentation:
    """Shift, mirror and cutout of images, then MixUp or CutMix, in turn at random; rows of features get MixUp alone."""

    def __init__(self, seed, is_image):
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
