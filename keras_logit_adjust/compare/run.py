"""A comparison from start to end: train what is missing, gather the results, write the report."""

import contextlib
import json
import pathlib
import sys
import time
import typing

from keras_logit_adjust import _checks
from keras_logit_adjust._printing import say
from keras_logit_adjust.compare import devices, probing, recipes, report, storage
from keras_logit_adjust.compare.config import as_config
from keras_logit_adjust.compare.gathering import gather
from keras_logit_adjust.compare.jobs import check_jobs
from keras_logit_adjust.compare.loading import Loader
from keras_logit_adjust.compare.methods import GROUPS, spell_out
from keras_logit_adjust.compare.missing import recipe_for, train_missing
from keras_logit_adjust.compare.records import Predictions

DEFAULT_METHODS = ("erm", "class_weight", "la_posthoc", "la_loss")


def compare(config=None, *, methods=DEFAULT_METHODS, seeds=3, output=None, jobs=1, baseline="erm", test_mixes=False):
    """Train every method on every seed's long tail and report them against plain cross-entropy.

    Each seed redraws the subset, if one is drawn, and the initialization, the same for all methods. A finished run is
    written to disk at once, and the state of a training every two minutes: after an interruption the same call goes on
    from there.

    Args:
        config: a `Config`; the embedded data and the quick recipe by default.
        methods: names in `METHODS` or in `GROUPS`; "erm" is added where it is missing.
        seeds: how many.
        output: folder for results.json, predictions.npz, report.md, report.html and figures; none are kept by default.
        jobs: trainings side by side, in processes of their own. Their figures are those of one job, as long as each
            takes as many threads. A script that asks for several must have its own code under
            `if __name__ == "__main__":`, as all that starts processes.
        baseline: the method whose errors the others' are compared with; it is added where it is missing.
        test_mixes: whether the test logits are also judged under other class mixes of the test set: forward, uniform
            and backward; without adjustment, adjusted to the mix, and to an estimate of it.

    Returns:
        The content of results.json: configuration, versions, figures of every run, means, differences to the baseline.
        None on all workers but the chief, which alone writes.

    Raises:
        ValueError: for an unknown method; for a folder made by another configuration; for data that does not fit; for
            a strategy of another backend; for batches that do not divide by the devices; for several jobs with a
            strategy or a GPU.

    Example:

    >>> import pathlib, tempfile, numpy as np
    >>> from keras_logit_adjust.compare import Config
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train", "test"):
    ...     np.savez(folder / name, x=np.eye(2)[[0, 0, 0, 1]], y=[0, 0, 0, 1])
    >>> files = {"train": str(folder / "train.npz"), "test": str(folder / "test.npz")}
    >>> results = compare(Config(**files, epochs=1, validation="none"), methods=["la_posthoc"], seeds=1)
    >>> list(results["methods"])
    ['erm', 'la_posthoc']

    Reference: Menon et al. (2021), §6.2, table 3.
    """
    options = {"methods": methods, "seeds": seeds, "output": output, "jobs": jobs}
    return compare_with_predictions(config, **options, baseline=baseline, test_mixes=test_mixes)[0]


def compare_with_predictions(config=None, **options):
    """Like `compare`, but it also returns the `Predictions`."""
    with compared(config, **options) as (results, predictions, _):
        return results, predictions


class Compared(typing.NamedTuple):
    """A comparison.

    Attributes:
        results: as `compare` returns them.
        predictions: the `Predictions` that they rest on, or None where `results` is.
        folder: where all that is finished lies.
    """

    results: dict | None
    predictions: Predictions | None
    folder: pathlib.Path


@contextlib.contextmanager
def compared(config=None, *, methods=DEFAULT_METHODS, seeds=3, output=None, jobs=1, baseline="erm", test_mixes=False):
    """A comparison as `Compared`; without `output` its folder is deleted at the end, if no error was raised."""
    config = as_config(config)
    methods = methods.split(",") if isinstance(methods, str) else list(methods)
    if baseline in GROUPS:
        raise _checks.ArgumentError(
            "baseline",
            f"`baseline` must be one method. Received the group {baseline!r}: {', '.join(GROUPS[baseline])}.",
        )
    (baseline,) = spell_out([baseline], validation=config.validation, recipe=config.recipe)[-1:]
    methods = spell_out(
        [*methods, *[baseline] * (baseline != "erm")], validation=config.validation, recipe=config.recipe
    )
    if config.recipe == "linear_probe":
        probing.check_methods(methods)
    seeds, jobs = (_checks.check_integer(n, name, minimum=1) for n, name in ((seeds, "seeds"), (jobs, "jobs")))
    check_jobs(jobs, config)
    output, load, started = storage.as_folder(output), Loader(config), time.time()
    if output is not None:
        storage.check_folder(output, config)
    with devices.opened(config.strategy, number=config.devices) as used:
        recipe = recipe_for(config, load(0), methods=methods, devices=used)
        if used.is_chief:
            _offer_bfloat16(config, load(0).train[0].shape[1:])
        folder = output
        if output is None:
            folder = storage.cache_folder(storage.identity(config), methods, seeds, load(0).split_hash)
        training = {"load": load, "seeds": seeds, "recipe": recipe, "folder": folder, "devices": used, "jobs": jobs}
        if not used.is_chief:
            train_missing(config, methods, **training)
            yield Compared(None, None, folder)
            return
        with storage.claimed(folder, goes=output is None):
            told = {"baseline": baseline, "test_mixes": test_mixes}
            finished = _finish(config, methods, started=started, writes=output is not None, told=told, **training)
            yield Compared(*finished, folder)


def _offer_bfloat16(config, example_shape):
    model = recipes.resolve_model(config.model, example_shape)
    if model in ("small_cnn", "resnet32") and config.precision == "float32" and devices.multiplies_bfloat16():
        text = f"This CPU has instructions for bfloat16: with precision mixed_bfloat16 {model} may train faster."
        say(text, file=sys.stderr)


def _finish(config, methods, *, started, writes, folder, told, **training):
    """The results and the `Predictions`; if `writes`, they are written to the folder."""
    try:
        storage.check_folder(folder, config)
        (folder / "runs").mkdir(exist_ok=True)
        splits, runs = train_missing(config, methods, folder=folder, **training)
        results, predictions = gather(config, methods, splits=splits, runs=runs, **told)
        model = recipes.resolve_model(config.model, splits[0].example_shape)
        results["left_out"] = recipes.left_out(training["recipe"], model)
        results["seconds"] = round(time.time() - started, 1)
        if writes:
            storage.write_npz(folder / "predictions.npz", predictions.arrays())
            storage.write_text(folder / "results.json", json.dumps(results, indent=1))
            report.write(folder, results, predictions)
    except KeyboardInterrupt:
        runs, begun = (len(list((folder / "runs").glob(name))) for name in ("*.npz", "*.checkpoint"))
        state = f" and the state of {begun} unfinished" if begun else ""
        say(f"\nInterrupted. {runs} finished runs{state} are kept in {folder}: repeat the command to continue.")
        raise
    return results, predictions
