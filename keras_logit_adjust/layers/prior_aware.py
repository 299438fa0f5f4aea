"""The output layer that knows the prior. With it, every plain cross-entropy trains the adjusted loss."""

import warnings

import keras
from keras import ops

from keras_logit_adjust import _checks, _labels
from keras_logit_adjust.layers.adjustment import Adjustment


class LogitsDense(keras.layers.Dense):
    """A dense output layer of float32 logits that adds `_shift()` to them in training."""

    def __init__(self, units, **kwargs):
        if keras.activations.get(kwargs.pop("activation", None)) is not keras.activations.linear:
            raise ValueError(
                f"`{type(self).__name__}` gives logits and takes no `activation`. Remedy: a loss with "
                "`from_logits=True`, and a Softmax layer behind the trained model where probabilities are served."
            )
        super().__init__(units, **kwargs)
        self._has_warned = False

    def call(self, inputs, training=None):
        logits = _labels.at_least_float32(super().call(inputs))
        if training:
            return logits + ops.cast(self._shift(), logits.dtype)
        self._watch_gradient(logits)
        return logits

    def _watch_gradient(self, logits):
        """Warn once if a torch loop trains logits of inference, which are without the prior."""
        if keras.backend.backend() != "torch" or self._has_warned or not getattr(logits, "requires_grad", False):
            return
        import torch

        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return

        def warn(_):
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"A gradient passes layer {self.name!r} that was called without `training=True`, so its logits had "
                    "no prior. In a training loop of your own call model(x, training=True): `model.train()` does not "
                    "reach a Keras layer. Where no weight is trained, as in a saliency map, ignore this.",
                    stacklevel=2,
                )

        logits.register_hook(warn)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=keras.backend.result_type(self.compute_dtype, "float32")
        )

    # `Dense` stores only its kernel and bias. The base class stores every variable.
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
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        config = {**keras.layers.Dense.get_config(self), "dtype": dtype}
        for name in ("lora_rank", "lora_alpha"):  # `kernel` is the sum of what is frozen and what LoRA trained
            config.pop(name, None)
        dense = keras.layers.Dense.from_config(config)
        dense.build((None, self.kernel.shape[0]))
        dense.set_weights([ops.convert_to_numpy(w) for w in (self.kernel, self.bias) if w is not None])
        return dense

    def get_config(self):
        return {name: value for name, value in super().get_config().items() if name != "activation"}


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PriorAwareDense(Adjustment, LogitsDense):
    """A dense output layer that knows the prior: `Wx + b + adjustment` in training, `Wx + b` in inference.

    With any plain cross-entropy from logits, the layer trains the logit-adjusted loss, and its logits in inference are
    balanced already. Do not combine it with an adjusted loss or `kla.adjust`. In `fit`, training metrics read the
    adjusted logits, and `val_loss` has another objective than the training loss. So monitor a balanced accuracy.

    Args:
        units: number of classes `L`.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. None only for a layer whose
            weights will be loaded. If you cannot count beforehand, use `kla.layers.StreamingPriorDense`.
        tau: strength, a number or a vector `[L]`.
        target_prior: `[L]` class mix for which the served logits should be right; equal classes by default.
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

    def __init__(self, units, class_counts, *, tau=1.0, target_prior=None, **kwargs):
        super().__init__(units, **kwargs)
        self.values = self._settle(class_counts, tau=tau, target_prior=target_prior)
        if self.values is not None:
            _checks.check_length(self.values, units, "class_counts", f"units={units}")

    def build(self, input_shape):
        self._add_adjustment(self.units, self.values)
        super().build(input_shape)

    def set(self, *, tau=None, target_prior=None, class_counts=None):
        """Change the adjustment of a built layer, also in a compiled or running model. See `LogitAdjustment.set`."""
        self._change(tau=tau, target_prior=target_prior, class_counts=class_counts)

    def _shift(self):
        return ops.convert_to_tensor(self.adjustment)

    def get_config(self):
        return {**super().get_config(), **self._adjustment_config()}

    @classmethod
    def from_config(cls, config):
        if isinstance(config["class_counts"], dict):
            raise ValueError(
                f"Head {config['name']!r} follows a StreamingPrior, as version 0.1 wrote it. Build the model again "
                "with `kla.layers.StreamingPriorDense`. To keep kernel and bias, load the file with the version "
                "that wrote it, and give `model.get_layer(…).to_dense().get_weights()` to the new head."
            )
        return cls(**config)
