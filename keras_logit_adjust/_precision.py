"""Some functions of Keras that compute float64 in float32 on torch. Here they compute in float64.

For some results the dtype rule of `keras.ops` gives float64 on TensorFlow only.
"""

import keras
from keras import ops


def matmul(x, y):
    """`keras.ops.matmul` of tensors of one dtype."""
    return x @ y if keras.backend.backend() == "torch" else ops.matmul(x, y)


def mean(x):
    """`keras.ops.mean` over the last axis."""
    return ops.sum(x, axis=-1) / x.shape[-1]


def divide_no_nan(total, divisor):
    """`keras.ops.divide_no_nan` of tensors of one dtype: 0 where the divisor is 0, with a gradient of 0."""
    is_zero = ops.equal(divisor, 0)
    return ops.where(is_zero, ops.zeros_like(total), total / ops.where(is_zero, ops.ones_like(divisor), divisor))
