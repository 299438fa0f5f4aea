"""The family of losses with pairwise margins (Menon et al., 2021, §5.1, equation 11) and its named members.

The family is `ℓ(y, f) = α_y · log[1 + Σ_{y'≠y} e^{Δ_yy'} · e^{f_y' − f_y}]` with `Δ_yy' = u_y + v_y'`. Every loss that
the paper compares has this form, with its own weight `α`, label margin `u` and rival margin `v`. LDAM's margin `u`
depends on the frequency of the label. The equalized loss's margin `v` depends on the frequency of the rival. Only the
margins of the adjusted loss depend on both.
"""

import keras
import numpy as np

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.losses import _base, _rivals


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PairwiseMarginCrossentropy(_base.MaskedLoss):
    """Softmax cross-entropy with pairwise margins, `α_y · log[1 + Σ_{y'≠y} e^{u_y + v_y'} · e^{s_y'·f_y' − s_y·f_y}]`.

    Values are those of `pairwise_margin_crossentropy`.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0; or an object with an
            `effective_prior`. The formula uses only the vectors below. `kla.is_fisher_consistent` compares them with
            the counts.
        class_weight: `α`, `[L]` numbers > 0; 1 by default.
        label_margin: `u`, `[L]` numbers that are added to the log-odds of an error of each class; 0 by default.
        rival_margin: `v`, `[L]` numbers that are added to the score of each class as a rival; 0 by default.
        logit_scale: `s`, `[L]` numbers > 0 that multiply the logits first; 1 by default.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions are left out of value, gradient and mean (ids only).
        reduction: as in `keras.losses.Loss`; a mean is over valid positions, under `tf.distribute` over all replicas.
        name: name of the loss.

    Call arguments: as in `LogitAdjustedCrossentropy`.

    Raises:
        ValueError: for vectors of another length than the counts, weights or scales that are not > 0, margins that are
            not finite.

    Example:

    >>> import numpy as np
    >>> loss = PairwiseMarginCrossentropy([75, 25], class_weight=[1, 3], label_margin=[0, np.log(2)])
    >>> values = [float(loss(np.array([y]), np.zeros((1, 2)))) for y in (0, 1)]
    >>> [round(x, 4) for x in values]  # log 2 and 3·log(1 + 2)
    [0.6931, 3.2958]

    Reference: Menon et al. (2021), §5.1, equation 11.
    """

    _arguments = ("class_counts", "class_weight", "label_margin", "rival_margin", "logit_scale")

    def __init__(
        self,
        class_counts,
        *,
        class_weight=None,
        label_margin=None,
        rival_margin=None,
        logit_scale=None,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="pairwise_margin_crossentropy",
    ):
        super().__init__(label_smoothing=label_smoothing, ignore_class=ignore_class, reduction=reduction, name=name)
        self.prior = priors.as_prior(class_counts, independent=False)
        self.class_counts = self.prior.counts
        margins = _rivals.as_margins(
            self.prior.size,
            class_weight=class_weight,
            label_margin=label_margin,
            rival_margin=rival_margin,
            logit_scale=logit_scale,
        )
        self.class_weight, self.label_margin, self.rival_margin, self.logit_scale = margins

    @staticmethod
    def fisher_consistent(class_counts, *, delta, name="fisher_consistent_crossentropy", **kwargs):
        """The consistent member for any `δ > 0` of Theorem 1: `α_y = δ_y/π_y`, `Δ_yy' = log(δ_y'/δ_y)`.

        `δ = π` is the logit-adjusted loss at τ = 1, `δ = 1` the balanced loss; each minimizer is Bayes-optimal for the
        balanced error.

        Args:
            class_counts: as in `PairwiseMarginCrossentropy`.
            delta: `[L]` numbers > 0.
            name: name of the loss.
            **kwargs: `label_smoothing`, `ignore_class`, `reduction`.

        Returns:
            A `PairwiseMarginCrossentropy`.

        Raises:
            ValueError: for a δ that is not > 0 or of another length.

        Example:

        >>> loss = PairwiseMarginCrossentropy.fisher_consistent([75, 25], delta=[1, 1])
        >>> loss.class_weight.round(4).tolist()  # 1/π
        [1.3333, 4.0]

        Reference: Menon et al. (2021), §5.1, Theorem 1.
        """
        prior = priors.as_prior(class_counts, independent=False)
        delta = _checks.as_class_vector(delta, "delta", prior.size, positive=True)
        return PairwiseMarginCrossentropy(
            prior,
            class_weight=delta / prior.probabilities,
            label_margin=-np.log(delta),
            rival_margin=np.log(delta),
            name=name,
            **kwargs,
        )

    @staticmethod
    def balanced(class_counts, *, name="balanced_crossentropy", **kwargs):
        """The balanced loss, cross-entropy with `α_y = 1/(L·π_y)`: Theorem 1 with `δ = 1/L`.

        Args:
            class_counts: as in `PairwiseMarginCrossentropy`.
            name: name of the loss.
            **kwargs: `label_smoothing`, `ignore_class`, `reduction`.

        Returns:
            A `PairwiseMarginCrossentropy`. The mean of its weights over the training set is 1.

        Raises:
            ValueError: for counts that do not fit.

        Example:

        >>> PairwiseMarginCrossentropy.balanced([75, 25]).class_weight.round(4).tolist()
        [0.6667, 2.0]

        Reference: Menon et al. (2021), §3, and §5.1, Theorem 1.
        """
        prior = priors.as_prior(class_counts, independent=False)
        delta = np.full(prior.size, 1.0 / prior.size)
        return PairwiseMarginCrossentropy.fisher_consistent(prior, delta=delta, name=name, **kwargs)

    @staticmethod
    def logit_adjusted_adaptive(
        class_counts, *, tau=1.0, max_margin=None, name="logit_adjusted_adaptive_crossentropy", **kwargs
    ):
        """The logit-adjusted and adaptive loss, `Δ_yy' = τ·log(π_y'/π_y) + m_y`: the sum of the margins of both.

        Args:
            class_counts: as in `PairwiseMarginCrossentropy`.
            tau: strength of the adjustment, a number or a vector `[L]`.
            max_margin: the largest `m_y = max_margin·(n_min/n_y)^¼`, in logit units. By default the paper's
                `m_y = π_y^{−¼}`, which reaches 21.6 for the rarest class of iNaturalist.
            name: name of the loss.
            **kwargs: `label_smoothing`, `ignore_class`, `reduction`.

        Returns:
            A `PairwiseMarginCrossentropy`.

        Raises:
            ValueError: for counts, τ or a margin that do not fit.

        Example:

        >>> loss = PairwiseMarginCrossentropy.logit_adjusted_adaptive([75, 25])
        >>> loss.label_margin.round(4).tolist()  # −log ¾ + ¾^(−¼), −log ¼ + ¼^(−¼)
        [1.3622, 2.8005]

        Reference: Menon et al. (2021), §6.2.
        """
        prior = priors.as_prior(class_counts, independent=False)
        adjustment = _checks.as_tau(tau, prior.size) * prior.logits
        largest = prior.probabilities.min() ** -0.25 if max_margin is None else max_margin
        return PairwiseMarginCrossentropy(
            prior,
            label_margin=adaptive_margins(prior, max_margin=largest) - adjustment,
            rival_margin=adjustment,
            name=name,
            **kwargs,
        )

    def values_and_mask(self, y_true, y_pred):
        _base.warn_of_bounded_logits(y_pred, self.rival_margin)
        weight = self.reweighted(self.class_weight)
        margins = _rivals.Margins(weight, self.label_margin, self.rival_margin, self.logit_scale)
        return _rivals.rival_costs(y_true, y_pred, margins, **self._options)


def adaptive_margins(class_counts, *, max_margin):
    """LDAM's margins, `m_y = max_margin·(n_min/n_y)^¼`. The rarest class has the largest margin."""
    counts = priors.as_prior(class_counts, independent=False).counts
    return _checks.check_number(max_margin, "max_margin", minimum=0.0) * (counts.min() / counts) ** 0.25


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class AdaptiveMarginCrossentropy(PairwiseMarginCrossentropy):
    """Label-distribution-aware margins (LDAM): `Δ_yy' = m_y = max_margin·(n_min/n_y)^¼`, the same for every rival.

    Margins are in logit units, on logits that are scaled already. LDAM computes `s·(x_y − m)` on cosines `x`. This is
    the same loss on the logits `s·x` of `kla.layers.CosineDense(units, scale=s)`, with `max_margin = s·m`. Do not scale
    again. The loss is not Fisher consistent on uneven priors. Values are those of `pairwise_margin_crossentropy`.

    Args:
        class_counts: as in `PairwiseMarginCrossentropy`.
        max_margin: margin of the rarest class in logit units; 15 is LDAM's 0.5 at its scale of 30.
        label_smoothing: as in `PairwiseMarginCrossentropy`.
        ignore_class: as in `PairwiseMarginCrossentropy`.
        reduction: as in `PairwiseMarginCrossentropy`.
        name: name of the loss.

    Raises:
        ValueError: for counts that do not fit, a margin that is negative or not finite.

    Example:

    >>> AdaptiveMarginCrossentropy([1600, 100], max_margin=2).label_margin.tolist()
    [1.0, 2.0]

    Reference: Cao et al. (2019), LDAM, §3, equations 12 and 13; Menon et al. (2021), §3.
    """

    _arguments = ("class_counts", "max_margin")

    def __init__(
        self,
        class_counts,
        *,
        max_margin=15.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="adaptive_margin_crossentropy",
    ):
        prior = priors.as_prior(class_counts, independent=False)
        super().__init__(
            prior,
            label_margin=adaptive_margins(prior, max_margin=max_margin),
            label_smoothing=label_smoothing,
            ignore_class=ignore_class,
            reduction=reduction,
            name=name,
        )
        self.max_margin = float(max_margin)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class EqualizedCrossentropy(PairwiseMarginCrossentropy):
    """Equalized (softmax equalization) loss, `Δ_yy' = log F(π_y')`: rare classes count less as rivals.

    With form "threshold", `F(π)` is 1 where `π ≥ λ`, and `1 − γ` elsewhere. With form "prior", `F(π) = π`. The original
    loss differs: it drops a rare rival at random with probability γ, which can be a margin of −∞. Here `F` is the
    expected weight of the rival. The loss is not Fisher consistent on uneven priors. Values are those of
    `pairwise_margin_crossentropy`.

    Args:
        class_counts: as in `PairwiseMarginCrossentropy`.
        threshold: λ in [0, 1]. A class is rare if its prior is below λ. The default `0.3 / L` is three tenths of an
            even share, for every number of classes.
        gamma: γ in [0, 1).
        form: "threshold" or "prior", which uses neither λ nor γ.
        label_smoothing: as in `PairwiseMarginCrossentropy`.
        ignore_class: as in `PairwiseMarginCrossentropy`.
        reduction: as in `PairwiseMarginCrossentropy`.
        name: name of the loss.

    Raises:
        ValueError: for a threshold outside [0, 1], γ outside [0, 1), an unknown form, counts that do not fit.

    Example:

    >>> loss = EqualizedCrossentropy([90, 9, 1], threshold=0.05, gamma=0.75)
    >>> np.exp(loss.rival_margin).tolist()
    [1.0, 1.0, 0.25]

    Reference: Tan et al. (2020), equalization loss, in its softmax form; Menon et al. (2021), §3.
    """

    _arguments = ("class_counts", "threshold", "gamma", "form")

    def __init__(
        self,
        class_counts,
        *,
        threshold=None,
        gamma=0.95,
        form="threshold",
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="equalized_crossentropy",
    ):
        prior = priors.as_prior(class_counts, independent=False)
        threshold = 0.3 / prior.size if threshold is None else threshold
        self.threshold = _checks.check_number(threshold, "threshold", minimum=0.0, maximum=1.0)
        self.gamma = _checks.check_fraction(gamma, "gamma")
        self.form = _checks.check_choice(form, "form", ("threshold", "prior"))
        rare = prior.probabilities < self.threshold
        weight = prior.probabilities if form == "prior" else np.where(rare, 1.0 - self.gamma, 1.0)
        super().__init__(
            prior,
            rival_margin=np.log(weight),
            label_smoothing=label_smoothing,
            ignore_class=ignore_class,
            reduction=reduction,
            name=name,
        )


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class VectorScalingCrossentropy(PairwiseMarginCrossentropy):
    """Vector-scaling (VS) loss: cross-entropy of `s_y·f_y + τ·log π_y` with `s_y = (n_y/n_max)^γ`.

    Multiplicative factors act if training continues after every example is fitted. Additive terms act before that.
    `τ = 0` is the class-dependent temperature (CDT) loss, and `γ = 0` is the logit-adjusted loss. Predict with the
    plain `argmax f`. Values are those of `pairwise_margin_crossentropy`.

    Args:
        class_counts: as in `PairwiseMarginCrossentropy`.
        gamma: γ ≥ 0, strength of the multiplicative part.
        tau: strength of the additive part, a number or a vector `[L]`.
        label_smoothing: as in `PairwiseMarginCrossentropy`.
        ignore_class: as in `PairwiseMarginCrossentropy`.
        reduction: as in `PairwiseMarginCrossentropy`.
        name: name of the loss.

    Raises:
        ValueError: for counts, γ or τ that do not fit.

    Example:

    >>> VectorScalingCrossentropy([1600, 100], gamma=0.5).logit_scale.tolist()
    [1.0, 0.25]

    Reference: Kini et al. (2021), VS-loss; Ye et al. (2020), CDT.
    """

    _arguments = ("class_counts", "gamma", "tau")

    def __init__(
        self,
        class_counts,
        *,
        gamma=0.1,
        tau=1.0,
        label_smoothing=0.0,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="vector_scaling_crossentropy",
    ):
        prior = priors.as_prior(class_counts, independent=False)
        self.gamma = _checks.check_number(gamma, "gamma", minimum=0.0)
        self.tau = _checks.as_tau(tau, prior.size)
        super().__init__(
            prior,
            label_margin=-self.tau * prior.logits,
            rival_margin=self.tau * prior.logits,
            logit_scale=(prior.counts / prior.counts.max()) ** self.gamma,
            label_smoothing=label_smoothing,
            ignore_class=ignore_class,
            reduction=reduction,
            name=name,
        )
