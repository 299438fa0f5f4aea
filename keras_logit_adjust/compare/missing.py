"""Training of missing runs: every run that is not on disk is trained, and saved as soon as it is finished."""

import contextlib
import dataclasses
import json

import keras
import numpy as np

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import probing, recipes, storage, training, units
from keras_logit_adjust.compare.jobs import Here, SideBySide
from keras_logit_adjust.compare.methods import METHODS, trainings_of
from keras_logit_adjust.compare.progress import Progress
from keras_logit_adjust.compare.records import Split


def train_missing(config, methods, *, load, seeds, recipe, folder, devices, jobs=1):
    """The `Split` of each seed, and `{trained row: [Run of each seed]}`; `load` is a `Loader`."""
    names, splits, runs = _trained(methods, config.recipe), [], {}
    epochs = {(seed, name): training.epochs_of(METHODS[name], recipe) for seed in range(seeds) for name in names}

    def keep(run):
        runs[run.seed, run.method] = run
        if devices.is_chief:
            # Only with the first run: after a mistyped option the folder must stay free.
            storage.write_text(folder / "config.json", json.dumps(storage.identity(config), indent=1))
            storage.save_run(folder, run)

    settings = {"folder": folder, "devices": devices, "config": config, "recipe": recipe}
    with contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(config.precision)
        unit = "fits" if config.recipe == "linear_probe" else "epochs"
        progress = stack.enter_context(Progress(epochs, jobs=jobs, is_shown=devices.is_chief, unit=unit))
        trainer = Here(progress, keep, **settings) if jobs == 1 else SideBySide(jobs, progress, keep, **settings)
        stack.enter_context(trainer)
        for seed in range(seeds):
            split = Split.of(load(seed))
            if splits and np.array_equal(split.test_labels, splits[0].test_labels):
                split = dataclasses.replace(split, test_labels=splits[0].test_labels)
            splits.append(split)
            found = {name: storage.load_run(folder, name, split) for name in names}
            devices.check_agreement([name for name, run in found.items() if run is None])
            for name in (name for name, run in found.items() if run is not None):
                runs[seed, name] = found[name]
                progress.skip((seed, name))
            for name in (name for name, run in found.items() if run is None):
                trainer.submit(name, load(seed))
        trainer.finish()
    return splits, {name: [runs[seed, name] for seed in range(seeds)] for name in names}


def recipe_for(config, dataset, *, methods, devices):
    """The recipe, after a check that data, model, methods and devices fit together."""
    names, model = _trained(methods, config.recipe), recipes.resolve_model(config.model, dataset.train[0].shape[1:])
    if config.recipe == "linear_probe":
        probing.check_data(dataset)
    recipes.check_penalty(model, config.weight_decay)
    recipes.check_heads(
        model,
        {name: METHODS[name].head(dataset.class_counts) for name in names},
        needing_dense=[name for name in methods if METHODS[name].needs_dense],
    )
    units.scaler_of(dataset)
    recipe = recipes.find_recipe(
        config.recipe,
        dataset=config.settled()["dataset"],
        epochs=config.epochs,
        batch_size=config.batch_size,
        num_examples=int(dataset.class_counts.sum()),
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
    )
    if recipe.batch_size % devices.number:
        raise ArgumentError(
            "batch_size",
            "`batch_size` must be divisible by the number of devices that share a batch. Received: batches of "
            f"{recipe.batch_size} for {devices.number} devices.",
        )
    return recipe


def _trained(methods, recipe):
    """The rows that train the models of some methods."""
    return list(dict.fromkeys(trained_as for name in methods for trained_as in trainings_of(name, recipe)))
