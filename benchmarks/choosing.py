"""Gains and losses of choices on few held-out examples, as tables.

    python benchmarks/choosing.py --runs DIR [--output benchmarks/results/choosing.json]

First `kla.tune_tau` in simulation, where the best τ is known. Classes are normal with a long-tailed prior. The logits
are exact posteriors times a scale, so the best τ is the scale. Regret is the balanced error at the chosen τ minus the
error at τ = 1, in points, on 20,000 test examples.

Then the embedded images: runs of ERM, trained in DIR and reused from there, with τ by validation, and macro-F1 at the
training prior with `kla.tune_offsets`.
"""

import argparse
import json
import pathlib
import warnings

import numpy as np

import keras_logit_adjust as kla
from keras_logit_adjust.compare import Config, compare, report, statistics

SCALES = (0.5, 0.8, 1.0, 1.5, 2.5)
VALIDATIONS = {"5 a class": 5, "20 a class": 20, "50 a class": 50, "long tail, 1,200": None}
CLASSES, DRAWS = 50, 200
SEEDS = 10
REPLICATES = 1000


class World:
    """Normal classes in ten dimensions with a prior from 1,000 to 10, and logits that are posteriors times `scale`."""

    def __init__(self, scale):
        self.centers = 0.9 * np.random.default_rng(1).normal(size=(CLASSES, 10))
        self.counts = kla.data.long_tail_counts(CLASSES, max_count=1000, imbalance_ratio=100)
        self.scale = scale

    def logits(self, labels, rng):
        x = self.centers[labels] + rng.normal(size=(labels.size, 10))
        distance = (x**2).sum(axis=1)[:, None] - 2 * x @ self.centers.T + (self.centers**2).sum(axis=1)
        return self.scale * (kla.priors.log_prior(self.counts) - 0.5 * distance)

    def labels(self, per_class):
        if per_class is not None:
            return np.repeat(np.arange(CLASSES), per_class)
        return np.repeat(np.arange(CLASSES), np.round(1200 * kla.priors.prior(self.counts)).astype(int))


def regrets(scale):
    """Mean, 5 % and 95 % quantile and worst regret for every way to validate, and the largest possible gain."""
    world, rng = World(scale), np.random.default_rng(0)
    test_labels = world.labels(20_000 // CLASSES)
    test = kla.TauPath(test_labels, world.logits(test_labels, rng), world.counts)
    row = {"best_tau": test.best().tau, "possible": 100 * (test.at(1.0) - test.best().value)}
    for name, per_class in VALIDATIONS.items():
        labels = world.labels(per_class)
        chosen = [kla.tune_tau(world.logits(labels, rng), labels, world.counts).tau for _ in range(DRAWS)]
        regret = 100 * (test.at(1.0) - test.at(chosen))
        row[name] = {"mean": float(regret.mean()), "worst": float(regret.max()), "tau": float(np.mean(chosen))}
    print(f"scale {scale}:", row, flush=True)
    return row


def on_images(folder):
    """Figures of every way to use the same trained models, means over seeds, and paired intervals."""
    compare(Config(), methods=["erm"], seeds=SEEDS, output=folder)
    sets = [kla.data.load("fashion_mnist_lt", seed=seed) for seed in range(SEEDS)]
    labels, prior = sets[0].test[1], kla.priors.prior(sets[0].class_counts)
    logits = {name: [] for name in WAYS}
    for seed, data in enumerate(sets):
        with np.load(folder / "runs" / f"erm_seed{seed}.npz") as run:
            for name, way in WAYS.items():
                logits[name].append(way(run["test_logits"], run["validation_logits"], data.validation[1], data))
    predicted = {name: np.stack(rows).argmax(axis=-1) for name, rows in logits.items()}
    hits = {name: rows == labels for name, rows in predicted.items()}
    figures = {name: _figures(labels, rows, prior) for name, rows in logits.items()}
    tuned = statistics.paired_difference(labels, hits["tuned"], hits["adjusted"])
    return {"figures": figures, "tuned_less_adjusted": tuned, "offsets_less": _macro_f1_gains(labels, predicted, prior)}


def _adjusted(logits, data, tau=1.0):
    return logits - tau * kla.priors.log_prior(data.class_counts)


def _tuned(logits, held_out, y, data):
    return _adjusted(logits, data, kla.tune_tau(held_out, y, data.class_counts).tau)


def _calibrated(method):
    return lambda logits, held_out, y, data: _adjusted(kla.calibrate(held_out, y, method=method).apply(logits), data)


# name: (test logits, validation logits, validation labels, data) → test logits
WAYS = {
    "plain": lambda logits, held_out, y, data: logits,
    "adjusted": lambda logits, held_out, y, data: _adjusted(logits, data),
    "tuned": _tuned,
    "offsets": lambda logits, held_out, y, data: logits + kla.tune_offsets(held_out, y, data.class_counts).offsets,
    "temperature": _calibrated("temperature"),
    "bias_corrected": _calibrated("bias_corrected_temperature"),
}
TITLES = {
    "plain": "no adjustment",
    "adjusted": "τ = 1",
    "tuned": "`tune_tau`",
    "offsets": '`tune_offsets`, "macro_f1"',
    "temperature": "temperature, then τ = 1",
    "bias_corrected": "temperature and bias, then τ = 1",
}


def _figures(labels, rows, prior):
    """Means over seeds, in percent."""
    found = []
    for logits in rows:
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
        predicted = logits.argmax(axis=-1)
        recalls = statistics.recalls(labels, predicted, prior.size)
        error = kla.held_out.calibration_error(probabilities, labels, kind="balanced")
        found.append([1 - recalls.mean(), statistics.macro_f1(labels, predicted, prior), error])
    names = ("balanced_error", "macro_f1", "calibration_error")
    return dict(zip(names, (100 * np.mean(found, axis=0)).tolist(), strict=True))


def _macro_f1_gains(labels, predicted, prior):
    """Macro-F1 of "offsets" minus the others: bootstrap intervals over test examples and seeds, in points."""
    num_classes, rng = prior.size, np.random.default_rng(0)
    cells = {name: labels * num_classes + predicted[name] for name in ("plain", "adjusted", "offsets")}
    members = [np.flatnonzero(labels == c) for c in range(num_classes)]

    def scores(name, examples):
        return np.array([_f1(np.bincount(row[examples], minlength=num_classes**2), prior) for row in cells[name]])

    gains = {"plain": [], "adjusted": []}
    for _ in range(REPLICATES):
        examples = np.concatenate([rng.choice(rows, rows.size) for rows in members])
        seeds = rng.integers(0, SEEDS, SEEDS)
        ours = scores("offsets", examples)
        for name, found in gains.items():
            found.append(100 * (ours - scores(name, examples))[seeds].mean())
    return {name: np.percentile(found, [2.5, 97.5]).tolist() for name, found in gains.items()}


def _f1(confusion, prior):
    confusion = confusion.reshape(prior.size, -1)
    shares = prior[:, None] * confusion / confusion.sum(axis=1, keepdims=True)
    return np.mean(2 * np.diag(shares) / (shares.sum(axis=0) + shares.sum(axis=1)))


def regret_to_markdown(results):
    """The table of regrets."""
    header = ["best τ", "possible", *(f"{name}: mean (worst)" for name in VALIDATIONS)]
    rows = [
        [f"{row['best_tau']:.2f}", f"{row['possible']:+.2f}"]
        + [f"{row[name]['mean']:+.2f} ({row[name]['worst']:+.2f})" for name in VALIDATIONS]
        for row in results["regret"]
    ]
    return report.to_table(header, rows)


def images_to_markdown(results):
    """The table of the ways to use the same models, with their intervals."""
    images = results["images"]
    header = [f"ERM, {images['seeds']} seeds", "balanced error %", "macro-F1 %", "calibration error %"]
    rows = [[TITLES[name], *(f"{value:.1f}" for value in row.values())] for name, row in images["figures"].items()]
    plain, adjusted = ("[{:+.1f}, {:+.1f}]".format(*images["offsets_less"][name]) for name in ("plain", "adjusted"))
    return f"""\
{report.to_table(header, rows)}

Chosen on 250 validation examples, 5, 3, 2 and 1 of them in the rarest four classes; tested on 10,000. Macro-F1 is at
the training prior. In the calibration error every class has the same weight. Paired 95 % intervals over test examples
and seeds: `tune_tau` minus τ = 1 in balanced error {report.show_difference(images["tuned_less_adjusted"])};
`tune_offsets` in macro-F1 minus no adjustment {plain}, minus τ = 1 {adjusted}."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, required=True, help="folder of the runs on images")
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of classes with a shared recall
        results = {"classes": CLASSES, "draws": DRAWS, "regret": [regrets(scale) for scale in SCALES]}
        results["images"] = {"seeds": SEEDS, **on_images(options.runs)}
    print(regret_to_markdown(results), images_to_markdown(results), sep="\n\n")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
