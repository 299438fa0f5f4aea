"""The same test logits under other class mixes of the test set: nothing is trained again.

In forward mixes the classes that are frequent in training are frequent; in backward mixes they are rare. The uniform
mix is between them. Shares fall exponentially over the classes in order of training frequency.
"""

import numpy as np

from keras_logit_adjust import priors
from keras_logit_adjust.compare import statistics
from keras_logit_adjust.data.profiles import share_of_largest
from keras_logit_adjust.held_out import estimate_target_prior

RATIOS = (50, 25, 10)
RULES = {
    "none": "no adjustment",
    "uniform": "post hoc, adjusted to the uniform mix",
    "known": "post hoc, adjusted to the known mix",
    "estimated": "post hoc, adjusted to an estimated mix (EM)",
}
REPEATS = 20
_LARGEST_SAMPLE = 2000  # unlabeled examples that EM sees


def mixes_of(class_counts):
    """`{name: shares [L]}`, from the mix most similar to the training set to its reverse.

    Example:

    >>> {name: mix.round(3).tolist() for name, mix in mixes_of([10, 90, 30]).items() if "10" in name}
    {'forward 10': [0.07, 0.706, 0.223], 'backward 10': [0.706, 0.07, 0.223]}
    """
    counts = np.asarray(class_counts)
    rank = np.empty(counts.size, "int64")
    rank[np.argsort(-counts, kind="stable")] = np.arange(counts.size)
    shares = {ratio: share_of_largest(counts.size, imbalance_ratio=ratio, profile="exponential") for ratio in RATIOS}
    found = {f"forward {ratio}": shares[ratio][rank] for ratio in RATIOS}
    found["uniform"] = np.ones(counts.size)
    found |= {f"backward {ratio}": shares[ratio][::-1][rank] for ratio in reversed(RATIOS)}
    return {name: mix / mix.sum() for name, mix in found.items()}


def accuracies(labels, logits, class_counts, *, seed):
    """`{mix: {rule: accuracy in percent}}` of one plain model.

    Every test example weighs its class's share in the mix over the class's test examples, so that all of them are used.
    The estimate is the mean over `REPEATS` samples, each drawn from the mix with replacement. EM sees the logits of a
    sample and no label. Its estimate then adjusts all test examples.

    Args:
        labels: `[N]` test labels.
        logits: `[N, L]` test logits of a model that was trained on `class_counts` without adjustment.
        class_counts: `[L]`.
        seed: the seed of the samples.
    """
    log_prior, rng = priors.log_prior(class_counts), np.random.default_rng(seed)
    tested = np.bincount(labels, minlength=len(class_counts))
    balanced, found = logits - log_prior, {}
    for name, mix in mixes_of(class_counts).items():
        mix = np.where(tested > 0, mix, 0.0) / mix[tested > 0].sum()
        weight = np.divide(mix, tested, out=np.zeros(mix.size), where=tested > 0)[labels]

        def accuracy(scores, weight=weight):
            return 100 * float(weight @ (scores.argmax(axis=1) == labels))

        with np.errstate(divide="ignore"):  # a class without test examples has the share 0
            known = np.log(mix)
        estimates = []
        for _ in range(REPEATS):
            rows = rng.choice(labels.size, min(labels.size, _LARGEST_SAMPLE), p=weight / weight.sum())
            estimate = estimate_target_prior(logits[rows], class_counts, replicates=2, tol=1e-6)
            estimates.append(accuracy(balanced + np.log(estimate.effective_prior)))
        found[name] = {
            "none": accuracy(logits),
            "uniform": accuracy(balanced),
            "known": accuracy(balanced + known),
            "estimated": float(np.mean(estimates)),
        }
    return found


def gather(splits, runs):
    """The part of results.json about the mixes: the accuracy of every seed for each rule and mix.

    Args:
        splits: the `Split` of each seed.
        runs: `{trained row: [Run of each seed]}`.
    """
    name = "la_posthoc" if "la_posthoc" in runs else "erm"
    by_seed = [
        accuracies(split.test_labels, run.test_logits.astype("float64"), split.class_counts, seed=split.seed)
        for split, run in zip(splits, runs[name], strict=True)
    ]
    return {
        "logits_of": name,
        "repeats": REPEATS,
        "sample": min(len(splits[0].test_labels), _LARGEST_SAMPLE),
        "accuracy": {rule: {mix: [of[mix][rule] for of in by_seed] for mix in by_seed[0]} for rule in RULES},
    }


def header_and_rows(found):
    """The texts of the table."""
    mixes = list(found["accuracy"]["none"])
    summaries = {rule: statistics.summarize(_by_seed(of)) for rule, of in found["accuracy"].items()}
    return ["accuracy %", *mixes], [
        [RULES[rule], *(statistics.show(summaries[rule][mix]) for mix in mixes)] for rule in found["accuracy"]
    ]


def _by_seed(of_rule):
    return [dict(zip(of_rule, values, strict=True)) for values in zip(*of_rule.values(), strict=True)]


def legend(found):
    """A description of the table in a few sentences."""
    return (
        f"The test logits of `{found['logits_of']}` before adjustment, under other class mixes; no training. Shares "
        "fall exponentially by the given ratio, forward in order of training frequency, backward in the reverse. "
        "Plain accuracy; every test example weighs its class's share. EM estimates the mix from "
        f"{found['sample']:,} unlabeled examples drawn from it, {found['repeats']} times. It takes the logits as "
        "posteriors. Where they are not calibrated, or many classes share few examples, the estimate can do harm."
    )
