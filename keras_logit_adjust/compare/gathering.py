"""From runs to results: the figures of every row, their means and their differences to plain cross-entropy."""

import shlex

import numpy as np

from keras_logit_adjust.compare import mixes, statistics, storage, tuning
from keras_logit_adjust.compare.config import options_of
from keras_logit_adjust.compare.methods import rows_of, trainings_of
from keras_logit_adjust.compare.published import published_error
from keras_logit_adjust.compare.records import Predictions, combine


def gather(config, methods, *, splits, runs, baseline="erm", test_mixes=False):
    """The content of results.json, and the `Predictions` behind it; differences are to the row `baseline`."""
    first, counts = splits[0], np.stack([split.class_counts for split in splits])
    logits, taus, rows = {}, {}, rows_of(config.recipe)
    for name in methods:
        trained = zip(*(runs[trained_as] for trained_as in trainings_of(name, config.recipe)), strict=True)
        corrected = [
            tuning.corrected(rows[name], combine(of_seed), split=split)
            for split, of_seed in zip(splits, trained, strict=True)
        ]
        logits[name], taus[name] = map(list, zip(*corrected, strict=True))
    added = [*["--baseline", baseline] * (baseline != "erm"), *["--test-mixes"] * test_mixes]
    predictions = Predictions(first.test_labels, counts, logits, runs, tuple(splits))
    results = {
        "config": storage.identity(config),
        "command": shlex.join(["keras-logit-adjust", "compare", *options_of(config, methods, len(splits)), *added]),
        "versions": storage.versions(),
        "data": {"name": first.name, "validation": config.validation, "profile": first.profile},
        "class_counts": counts[0].tolist(),
        "class_names": first.class_names,
        "split_hashes": [split.split_hash for split in splits],
        "train_seconds": {
            f"{run.method}_seed{run.seed}": round(float(run.seconds), 2) for found in runs.values() for run in found
        },
        "on_training_examples": {
            f"{run.method}_seed{run.seed}": statistics.on_training_examples(run)
            for found in runs.values()
            for run in found
            if run.train_labels is not None
        },
        "baseline": baseline,
        "methods": {},
    }
    if test_mixes:
        results["test_mixes"] = mixes.gather(splits, runs)
    if config.recipe == "linear_probe":
        results["probes"] = {
            name: {"penalty": [run.penalty for run in found], "scaling": [run.scaling for run in found]}
            for name, found in runs.items()
        }
    settled = config.settled()
    where = {"profile": first.profile, **{key: settled[key] for key in ("imbalance_ratio", "max_count")}}
    for name, method in ((name, rows[name]) for name in methods):
        pairs, hits = zip(logits[name], counts, strict=True), (predictions.hits(name), predictions.hits(baseline))
        seeds = [statistics.figures(predictions.labels, values, class_counts=of_seed) for values, of_seed in pairs]
        results["methods"][name] = {
            "title": method.title,
            "seeds": seeds,
            "summary": statistics.summarize(seeds),
            f"versus_{baseline}": None if name == baseline else statistics.paired_difference(predictions.labels, *hits),
            **({} if method.tuned_on is None else {"tau": taus[name]}),
            "published_error": None if settled["label_noise"] else published_error(name, dataset=first.name, **where),
        }
    return results, predictions
