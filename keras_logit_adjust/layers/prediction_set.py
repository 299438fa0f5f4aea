"""Prediction sets as a layer behind logits: the classes that are probable enough."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _labels
from keras_logit_adjust.layers.adjustment import add_constant


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PredictionSet(keras.layers.Layer):
    """The set of classes of an example: those with `log softmax(f + a)_y ≥ c_y`.

    `kla.held_out.PredictionSets` finds `c` on calibration examples, so that enough sets contain the true class. Its
    method `layer` makes this layer.

    Args:
        lowest: `[L]` the lowest log-probability `c` with which a class is in the set; `−inf` for a class that always
            is.
        offset: `[L]` numbers `a` that are added to the logits first; 0 by default. For a model that was trained with an
            adjusted loss `a` is τ·log π, which puts the prior back.
        **kwargs: as in `keras.layers.Layer`.

    Input: logits `[..., L]`; or `[..., 1]` of one sigmoid unit, the logit of the second of two classes.

    Output: booleans `[..., L]`.

    Raises:
        ValueError: for NaN, a bound of +inf, or vectors that do not fit each other or the input.

    Example:

    >>> import numpy as np
    >>> layer = PredictionSet(np.log([0.5, 0.2, 0.2]))
    >>> layer(np.log([[0.4, 0.3, 0.3], [0.9, 0.09, 0.01]])).__array__().tolist()
    [[False, True, True], [True, False, False]]

    Reference: Ding, Fermanian and Salmon (2025), conformal prediction for long-tailed classification, §2.
    """

    def __init__(self, lowest, *, offset=None, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.lowest = _as_bounds(lowest)
        self.offset = _checks.as_class_vector(offset, "offset", self.lowest.size, default=0.0, other="lowest")
        self.supports_masking = True

    def build(self, input_shape):
        if (self.lowest.size, input_shape[-1]) != (2, 1):
            _checks.check_length(self.lowest, input_shape[-1], "lowest", "the input")
        self.lowest_log_probability = add_constant(self, "lowest", self.lowest)
        self.added = add_constant(self, "offset", self.offset)

    def call(self, inputs):
        _labels.check_logits(inputs, f"Layer {self.name!r}")
        logits = _labels.at_least_float32(inputs)
        if logits.shape[-1] == 1:  # one sigmoid unit, so the first class has logit 0
            logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
        added, lowest = (
            ops.cast(ops.convert_to_tensor(weight), logits.dtype)
            for weight in (self.added, self.lowest_log_probability)
        )
        return ops.greater_equal(ops.log_softmax(logits + added, axis=-1), lowest)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], self.lowest.size), dtype="bool")

    def get_config(self):
        return {**super().get_config(), "lowest": self.lowest.tolist(), "offset": self.offset.tolist()}


def _as_bounds(lowest):
    """`lowest` as a float64 vector of numbers or −inf."""
    bounds = _arrays.as_array(lowest, "lowest", "a vector of numbers, one for each class").astype("float64")
    if bounds.ndim != 1 or bounds.size < 2 or np.isnan(bounds).any() or (bounds == np.inf).any():
        raise _checks.ArgumentError(
            "lowest",
            "`lowest` must be a vector of at least two numbers or −inf, a log-probability for each class. Received "
            f"shape {bounds.shape}: {_arrays.shown(bounds.tolist())}",
        )
    return bounds
