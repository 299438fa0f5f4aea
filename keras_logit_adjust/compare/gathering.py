"""From runs to results: the figures of every row, their means and their differences to plain cross-entropy."""

import shlex

import numpy as np

from keras_logit_adjust.compare import statistics, storage, tuning
from keras_logit_adjust.compare.config import options_of
from keras_logit_adjust.compare.methods import METHODS, trainings_of
from keras_logit_adjust.compare.published import published_error
from keras_logit_adjust.compare.records import Predictions, combine


def gather(config, methods, *, loaded, runs):
    """The content of results.json, and the `Predictions` it rests on."""
    first, counts = loaded[0], np.stack([dataset.class_counts for dataset in loaded])
    logits, taus = {}, {}
    for name in methods:
        trained = zip(*(runs[trained_as] for trained_as in trainings_of(name)), strict=True)
        corrected = [
            tuning.corrected(METHODS[name], combine(of_seed), class_counts=dataset.class_counts, dataset=dataset)
            for dataset, of_seed in zip(loaded, trained, strict=True)
        ]
        logits[name], taus[name] = map(list, zip(*corrected, strict=True))
    predictions = Predictions(first.test[1], counts, logits, runs)
    results = {
        "config": storage.identity(config),
        "command": shlex.join(["keras-logit-adjust", "compare", *options_of(config, methods, len(loaded))]),
        "versions": storage.versions(),
        "data": {"name": first.name, "validation": config.validation, "profile": first.profile},
        "class_counts": counts[0].tolist(),
        "split_hashes": [dataset.split_hash for dataset in loaded],
        "train_seconds": {
            f"{run.method}_seed{run.seed}": round(float(run.seconds), 2) for found in runs.values() for run in found
        },
        "methods": {},
    }
    where = {"profile": first.profile, "imbalance_ratio": config.imbalance_ratio, "max_count": config.max_count}
    for name, method in ((name, METHODS[name]) for name in methods):
        pairs, hits = zip(logits[name], counts, strict=True), (predictions.hits(name), predictions.hits("erm"))
        rows = [statistics.figures(predictions.labels, values, class_counts=of_seed) for values, of_seed in pairs]
        results["methods"][name] = {
            "title": method.title,
            "seeds": rows,
            "summary": statistics.summarize(rows),
            "versus_erm": None if name == "erm" else statistics.paired_difference(predictions.labels, *hits),
            **({} if method.tuned_on is None else {"tau": taus[name]}),
            "published_error": None if config.label_noise else published_error(name, dataset=first.name, **where),
        }
    return results, predictions
