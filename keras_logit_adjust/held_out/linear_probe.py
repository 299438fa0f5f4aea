"""The best linear classifier on frozen features: the optimum of a convex problem. Its penalty is chosen out of fold."""

import dataclasses

import numpy as np
from scipy import optimize, special

from keras_logit_adjust import _arrays, _checks, _scores
from keras_logit_adjust.held_out import _logistic, _reading
from keras_logit_adjust.priors.formulas import log_prior

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
SCALINGS = ("none", "standardized")
CRITERIA = ("cross_entropy", "expected_error")
POOLED_BELOW = 5  # examples: smaller classes are one group in the criterion
_TOLERANCE_OF_FOLDS = 1e-4
_LOG_SCALES = (-5.0, np.log(2.0))
_LARGEST, _LARGEST_TAU, _PENALTY_RANGE = 1e30, 1e3, (1e-12, 1e12)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LinearProbe:
    """The result of `fit_linear_probe`: a linear classifier, `x @ kernel + bias`, and the values that chose it.

    Attributes:
        kernel: float64 `[D, L]`, for features as they were given.
        bias: float64 `[L]`.
        class_counts: `[L]` examples that it was fitted to.
        penalty: λ, for features of mean squared length 1 (after their mean is subtracted).
        scaling: "none" or "standardized".
        balanced_loss: `{(scaling, penalty): value}` of the criterion, for all pairs that were tried.
        out_of_fold_logits: `[M, L]`, each row by a classifier that did not see the example, as if it were fitted to
            `class_counts`. Examples of classes with one example are not among them.
        out_of_fold_rows: `[M]` the row numbers of these examples.
    """

    kernel: np.ndarray
    bias: np.ndarray
    class_counts: np.ndarray
    penalty: float
    scaling: str
    balanced_loss: dict
    out_of_fold_logits: np.ndarray
    out_of_fold_rows: np.ndarray

    def logits(self, x):
        """Float64 logits `[N, L]` of features `[N, D]`."""
        return _reading.as_numbers(x, "x").astype("float64") @ self.kernel + self.bias

    def __repr__(self):
        columns, num_classes = self.kernel.shape
        return (
            f"LinearProbe of {columns} columns and {num_classes} classes: penalty {self.penalty:g}, scaling "
            f"{self.scaling}, chosen by the balanced loss of {self.out_of_fold_rows.size} examples out of fold"
        )


def fit_linear_probe(
    x,
    y,
    *,
    class_weight=None,
    tau=0.0,
    criterion="cross_entropy",
    penalties=PENALTIES,
    scalings=SCALINGS,
    folds=5,
    seed=0,
    tolerance=1e-6,
):
    """Fit a linear classifier to features of a frozen model, at the optimum, for many classes of few examples.

        min over W, b of  Σ_i w_{y_i}·CE(W·x_i + b + τ·log π, y_i) + λ/2·‖W‖²

    Without weights π is the class prior; with weights it is the prior of the weighted classes. The bias is free, so at
    the optimum the logit-adjusted loss *is* post-hoc adjustment: W is the same for every τ, and b falls by τ·log π.

    Cross-validation chooses penalty and scaling by the *balanced* loss: the mean over classes of the mean loss of their
    examples. The loss is taken at the temperature with the least cross-entropy, because a temperature changes no
    decision. The temperature is at least ½, so a penalty that makes logits much too flat stays worse. All classes with
    less than 5 examples count as one class in the loss, because few examples tell little about each. Each fold has the
    counts, weights and margins of the examples that it is fitted to. The only example of a class is in all folds. A
    later scaling is taken only if its loss is lower by more than a standard error. With "expected_error" the weakest
    penalty is taken whose loss is within a standard error of the least. If the prior stays in the logits, a penalty
    harms the rare classes most.

    Args:
        x: `[N, D]` features.
        y: `[N]` ids 0 … L − 1, at least one of every class.
        class_weight: a callable, class counts `[L]` → weights `[L]`; "balanced" for `N / (L·n_y)`; None.
        tau: τ of the loss. With 1 the plain argmax is balanced.
        criterion: "cross_entropy", for logits whose argmax should be balanced (weights, τ = 1); or "expected_error",
            `1 − p_y`, for logits that keep the training prior, because that prior decides most of their cross-entropy.
        penalties: the λ to choose from, for features of mean squared length 1: scikit-learn's C is 1/λ there.
        scalings: "none" keeps the ratios of the columns; "standardized" gives each column a deviation of 1.
        folds: the number of folds of cross-validation.
        seed: draws the folds.
        tolerance: largest derivative of the mean loss of the final fit, in units that make its Hessian about 1.

    Returns:
        A `LinearProbe`.

    Raises:
        ValueError: for features that are no finite numbers `[N, D]`, labels that leave out an id, or where no class has
            two examples.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], [60, 12, 4])
    >>> x = rng.normal(size=(76, 4)) + 2 * np.eye(4)[y]
    >>> plain, adjusted = (fit_linear_probe(x, y, tau=tau, penalties=[0.1], scalings=["none"]) for tau in (0, 1))
    >>> np.abs(plain.logits(x) - np.log([60 / 76, 12 / 76, 4 / 76]) - adjusted.logits(x)).max() < 1e-4
    np.True_

    Reference: Menon et al. (2021), §5, whose loss this is; Radford et al. (2021), CLIP, §3.2, who evaluate frozen
    features by L-BFGS.
    """
    x, y = _read(x, y)
    counts = np.bincount(y)
    folds = _checks.check_integer(folds, "folds", minimum=2, maximum=max(2, y.size))
    penalties, scalings = _read_choices(penalties, scalings)
    tolerance = _checks.check_positive(tolerance, "tolerance")
    _checks.check_choice(criterion, "criterion", CRITERIA)
    weigh, tau = _weigher(class_weight), _checks.check_number(tau, "tau", minimum=-_LARGEST_TAU, maximum=_LARGEST_TAU)
    fold_of = _draw_folds(y, folds, np.random.default_rng(_checks.check_seed(seed)))
    rows = np.flatnonzero(fold_of >= 0)
    if not rows.size:
        raise _checks.ArgumentError("y", "`y` must have a class with at least two examples: one of them is held out.")
    group = np.where(counts < POOLED_BELOW, counts.size, np.arange(counts.size))[y[rows]]
    best, losses = None, {}
    for scaling in scalings:
        space = _Space(x, scaling)
        held_out = _out_of_fold(space, y, fold_of, penalties=penalties, weigh=weigh, tau=tau)
        shares = {
            penalty: _shares_of_loss(logits[rows], y[rows], group, criterion) for penalty, logits in held_out.items()
        }
        losses |= {(scaling, penalty): float(share.sum()) for penalty, share in shares.items()}
        penalty = min(penalties, key=lambda penalty: losses[scaling, penalty])
        if criterion == "expected_error":
            penalty = min(other for other in penalties if not _is_lower(shares[penalty], shares[other]))
        if best is None or _is_lower(shares[penalty], best[3]):
            best = space, penalty, held_out[penalty][rows], shares[penalty]
    space, penalty, logits, _ = best
    weight = weigh(counts)
    problem = _logistic.Problem(space.z, y, space.squares, weight=weight, margin=tau * _log_prior(counts, weight))
    kernel, bias = space.unscaled(problem.solve(penalty, tolerance=tolerance))
    return LinearProbe(kernel, bias, counts, penalty, space.scaling, losses, logits, rows)


def _shares_of_loss(logits, labels, groups, criterion):
    """The contribution of each example to the balanced loss: `[N]`, with sum = the mean over groups of their mean loss.

    Example:

    >>> logits, labels = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [0.0, 3.0]]), np.array([0, 1, 1, 1])
    >>> shares = _shares_of_loss(logits, labels, labels, "expected_error")
    >>> shares.round(3).tolist()  # five of six balanced examples are right: p is 5/6 at the best temperature
    [0.083, 0.028, 0.139, 0.028]
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weight = 1 / (counts.size * counts[inverse])
    logits = logits - logits[np.arange(labels.size), labels][:, None]

    def losses(log_scale):
        return special.logsumexp(np.exp(log_scale) * logits, axis=1)

    best = losses(optimize.minimize_scalar(lambda at: weight @ losses(at), bounds=_LOG_SCALES, method="bounded").x)
    return weight * (best if criterion == "cross_entropy" else -np.expm1(-best))


def _is_lower(shares, others):
    """Whether a loss is lower by more than a standard error of the difference."""
    difference = shares - others
    return difference.sum() < -difference.std() * np.sqrt(difference.size)


def _read(x, y):
    _scores.check_rows(y, x, ("y", "x"))
    x = _arrays.as_array(x, "x", "numbers").astype("float64")
    if x.ndim != 2 or not x.size:
        raise _checks.ArgumentError("x", f"`x` must be features [N, D]. Received shape {x.shape}.")
    if not (is_fine := np.abs(x) < _LARGEST).all():
        raise _checks.ArgumentError(
            "x", f"`x` must be finite and below {_LARGEST:g}. {(~is_fine).any(axis=1).sum()} rows are not."
        )
    y = _arrays.to_numpy(y, "y")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= y.size:
        raise _checks.ArgumentError(
            "y",
            f"`y` must be class ids [{len(x)}] from 0, with an example of each class. Received shape {y.shape}, dtype "
            f"{y.dtype}. Renumber them, {_arrays.IDS_OF_NAMES}.",
        )
    counts = np.bincount(y)
    if counts.size < 2 or not counts.all():
        raise _checks.ArgumentError(
            "y",
            f"`y` must have every id from 0 to its largest, {counts.size - 1}, and at least two ids. None at "
            f"{_checks.name_classes(counts == 0)}: renumber them, {_arrays.IDS_OF_NAMES}.",
        )
    return x, y.astype("int64")


def _read_choices(penalties, scalings):
    penalties = sorted(set(_checks.as_vector(penalties, "penalties").tolist()), reverse=True)
    if not penalties or not all(_PENALTY_RANGE[0] <= value <= _PENALTY_RANGE[1] for value in penalties):
        low, high = _PENALTY_RANGE
        raise _checks.ArgumentError(
            "penalties", f"`penalties` must be one or more numbers from {low:g} to {high:g}. Received: {penalties}"
        )
    if not isinstance(scalings, (tuple, list)) or not scalings:
        raise _checks.ArgumentError("scalings", f"`scalings` must be a list of {SCALINGS}. Received: {scalings!r}")
    return penalties, [_checks.check_choice(name, "scalings", SCALINGS) for name in scalings]


def _weigher(class_weight):
    """A function from class counts to weights `[L]`."""
    if class_weight is None:
        return lambda counts: np.ones(counts.size)
    if isinstance(class_weight, str):
        _checks.check_choice(class_weight, "class_weight", ("balanced",))
        return lambda counts: counts.sum() / (counts.size * counts)
    if not callable(class_weight):
        raise _checks.ArgumentError(
            "class_weight", f'`class_weight` must be "balanced", None or a callable. Received: {class_weight!r}'
        )
    return lambda counts: _checks.as_class_vector(class_weight(counts), "class_weight", counts.size, positive=True)


def _log_prior(counts, weight):
    return log_prior(counts * weight)


def _draw_folds(y, folds, rng):
    """The fold that holds out each example, −1 for the only example of a class; classes fill the folds in turn."""
    fold_of, placed = np.full(y.size, -1), 0
    for c, count in enumerate(np.bincount(y)):
        if count > 1:
            fold_of[rng.permutation(np.flatnonzero(y == c))] = (placed + np.arange(count)) % folds
            placed += count
    return fold_of


class _Space:
    """Features of mean 0 and mean squared length 1 in their principal directions."""

    def __init__(self, x, scaling):
        self.scaling, self.mean = scaling, x.mean(axis=0)
        deviation = x.std(axis=0)
        varies = deviation > 1e-12 * np.abs(x).max(axis=0)
        if scaling == "none":
            self.unit = np.where(varies, np.sqrt((deviation[varies] ** 2).sum()) or 1.0, np.inf)
        else:
            self.unit = np.where(varies, deviation * np.sqrt(varies.sum()), np.inf)
        self.z, self.directions, self.squares = _logistic.rotate((x - self.mean) / self.unit)

    def unscaled(self, weights):
        """The kernel `[D, L]` and the bias `[L]` for features as they were given."""
        kernel = (self.directions @ weights[:-1]) / self.unit[:, None]
        return kernel, weights[-1] - self.mean @ kernel


def _out_of_fold(space, y, fold_of, *, penalties, weigh, tau):
    """`{penalty: logits [N, L]}` of classifiers that did not see the example, for the prior of all of `y`."""
    z, whole = space.z.astype("float32"), np.bincount(y)
    shift = (1 - tau) * _log_prior(whole, weigh(whole))
    found = {penalty: np.zeros((y.size, whole.size)) for penalty in penalties}
    for fold in np.unique(fold_of[fold_of >= 0]):
        held_out = fold_of == fold
        counts = np.bincount(y[~held_out], minlength=whole.size)
        weight = weigh(counts)
        own, optimum = _log_prior(counts, weight), None
        problem = _logistic.Problem(
            z[~held_out], y[~held_out], space.squares * (1 - held_out.mean()), weight=weight, margin=tau * own
        )
        for penalty in penalties:
            optimum = problem.solve(penalty, start=optimum, tolerance=_TOLERANCE_OF_FOLDS)
            # The rest of the prior of the fold, (1 − τ)·log π, is replaced by the same rest of the whole prior.
            found[penalty][held_out] = z[held_out] @ optimum[:-1] + optimum[-1] + shift - (1 - tau) * own
    return found
