"""Offsets for each class, chosen on held-out data: for users whose measure is macro-F1 or a cost."""

import dataclasses
import functools

import numpy as np

from keras_logit_adjust import _arrays, _checks
from keras_logit_adjust.held_out import _reading
from keras_logit_adjust.held_out._coordinate_search import MacroF1, WeightedRecall, search, search_from_many
from keras_logit_adjust.held_out.tau_path import by_stratum
from keras_logit_adjust.priors.formulas import as_prior

OBJECTIVES = ("macro_f1", "balanced")
# For macro-F1 at the training mix, the best strength is between no adjustment and the full one.
_TAU = {"macro_f1": 0.5, "balanced": 1.0}


@dataclasses.dataclass(frozen=True, eq=False)
class TunedOffsets:
    """The result of `kla.tune_offsets`.

    Attributes:
        offsets: `[L]` numbers to add to the logits; for classes that exclude each other their mean is 0. For one
            sigmoid unit `[1]`, a number to add to its logit.
        base: `[L]` the offsets they were shrunk towards, of mean 0 too.
        value: the objective on the held-out examples with `offsets`. The figure is optimistic, because the same
            examples chose the offsets. Averaging and shrinking can still leave it below `value_of_base`.
        value_of_base: the objective on the same examples with `base`.
        log_prior: `[L]` `log π`, or the log-odds of independent labels and of one sigmoid unit.
        exclusive: whether `offsets` are those of two or more classes that exclude each other.
    """

    offsets: np.ndarray
    base: np.ndarray
    value: float
    value_of_base: float
    log_prior: np.ndarray = dataclasses.field(repr=False)
    exclusive: bool = dataclasses.field(default=True, repr=False)

    @property
    def tau(self):
        """`[L]` the strengths that make these offsets, `−τ·log π`: for `kla.adjust` and `kla.fold_into_bias`.

        A constant added to the offsets of classes that exclude each other changes nothing. It is the one that makes
        the strengths most alike: where the offsets are a logit adjustment, every strength is its τ.
        """
        if (bad := self.log_prior == 0).any():
            raise ValueError(
                f"No τ shifts a label that half of the examples have: {_checks.name_classes(bad)}. Remedy: "
                "kla.adjust(model, …, tau=0, calibration=kla.Calibration(bias=tuned.offsets))."
            )
        tau, slope = -self.offsets / self.log_prior, 1.0 / self.log_prior
        if not self.exclusive or np.ptp(slope) == 0:
            return tau
        # The least variance of τ + c·slope over c. Both are divided by the largest slope, which may be 1e6.
        scale = np.abs(slope).max()
        tau_apart, slope_apart = (tau - tau.mean()) / scale, (slope - slope.mean()) / scale
        return tau - slope * (tau_apart @ slope_apart) / (slope_apart @ slope_apart)


def tune_offsets(
    logits,
    y_true,
    class_counts,
    *,
    objective="macro_f1",
    class_prior=None,
    num_examples=None,
    ignore_class=None,
    tau=None,
    shrinkage=50.0,
    bags=10,
    sweeps=4,
    seed=0,
):
    """Offsets `o_y`, one for each class, for `argmax_y f_y(x) + o_y`, by exact coordinate search on held-out logits.

    Along one offset the objective is a step function, and the search is exact. The search runs on `bags` bootstrap
    samples, and the offsets are averaged, because a single search follows the noise of few examples. They are then
    shrunk towards logit adjustment, `o_y = b_y + n_y/(n_y + s)·(found_y − b_y)`, with `b_y = −τ·log π_y`, `n_y`
    held-out examples and shrinkage `s`.

    Args:
        logits: `[N, L]` held-out logits of the unadjusted model; `[N]` or `[N, 1]` of one sigmoid unit, which has two
            classes, [negatives, positives].
        y_true: `[N]` class ids or one-hot rows; for independent labels `[N, L]` of 0 and 1.
        class_counts: `[L]` training examples of each class, as in `kla.adjust`.
        objective: "macro_f1"; "balanced", the mean of per-class recalls; or a vector `[L]`, the cost of missing an
            example of each class. (A matrix of costs is another kind of decision: `kla.layers.MinimumRiskDecision`.)
        class_prior: `[L]` class mix of the deployment, by which the held-out examples are weighted. By default they all
            weigh the same, and should have the training mix.
        num_examples: as in `kla.adjust`, for independent labels: every label then has a threshold of its own, `−o_l`,
            for its F1 or the mean of its two recalls.
        ignore_class: an id whose rows are left out; for independent labels the mark of an unknown target, such as −1:
            each label is tuned on the examples where it is known.
        tau: strength of the adjustment that the offsets are shrunk towards; by default ½ for macro-F1, 1 for the
            others. With `class_prior` q it is `b_y = −log π_y + (1 − τ)·log q_y`, and with costs c
            `−log π_y + log q_y + log c_y`.
        shrinkage: the number `s`. A class with `s` held-out examples keeps half of the difference that was found; 0
            keeps all of it.
        bags: bootstrap samples to average over; 0 searches the examples themselves, from several starts (a search of
            one offset at a time need not find the best of all).
        sweeps: at most so many rounds over all classes in a search. A round is exact, and reads the logits of every
            class once.
        seed: the seed of the samples.

    Returns:
        A `TunedOffsets`; `kla.fold_into_bias(model, class_counts, tau=tuned.tau)` serves it at no cost.

    Raises:
        ValueError: for logits that are NaN or probabilities, labels or costs that do not fit, a cost matrix.

    Example:

    >>> logits = np.array([[2.0, 0.0], [3.0, 0.0], [2.5, 0.0], [1.0, 0.0]])
    >>> tuned = tune_offsets(logits, [0, 0, 0, 1], class_counts=[3, 1], bags=0, shrinkage=0)
    >>> tuned.offsets.round(4).tolist(), tuned.value  # apart by 1.5: halfway between 1 and 2
    ([-0.75, 0.75], 1.0)

    Reference: Lipton et al. (2014), thresholds for F1; Breiman (1996), bagging; Menon et al. (2021), §4, equation 9.
    """
    shrinkage, seed = _checks.check_number(shrinkage, "shrinkage", minimum=0), _checks.check_seed(seed)
    _checks.check_integer(bags, "bags", minimum=0)
    _checks.check_integer(sweeps, "sweeps", minimum=1)
    by_class = {"class_counts": class_counts, "class_prior": class_prior, "objective": objective, "tau": tau}
    names = _reading.names_of(logits, **by_class)
    class_counts, class_prior, objective, tau = (
        _arrays.in_order(values, name, names) for name, values in by_class.items()
    )
    prior = as_prior(class_counts, num_examples)
    options = {"independent": prior.are_labels, "class_names": names, "ignore_class": ignore_class}
    labels, logits, is_unit = _read(y_true, logits, prior.size, **options)
    if prior.are_labels:
        if class_prior is not None or not isinstance(objective, str):
            raise ValueError("Independent labels take the objectives 'macro_f1' and 'balanced', and no `class_prior`.")
        base = -_strength(objective, tau, prior.size) * prior.logits
        find = functools.partial(_find_threshold, objective=objective, shrinkage=shrinkage, bags=bags, seed=seed)
        columns = _with_progress(zip(logits.T, labels.T, base, strict=True), "labels", prior.size)
        offsets, *values = np.transpose([find(*column) for column in columns])
        return TunedOffsets(offsets, base, *map(_mean_of_known, values), prior.logits, exclusive=False)
    ids, examples = labels, np.bincount(labels, minlength=prior.size)
    mix = None if class_prior is None else as_prior(class_prior, independent=False, name="class_prior").probabilities
    if mix is not None:
        _checks.check_length(mix, prior.size, "class_prior", "class_counts")
    make, base = _settle(objective, prior.logits, mix, tau)

    weights = _weights(ids, mix)

    def found(rows, times):
        objective = make(ids[rows], weights[rows] * times, times)
        if bags:
            return search(logits[rows], objective, base, sweeps=sweeps)[0]
        return search_from_many(logits, objective, base, sweeps=sweeps, rng=np.random.default_rng(seed))

    offsets = _bagged(found, ids, bags=bags, seed=seed)
    if examples.all():  # a class without examples stays at `base`; the others are placed relative to it
        # A constant added to all offsets has no effect, but shrinking each class would change its effect.
        offsets = offsets - np.median(offsets - base)
    offsets = _shrink(offsets, base, examples, shrinkage)
    whole = make(ids, weights, np.ones(ids.size))
    values = (whole.value(whole.tallies((logits + candidate).argmax(axis=-1))) for candidate in (offsets, base))
    if is_unit:
        return TunedOffsets(np.diff(offsets), np.diff(base), *values, np.diff(prior.logits), exclusive=False)
    return TunedOffsets(offsets - offsets.mean(), base - base.mean(), *values, prior.logits)


def _read(y_true, logits, num_classes, *, ignore_class, **options):
    """Labels, float64 logits, and whether these come from one sigmoid unit."""
    reader = _reading.Reader(num_classes, ignore_class=ignore_class, **options)
    if not (batches := [*reader.read([(y_true, logits)])]):
        raise _checks.ArgumentError(
            "y_true", f"`y_true` must have ids that are not ignored. Received only {ignore_class}."
        )
    ((labels, logits),) = batches
    reader.check()
    return labels, logits.astype("float64", copy=False), reader.is_unit


def _weights(ids, mix):
    """The weight of each example: 1, or the weight that gives the classes the shares `mix`."""
    if mix is None:
        return np.ones(ids.size)
    return (mix / np.maximum(np.bincount(ids, minlength=mix.size), 1))[ids] * ids.size


def _strength(objective, tau, num_classes):
    """τ of the offsets to which the offsets of a named objective are shrunk."""
    _checks.check_choice(objective, "objective", OBJECTIVES)
    return _checks.as_tau(_TAU[objective] if tau is None else tau, num_classes)


def _settle(objective, log_prior, mix, tau):
    """A function that makes the objective (of ids, weights and numbers of draws), and the offsets to shrink to."""
    log_mix = log_prior if mix is None else np.log(mix)
    if isinstance(objective, str):
        base = -log_prior + (1.0 - _strength(objective, tau, log_prior.size)) * log_mix
        if objective == "macro_f1":
            return lambda ids, weight, _: MacroF1(ids, weight, log_prior.size), base
        return functools.partial(_balanced, num_classes=log_prior.size), base
    if _arrays.as_array(objective, "objective", f"one of {OBJECTIVES}, or one cost for each class").ndim == 2:
        raise _checks.ArgumentError(
            "objective",
            "A matrix of costs cannot be expressed by offsets. Remedy: kla.layers.MinimumRiskDecision(costs) behind "
            "calibrated, adjusted logits chooses the class of least expected cost.",
        )
    costs = _checks.as_class_vector(objective, "objective", log_prior.size, positive=True)
    if tau is not None:
        raise _checks.ArgumentError(
            "tau", "`tau` goes with a named objective: costs already determine the optimal offsets."
        )
    base = -log_prior + log_mix + np.log(costs)
    return lambda ids, weight, _: WeightedRecall(ids, weight * costs[ids], log_prior.size), base


def _balanced(ids, weight, times, num_classes=2):
    """The mean of per-class recalls. Only the number of draws of an example counts here, no other weight."""
    return WeightedRecall(ids, times / np.bincount(ids, times)[ids], num_classes)


def _bagged(found, strata, *, bags, seed):
    """The mean of the results of `found` on bootstrap samples, stratified so that no class is lost.

    A sample is the distinct examples in it and the number of times that each was drawn.
    """
    if not bags:
        return found(np.arange(strata.size), np.ones(strata.size))
    rows, first, size = by_stratum(strata)
    rng = np.random.default_rng(seed)
    drawn = (np.unique(rows[first + rng.integers(0, size)], return_counts=True) for _ in range(bags))
    return np.mean([found(*sample) for sample in _with_progress(drawn, "bags", bags)], axis=0)


def _with_progress(items, name, total):
    """The `items`, with a progress bar if they take longer than a few seconds."""
    from tqdm import tqdm  # here, because the import is slow and few users need it

    return tqdm(items, name, total=total, delay=5, leave=False)


def _shrink(found, base, examples, shrinkage):
    trust = np.divide(examples, examples + shrinkage, out=np.zeros(np.shape(examples)), where=examples > 0)
    return base + trust * (found - base)


def _mean_of_known(values):
    """The mean over the labels that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def _find_threshold(logits, on, base, *, objective, shrinkage, bags, seed):
    """The offset of one label (two classes, the logit of one is 0), its value, and the value of `base`."""
    logits, on = logits[on >= 0], on[on >= 0].astype("int64")  # below 0 are unknown targets
    if on.all() or not on.any():  # no threshold can be learned
        return base, np.nan, np.nan
    columns = np.stack([np.zeros_like(logits), logits], axis=-1)
    make = _OfOneLabel if objective == "macro_f1" else _balanced

    def found(rows, times):
        offsets = search(columns[rows], make(on[rows], times, times), np.array([0.0, base]), sweeps=1)[0]
        return offsets[1] - offsets[0]

    offset = _shrink(_bagged(found, on, bags=bags, seed=seed), base, on.sum(), shrinkage)
    whole = make(on, *np.ones((2, on.size)))
    said = ((logits + shift > 0).astype("int64") for shift in (offset, base))
    return offset, *(whole.value(whole.tallies(labels)) for labels in said)


class _OfOneLabel(MacroF1):
    """F1 of one label, of its positives only."""

    def __init__(self, ids, weight, _):
        super().__init__(ids, weight, 2)
        self.occurs = self.occurs * [0, 1]
        self.present = np.array([1])

    def f1(self, hits, predictions, classes):
        return super().f1(hits, predictions, classes) * np.arange(2)[classes]

    def most_changes(self, hits, predictions):
        return np.zeros((2, 2))
