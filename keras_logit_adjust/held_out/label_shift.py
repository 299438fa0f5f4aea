"""The class mix of a deployment, estimated from its unlabeled examples, with an interval and a diagnosis.

Label shift means: the mix of classes changes, the look of each class, `P(x|y)`, does not. A model was trained under the
prior π. The frequencies of its predictions then show the new mix q. EM uses the probabilities as they are, so they must
be calibrated. BBSE uses only the predicted classes. It needs labeled examples, which show how often each class is
mistaken for each other class.
"""

import dataclasses
import warnings

import numpy as np
from scipy import optimize, special

from keras_logit_adjust import _checks, _scores
from keras_logit_adjust.held_out import _reading
from keras_logit_adjust.held_out._likeliest_mix import Curvature, maximize
from keras_logit_adjust.held_out._likeliest_replicates import as_likelihood, maximize_replicates
from keras_logit_adjust.priors.formulas import as_prior

METHODS = ("em", "bbse")
SMALLEST_SINGULAR_VALUE = 0.05  # below it, an error of the counts becomes more than 20 times as large
STANDARD_ERRORS = 2  # a singular value within so many standard errors of 0 may be 0
PSEUDO_COUNT = 0.5  # examples of each class that `effective_prior` adds
_NUMBERS_AT_A_TIME = 2**22  # replicates × examples, 32 MiB: large enough for fast matrix products
_GAP = 1e-3  # in the log-likelihood of all examples: a replicate ends within 1/20 of a standard error
_TRACE = 0.01
_FLOOR = 1e-300  # the least likelihood to divide by
_ALL = 1 - 1e-15  # a share just below 1: the logarithm of 0 is infinite


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TargetPrior:
    """The result of `estimate_target_prior`. Functions take it in place of a target prior or of class counts.

    Attributes:
        prior: `[L]` the estimate, which sums to one; 0 for a class that was not found.
        low: `[L]` lower ends of the bootstrap interval, class by class.
        high: `[L]` upper ends.
        level: the nominal coverage of each interval.
        method: "em" or "bbse".
        num_examples: the number of unlabeled examples `N`.
        iterations: the number of iterations of EM, two steps each; None for BBSE.
        converged: whether EM came within `tol` of the largest likelihood; None for BBSE.
        smallest_singular_value: the smallest singular value of BBSE's confusion matrix `P(ŷ|y)`. Errors grow by at
            most one over this number. None for EM.
        confused_classes: classes that BBSE cannot tell apart, as a tuple; empty where its matrix is well conditioned.
        class_names: the names that the columns of the logits had, in their order; None if they had no names.
    """

    prior: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    method: str
    num_examples: int
    iterations: int | None = None
    converged: bool | None = None
    smallest_singular_value: float | None = None
    confused_classes: tuple = ()
    class_names: list | None = None

    @property
    def effective_prior(self):
        """`(N·q_y + ½) / (N + ½·L)`: positive, with half an example of each class added, since log 0 is not finite."""
        return _with_pseudo_count(self.prior, self.num_examples)

    def __repr__(self):
        basis = f"{self.num_examples:,} examples, {100 * self.level:g}% interval"
        return f"TargetPrior by {self.method} from {basis}: {shown_shares(self)}"


def shown_shares(estimate):
    """The `prior` of an estimate with its interval, class by class; with many classes, the first of them."""
    shares = zip(estimate.prior, estimate.low, estimate.high, strict=True)
    shown = [f"{c}: {p:.4f} [{low:.4f}, {high:.4f}]" for c, (p, low, high) in enumerate(shares)]
    more = [f"… ({len(shown)} classes)"] * (len(shown) > 12)
    return ", ".join([*shown[: 12 - len(more)], *more])


def estimate_target_prior(
    logits,
    class_counts,
    *,
    method="em",
    validation=None,
    replicates=200,
    level=0.95,
    seed=0,
    tol=1e-10,
    max_iterations=10_000,
):
    """The class mix q of unlabeled examples, from the logits of a model trained under another prior π.

    "em" maximizes the likelihood: it repeats `q ← mean_x softmax(f(x) + log q − log π)` until q stops changing. It
    needs calibrated logits of the *unadjusted* model. "bbse" solves `C·q = μ`. Here `C[ŷ, y] = P(ŷ|y)` is the confusion
    matrix on labeled examples of the training distribution, and `μ[ŷ]` is the share of unlabeled examples predicted as
    ŷ. Negative numbers become 0, and the others are scaled to sum to one. "bbse" is right for any logits, also adjusted
    ones, if both sets come from the same model. Both methods assume that `P(x|y)` is the same in training and
    deployment.

    Args:
        logits: `[N, L]` unadjusted logits of unlabeled examples; leading axes are flattened. `[N]` or `[N, 1]` of one
            sigmoid unit, which has two classes, [negatives, positives].
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. BBSE does not use their values.
        method: "em" (Saerens) or "bbse" (Lipton).
        validation: for "bbse" only, `(logits [M, L], y_true [M])` labeled examples of the training distribution, of
            at least one of every class, in any mix. A class with few examples has an interval that is too narrow.
        replicates: bootstrap replicates: unlabeled examples are redrawn, and for BBSE validation examples within their
            class. Those of EM start at the estimate.
        level: nominal coverage of the percentile interval of each class. It holds the exact binomial interval of `N·q`
            of `N`, which is that of examples that tell classes surely. A class with less than one example, `N·q < 1`,
            has the lower end 0. Its upper end is at least the share at which the examples are `(1 − level)/2` times as
            likely as at the estimate.
        seed: the seed of the bootstrap.
        tol: EM stops when its mean log-likelihood is proven to be within `tol` of the largest one. Rounding may keep
            it above 1e-12.
        max_iterations: the most iterations of EM; after them it warns that it did not converge.

    Returns:
        A `TargetPrior`, which `kla.adjust` and `layer.set` take as `target_prior`.

    Raises:
        ValueError: for logits that are not finite, probabilities, or of another number of classes than
            `class_counts`; for BBSE without validation examples of every class.

    Warns:
        UserWarning: where EM did not converge, or where a singular value of BBSE's matrix is below 0.05 (errors grow
            more than twentyfold then) or within two standard errors of 0. It names the classes that cannot be told
            apart.

    Example:

    >>> import numpy as np
    >>> bright, dark = np.log([0.8, 0.2]) + np.log([[0.9, 0.2], [0.1, 0.8]])  # log π + log P(x|y) of two kinds of x
    >>> target = estimate_target_prior([bright] * 55 + [dark] * 45, class_counts=[80, 20])
    >>> target.prior.round(4).tolist()  # 0.55 = 0.9·½ + 0.2·½
    [0.5, 0.5]
    >>> bool(target.low[0] < 0.5 < target.high[0])
    True

    Reference: Saerens, Latinne and Decaestecker (2002); Lipton, Wang and Smola (2018), black box shift estimation;
    Clopper and Pearson (1934), the exact binomial bound.
    """
    names = _reading.names_of(logits, class_counts=class_counts)
    prior = as_prior(class_counts, independent=False, class_names=names)
    logits = _reading.as_logits(logits, prior.size, class_names=names)
    _checks.check_choice(method, "method", METHODS)
    replicates = _checks.check_integer(replicates, "replicates", minimum=2)
    level = _checks.check_open_fraction(level, "level")
    rng = np.random.default_rng(_checks.check_seed(seed))
    stop = {
        "tol": _checks.check_positive(tol, "tol"),
        "max_iterations": _checks.check_integer(max_iterations, "max_iterations", minimum=1),
    }
    if method == "bbse":
        validation = _check_validation(validation, prior.size, names)
        estimate, drawn, counted, diagnosis = _estimate_by_bbse(logits, validation, replicates, rng)
    elif validation is None:
        estimate, drawn, counted, diagnosis = _estimate_by_em(logits, prior, replicates, rng, **stop)
    else:
        raise _checks.ArgumentError(
            "validation", '`validation` goes with method="bbse". Received it with method="em": leave it out.'
        )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = _widened(estimate, low, high, counted, level)
    return TargetPrior(estimate, low, high, level, method, logits.shape[0], class_names=names, **diagnosis)


def _with_pseudo_count(prior, num_examples):
    return (prior * num_examples + PSEUDO_COUNT) / (num_examples + PSEUDO_COUNT * prior.size)


def _widened(estimate, low, high, counted, level):
    """The ends of the intervals, moved outwards to those of sure examples, and further at the border.

    Examples that tell their classes surely say most about a share. Their exact interval is that of a binomial share
    (Clopper and Pearson, 1934), which a bootstrap of few examples does not reach.

    A bootstrap never draws a class of which no example was found. The upper end of such a class is the share at which
    the examples are `(1 − level)/2` times as likely as at the estimate. If examples tell the class surely, this is the
    exact binomial bound `1 − ((1 − level)/2)^(1/N)`.
    """
    likelihood, times = counted
    found, tail = np.clip(estimate, 0, 1) * times.sum(), (1 - level) / 2
    others = times.sum() - found
    is_rare = found < 1  # less than one example was found
    low = np.minimum(low, special.betaincinv(np.maximum(found, _TRACE), others + 1, tail))
    high = np.maximum(high, special.betaincinv(found + 1, np.maximum(others, _TRACE), 1 - tail))
    mixture = np.maximum((likelihood @ estimate.astype(likelihood.dtype)).astype("float64"), _FLOOR)
    moved = np.zeros(estimate.size)
    for c in np.flatnonzero(is_rare):
        moved[c] = _largest_share(likelihood[:, c] / mixture - 1, times, level)
    high = np.maximum(high, estimate + moved * (1 - estimate))
    if (~is_rare).sum() == 1:  # its share falls where that of another class grows
        low = np.minimum(low, estimate * (1 - moved.max()))
    return np.where(is_rare, 0.0, low), high


def _largest_share(ratio, times, level):
    """The largest t for which the mix `(1 − t)·q + t·(the class alone)` is `(1 − level)/2` times as likely as q.

    The likelihood of an example at that mix is `1 + t·ratio` times the one at q.
    """

    def above(t):
        return times @ np.log1p(t * ratio) - np.log((1 - level) / 2)

    # The logarithm is concave in t, and above the bound at 0: it crosses the bound once or never.
    return 1.0 if above(_ALL) >= 0 else optimize.brentq(above, 0.0, _ALL, xtol=1e-5 / times.sum())


# --- EM --------------------------------------------------------------------------------------------------------------


def _estimate_by_em(logits, prior, replicates, rng, *, tol, max_iterations):
    num_examples = logits.shape[0]
    likelihood = logits - prior.logits  # log P(x|y) up to a constant for each example, which has no effect
    likelihood -= likelihood.max(axis=1, keepdims=True)
    np.exp(likelihood, out=likelihood)
    # The likelihood is concave: the start matters only between priors that the examples do not separate.
    weights, most = np.full((1, num_examples), 1.0 / num_examples), {"max_iterations": max_iterations}
    (estimate,), iterations, converged = maximize(
        likelihood, weights, np.exp(prior.logits), tol=tol, newton=True, **most
    )
    if not converged:
        warnings.warn(
            f"EM did not converge in max_iterations={max_iterations}: its prior is not yet the likeliest. Raise "
            f"`max_iterations`, or `tol` (now {tol:g}).",
            stacklevel=3,
        )
    found, start = [[estimate]], _with_pseudo_count(estimate, num_examples)  # EM moves away from 0 slowly
    loose, at_a_time = max(tol, _GAP / num_examples), max(1, _NUMBERS_AT_A_TIME // num_examples)
    likelihood, even = as_likelihood(likelihood), weights[0].astype("float32")
    curvature = Curvature(likelihood, even, start, even / (likelihood @ start) @ likelihood)
    for done in range(0, replicates, at_a_time):
        draws = (rng.integers(num_examples, size=num_examples) for _ in range(min(at_a_time, replicates - done)))
        counts = np.stack([np.bincount(rows, minlength=num_examples) for rows in draws])
        found.append(maximize_replicates(likelihood, counts, start, curvature, tol=loose, **most)[0])
    q = np.concatenate(found)
    # EM approaches 0 and never reaches it: less than a hundredth of an example becomes 0.
    q = np.where(q * num_examples < _TRACE, 0.0, q)
    q /= q.sum(axis=-1, keepdims=True)
    counted = likelihood, np.ones(num_examples)
    return q[0], q[1:], counted, {"iterations": iterations, "converged": converged}


# --- BBSE ------------------------------------------------------------------------------------------------------------


def _check_validation(validation, num_classes, class_names):
    """The `validation` pair as logits `[M, L]` and ids `[M]`, with at least one example of each class."""
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise ValueError(
            'method="bbse" needs labeled examples of the training distribution, validation=(logits, y_true), to count '
            f"how often each class is mistaken for each other class. Received {type(validation).__name__}. If you have "
            'none, use method="em".'
        )
    _scores.check_pair(validation[1], validation[0], ("y_true", "logits"))
    logits = _reading.as_logits(validation[0], num_classes, name="validation logits", class_names=class_names)
    labels = _reading.as_ids(validation[1], *logits.shape, name="validation labels")
    if (missing := np.bincount(labels, minlength=num_classes) == 0).any():
        raise ValueError(
            'method="bbse" needs validation examples of every class. Received none of '
            f'{_checks.name_classes(missing)}: hold out some, or use method="em", which needs no labeled examples.'
        )
    return logits, labels


def _estimate_by_bbse(logits, validation, replicates, rng):
    num_classes = logits.shape[1]
    counts = np.zeros((num_classes, num_classes))  # row: true class y, column: predicted class ŷ
    np.add.at(counts, (validation[1], validation[0].argmax(axis=1)), 1)
    totals, num_examples = counts.sum(axis=1).astype("int64"), logits.shape[0]
    confusion = counts / totals[:, None]
    shares = np.bincount(logits.argmax(axis=1), minlength=num_classes) / num_examples
    drawn = [
        _solve(rng.multinomial(totals, confusion) / totals[:, None], rng.multinomial(num_examples, shares))
        for _ in range(replicates)
    ]
    counted = confusion.T, shares * num_examples
    return _solve(confusion, shares), drawn, counted, _diagnose(confusion, totals)


def _solve(confusion, shares):
    """`C·q = μ` for `confusion` = Cᵀ, clipped at 0 and scaled to sum to one."""
    try:
        q = np.linalg.solve(confusion.T, shares)
    except np.linalg.LinAlgError:
        q = np.linalg.lstsq(confusion.T, shares, rcond=None)[0]
    q = np.maximum(q, 0.0)
    # q is all 0 if the classes predicted for unlabeled examples are never predicted for validation examples.
    return q / q.sum() if q.sum() > 0 else np.full(q.size, 1.0 / q.size)


def _diagnose(confusion, totals):
    """The smallest singular value, and the classes that are confused in the directions of small singular values."""
    left, singular_values, right = np.linalg.svd(confusion.T)
    # To first order an error δC changes the i-th value by u_iᵀ·δC·v_i. Rows of `confusion` are independent shares.
    variances = confusion @ left**2 - (confusion @ left) ** 2
    errors = np.sqrt(np.einsum("iy,yi->i", right**2, np.maximum(variances, 0.0) / totals[:, None]))
    thresholds = np.maximum(SMALLEST_SINGULAR_VALUE, STANDARD_ERRORS * errors)
    sizes = np.abs(right[singular_values < thresholds])
    confused = (sizes >= 0.5 * sizes.max(axis=1, keepdims=True)).any(axis=0)
    smallest = float(singular_values[-1])
    if confused.any():
        warnings.warn(
            f"The confusion matrix is near singular: its smallest singular value {smallest:.2g} is below "
            f"{thresholds[-1]:.2g}. The predictions hardly separate {_checks.name_classes(confused)}, so the errors of "
            'their shares are large. Use method="em", merge these classes, or give more validation data.',
            stacklevel=4,
        )
    return {"smallest_singular_value": smallest, "confused_classes": tuple(np.flatnonzero(confused).tolist())}
