"""A head for data that cannot be counted before training. Its prior is counted while it trains."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, priors
from keras_logit_adjust.layers.adjustment import add_constant, as_target, changed_target
from keras_logit_adjust.layers.prior_aware import LogitsDense


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class StreamingPriorDense(LogitsDense):
    """A `PriorAwareDense` whose prior is counted while it trains: `Wx + b + τ·log π − log target` in training.

    Use it in a `kla.priors.CountingModel`, whose training steps give their labels to the prior. In a plain model
    nothing is counted: the prior stays uniform, and the head adjusts nothing. In your own training loop, call
    `streaming_prior.update(labels)` after each step.

    Several heads may share one prior. The counts are saved with each head. Each loaded head has a prior of its own,
    which continues from these counts. A `CountingModel` gives the labels to all of them, so they stay equal.

    Args:
        units: number of classes `L`.
        streaming_prior: the `kla.priors.StreamingPrior` of `L` classes that the head follows.
        tau: strength, a number or a vector `[L]`.
        target_prior: `[L]` class mix for which the served logits should be right; equal classes by default.
        **kwargs: as in `keras.layers.Dense`, but no `activation`: it gives logits.

    Output: float32 logits `[..., L]` under every precision policy, in training and inference.

    Raises:
        ValueError: for an object that is not a `StreamingPrior`, `units` that is not its number of classes, an
            `activation`, or a τ or target prior that does not fit.

    Example:

    >>> streaming = priors.StreamingPrior(2)
    >>> layer = StreamingPriorDense(2, streaming, kernel_initializer="zeros")
    >>> streaming.update(np.array([0, 0, 0, 0, 0, 1]))
    >>> layer(np.ones((1, 3)), training=True).__array__().round(4).tolist()  # log 6/8, log 2/8: one more of each
    [[-0.2877, -1.3863]]
    >>> layer(np.ones((1, 3))).__array__().tolist()
    [[0.0, 0.0]]

    Reference: Menon et al. (2021), §5, equation 10; the shift as a head, after Ren et al. (2020), balanced softmax.
    """

    num_examples = None  # because its classes exclude each other

    def __init__(self, units, streaming_prior, *, tau=1.0, target_prior=None, **kwargs):
        super().__init__(units, **kwargs)
        if not isinstance(streaming_prior, priors.StreamingPrior):
            raise _checks.ArgumentError(
                "streaming_prior",
                "`streaming_prior` must be a `kla.priors.StreamingPrior`. Received a "
                f"{type(streaming_prior).__name__}: counts that are known go to `kla.layers.PriorAwareDense`.",
            )
        _checks.check_length(streaming_prior.class_counts, units, "streaming_prior", f"units={units}")
        self.streaming_prior = streaming_prior
        self.counts = streaming_prior.counts  # also a weight of the head: it is saved, and a compiled step updates it
        self._settle(tau, target_prior)

    def build(self, input_shape):
        self.strength = add_constant(self, "strength", np.broadcast_to(self.tau, self.units))
        self.log_target = add_constant(self, "log_target", self._log_target())
        super().build(input_shape)

    @property
    def class_counts(self):
        """The current counts of the prior, float64 `[L]`."""
        return self.streaming_prior.class_counts

    @property
    def target_prior(self):
        """The class mix of the deployment, float64 `[L]`. None for equal classes."""
        return None if self.target is None else self.target.probabilities

    def set(self, *, tau=None, target_prior=None):
        """Change the adjustment of a built layer, also in a compiled or running model. See `LogitAdjustment.set`."""
        self._settle(self.tau if tau is None else tau, changed_target(target_prior, self.target))
        if self.built:
            self.strength.assign(np.broadcast_to(self.tau, self.units).astype(self.strength.dtype))
            self.log_target.assign(self._log_target().astype(self.log_target.dtype))

    def _settle(self, tau, target_prior):
        tau, target = _checks.as_tau(tau, self.units), as_target(target_prior, size=self.units)
        self.tau, self.target = tau, target  # after all checks: if one raises, the layer does not change

    def _log_target(self):
        return np.zeros(self.units) if self.target is None else self.target.logits

    def _shift(self):
        log_prior = self.streaming_prior.log_prior()
        return ops.convert_to_tensor(self.strength) * log_prior - ops.convert_to_tensor(self.log_target)

    def get_config(self):
        return {
            **super().get_config(),
            "streaming_prior": keras.saving.serialize_keras_object(self.streaming_prior),
            "tau": self.tau.tolist(),
            "target_prior": np.asarray(self.target_prior).tolist(),
        }

    @classmethod
    def from_config(cls, config):
        streaming_prior = keras.saving.deserialize_keras_object(config["streaming_prior"])
        return cls(**{**config, "streaming_prior": streaming_prior})
