"""Training what is missing: every run that is not on disk, each kept as soon as it is finished."""

import contextlib
import json
import sys

import keras
from tqdm import tqdm

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare import recipes, storage, training
from keras_logit_adjust.compare.methods import METHODS, trainings_of


def train_missing(config, methods, *, seeds, folder, devices):
    """The data set of each seed, and `{trained row: [Run of each seed]}`."""
    names = list(dict.fromkeys(trained_as for name in methods for trained_as in trainings_of(name)))
    loaded = [config.load(seed) for seed in range(seeds)]
    recipe = _recipe_for(config, loaded[0], methods=methods, names=names, devices=devices)
    runs = {(seed, name): storage.load_run(folder, name, loaded[seed]) for seed in range(seeds) for name in names}
    todo = [key for key, run in runs.items() if run is None]
    devices.check_agreement(todo)
    # Not before the data is there: a command that cannot run leaves nothing behind.
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    # A log file gets a line now and then, a terminal a bar that moves.
    pace = {"mininterval": 0.1 if sys.stderr.isatty() else 20.0, "disable": not todo or not devices.is_chief}
    epochs = sum(training.epochs_of(METHODS[name], recipe) for _, name in todo)
    with contextlib.ExitStack() as stack, tqdm(total=epochs, unit="epoch", **pace) as bar:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(config.precision)
        for seed, name in todo:
            bar.set_description(f"seed {seed} {name}", refresh=False)
            run = training.train(name, loaded[seed], config=config, recipe=recipe, devices=devices, bar=bar)
            runs[seed, name] = run
            if devices.is_chief:
                # Not before there is a run to keep: a mistyped option must not claim the folder.
                storage.write_text(folder / "config.json", json.dumps(storage.identity(config), indent=1))
                storage.save_run(folder, run)
    return loaded, {name: [runs[seed, name] for seed in range(seeds)] for name in names}


def _recipe_for(config, dataset, *, methods, names, devices):
    """The recipe, after checking that data, model, methods and devices go together."""
    recipes.check_heads(
        recipes.resolve_model(config.model, dataset.train[0].shape[1:]),
        {name: METHODS[name].head(dataset.class_counts) for name in names},
        needing_dense=[name for name in methods if METHODS[name].needs_dense],
    )
    recipe = recipes.find_recipe(
        config.recipe,
        dataset=config.dataset,
        epochs=config.epochs,
        batch_size=config.batch_size,
        num_examples=int(dataset.class_counts.sum()),
        optimizer=config.optimizer,
    )
    if recipe.batch_size % devices.number:
        raise ArgumentError(
            "batch_size",
            "`batch_size` must divide by the devices that share a batch. Received: batches of "
            f"{recipe.batch_size} for {devices.number} devices.",
        )
    return recipe
