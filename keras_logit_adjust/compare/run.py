"""Running a comparison: train what is missing, keep what is finished, gather the results."""

import contextlib
import dataclasses
import json
import pathlib
import shlex
import shutil
import sys
import time

import keras
import numpy as np
from tqdm import tqdm

from keras_logit_adjust import _checks, data
from keras_logit_adjust.compare import devices, noise, recipes, report, statistics, storage, training, tuning
from keras_logit_adjust.compare.methods import GROUPS, METHODS, combine, trainings_of
from keras_logit_adjust.compare.published import published_error

DEFAULT_METHODS = ("erm", "class_weight", "la_posthoc", "la_loss")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


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

    dataset: str = "fashion_mnist_lt"
    train: str | None = None
    test: str | None = None
    data_dir: str | None = None
    imbalance_ratio: float = 100.0
    profile: str = "auto"
    max_count: int | None = None
    validation: str = "stratified"
    label_noise: float = 0.0
    recipe: str = "quick"
    optimizer: str = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    model: str = "auto"
    precision: str = "float32"
    strategy: str | None = None
    devices: int | None = None

    def __post_init__(self):
        if (self.train is None) != (self.test is None):
            raise ValueError("--train and --test go together: an .npz file each, with arrays x and y.")
        _checks.check_choice(self.recipe, "recipe", recipes.RECIPES)
        _checks.check_choice(self.optimizer, "optimizer", recipes.OPTIMIZERS)
        _checks.check_choice(self.model, "model", recipes.MODELS)
        _checks.check_choice(self.precision, "precision", PRECISIONS)
        _checks.check_fraction(self.label_noise, "label_noise")
        if self.strategy is not None:
            _checks.check_choice(self.strategy, "strategy", devices.STRATEGIES)
        elif self.devices is not None:
            raise ValueError(f"--devices needs --strategy: {', '.join(devices.STRATEGIES)}.")
        if self.recipe == "strong" and self.strategy in ("mirrored", "multi_worker"):
            raise ValueError(
                f"Recipe 'strong' mixes its batches in NumPy, outside of TensorFlow. Received: --strategy "
                f"{self.strategy}. Use --recipe quick, paper or released."
            )
        for name in ("epochs", "batch_size", "max_count", "devices"):
            if getattr(self, name) is not None:
                _checks.check_integer(getattr(self, name), name, minimum=1)

    def load(self, seed):
        """The data of one seed."""
        own = self.train is not None
        loaded = data.load(
            pathlib.Path(self.train) if own else self.dataset,
            imbalance_ratio=self.imbalance_ratio,
            profile=self.profile,
            validation=self.validation,
            seed=seed,
            data_dir=self.data_dir,
            test=self.test,
            max_count=self.max_count,
        )
        if not all(isinstance(split, (tuple, type(None))) for split in (loaded.train, loaded.validation, loaded.test)):
            raise ValueError(
                f"`compare` trains on images of one size that fit in memory; {self.dataset!r} streams. Resize it into "
                "an .npz file, or extract features, and give --train and --test."
            )
        return noise.mislabel(loaded, self.label_noise)


def compare(config=None, methods=DEFAULT_METHODS, seeds=3, output=None):
    """Train every method on every seed's long tail and report them against plain cross-entropy.

    Each seed redraws the subset and the initialization, the same for all methods. A finished run is written to disk at
    once: after an interruption the same call goes on from there.

    Args:
        config: a `Config`; the embedded data and the quick recipe by default.
        methods: names in `METHODS` or in `GROUPS`; "erm", which the others are compared with, is added where it is
            missing.
        seeds: how many.
        output: folder for results.json, predictions.npz, report.md, report.html and figures; none are kept by default.

    Returns:
        The content of results.json: configuration, versions, figures of every run, means, differences to ERM. None on
        all workers but the chief, which alone writes.

    Raises:
        ValueError: for an unknown method, a folder made by another configuration, data that does not fit, a strategy of
            another backend, batches that do not divide by the devices.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train", "test"):
    ...     np.savez(folder / name, x=np.eye(2)[[0, 0, 0, 1]], y=[0, 0, 0, 1])
    >>> files = {"train": str(folder / "train.npz"), "test": str(folder / "test.npz")}
    >>> results = compare(Config(**files, epochs=1, validation="none"), methods=["la_posthoc"], seeds=1)
    >>> list(results["methods"])
    ['erm', 'la_posthoc']

    Reference: Menon et al. (2021), §6.2, table 3.
    """
    return compare_with_predictions(config, methods, seeds, output)[0]


def compare_with_predictions(config=None, methods=DEFAULT_METHODS, seeds=3, output=None):
    """As `compare`, returning the content of predictions.npz too: logits by method and seed, norms of class weights."""
    config = config or Config()
    methods = _check_methods(methods, config)
    seeds = _checks.check_integer(seeds, "seeds", minimum=1)
    folder = pathlib.Path(output) if output else storage.cache_folder(storage.identity(config), methods, seeds)
    storage.check_folder(folder, config)
    started = time.time()
    try:
        with devices.opened(config.strategy, config.devices) as used:
            loaded = _train_missing(config, methods, seeds, folder, used)
    except KeyboardInterrupt:
        kept = len(list((folder / "runs").glob("*.npz")))
        print(f"\nInterrupted. {kept} finished runs are kept in {folder}: the same command goes on from there.")
        raise
    if not used.is_chief:
        return None, None
    results, predictions = _gather(config, methods, seeds, folder, loaded)
    results["seconds"] = round(time.time() - started, 1)
    if output:
        storage.write_npz(folder / "predictions.npz", predictions)
        storage.write_text(folder / "results.json", json.dumps(results, indent=1))
        report.write(folder, results, predictions)
    else:
        shutil.rmtree(folder)
    return results, predictions


def _check_methods(methods, config):
    """The names of the rows, groups spelled out."""
    methods = methods.split(",") if isinstance(methods, str) else methods
    methods = [name for given in methods for name in GROUPS.get(given, (given,))]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        known = ", ".join((*METHODS, *GROUPS))
        raise ValueError(f"Unknown method {', '.join(map(repr, unknown))}. Known: {known}.")
    tuned = [name for name in methods if METHODS[name].tuned_on == "validation"]
    if tuned and config.validation == "none":
        raise ValueError(
            f"Method {tuned[0]!r} chooses τ on the validation set. Received --validation none: use stratified, or "
            "leave it out."
        )
    return list(dict.fromkeys(["erm", *methods] if "erm" not in methods else methods))


def _train_missing(config, methods, seeds, folder, used):
    """Train every run that is not on disk; returns the data set of each seed."""
    trainings = list(dict.fromkeys(trained_as for name in methods for trained_as in trainings_of(name)))
    loaded = [config.load(seed) for seed in range(seeds)]
    model_name = recipes.resolve_model(config.model, loaded[0].train[0].shape[1:])
    heads = {name: METHODS[name].head(loaded[0].class_counts) for name in trainings}
    recipes.check_heads(model_name, heads, [name for name in methods if METHODS[name].needs_dense])
    examples = int(loaded[0].class_counts.sum())
    options = (config.epochs, config.batch_size, examples, config.optimizer)
    recipe = recipes.find_recipe(config.recipe, config.dataset, *options)
    if used.number > 1 and recipe.batch_size % used.number:
        raise ValueError(
            f"Batches must divide by the devices that share them. Received: batches of {recipe.batch_size} for "
            f"{used.number} devices. Give --batch-size."
        )
    todo = [
        (seed, name) for seed in range(seeds) for name in trainings if not storage.is_stored(folder, name, loaded[seed])
    ]
    used.check_agreement(todo)
    # Not before the data is there: a command that cannot run leaves nothing behind.
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    # A log file gets a line now and then, a terminal a bar that moves.
    pace = {"mininterval": 0.1 if sys.stderr.isatty() else 20.0, "disable": not todo or not used.is_chief}
    epochs = sum(training.epochs_of(METHODS[name], recipe) for _, name in todo)
    with _precision(config.precision), tqdm(total=epochs, unit="epoch", **pace) as bar:
        for seed, name in todo:
            bar.set_description(f"seed {seed} {name}", refresh=False)
            run = training.train(config, recipe, METHODS[name], loaded[seed], bar, used)
            if not used.is_chief:
                continue
            # Not before there is a run to keep: a mistyped option must not claim the folder.
            storage.write_text(folder / "config.json", json.dumps(storage.identity(config), indent=1))
            run["split_hash"] = np.array(loaded[seed].split_hash)
            storage.write_npz(storage.run_path(folder, name, seed), run)
    return loaded


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _gather(config, methods, seeds, folder, loaded):
    """The results of all runs on disk, and the predictions they rest on."""
    labels = loaded[0].test[1]
    counts = np.stack([dataset.class_counts for dataset in loaded])
    predictions = {"labels": labels, "class_counts": counts}
    rows, seconds, taus = {name: [] for name in methods}, {}, {name: [] for name in methods}
    for name in methods:
        for seed, dataset in enumerate(loaded):
            runs = {trained_as: _load_run(folder, trained_as, seed) for trained_as in trainings_of(name)}
            logits, tau = tuning.corrected(METHODS[name], combine(list(runs.values())), counts[seed], dataset)
            for trained_as, run in runs.items():
                seconds[f"{trained_as}_seed{seed}"] = round(float(run["seconds"]), 2)
                if "class_norms" in run:
                    predictions[f"class_norms_{trained_as}_seed{seed}"] = run["class_norms"]
            predictions[f"{name}_seed{seed}"] = logits
            rows[name].append(statistics.figures(labels, logits, counts[seed]))
            taus[name] += [] if tau is None else [tau]
    results = {
        "config": storage.identity(config),
        "command": _command(config, methods, seeds),
        "versions": storage.versions(),
        "data": {"name": loaded[0].name, "validation": config.validation, "profile": loaded[0].profile},
        "class_counts": counts[0].tolist(),
        "split_hashes": [dataset.split_hash for dataset in loaded],
        "train_seconds": seconds,
        "methods": summarize_methods(rows, predictions),
    }
    where = (loaded[0].name, loaded[0].profile, config.imbalance_ratio, config.max_count)
    for name, method in results["methods"].items():
        if taus[name]:
            method["tau"] = taus[name]
        method["published_error"] = None if config.label_noise else published_error(*where, name)
    return results, predictions


def _load_run(folder, trained_as, seed):
    with np.load(storage.run_path(folder, trained_as, seed)) as stored:
        return dict(stored)


def summarize_methods(rows, predictions):
    """Means, deviations and differences to ERM of every method, from its rows and the predictions."""
    labels = predictions["labels"]
    seeds = range(len(rows["erm"]))
    hits = {
        name: np.stack([predictions[f"{name}_seed{seed}"].argmax(axis=-1) == labels for seed in seeds]) for name in rows
    }
    return {
        name: {
            "title": METHODS[name].title,
            "seeds": rows[name],
            "summary": statistics.summarize(rows[name]),
            "versus_erm": None if name == "erm" else statistics.paired_difference(labels, hits[name], hits["erm"]),
        }
        for name in rows
    }


def _command(config, methods, seeds):
    """The command that repeats the comparison."""
    return shlex.join(["keras-logit-adjust", "compare", *options_of(config, methods, seeds)])


def options_of(config, methods=None, seeds=None):
    """The command-line options that are not at their defaults."""
    words = [] if methods is None else ["--methods", ",".join(methods)]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-').replace('imbalance-', '')}", str(value)]
    return words
