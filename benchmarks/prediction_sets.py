"""Macro-coverage of prediction sets by P(y|x)/π and by P(y|x), at the same mean size, on the embedded data sets.

    python benchmarks/prediction_sets.py [--splits 20] [--output benchmarks/results/prediction_sets.json]

A linear classifier is trained on the long tail. Calibration examples have the training mix: they are drawn from the
outside validation examples and half of the test set. The other half is the test set, with equal weights of classes.
Plain sets are shown with their own threshold, and with a second threshold. With the second one, they have the same mean
size as the prevalence-adjusted sets on the test examples themselves, which favors them.
"""

import argparse
import json
import pathlib

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, storage

PENALTY = {"banking77_lt": 10.0, "fashion_mnist_lt": 0.01}  # scikit-learn's C
NUM_CALIBRATION, ALPHA = 400, 0.1


def measure(name, splits):
    """Mean sizes and macro-coverages over splits, and the paired interval at the same mean size."""
    data = kla.data.load(name, validation="outside")
    scale = data.train[0].max() if data.train[0].ndim > 2 else 1.0
    x, held, test = (part[0].reshape(len(part[0]), -1) / scale for part in (data.train, data.validation, data.test))
    with threadpool_limits(1):  # with so little data, several threads are slower
        model = LogisticRegression(C=PENALTY[name], max_iter=300).fit(x, data.train[1])
    held, test, ids = model.predict_log_proba(held), model.predict_log_proba(test), data.test[1]
    sizes, hits = [], np.full((3, splits, ids.size), np.nan)
    for split in range(splits):
        rng = np.random.default_rng(split)
        order = rng.permutation(ids.size)
        order = order[np.argsort(ids[order], kind="stable")]
        spare, tested = order[1::2], order[::2]
        pool, y = np.concatenate([held, test[spare]]), np.concatenate([data.validation[1], ids[spare]])
        wanted = rng.multinomial(NUM_CALIBRATION, kla.priors.prior(data.class_counts))
        rows = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:n] for c, n in enumerate(wanted)])
        adjusted, plain = (
            kla.held_out.PredictionSets(pool[rows], y[rows], data.class_counts, alpha=ALPHA, score=score).sets(
                test[tested]
            )
            for score in ("prevalence_adjusted", "softmax")
        )
        as_large = test[tested] >= np.sort(test[tested], axis=None)[-adjusted.sum()]
        sets = (adjusted, as_large, plain)
        sizes.append([found.sum(axis=1).mean() for found in sets])
        hits[:, split, tested] = [found[np.arange(tested.size), ids[tested]] for found in sets]
    low, high = interval_of(hits[0] - hits[1], ids)
    return {
        "sizes": np.array(sizes).T.tolist(),
        "macro_coverage": by_class(hits, np.ones(ids.size), ids).tolist(),
        "low": low,
        "high": high,
    }


def by_class(values, weights, ids):
    """The weighted mean of values `[…, N]` for each class, without NaN, and then the mean over the classes."""
    classes = np.eye(ids.max() + 1)[ids]
    sums = (np.nan_to_num(values) * weights) @ classes
    return (sums / ((~np.isnan(values) * weights) @ classes)).mean(axis=-1)


def interval_of(differences, ids, replicates=400):
    """The 95 % interval of the mean over splits; splits are redrawn, and examples within classes, equal in all."""
    rng, found, counts = np.random.default_rng(0), [], np.bincount(ids)
    for _ in range(replicates):
        weights = np.empty(ids.size)
        for c, count in enumerate(counts):
            weights[ids == c] = np.bincount(rng.integers(count, size=count), minlength=count)
        of_splits = by_class(differences, weights, ids)
        found.append(of_splits[rng.integers(of_splits.size, size=of_splits.size)].mean())
    return np.quantile(found, [0.025, 0.975]).tolist()


def to_markdown(results):
    """The table of the results."""
    header = ["data", "sets by", "mean size", "macro-coverage %", "difference (points)"]
    rows = []
    for name, found in results["data"].items():
        sizes, macro = (np.mean(found[key], axis=1) for key in ("sizes", "macro_coverage"))
        versus = f"{100 * (macro[0] - macro[1]):+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
        kinds = ("P(y|x)/π", "P(y|x), as large", "P(y|x), own threshold")
        for kind, size, value, shown in zip(kinds, sizes, macro, (versus, "", ""), strict=True):
            rows.append([f"`{name}`", kind, f"{size:.2f}", f"{100 * value:.1f}", shown])
    how = (
        f"α = {ALPHA}, {NUM_CALIBRATION} calibration examples, mean over {results['splits']} splits. Difference: to "
        "plain sets that are as large on average, with a 95 % paired interval over splits and test examples."
    )
    return f"{report.to_table(header, rows)}\n\n{how}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--output", metavar="FILE.json")
    options = parser.parse_args()
    command = f"python benchmarks/prediction_sets.py --splits {options.splits}"
    results = {"command": command, "versions": storage.versions(), "splits": options.splits}
    results["data"] = {name: measure(name, options.splits) for name in PENALTY}
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
