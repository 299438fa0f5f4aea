"""Training what is missing: every run that is not on disk, each kept as soon as it is finished."""

import contextlib
import dataclasses
import json
import sys

import keras
import numpy as np
from tqdm import tqdm

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import recipes, storage, training, units
from keras_logit_adjust.compare.methods import METHODS, trainings_of
from keras_logit_adjust.compare.records import Split
from keras_logit_adjust.compare.resuming import Place


def train_missing(config, methods, *, load, seeds, recipe, folder, devices):
    """The `Split` of each seed, and `{trained row: [Run of each seed]}`; `load` is a `Loader`."""
    names, splits, runs = _trained(methods), [], []
    # A log file gets a line now and then, a terminal a bar that moves; what is on disk needs none.
    pace = {"mininterval": 0.1 if sys.stderr.isatty() else 20.0, "delay": 1, "disable": not devices.is_chief}
    epochs = {name: training.epochs_of(METHODS[name], recipe) for name in names}
    with contextlib.ExitStack() as stack, tqdm(total=seeds * sum(epochs.values()), unit="epoch", **pace) as bar:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(config.precision)
        for seed in range(seeds):
            split, found = _of_seed(
                config, load(seed), names=names, recipe=recipe, folder=folder, devices=devices, bar=bar
            )
            if splits and np.array_equal(split.test_labels, splits[0].test_labels):
                split = dataclasses.replace(split, test_labels=splits[0].test_labels)
            splits.append(split)
            runs.append(found)
    return splits, {name: [of_seed[name] for of_seed in runs] for name in names}


def _of_seed(config, dataset, *, names, recipe, folder, devices, bar):
    """The `Split` of a seed's data, and `{trained row: Run}`."""
    split = Split.of(dataset)
    runs = {name: storage.load_run(folder, name, split) for name in names}
    todo = [name for name, run in runs.items() if run is None]
    devices.check_agreement(todo)
    bar.total -= sum(training.epochs_of(METHODS[name], recipe) for name in names if name not in todo)
    scale = units.scaler_of(dataset) if todo else None
    for name in todo:
        bar.set_description(f"seed {split.seed} {name}", refresh=False)
        path = storage.checkpoint_path(folder, name, split.seed) if devices.keeps_epochs else None
        run = training.train(
            name,
            dataset,
            scale=scale,
            config=config,
            recipe=recipe,
            devices=devices,
            bar=bar,
            place=Place(path, storage.mark_of(config, recipe, name, split)),
        )
        runs[name] = run
        if devices.is_chief:
            # Not before there is a run to keep: a mistyped option must not claim the folder.
            storage.write_text(folder / "config.json", json.dumps(storage.identity(config), indent=1))
            storage.save_run(folder, run)
    return split, runs


def recipe_for(config, dataset, *, methods, devices):
    """The recipe, after checking that data, model, methods and devices go together."""
    names, model = _trained(methods), recipes.resolve_model(config.model, dataset.train[0].shape[1:])
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
            "`batch_size` must divide by the devices that share a batch. Received: batches of "
            f"{recipe.batch_size} for {devices.number} devices.",
        )
    return recipe


def _trained(methods):
    """The rows that train the models of some methods."""
    return list(dict.fromkeys(trained_as for name in methods for trained_as in trainings_of(name)))
