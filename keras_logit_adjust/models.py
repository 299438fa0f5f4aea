"""The models that `compare` trains.

They take raw examples and give float32 logits. Most functions take `head`, a callable `units → layer`, so that a method
can use its own head. Pixels are numbers from 0 to 255, of any dtype. The model scales them, so a saved model takes the
raw images of the data set. If pixels are from 0 to 1, multiply them by 255 first. `compare` does this itself.
"""

import functools

import keras
from keras import layers, ops

from keras_logit_adjust import _checks
from keras_logit_adjust._batch_norm import FusedBatchNormalization
from keras_logit_adjust.layers import CosineDense

SMALLEST_IMAGE = 4  # pixels: after the two poolings of small_cnn one pixel is left


def dense_head(units):
    """The plain output layer: logits in float32 under every precision policy.

    Example:

    >>> dense_head(3)(keras.Input((8,))).shape
    (None, 3)
    """
    return layers.Dense(units, dtype="float32", name="head")


def cosine_dense_head(units):
    """The output layer of LDAM: cosines times 30.

    Example:

    >>> head = cosine_dense_head(3)
    >>> head(keras.Input((8,))).shape, head.scale
    ((None, 3), 30.0)
    """
    return CosineDense(units, scale=30.0, name="head")


def _image_shape(shape):
    """`shape` as a tuple. Raise unless it is the shape of an image: TensorFlow would abort the process."""
    shape = tuple(shape)
    if len(shape) != 3 or any(n is not None and n < SMALLEST_IMAGE for n in shape[:2]) or shape[2] is None:
        raise _checks.ArgumentError(
            "input_shape",
            f"`input_shape` must be (height, width, channels), of at least {SMALLEST_IMAGE} × {SMALLEST_IMAGE} pixels. "
            f"Received: input_shape={shape}. Enlarge the images, for example with `keras.ops.image.resize`.",
        )
    return shape


def small_cnn(input_shape, num_classes, *, head=dense_head):
    """Two convolutions and a hidden layer, for small images. Training takes minutes on a laptop.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: number of classes `L`.
        head: callable that makes the output layer from `L`.

    Returns:
        An uncompiled `keras.Model` from images `[N, H, W, C]` in [0, 255] to logits `[N, L]`.

    Example:

    >>> small_cnn((28, 28, 1), 10).output_shape
    (None, 10)

    Reference: LeCun et al. (1998), the convolutional network for digits, with ReLU and dropout.
    """
    inputs = keras.Input(_image_shape(input_shape))
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, head(num_classes)(x), name="small_cnn")


def resnet32(num_classes, *, input_shape=(32, 32, 3), head=dense_head, weight_decay=1e-4):
    """ResNet-32 for CIFAR: 3 stages of 5 basic blocks (3×3, 3×3) with 16, 32, 64 filters; no weights in shortcuts.

    Args:
        num_classes: number of classes `L`.
        input_shape: `(height, width, channels)`.
        head: callable that makes the output layer from `L`.
        weight_decay: `λ` of the penalty `λ/2·‖w‖²` on the kernels and on the bias of a dense head, not on batch
            normalization. Other code may have the form `l2(a)`, which is `a·‖w‖²`. Then give `2·a`.

    Returns:
        An uncompiled `keras.Model` from images `[N, H, W, C]` in [0, 255] to logits `[N, L]`.

    Example:

    >>> model = resnet32(10)
    >>> model.count_params() - sum(int(w.shape[0]) for w in model.non_trainable_weights)  # trainable, as He (2016)
    464154

    Reference: He et al. (2016), §4.2 (option A shortcuts); Menon et al. (2021), appendix D.
    """
    penalty = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    inputs = keras.Input(_image_shape(input_shape))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    conv_norm = functools.partial(_conv_norm, penalty=penalty)
    x = layers.ReLU()(conv_norm(x, 16))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(5):
            x = _basic_block(x, filters, conv_norm, strides=2 if stage and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    output = head(num_classes)
    if isinstance(output, layers.Dense):
        output.kernel_regularizer = output.bias_regularizer = penalty
    return keras.Model(inputs, output(x), name="resnet32")


def _conv_norm(x, filters, *, penalty, strides=1):
    x = layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=penalty,
    )(x)
    return FusedBatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _basic_block(x, filters, conv_norm, *, strides):
    y = layers.ReLU()(conv_norm(x, filters, strides=strides))
    y = conv_norm(y, filters)
    if strides > 1:
        x = layers.AveragePooling2D(1, strides=strides)(x)  # with pool size 1 it takes every second pixel
        extra = filters - x.shape[-1]
        x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [extra // 2, extra - extra // 2]])
    return layers.ReLU()(layers.Add()([x, y]))


def linear_head(num_features, num_classes, *, head=dense_head):
    """A linear classifier of feature vectors, such as the frozen outputs of a large model.

    Args:
        num_features: columns `D` of the features.
        num_classes: number of classes `L`.
        head: callable that makes the output layer from `L`.

    Returns:
        An uncompiled `keras.Model` from features `[N, D]` to logits `[N, L]`.

    Example:

    >>> linear_head(512, 10).count_params()
    5130

    Reference: Kang et al. (2020), §4 (classifiers on fixed representations).
    """
    inputs = keras.Input((_checks.check_integer(num_features, "num_features", minimum=1),))
    return keras.Model(inputs, head(num_classes)(inputs), name="linear")


def cosine_head(num_features, num_classes, *, scale=30.0):
    """A cosine classifier of feature vectors: `CosineDense` alone.

    Args:
        num_features: columns `D` of the features.
        num_classes: number of classes `L`.
        scale: the largest logit.

    Returns:
        An uncompiled `keras.Model` from features `[N, D]` to logits `[N, L]`.

    Example:

    >>> cosine_head(512, 10).count_params()
    5120

    Reference: Cao et al. (2019), §3.
    """
    return linear_head(num_features, num_classes, head=lambda units: CosineDense(units, scale=scale, name="head"))
