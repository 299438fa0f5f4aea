"""`kla.held_out.fit_linear_probe` against scikit-learn's logistic regression on frozen features with a long tail.

    python benchmarks/frozen_features.py [--draws 10] [--output benchmarks/results/frozen_features.json]

Every draw takes another training set from the same pool. All methods see the same set, as features of mean squared
length 1. The errors of scikit-learn are at its *best* C of 1, 10, 100, 1000, chosen on the test set. Ours chooses
penalty and scaling in cross-validation, without the test set. scikit-learn's default tolerance ends a weak penalty
early, which is a stronger penalty of its own. So it is fitted at the default, and to its optimum.
Times: `LogisticRegressionCV` has the same folds and penalties and does not choose the scaling. Both run in turn; the
ratio of their times is within a draw.
"""

import argparse
import json
import os
import pathlib
import platform
import time
import warnings

import numpy as np
import sklearn
from scipy import stats
from sklearn import datasets
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import linear_probe

CS = (1, 10, 100, 1000)
ROWS = {
    "erm": ({"criterion": "expected_error"}, {}),
    "class_weight": ({"class_weight": "balanced"}, {"class_weight": "balanced"}),
    "la_posthoc": ({"tau": 1.0}, {}),
}
TOLERANCES = {"theirs": 1e-4, "theirs_optimum": 1e-7}  # the default, and one at which errors no longer change
TIMED = 3  # draws
FOLDS = 5


def banking(seed):
    drawn = kla.data.load("banking77_lt", validation="none", seed=seed)
    return drawn.train, drawn.test


def fashion(seed):
    drawn = kla.data.load("fashion_mnist_lt", validation="none", seed=seed, max_count=200)
    return tuple((x.reshape(len(x), -1) / 255.0, y) for x, y in (drawn.train, drawn.test))


def digits(seed):
    x, y = datasets.load_digits(return_X_y=True)
    test = np.random.default_rng(0).permutation(y.size) < y.size // 2  # the same for every draw
    drawn = kla.data.load(
        (x[~test], y[~test]),
        test=(x[test], y[test]),
        profile="exponential",
        imbalance_ratio=40,
        max_count=80,
        validation="none",
        seed=seed,
    )
    return drawn.train, drawn.test


DATA = {
    "banking77_lt": ("BANKING77, sentence features", banking),
    "fashion_pixels": ("Fashion-MNIST, pixels", fashion),
    "digits": ("scikit-learn's digits, pixels", digits),
}


def balanced_error(labels, logits):
    right = logits.argmax(axis=1) == labels
    return 100 * (1 - float(np.mean([right[labels == c].mean() for c in np.unique(labels)])))


def of_unit_length(train, test):
    """Both sets, centered and divided by one number, so that C has the same meaning in both."""
    mean = train[0].mean(axis=0, dtype="float64")
    unit = np.sqrt((train[0].astype("float64").var(axis=0)).sum())
    return ((train[0] - mean) / unit, train[1]), ((test[0] - mean) / unit, test[1])


def errors_of(train, test, seed):
    """`{row: {"ours": error, "penalty", "scaling", "theirs": [error at each C], "theirs_optimum": […]}}`."""
    log_prior, found, fitted = kla.priors.log_prior(np.bincount(train[1])), {}, {}
    for name, (ours, theirs) in ROWS.items():
        probe = kla.held_out.fit_linear_probe(*train, seed=seed, **ours)
        key = json.dumps(theirs)
        if key not in fitted:
            fitted[key] = {
                kind: [
                    LogisticRegression(C=C, tol=tolerance, max_iter=100_000, **theirs)
                    .fit(*train)
                    .decision_function(test[0])
                    for C in CS
                ]
                for kind, tolerance in TOLERANCES.items()
            }
        shift = log_prior if name == "la_posthoc" else 0.0
        found[name] = {
            "ours": balanced_error(test[1], probe.logits(test[0])),
            "penalty": probe.penalty,
            "scaling": probe.scaling,
            **{kind: [balanced_error(test[1], z - shift) for z in logits] for kind, logits in fitted[key].items()},
        }
    return found


def seconds_of(train, seed):
    """Seconds of one choice of the penalty, ours and scikit-learn's, on the same folds and penalties."""
    x, y = train
    fold_of = linear_probe._draw_folds(y, FOLDS, np.random.default_rng(seed))
    folds = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(FOLDS)]
    ours = {"scalings": ["none"], "folds": FOLDS, "seed": seed}
    theirs = {"Cs": [1 / penalty for penalty in linear_probe.PENALTIES], "cv": folds, "max_iter": 10_000}
    times = {}
    calls = {
        "ours": lambda: kla.held_out.fit_linear_probe(x, y, **ours),
        "theirs": lambda: LogisticRegressionCV(**theirs, scoring="balanced_accuracy").fit(x, y),
    }
    for name in ("ours", "theirs") if seed % 2 else ("theirs", "ours"):
        start = time.perf_counter()
        calls[name]()
        times[name] = time.perf_counter() - start
    return times


def measure(name, draws):
    title, draw = DATA[name]
    errors, times = {row: [] for row in ROWS}, []
    for seed in range(draws):
        train, test = of_unit_length(*draw(seed))
        for row, found in errors_of(train, test, seed).items():
            errors[row].append(found)
        if seed < TIMED:
            times.append(seconds_of(train, seed))
        shown = {row: f"{of[-1]['ours']:.2f} ({min(of[-1]['theirs']):.2f})" for row, of in errors.items()}
        print(name, seed, shown, times[-1] if seed < TIMED else "", flush=True)
    counts = np.bincount(train[1])
    size = {"columns": train[0].shape[1], "classes": counts.size, "examples": int(counts.sum())}
    return {
        "title": title,
        **size,
        "largest": int(counts.max()),
        "smallest": int(counts.min()),
        "draws": draws,
        "errors": errors,
        "seconds": times,
    }


def excess(row, kind):
    """The mean of ours minus theirs at its best C of each draw, in points, and the ends of its 95 % t-interval."""
    differences = np.array([of["ours"] - min(of[kind]) for of in row])
    mean = differences.mean()
    half = stats.t.ppf(0.975, differences.size - 1) * differences.std(ddof=1) / np.sqrt(differences.size)
    return mean, mean - half, mean + half


def to_markdown(results):
    """The table of the documentation from the results on file."""
    lines = [
        "| features | row | balanced error %, ours | scikit-learn, default | difference (points) "
        "| scikit-learn, optimum | difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for data in results["data"].values():
        size = "{columns} columns, {classes} classes, {examples:,} rows, {largest} to {smallest}".format(**data)
        for name, row in data["errors"].items():
            cells = [f"{data['title']}: {size}" if name == "erm" else "", f"`{name}`"]
            cells.append(f"{np.mean([of['ours'] for of in row]):.1f}")
            for kind in TOLERANCES:
                mean, low, high = excess(row, kind)
                cells.append(f"{np.mean([min(of[kind]) for of in row]):.1f}")
                cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
            lines.append(f"| {' | '.join(cells)} |")
    ratios = [
        f"{np.median([of['ours'] / of['theirs'] for of in data['seconds']]):.2f} ({data['title']})"
        for data in results["data"].values()
    ]
    draws = {data["draws"] for data in results["data"].values()}
    return "\n".join(
        [
            *lines,
            "",
            f"Means over {draws.pop()} draws of the training set, paired, with 95 % t-intervals over draws.",
            "scikit-learn has its best C of 4, chosen on the test set. Our penalty is chosen out of fold.",
            "Our time over the time of `LogisticRegressionCV` on the same folds and penalties, at its default",
            f"tolerance, medians of {TIMED} draws: {', '.join(ratios)}.",
            f"{results['machine']}.",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns of deprecations, and of classes with few examples
    versions = f"NumPy {np.__version__}, scikit-learn {sklearn.__version__}"
    results = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {versions}", "data": {}}
    for name in options.data:
        results["data"][name] = measure(name, options.draws)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
