"""The models `compare` trains.

They take raw examples and give float32 logits. Each function takes `head`, a callable `units → layer`, so that a
method can bring a head of its own. Images are uint8 (or floats in [0, 255]) and scaled inside, so that a saved model
takes what the data set holds.
"""

import keras
from keras import layers, ops

from keras_logit_adjust.layers import CosineDense


def dense_head(units):
    """The plain output layer: logits in float32 under every precision policy."""
    return layers.Dense(units, dtype="float32", name="head")


def cosine_dense_head(units):
    """The output layer of LDAM: cosines times 30."""
    return CosineDense(units, scale=30.0, name="head")


def small_cnn(input_shape, num_classes, head=dense_head):
    """Two convolutions and a hidden layer: for small images, minutes on a laptop.

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
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, head(num_classes)(x), name="small_cnn")


def resnet32(num_classes, input_shape=(32, 32, 3), head=dense_head, weight_decay=1e-4, augment=False):
    """ResNet-32 for CIFAR: 3 stages of 5 basic blocks (3×3, 3×3) with 16, 32, 64 filters, shortcuts without parameters.

    Args:
        num_classes: number of classes `L`.
        input_shape: `(height, width, channels)`.
        head: callable that makes the output layer from `L`.
        weight_decay: `λ` of the penalty `λ/2·‖w‖²` on the kernels (not on batch normalization).
        augment: whether training shifts images by up to 4 pixels and mirrors them.

    Returns:
        An uncompiled `keras.Model` from images `[N, H, W, C]` in [0, 255] to logits `[N, L]`.

    Example:

    >>> model = resnet32(10)
    >>> model.count_params() - sum(int(w.shape[0]) for w in model.non_trainable_weights)  # trainable, as He (2016)
    464154

    Reference: He et al. (2016), §4.2 (option A shortcuts); Menon et al. (2021), appendix D.
    """
    penalty = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    if augment:
        # Shifts drawn for each image; Keras's RandomCrop draws one for the whole batch.
        shift = (4 / input_shape[0], 4 / input_shape[1])
        x = layers.RandomTranslation(*shift, fill_mode="constant", interpolation="nearest")(x)
        x = layers.RandomFlip("horizontal")(x)
    x = _conv_norm(x, 16, 1, penalty)
    x = layers.ReLU()(x)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(5):
            x = _basic_block(x, filters, 2 if stage and not block else 1, penalty)
    x = layers.GlobalAveragePooling2D()(x)
    output = head(num_classes)
    if isinstance(output, layers.Dense):
        output.kernel_regularizer = penalty
    return keras.Model(inputs, output(x), name="resnet32")


def _conv_norm(x, filters, strides, penalty):
    x = layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=penalty,
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _basic_block(x, filters, strides, penalty):
    y = layers.ReLU()(_conv_norm(x, filters, strides, penalty))
    y = _conv_norm(y, filters, 1, penalty)
    if strides > 1:
        x = layers.AveragePooling2D(1, strides=strides)(x)  # takes every second pixel
        extra = filters - x.shape[-1]
        x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [extra // 2, extra - extra // 2]])
    return layers.ReLU()(layers.Add()([x, y]))


def linear_head(num_features, num_classes, head=dense_head):
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
    inputs = keras.Input((num_features,))
    return keras.Model(inputs, head(num_classes)(inputs), name="linear")


def cosine_head(num_features, num_classes, scale=30.0):
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
