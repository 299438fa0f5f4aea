"""From runs to results: the figures of every row, their means and their differences to plain cross-entropy."""

import shlex

import numpy as np

from keras_logit_adjust.compare import statistics, storage, tuning
from keras_logit_adjust.compare.config import options_of
from keras_logit_adjust.compare.methods import METHODS, trainings_of
from keras_logit_adjust.compare.published import published_error
from keras_logit_adjust.compare.records import Predictions, combine


def gather(config, methods, *, splits, runs):
    """The content of results.json, and the `Predictions` it rests on."""
    first, counts = splits[0], np.stack([split.class_counts for split in splits])
    logits, taus = {}, {}
    for name in methods:
        trained = zip(*(runs[trained_as] for trained_as in trainings_of(name)), strict=True)
        corrected = [
            tuning.corrected(METHODS[name], combine(of_seed), split=split)
            for split, of_seed in zip(splits, trained, strict=True)
        ]
        logits[name], taus[name] = map(list, zip(*corrected, strict=True))
    predictions = Predictions(first.test_labels, counts, logits, runs, tuple(splits))
    results = {
        "config": storage.identity(config),
        "command": shlex.join(["keras-logit-adjust", "compare", *options_of(config, methods, len(splits))]),
        "versions": storage.versions(),
        "data": {"name": first.name, "validation": config.validation, "profile": first.profile},
        "class_counts": counts[0].tolist(),
        "split_hashes": [split.split_hash for split in splits],
        "train_seconds": {
            f"{run.method}_seed{run.seed}": round(float(run.seconds), 2) for found in runs.values() for run in found
        },
        "methods": {},
    }
    settled = config.settled()
    where = {"profile": first.profile, **{key: settled[key] for key in ("imbalance_ratio", "max_count")}}
    for name, method in ((name, METHODS[name]) for name in methods):
        pairs, hits = zip(logits[name], counts, strict=True), (predictions.hits(name), predictions.hits("erm"))
        rows = [statistics.figures(predictions.labels, values, class_counts=of_seed) for values, of_seed in pairs]
        results["methods"][name] = {
            "title": method.title,
            "seeds": rows,
            "summary": statistics.summarize(rows),
            "versus_erm": None if name == "erm" else statistics.paired_difference(predictions.labels, *hits),
            **({} if method.tuned_on is None else {"tau": taus[name]}),
            "published_error": None if settled["label_noise"] else published_error(name, dataset=first.name, **where),
        }
    return results, predictions
