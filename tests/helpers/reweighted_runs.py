"""Runs of `DeferredReweighting` on a model whose bias alone is trained, and what they must be, by hand."""

import keras
import numpy as np
import reference

import keras_logit_adjust as kla

EAGER = {"run_eagerly": True}  # each stage compiles a step anew, which `test_callbacks` tries on one loss
COUNTS = [90, 9, 1]
LOG_PRIOR = np.log(np.array(COUNTS) / 100)
ONES, EARLY, LATE = np.ones(3), np.array([1.0, 2.0, 5.0]), np.array([0.5, 3.0, 1.5])
STAGES = {1: EARLY, 3: None, 4: LATE}
WEIGHTS = [ONES, EARLY, EARLY, ONES, LATE, LATE, LATE]  # of each epoch under STAGES
RATE = 0.5
ALPHA, MARGIN, RIVAL, SCALE = map(np.array, ([1.0, 0.5, 2.0], [0.2, -0.4, 1.0], [0.3, 0.0, -0.7], [1.0, 0.8, 1.3]))

IDS = np.array([0, 1, 2, 0, 1, 0])
ONE_HOT = np.eye(3)[IDS]
SOFT = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7], [0.8, 0.2, 0.0], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])


def adjusted_by_hand(targets, bias, weights, tau=0.5):
    margin = tau * (LOG_PRIOR[None, :] - LOG_PRIOR[:, None])
    return reference.pairwise_crossentropy(targets, bias, weights, margin, ONES)


def consistent_by_hand(targets, bias, weights):
    return adjusted_by_hand(targets, bias, weights, tau=1.0)


def pairwise_by_hand(targets, bias, weights):
    return reference.pairwise_crossentropy(targets, bias, weights * ALPHA, MARGIN[:, None] + RIVAL[None, :], SCALE)


def focal_by_hand(targets, bias, weights):
    return reference.focal_crossentropy(targets, bias, 2.0, weights)


def weighted_focal_by_hand(targets, bias, weights):
    return reference.focal_crossentropy(targets, bias, 2.0, weights * ALPHA)


LABELS = {"ids": (IDS, ONE_HOT), "one-hot": (ONE_HOT, ONE_HOT), "soft": (SOFT, SOFT)}


LOSSES = {
    "adjusted": (lambda **options: kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5, **options), adjusted_by_hand),
    "pairwise": (
        lambda **options: kla.losses.PairwiseMarginCrossentropy(
            COUNTS, class_weight=ALPHA, label_margin=MARGIN, rival_margin=RIVAL, logit_scale=SCALE, **options
        ),
        pairwise_by_hand,
    ),
    "focal": (lambda **options: kla.losses.FocalCrossentropy(gamma=2.0, **options), focal_by_hand),
    "weighted focal": (
        lambda **options: kla.losses.FocalCrossentropy(2.0, class_weight=ALPHA, **options),
        weighted_focal_by_hand,
    ),
}


def mean(by_hand, targets, bias, weights):
    """Loss and gradient of rows of targets that all have the bias for logits."""
    values, gradients = zip(*(by_hand(row, bias, weights) for row in targets), strict=True)
    return np.mean(values), np.mean(gradients, axis=0)


def trajectory(by_hand, batches, weights):
    """The bias after each epoch of gradient descent over batches of targets, from zeros."""
    biases, bias = [], np.zeros(3)
    for stage in weights:
        for targets in batches:
            bias = bias - RATE * mean(by_hand, targets, bias, stage)[1]
        biases.append(bias)
    return np.array(biases)


class Biases(keras.callbacks.Callback):
    """The bias after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(keras.ops.convert_to_numpy(self.model.layers[-1].bias).astype("float64"))


class Interrupt(keras.callbacks.Callback):
    """An error in the first batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            raise RuntimeError("power cut")


def zeros(number=6):
    """Inputs under which nothing but the bias is trained, and every example has the same logits."""
    return np.zeros((number, 1), "float32")


def bias_only(loss, **options):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(RATE), loss, **(options or EAGER))
    return model


def fit(model, labels, stages, epochs=7, callbacks=(), **options):
    """The biases after each epoch, and the history."""
    biases, options = Biases(), {"batch_size": len(labels), **options}
    callbacks = [kla.callbacks.DeferredReweighting(stages), biases, *callbacks]
    history = model.fit(
        zeros(len(labels)), labels, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **options
    )
    return np.array(biases.seen), history.history
