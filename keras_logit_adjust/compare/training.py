"""Training of one model of a comparison: from data to logits of the held-out sets."""

import functools

import keras
import numpy as np

from keras_logit_adjust.compare import feeding, methods, probing, recipes
from keras_logit_adjust.compare.methods import METHODS
from keras_logit_adjust.compare.records import Run
from keras_logit_adjust.posthoc import weight_norm

RETRAINING_EPOCHS = 10  # for the head alone, if a method trains it again
_NEXT_STAGE = 1 << 20  # difference of the seeds of two stages


def _telling(on_epoch):
    """A callback that reports each epoch."""
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(float(logs["loss"])))


def epochs_of(method, recipe):
    """The number of epochs of a method's training in total."""
    return recipe.epochs + min(RETRAINING_EPOCHS, recipe.epochs) * method.retrains_head


def train(name, dataset, *, scale, config, recipe, devices, on_epoch, place):
    """Train the model of the row `name` on examples that `scale` converts to its units; returns a `Run`.

    It goes on from `place`, a `Place`, keeps that up to date, and calls `on_epoch` with the loss of each epoch.
    """
    if config.recipe == "linear_probe":
        return probing.train(name, dataset, on_epoch=on_epoch)
    keras.utils.set_random_seed(dataset.seed)
    method, counts = METHODS[name], dataset.class_counts
    x, y = dataset.train
    shape = {"example_shape": x.shape[1:], "num_classes": counts.size}
    with devices.scope():
        model = recipes.build_model(
            recipes.resolve_model(config.model, x.shape[1:]), method.head(counts), recipe=recipe, **shape
        )
    own = {"recipe": recipe, "num_classes": counts.size, "seed": dataset.seed}
    training = feeding.Training(scale(x), y, strategy=method.strategy, **own)
    if place.stage == 0:
        _fit(
            model,
            training,
            # A loss is adjusted to the mix that the model sees, not to the data set: so the prior is corrected once.
            loss=functools.partial(method.loss, training.sampler or counts),
            class_weight=method.class_weight and method.class_weight(counts),
            callbacks=[*method.callbacks(counts, recipe.epochs), _telling(on_epoch)],
            devices=devices,
            place=place,
        )
    if method.retrains_head:
        own["recipe"] = recipes.stretch(recipe, min(RETRAINING_EPOCHS, recipe.epochs))
        balanced = feeding.Training(training.x, y, strategy="balanced", **own)
        _retrain_head(model, balanced, class_counts=counts, devices=devices, on_epoch=on_epoch, place=place)
    seconds = place.seconds
    if not np.isfinite(place.losses[-1]):
        raise ValueError(
            f"Training diverged: the loss of {method.title!r} is not finite. The labels are class ids, so the model is "
            "the cause: lower the learning rate, or see 'A loss or metric of NaN' in the page on pitfalls."
        )
    logits = {
        f"{part}_logits": devices.predict(model, scale(examples[0])).astype("float32")
        for part, examples in (("test", dataset.test), ("validation", dataset.validation), ("train", dataset.train))
        if examples is not None
    }
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise ValueError(
            f"The logits of {method.title!r} are not finite. Lower the learning rate, or choose "
            f"another `precision` than {config.precision!r}."
        )
    return Run(
        method=name,
        seed=dataset.seed,
        split_hash=dataset.split_hash,
        loss=np.array(place.losses),
        seconds=seconds,
        weight_penalty=np.array(place.penalties),
        train_labels=y,
        **logits,
        **_head_weights(model.layers[-1]),
    )


def _fit(model, training, *, loss, devices, callbacks, place, stage=0, class_weight=None):
    """Compile and train by the recipe of `training`, from `place` on."""
    recipe = training.recipe
    options = {"label_smoothing": recipe.label_smoothing} if recipe.label_smoothing else {}
    with devices.scope():
        model.compile(recipe.optimizer(), loss(**options))
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: recipe.rate(epoch))
    devices.fit(
        model,
        training,
        initial_epoch=place.enter(stage, model),
        epochs=recipe.epochs,
        class_weight=class_weight,
        # `place` comes before the callback that reports: a reported epoch is saved already.
        callbacks=[_Reseeding(training.seed, stage), rate, place.follow(model, epochs=recipe.epochs), *callbacks],
    )


class _Reseeding(keras.callbacks.Callback):
    """Seeds the backend's own random numbers by (seed, stage, epoch): torch's dropout uses them."""

    def __init__(self, seed, stage):
        super().__init__()
        self.seed, self.stage, self.epoch = seed, stage, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:  # not earlier: torch's data loader draws a number when it starts
            numbers = np.random.SeedSequence((self.seed, self.stage + 1, self.epoch))
            keras.utils.set_random_seed(int(numbers.generate_state(1)[0]))


def _retrain_head(model, training, *, class_counts, devices, on_epoch, place):
    """A new head on frozen features, trained on class-balanced batches (Kang et al., 2020)."""
    keras.utils.set_random_seed(training.seed + _NEXT_STAGE)  # independent of all draws before
    head = model.layers[-1]
    for layer in model.layers[:-1]:
        layer.trainable = False
    fresh = type(head).from_config(head.get_config())
    fresh.build(head.input.shape)
    head.set_weights(fresh.get_weights())
    loss = functools.partial(methods.cross_entropy, class_counts)
    _fit(model, training, loss=loss, callbacks=[_telling(on_epoch)], devices=devices, place=place, stage=1)


def _head_weights(head):
    """The numbers of a dense head that weight normalization needs."""
    if not isinstance(head, keras.layers.Dense):
        return {}
    bias = keras.ops.convert_to_numpy(head.bias) if head.use_bias else np.zeros(head.units)
    return {"class_norms": weight_norm.class_norms(head), "bias": bias.astype("float64")}
