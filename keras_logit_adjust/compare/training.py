"""Training one model of a comparison: data in, logits on the held-out sets out."""

import time

import keras
import numpy as np

from keras_logit_adjust.compare import feeding, methods, recipes
from keras_logit_adjust.posthoc import weight_norm

RETRAINING_EPOCHS = 10  # of the head alone, where a method asks for it


class _Advance(keras.callbacks.Callback):
    """Moves the progress bar by one epoch."""

    def __init__(self, bar):
        super().__init__()
        self.bar = bar

    def on_epoch_end(self, epoch, logs=None):
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self.bar.update()


def epochs_of(method, recipe):
    """Epochs that training a method takes in all."""
    return recipe.epochs + min(RETRAINING_EPOCHS, recipe.epochs) * method.retrains_head


def train(config, recipe, method, dataset, bar, devices):
    """Train one model; returns the arrays to keep: logits, losses, and the weights of a dense head."""
    keras.utils.set_random_seed(dataset.seed)
    counts = dataset.class_counts
    (x, y), scale = dataset.train, Scaler(dataset.train[0])
    model_name = recipes.resolve_model(config.model, x.shape[1:])
    with devices.scope():
        model = recipes.build_model(model_name, x.shape[1:], counts.size, method.head(counts), recipe)
    start = time.perf_counter()
    training = feeding.Training(scale(x), y, recipe, counts.size, dataset.seed, method.strategy)
    losses = _fit(model, method, recipe, training, counts, bar, devices)
    if method.retrains_head:
        balanced = feeding.Training(scale(x), y, recipe, counts.size, dataset.seed, "balanced")
        losses += _retrain_head(model, recipe, balanced, counts, bar, devices)
    seconds = time.perf_counter() - start
    if not np.isfinite(losses[-1]):
        raise ValueError(f"Training diverged: the loss of {method.title!r} is not finite. Lower the learning rate.")
    kept = {"test_logits": devices.predict(model, scale(dataset.test[0]))}
    if dataset.validation is not None:
        kept["validation_logits"] = devices.predict(model, scale(dataset.validation[0]))
    kept = {name: logits.astype("float32") for name, logits in kept.items()}
    return {**kept, **_head_weights(model.layers[-1]), "loss": np.array(losses), "seconds": np.array(seconds)}


def _fit(model, method, recipe, training, counts, bar, devices):
    options = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
    with devices.scope():
        # A loss is adjusted to what the model sees, not to what there is: never twice.
        model.compile(recipe.optimizer(), method.loss(training.sampler or counts, **options))
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: recipe.rate(epoch))
    return devices.fit(
        model,
        training,
        epochs=recipe.epochs,
        class_weight=method.class_weight and method.class_weight(counts),
        callbacks=[rate, *method.callbacks(counts, recipe.epochs), _Advance(bar)],
    )


def _retrain_head(model, recipe, training, counts, bar, devices):
    """A new head on frozen features, trained on class-balanced batches (Kang et al., 2020)."""
    head = model.layers[-1]
    for layer in model.layers[:-1]:
        layer.trainable = False
    fresh = type(head).from_config(head.get_config())
    fresh.build(head.input.shape)
    head.set_weights(fresh.get_weights())
    epochs = min(RETRAINING_EPOCHS, recipe.epochs)
    options = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
    with devices.scope():
        model.compile(recipe.optimizer(), methods.cross_entropy(counts, **options))
    scaled = recipes.stretch(recipe, epochs)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: scaled.rate(epoch))
    return devices.fit(model, training, epochs=epochs, callbacks=[rate, _Advance(bar)])


def _head_weights(head):
    """What weight normalization needs to know of a dense head."""
    if not isinstance(head, keras.layers.Dense):
        return {}
    bias = keras.ops.convert_to_numpy(head.bias) if head.use_bias else np.zeros(head.units)
    return {"class_norms": weight_norm.class_norms(head), "bias": bias.astype("float64")}


class Scaler:
    """What the training set says of the units: columns of features go to mean 0 and deviation 1, images to [0, 255]."""

    def __init__(self, x):
        if x.ndim == 2:
            self.shift, self.unit = x.mean(axis=0, dtype="float64"), x.std(axis=0, dtype="float64")
        elif x.dtype == "uint8":
            self.shift, self.unit = 0.0, 1.0
        else:
            self.shift, self.unit = float(x.min()), (float(x.max()) - float(x.min())) / 255
        # What is constant in training stays in its own unit: it must not explode where a test example differs.
        self.unit = np.where(self.unit > 1e-9 * (1 + np.abs(self.shift)), self.unit, 1.0)

    def __call__(self, x):
        return x if x.dtype == "uint8" and x.ndim > 2 else ((x - self.shift) / self.unit).astype("float32")
