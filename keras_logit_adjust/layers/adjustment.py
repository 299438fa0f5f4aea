"""The adjustment as a layer behind a trained model, and the weight that it shares with the prior-aware head.

Both have one non-trainable weight, `adjustment = τ·log π − log target`, in float32 (float64 in a layer of float64). A
weight is saved, shared and exported, and a compiled JAX step uses its new value after a change. An attribute would not
do all this. The bias of a calibration is subtracted from this weight. A layer with a calibration has one more weight,
`1/T`.
"""

import numbers
import warnings

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, priors
from keras_logit_adjust.layers.calibration import Calibration, as_calibration
from keras_logit_adjust.losses import _marks
from keras_logit_adjust.priors.formulas import as_label_prior

MAX_CLASSES_IN_CONFIG = 10_000


class Adjustment:
    """A mixin of Keras layers: the weight `adjustment = τ·log π − log target`, minus the bias of a calibration.

    The attributes `prior` and `target` are the `Prior`s of the weight. They are None if unknown or not given.
    """

    calibration = None

    @property
    def class_counts(self):
        """The training counts, float64 `[L]`. None if they are not known."""
        return None if self.prior is None else self.prior.counts

    @property
    def target_prior(self):
        """The class mix of the deployment, float64 `[L]`. None for equal classes."""
        return getattr(self.target, "probabilities", self.target)  # without counts it stays as the user gave it

    def _settle(self, class_counts, *, tau, target_prior, num_examples=None, calibration=None):
        """Check the arguments, keep them for the config, and return the adjustment (None without counts)."""
        if class_counts is None:
            self.prior, self.num_examples, self.tau, self.target = None, num_examples, tau, target_prior
            self.calibration = as_calibration(calibration, None)
            return None
        prior = priors.as_prior(class_counts, num_examples)
        if self.built:
            _checks.check_length(prior.counts, self.adjustment.shape[0], "class_counts", f"layer {self.name!r}")
        tau, target, adjustment = settle(prior, tau=tau, target_prior=target_prior)
        calibration = as_calibration(calibration, prior.size)
        # Set the attributes last: if a check raises, the layer does not change.
        self.prior, self.num_examples, self.tau, self.target = prior, prior.num_examples, tau, target
        self.calibration = calibration
        return adjustment if calibration is None or calibration.bias is None else adjustment - calibration.bias

    def _add_adjustment(self, num_classes, values):
        # NaN and not 0: with 0, a model with unknown counts would look like an unadjusted model.
        values = np.full(num_classes, np.nan) if values is None else values
        _checks.check_length(values, num_classes, "class_counts", "the input")
        self.adjustment = add_constant(self, "adjustment", values)

    def _change(self, *, tau, target_prior, class_counts, **calibration):
        """The work of `set`. None does not change a value."""
        if self.prior is None and (class_counts is None or tau is None):
            raise ValueError(
                f"Layer {self.name!r} does not know its class counts, τ and target prior: configs of more than "
                f"{MAX_CLASSES_IN_CONFIG} classes leave them out. Give `class_counts` and `tau` together."
            )
        knows_number = isinstance(class_counts, priors.Prior) and class_counts.are_labels
        self.values = self._settle(
            self.prior if class_counts is None else class_counts,
            tau=self.tau if tau is None else tau,
            target_prior=changed_target(target_prior, self.target),
            num_examples=None if knows_number else self.num_examples,
            **calibration,
        )
        if self.built:
            self.adjustment.assign(ops.convert_to_tensor(self.values, dtype=self.adjustment.dtype))

    def _adjustment_config(self):
        if self.prior is None or self.prior.size > MAX_CLASSES_IN_CONFIG:
            return {"class_counts": None, "tau": 1.0, "target_prior": None}
        return {
            "class_counts": self.class_counts.tolist(),
            "tau": self.tau.tolist(),
            "target_prior": np.asarray(self.target_prior).tolist(),
        }


def add_constant(layer, name, values, *, dtype=None):
    """Add a weight to `layer`. It is not trained. By default it is float32, or float64 in a layer of float64."""
    return layer.add_weight(
        name=name,
        shape=values.shape,
        initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype),
        trainable=False,
        autocast=False,
        dtype=dtype or ("float64" if layer.variable_dtype == "float64" else "float32"),
    )


def settle(prior, *, tau, target_prior):
    """Checked τ and target prior, and the adjustment `τ·log π − log target`, float64 `[L]`, to be subtracted."""
    tau = _checks.as_tau(tau, prior.size)
    target = as_target(target_prior, size=prior.size, are_labels=prior.are_labels)
    adjustment = tau * prior.logits
    return tau, target, adjustment if target is None else adjustment - target.logits


def as_target(target_prior, *, size, are_labels=False, other="class_counts"):
    """The target prior as a `Prior`, or None. For independent labels it has a probability of each label.

    `other` names the argument that has `size` classes.
    """
    if target_prior is None:
        return None
    if isinstance(target_prior, numbers.Real):
        raise _checks.ArgumentError(
            "target_prior",
            f"`target_prior` must have one number for each class. Received: target_prior={target_prior}: for one unit "
            "give [1 − p, p], as [0.95, 0.05].",
        )
    if are_labels:
        target = as_label_prior(target_prior, "target_prior")
    else:
        target = priors.as_prior(target_prior, independent=False, name="target_prior")
    _checks.check_length(target.counts, size, "target_prior", other)
    return target


def changed_target(target_prior, current):
    """The target prior after `set(target_prior=…)`. None keeps the `current` one, and "uniform" removes it."""
    if isinstance(target_prior, str):
        return _checks.check_choice(target_prior, "target_prior", ["uniform"]) and None
    return current if target_prior is None else target_prior


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class LogitAdjustment(Adjustment, keras.layers.Layer):
    """Post-hoc logit adjustment of trained logits, `f_y − τ·log π_y + log target_y`.

    `kla.adjust` puts it into a model in the right place. Use the layer yourself if you build the model by hand. With a
    calibration, one step does both: `f_y / T + b_y − τ·log π_y + log target_y`. Half-precision logits are cast to
    float32 before the adjustment, and the result is float32.

    Args:
        class_counts: `[L]` training examples of each class (or probabilities), all > 0. None only for a layer whose
            weights will be loaded: until then it gives NaN.
        tau: strength, a number or a vector `[L]`; 1 is right for logits that estimate `log P(y|x)`.
        target_prior: `[L]` class mix of the deployment; by default equal classes, whose constant is left out.
        num_examples: for independent sigmoid labels, the number of training examples. `class_counts` are then
            positives, and the adjustment uses log-odds, `log(π/(1−π))`. A target prior is then the probability of each
            label.
        calibration: the result of `kla.calibrate` for these logits. By default there is no calibration.
        corrected_before: whether something else corrected the prior of these logits before. The name of the served
            prior is then unknown, and nothing else changes. `kla.adjust` and `kla.product_of_experts` set it.
        axis: the axis of the classes; 1 for maps with channels first.
        **kwargs: as in `keras.layers.Layer`.

    Input and output: logits `[..., L]`, or with the classes in `axis`.

    Raises:
        ValueError: for counts, τ, a calibration or an input that do not fit.

    Warns:
        UserWarning: in `fit`, if a loss without a prior trains a model through the layer. The model then learns the
            prior again, and the correction is lost.

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
        *,
        tau=1.0,
        target_prior=None,
        num_examples=None,
        calibration=None,
        corrected_before=False,
        axis=-1,
        **kwargs,
    ):
        # Under a mixed policy autocast would round the float32 logits of the head.
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self.corrected_before = _checks.check_bool(corrected_before, "corrected_before")
        self.axis = _checks.check_axis(axis)
        self.values = self._settle(
            class_counts, tau=tau, target_prior=target_prior, num_examples=num_examples, calibration=calibration
        )

    def build(self, input_shape):
        rank = len(input_shape)
        if not -rank <= self.axis < rank or input_shape[self.axis] is None:
            last = "last dimension" if self.axis == -1 else f"dimension {self.axis}"
            raise ValueError(f"`LogitAdjustment` needs logits with a static {last}. Received {input_shape}.")
        self._add_adjustment(input_shape[self.axis], self.values)
        if self.calibration is not None:
            inverse = np.float64(1.0 / self.calibration.temperature)
            self.inverse_temperature = add_constant(self, "inverse_temperature", inverse)

    def set(self, *, tau=None, target_prior=None, class_counts=None, calibration=None):
        """Change the adjustment of a built layer, in a compiled or running model too.

        Args:
            tau: new strength, a number or `[L]`; unchanged by default.
            target_prior: new prior of the deployment `[L]`; unchanged by default (uniform if the layer does not know
                it). "uniform" removes a target prior.
            class_counts: new training counts `[L]`; unchanged by default. For independent labels these are positives
                among as many examples as before. If their number changes too, give
                `kla.priors.as_prior(positive_counts, num_examples)`.
            calibration: new calibration; unchanged by default. `kla.Calibration()` removes a calibration.

        Raises:
            ValueError: for values that do not fit (the layer then does not change); for a calibration of a layer that
                was built without one. A layer that was rebuilt from a config of more than 10,000 classes does not know
                its counts, τ and calibration bias. It raises if they are not all given.
        """
        if calibration is None and self.prior is None and self.calibration is not None:
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
        self._change(tau=tau, target_prior=target_prior, class_counts=class_counts, calibration=calibration)
        if self.built and calibration is not None:
            self.inverse_temperature.assign(1.0 / calibration.temperature)

    def call(self, inputs, training=None):
        _labels.check_logits(inputs, f"Layer {self.name!r}")
        if training:
            self._warn_of_plain_loss()
        logits = _labels.at_least_float32(inputs)
        if self.calibration is not None:
            logits = logits * ops.cast(ops.convert_to_tensor(self.inverse_temperature), logits.dtype)
        adjustment = ops.cast(ops.convert_to_tensor(self.adjustment), logits.dtype)
        behind = (-1 - self.axis) if self.axis < 0 else len(logits.shape) - 1 - self.axis
        return logits - (ops.reshape(adjustment, (-1, *[1] * behind)) if behind else adjustment)

    def _warn_of_plain_loss(self):
        """Warn in a step of `fit` if its losses teach the model the prior again that this layer removes."""
        model = _keras.model_in_training()
        compiled = [loss for loss in keras.tree.flatten(getattr(model, "loss", None)) if loss is not None]
        if compiled and all(map(_marks.knows_no_prior, compiled)) and (self.values is None or np.ptp(self.values) > 0):
            warnings.warn(
                f"Model {model.name!r} is adjusted by layer {self.name!r} and trains with a loss that knows no prior. "
                "It learns the prior of its training data again, and a model that shares its weights gets worse for "
                "rare classes: train the model without the layer and adjust it again, or train with "
                "`kla.losses.LogitAdjustedCrossentropy`. If the training data are balanced, ignore this warning.",
                stacklevel=2,
            )

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(inputs.shape, dtype=_labels.float_dtype(inputs))

    def get_config(self):
        config = {**super().get_config(), **self._adjustment_config(), "num_examples": self.num_examples}
        calibration = None if self.calibration is None else self.calibration.get_config()
        if calibration and config["class_counts"] is None:
            calibration["bias"] = None  # one number for each class, which is in the weights, like the counts
        return {**config, "calibration": calibration, "corrected_before": self.corrected_before, "axis": self.axis}

    @classmethod
    def from_config(cls, config):
        config = {**config}
        if "trained_tau" in config:  # version 0.1 used this name
            config["corrected_before"] = config.pop("trained_tau") != 0.0
        if config.get("calibration") is not None:
            config["calibration"] = Calibration.from_config(config["calibration"])
        return super().from_config(config)
