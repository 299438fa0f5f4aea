"""The effect of undoing class weights: log loss and Brier score of classifiers of scikit-learn and LightGBM.

    python benchmarks/undone_weights.py [--seeds 5] [--output benchmarks/results/undone_weights.json]

Normal classes with shares of 85, 11 and 4 percent, 1,500 training and 4,000 test examples, drawn again for each seed.
Each classifier is trained plainly and with class_weight="balanced". The probabilities of the weighted one go through
`kla.adjust_scores` with the effective prior. Its difference to the plain one is paired by seed.
"""

import argparse
import json
import pathlib

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, storage

SHARES = [0.85, 0.11, 0.04]
SCORES = {"log_loss": "log loss", "brier": "Brier score"}


def classifiers(seed):
    """The classifiers by name; the boosters have few shallow trees, or many that fit every training example."""
    from lightgbm import LGBMClassifier  # here, because the table is made from results without it

    quiet = {"n_jobs": 1, "verbose": -1, "random_state": seed}
    return {
        "logistic regression": LogisticRegression(),
        "scikit-learn boosting, small": HistGradientBoostingClassifier(
            max_iter=25, max_leaf_nodes=4, learning_rate=0.15, random_state=seed
        ),
        "scikit-learn boosting, overfitted": HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.3, random_state=seed
        ),
        "LightGBM, small": LGBMClassifier(n_estimators=25, num_leaves=4, learning_rate=0.15, **quiet),
        "LightGBM, overfitted": LGBMClassifier(n_estimators=100, learning_rate=0.3, **quiet),
    }


def measure(seeds):
    """For each classifier and way of training, the scores of each seed."""
    found = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(3, 5))
        labels = [rng.choice(3, size, p=SHARES) for size in (1500, 4000)]
        x, x_test = (rng.normal(size=(y.size, 5)) + centers[y] for y in labels)
        y, y_test = labels
        counts = kla.priors.count_classes(y)
        prior = kla.priors.effective_prior(counts, class_weight="balanced")
        for name, model in classifiers(seed).items():
            plain = model.fit(x, y).predict_proba(x_test)
            weighted = model.set_params(class_weight="balanced").fit(x, y).predict_proba(x_test)
            undone = kla.adjust_scores(weighted, prior, target_prior=counts)
            for way, p in {"plain": plain, "class_weight": weighted, "undone": undone}.items():
                row = found.setdefault(name, {}).setdefault(way, {score: [] for score in SCORES})
                row["log_loss"].append(float(-np.log(p[np.arange(y_test.size), y_test]).mean()))
                row["brier"].append(float(((p - np.eye(3)[y_test]) ** 2).sum(axis=1).mean()))
    return found


def to_markdown(results):
    """The table of the results."""
    header = ["classifier", "score", "plain", "`class_weight`", "undone", "undone − plain, by seed"]
    rows = []
    for name, ways in results["classifiers"].items():
        for score, title in SCORES.items():
            values = {way: np.array(row[score]) for way, row in ways.items()}
            less = values["undone"] - values["plain"]
            means = [f"{value.mean():.3f}" for value in values.values()]
            rows.append([name, title, *means, f"{less.mean():+.3f} ({less.min():+.3f} to {less.max():+.3f})"])
    return f"{report.to_table(header, rows)}\n\nMeans over {report.in_seeds(results['seeds'])}; lower is better."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", metavar="FILE.json")
    options = parser.parse_args()
    command = f"python benchmarks/undone_weights.py --seeds {options.seeds}"
    results = {"command": command, "versions": storage.versions(), "seeds": options.seeds}
    with threadpool_limits(1):  # with so little data, several threads are slower
        results["classifiers"] = measure(options.seeds)
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
