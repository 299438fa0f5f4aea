"""The adjustment as a layer: after a trained model, or inside the output layer of one to be trained.

Both layers keep one float32, non-trainable weight, `adjustment = τ·log π − log target`. It is a weight and not an
attribute so that it is saved, shared, exported and, on JAX, seen by a compiled step after it was changed.
"""

import warnings
import zlib

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, priors
from keras_logit_adjust.losses import _base

MAX_CLASSES_IN_CONFIG = 10_000


class _Adjustment:
    """The adjustment weight that both layers own: how it is computed, changed and stored in a config."""

    def _settle(self, class_counts, tau, target_prior, num_examples=None):
        """Check the arguments, keep them for the config, and return the adjustment (None without counts)."""
        self.num_examples = num_examples
        if class_counts is None:
            self.class_counts, self.tau, self.target_prior = None, tau, target_prior
            return None
        counts = _as_counts(class_counts, num_examples)
        if self.built:
            _checks.check_length(counts, self.adjustment.shape[0], "class_counts", f"layer {self.name!r}")
        tau = _checks.as_tau(tau, counts.size)
        adjustment = tau * _log_prior(counts, num_examples)
        if target_prior is not None:
            target_prior = _as_target(target_prior, num_examples)
            _checks.check_length(target_prior, counts.size, "target_prior", "class_counts")
            adjustment = adjustment - _log_prior(target_prior, None if num_examples is None else 1.0)
        # Kept last: a refused change leaves the layer as it was.
        self.class_counts, self.tau, self.target_prior = counts, tau, target_prior
        return adjustment

    def _add_adjustment(self, num_classes, values):
        if values is not None:
            _checks.check_length(values, num_classes, "class_counts", "the input")
        else:
            # Never 0: a model whose counts are not known must not pass for an unadjusted one.
            values = np.full(num_classes, np.nan)
        self.adjustment = self._add_constant("adjustment", values)

    def _add_constant(self, name, values):
        return self.add_weight(
            name=name,
            shape=values.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            autocast=False,
            dtype="float32",
        )

    def set(self, *, tau=None, target_prior=None, class_counts=None):
        """Change the adjustment of a built layer, in a compiled or running model too.

        Args:
            tau: new strength, a number or `[L]`; unchanged by default.
            target_prior: new prior of the deployment `[L]`; unchanged by default (uniform where the layer does not know
                it), "uniform" goes back to none.
            class_counts: new training counts `[L]`; unchanged by default.

        Raises:
            ValueError: for values that do not fit, which leave the layer as it was; or where the layer knows neither
                counts nor τ (it was rebuilt from the config of more than 10,000 classes) and they are not both given.
        """
        if self.class_counts is None and (class_counts is None or tau is None):
            raise ValueError(
                f"Layer {self.name!r} does not know its class counts, τ and target prior: configs of more than "
                f"{MAX_CLASSES_IN_CONFIG} classes leave them out. Give `class_counts` and `tau` together."
            )
        class_counts = self.class_counts if class_counts is None else class_counts
        tau = self.tau if tau is None else tau
        if isinstance(target_prior, str):
            _checks.check_choice(target_prior, "target_prior", ["uniform"])
            target_prior = None
        elif target_prior is None:
            target_prior = self.target_prior
        values = self._settle(class_counts, tau, target_prior, self.num_examples)
        if self.built:
            self.adjustment.assign(ops.convert_to_tensor(values, dtype="float32"))
        self.values = values

    def _adjustment_config(self):
        counts = self.class_counts
        target = None if self.target_prior is None else self.target_prior.tolist()
        if isinstance(counts, priors.StreamingPrior):
            # By this Keras knows a prior that heads share again; its own mark is lost when configs are copied.
            mark = {"shared_object_id": zlib.crc32(counts.name.encode())}
            counts = {**keras.saving.serialize_keras_object(counts), **mark}
            return {"class_counts": counts, "tau": self.tau.tolist(), "target_prior": target}
        if counts is None or counts.size > MAX_CLASSES_IN_CONFIG:
            return {"class_counts": None, "tau": 1.0, "target_prior": None}
        return {"class_counts": counts.tolist(), "tau": self.tau.tolist(), "target_prior": target}


def _as_counts(class_counts, num_examples):
    if num_examples is None:
        return _checks.as_counts(class_counts)
    return _checks.as_positive_counts(class_counts, num_examples)


def _as_target(target_prior, num_examples):
    if num_examples is None:
        return priors.prior(_checks.as_counts(target_prior, "target_prior"))
    target = _checks.as_vector(target_prior, "target_prior")
    if (bad := (target <= 0) | (target >= 1)).any():
        raise ValueError(
            "Every number in `target_prior` must be the probability of a label, strictly between 0 and 1. "
            f"Received {target[bad].tolist()} at {_checks.name_classes(bad)}: divide counts by the number of examples."
        )
    return target


def _log_prior(class_counts, num_examples):
    """`log π` of classes that exclude each other, or the log-odds of labels that do not."""
    return priors.log_prior(class_counts) if num_examples is None else priors.log_odds(class_counts, num_examples)


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class LogitAdjustment(_Adjustment, keras.layers.Layer):
    """Post-hoc logit adjustment of trained logits, `f_y − τ·log π_y + log target_y`.

    `kla.adjust` puts it into a model in the right place; use the layer itself where you build the model by hand.
    Half-precision logits are raised to float32 before the prior meets them, and the result stays float32.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. None only for a layer whose
            weights will be loaded: until then it gives NaN.
        tau: strength, a number or a vector `[L]`; 1 is right for logits that estimate `log P(y|x)`.
        target_prior: `[L]` class mix of the deployment; by default the uniform one, whose constant is left out.
        num_examples: for independent sigmoid labels: `class_counts` are then positives among so many examples, and
            the adjustment uses log-odds, `log(π/(1−π))` (target priors are probabilities of each label).
        **kwargs: as in `keras.layers.Layer`.

    Input and output: logits `[..., L]`.

    Raises:
        ValueError: for counts, τ or an input that do not fit.

    Example:

    >>> import numpy as np
    >>> layer = LogitAdjustment(class_counts=[75, 25])
    >>> layer(np.array([[1.0, 0.0]], "float32")).__array__().round(4).tolist()  # 1 − log ¾, 0 − log ¼
    [[1.2877, 1.3863]]

    Reference: Menon et al. (2021), §4, equation 9.
    """

    def __init__(self, class_counts, tau=1.0, target_prior=None, num_examples=None, **kwargs):
        # A float32 head under a mixed policy must not be rounded on its way in.
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self.values = self._settle(class_counts, tau, target_prior, num_examples)

    def build(self, input_shape):
        if not input_shape or input_shape[-1] is None:
            raise ValueError(f"`LogitAdjustment` needs logits with a static last dimension. Received {input_shape}.")
        self._add_adjustment(input_shape[-1], self.values)

    def call(self, inputs):
        logits = _base.at_least_float32(inputs)
        return logits - ops.cast(ops.convert_to_tensor(self.adjustment), logits.dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs):
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        return keras.KerasTensor(inputs.shape, dtype=dtype)

    def get_config(self):
        return {**super().get_config(), **self._adjustment_config(), "num_examples": self.num_examples}


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PriorAwareDense(_Adjustment, keras.layers.Dense):
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
        super().set(tau=tau, target_prior=target_prior, class_counts=class_counts)
        if self.built and self.is_streaming:
            self.streaming_tau.assign(np.broadcast_to(self.tau, self.units).astype("float32"))

    set.__doc__ = _Adjustment.set.__doc__

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
            target_prior = _as_target(target_prior, None)
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
        super().__init__(**kwargs)
        self.units = _checks.check_integer(units, "units", minimum=2)
        self.scale = _checks.check_positive(scale, "scale")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)

    def call(self, inputs):
        features = _normalize(_base.at_least_float32(inputs), axis=-1)
        kernel = _normalize(_base.at_least_float32(ops.convert_to_tensor(self.kernel)), axis=0)
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
