"""Do the norms of class weights follow the prior? With SGD and momentum yes, with Adam no (§3, Figure 1).

That decides whether weight normalization corrects anything: it divides by the norms in place of the prior.
"""

import dataclasses

import numpy as np

from keras_logit_adjust import priors
from keras_logit_adjust.compare import Config
from keras_logit_adjust.compare.report import in_seeds, show_difference, to_table
from keras_logit_adjust.compare.run import compare_with_predictions

OPTIMIZERS = {"sgd": "SGD with momentum", "adam": "Adam"}
METHODS = ("erm", "weight_norm")


def run(folder, config=None, seeds=3):
    """Train ERM under both optimizers and correlate `‖w_y‖₂` with the prior, seed by seed."""
    config, found = config or Config(), {}
    counts = config.load(0).class_counts
    if counts.size < 3 or np.ptp(counts) == 0:
        raise ValueError(
            "A correlation with the prior needs at least three classes of different size. "
            f"Received counts {counts[:8].tolist()}."
        )
    for optimizer in OPTIMIZERS:
        own = dataclasses.replace(config, optimizer=optimizer)
        results, predictions = compare_with_predictions(own, METHODS, seeds, folder / optimizer)
        norms = np.stack([predictions[f"class_norms_erm_seed{seed}"] for seed in range(seeds)])
        prior = np.stack([priors.prior(counts) for counts in predictions["class_counts"]])
        found[optimizer] = {
            "norms": norms.tolist(),
            "pearson": [float(np.corrcoef(*pair)[0, 1]) for pair in zip(prior, norms, strict=True)],
            "spearman": [spearman(*pair) for pair in zip(prior, norms, strict=True)],
            "balanced_error": results["methods"]["erm"]["summary"]["balanced_error"],
            "weight_norm": results["methods"]["weight_norm"]["versus_erm"],
        }
    return {"data": results["data"], "class_counts": results["class_counts"], "optimizers": found}


def spearman(x, y):
    """Spearman's rank correlation, ties at their average rank.

    Example:

    >>> spearman([1, 2, 2, 3], [1, 4, 4, 9])
    1.0
    """
    return float(np.round(np.corrcoef(_ranks(x), _ranks(y))[0, 1], 12))


def _ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def to_markdown(results):
    """A row for each optimizer."""
    header = ["optimizer", "Pearson", "Spearman", "ERM balanced error %", "weight normalization (points)"]
    rows = []
    for optimizer, found in results["optimizers"].items():
        error, versus = found["balanced_error"], found["weight_norm"]
        rows.append(
            [
                OPTIMIZERS[optimizer],
                _mean(found["pearson"]),
                _mean(found["spearman"]),
                f"{error['mean']:.1f}",
                show_difference(versus),
            ]
        )
    seeds = len(results["optimizers"]["sgd"]["pearson"])
    return f"""\
{results["data"]["name"]}, {len(results["class_counts"])} classes, {in_seeds(seeds)}

{to_table(header, rows)}

Correlation of the norms of class weights with the class prior, mean and range over seeds. Last column: balanced error
of weight normalization at τ = 1 less ERM's, with a 95% paired interval."""


def _mean(values):
    return f"{np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def figure(results):
    """Norms against class frequency, an axis for each optimizer."""
    from keras_logit_adjust import plots

    norms = {OPTIMIZERS[key]: found["norms"] for key, found in results["optimizers"].items()}
    return plots.class_norms(results["class_counts"], norms)
