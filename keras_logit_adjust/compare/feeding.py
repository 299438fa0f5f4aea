"""The batches of a training: functions of (seed, epoch, step), so that a training can continue after any epoch."""

import warnings

import keras
import numpy as np

from keras_logit_adjust.data import LongTailSampler

_ORDER, _AUGMENTATION = 1, 2  # each use has its own stream of random numbers


class Training:
    """A training set in the form that a recipe needs.

    Args:
        x: examples.
        y: ids `[N]`.
        recipe: a `Recipe`.
        num_classes: number of classes `L`.
        seed: the seed of the order, the draws and the augmentation.
        strategy: the strategy of a `LongTailSampler`; None for every example once an epoch, in a new order each time.

    Attributes:
        sampler: the `LongTailSampler`, or None without a strategy.
    """

    def __init__(self, x, y, *, recipe, num_classes, seed, strategy=None):
        self.x, self.y, self.recipe, self.seed = x, y, recipe, seed
        self.steps_per_epoch = -(-len(y) // recipe.batch_size)
        self.sampler = self._sampler(strategy) if strategy else None
        self._is_image, self._order = x.ndim == 4, (None, None)
        self._mix = _Mixing(is_image=self._is_image) if recipe.mix else None
        # Mixing needs rows of labels too; recipes that mix also smooth labels.
        self.labels = np.eye(num_classes, dtype="float32")[y] if recipe.label_smoothing else y

    def _sampler(self, strategy):
        return LongTailSampler(self.y, batch_size=self.recipe.batch_size, strategy=strategy, seed=self.seed)

    def full_batches(self):
        """The sampler that draws full batches."""
        return self.sampler or self._sampler("instance")

    def dataset(self, sampler):
        """The batches of a sampler as a `tf.data.Dataset`, shifted by the recipe."""
        is_shifted = self.recipe.shift and self._is_image
        return sampler.dataset((self.x, self.labels), map_fn=self._shift_in_tensorflow if is_shifted else None)

    def _shift_in_tensorflow(self, x, y, seed):
        import tensorflow as tf

        def shift(x, seed):
            return shifted(x, self.recipe.shift, np.random.default_rng(seed.view("uint32")))

        # Not stateful: the seed of the batch determines its result.
        return tf.ensure_shape(tf.numpy_function(shift, [x, seed], x.dtype, stateful=False), x.shape), y

    def fit_arguments(self, full=False, initial_epoch=0):
        """Arguments of `model.fit`; batches are always full if `full` is set or if the recipe mixes."""
        sampler = self.full_batches() if full or self.recipe.mix else self.sampler
        return {
            "x": _Batches(self, sampler, first=initial_epoch * self.steps_per_epoch),
            "steps_per_epoch": self.steps_per_epoch,
            "initial_epoch": initial_epoch,
            "shuffle": False,
        }

    def rows(self, epoch, step):
        """The rows of a step if every example comes once in an epoch."""
        if self._order[0] != epoch:
            # Replaced and never changed, because several threads may read it.
            self._order = epoch, np.random.default_rng((self.seed, _ORDER, epoch)).permutation(len(self.y))
        return self._order[1][step * self.recipe.batch_size : (step + 1) * self.recipe.batch_size]

    def augmented(self, x, labels, *, epoch, step):
        """A batch after the random changes of the recipe."""
        rng = np.random.default_rng((self.seed, _AUGMENTATION, epoch, step))
        if self.recipe.shift and self._is_image:
            x = shifted(x, self.recipe.shift, rng)
        return self._mix(x, labels, rng) if self._mix else (x, labels)


class _Batches(keras.utils.PyDataset):
    """The batches of a `Training` from batch number `first` on, with a sampler or with every example once."""

    def __init__(self, training, sampler, *, first):
        super().__init__()
        self.training, self.sampler, self.first = training, sampler, first

    @property
    def num_batches(self):
        return None  # endless: `fit` ends more epochs than it trains, so epochs cannot be counted here

    def __getitem__(self, index):
        training, number = self.training, self.first + index
        epoch, step = divmod(number, training.steps_per_epoch)
        rows = self.sampler.rows(number) if self.sampler else training.rows(epoch, step)
        return training.augmented(training.x[rows], training.labels[rows], epoch=epoch, step=step)


def shifted(images, pixels, rng):
    """Images moved over zeros by up to `pixels` whole pixels either way, all equally likely; half of them are mirrored.

    Args:
        images: `[N, H, W, C]`.
        pixels: int ≥ 0.
        rng: NumPy's generator.
    """
    number, height, width = images.shape[:3]
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(2 * pixels + 1, size=(2, number))
    moved = np.moveaxis(windows[np.arange(number), top, left], 1, -1)
    is_mirrored = rng.random(number) < 0.5
    return np.where(is_mirrored[:, None, None, None], moved[:, :, ::-1], moved)


class _Mixing:
    """Shift, mirror and cutout of images, then MixUp or CutMix at random; rows of features get only MixUp."""

    def __init__(self, *, is_image):
        options = {"seed": 0, "dtype": "float32"}  # seeded again for each batch; float32 for any precision of the model
        self.single, self.mixers = [], [keras.layers.MixUp(alpha=0.2, **options)]
        if is_image:
            self.single = [
                keras.layers.RandomTranslation(1 / 8, 1 / 8, "constant", "nearest", **options),
                keras.layers.RandomFlip("horizontal", **options),
                keras.layers.RandomErasing((0.5, 0.5), scale=(0.02, 0.2), value_range=(0, 255), **options),
            ]
            self.mixers.append(keras.layers.CutMix(**options))
        self._states = [layer.generator.state for layer in (*self.single, *self.mixers)]

    def __call__(self, x, y, rng):
        # These layers draw from their states only.
        for state in self._states:
            state.assign(rng.integers(2**31, size=2))
        # Rows of features become images of one pixel, because Keras's layers accept only images.
        images = x.astype("float32").reshape(len(x), *([1] * (4 - x.ndim)), *x.shape[1:])
        for layer in self.single:
            images = layer(images, training=True)
        mixer = self.mixers[rng.integers(len(self.mixers))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype int64")  # from Keras's MixUp on JAX
            mixed = mixer({"images": images, "labels": y}, training=True)
        return keras.ops.convert_to_numpy(mixed["images"]).reshape(x.shape), keras.ops.convert_to_numpy(mixed["labels"])
