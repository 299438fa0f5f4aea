"""The settings of a comparison. Every field is also an option of the command line and holds its parsing rules."""

import dataclasses
import numbers
import os
import pathlib
import typing

from keras_logit_adjust import _checks, data
from keras_logit_adjust.compare import devices, noise, recipes
from keras_logit_adjust.data import datasets
from keras_logit_adjust.data.datasets import VALIDATIONS
from keras_logit_adjust.data.profiles import PROFILES

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_DEFAULT = "fashion_mnist_lt"
_MOST = 2**31 - 1  # the largest number of a step or a shape in the backends
_MOST_CLASSES = 50_000  # iNaturalist has 8,142; with ten times as many, all test logits would fill the memory


def _option(default, group, **parsing):
    """A field with the group of its option, arguments for `argparse`, and its `flag` if it is not the field's name."""
    return dataclasses.field(default=default, metadata={"group": group, **parsing})


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that a comparison depends on, without the methods and the number of seeds, which may grow.

    Attributes:
        dataset: a name `kla.data.load` knows, such as the embedded "fashion_mnist_lt" (by default) or "banking77_lt";
            or `train` and `test`.
        train: path of an `.npz` file with arrays x and y. Columns of features are standardized. Images of whole numbers
            from 0 to 255 stay as they are; others are stretched from their range in training to 0 … 255.
        test: the same, in the units of `train`.
        data_dir: folder of TFDS data.
        imbalance_ratio: the largest count over the smallest, where a profile is imposed; by default as `kla.data.load`.
        profile: as in `kla.data.load`.
        max_count: as in `kla.data.load`, where a profile is imposed.
        validation: as in `kla.data.load`.
        label_noise: share of the largest class that is labeled as the smallest in training; by default 0, in the study
            of label noise 0.01.
        recipe: "quick", "paper", "released" or "strong"; for features of a frozen model "linear_probe", the optimum of
            a penalized linear classifier (`kla.held_out.fit_linear_probe`) in place of training.
        optimizer: "auto" for the recipe's, or "sgd" (with momentum) or "adam", at a rate that suits it.
        epochs: overrides the recipe's, stretching its schedule.
        batch_size: overrides the recipe's.
        weight_decay: overrides the recipe's `λ` of the penalty `λ/2·‖w‖²`, for "resnet32".
        model: "auto", "small_cnn", "resnet32", "linear" or "cosine".
        precision: Keras's dtype policy, "float32", "mixed_float16" or "mixed_bfloat16".
        strategy: None for one device, or "mirrored" (`tf.distribute.MirroredStrategy`), "multi_worker" (the processes
            of `TF_CONFIG`, all of which call `compare`), "jax_data_parallel" (`keras.distribution.DataParallel`).
        devices: how many devices, or workers, share every batch; by default all.
    """

    dataset: str | None = _option(
        None, "data", help=f"{_DEFAULT} (default), banking77_lt, cifar10_lt, cifar100_lt, a TFDS name"
    )
    train: str | None = _option(
        None,
        "data",
        metavar="FILE.npz",
        help="your own training set, arrays x (rows are standardized; images are stretched to 0 … 255, unless they "
        "are whole numbers in this range) and y (ids)",
    )
    test: str | None = _option(None, "data", metavar="FILE.npz", help="your own test set, in the units of --train")
    data_dir: str | None = _option(None, "data", help="folder of TensorFlow Datasets' data")
    imbalance_ratio: float | None = _option(
        None, "data", flag="--ratio", help="imbalance ratio of the profile that is imposed (100; banking77_lt: 50)"
    )
    profile: str = _option("auto", "data", choices=("auto", "none", *PROFILES))
    max_count: int | None = _option(None, "data", help="examples of the largest class; by default all that there are")
    validation: str = _option("stratified", "data", choices=VALIDATIONS)
    label_noise: float | None = _option(
        None,
        "data",
        metavar="SHARE",
        help="share of the largest class that is labeled as the smallest in training (0; in its study 0.01)",
    )
    recipe: str = _option("quick", "training", choices=recipes.RECIPES)
    optimizer: str = _option("auto", "training", choices=recipes.OPTIMIZERS, help="instead of the recipe's")
    epochs: int | None = _option(None, "training", help="instead of the recipe's; its schedule is stretched")
    batch_size: int | None = _option(None, "training", help="instead of the recipe's")
    weight_decay: float | None = _option(
        None, "training", metavar="LAMBDA", help="λ of resnet32's penalty λ/2·‖w‖², instead of the recipe's"
    )
    model: str = _option("auto", "training", choices=recipes.MODELS)
    precision: str = _option("float32", "training", choices=PRECISIONS)
    strategy: str | None = _option(
        None, "devices", choices=devices.STRATEGIES, help="share every batch; multi_worker reads TF_CONFIG"
    )
    devices: int | None = _option(
        None, "devices", help="number of devices (parts of the CPU) or workers; by default all"
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                # In the form for JSON: a value that JSON cannot hold must raise before the training, not after it.
                object.__setattr__(self, field.name, _plain(value, field))
        if (self.train is None) != (self.test is None):
            raise _checks.ArgumentError(
                "train", "`train` and `test` go together: an .npz file each, with arrays x and y."
            )
        self._check_used()
        if self.devices is not None and self.strategy is None:
            raise _checks.ArgumentError("devices", f"`devices` needs a `strategy`: {', '.join(devices.STRATEGIES)}.")
        if self.recipe == "strong" and self.strategy in ("mirrored", "multi_worker"):
            raise _checks.ArgumentError(
                "strategy",
                "`recipe` 'strong' mixes its batches in NumPy, outside of TensorFlow. Received: "
                f"strategy={self.strategy!r}. Choose the recipe 'quick', 'paper' or 'released'.",
            )

    def _check_used(self):
        """Raise for a field that has no effect beside the others."""
        why = dict.fromkeys(("dataset", "data_dir"), "`train` and `test` are the data" * (self.train is not None))
        if (name := self.settled()["dataset"]) in datasets.EMBEDDED:
            why["data_dir"] = f"{name!r} is inside the package"
        mix = "the data keeps its own class mix (set `profile` to impose one)" * (self._imposed() == "none")
        why |= dict.fromkeys(("imbalance_ratio", "max_count"), mix)
        if self.recipe == "linear_probe":
            optimum = "`recipe` 'linear_probe' finds an optimum in float64, without steps"
            why |= dict.fromkeys(
                ("epochs", "batch_size", "optimizer", "weight_decay", "precision", "strategy", "model"), optimum
            )
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for field, reason in why.items():
            if reason and (value := getattr(self, field)) != defaults[field]:
                raise _checks.ArgumentError(
                    field, f"`{field}` would change nothing: {reason}. Received: {field}={value!r}. Leave it out."
                )

    def _imposed(self):
        """The profile that is imposed on the data, or "none"."""
        name = _DEFAULT if self.dataset is None else self.dataset
        return datasets.resolve_profile(name if self.train is None else pathlib.Path(self.train), self.profile)

    def settled(self):
        """`{field: value}`, with defaults for open fields; None for a field that has no effect."""
        defaults = {
            "dataset": _DEFAULT if self.train is None else None,
            "imbalance_ratio": None if self._imposed() == "none" else float(datasets.default_ratio(self.dataset)),
            "label_noise": 0.0,
        }
        values = dataclasses.asdict(self)
        return values | {name: value for name, value in defaults.items() if values[name] is None}

    def load(self, seed):
        """The data of one seed."""
        settled = self.settled()
        loaded = data.load(
            settled["dataset"] if self.train is None else pathlib.Path(self.train),
            imbalance_ratio=settled["imbalance_ratio"],
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
                f"`dataset` must have images of one size that fit in memory; {settled['dataset']!r} streams. Resize it "
                "into an .npz file, or extract features, and give `train` and `test`.",
            )
        if loaded.num_classes > _MOST_CLASSES:
            raise _checks.ArgumentError(
                "dataset" if self.train is None else "train",
                f"A comparison takes at most {_MOST_CLASSES:,} classes: it trains heads of all logits, and keeps the "
                f"logits of all test examples. Received {loaded.num_classes:,} classes. Remedy: "
                "`kla.layers.ManyClassModel`, which trains and serves a million; see docs/guide/many_classes.md.",
            )
        for name in ("test", "validation"):
            split = getattr(loaded, name)
            if split is not None and not ((split[1] >= 0) & (split[1] < loaded.num_classes)).all():
                raise _checks.ArgumentError(
                    "dataset" if self.train is None else "test",
                    f"Labels of the {name} set must be the ids 0 … {loaded.num_classes - 1} of the classes trained on. "
                    f"Received {split[1].min()} to {split[1].max()}.",
                )
        return noise.mislabel(loaded, settled["label_noise"])


def _plain(value, field):
    """The `value` of a field as a plain string or number, after a check."""
    name, kind = field.name, next(iter(typing.get_args(field.type)), field.type)
    if "choices" in field.metadata:
        return _checks.check_choice(value, name, field.metadata["choices"])
    if kind is int:
        number = _checks.check_integer(value, name, minimum=1)
        if number > _MOST:
            raise _checks.ArgumentError(name, f"`{name}` must be at most {_MOST:,}. Received: {name}={number}")
        return number
    if name == "label_noise":
        return _checks.check_fraction(value, name)
    if name == "weight_decay":
        return _checks.check_number(value, name, 0)
    if kind is float:  # its range depends on the data
        return float(value) if isinstance(value, numbers.Real) else value
    return as_text(value, name)


def as_text(value, name):
    """A name or a path as text, after a check that it is valid as a file's name and in a report."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise _checks.ArgumentError(name, f"`{name}` must be a name or a path. Received: {name}={value!r}")
    if "\0" in text or not (text or name == "dataset"):
        raise _checks.ArgumentError(name, f"`{name}` must be a path. Received: {name}={text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _checks.ArgumentError(
            name,
            f"`{name}` must be a path in UTF-8, as reports name it. Received: {name}={ascii(text)}. Rename the file.",
        ) from error
    return text


def as_config(config):
    """`config`, or the default one for None; an error for anything else."""
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise _checks.ArgumentError(
            "config", f"`config` must be a `keras_logit_adjust.compare.Config`. Received: a {type(config).__name__}."
        )
    return config


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
