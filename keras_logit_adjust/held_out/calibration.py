"""Calibration on held-out logits: a temperature, with or without a bias for each class, and the calibration error.

Post-hoc adjustment is right at `τ = 1` for logits that estimate `log P(y|x)`. Most networks are too certain, so they
are calibrated first. The calibration is fitted to the *unadjusted* logits of held-out examples with the class mix of
the training set. Then `kla.adjust(…, calibration=…)` moves the prior from that mix to the target prior. The
probabilities assume the target prior. Without one they assume equal classes: say so where they are served.
"""

import warnings

import numpy as np
from scipy import optimize, special

from keras_logit_adjust import _arrays, _checks, _scores
from keras_logit_adjust.held_out import _reading
from keras_logit_adjust.layers import Calibration
from keras_logit_adjust.priors.formulas import as_label_prior, as_prior

METHODS = ("temperature", "bias_corrected_temperature")
KINDS = ("plain", "classwise", "balanced")
_TEMPERATURES = (0.01, 100.0)
# The search ends when gradient / √curvature is below it: the best is nearer than this part of a standard error.
_TOLERANCE = 1e-5
_STEPS = 2000
_FEW = 5  # so many held-out examples show that a class was not expected
_UNEXPECTED = 0.01  # a class is not expected if its probabilities sum to less than this share of its examples
_NUMBERS_AT_A_TIME = 2**16
_ENOUGH_NUMBERS = 2**20  # logits that give the temperature up to a few per cent
_NEAR = 1e-3  # distance of the second point of a secant, in logarithms


def calibrate(logits, y_true, *, method="temperature", class_prior=None, independent=False):
    """The `Calibration` with the greatest likelihood on held-out examples: minimizes `−Σ_i w_i log P(y_i | f_i/T + b)`.

    The problem is convex in `(1/T, b)`. "temperature" has no bias and does not change the order of classes. With
    "bias_corrected_temperature" every class has a bias, and `Σ_y b_y² / 2` is added to the sum. This is a standard
    normal prior of the biases, which weighs about as much as one example of each class. It keeps the bias finite for
    classes with few or no held-out examples, and makes the mean of the biases of a softmax 0. `T` is kept within [0.01,
    100].

    Args:
        logits: `[N, L]` of the unadjusted model for examples it was not trained on (log-probabilities are logits too);
            leading axes are flattened. `[N]` or `[N, 1]`: one sigmoid unit.
        y_true: `[N]` class ids, or one-hot rows; for independent labels `[N, L]` of 0 and 1.
        method: "temperature" or "bias_corrected_temperature".
        class_prior: `[L]` class mix (counts or probabilities) that probabilities should be right for. By default it is
            the mix of the held-out examples, which should be the training mix. If it is not, give the training counts:
            examples then weigh `w = prior_y / held-out share_y`. For one sigmoid unit give [negatives, positives]; for
            independent labels, the probability of each.
        independent: whether the columns are independent sigmoid labels. They share one temperature.

    Returns:
        A `Calibration`, for `kla.adjust`.

    Raises:
        ValueError: for logits that are probabilities or not finite, labels that do not fit, or a `class_prior` with a
            class that no held-out example has.

    Warns:
        UserWarning: if the model hardly ever expects a class that held-out examples have. So it is with classes that
            had no training examples, and the temperature would hide it. And if the temperature is at its bound. Then
            every held-out example is classified right (the likelihood grows without end as `T → 0`), or the logits say
            nothing about the labels, or their scale is far off.

    Example:

    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0]] * 4)  # 88 % sure, right three times out of four
    >>> calibration = calibrate(logits, [0, 0, 0, 1])
    >>> round(calibration.temperature, 4)  # 2 / log 3
    1.8205
    >>> calibration.apply(logits)[0].round(4).tolist()
    [1.0986, 0.0]

    Reference: Guo et al. (2017), §4.2; Alexandari et al. (2020), bias-corrected temperature scaling.
    """
    _checks.check_choice(method, "method", METHODS)
    independent = _checks.check_bool(independent, "independent")
    names = _reading.names_of(logits, class_prior=class_prior)
    class_prior = _arrays.in_order(class_prior, "class_prior", names)
    y_true = _reading.labels_beside(y_true, logits, independent=independent)
    logits = _reading.as_numbers(logits, "logits")
    _reading.check_order(y_true, logits)
    if logits.ndim == 1 or logits.shape[-1:] == (1,):  # one sigmoid unit
        logits = logits.reshape(-1, 1)
        y_true, independent = y_true if independent else _reading.as_ids(y_true, len(logits), 2), True
    logits = _reading.as_logits(logits, logits.shape[-1] if logits.ndim else 1, independent=independent)
    labels = (_reading.as_multi_hot if independent else _reading.as_ids)(y_true, *logits.shape)
    loss = _Loss(logits, labels, _example_weights(labels, logits.shape[1], class_prior, independent))
    if not independent:
        _warn_of_untrained_classes(loss)
    inverse, bias = _best_inverse_temperature(loss), None
    if method == "bias_corrected_temperature":
        inverse, bias = _best_affine(loss, inverse)
        bias = bias if independent else bias - bias.mean()  # the mean is 0 up to the precision of the search
    low, high = _TEMPERATURES
    temperature = float(np.clip(1.0 / inverse, low, high))
    if not low * 1.000001 < temperature < high / 1.000001:
        reason = (
            "all held-out examples are classified right (or logits are tiny), so the likelihood rises as the "
            "temperature falls. Probabilities will be near 0 or 1, and an adjustment has little effect: hold out more "
            "examples, or leave the calibration out"
            if temperature < 1
            else "the logits say nothing about the labels (or are huge). Check that both are in the same order"
        )
        warnings.warn(f"The temperature is at its bound {temperature:g}: {reason}.", stacklevel=2)
    return Calibration(temperature, bias)


def _example_weights(labels, num_classes, class_prior, independent):
    """The weight `prior / share` of each example `[N, 1]`, or of each of its labels `[N, L]`; ones by default."""
    if class_prior is None:
        return np.ones((len(labels), 1))
    share = labels.mean(axis=0) if independent else np.bincount(labels, minlength=num_classes) / labels.size
    if not independent or num_classes == 1:
        prior = as_prior(class_prior, independent=False, name="class_prior").probabilities
    else:
        prior = as_label_prior(class_prior, "class_prior").probabilities
    _checks.check_length(prior, max(2, num_classes), "class_prior", "the held-out logits")
    prior = prior[-num_classes:]  # for one unit, the prior of the positives
    if (bad := (share == 0) | (share == 1) if independent else share == 0).any():
        raise ValueError(
            "With `class_prior`, an example stands for its class, and every class needs a held-out example"
            f"{' with and one without it' if independent else ''}. Missing for {_checks.name_classes(bad)}: "
            "hold out more examples, or hold them out with the class mix of training and leave `class_prior` out."
        )
    ratio = prior / share
    return np.where(labels, ratio, (1 - prior) / (1 - share)) if independent else ratio[labels][:, None]


class _Loss:
    """The weighted loss of `scale·logits + bias`: its value and slopes, in one pass over blocks of examples.

    It allocates one block and no second array as large as the logits. A block stays in the CPU cache during all
    its operations, which write in place.

    Args:
        logits: `[N, L]` float64.
        labels: ids `[N]`, or booleans `[N, L]` for independent labels.
        weight: the weight of each example `[N, 1]`, or of each label of each example `[N, L]`.
    """

    def __init__(self, logits, labels, weight):
        self.logits, self.labels, self.weight = logits, labels, weight
        self.rows = max(1, _NUMBERS_AT_A_TIME // logits.shape[1])
        self._buffer, self._numbers = np.empty((self.rows, logits.shape[1])), np.arange(self.rows)

    def every(self, step):
        """The loss of every `step`-th example."""
        return _Loss(self.logits[::step], self.labels[::step], self.weight[::step])

    def slopes(self, scale, bias=0.0):
        """The value, its derivative by `scale`, and its derivatives by `bias` `[L]`."""
        value, by_scale, by_bias = 0.0, 0.0, np.zeros(self.logits.shape[1])
        for logits, labels, weight, loss, scores, sums in self._blocks(scale, bias):
            value += loss
            if sums is None:
                scores -= labels
                scores *= weight
                by_scale += np.einsum("nl,nl->", scores, logits)
                by_bias += scores.sum(axis=0)
                continue
            # The example's own logit is subtracted at once: where the model is certain, this gives 0 without rounding.
            share, own = weight[:, 0] / sums, logits[self._numbers[: labels.size], labels]
            by_scale += (share * np.einsum("nl,nl->n", scores, logits) - weight[:, 0] * own).sum()
            by_bias += share @ scores
            by_bias -= np.bincount(labels, weight[:, 0], minlength=by_bias.size)
        return value, by_scale, by_bias

    def curvature(self, scale, bias=0.0):
        """Approximate second derivatives `[1 + L]` by `scale` and by each number of `bias`."""
        sums = np.zeros(1 + self.logits.shape[1])
        for logits, _, weight, _, probability, total in self._blocks(scale, bias):
            probability /= 1.0 if total is None else total[:, None]
            spread = weight * probability * (1 - probability)
            sums[0] += np.einsum("nl,nl,nl->", spread, logits, logits)
            sums[1:] += spread.sum(axis=0)
        return sums

    def _blocks(self, scale, bias):
        """For each block the logits, labels, weights, loss and probabilities; the memory is used again.

        For exclusive classes the probabilities still have to be divided by their sums `[n]`, the last item. For
        independent labels the last item is None.
        """
        for start in range(0, len(self.logits), self.rows):
            part = slice(start, start + self.rows)
            logits, labels, weight, sums = self.logits[part], self.labels[part], self.weight[part], None
            scores = np.multiply(logits, scale, out=self._buffer[: len(logits)])
            scores += bias
            if labels.ndim == 2:
                loss = (weight * (np.logaddexp(0.0, scores) - labels * scores)).sum()
                special.expit(scores, out=scores)
            else:
                scores -= scores.max(axis=1, keepdims=True)
                own = scores[self._numbers[: labels.size], labels]
                np.exp(scores, out=scores)
                sums = scores.sum(axis=1)
                loss = (weight[:, 0] * (np.log(sums) - own)).sum()
            yield logits, labels, weight, loss, scores, sums


def _warn_of_untrained_classes(loss):
    """Warn of classes with held-out examples of which the model expects less than a hundredth."""
    found, expected = np.zeros((2, loss.logits.shape[1]))
    for _, labels, weight, _, probability, total in loss._blocks(1.0, 0.0):
        found += np.bincount(labels, weight[:, 0], minlength=found.size)
        expected += (weight[:, 0] / total) @ probability
    if (bad := (found >= _FEW) & (expected < _UNEXPECTED * found)).any():
        warnings.warn(
            f"Held-out examples of {_checks.name_classes(bad)} are {found[bad].sum():.0f} of {found.sum():.0f}, and "
            f"the model expects {expected[bad].sum():.2g}. If these classes had no training examples, leave their "
            "held-out examples out: they make the temperature too high.",
            stacklevel=3,
        )


def _best_inverse_temperature(loss):
    """`1/T` where the slope of the loss is 0, or the bound to which it points."""

    low, high = -np.log(_TEMPERATURES[1]), -np.log(_TEMPERATURES[0])

    def slope(log_inverse):
        return loss.slopes(np.exp(np.clip(log_inverse, low, high)))[1]

    if (step := loss.logits.size // _ENOUGH_NUMBERS) > 1:  # a part of the examples gives an approximate root
        near = np.log(_best_inverse_temperature(loss.every(step)))
        if low < near < high:
            found = optimize.root_scalar(slope, x0=near, x1=near + _NEAR, xtol=1e-13, maxiter=10)
            if found.converged and low < found.root < high:
                return np.exp(found.root)
    if slope(low) >= 0:
        return np.exp(low)
    # At the other end probabilities may be rounded to the labels, and then the slope is 0.
    if slope(high) <= 0:
        return np.exp(high)
    return np.exp(optimize.brentq(slope, low, high, xtol=1e-13))


def _best_affine(loss, inverse):
    """`1/T` and `b`, from the best `1/T` without a bias."""
    # In units of the root of the curvature, the loss is about as steep for frequent as for rare classes.
    curvature = loss.curvature(inverse)
    curvature[1:] += 1.0
    size = np.sqrt(np.maximum(1.0, curvature))

    def objective(point):
        scale, bias = point[0] / size[0], point[1:] / size[1:]
        value, by_scale, by_bias = loss.slopes(scale, bias)
        return value + 0.5 * (bias**2).sum(), np.append(by_scale, by_bias + bias) / size

    bounds = [(size[0] / _TEMPERATURES[1], size[0] / _TEMPERATURES[0])] + [(None, None)] * (size.size - 1)
    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 30, "ftol": 0.0, "gtol": _TOLERANCE}
    start = [inverse * size[0], *np.zeros(size.size - 1)]
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x[0] / size[0], found.x[1:] / size[1:]


def calibration_error(probabilities, y_true, *, kind="plain", num_bins=15):
    """How far probabilities are from how often they come true, in [0, 1]: 0 for a calibrated model.

    Each kind is a mean over bins of `|accuracy − confidence|`; bin `b` of `B` is `((b−1)/B, b/B]`, and 0 is in the
    first:

    - "plain": `Σ_b n_b/N · |acc_b − conf_b|` over the probability of the predicted class. Frequent classes decide this
      error.
    - "classwise": `1/L · Σ_y Σ_b n_yb/N · |share of y in the bin − mean of p_y in the bin|` over the probability of
      every class `y`, predicted or not.
    - "balanced": "plain" with each example weighing one over the number of examples of its class, as if all classes
      were equally frequent. Use it for probabilities under the uniform prior, as `kla.adjust` gives them. Classes
      without examples are left out.

    Few examples in a bin make every kind larger than it is: compare models on the same examples.

    Args:
        probabilities: `[N, L]`, rows that sum to one (no logits); leading axes are flattened. `[N]` or `[N, 1]`: the
            probability of the second of two classes, one sigmoid unit or one independent label.
        y_true: `[N]` class ids, or one-hot rows.
        kind: "plain", "classwise" or "balanced".
        num_bins: the number of bins `B`.

    Returns:
        A float.

    Raises:
        ValueError: for rows that are no distributions, or labels that do not fit.

    Example:

    >>> calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1])  # 80 % sure, right half the time
    0.3

    Reference: Guo et al. (2017), §2; Nixon et al. (2019) and Kull et al. (2019), class-wise.
    """
    _checks.check_choice(kind, "kind", KINDS)
    if kind != "classwise":
        bins = reliability(probabilities, y_true, num_bins=num_bins, balanced=kind == "balanced")
        return float(np.nansum(bins["weight"] * np.abs(bins["accuracy"] - bins["confidence"])))
    num_bins = _checks.check_integer(num_bins, "num_bins", minimum=1)
    probabilities, ids = _as_predictions(probabilities, y_true)
    classes = np.arange(probabilities.shape[1])
    gap = probabilities - (ids[:, None] == classes)
    cell = _bin_of(probabilities, num_bins) + num_bins * classes
    sums = np.bincount(cell.ravel(), gap.ravel(), minlength=num_bins * classes.size)
    return float(np.abs(sums).sum() / gap.size)


def reliability(probabilities, y_true, *, num_bins=15, balanced=False):
    """The numbers of a reliability diagram: for every bin of confidence, how sure the model was and how often it was
    right.

    Args:
        probabilities: as in `calibration_error`, and binned as in `calibration_error`.
        y_true: as in `calibration_error`.
        num_bins: the number of bins `B`.
        balanced: whether every class weighs the same, as in the error of kind "balanced".

    Returns:
        dict of arrays: `edges` `[B+1]`; and `[B]` for each bin: mean `confidence` and `accuracy` (NaN where it is
        empty), `weight` (sums to one) and `count` of examples. For `kla.plots.reliability`.

    Raises:
        ValueError: as `calibration_error`.

    Example:

    >>> bins = reliability([[0.8, 0.2], [0.9, 0.1], [0.6, 0.4]], [0, 1, 0], num_bins=2)
    >>> {name: values.round(4).tolist() for name, values in bins.items() if name != "edges"}
    {'confidence': [nan, 0.7667], 'accuracy': [nan, 0.6667], 'weight': [0.0, 1.0], 'count': [0, 3]}

    Reference: Guo et al. (2017), §2.
    """
    num_bins = _checks.check_integer(num_bins, "num_bins", minimum=1)
    balanced = _checks.check_bool(balanced, "balanced")
    probabilities, ids = _as_predictions(probabilities, y_true)
    counts = np.bincount(ids)
    example_weight = 1.0 / (counts[ids] * np.count_nonzero(counts) if balanced else np.full(ids.size, ids.size))
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == ids
    place = _bin_of(confidence, num_bins)
    count = np.bincount(place, minlength=num_bins)
    weight = np.bincount(place, example_weight, minlength=num_bins)
    sums = (np.bincount(place, example_weight * values, minlength=num_bins) for values in (confidence, is_right))
    means = [np.divide(total, weight, out=np.full(num_bins, np.nan), where=count > 0) for total in sums]
    return {
        "edges": np.linspace(0.0, 1.0, num_bins + 1),
        "confidence": means[0],
        "accuracy": means[1],
        "weight": weight,
        "count": count,
    }


def _bin_of(probabilities, num_bins):
    # An edge of a bin belongs to the bin below it.
    return np.searchsorted(np.linspace(0.0, 1.0, num_bins + 1)[1:-1], probabilities, side="left")


def _as_predictions(probabilities, y_true):
    """Float64 probabilities `[N, L]`, `L ≥ 2`, and class ids `[N]`."""
    _scores.check_pair(y_true, probabilities, ("y_true", "probabilities"))
    rows = _reading.as_numbers(probabilities, "probabilities").astype("float64")
    if not rows.ndim or not rows.size:
        raise ValueError(
            "`probabilities` must have shape [N, L], N ≥ 1: a row for each example, a column for each class. "
            f"Received shape {rows.shape}."
        )
    if rows.ndim == 1 or rows.shape[-1] == 1:
        rows = np.stack([1.0 - rows.ravel(), rows.ravel()], axis=-1)
    rows = rows.reshape(-1, rows.shape[-1])
    # NaN fails both comparisons.
    are_in_range = ((rows >= 0) & (rows <= 1 + _scores.SUM)).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        are_whole = np.abs(rows.sum(axis=1) - 1.0) < _scores.SUM
    if (is_bad := ~(are_in_range & are_whole)).any():
        raise ValueError(
            "`probabilities` must be distributions: every row in [0, 1] with a sum of one (for one sigmoid unit, every "
            f"number in [0, 1]). {is_bad.sum()} of {is_bad.size} rows are not, first row {is_bad.argmax()}: "
            f"{rows[is_bad][0][:8].tolist()}. If these are logits, give their softmax; divide percentages by 100."
        )
    return rows, _reading.as_ids(y_true, *rows.shape)
