"""Batch normalization in one TensorFlow operation.

Keras 3 uses a dozen operations, and each of them reads and writes the whole batch of feature maps. On a CPU they take
more than half of a training step of a small ResNet. TensorFlow has one operation for it, which Keras 2 used.
"""

import keras


@keras.saving.register_keras_serializable("keras_logit_adjust")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of images with their channels last, faster in training on TensorFlow.

    Values, gradients and moving averages are Keras's. Outputs have the model's precision, statistics are float32.

    Example:

    >>> import numpy as np
    >>> layer = FusedBatchNormalization()
    >>> values = layer(np.array([1.0, 3.0], "float32").reshape(1, 1, 2, 1), training=True)
    >>> np.round(keras.ops.convert_to_numpy(values), 2).ravel().tolist()
    [-1.0, 1.0]

    Reference: Ioffe & Szegedy (2015), algorithm 1.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and self._is_one_operation(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        # `tf.nn.batch_normalization` consists of several operations. `fused_batch_norm` changes a small epsilon.
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # This operation divides the sum of squares by N - 1. Keras divides it by N.
        number = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), variance.dtype)
        batch = (mean, variance * (number - 1) / number)
        for moving, now in zip((self.moving_mean, self.moving_variance), batch, strict=True):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs

    def _is_one_operation(self, inputs, mask):
        """Whether TensorFlow's operation can do everything that this layer must do."""
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (3, -1)
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "bfloat16", "float16")
            and self.center
            and self.scale
            and not (mask is not None or self.synchronized or self.renorm)
        )
