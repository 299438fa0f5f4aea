"""A calibration: the affine map of logits that `kla.calibrate` finds, and that layers apply."""

import dataclasses

import keras
import numpy as np

from keras_logit_adjust import _arrays, _checks

_SHOWN = 100  # at most so many numbers of a bias are printed


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """A map of logits, `f_y ↦ f_y / T + b_y`, that makes probabilities match how often a model is right.

    `kla.calibrate` finds one on held-out logits; `kla.adjust`, `kla.fold_into_bias` and
    `kla.layers.LogitAdjustment` apply it before the correction of the prior, in the same affine step.

    Args:
        temperature: `T > 0`; above 1 it makes probabilities less certain.
        bias: `[L]` numbers `b`, kept as a tuple, or None.

    Raises:
        ValueError: for a temperature that is not a positive number, or a bias that is not a finite vector.

    Example:

    >>> Calibration(temperature=2.0, bias=[0.5, -0.5]).apply([[4.0, 0.0]]).tolist()
    [[2.5, -0.5]]

    Reference: Guo et al. (2017), §4.2 (temperature); Alexandari et al. (2020), with a bias for each class.
    """

    temperature: float = 1.0
    bias: tuple | None = None

    def __post_init__(self):
        # A frozen dataclass needs `object.__setattr__`. Plain values can be compared, hashed and put into configs.
        object.__setattr__(self, "temperature", _checks.check_positive(self.temperature, "temperature"))
        if self.bias is not None:
            object.__setattr__(self, "bias", tuple(_checks.as_class_vector(self.bias, "bias").tolist()))

    def __repr__(self):
        bias = self.bias
        if bias is not None and len(bias) > _SHOWN:
            bias = f"({', '.join(map(repr, bias[:_SHOWN]))}, … {len(bias)} in all)"
        return f"Calibration(temperature={self.temperature!r}, bias={bias})"

    def apply(self, logits):
        """`logits / T + b` as a float64 array, for logits `[..., L]`, or `[...]` of one sigmoid unit."""
        logits = _arrays.as_array(logits, "logits").astype("float64")
        if self.bias is None:
            return logits / self.temperature
        if len(self.bias) > 1 and logits.shape[-1:] != (len(self.bias),):
            raise ValueError(
                f"`logits` must have {len(self.bias)} columns, one for each number of the calibration's bias. "
                f"Received shape {logits.shape}: calibrate on logits of the same model."
            )
        return logits / self.temperature + np.asarray(self.bias)

    def get_config(self):
        """The arguments as plain values."""
        return {"temperature": self.temperature, "bias": None if self.bias is None else list(self.bias)}

    @classmethod
    def from_config(cls, config):
        """The calibration of a config."""
        return cls(**config)


def as_calibration(calibration, num_classes):
    """`calibration`, which may be None. Raise unless it fits `num_classes` classes (None: any number)."""
    if calibration is not None and not isinstance(calibration, Calibration):
        raise ValueError(
            "`calibration` must be a `kla.Calibration`: what `kla.calibrate(logits, y_true)` finds on "
            f"held-out examples, or Calibration(temperature, bias). Received: calibration={calibration!r}"
        )
    if num_classes is not None and calibration is not None and calibration.bias is not None:
        _checks.check_length(np.asarray(calibration.bias), num_classes, "calibration.bias", "class_counts")
    return calibration
