"""What a comparison depends on. Every field is an option of the command line, too, and says here how it is parsed."""

import dataclasses
import pathlib

from keras_logit_adjust import _checks, data
from keras_logit_adjust.compare import devices, noise, recipes
from keras_logit_adjust.data.datasets import VALIDATIONS
from keras_logit_adjust.data.profiles import PROFILES

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


def _option(default, group, **parsing):
    """A field with the group of its option, what `argparse` is told of it, and its `flag` where that is no field's."""
    return dataclasses.field(default=default, metadata={"group": group, **parsing})


@dataclasses.dataclass(frozen=True)
class Config:
    """What a comparison depends on, except for which methods and how many seeds: those may grow.

    Attributes:
        dataset: a name `kla.data.load` knows; ignored with `train` and `test`.
        train: path of an `.npz` file with arrays x and y.
        test: the same.
        data_dir: folder of TFDS data.
        imbalance_ratio: the largest count over the smallest.
        profile: as in `kla.data.load`.
        max_count: as in `kla.data.load`.
        validation: as in `kla.data.load`.
        label_noise: share of the largest class that is labeled as the smallest in training.
        recipe: "quick", "paper", "released" or "strong".
        optimizer: "auto" for the recipe's, or "sgd" (with momentum) or "adam", at a rate that suits it.
        epochs: overrides the recipe's, stretching its schedule.
        batch_size: overrides the recipe's.
        model: "auto", "small_cnn", "resnet32", "linear" or "cosine".
        precision: Keras's dtype policy, "float32", "mixed_float16" or "mixed_bfloat16".
        strategy: None for one device, or "mirrored" (`tf.distribute.MirroredStrategy`), "multi_worker" (the processes
            of `TF_CONFIG`, all of which call `compare`), "jax_data_parallel" (`keras.distribution.DataParallel`).
        devices: how many devices, or workers, share every batch; by default all.
    """

    dataset: str = _option("fashion_mnist_lt", "data", help="%(default)s, cifar10_lt, cifar100_lt, a TFDS name")
    train: str | None = _option(None, "data", metavar="FILE.npz", help="your own training set, arrays x and y")
    test: str | None = _option(None, "data", metavar="FILE.npz", help="your own test set, arrays x and y")
    data_dir: str | None = _option(None, "data", help="folder of TensorFlow Datasets' data")
    imbalance_ratio: float = _option(100.0, "data", flag="--ratio", help="imbalance ratio (100)")
    profile: str = _option("auto", "data", choices=("auto", "none", *PROFILES))
    max_count: int | None = _option(None, "data", help="examples of the largest class; by default as many as there are")
    validation: str = _option("stratified", "data", choices=VALIDATIONS)
    label_noise: float = _option(
        0.0, "data", metavar="SHARE", help="of the largest class, labeled as the smallest in training (%(default)s)"
    )
    recipe: str = _option("quick", "training", choices=recipes.RECIPES)
    optimizer: str = _option("auto", "training", choices=recipes.OPTIMIZERS, help="instead of the recipe's")
    epochs: int | None = _option(None, "training", help="instead of the recipe's; its schedule is stretched")
    batch_size: int | None = _option(None, "training", help="instead of the recipe's")
    model: str = _option("auto", "training", choices=recipes.MODELS)
    precision: str = _option("float32", "training", choices=PRECISIONS)
    strategy: str | None = _option(
        None, "devices", choices=devices.STRATEGIES, help="share every batch; multi_worker reads TF_CONFIG"
    )
    devices: int | None = _option(
        None, "devices", help="how many devices (parts of the processor) or workers; all by default"
    )

    def __post_init__(self):
        if (self.train is None) != (self.test is None):
            raise _checks.ArgumentError(
                "train", "`train` and `test` go together: an .npz file each, with arrays x and y."
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "choices" in field.metadata and value is not None:
                _checks.check_choice(value, field.name, field.metadata["choices"])
            if field.type == int | None and value is not None:
                _checks.check_integer(value, field.name, minimum=1)
        _checks.check_fraction(self.label_noise, "label_noise")
        if self.devices is not None and self.strategy is None:
            raise _checks.ArgumentError("devices", f"`devices` needs a `strategy`: {', '.join(devices.STRATEGIES)}.")
        if self.recipe == "strong" and self.strategy in ("mirrored", "multi_worker"):
            raise _checks.ArgumentError(
                "strategy",
                "`recipe` 'strong' mixes its batches in NumPy, outside of TensorFlow. Received: "
                f"strategy={self.strategy!r}. Choose the recipe 'quick', 'paper' or 'released'.",
            )

    def load(self, seed):
        """The data of one seed."""
        loaded = data.load(
            self.dataset if self.train is None else pathlib.Path(self.train),
            imbalance_ratio=self.imbalance_ratio,
            profile=self.profile,
            validation=self.validation,
            seed=seed,
            data_dir=self.data_dir,
            test=self.test,
            max_count=self.max_count,
        )
        if not all(isinstance(split, (tuple, type(None))) for split in (loaded.train, loaded.validation, loaded.test)):
            raise _checks.ArgumentError(
                "dataset",
                f"`dataset` must have images of one size that fit in memory; {self.dataset!r} streams. Resize it into "
                "an .npz file, or extract features, and give `train` and `test`.",
            )
        return noise.mislabel(loaded, self.label_noise)


def flag_of(field):
    """The option of a field."""
    return field.metadata.get("flag", f"--{field.name.replace('_', '-')}")


def options_of(config, methods=None, seeds=None):
    """The command-line options that are not at their defaults."""
    options = {"--methods": methods and ",".join(methods), "--seeds": seeds}
    options |= {
        flag_of(field): getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default
    }
    return [word for flag, value in options.items() if value is not None for word in (flag, str(value))]
