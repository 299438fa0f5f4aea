"""The output layer that knows the prior: any plain cross-entropy then trains the adjusted loss."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, priors
from keras_logit_adjust.layers.adjustment import Adjustment, as_target


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PriorAwareDense(Adjustment, keras.layers.Dense):
    """A dense output layer that knows the prior: `Wx + b + adjustment` in training, `Wx + b` in inference.

    With any plain cross-entropy from logits it trains the logit-adjusted loss, weight for weight, and what it serves is
    balanced already. Do not combine it with an adjusted loss or `kla.adjust`. In `fit`, training metrics see the
    adjusted logits, and `val_loss` is another objective than the training loss: monitor a balanced accuracy.

    Args:
        units: number of classes `L`.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0; or a
            `kla.priors.StreamingPrior`, which the head follows while a `kla.priors.CountingModel` counts. None only for
            a layer whose weights will be loaded.
        tau: strength, a number or a vector `[L]`.
        target_prior: `[L]` class mix the served logits should be right for; uniform by default.
        **kwargs: as in `keras.layers.Dense`, but no `activation`: it gives logits.

    Output: float32 logits `[..., L]` under every precision policy, in training and inference.

    Raises:
        ValueError: for `units` that is not the number of counts, an `activation`, counts or τ that do not fit.

    Example:

    >>> import numpy as np
    >>> layer = PriorAwareDense(2, class_counts=[75, 25], kernel_initializer="zeros")
    >>> layer(np.ones((1, 3)), training=True).__array__().round(4).tolist()  # log ¾, log ¼
    [[-0.2877, -1.3863]]
    >>> layer(np.ones((1, 3))).__array__().tolist()
    [[0.0, 0.0]]

    Reference: Menon et al. (2021), §5, equation 10; the shift as a head, after Ren et al. (2020), balanced softmax.
    """

    def __init__(self, units, class_counts, tau=1.0, target_prior=None, **kwargs):
        if keras.activations.get(kwargs.pop("activation", None)) is not keras.activations.linear:
            raise ValueError(
                "`PriorAwareDense` gives logits and takes no `activation`. Remedy: a loss with `from_logits=True`, and "
                "a Softmax layer behind the trained model where probabilities are served."
            )
        super().__init__(units, **kwargs)
        self.values = self._settle(class_counts, tau, target_prior)
        if self.values is not None:
            _checks.check_length(self.values, units, "class_counts", f"units={units}")

    def build(self, input_shape):
        self._add_adjustment(self.units, self.values)
        if self.is_streaming:
            self.streaming_tau = self._add_constant("streaming_tau", np.broadcast_to(self.tau, self.units))
        super().build(input_shape)

    @property
    def is_streaming(self):
        """Whether the prior is a `StreamingPrior`; `adjustment` then holds `−log target` alone."""
        return isinstance(self.class_counts, priors.StreamingPrior)

    def set(self, *, tau=None, target_prior=None, class_counts=None):
        """Change the adjustment of a built layer, in a compiled or running model too: as `LogitAdjustment.set`."""
        self._change(tau, target_prior, class_counts)
        if self.built and self.is_streaming:
            self.streaming_tau.assign(np.broadcast_to(self.tau, self.units).astype("float32"))

    def _settle(self, class_counts, tau, target_prior, num_examples=None):
        is_streaming = isinstance(class_counts, priors.StreamingPrior)
        if self.built and class_counts is not self.class_counts and is_streaming | self.is_streaming:
            raise ValueError(
                f"A layer stays with the kind of prior it was built with. Layer {self.name!r} was built "
                f"{'with' if self.is_streaming else 'without'} a StreamingPrior: build a new head and copy the weights."
            )
        if not is_streaming:
            return super()._settle(class_counts, tau, target_prior, num_examples)
        tau = _checks.as_tau(tau, class_counts.num_classes)
        adjustment = np.zeros(class_counts.num_classes)
        if target_prior is not None:
            target_prior = as_target(target_prior, None)
            _checks.check_length(target_prior, class_counts.num_classes, "target_prior", "class_counts")
            adjustment = -np.log(target_prior)
        self.num_examples, self.class_counts, self.tau, self.target_prior = None, class_counts, tau, target_prior
        return adjustment

    def call(self, inputs, training=None):
        logits = _labels.at_least_float32(super().call(inputs))
        if not training:
            return logits
        adjustment = ops.convert_to_tensor(self.adjustment)
        if self.is_streaming:
            self._warn_unless_counted()
            adjustment = adjustment + ops.convert_to_tensor(self.streaming_tau) * self.class_counts.log_prior()
        return logits + ops.cast(adjustment, logits.dtype)

    def _warn_unless_counted(self):
        """Warn in `fit` of a plain model: nothing would ever be counted there, and the prior stay uniform."""
        model = self._get_call_context().entry_layer  # a private name of Keras's
        if not isinstance(model, keras.Model) or not model.compiled:
            return
        if all(getattr(type(model), name) is getattr(keras.Model, name) for name in ("compute_loss", "train_step")):
            warnings.warn(
                f"Nothing counts labels for the StreamingPrior of layer {self.name!r}: its prior stays uniform, and "
                f"nothing is adjusted. Make model {model.name!r} a `kla.priors.CountingModel`, or call `update`.",
                stacklevel=2,
            )

    def compute_output_spec(self, inputs, training=None):
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=dtype)

    # `Dense` stores just its kernel and bias; the base class stores every variable.
    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)

    def to_dense(self):
        """The plain `keras.layers.Dense` with the same kernel and bias, for serving without this package.

        Returns:
            A built float32 layer with copies of the weights (not shared).

        Raises:
            ValueError: for a layer that was not built.
        """
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no weights yet: build it, or call it on data, first.")
        config = keras.layers.Dense.get_config(self)
        config.update(name=self.name, dtype=keras.backend.result_type(self.compute_dtype, "float32"))
        dense = keras.layers.Dense.from_config(config)
        dense.build((None, self.kernel.shape[0]))
        dense.set_weights([ops.convert_to_numpy(w) for w in (self.kernel, self.bias) if w is not None])
        return dense

    def get_config(self):
        config = {**super().get_config(), **self._adjustment_config()}
        del config["activation"]
        return config

    @classmethod
    def from_config(cls, config):
        counts = config["class_counts"]
        if isinstance(counts, dict):
            config = {**config, "class_counts": keras.saving.deserialize_keras_object(counts)}
        return cls(**config)
