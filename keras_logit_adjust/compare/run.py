"""Running a comparison: train what is missing, keep what is finished, gather the results."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import shlex
import shutil
import sys
import time

import keras
import numpy as np
from tqdm.auto import tqdm

from keras_logit_adjust import _checks, data
from keras_logit_adjust.compare import recipes, report, statistics
from keras_logit_adjust.compare.methods import METHODS, training_of

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
        recipe: "quick", "paper" or "released".
        epochs: overrides the recipe's, stretching its schedule.
        batch_size: overrides the recipe's.
        model: "auto", "small_cnn", "resnet32", "linear" or "cosine".
        precision: Keras's dtype policy, "float32", "mixed_float16" or "mixed_bfloat16".
    """

    dataset: str = "fashion_mnist_lt"
    train: str | None = None
    test: str | None = None
    data_dir: str | None = None
    imbalance_ratio: float = 100.0
    profile: str = "auto"
    max_count: int | None = None
    validation: str = "stratified"
    recipe: str = "quick"
    epochs: int | None = None
    batch_size: int | None = None
    model: str = "auto"
    precision: str = "float32"

    def __post_init__(self):
        if (self.train is None) != (self.test is None):
            raise ValueError("--train and --test go together: an .npz file each, with arrays x and y.")
        _checks.check_choice(self.recipe, "recipe", recipes.RECIPES)
        _checks.check_choice(self.model, "model", recipes.MODELS)
        _checks.check_choice(self.precision, "precision", PRECISIONS)
        for name in ("epochs", "batch_size", "max_count"):
            if getattr(self, name) is not None:
                _checks.check_integer(getattr(self, name), name, minimum=1)

    def load(self, seed):
        """The data of one seed."""
        own = self.train is not None
        loaded = data.load(
            pathlib.Path(self.train) if own else self.dataset,
            self.imbalance_ratio,
            self.profile,
            self.validation,
            seed,
            self.data_dir,
            test=self.test,
            max_count=self.max_count,
        )
        if not all(isinstance(split, (tuple, type(None))) for split in (loaded.train, loaded.validation, loaded.test)):
            raise ValueError(
                f"`compare` trains on images of one size that fit in memory; {self.dataset!r} streams. Resize it into "
                "an .npz file, or extract features, and give --train and --test."
            )
        return loaded


def compare(config=None, methods=DEFAULT_METHODS, seeds=3, output=None):
    """Train every method on every seed's long tail and report them against plain cross-entropy.

    Each seed redraws the subset and the initialization, the same for all methods. A finished run is written to disk at
    once: after an interruption the same call goes on from there.

    Args:
        config: a `Config`; the embedded data and the quick recipe by default.
        methods: names in `METHODS`; "erm", which the others are compared with, is added where it is missing.
        seeds: how many.
        output: folder for results.json, predictions.npz, report.md and figures; none are kept by default.

    Returns:
        The content of results.json: configuration, versions, figures of every run, means, differences to ERM.

    Raises:
        ValueError: for an unknown method, a folder made by another configuration, data that does not fit.

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
    config = config or Config()
    methods = _check_methods(methods)
    seeds = _checks.check_integer(seeds, "seeds", minimum=1)
    folder = pathlib.Path(output) if output else _cache_folder(config, methods, seeds)
    _claim(folder, config)
    started = time.time()
    try:
        loaded = _train_missing(config, methods, seeds, folder)
    except KeyboardInterrupt:
        kept = len(list((folder / "runs").glob("*.npz")))
        print(f"\nInterrupted. {kept} finished runs are kept in {folder}: the same command goes on from there.")
        raise
    results, predictions = _gather(config, methods, seeds, folder, loaded)
    results["seconds"] = round(time.time() - started, 1)
    if output:
        _write_npz(folder / "predictions.npz", predictions)
        _write_text(folder / "results.json", json.dumps(results, indent=1))
        report.write(folder, results, predictions)
    else:
        shutil.rmtree(folder)
    return results


def _check_methods(methods):
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(f"Unknown method {', '.join(map(repr, unknown))}. Known: {', '.join(METHODS)}.")
    return list(dict.fromkeys(["erm", *methods] if "erm" not in methods else methods))


def _cache_folder(config, methods, seeds):
    """Where unfinished work of one command waits when no output folder is given."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    command = json.dumps([_identity(config), methods, seeds], sort_keys=True)
    key = hashlib.sha256(command.encode()).hexdigest()
    return root / "keras_logit_adjust" / key[:16]


def _identity(config):
    """What stored runs depend on."""
    versions = _versions()
    return {**dataclasses.asdict(config), **{key: versions[key] for key in ("backend", "keras", "keras_logit_adjust")}}


def _claim(folder, config):
    """Make `folder`, or say which other configuration it belongs to: that of the finished runs in it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder. {folder} is a file.")
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    mine = _identity(config)
    for name, key in (("config.json", None), ("results.json", "config")):
        path = folder / name
        if not path.exists():
            continue
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            theirs = stored if key is None else stored[key]
            other = {field: theirs.get(field) for field in mine if theirs.get(field) != mine[field]}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is broken ({error}). Remove it, or choose another --output.") from error
        if other:
            field, value = next(iter(other.items()))
            raise ValueError(
                f"{folder} holds results of another configuration: its {field} is {value!r}, this one's is "
                f"{mine[field]!r}. Choose another --output, or remove the folder."
            )


def _train_missing(config, methods, seeds, folder):
    """Train every run that is not on disk; returns the data set of each seed."""
    trainings = list(dict.fromkeys(training_of(name) for name in methods))
    loaded = [config.load(seed) for seed in range(seeds)]
    model_name = recipes.resolve_model(config.model, loaded[0].train[0].shape[1:])
    recipes.check_heads(model_name, {name: METHODS[name].head(loaded[0].class_counts) for name in trainings})
    examples = int(loaded[0].class_counts.sum())
    recipe = recipes.find_recipe(config.recipe, config.dataset, config.epochs, config.batch_size, examples)
    todo = [(seed, name) for seed in range(seeds) for name in trainings if not _is_stored(folder, name, loaded[seed])]
    # A log file gets a line now and then, a terminal a bar that moves.
    pace = {"mininterval": 0.1 if sys.stderr.isatty() else 20.0, "disable": not todo}
    with _precision(config.precision), tqdm(total=len(todo) * recipe.epochs, unit="epoch", **pace) as bar:
        for seed, name in todo:
            bar.set_description(f"seed {seed} {name}", refresh=False)
            run = _train(config, recipe, METHODS[name], loaded[seed], bar)
            # Not before there is a run to keep: a mistyped option must not claim the folder.
            _write_text(folder / "config.json", json.dumps(_identity(config), indent=1))
            _write_npz(_run_path(folder, name, seed), {**run, "split_hash": np.array(loaded[seed].split_hash)})
    return loaded


def _run_path(folder, name, seed):
    return folder / "runs" / f"{name}_seed{seed}.npz"


def _is_stored(folder, name, dataset):
    """Whether a finished run of this very split is on disk; a damaged file counts as none."""
    shape = (dataset.test[1].size, dataset.num_classes)
    try:
        with np.load(_run_path(folder, name, dataset.seed)) as run:
            stored = {key: run[key] for key in run}
        return str(stored["split_hash"]) == dataset.split_hash and stored["test_logits"].shape == shape
    except Exception:  # a damaged archive raises whatever zipfile, zlib or NumPy stumbles over
        return False


@contextlib.contextmanager
def _precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Advance(keras.callbacks.Callback):
    """Moves the progress bar by one epoch."""

    def __init__(self, bar):
        super().__init__()
        self.bar = bar

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self.bar.update()


def _train(config, recipe, method, dataset, bar):
    """Train one model and return its logits on the held-out sets."""
    keras.utils.set_random_seed(dataset.seed)
    counts = dataset.class_counts
    (x, y), scale = dataset.train, _Scaler(dataset.train[0])
    model_name = recipes.resolve_model(config.model, x.shape[1:])
    model = recipes.build_model(model_name, x.shape[1:], counts.size, method.head(counts), recipe)
    model.compile(recipe.optimizer(), method.loss(counts))
    weight = method.class_weight and method.class_weight(counts)
    callbacks = [keras.callbacks.LearningRateScheduler(lambda epoch, _: recipe.rate(epoch)), _Advance(bar)]
    fit_options = {"batch_size": recipe.batch_size, "epochs": recipe.epochs, "verbose": 0}
    start = time.perf_counter()
    history = model.fit(scale(x), y, class_weight=weight or None, callbacks=callbacks, **fit_options)
    seconds = time.perf_counter() - start
    if not np.isfinite(history.history["loss"][-1]):
        raise ValueError(f"Training diverged: the loss of {method.title!r} is not finite. Lower the learning rate.")
    logits = {"test_logits": _predict(model, scale(dataset.test[0]))}
    if dataset.validation is not None:
        logits["validation_logits"] = _predict(model, scale(dataset.validation[0]))
    return {**logits, "loss": np.array(history.history["loss"]), "seconds": np.array(seconds)}


class _Scaler:
    """What the training set says of the units: columns of features go to mean 0 and deviation 1, images to [0, 255]."""

    def __init__(self, x):
        if x.ndim == 2:
            self.shift, self.unit = x.mean(axis=0, dtype="float64"), x.std(axis=0, dtype="float64")
        elif x.dtype == "uint8":
            self.shift, self.unit = 0.0, 1.0
        else:
            self.shift, self.unit = float(x.min()), (float(x.max()) - float(x.min())) / 255
        # What is constant in training stays in its own unit: it must not explode where a test example differs.
        self.unit = np.where(self.unit > 1e-9 * (1 + np.abs(self.shift)), self.unit, 1.0)

    def __call__(self, x):
        return x if x.dtype == "uint8" and x.ndim > 2 else ((x - self.shift) / self.unit).astype("float32")


def _predict(model, x):
    return model.predict(x, batch_size=512, verbose=0).astype("float32")


def _gather(config, methods, seeds, folder, loaded):
    """The results of all runs on disk, and the predictions they rest on."""
    labels = loaded[0].test[1]
    counts = np.stack([dataset.class_counts for dataset in loaded])
    predictions = {"labels": labels, "class_counts": counts}
    rows, seconds = {name: [] for name in methods}, {}
    for name in methods:
        for seed in range(seeds):
            with np.load(_run_path(folder, training_of(name), seed)) as run:
                logits = METHODS[name].transform(run["test_logits"], counts[seed])
                seconds[f"{training_of(name)}_seed{seed}"] = round(float(run["seconds"]), 2)
            predictions[f"{name}_seed{seed}"] = logits
            rows[name].append(statistics.figures(labels, logits, counts[seed]))
    results = {
        "config": _identity(config),
        "command": _command(config, methods, seeds),
        "versions": _versions(),
        "data": {"name": loaded[0].name, "validation": config.validation, "profile": loaded[0].profile},
        "class_counts": counts[0].tolist(),
        "split_hashes": [dataset.split_hash for dataset in loaded],
        "train_seconds": seconds,
        "methods": summarize_methods(rows, predictions),
    }
    return results, predictions


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
    words = ["keras-logit-adjust", "compare", "--methods", ",".join(methods), "--seeds", str(seeds)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-').replace('imbalance-', '')}", str(value)]
    return shlex.join(words)


def _versions():
    import keras_logit_adjust

    return {
        "keras_logit_adjust": keras_logit_adjust.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}",
    }


def _write_npz(path, arrays):
    """Write all or nothing: an interrupted save leaves no half file under the final name."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def _write_text(path, text):
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
