"""A comparison from start to end: train what is missing, gather the results, write the report."""

import json
import pathlib
import shutil
import time

from keras_logit_adjust import _checks
from keras_logit_adjust.compare import devices, report, storage
from keras_logit_adjust.compare.config import Config
from keras_logit_adjust.compare.gathering import gather
from keras_logit_adjust.compare.methods import spell_out
from keras_logit_adjust.compare.missing import train_missing

DEFAULT_METHODS = ("erm", "class_weight", "la_posthoc", "la_loss")


def compare(config=None, *, methods=DEFAULT_METHODS, seeds=3, output=None):
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

    >>> import pathlib, tempfile, numpy as np
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("train", "test"):
    ...     np.savez(folder / name, x=np.eye(2)[[0, 0, 0, 1]], y=[0, 0, 0, 1])
    >>> files = {"train": str(folder / "train.npz"), "test": str(folder / "test.npz")}
    >>> results = compare(Config(**files, epochs=1, validation="none"), methods=["la_posthoc"], seeds=1)
    >>> list(results["methods"])
    ['erm', 'la_posthoc']

    Reference: Menon et al. (2021), §6.2, table 3.
    """
    return compare_with_predictions(config, methods=methods, seeds=seeds, output=output)[0]


def compare_with_predictions(config=None, *, methods=DEFAULT_METHODS, seeds=3, output=None):
    """As `compare`, returning the `Predictions` too."""
    config = config or Config()
    methods = spell_out(methods, validation=config.validation)
    seeds = _checks.check_integer(seeds, "seeds", minimum=1)
    folder = pathlib.Path(output) if output else storage.cache_folder(storage.identity(config), methods, seeds)
    storage.check_folder(folder, config)
    started = time.time()
    try:
        with devices.opened(config.strategy, number=config.devices) as used:
            loaded, runs = train_missing(config, methods, seeds=seeds, folder=folder, devices=used)
    except KeyboardInterrupt:
        kept = len(list((folder / "runs").glob("*.npz")))
        print(f"\nInterrupted. {kept} finished runs are kept in {folder}: the same command goes on from there.")
        raise
    if not used.is_chief:
        return None, None
    results, predictions = gather(config, methods, loaded=loaded, runs=runs)
    results["seconds"] = round(time.time() - started, 1)
    if output:
        storage.write_npz(folder / "predictions.npz", predictions.arrays())
        storage.write_text(folder / "results.json", json.dumps(results, indent=1))
        report.write(folder, results, predictions)
    else:
        shutil.rmtree(folder)
    return results, predictions
