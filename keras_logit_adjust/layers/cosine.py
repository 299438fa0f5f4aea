"""A cosine head: logits that are bounded by their scale, as LDAM and CosFace have them."""

import keras
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision


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

    def __init__(self, units, *, scale=30.0, kernel_initializer="glorot_uniform", **kwargs):
        # Its arithmetic is float32 at least: rounding features and kernel on their way in would save nothing.
        super().__init__(**{"autocast": False, **kwargs})
        self.units = _checks.check_integer(units, "units", minimum=2)
        self.scale = _checks.check_positive(scale, "scale")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
            autocast=False,
        )

    def call(self, inputs):
        kernel = _normalize(_labels.at_least_float32(ops.convert_to_tensor(self.kernel)), axis=0)
        features = _normalize(ops.cast(inputs, kernel.dtype), axis=-1)
        logits = self.scale * _precision.matmul(features, kernel)
        _keras.note(logits, "logit_bound", self.scale)  # for the loss that will see them
        return logits

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], self.units), dtype=_labels.float_dtype(self.kernel))

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "scale": self.scale,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
