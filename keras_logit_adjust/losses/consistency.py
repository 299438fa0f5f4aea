"""Whether minimizing a loss gives the classifier that is Bayes-optimal for the balanced error: Fisher consistency.

Theorem 1 is a sufficient condition for any number of classes. Lemma 2 is necessary and sufficient for two classes. A
loss that fails Lemma 2 on two of its classes is inconsistent: at some point only these two classes may occur.
"""

import dataclasses

import keras
import numpy as np

from keras_logit_adjust import priors
from keras_logit_adjust.losses import _base, _rivals
from keras_logit_adjust.losses.logit_adjusted import LogitAdjustedCrossentropy
from keras_logit_adjust.losses.pairwise_margin import PairwiseMarginCrossentropy
from keras_logit_adjust.losses.reweighted import FocalCrossentropy

_SOFTMAX_LOSSES = (
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    FocalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
)
_TOLERANCE = 1e-6  # for logarithms: margins are differences, and float64 rounds them
_MOST_CLASSES = 512  # pairs of at most so many classes are tried, taken evenly over the frequencies
_LARGER_SHARE = 0.8  # the larger P(contested point | class) of the two classes of a witness


@dataclasses.dataclass(frozen=True)
class Witness:
    """The evidence of `is_fisher_consistent` that a loss's minimizer is not Bayes-optimal for the balanced error.

    Two classes occur at one contested point, the first. Every other point belongs to one class.

    Attributes:
        classes: the two classes. At the contested point the minimizer prefers the second. The first would be right.
        prior: `[L]` class prior.
        shares: `P(contested point | class)` of the two.
    """

    classes: tuple
    prior: np.ndarray
    shares: tuple

    @property
    def joint(self):
        """Probabilities P(x, y) of L + 1 points x, `[L + 1, L]`, the contested point first. Columns sum to `prior`."""
        joint = np.zeros((self.prior.size + 1, self.prior.size))
        np.fill_diagonal(joint[1:], self.prior)
        for label, share in zip(self.classes, self.shares, strict=True):
            joint[0, label] = share * self.prior[label]
            joint[1 + label, label] -= share * self.prior[label]
        return joint


@dataclasses.dataclass(frozen=True)
class Consistency:
    """The result of `is_fisher_consistent`. It is true in a condition if the verdict is "consistent".

    Attributes:
        verdict: "consistent", "inconsistent" or "undecided".
        reason: why, in words.
        delta: `[L]`, the δ of Theorem 1 (summing to one), where that decided.
        witness: the `Witness` of an inconsistent loss.
    """

    verdict: str
    reason: str
    delta: np.ndarray | None = None
    witness: Witness | None = None

    def __bool__(self):
        return self.verdict == "consistent"


def is_fisher_consistent(loss, *, class_counts=None):
    """Whether minimizing `loss` over all scorers gives the Bayes-optimal rule for the balanced error.

    - "consistent": `α_y = δ_y/π_y` and `Δ_yy' = log(δ_y'/δ_y)` for some `δ > 0` (Theorem 1), or two classes that meet
      Lemma 2;
    - "inconsistent": two of the classes fail Lemma 2, `α_a·π_a·s(Δ_ab) = α_b·π_b·s(Δ_ba)` with `s` the logistic
      function;
    - "undecided": neither result applies. Theorem 1 is sufficient, not necessary.

    Args:
        loss: one of `kla.losses` for class ids or rows, or Keras's `SparseCategoricalCrossentropy` or
            `CategoricalCrossentropy`.
        class_counts: `[L]` counts that the model sees; by default the counts of the loss. A loss without counts needs
            them.

    Returns:
        A `Consistency` with `verdict`, `reason`, and `delta` or `witness`; true in a condition where consistent.

    Raises:
        ValueError: for another loss, for counts that are missing or do not fit.

    Example:

    >>> from keras_logit_adjust import losses
    >>> is_fisher_consistent(losses.LogitAdjustedCrossentropy([90, 10])).verdict
    'consistent'
    >>> print(is_fisher_consistent(losses.AdaptiveMarginCrossentropy([90, 10])).reason)
    Classes 1 and 0 fail Lemma 2: the minimizer prefers class 0 until P(x|1) is 9 times P(x|0).

    Reference: Menon et al. (2021), §5.1, Theorem 1 and Lemma 2; Charoenphakdee et al. (2021) for focal loss.
    """
    prior, margins = _parts(loss, class_counts)
    if getattr(loss, "label_smoothing", 0.0):
        return Consistency("undecided", "Label smoothing mixes P(y|x) with the uniform one, which no theorem covers.")
    found = judge(prior, margins)
    if isinstance(loss, FocalCrossentropy):
        reason = f"Focal loss is calibrated: its argmax is that of cross-entropy with its weights. {found.reason}"
        return dataclasses.replace(found, reason=reason)
    return found


def judge(prior, margins):
    """The `Consistency` of a member of the family, from its class prior `[L]` and its `_rivals.Margins`."""
    class_weight, label_margin, rival_margin, logit_scale = margins
    if np.ptp(logit_scale) > _TOLERANCE * logit_scale.max():
        return Consistency(
            "undecided",
            "Logits are scaled by class, so the minimum leaves the size of the logits, and with it their order, open.",
        )
    log_delta = np.log(class_weight) + np.log(prior)
    if _meets_theorem_1(label_margin + log_delta, rival_margin - log_delta):
        delta = np.exp(log_delta - np.logaddexp.reduce(log_delta))
        return Consistency("consistent", "Theorem 1 holds, with the δ given.", delta=delta)
    first, second, log_odds = _worst_pair(prior, log_delta, label_margin, rival_margin)
    if log_odds > _TOLERANCE:
        # The minimizer weighs the second class e^log_odds times too much against the first. At the contested point the
        # first class has the larger P(x|class), but by a smaller factor than the loss needs.
        shares = (_LARGER_SHARE, _LARGER_SHARE * np.exp(-0.5 * min(log_odds, 4.0)))
        return Consistency(
            "inconsistent",
            f"Classes {first} and {second} fail Lemma 2: the minimizer prefers class {second} until P(x|{first}) is "
            f"{np.exp(log_odds):.3g} times P(x|{second}).",
            witness=Witness((first, second), prior, shares),
        )
    if prior.size == 2:
        return Consistency("consistent", "Lemma 2 holds, which decides for two classes.")
    return Consistency(
        "undecided",
        "Every two classes meet Lemma 2, but the margins are not those of Theorem 1, which is only sufficient.",
    )


def _parts(loss, class_counts):
    """The class prior `[L]` and the `_rivals.Margins` of a loss."""
    class_counts = getattr(loss, "class_counts", None) if class_counts is None else class_counts
    if not isinstance(loss, _SOFTMAX_LOSSES):
        raise ValueError(
            "`loss` must be a softmax loss of `kla.losses`, or Keras's SparseCategoricalCrossentropy or "
            f"CategoricalCrossentropy. Received: {type(loss).__name__}"
        )
    if class_counts is None:
        raise ValueError(
            f"{type(loss).__name__} knows no class counts. Give them: is_fisher_consistent(loss, class_counts=…)."
        )
    prior = priors.as_prior(class_counts, independent=False).probabilities
    adjustment = getattr(loss, "adjustment", np.zeros(prior.size))
    weight = getattr(loss, "class_weight", None)
    return prior, _rivals.as_margins(
        prior.size,
        class_weight=loss.reweighted(weight) if isinstance(loss, _base.MaskedLoss) else weight,
        label_margin=getattr(loss, "label_margin", -adjustment),
        rival_margin=getattr(loss, "rival_margin", adjustment),
        logit_scale=getattr(loss, "logit_scale", None),
    )


def _meets_theorem_1(label_part, rival_part):
    """Whether `A_y + B_y' = 0` for all `y ≠ y'`, `A = u + log δ` and `B = v − log δ`."""
    # With three or more classes, this is possible only for constant A and B.
    constants = [np.ptp(label_part), np.ptp(rival_part), label_part[0] + rival_part[0]]
    gaps = label_part + rival_part[::-1] if label_part.size == 2 else constants
    return bool(np.abs(gaps).max() < _TOLERANCE)


def _worst_pair(prior, log_delta, label_margin, rival_margin):
    """The classes (a, b) with the largest error of the loss in the log-odds of b against a, and this error, ≥ 0."""
    chosen = np.argsort(prior)[np.linspace(0, prior.size - 1, min(prior.size, _MOST_CLASSES)).round().astype(int)]
    margins = label_margin[chosen][:, None] + rival_margin[chosen][None, :]
    # log α_a π_a s(Δ_ab). The minimizer compares the value for (a, b) with that for (b, a).
    pull = log_delta[chosen][:, None] - np.logaddexp(0.0, -margins)
    log_odds = pull.T - pull
    first, second = np.unravel_index(log_odds.argmax(), log_odds.shape)
    return int(chosen[first]), int(chosen[second]), float(log_odds[first, second])
