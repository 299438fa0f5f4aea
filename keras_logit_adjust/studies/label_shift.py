"""A deployment with another class mix: no adjustment, the mix estimated from unlabeled examples, the true mix.

The test set is resampled to three mixes that differ from the training mix: all classes equal, the tail reversed, and
Zipf's law with random ranks of classes. Estimates use its logits and no label.
"""

import warnings

import numpy as np

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.compare.config import as_config
from keras_logit_adjust.compare.report import in_seeds
from keras_logit_adjust.compare.run import compare_with_predictions
from keras_logit_adjust.compare.statistics import show, spread
from keras_logit_adjust.held_out import calibrate, estimate_target_prior
from keras_logit_adjust.studies.table import Table

MIXES = ("uniform", "reversed", "shuffled")
RULES = {
    "none": "no adjustment",
    "uniform": "adjusted to the uniform prior",
    "em": "estimated prior, EM",
    "em_calibrated": "estimated prior, EM, calibrated",
    "bbse": "estimated prior, BBSE",
    "true": "true prior",
}
CALIBRATION = "bias_corrected_temperature"


def run(folder, *, config=None, seeds=3):
    """Train plain models, and predict on every mix by every rule, seed by seed."""
    config = as_config(config)
    tested = _tested(config.load(0))
    if not tested.all():  # otherwise a mix cannot be drawn
        raise _checks.ArgumentError(
            "test",
            f"The test set must have examples of every class, to be resampled. Received none of "
            f"{_checks.name_classes(tested == 0)}.",
        )
    results, predictions = compare_with_predictions(config, methods=["erm"], seeds=seeds, output=folder / "compare")
    found = {mix: {name: {"accuracy": [], "distance": [], "inside": []} for name in RULES} for mix in MIXES}
    drawn, smallest = {mix: [] for mix in MIXES}, []
    for run, split in zip(predictions.runs["erm"], predictions.splits, strict=True):
        seed, validation_labels = split.seed, split.validation_labels
        held_out = None if validation_labels is None else (run.validation_logits, validation_labels)
        for mix, target in mixes_of(split.class_counts).items():
            rows = resample(predictions.labels, target, seed=seed)
            labels, logits = predictions.labels[rows], run.test_logits[rows]
            counts = np.bincount(labels, minlength=target.size)
            drawn[mix].append(counts.tolist())
            truth = counts / rows.size
            choices, singular_value = _apply_rules(logits, split.class_counts, held_out=held_out, truth=truth)
            for name, choice in choices.items():
                for key, value in _score(*choice, labels=labels, truth=truth).items():
                    found[mix][name][key].append(value)
        smallest.append(singular_value)
    return {
        "data": results["data"],
        "class_counts": results["class_counts"],
        "seeds": seeds,
        "drawn_counts": drawn,
        "smallest_singular_value": smallest,
        "mixes": found,
    }


def _tested(dataset):
    """The number of test examples of each class."""
    return np.bincount(dataset.test[1], minlength=dataset.num_classes)


def mixes_of(class_counts):
    """The three class mixes, `{name: [L]}`.

    Example:

    >>> mixes_of(np.array([70, 20, 10]))["reversed"].tolist()
    [0.1, 0.2, 0.7]
    """
    counts = np.asarray(class_counts, "float64")
    num_classes, order = counts.size, np.argsort(-counts, kind="stable")
    backwards = np.empty(num_classes)
    backwards[order] = counts[order[::-1]]
    zipf = 1.0 / (1 + np.random.default_rng(0).permutation(num_classes))
    return {name: v / v.sum() for name, v in zip(MIXES, (np.ones(num_classes), backwards, zipf), strict=True)}


def resample(labels, target, *, seed):
    """The largest sample without repeats for the mix `target`, with at least one row of every class.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> labels[resample(labels, np.array([0.5, 0.5]), seed=0)].tolist()
    [0, 0, 1, 1]
    """
    available = np.bincount(labels, minlength=target.size)
    numbers = np.floor(target * np.min(available / target) + 1e-9).astype("int64").clip(1, available)
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == c))[:number] for c, number in enumerate(numbers)]
    return np.sort(np.concatenate(members))


def _apply_rules(logits, class_counts, *, held_out, truth):
    """`{rule: (adjusted logits, estimate)}`, both None if a rule lacks examples, and BBSE's singular value."""
    log_prior = priors.log_prior(class_counts)
    rules = {"none": (logits, None), "uniform": (logits - log_prior, None)}
    estimates = {"em": (logits, estimate_target_prior(logits, class_counts)), "em_calibrated": None, "bbse": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few calibration data, a singular matrix: the table shows both
        if held_out is not None:
            calibrated = calibrate(*held_out, method=CALIBRATION).apply(logits)
            estimates["em_calibrated"] = calibrated, estimate_target_prior(calibrated, class_counts)
        if held_out is not None and np.bincount(held_out[1], minlength=truth.size).all():
            estimates["bbse"] = logits, estimate_target_prior(logits, class_counts, method="bbse", validation=held_out)
    for name, found in estimates.items():
        scores, estimate = found or (None, None)
        rules[name] = found and (scores - log_prior + np.log(estimate.effective_prior)), estimate
    rules["true"] = (logits - log_prior + np.log(truth), None)
    return rules, getattr(rules["bbse"][1], "smallest_singular_value", None)


def _score(adjusted, estimate, *, labels, truth):
    """Accuracy in percent, the estimate's L1 distance to the truth, and the number of intervals with the true share."""
    accuracy = None if adjusted is None else 100 * float((adjusted.argmax(axis=-1) == labels).mean())
    if estimate is None:
        return {"accuracy": accuracy, "distance": None, "inside": None}
    inside = (estimate.low <= truth) & (truth <= estimate.high)
    return {
        "accuracy": accuracy,
        "distance": float(np.abs(estimate.prior - truth).sum()),
        "inside": int(inside.sum()),
    }


def table(results):
    """A row for each rule, accuracy and distance for each mix."""
    mixes, num_classes = results["mixes"], len(results["class_counts"])
    sizes = [f"{sum(drawn[0]):,} ({mix})" for mix, drawn in results["drawn_counts"].items()]
    values = [f"{value:.2g}" for value in results["smallest_singular_value"] if value is not None]
    note = f"the smallest singular value of its matrix is {', '.join(values)}" if values else "there are none"
    return Table(
        f"{results['data']['name']}, {num_classes} classes, {in_seeds(results['seeds'])}, on {', '.join(sizes)} "
        "test examples",
        ["method", *(text for mix in mixes for text in (f"{mix} %", "L1 (inside)"))],
        [
            [f"`{name}` {title}", *(text for found in mixes.values() for text in _cells(found[name]))]
            for name, title in RULES.items()
        ],
        f"""\
Accuracy in percent under each class mix, mean ± standard deviation over seeds; L1 distance of the estimated to the true
mix (at most 2), in brackets how many of {num_classes} classes have their true share in the 95% interval. Uniform: all
classes equal. Reversed: the tail reversed. Shuffled: shares 1/rank, with random ranks of classes.
Calibrated: bias-corrected temperature, fitted on the validation examples. BBSE needs validation examples of every
class: {note}.""",
    )


def _cells(found):
    keys = ("accuracy", "distance", "inside")
    accuracy, distance, inside = ([value for value in found[key] if value is not None] for key in keys)
    if not accuracy:
        return ["-", "-"]
    estimated = f"{np.mean(distance):.2f} ({np.mean(inside):.1f})" if distance else ""
    return [show(spread(accuracy)), estimated]


def figure(results):
    """Accuracy by mix, a bar for each rule."""
    from keras_logit_adjust import plots

    return plots.label_shift(
        {
            RULES[name]: {mix: found[name]["accuracy"] for mix, found in results["mixes"].items()}
            for name in RULES
            if None not in results["mixes"]["uniform"][name]["accuracy"]
        }
    )
