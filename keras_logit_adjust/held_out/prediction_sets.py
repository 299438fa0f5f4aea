"""Prediction sets under a long tail: split conformal prediction with a score that includes rare classes.

A set is right if it holds the true class. Thresholds on the plain probability reach the promised share of right sets,
but they leave rare classes out. Macro-coverage is the mean over classes of how often a set holds its class. Where
P(y|x) is exact, `P(y|x)/π_y`, the prevalence-adjusted score, has the greatest macro-coverage of all scores at a given
mean size.
"""

import dataclasses
import math
import warnings

import numpy as np

from keras_logit_adjust import _arrays, _checks
from keras_logit_adjust.held_out import _reading
from keras_logit_adjust.held_out.tau_path import by_stratum
from keras_logit_adjust.layers import PredictionSet
from keras_logit_adjust.priors.formulas import as_prior

SCORES = ("prevalence_adjusted", "softmax")
COVERAGES = ("marginal", "class_conditional", "interpolated")
_ROUNDING = 1e-9  # subtracted from (n + 1)·(1 − α), which may be a whole number
_ROUNDING_OF_FLOAT32 = 4 * float(np.finfo("float32").eps)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class SetReport:
    """The result of `PredictionSets.evaluate`: coverage and size of prediction sets on labeled examples.

    Attributes:
        coverage: the share of examples whose class is in their set.
        macro_coverage: the mean of `class_coverage` over the classes that have examples.
        mean_size: the mean number of classes in a set.
        class_coverage: `[L]` coverage of the examples of each class; NaN for classes without examples.
        intervals: `{"coverage": (low, high), "macro_coverage": …, "mean_size": …}`, by a bootstrap that redraws the
            examples of each class.
        level: the nominal coverage of the intervals.
        num_examples: the number of examples.
    """

    coverage: float
    macro_coverage: float
    mean_size: float
    class_coverage: np.ndarray
    intervals: dict
    level: float
    num_examples: int

    def __repr__(self):
        shown = (
            f"{name.replace('_', ' ')} {getattr(self, name):.3f} [{low:.3f}, {high:.3f}]"
            for name, (low, high) in self.intervals.items()
        )
        return f"SetReport of {self.num_examples:,} examples, {100 * self.level:g}% intervals: {', '.join(shown)}"


class PredictionSets:
    """Sets of classes that contain the true class with probability `1 − α`, for a classifier trained on a long tail.

    A class is in the set of x where `s(x, y) ≥ q_y`, with `s = P(y|x)/π_y` ("prevalence_adjusted") or `s = P(y|x)`
    ("softmax"). `q` is the `⌈(n+1)·(1−α)⌉`-th largest score of the true class among n calibration examples:

    - "marginal": one q from all examples. At least a share 1 − α of new examples from the calibration mix have their
      class in their set. If no scores are equal, the share is at most 1 − α + 1/(n+1).
    - "class_conditional": a q for each class, from its own examples. The promise then holds for every class. All
      promises are averages over calibration sets: one of them gives some classes a little less. A class
      with less than `⌈1/α⌉ − 1` examples has no such q: every set contains the class, and a warning says so.
    - "interpolated": `w·q_y + (1−w)·q` with `weight` w, and q_y = 0 for classes with too few examples. At least a share
      1 − 2α is right, because each of the two is wrong for at most α.

    The promises need calibration examples that were not used in training, from the class mix of the later data. To
    judge all classes equally, look at the macro-coverage.

    Args:
        logits: `[N, L]` of calibration examples, from the model as it is; leading axes are flattened.
        y_true: `[N]` class ids, or one-hot rows.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0: `π`, the prior that is in the
            logits. It stays that of training if the calibration examples have another mix; other counts give larger
            sets, which keep the promise.
        alpha: the share α of sets that may miss the true class.
        score: "prevalence_adjusted" or "softmax".
        coverage: "marginal", "class_conditional" or "interpolated".
        weight: `w` of "interpolated", in [0, 1]: 0 is marginal, 1 is class-conditional.
        tau: the τ of the adjusted loss that trained the model; its probabilities are `softmax(f + τ·log π)`. 0 for a
            model with a plain loss.

    Attributes:
        prior: the `Prior`.
        thresholds: float64 `[L]` the `q_y`, 0 for a class that is in every set.
        always: ids of the classes that are in every set, as a tuple.
        num_examples: the number of calibration examples n.
        calibration_counts: `[L]` calibration examples of each class.

    Raises:
        ValueError: for probabilities, labels that do not fit, or fewer than `⌈1/α⌉ − 1` examples.

    Warns:
        UserWarning: for "class_conditional" and "interpolated", where classes have too few examples for a threshold of
            their own.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], [80, 15, 5])
    >>> logits = 2 * np.eye(3)[y] + np.log([80, 15, 5]) + rng.normal(size=(100, 3))
    >>> sets = PredictionSets(logits, y, class_counts=[80, 15, 5])
    >>> sets.sets(np.log([[0.98, 0.01, 0.01], [0.5, 0.2, 0.3]])).tolist()
    [[True, False, False], [False, True, True]]

    Reference: Ding, Fermanian and Salmon (2025), conformal prediction for long-tailed classification, §2 (the score)
    and §3 (interpolation); Vovk, Gammerman and Shafer (2005), algorithmic learning in a random world, §4.5.
    """

    def __init__(
        self,
        logits,
        y_true,
        class_counts,
        *,
        alpha=0.1,
        score="prevalence_adjusted",
        coverage="marginal",
        weight=0.5,
        tau=0.0,
    ):
        self._class_names = _reading.names_of(logits, class_counts=class_counts, tau=tau)
        self.prior = as_prior(class_counts, independent=False, class_names=self._class_names)
        self.score = _checks.check_choice(score, "score", SCORES)
        self.coverage = _checks.check_choice(coverage, "coverage", COVERAGES)
        self.weight = _checks.check_number(weight, "weight", minimum=0, maximum=1)
        self.tau = _checks.as_tau(_arrays.in_order(tau, "tau", self._class_names), self.prior.size)
        self.alpha = _checks.check_open_fraction(alpha, "alpha")
        reader = _reading.Reader(self.prior.size, class_names=self._class_names)
        ids, logits = reader.examples(y_true, logits)
        reader.check()
        scores = self._scores(logits)[np.arange(ids.size), ids]
        self.num_examples, self.calibration_counts = ids.size, np.bincount(ids, minlength=self.prior.size)
        thresholds = self._find_thresholds(scores, ids)
        self.always = tuple(np.flatnonzero(thresholds == 0.0).tolist())
        thresholds.flags.writeable = False
        self.thresholds = thresholds

    def _find_thresholds(self, scores, ids):
        least = math.ceil(min(1 / self.alpha, 1e18) - _ROUNDING) - 1
        if self.num_examples < least:
            raise _checks.ArgumentError(
                "y_true",
                f"At alpha={self.alpha:g} there must be at least {least} calibration examples. Received "
                f"{self.num_examples}: with fewer, every set would have to hold every class.",
            )
        marginal = np.full(self.prior.size, _quantile(scores, self.alpha))
        if self.coverage == "marginal":
            return marginal
        own = np.array([_quantile(scores[ids == c], self.alpha) for c in range(self.prior.size)])
        if (few := self.calibration_counts < least).any():
            warnings.warn(
                f"{few.sum()} of {few.size} classes have fewer than {least} calibration examples, too few for a "
                f"threshold of their own at alpha={self.alpha:g}: {_checks.name_classes(few)}. "
                + (
                    'They are in every set. Hold out more examples, raise `alpha`, or take coverage="interpolated".'
                    if self.coverage == "class_conditional"
                    else f"Their threshold is 1 − weight = {1 - self.weight:g} times the threshold of all examples."
                ),
                stacklevel=4,
            )
        weight = 1.0 if self.coverage == "class_conditional" else self.weight
        return weight * own + (1 - weight) * marginal

    def _scores(self, logits):
        """Float64 scores of all classes, `[N, L]`."""
        from scipy import special

        probabilities = special.softmax(logits.astype("float64") + self.tau * self.prior.logits, axis=1)
        return probabilities / self.prior.probabilities if self.score == "prevalence_adjusted" else probabilities

    def sets(self, logits):
        """The sets of examples with logits `[N, L]`, as booleans `[N, L]`: True for a class in the set."""
        return self._sets(self._read(logits))

    def _read(self, logits):
        reader = _reading.Reader(self.prior.size, class_names=self._class_names)
        matrix = reader.logits(logits).astype("float64")
        if not reader.is_unit:  # a few logits of one unit may all be in [0, 1]; those of the calibration were checked
            reader.check()
        return matrix

    def _sets(self, logits):
        return self._scores(logits) >= self.thresholds

    def evaluate(self, logits, y_true, *, replicates=200, level=0.95, seed=0):
        """Coverage, macro-coverage and mean size on labeled examples, as a `SetReport`.

        Args:
            logits: `[N, L]` of other examples than those of the calibration.
            y_true: `[N]` class ids, or one-hot rows.
            replicates: the number of bootstrap samples; each redraws the examples of each class.
            level: nominal coverage of the intervals.
            seed: the seed of the bootstrap.
        """
        replicates = _checks.check_integer(replicates, "replicates", minimum=2)
        level = _checks.check_open_fraction(level, "level")
        rng = np.random.default_rng(_checks.check_seed(seed))
        y_true, logits = _reading.labels_beside(y_true, logits), self._read(logits)
        ids = _reading.as_ids(y_true, *logits.shape)
        sets = self._sets(logits)
        order, first, in_class = by_stratum(ids)
        ids = ids[order]
        hits, sizes = sets[order, ids], sets[order].sum(axis=1)
        counts = np.bincount(ids, minlength=self.prior.size)

        def measured(rows):
            own = np.divide(
                np.bincount(ids, hits[rows], counts.size), counts, where=counts > 0, out=np.full(counts.size, np.nan)
            )
            return own, (hits[rows].mean(), np.nanmean(own), sizes[rows].mean())

        class_coverage, found = measured(np.arange(ids.size))
        drawn = [measured(first + (rng.random(ids.size) * in_class).astype("int64"))[1] for _ in range(replicates)]
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).T.tolist()
        intervals = dict(zip(("coverage", "macro_coverage", "mean_size"), map(tuple, ends), strict=True))
        return SetReport(*map(float, found), class_coverage, intervals, level, ids.size)

    def layer(self, **kwargs):
        """The sets as a `kla.layers.PredictionSet` behind the logits, which saves and exports with the model.

        Its float32 bounds are lower by some units of rounding: a class at its threshold is in the set.

        Args:
            **kwargs: as in `keras.layers.Layer`.
        """
        scale = self.prior.probabilities if self.score == "prevalence_adjusted" else 1.0
        with np.errstate(divide="ignore"):  # a threshold of 0: in every set
            lowest = np.log(self.thresholds * scale)
        lowest = lowest - _ROUNDING_OF_FLOAT32 * np.maximum(1.0, np.where(lowest == -np.inf, 1.0, np.abs(lowest)))
        return PredictionSet(lowest, offset=self.tau * self.prior.logits, **kwargs)

    def __repr__(self):
        always = f", {len(self.always)} classes in every set" if self.always else ""
        return (
            f"PredictionSets, {self.coverage} coverage of {1 - self.alpha:g} by the {self.score} score, from "
            f"{self.num_examples:,} examples{always}"
        )


def _quantile(scores, alpha):
    """The `⌈(n+1)·(1−α)⌉`-th largest score; 0, which every score reaches, if there are fewer scores."""
    rank = max(1, math.ceil((scores.size + 1) * (1 - alpha) - _ROUNDING))
    return np.partition(scores, scores.size - rank)[scores.size - rank] if rank <= scores.size else 0.0
