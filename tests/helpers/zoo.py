"""Heads as real models have them: how to make them, what they give, where their classes are, whether they fold."""

import keras
from keras import layers, ops

CLASSES = 3


def model_of(shape, *parts):
    """A model of layers and functions, one after another."""
    inputs = keras.Input(shape)
    outputs = inputs
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


def rows(*parts):
    return model_of((6,), layers.Dense(5, "tanh"), *parts)


def steps(*parts):
    return model_of((4, 5), *parts)


def images(*parts):
    return model_of((4, 4, 2), *parts)


def scores(activation=None, **options):
    return layers.Dense(CLASSES, activation, **options)


def maps(activation=None, size=1, **options):
    return layers.Conv2D(CLASSES, size, activation=activation, padding="same", **options)


def inner(activation=None):
    return keras.Sequential([keras.Input((5,)), layers.Dense(4, "tanh"), scores(activation)])


def average_of_heads(activation, *behind):
    def heads(features):
        return layers.Average()([scores(activation)(features), scores(activation)(features)])

    return rows(heads, *behind)


def sum_of_heads(features):
    return scores()(features) + scores()(features)


def quantized(activation):
    model = rows(scores(activation))
    model.layers[-1].quantize("int8")
    return model


def softmax(**options):
    return layers.Softmax(**options)


# name: (model, what it gives, axis of the classes, True where folding equals adjusting, or the reason why not)
SHAPES = {
    "MobileNet": (
        lambda: images(
            layers.GlobalAveragePooling2D(keepdims=True),
            maps(),
            layers.Reshape((CLASSES,)),
            layers.Activation("softmax"),
        ),
        "softmax",
        -1,
        True,
    ),
    "MobileNetV3": (
        lambda: images(
            layers.GlobalAveragePooling2D(keepdims=True), maps(), layers.Flatten(), layers.Activation("softmax")
        ),
        "softmax",
        -1,
        True,
    ),
    "dropout behind the head": (lambda: rows(scores(), layers.Dropout(0.5)), "logits", -1, True),
    "dropout, then softmax": (lambda: rows(scores(), layers.Dropout(0.5), softmax()), "softmax", -1, True),
    "dropout behind softmax": (lambda: rows(scores("softmax"), layers.Dropout(0.5)), "softmax", -1, True),
    "noise behind the head": (lambda: rows(scores(), layers.GaussianNoise(0.5), softmax()), "softmax", -1, True),
    "an operation as softmax": (lambda: rows(scores(), ops.softmax), "softmax", -1, True),
    "an activation function": (lambda: rows(scores(), keras.activations.softmax), "softmax", -1, True),
    "an operation as sigmoid": (lambda: rows(scores(), ops.sigmoid), "sigmoid", -1, True),
    "a cast before softmax": (
        lambda: rows(scores(use_bias=False), lambda x: ops.cast(x, "float32"), softmax()),
        "softmax",
        -1,
        True,
    ),
    "a cast behind softmax": (lambda: rows(scores("softmax"), lambda x: ops.cast(x, "float32")), "softmax", -1, True),
    "a temperature": (lambda: rows(scores(), lambda x: x / 2.0, softmax()), "softmax", -1, "true_divide"),
    "a temperature, logits": (lambda: rows(scores(), lambda x: x * 0.5), "logits", -1, "multiply"),
    "rescaling": (lambda: rows(scores(), layers.Rescaling(0.5), softmax()), "softmax", -1, "rescaling"),
    "rescaling, logits": (lambda: rows(scores(), layers.Rescaling(0.5)), "logits", -1, "rescaling"),
    "pooled maps": (lambda: images(maps(), layers.GlobalAveragePooling2D(), softmax()), "softmax", -1, True),
    "pooled maps, logits": (lambda: images(maps(), layers.GlobalAveragePooling2D()), "logits", -1, True),
    "pooled softmax": (lambda: images(maps("softmax"), layers.GlobalAveragePooling2D()), "softmax", -1, "pooling"),
    "pooled windows": (
        lambda: images(maps(), layers.AveragePooling2D(3, 2, padding="same"), softmax()),
        "softmax",
        -1,
        True,
    ),
    "mean over positions": (lambda: steps(scores(), lambda x: ops.mean(x, axis=1), softmax()), "softmax", -1, True),
    "upsampled maps": (
        lambda: images(maps(), layers.UpSampling2D(2, interpolation="bilinear"), softmax()),
        "softmax",
        -1,
        True,
    ),
    "upsampled softmax": (lambda: images(maps("softmax"), layers.UpSampling2D(2)), "softmax", -1, True),
    "resized maps": (lambda: images(maps(), layers.Resizing(7, 7), softmax()), "softmax", -1, True),
    "resized softmax": (lambda: images(maps("softmax"), layers.Resizing(7, 7)), "softmax", -1, "resizing"),
    "resized by an operation": (
        lambda: images(maps(), lambda x: ops.image.resize(x, (7, 7)), softmax()),
        "softmax",
        -1,
        True,
    ),
    "TimeDistributed Dense": (lambda: steps(layers.TimeDistributed(scores())), "logits", -1, True),
    "TimeDistributed softmax": (
        lambda: steps(layers.TimeDistributed(scores("softmax", use_bias=False))),
        "softmax",
        -1,
        True,
    ),
    "TimeDistributed model": (lambda: steps(layers.TimeDistributed(inner())), "logits", -1, True),
    "TimeDistributed softmax model": (lambda: steps(layers.TimeDistributed(inner("softmax"))), "softmax", -1, True),
    "EinsumDense": (
        lambda: rows(layers.EinsumDense("bd,dc->bc", CLASSES, bias_axes="c", activation="softmax")),
        "softmax",
        -1,
        True,
    ),
    "EinsumDense without bias": (lambda: rows(layers.EinsumDense("bd,dc->bc", CLASSES)), "logits", -1, "no bias"),
    "Conv2DTranspose": (
        lambda: images(layers.Conv2DTranspose(CLASSES, 2, strides=2, activation="softmax")),
        "softmax",
        -1,
        True,
    ),
    "SeparableConv2D": (
        lambda: images(layers.SeparableConv2D(CLASSES, 3, use_bias=False, activation="softmax")),
        "softmax",
        -1,
        True,
    ),
    "SpectralNormalization": (
        lambda: rows(layers.SpectralNormalization(scores(use_bias=False)), softmax()),
        "softmax",
        -1,
        True,
    ),
    "SpectralNormalization of a softmax": (
        lambda: rows(layers.SpectralNormalization(scores("softmax"))),
        "softmax",
        -1,
        True,
    ),
    "permuted": (lambda: images(maps(), layers.Permute((3, 1, 2)), softmax(axis=1)), "softmax", 1, True),
    "permuted, logits": (lambda: images(maps(), layers.Permute((3, 1, 2))), "logits", 1, True),
    "transposed by an operation": (
        lambda: images(maps(), lambda x: ops.transpose(x, (0, 3, 1, 2)), softmax(axis=1)),
        "softmax",
        1,
        True,
    ),
    "moved to the end": (
        lambda: images(maps(data_format="channels_first"), lambda x: ops.moveaxis(x, 1, -1), softmax()),
        "softmax",
        -1,
        True,
    ),
    "channels first": (lambda: images(maps(data_format="channels_first")), "logits", 1, True),
    "channels first, softmax": (
        lambda: images(maps(data_format="channels_first"), softmax(axis=1)),
        "softmax",
        1,
        True,
    ),
    "channels first, pooled": (
        lambda: images(
            maps(data_format="channels_first"), layers.GlobalAveragePooling2D(data_format="channels_first"), softmax()
        ),
        "softmax",
        -1,
        True,
    ),
    "the last step": (lambda: steps(scores(), lambda x: x[:, -1], softmax()), "softmax", -1, True),
    "the last step of softmaxes": (lambda: steps(scores("softmax"), lambda x: x[:, -1, :]), "softmax", -1, True),
    "cropped steps": (lambda: steps(scores(), layers.Cropping1D(1)), "logits", -1, True),
    "average of heads": (lambda: average_of_heads(None), "logits", -1, "average"),
    "average of heads, softmax": (lambda: average_of_heads(None, softmax()), "softmax", -1, "average"),
    "average of softmaxes": (lambda: average_of_heads("softmax"), "softmax", -1, "average"),
    "sum of heads": (lambda: rows(sum_of_heads, softmax()), "softmax", -1, "add"),
    "an unknown layer before softmax": (
        lambda: rows(scores(), layers.LayerNormalization(name="norm"), softmax()),
        "softmax",
        -1,
        "norm",
    ),
    "an activation before softmax": (
        lambda: rows(scores("tanh", name="squashed"), softmax()),
        "softmax",
        -1,
        "squashed",
    ),
    "softmax in a model of its own": (
        lambda: rows(scores(), keras.Sequential([keras.Input((CLASSES,)), softmax()])),
        "softmax",
        -1,
        True,
    ),
    "int8 logits": (lambda: quantized(None), "logits", -1, "quantized"),
    "int8 softmax": (lambda: quantized("softmax"), "softmax", -1, "quantized"),
    "int8 sigmoid": (lambda: quantized("sigmoid"), "sigmoid", -1, "quantized"),
}

# The families of `keras.applications`: the smallest constructor of each and the smallest images that it takes.
FAMILIES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "VGG19": 32,
    "Xception": 71,
}


def family(name, activation):
    """A model of `keras.applications` with random weights."""
    create, size = getattr(keras.applications, name), FAMILIES[name]
    return create(weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=activation)
