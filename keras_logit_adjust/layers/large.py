"""A head of very many classes. Its loss is computed from features and kernel, so no tensor of all logits exists.

A Keras loss reads the output of a model, which would be the logits. So this head returns the features, and the loss
belongs to the model, `ManyClassModel`. The predictor computes the top k classes chunk by chunk.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _labels, priors
from keras_logit_adjust.layers import _largest, class_sharding
from keras_logit_adjust.layers import adjustment as _adjustment
from keras_logit_adjust.losses import _base, linear, sampled


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class ManyClassDense(class_sharding.PlacedRows, keras.layers.Layer):
    """The last layer of a model with very many classes: it has a kernel and a bias, and passes the features on.

    Its loss is the logit-adjusted cross-entropy of `features @ kernelᵀ + bias`. The loss is exact, by chunks of
    classes, or uses `num_rivals` drawn rivals. `kla.layers.ManyClassModel` trains the layer. The unadjusted scores are
    balanced, as after `kla.losses.LogitAdjustedCrossentropy`. The model's `predictor` gives the largest scores.

    Args:
        units: number of classes `L`.
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. None only for a layer whose
            weights will be loaded: they hold the log-prior.
        tau: strength of the adjustment, a number or a vector `[L]`, at least 0; 0 is plain cross-entropy. A vector is
            saved as a weight. Without counts, None means a vector in the weights that will be loaded.
        num_rivals: None for the exact loss; the number of rivals of each step; or "batch", the labels of the batch.
        distribution: how rivals are drawn: "log_uniform", "uniform" or "prior", as in `kla.losses.RivalSampler`.
        estimator: "partition" or "posterior", as in `kla.losses.sampled_logit_adjusted_crossentropy`. With "posterior"
            rivals are drawn with replacement.
        chunk_size: classes computed at once.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes; only for the exact loss.
        ignore_class: a class id whose positions are left out of value, gradient and mean.
        use_bias: whether the scores have a bias.
        kernel_initializer: initializer of the kernel `[L, D]`.
        kernel_regularizer: regularizer of the kernel; it reads the whole kernel in each step.
        adjustment: a `LogitAdjustment` of the scores; `kla.adjust` sets it.
        seed: seed of the draws.
        **kwargs: as in `keras.layers.Layer`.

    Output: the features, unchanged.

    Raises:
        ValueError: for `units` that is not the number of counts, and options that do not fit.

    Example:

    >>> head = ManyClassDense(4, class_counts=[40, 30, 20, 10])
    >>> head(np.ones((2, 3))).shape[-1], tuple(head.kernel.shape)
    (3, (4, 3))

    Reference: Menon et al. (2021), §5, equation 10.
    """

    class_tau = None  # a weight if τ is a vector

    def __init__(
        self,
        units,
        class_counts,
        *,
        tau=1.0,
        num_rivals=None,
        distribution="log_uniform",
        estimator="partition",
        chunk_size=2048,
        label_smoothing=0.0,
        ignore_class=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        adjustment=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = _labels.check_num_classes(units)
        self.tau = _as_tau(tau, units, has_counts=class_counts is not None)
        is_named = num_rivals is None or (isinstance(num_rivals, str) and num_rivals == "batch")
        self.num_rivals = num_rivals if is_named else _checks.check_integer(num_rivals, "num_rivals", 1)
        self.distribution = _checks.check_choice(distribution, "distribution", sampled.DISTRIBUTIONS)
        self.estimator = _checks.check_choice(estimator, "estimator", sampled.ESTIMATORS)
        self.chunk_size = _checks.check_integer(chunk_size, "chunk_size", 1)
        self.use_bias = _checks.check_bool(use_bias, "use_bias")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.adjustment = adjustment
        self.seed = _checks.check_seed(seed)
        options = {"label_smoothing": label_smoothing, "ignore_class": ignore_class}
        self.loss = _LossOfHead(self.values_and_mask, **options)
        self.exact_loss = _LossOfHead(functools.partial(self.values_and_mask, exact=True), **options)
        if num_rivals is not None and label_smoothing:
            raise _checks.ArgumentError(
                "label_smoothing",
                "`label_smoothing` must be 0 with drawn rivals: it is a mean over all classes. Received: "
                f"label_smoothing={label_smoothing}, num_rivals={num_rivals}.",
            )
        self._draws = not is_named
        self._sampler, self.prior = None, None
        if class_counts is not None:
            self._follow(priors.as_prior(class_counts, independent=False))
            _checks.check_length(self.prior.counts, units, "class_counts", f"units={units}")

    @property
    def class_counts(self):
        """The training counts, float64 `[L]`. None if they are not known."""
        return None if self.prior is None else self.prior.counts

    @property
    def is_plain(self):
        """Whether the loss is plain cross-entropy: τ is 0 for every class."""
        return self.tau is not None and not np.any(self.tau)

    def build(self, input_shape):
        rows = self._place(self.units)
        self.kernel = self.add_weight(
            name=class_sharding.KERNEL,
            shape=(rows, input_shape[-1]),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
            dtype="float32",
        )
        self._settle_kernel()
        options = {"shape": (rows,), "initializer": "zeros", "autocast": False, "dtype": "float32"}
        self.bias = self.add_weight(name=class_sharding.BIAS, **options) if self.use_bias else None
        # NaN if the prior is not known. 0 would look like a prior.
        values = np.full(self.units, np.nan) if self.prior is None else self.prior.logits
        self.log_prior = _adjustment.add_constant(self, "log_prior", values, dtype="float32")
        if np.ndim(self.tau) or self.tau is None:
            taus = np.full(self.units, np.nan) if self.tau is None else self.tau
            self.class_tau = _adjustment.add_constant(self, "class_tau", taus, dtype="float32")
        if self.adjustment is not None and not self.adjustment.built:
            self.adjustment.build((None, self.units))
        if self._draws:
            # A weight, so that a saved and loaded model continues with the next draw.
            self.step = self.add_weight(
                name="step",
                shape=(),
                initializer="zeros",
                trainable=False,
                autocast=False,
                dtype="int",
                aggregation="only_first_replica",
            )

    def call(self, inputs):
        return inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def values_and_mask(self, y_true, features, *, exact=False):
        """The loss of each position, against all classes if `exact`, and the mask of positions that count."""
        self._check_placement()
        head = self._scorer(features)
        log_prior = ops.convert_to_tensor(self.log_prior)
        adjustment = log_prior * (self.tau if self.class_tau is None else ops.convert_to_tensor(self.class_tau))
        options = {"ignore_class": self.loss.ignore_class, "spread": self._spread}
        if exact or self.num_rivals is None:
            options |= {"chunk_size": self.chunk_size, "label_smoothing": self.loss.label_smoothing}
            adjustment = self._padded(adjustment, linear.LOWEST)
            return linear.linear_values(y_true, head, adjustment, num_classes=self.units, **options)
        rivals = self._drawn() if self._draws else "batch"
        options |= {"log_prior": log_prior, "rivals": rivals, "estimator": self.estimator}
        return sampled.sampled_values(y_true, head, adjustment, **options)

    def top_k(self, features, *, k):
        """The `k` classes of the largest scores of each position, by chunks of classes.

        Args:
            features: `[..., D]`, the input of the head.
            k: how many classes, at most `L`.

        Returns:
            Ids, int32 `[..., k]`, and float32 scores `[..., k]`, the largest first.
        """
        options = {"num_classes": self.units, "chunk_size": self.chunk_size, "spread": self._spread}
        return _largest.largest(self._scorer(features), k, **options)

    def _scorer(self, features):
        """Features, kernel and bias of a linear head that gives `(features @ kernelᵀ + bias) / T − adjustment`."""
        head = linear.as_head(features, self.kernel, self.bias, self.kernel.shape[0], class_axis=0)
        if self.adjustment is None:
            return head
        features, kernel, _, axis = head
        scale = self._scale()
        if scale is not None:
            features = _labels.at_least_float32(features)
            features = features * ops.cast(scale, features.dtype)
        return linear.Head(features, kernel, self._scored_bias(scale), axis)

    def _scale(self):
        """The factor `1/T` of the adjustment. None if there is no calibration."""
        is_scaled = self.adjustment is not None and self.adjustment.calibration is not None
        return ops.cast(ops.convert_to_tensor(self.adjustment.inverse_temperature), "float32") if is_scaled else None

    def _scored_bias(self, scale):
        """The adjusted bias of the scores. None if they have no bias."""
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        if self.adjustment is None:
            return bias
        shift = self._padded(ops.cast(ops.convert_to_tensor(self.adjustment.adjustment), "float32"))
        return -shift if bias is None else (bias if scale is None else bias * scale) - shift

    def _follow(self, prior):
        self.prior = prior
        if self._draws:
            self._sampler = sampled.RivalSampler(
                prior,
                num_rivals=self.num_rivals,
                distribution=self.distribution,
                replacement=self.estimator == "posterior",
            )

    def _drawn(self):
        if self._sampler is None:
            raise ValueError(
                f"Layer {self.name!r} does not know its class counts, which rivals are drawn by. Remedy: load weights "
                "into it, or make it with `class_counts`."
            )
        rivals = self._sampler.draw(self.seed, step=ops.convert_to_tensor(self.step))
        self.step.assign_add(1)
        return rivals

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if not self.built:  # a copy of a layer without weights
            return
        log_prior = ops.convert_to_numpy(self.log_prior).astype("float64")
        if self.prior is None and np.isfinite(log_prior).all():
            self._follow(priors.as_prior(np.exp(log_prior)))
        taus = ops.convert_to_numpy(self.class_tau).astype("float64")
        if self.tau is None and np.isfinite(taus).all():
            self.tau = taus

    @classmethod
    def from_dense(cls, dense, class_counts, **options):
        """A head with copies of the kernel and bias of a trained `Dense`: its scores are the logits of the `Dense`.

        Args:
            dense: a built `keras.layers.Dense` that gives logits or their softmax.
            class_counts: as in the class.
            **options: as in the class. `tau=0` continues with the plain loss; adjust afterwards with `kla.adjust`.

        Raises:
            ValueError: for a layer that is not a `Dense`, has no weights yet, has another activation, or is quantized;
                for the options `units` and `use_bias`, which `dense` gives.

        Example:

        >>> dense = keras.layers.Dense(3)
        >>> dense.build((None, 2))
        >>> head = ManyClassDense.from_dense(dense, class_counts=[30, 20, 10])
        >>> bool(np.allclose(head.kernel, keras.ops.transpose(dense.kernel)))
        True
        """
        if not isinstance(dense, keras.layers.Dense) or not dense.built or dense.quantization_mode is not None:
            raise _checks.ArgumentError(
                "dense",
                f"`dense` must be a `keras.layers.Dense` with weights, not quantized. Received: {dense!r}",
            )
        if type(dense).call is not keras.layers.Dense.call:
            raise _checks.ArgumentError(
                "dense",
                f"`dense` must compute what `keras.layers.Dense` does. Received a {type(dense).__name__}, which has a "
                "`call` of its own: give a plain `Dense`, as `to_dense()` of `kla.layers.PriorAwareDense` makes it.",
            )
        activation = getattr(dense, "activation", None)
        if activation not in (None, keras.activations.linear, keras.activations.softmax):
            raise _checks.ArgumentError(
                "dense", f"`dense` must give logits or their softmax. Received one with the activation {activation!r}."
            )
        for name in {"units", "use_bias"} & {*options}:
            raise _checks.ArgumentError(
                name,
                f"`{name}` must be that of `dense`, {getattr(dense, name)}. Received: {name}="
                f"{_checks.shown(options[name])}. Leave it out.",
            )
        head = cls(dense.units, class_counts, use_bias=dense.use_bias, **{"name": dense.name, **options})
        head.build((None, dense.kernel.shape[0]))
        # Copy by NumPy: on JAX a step of one model donates its arrays, and a shared array would be lost for both.
        for variable, values in ((head.kernel, dense.kernel), (head.bias, dense.bias)):
            if variable is not None:
                variable.assign(head._padded(ops.convert_to_numpy(values).T))
        return head

    def to_dense(self):
        """A plain `keras.layers.Dense` with copies of kernel and bias. Its logits are adjusted like the scores."""
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no weights yet: build it, or call it on data, first.")
        scale = self._scale()
        kernel, bias = self.kernel if scale is None else self.kernel * scale, self._scored_bias(scale)
        dense = keras.layers.Dense(self.units, use_bias=bias is not None, dtype="float32")
        dense.build((None, self.kernel.shape[1]))
        dense.set_weights([ops.convert_to_numpy(w)[: self.units].T for w in (kernel, bias) if w is not None])
        return dense

    def get_config(self):
        known = self.prior is not None and self.units <= _adjustment.MAX_CLASSES_IN_CONFIG
        own = ("units", "num_rivals", "distribution", "estimator", "chunk_size", "use_bias", "seed")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in own},
            "class_counts": self.prior.counts.tolist() if known else None,
            "tau": self.tau if np.ndim(self.tau) == 0 else self.tau.tolist() if known else None,
            "label_smoothing": self.loss.label_smoothing,
            "ignore_class": self.loss.ignore_class,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "adjustment": keras.saving.serialize_keras_object(self.adjustment),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "adjustment": keras.saving.deserialize_keras_object(config["adjustment"])})


def _as_tau(tau, units, *, has_counts):
    """τ of a head as a float or a vector `[units]`. None means a vector that will be loaded with the weights."""
    if tau is None and not has_counts:
        return None
    if np.ndim(tau) == 0 and not hasattr(tau, "keys"):
        return _checks.check_number(tau, "tau", 0)
    tau = _checks.as_tau(tau, units)
    _checks.refuse_numbers(tau < 0, tau, "tau", "Every number in `tau` must be at least 0.")
    return tau


class _LossOfHead(_base.MaskedLoss):
    """The loss of a head as a Keras loss with masks, weights, means and replicas. Its predictions are features."""

    def __init__(self, function, **options):
        super().__init__(**options, reduction="sum_over_batch_size", name="many_class_loss")
        # Not the head itself: Keras saves the objects in attributes, and head and loss would contain each other.
        self.function = function

    def values_and_mask(self, y_true, y_pred):
        return self.function(y_true, y_pred)
