"""Do the norms of class weights follow the prior? With SGD and momentum yes, with Adam no (§3, Figure 1).

This decides whether weight normalization corrects anything: it divides by the norms instead of the prior.
"""

import dataclasses

import numpy as np
from scipy import stats

from keras_logit_adjust import priors
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare.config import as_config
from keras_logit_adjust.compare.report import in_seeds, show_difference
from keras_logit_adjust.compare.run import compare_with_predictions
from keras_logit_adjust.studies.table import Table

OPTIMIZERS = {"sgd": "SGD with momentum", "adam": "Adam"}
METHODS = ("erm", "weight_norm")


def run(folder, *, config=None, seeds=3):
    """Train ERM under both optimizers and correlate `‖w_y‖₂` with the prior, seed by seed."""
    config, found = as_config(config), {}
    counts = config.load(0).class_counts
    if counts.size < 3 or np.ptp(counts) == 0:
        raise ArgumentError(
            "train",
            "A correlation with the prior needs at least three classes of different size. "
            f"Received counts {counts[:8].tolist()}.",
        )
    for optimizer in OPTIMIZERS:
        own = dataclasses.replace(config, optimizer=optimizer)
        results, predictions = compare_with_predictions(own, methods=METHODS, seeds=seeds, output=folder / optimizer)
        norms = [run.class_norms for run in predictions.runs["erm"]]
        pairs = [
            (priors.prior(counts), of_seed) for counts, of_seed in zip(predictions.class_counts, norms, strict=True)
        ]
        found[optimizer] = {
            "norms": [of_seed.tolist() for of_seed in norms],
            "pearson": [float(stats.pearsonr(*pair).statistic) for pair in pairs],
            "spearman": [float(stats.spearmanr(*pair).statistic) for pair in pairs],
            "balanced_error": results["methods"]["erm"]["summary"]["balanced_error"],
            "weight_norm": results["methods"]["weight_norm"]["versus_erm"],
        }
    return {"data": results["data"], "class_counts": results["class_counts"], "optimizers": found}


def table(results):
    """A row for each optimizer."""
    seeds = in_seeds(len(results["optimizers"]["sgd"]["pearson"]))
    return Table(
        f"{results['data']['name']}, {len(results['class_counts'])} classes, {seeds}",
        ["optimizer", "Pearson", "Spearman", "ERM balanced error %", "weight normalization (points)"],
        [
            [
                OPTIMIZERS[optimizer],
                _mean(found["pearson"]),
                _mean(found["spearman"]),
                f"{found['balanced_error']['mean']:.1f}",
                show_difference(found["weight_norm"]),
            ]
            for optimizer, found in results["optimizers"].items()
        ],
        """\
Correlation of the norms of class weights with the class prior, mean and range over seeds. Last column: balanced error
of weight normalization at τ = 1 minus the error of ERM, with a 95% paired interval.""",
    )


def _mean(values):
    return f"{np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def figure(results):
    """Norms against class frequency, an axis for each optimizer."""
    from keras_logit_adjust import plots

    return plots.class_norms(
        results["class_counts"], {OPTIMIZERS[key]: found["norms"] for key, found in results["optimizers"].items()}
    )
