"""Studies whose fits are made up, and the options that make them small."""

import numpy as np

from helpers.fake_training import fake_training
from helpers.rows import ROWS
from keras_logit_adjust import cli
from keras_logit_adjust.studies import consistency, many_classes

OPTIONS = {
    "weight-norms": [*ROWS, "--seeds", "2"],
    "groups": [*ROWS, "--seeds", "2", "--methods", "erm,la_loss,la_posthoc"],
    "label-noise": [*ROWS, "--seeds", "2", "--methods", "erm,la_posthoc", "--label-noise", "0.2"],
    "label-shift": [*ROWS, "--seeds", "4"],
    "consistency": ["--sizes", "50", "2000", "--trials", "3", "--seed", "1"],
    "many-classes": ["--num-classes", "40", "--rivals", "4", "8", "--epochs", "1", "--seeds", "2"],
}
RUNS = {
    "weight-norms": 2 * 2,
    "groups": 2 * 2,
    "label-noise": 2 * 2,
    "label-shift": 4,
    "consistency": 2 * 4,
    "many-classes": 2 * 7,
}


def replace_fits(monkeypatch):
    """Puts random numbers in the place of everything that is fitted; holds a mark for each."""
    calls = fake_training(
        monkeypatch, mark=lambda name, dataset, config: (config.optimizer, config.label_noise, dataset.seed, name)
    )

    def fit_affine(x, y, *, loss, steps):
        calls.append((x.shape, loss.name, steps))
        return np.random.default_rng(len(calls)).normal(size=(x.shape[0], 3, 2)).astype("float32")

    def fit(sample, *, options, epochs, seed):
        calls.append((seed, tuple(options.items()), epochs))
        rules = ("erm", "la_posthoc") if options == {"tau": 0.0} else ("la",)
        ids = np.random.default_rng([seed, len(options)]).integers(0, 40, sample.test[1].size)
        return dict.fromkeys(rules, ids)

    monkeypatch.setattr(consistency, "fit_affine", fit_affine)
    monkeypatch.setattr(many_classes, "fit", fit)
    monkeypatch.setattr(many_classes.time, "process_time", lambda: 0.0)
    return calls


def run_from_command_line(name, *options):
    return cli.main(["study", name, *OPTIONS[name], *options])
