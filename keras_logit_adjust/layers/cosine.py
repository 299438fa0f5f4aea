"""A cosine head, as in LDAM and CosFace. Its scale bounds the logits."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks, _keras, _labels, _precision


def _normalize(x, axis):
    """`x / ‖x‖`, and 0 for a zero vector. There the gradient of `ops.normalize` is NaN on JAX and torch."""
    squares = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x / ops.sqrt(ops.where(squares > 0, squares, ops.ones_like(squares)))


def _as_kernel(values, units):
    kernel = _arrays.as_array(values, "initial_kernel", "a matrix [D, units], a column for each class")
    if kernel.ndim != 2 or kernel.shape[1] != units:
        raise _checks.ArgumentError(
            "initial_kernel",
            f"`initial_kernel` must have shape [D, {units}], a column for each class. Received shape {kernel.shape}: "
            "transpose a row for each class.",
        )
    kernel = np.array(kernel, "float64")
    if not np.isfinite(kernel).all() or not kernel.any(axis=0).all():
        bad = ~np.isfinite(kernel).all(axis=0) | ~kernel.any(axis=0)
        raise _checks.ArgumentError(
            "initial_kernel",
            "Every column of `initial_kernel` must be finite and not all 0: it has a direction. Received others at "
            f"{_checks.name_classes(bad)}.",
        )
    _checks.refuse_beyond_float32(kernel, "initial_kernel")
    return kernel


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class CosineDense(keras.layers.Layer):
    """A cosine head, `s · (w_y · x) / (‖w_y‖ ‖x‖)`: it emits logits that are scaled already.

    Give its output to losses without scaling it again; LDAM's margins are then in logit units. The scale bounds the
    logits. With `s` below `log(π_max/π_min)` the head cannot express the prior, and an adjusted loss warns.

    Args:
        units: number of classes `L`.
        scale: `s > 0`, the largest logit.
        kernel_initializer: as in `keras.layers.Dense`.
        initial_kernel: `[D, L]` first kernel, instead of the one from `kernel_initializer`. It may be embeddings of the
            classes' names, a column for each class. The config does not contain it: a saved model has its weights, and
            a clone begins with `kernel_initializer`.
        **kwargs: as in `keras.layers.Layer`.

    Input: features `[..., D]`. Output: float32 logits `[..., L]` in [−s, s]; a zero vector has logits 0.

    Raises:
        ValueError: for `units` below 2, a scale that is not a positive number, or an `initial_kernel` that is not
            finite, has a column of zeros, or another shape than `[D, units]`.

    Example:

    >>> import numpy as np
    >>> layer = CosineDense(2, scale=10, kernel_initializer="identity")
    >>> layer(np.array([[3.0, 4.0]])).__array__().round(4).tolist()  # 10·3/5, 10·4/5
    [[6.0, 8.0]]
    >>> layer = CosineDense(2, scale=10, initial_kernel=[[2.0, 0.0], [0.0, 0.5]])  # directions count, lengths do not
    >>> layer(np.array([[3.0, 4.0]])).__array__().round(4).tolist()
    [[6.0, 8.0]]

    Reference: Cao et al. (2019), §3 (LDAM's normalized head); Wang et al. (2018), CosFace.
    """

    def __init__(self, units, *, scale=30.0, kernel_initializer="glorot_uniform", initial_kernel=None, **kwargs):
        # The layer computes in float32 at least. Autocast would round features and kernel, and save nothing.
        super().__init__(**{"autocast": False, **kwargs})
        self.units = _checks.check_integer(units, "units", minimum=2)
        self.scale = _checks.check_positive(scale, "scale")
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._initial_kernel = None if initial_kernel is None else _as_kernel(initial_kernel, self.units)
        self.supports_masking = True

    def build(self, input_shape):
        initializer = self.kernel_initializer
        kernel = self._initial_kernel
        if kernel is not None:
            if len(kernel) != input_shape[-1]:
                raise _checks.ArgumentError(
                    "initial_kernel",
                    f"`initial_kernel` must have a row for each of the {input_shape[-1]} features of the input. "
                    f"Received shape {kernel.shape}.",
                )
            initializer = lambda shape, dtype: ops.convert_to_tensor(kernel, dtype)  # noqa: E731
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=initializer,
            autocast=False,
        )
        self._initial_kernel = None  # the weight has these values now

    def call(self, inputs):
        kernel = _normalize(_labels.at_least_float32(ops.convert_to_tensor(self.kernel)), axis=0)
        features = _normalize(ops.cast(inputs, kernel.dtype), axis=-1)
        logits = self.scale * _precision.matmul(features, kernel)
        _keras.note(logits, "logit_bound", self.scale)  # the loss reads it
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
