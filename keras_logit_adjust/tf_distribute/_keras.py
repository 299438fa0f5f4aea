"""Private names of Keras and TensorFlow that training with a strategy needs, each with the reason.

Keras 3's own `fit` cannot train on several workers, with an uneven first batch, or from the middle of an epoch. The
loop here can, and it calls the same steps of the model. A test says what a new version of Keras changed.
"""

import keras

from keras_logit_adjust._keras import layers_of

# name → required parameters; None for an attribute
MODEL_INTERNALS = {
    "_distribute_strategy": None,
    "_symbolic_build": ("data_batch",),
    "train_step": ("data",),
    "test_step": ("data",),
    "predict_step": ("data",),
    "make_train_function": ("force",),
    "train_function": None,
    "stop_training": None,
    "stop_evaluating": None,
    "stop_predicting": None,
}
OPTIMIZER_INTERNALS = {"_distribution_strategy": None}


def strategy_of(model):
    """The strategy in whose scope a model was made; None without a scope, which the public name does not show."""
    return model._distribute_strategy


def strategy_of_optimizer(optimizer):
    """The strategy in whose scope an optimizer was made; no public name gives it."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the optimizer inside a `LossScaleOptimizer`
    return optimizer._distribution_strategy


def build(model, strategy, batch):
    """Make all variables of a model, its optimizer, losses and metrics under the strategy, from a batch's shapes.

    Keras's own `fit` reduces a distributed batch for this, which fails with several workers or an uneven first batch.
    """
    with strategy.scope():
        model._symbolic_build(data_batch=batch)


def batch_norms(model):
    """The layers of a model that normalize by the examples of each replica alone."""
    return [
        layer
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized
    ]


def convolutions(model):
    """The convolutions of a model: on a CPU, TensorFlow cannot apply them to a batch without examples."""
    return [layer for layer in layers_of(model) if "Conv" in type(layer).__name__]


def train_version(model):
    """An object that changes whenever Keras is asked to trace the training step again."""
    model.make_train_function()
    return model.train_function


def local_spec(spec):
    """The spec of one replica's part of an element; TensorFlow's `PerReplicaSpec` has no public name for it."""
    return getattr(spec, "_value_specs", (spec,))[0]
