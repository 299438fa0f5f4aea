"""The logit-adjusted loss against a sample of rivals, for so many classes that one pass over all of them is too slow.

Only the scores `g = f + τ·log π` of the labels and of `m` drawn rivals are computed. Each drawn score is corrected by
the expected number of times that its class is drawn. `docs/mathematics.md` derives the effect of each correction.
"""

import typing

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, _precision, priors
from keras_logit_adjust.losses import _draws, _rivals, _shards, linear

DISTRIBUTIONS = ("uniform", "log_uniform", "prior")
ESTIMATORS = ("partition", "posterior")


class Rivals(typing.NamedTuple):
    """Classes that `RivalSampler.draw` drew as rivals.

    Attributes:
        ids: int32 `[m]`, shared by all examples of a batch.
        log_expected: float `[L]`: for every class the logarithm of its expected number among the `m`.
        independent: whether the `m` were drawn independently, with replacement.
    """

    ids: typing.Any
    log_expected: typing.Any
    independent: bool = True


class RivalSampler:
    """Draws rivals for `sampled_logit_adjusted_crossentropy`, in compiled steps too, over millions of classes.

    A draw depends on a seed and a step. Each class has a whole number of 2³⁰ equal shares, and at least one.
    `log_expected` is computed from these shares.

    With replacement, `m` classes are drawn independently. Without replacement, the classes are cut into `m` strata of
    about equal weight, and one class of each stratum is drawn. A class that would be expected more than once is always
    drawn.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0.
        num_rivals: `m`, at least 1; without replacement at most `L`.
        distribution: "uniform"; "log_uniform", `q ∝ log(1 + 1/r)`, where `r` is the rank of the class by its count (1
            for the most frequent) in any order of ids; "prior", `q ∝ π^power`; or `[L]` numbers > 0, `q` itself.
        power: the exponent of "prior".
        replacement: whether a class may come twice. The estimator "posterior" needs it.

    Attributes:
        log_expected: float64 `[L]`: for every class the logarithm of its expected number among the `m`. Without
            replacement this number is the probability that the class is drawn.

    Raises:
        ValueError: for numbers that do not fit, `m` above `L` without replacement, probabilities of zero, and
            probabilities that are log-uniform in the id if ids are not in order of frequency.

    Example:

    >>> sampler = RivalSampler([60, 30, 10], num_rivals=2, distribution="prior", replacement=True)
    >>> np.exp(sampler.log_expected).round(3).tolist()  # 2·π
    [1.2, 0.6, 0.2]
    >>> sampler.draw(0, step=7).ids.shape[0]
    2

    Reference: Bengio and Senécal (2008); Rawat et al. (2021).
    """

    def __init__(self, class_counts, *, num_rivals, distribution="log_uniform", power=1.0, replacement=False):
        self.prior = priors.as_prior(class_counts, independent=False)
        self.num_rivals = _checks.check_integer(num_rivals, "num_rivals", 1)
        self.replacement = _checks.check_bool(replacement, "replacement")
        if not replacement and num_rivals > self.prior.size:
            raise _checks.ArgumentError(
                "num_rivals",
                f"Without replacement `num_rivals` must be at most the number of classes, {self.prior.size}. Received: "
                f"num_rivals={num_rivals}. Remedy: replacement=True, or `linear_logit_adjusted_crossentropy`, which "
                "takes all classes.",
            )
        power = _checks.check_number(power, "power", 0)
        shares = _shares(self.prior, distribution, power)
        self._table = _draws.Table(shares, num_rivals, replacement=replacement)
        self.log_expected = self._table.log_expected

    def draw(self, seed, *, step=0):
        """The rivals of one step.

        Args:
            seed: an integer, or a `keras.random.SeedGenerator`, whose state changes with each draw.
            step: a number or an integer tensor, such as `optimizer.iterations`. The same seed and step give the same
                rivals, eager or compiled.

        Returns:
            `Rivals`.

        Raises:
            ValueError: for a seed that is None or negative.
        """
        if not isinstance(seed, keras.random.SeedGenerator):
            seed = _checks.check_seed(seed)
        ids = self._table.classes_at(_draws.points(seed, step, self.num_rivals))
        return Rivals(ids, self.log_expected, independent=self.replacement)


def sampled_logit_adjusted_crossentropy(
    y_true,
    features,
    kernel,
    bias,
    log_prior,
    *,
    rivals,
    estimator="partition",
    tau=1.0,
    class_axis=-1,
    ignore_class=None,
    kernel_layout=None,
):
    """Per-example logit-adjusted cross-entropy of a linear head against drawn rivals.

    Let `g = features @ kernel + bias + τ·log π`, and let `n_j` be the expected number of class `j` among the rivals:

    - "partition": `log(e^{g_y} + Σ_{j drawn, j≠y} e^{g_j} / n_j) − g_y`. The sum over rivals is unbiased. The value is
      a little too low, with a bias of O(1/m), and tends to the exact loss as `m` grows. Use it to estimate the exact
      loss.
    - "posterior": the softmax cross-entropy of `g − log n` over the label and all drawn rivals, also those equal to the
      label. At every `m` it has the same minimizer as the exact loss, but another value. It needs independent rivals.

    Args:
        y_true: class ids `[...]` or `[..., 1]`.
        features: the input of the head, `[..., D]`. Positions that their Keras mask leaves out give 0.
        kernel: `[D, L]`, or `[L, D]` with `class_axis=0`, which is faster.
        bias: `[L]`, or None.
        log_prior: `[L]` finite natural logarithms, from `kla.priors.log_prior`; none above 0.
        rivals: `Rivals` that a `RivalSampler` drew; or "batch", the labels of the other examples. These are draws from
            the prior of the batches, so `log_prior` must be this prior.
        estimator: "partition" or "posterior".
        tau: strength of the adjustment, a number or a vector `[L]`.
        class_axis: the axis of the classes in `kernel`, 0 or −1.
        ignore_class: a class id whose positions give 0 and are not rivals.
        kernel_layout: `keras.distribution.TensorLayout` of a kernel whose classes are on several devices (JAX only).
            Each device then looks up the classes that it has. `L` must be a multiple of their number.

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range.

    Raises:
        ValueError: for shapes that do not fit, an unknown estimator, "posterior" with rivals drawn without replacement.

    Example:

    >>> features, kernel = np.zeros((2, 3), "float32"), np.zeros((3, 2), "float32")
    >>> all_classes = RivalSampler([3, 1], num_rivals=2, distribution="uniform").draw(0)
    >>> losses = sampled_logit_adjusted_crossentropy(
    ...     np.array([0, 1]), features, kernel, None, np.log([0.75, 0.25]), rivals=all_classes
    ... )
    >>> [round(float(x), 4) for x in losses]  # all classes are drawn: the exact −log ¾ and −log ¼
    [0.2877, 1.3863]

    Reference: Bengio and Senécal (2008); Yi et al. (2019); Rawat et al. (2021).
    """
    log_prior = _checks.as_log_prior(log_prior)
    head = linear.as_head(features, kernel, bias, log_prior.size, class_axis=class_axis)
    adjustment = _checks.as_tau(tau, log_prior.size) * log_prior
    _checks.check_choice(estimator, "estimator", ESTIMATORS)
    ignore_class = _checks.check_ignore_class(ignore_class)
    _check_rivals(rivals, estimator, log_prior.size)
    options = {"estimator": estimator, "ignore_class": ignore_class}
    options |= {"spread": _shards.as_spread(kernel_layout, class_axis, log_prior.size)}
    values, kept = sampled_values(y_true, head, adjustment, log_prior=log_prior, rivals=rivals, **options)
    return _labels.zero_masked(values, kept)


def sampled_values(y_true, head, adjustment, *, log_prior, rivals, estimator, ignore_class, spread=None):
    """Values `[...]` of a head from `linear.as_head`, and the mask of positions that count (None: all count)."""
    features, kernel, bias, axis = head
    labels, kept, flat = linear.read_examples(y_true, features, adjustment.shape[0], ignore_class=ignore_class)
    own, dtype = ops.reshape(labels.ids, (-1,)), linear.widest(flat, kernel, bias)
    if rivals == "batch":
        drawn, blocked, log_expected = _of_batch(labels, kept, own, log_prior, dtype)
    else:
        drawn, blocked, log_expected = ops.cast(rivals.ids, "int32"), None, rivals.log_expected
    wide = ops.cast(flat, dtype)
    # One look-up in the kernel, so that its gradient is one tensor of the size of the kernel.
    both = ops.concatenate([own, drawn])
    rows = ops.cast(_shards.rows_of(spread, kernel, both, axis), dtype)
    rows = rows if axis == 0 else ops.transpose(rows)
    offset = ops.take(ops.convert_to_tensor(adjustment, dtype=dtype), both)
    offset = offset if bias is None else offset + ops.cast(_shards.rows_of(spread, bias, both, 0), dtype)
    number = ops.shape(own)[0]
    of_label = ops.sum(wide * rows[:number], axis=-1) + offset[:number]
    expected = ops.convert_to_tensor(log_expected, dtype=dtype)
    of_rivals = _precision.matmul(wide, ops.transpose(rows[number:])) + (offset[number:] - ops.take(expected, drawn))
    if estimator == "posterior":
        of_label = of_label - ops.take(expected, own)
    else:
        hit = ops.equal(own[:, None], drawn)
        blocked = hit if blocked is None else ops.logical_or(hit, blocked)
    if blocked is not None:
        of_rivals = ops.where(blocked, -np.inf, of_rivals)
    values = ops.softplus(_rivals.log_sum_exp(of_rivals) - of_label)
    return labels.spoil(ops.reshape(values, ops.shape(labels.ids))), kept


def _of_batch(labels, kept, own, log_prior, dtype):
    """The labels of a batch as rivals; which pairs are not rivals, `[N, N]`; expected numbers of the classes, `[L]`."""
    counts = [mask for mask in (labels.proper, kept) if mask is not None]
    counts = ops.reshape(_labels.combine_masks(len(labels.ids.shape), *counts), (-1,))
    # An example is not its own rival. The labels of the other examples are draws that do not depend on its label.
    itself = ops.cast(ops.eye(ops.shape(own)[0]), "bool")
    others = ops.cast(ops.maximum(ops.sum(ops.cast(counts, "int32")) - 1, 1), dtype)
    log_prior = ops.convert_to_tensor(log_prior, dtype=dtype)
    expected = log_prior - _rivals.log_sum_exp(log_prior) + ops.log(others)
    return own, ops.logical_or(itself, ops.logical_not(counts)), expected


def _shares(prior, distribution, power):
    """`q`, float64 `[L]`, that sums to one."""
    if isinstance(distribution, str):
        _checks.check_choice(distribution, "distribution", DISTRIBUTIONS)
        if distribution == "uniform":
            return np.full(prior.size, 1 / prior.size)
        if distribution == "log_uniform":
            shares = np.empty(prior.size)
            shares[np.argsort(-prior.counts, kind="stable")] = _log_uniform(prior.size)
            return shares
        logits = power * prior.logits
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()
    shares = _checks.as_vector(distribution, "distribution")
    _checks.check_length(shares, prior.size, "distribution", "class_counts")
    rule = "Every number in `distribution` must be greater than zero: a class that is never drawn has no correction."
    _checks.refuse_numbers(shares <= 0, shares, "distribution", rule)
    shares = shares / shares.sum()
    in_order = (np.diff(prior.counts) <= 0).all()
    if not in_order and np.allclose(shares, _log_uniform(prior.size), rtol=1e-4, atol=0):
        raise _checks.ArgumentError(
            "distribution",
            "Log-uniform probabilities follow the rank of frequency. Received probabilities that are log-uniform in "
            "the id, as `tf.random.log_uniform_candidate_sampler` has them, and ids that are not in order of "
            'frequency: frequent classes would hardly be drawn. Remedy: distribution="log_uniform", which ranks the '
            "classes by their counts.",
        )
    return shares


def _log_uniform(num_classes):
    """`log(1 + 1/r) / log(1 + L)` for the ranks 1 to L."""
    return np.log1p(1 / np.arange(1, num_classes + 1)) / np.log1p(num_classes)


def _check_rivals(rivals, estimator, num_classes):
    if isinstance(rivals, Rivals):
        if len(rivals.log_expected) != num_classes:
            raise _checks.ArgumentError(
                "rivals",
                f"`rivals` must be of the {num_classes} classes of `log_prior`. Received rivals of "
                f"{len(rivals.log_expected)} classes: give both the same counts.",
            )
        if estimator == "posterior" and not rivals.independent:
            raise _checks.ArgumentError(
                "rivals",
                'The estimator "posterior" must have rivals that were drawn independently: of others, which class is '
                "the label cannot be told by their probabilities. Received rivals drawn without replacement: give "
                "`RivalSampler` replacement=True.",
            )
    elif not (isinstance(rivals, str) and rivals == "batch"):
        raise _checks.ArgumentError(
            "rivals",
            f'`rivals` must be `Rivals` that a `RivalSampler` drew, or "batch". Received: rivals='
            f"{_checks.shown(rivals)}",
        )
