"""The adjustment as a layer: after a trained model, or inside the output layer of one to be trained.

Both layers keep one float32, non-trainable weight, `adjustment = τ·log π − log target`. It is a weight and not an
attribute so that it is saved, shared, exported and, on JAX, seen by a compiled step after it was changed. A calibration
adds its bias to that weight and, for `1/T`, one more weight, which layers without a calibration do not have.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _calibration, _checks, _labels, priors
from keras_logit_adjust._adjustment import MAX_CLASSES_IN_CONFIG, Adjustment, as_target
from keras_logit_adjust._decision import MinimumRiskDecision
from keras_logit_adjust.losses import _base

__all__ = ["CosineDense", "LogitAdjustment", "MinimumRiskDecision", "PriorAwareDense"]


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class LogitAdjustment(Adjustment, keras.layers.Layer):
    """Post-hoc logit adjustment of trained logits, `f_y − τ·log π_y + log target_y`.

    `kla.adjust` puts it into a model in the right place; use the layer itself where you build the model by hand.
    With a calibration it is one step too, `f_y / T + b_y − τ·log π_y + log target_y`. Half-precision logits are raised
    to float32 before the prior meets them, and the result stays float32.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. None only for a layer whose
            weights will be loaded: until then it gives NaN.
        tau: strength, a number or a vector `[L]`; 1 is right for logits that estimate `log P(y|x)`.
        target_prior: `[L]` class mix of the deployment; by default the uniform one, whose constant is left out.
        num_examples: for independent sigmoid labels: `class_counts` are then positives among so many examples, and
            the adjustment uses log-odds, `log(π/(1−π))` (target priors are probabilities of each label).
        calibration: what `kla.calibrate` found for these logits; by default none.
        trained_tau: strength of the adjusted loss or head that the logits were trained with, a number or `[L]`; None
            where it is not known. It changes nothing but the name of the prior that is served (`kla.serving`);
            `kla.adjust` and `kla.product_of_experts` fill it in.
        **kwargs: as in `keras.layers.Layer`.

    Input and output: logits `[..., L]`.

    Raises:
        ValueError: for counts, τ, a calibration or an input that do not fit.

    Example:

    >>> import numpy as np
    >>> layer = LogitAdjustment(class_counts=[75, 25])
    >>> layer(np.array([[1.0, 0.0]], "float32")).__array__().round(4).tolist()  # 1 − log ¾, 0 − log ¼
    [[1.2877, 1.3863]]

    Reference: Menon et al. (2021), §4, equation 9.
    """

    def __init__(
        self,
        class_counts,
        tau=1.0,
        target_prior=None,
        num_examples=None,
        calibration=None,
        trained_tau=0.0,
        **kwargs,
    ):
        # A float32 head under a mixed policy must not be rounded on its way in.
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self.values = self._settle(class_counts, tau, target_prior, num_examples, calibration)
        num_classes = np.size(trained_tau if self.values is None else self.values)
        self.trained_tau = None if trained_tau is None else _checks.as_tau(trained_tau, num_classes, "trained_tau")

    def build(self, input_shape):
        if not input_shape or input_shape[-1] is None:
            raise ValueError(f"`LogitAdjustment` needs logits with a static last dimension. Received {input_shape}.")
        self._add_adjustment(input_shape[-1], self.values)
        if self.calibration is not None:
            inverse = np.float64(1.0 / self.calibration.temperature)
            self.inverse_temperature = self._add_constant("inverse_temperature", inverse)

    def set(self, *, tau=None, target_prior=None, class_counts=None, calibration=None):
        """Change the adjustment of a built layer, in a compiled or running model too.

        Args:
            tau: new strength, a number or `[L]`; unchanged by default.
            target_prior: new prior of the deployment `[L]`; unchanged by default (uniform where the layer does not know
                it), "uniform" goes back to none.
            class_counts: new training counts `[L]`; unchanged by default. A `trained_tau` other than 0 was of the old
                ones, and is not known any more.
            calibration: new calibration; unchanged by default, `kla.Calibration()` goes back to none.

        Raises:
            ValueError: for values that do not fit, which leave the layer as it was; where the layer knows neither
                counts nor τ nor the calibration's bias (it was rebuilt from the config of more than 10,000 classes) and
                they are not all given; or for a calibration of a layer that was built without one.
        """
        if calibration is None and self.class_counts is None and self.calibration is not None:
            raise ValueError(
                f"Layer {self.name!r} does not know the bias of its calibration: configs of more than "
                f"{MAX_CLASSES_IN_CONFIG} classes leave it out. Give `class_counts`, `tau` and `calibration` together."
            )
        if calibration is not None and self.built and self.calibration is None:
            raise ValueError(
                f"Layer {self.name!r} was built without a calibration and has no weight for a temperature. Build it "
                "with calibration=kla.Calibration() where you will change it later."
            )
        calibration = self.calibration if calibration is None else calibration
        self._change(tau, target_prior, class_counts, calibration=calibration)
        if class_counts is not None and np.any(self.trained_tau):
            self.trained_tau = None
        if self.built and calibration is not None:
            self.inverse_temperature.assign(1.0 / calibration.temperature)

    def call(self, inputs):
        _labels.check_logits(inputs, f"Layer {self.name!r}")
        logits = _base.at_least_float32(inputs)
        if self.calibration is not None:
            logits = logits * ops.cast(ops.convert_to_tensor(self.inverse_temperature), logits.dtype)
        return logits - ops.cast(ops.convert_to_tensor(self.adjustment), logits.dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs):
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        return keras.KerasTensor(inputs.shape, dtype=dtype)

    def get_config(self):
        config = {**super().get_config(), **self._adjustment_config(), "num_examples": self.num_examples}
        calibration = None if self.calibration is None else self.calibration.get_config()
        if calibration and config["class_counts"] is None:
            calibration["bias"] = None  # one number for each class: in the weights, as the counts
        trained = self.trained_tau
        if trained is not None:
            trained = None if trained.size > MAX_CLASSES_IN_CONFIG else trained.tolist()
        return {**config, "calibration": calibration, "trained_tau": trained}

    @classmethod
    def from_config(cls, config):
        calibration = config.get("calibration")
        if calibration is not None:
            config = {**config, "calibration": _calibration.Calibration.from_config(calibration)}
        return super().from_config(config)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PriorAwareDense(Adjustment, keras.layers.Dense):
    """A dense output layer that knows the prior: `Wx + b + adjustment` in training, `Wx + b` in inference.

    With any plain cross-entropy from logits it trains the logit-adjusted loss, weight for weight, and what it serves is
    balanced already. Do not combine it with an adjusted loss or `kla.adjust`. In `fit`, training metrics see the
    adjusted logits, and `val_loss` is another objective than the training loss: monitor a balanced accuracy.

    Args:
        units: number of classes `L`.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0; or a
            `kla.priors.StreamingPrior`, which the head follows while a `kla.models.CountingModel` counts. None only for
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
        logits = _base.at_least_float32(super().call(inputs))
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
                f"nothing is adjusted. Make model {model.name!r} a `kla.models.CountingModel`, or call `update`.",
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


def _normalize(x, axis):
    """`x / ‖x‖`, and 0 of a zero vector, whose gradient `ops.normalize` makes NaN on JAX and torch."""
    squares = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x / ops.sqrt(ops.where(squares > 0, squares, ops.ones_like(squares)))


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class CosineDense(keras.layers.Layer):
    """A cosine head, `s · (w_y · x) / (‖w_y‖ ‖x‖)`: it emits logits that are scaled already.

    Give its output to losses as it is; LDAM's margins are then in logit units, and scaling again would be an error.
    The scale bounds what the head can say: with `s` below `log(π_max/π_min)` it cannot express the prior, and an
    adjusted loss warns of it.

    Args:
        units: number of classes `L`.
        scale: `s > 0`, the largest logit.
        kernel_initializer: as in `keras.layers.Dense`.
        **kwargs: as in `keras.layers.Layer`.

    Input: features `[..., D]`. Output: float32 logits `[..., L]` in [−s, s]; a zero vector has logits 0.

    Raises:
        ValueError: for `units` below 2 or a scale that is not a positive number.

    Example:

    >>> import numpy as np
    >>> layer = CosineDense(2, scale=10, kernel_initializer="identity")
    >>> layer(np.array([[3.0, 4.0]])).__array__().round(4).tolist()  # 10·3/5, 10·4/5
    [[6.0, 8.0]]

    Reference: Cao et al. (2019), §3 (LDAM's normalized head); Wang et al. (2018), CosFace.
    """

    def __init__(self, units, scale=30.0, kernel_initializer="glorot_uniform", **kwargs):
        # Its arithmetic is float32 at least: rounding features and kernel on their way in would save nothing.
        super().__init__(**{"autocast": False, **kwargs})
        self.units = _checks.check_integer(units, "units", minimum=2)
        self.scale = _checks.check_positive(scale, "scale")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False)

    def call(self, inputs):
        kernel = _normalize(_base.at_least_float32(ops.convert_to_tensor(self.kernel)), axis=0)
        features = _normalize(ops.cast(inputs, kernel.dtype), axis=-1)
        logits = self.scale * ops.matmul(features, kernel)
        _labels.set_logit_bound(logits, self.scale)
        return logits

    def compute_output_spec(self, inputs):
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return keras.KerasTensor((*inputs.shape[:-1], self.units), dtype=dtype)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        config = {"units": self.units, "scale": self.scale, "kernel_initializer": initializer}
        return {**super().get_config(), **config}
