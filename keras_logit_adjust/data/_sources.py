"""The sources of examples: embedded files, the user's arrays or `.npz`, and TensorFlow Datasets on disk.

Nothing here uses the network. If data is not on disk, the error names the command that downloads it.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import os
import pathlib

import numpy as np

from keras_logit_adjust import _arrays, _checks
from keras_logit_adjust.data import profiles

MAX_ARRAY_BYTES = 4 << 30  # larger data sets are streams
_IDS_OF_NAMES = f"Make ids of them, {_arrays.IDS_OF_NAMES}."
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclasses.dataclass(frozen=True)
class Source:
    """All examples of a data set, before a profile is applied.

    Attributes:
        train: `(x, y)` arrays. For sets that do not fit in memory `(tf.data.Dataset of (x, y), y)`.
        test: the same.
        class_names: list of `L` names.
        outside: validation examples of the source, or None.
        max_count: default number of examples of the largest class of a long tail. None means all examples.
    """

    train: tuple
    test: tuple
    class_names: list
    outside: tuple | None = None
    max_count: int | None = None

    def count(self, rows):
        """The number of examples of each class among the training examples `rows`, `[L]`."""
        return np.bincount(self.train[1][rows], minlength=len(self.class_names))


def is_stream(pair):
    """Whether the examples of `(x, y)` are a `tf.data.Dataset`. The splits of one source may differ in this."""
    return hasattr(pair[0], "element_spec")


def _read_embedded(name):
    with importlib.resources.files(__package__).joinpath(name).open("rb") as file:
        return dict(np.load(file))


@functools.cache
def read_fashion():
    """The Fashion-MNIST pool and test set inside the package (MIT license, see NOTICE beside it)."""
    arrays = _read_embedded("fashion_mnist_lt.npz")
    train, test = (
        (arrays[f"x_{split}"][..., None], arrays[f"y_{split}"].astype("int64")) for split in ("train", "test")
    )
    return Source(train, test, FASHION_CLASSES, max_count=1000)


@functools.cache
def read_banking():
    """The features of BANKING77, pool and test set, inside the package (CC BY 4.0, see NOTICE beside it).

    They are stored as int8 with a scale for each column: `x = scale · stored`. The rounding error is at most half a
    scale.
    """
    arrays = _read_embedded("banking77_lt.npz")
    train, test = (
        (arrays[f"x_{split}"] * arrays["scale"], arrays[f"y_{split}"].astype("int64")) for split in ("train", "test")
    )
    return Source(train, test, arrays["names"].tolist(), max_count=100)


def read_arrays(train, test):
    """The user's own data: `.npz` files with arrays `x` and `y`, or pairs (x, y)."""
    if test is None:
        raise _checks.ArgumentError(
            "test", "Data of your own needs a test set: give `test`, an .npz file or a pair (x, y)."
        )
    path = pathlib.Path(train) if isinstance(train, (str, os.PathLike)) else None
    train, test = _read_pair(train, "train"), _read_pair(test, "test")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise _checks.ArgumentError(
            "test",
            "Train and test examples must have one shape. "
            f"Received x of shape {train[0].shape[1:]} to train on and {test[0].shape[1:]} to test on.",
        )
    present = np.unique(train[1])
    num_classes = int(present[-1]) + 1
    absent = np.setdiff1d(np.arange(max(num_classes, 2)), present)
    if absent.size:
        raise _checks.ArgumentError(
            "train",
            "Training labels must be class ids 0, 1, … of at least two classes, each with an example. Received "
            f"{present.size} different ids up to {num_classes - 1}, without {_first(absent)}: number the classes with "
            "examples from 0, in the test data alike, and leave out test examples of the others.",
        )
    if test[1].max() >= num_classes:
        raise _checks.ArgumentError(
            "test",
            f"Every test label must occur in training. The largest training label is {num_classes - 1}, the largest "
            f"test label {test[1].max()}.",
        )
    return Source(train, test, _class_names(path, num_classes))


def _class_names(path, num_classes):
    """The array `class_names` of an `.npz` file, if it has one; otherwise the ids as names."""
    if path is not None:
        with np.load(path, allow_pickle=False) as file:
            if "class_names" in file:
                names = _texts_of(file, path)
                if len(names) != num_classes or len({*names}) != num_classes:
                    raise _checks.ArgumentError(
                        "train",
                        f"`class_names` of {path} must be {num_classes} different names, one for each class in order "
                        f"of id. Received {len(names)}, {len({*names})} different.",
                    )
                return names
    return [str(c) for c in range(num_classes)]


def _texts_of(file, path):
    """The array `class_names` of an open `.npz` file as texts."""
    try:
        names = file["class_names"]
    except ValueError as error:  # an array of objects
        raise _checks.ArgumentError(
            "train",
            f"`class_names` of {path} must be an array of texts. Received an array of objects, as pandas makes it: "
            "save np.array(class_names, dtype=str).",
        ) from error
    return (np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names.astype(str)).tolist()


def _read_pair(source, name):
    if isinstance(source, (str, os.PathLike)):
        source = read_npz(pathlib.Path(source))
    try:
        x, y = source
    except (TypeError, ValueError) as error:
        raise _checks.ArgumentError(
            name, f"`{name}` must be an .npz file or a pair (x, y). Received: {type(source).__name__}"
        ) from error
    x, y = _arrays.to_numpy(x, name), profiles.check_ids(_as_ids(y, name), f"`y` of `{name}`", argument=name)
    if x.ndim not in (2, 3, 4) or _arrays.kind_of(x.dtype) not in "uifb":
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be numbers: images [N, height, width, channels] or rows of features [N, columns]. "
            f"Received x of shape {x.shape}, dtype {x.dtype}.",
        )
    if len(x) != len(y):
        raise _checks.ArgumentError(
            name, f"`{name}` must have one label for each example. Received {len(x)} examples, {len(y)} labels."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be finite numbers. Received NaN or infinity in "
            f"{(~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum()} examples: leave them out.",
        )
    return (x[..., None] if x.ndim == 3 else x), y


def _first(ids):
    return f"{', '.join(map(str, ids[:8]))}{', …' * (ids.size > 8)}"


def _as_ids(y, name):
    """Labels as class ids. Floats that are whole numbers become integers. Class names are refused with a remedy."""
    y = _arrays.to_numpy(y, name, "an .npz file or a pair (x, y)")
    if y.size and (y.dtype.kind in "US" or (y.dtype.kind == "O" and isinstance(y.flat[0], (str, bytes)))):
        raise _checks.ArgumentError(
            name,
            f"`y` of `{name}` must be class ids 0, 1, …. Received names, {y.ravel()[:3].tolist()}. {_IDS_OF_NAMES}",
        )
    is_whole = y.dtype.kind == "f" and bool((np.abs(y) < 2**53).all()) and bool((y == np.floor(y)).all())
    return y.astype("int64") if is_whole else y


def read_npz(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"No such file: {path}. Make one with numpy.savez_compressed(path, x=examples, y=labels)."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("x", "y") if key in file}
    except Exception as error:  # a damaged archive raises errors of zipfile, zlib or NumPy
        remedy = f" If its labels are names: {_IDS_OF_NAMES}" if "allow_pickle" in str(error) else ""
        raise ValueError(f"{path} is not a NumPy .npz file of plain arrays: {error}.{remedy}") from error
    if len(arrays) != 2:
        raise ValueError(
            f"{path} must hold two arrays named x and y: numpy.savez_compressed(path, x=examples, y=labels)."
        )
    return arrays["x"], arrays["y"]


@functools.lru_cache(maxsize=2)
def read_tfds(name, data_dir):
    """A classification data set of TensorFlow Datasets that is already on disk."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(_tfds_directory(tfds, name, data_dir))
    reader = _TfdsReader(tfds, builder)
    splits = builder.info.splits
    test_split = next((split for split in ("test", "validation") if split in splits and reader.has_labels(split)), None)
    if "train" not in splits or test_split is None:
        raise _checks.ArgumentError(
            "name", f"Data set {name!r} must have a labeled train and test split. It has {sorted(splits)}."
        )
    outside = reader.read("validation") if "validation" in splits and test_split == "test" else None
    return Source(
        reader.read("train"), reader.read(test_split), list(builder.info.features[reader.label_key].names), outside
    )


def _tfds_directory(tfds, name, data_dir):
    root = os.environ.get("TFDS_DATA_DIR") or pathlib.Path.home() / "tensorflow_datasets"
    root = pathlib.Path(root if data_dir is None else data_dir)
    depths = ("*", "*/*") if name.split("/")[0].isidentifier() else ()  # refuse an empty name, a pattern and a path
    if found := [info for depth in depths for info in sorted((root / name).glob(f"{depth}/dataset_info.json"))]:
        return max(
            (path.parent for path in found),
            key=lambda folder: [int(part) if part.isdigit() else -1 for part in folder.name.split(".")],
        )
    # `tfds.builder` would use the network, and retry for minutes.
    known = tfds.list_builders(with_community_datasets=False)
    if name.split("/")[0] not in known:
        near = difflib.get_close_matches(
            name, ["fashion_mnist_lt", "banking77_lt", "cifar10_lt", "cifar100_lt", *known], n=3
        )
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise _checks.ArgumentError(
            "name", f"Unknown data set {name!r}: no name of this package, nor of TensorFlow Datasets.{hint}"
        )
    where = f", data_dir={str(root)!r}" if data_dir else ""
    raise FileNotFoundError(
        f"Data set {name!r} is not on disk under {root}. Download it once with\n"
        f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{where}).download_and_prepare()"\n'
        "or name the folder that has it: data_dir=…"
    )


class _TfdsReader:
    """Reads splits in their stored order. They are arrays if they fit in memory, and streams if not."""

    def __init__(self, tfds, builder):
        features = dict(builder.info.features.items())
        image_key, label_key = (
            builder.info.supervised_keys
            or [
                next((key for key, value in features.items() if isinstance(value, kind)), None)
                for kind in (tfds.features.Image, tfds.features.ClassLabel)
            ]
        )[:2]
        if image_key is None or not isinstance(features.get(label_key), tfds.features.ClassLabel):
            raise _checks.ArgumentError(
                "name", f"Data set {builder.name!r} is no classification set: it needs an image and a class label."
            )
        self.builder, self.image_key, self.label_key = builder, image_key, label_key
        self.in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        self.skip = {image_key: tfds.decode.SkipDecoding()}

    def read(self, split):
        from tqdm import tqdm

        batches = self._dataset(split, decoders=self.skip).map(lambda example: example[self.label_key]).batch(8192)
        labels = np.concatenate(list(batches.as_numpy_iterator())).astype("int64")
        feature = self.builder.info.features[self.image_key]
        shape, dtype = feature.shape, feature.np_dtype
        if None in shape or np.prod(shape) * np.dtype(dtype).itemsize * labels.size > MAX_ARRAY_BYTES:
            return self._pairs(split), labels
        images = np.empty((labels.size, *shape), dtype)
        with tqdm(total=labels.size, desc=f"reading {self.builder.name} {split}", delay=2, unit="image") as bar:
            for batch, _ in self._pairs(split).batch(1024).as_numpy_iterator():
                images[bar.n : bar.n + len(batch)] = batch
                bar.update(len(batch))
        return images, labels

    def has_labels(self, split):
        return next(self._dataset(split, decoders=self.skip).take(1).as_numpy_iterator())[self.label_key] >= 0

    def _pairs(self, split):
        return self._dataset(split).map(lambda example: (example[self.image_key], example[self.label_key]))

    def _dataset(self, split, **options):
        return self.builder.as_dataset(split=split, shuffle_files=False, read_config=self.in_order, **options)
