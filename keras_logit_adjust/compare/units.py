"""The units of a model's inputs: standardized columns of features, pixels from 0 to 255."""

import numpy as np

from keras_logit_adjust._checks import ArgumentError

_LARGEST = float(np.finfo("float32").max)
_FURTHEST = _LARGEST**0.5  # deviations: with larger numbers a sum of products with weights could overflow
_CONSTANT = 1e-12  # a deviation relative to the largest number of the column; below it is rounding
_AT_ONCE = 1 << 22  # numbers that are held in float64 at a time
_OTHER_RANGE = 50  # a range this many times as wide shows another unit


def scaler_of(dataset):
    """The `Scaler` of a data set's training examples, after a check that its held-out examples have the same units.

    Raises:
        ValueError: for numbers that float32 does not hold, before or after they are scaled; for test images in another
            range than those that are trained on.
    """
    for name in ("train", "validation", "test"):
        _check_size(getattr(dataset, name), name)
    scale = Scaler(dataset.train[0])
    for name in ("validation", "test"):
        if (split := getattr(dataset, name)) is not None:
            scale.check(split[0], "train" if name == "validation" else name)
    return scale


def _check_size(split, name):
    if split is None or split[0].dtype.kind != "f" or split[0].dtype.itemsize <= 4:
        return
    if max(split[0].max(), -split[0].min()) > _LARGEST:
        large = (np.abs(split[0]) > _LARGEST).reshape(len(split[0]), -1).any(axis=1)
        raise ArgumentError(
            "test" if name == "test" else "train",
            f"`{'test' if name == 'test' else 'train'}` must be numbers that float32 holds, up to {_LARGEST:.2g}. "
            f"Received larger ones in {large.sum()} examples: divide them, or take their logarithm.",
        )


class Scaler:
    """The units of the data, read from the training set.

    Columns of features get mean 0 and deviation 1, in whatever unit they were measured. A column that is constant in
        training becomes 0, because it carries no information. Images of whole numbers from 0 to 255 do not change. All
        other images, and images of 0 and 1 alone, are stretched: the smallest and the largest number in training become
        0 and 255.
    """

    def __init__(self, x):
        self.is_image = x.ndim > 2
        self.shift, self.unit = _range_of(x) if self.is_image else _moments_of(x)

    def __call__(self, x):
        if self.is_image and x.dtype == "uint8" and self.shift == 0 and self.unit == 1:
            return x
        scaled = np.empty(x.shape, "float32")
        for rows in _pieces(x):
            scaled[rows] = (x[rows] - self.shift) / self.unit
        return scaled

    def check(self, x, name):
        """Raise if held-out examples `x`, of the argument `name`, have other units than the training examples."""
        axes = None if self.is_image else 0
        low, high = x.min(axis=axes).astype("float64"), x.max(axis=axes).astype("float64")
        with np.errstate(over="ignore"):
            furthest = np.maximum(np.abs(low - self.shift), np.abs(high - self.shift)) / self.unit
        if not (furthest <= _FURTHEST).all():
            raise ArgumentError(
                name,
                f"`{name}` must be in the units of training. Received up to {furthest.max():.2g} deviations of the "
                f"training examples in column {int(np.argmax(furthest))}: bring it to the units of training, or leave "
                "the column out of both.",
            )
        if not self.is_image or high == low:
            return
        times = (high - low) / (255 * self.unit)
        if not 1 / _OTHER_RANGE <= times <= _OTHER_RANGE:
            raise ArgumentError(
                name,
                f"`{name}` must have pixels in the range of training, {self.shift:g} to "
                f"{self.shift + 255 * self.unit:g}. Received {low:g} to {high:g}: bring both to one range.",
            )


def _range_of(x):
    """The pixel values that become 0, and the size of one step of 255, for images."""
    low, high = float(x.min()), float(x.max())
    if low >= 0 and 1 < high <= 255 and all((x[rows] == np.floor(x[rows])).all() for rows in _pieces(x)):
        low, unit = 0.0, 1.0
    else:
        unit = (high - low) / 255 if high > low else 1.0
    return np.float64(low), np.float64(unit)  # a number of Python would let images in float16 overflow


def _moments_of(x):
    """The mean and the deviation of each column; the deviation of a constant column is infinite."""
    # Differences to the first row: in a constant column they are exactly 0.
    first, low, high = (row.astype("float64") for row in (x[0], x.min(axis=0), x.max(axis=0)))
    size = np.maximum(np.abs(low), np.abs(high))
    size[size == 0] = 1.0
    mean, square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows in _pieces(x):
        mean += ((x[rows] - first) / size).sum(axis=0) / len(x)
    for rows in _pieces(x):
        square += (((x[rows] - first) / size - mean) ** 2).sum(axis=0) / len(x)
    deviation = np.sqrt(square)
    return first + size * mean, np.where(deviation > _CONSTANT, size * deviation, np.inf)


def _pieces(x):
    """Slices of rows that are held in float64 at once."""
    step = max(1, _AT_ONCE // max(1, int(np.prod(x.shape[1:]))))
    return (slice(start, start + step) for start in range(0, len(x), step))
