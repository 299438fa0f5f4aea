"""`DeferredReweighting`: whole trajectories by hand, the same runs with the weights built in, and runs that resume."""

import re

import keras
import numpy as np
import pytest
import reference

import keras_logit_adjust as kla

BACKEND = keras.backend.backend()
GRAPH = {"jit_compile": BACKEND == "jax"}  # compiled, but TensorFlow's not by XLA: the stages compile many times
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
LABELS = {"ids": (IDS, ONE_HOT), "one-hot": (ONE_HOT, ONE_HOT), "soft": (SOFT, SOFT)}


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


def labels_by_hand(targets, bias, weights):
    """The mean over labels of `w_l` times each label's cost, with π of 20, 50 and 90 % at τ = ½."""
    scores = bias + 0.5 * np.log([20 / 80, 50 / 50, 90 / 10])
    costs = [reference.sigmoid_crossentropy([t], [g]) for t, g in zip(targets, scores, strict=True)]
    gradient = np.array([gradient[0] for _, gradient in costs])
    return np.dot(weights, [value for value, _ in costs]) / 3, weights * gradient / 3


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
    model.compile(keras.optimizers.SGD(RATE), loss, **(options or GRAPH))
    return model


def fit(model, labels, stages, epochs=7, callbacks=(), **options):
    """The biases after each epoch, and the history."""
    biases, options = Biases(), {"batch_size": len(labels), **options}
    callbacks = [kla.callbacks.DeferredReweighting(stages), biases, *callbacks]
    history = model.fit(
        zeros(len(labels)), labels, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks, **options
    )
    return np.array(biases.seen), history.history


def warned_fit(*args, **options):
    with pytest.warns(UserWarning, match="An adjusted loss needs no weights"):
        return fit(*args, **options)


def check_run(loss, labels, targets, by_hand):
    """Fit over STAGES: biases, losses, validation losses and what is left afterwards, all by hand."""
    model = bias_only(loss)
    biases, history = fit(model, labels, STAGES, validation_data=(zeros(len(labels)), labels))
    expected = trajectory(by_hand, [targets], WEIGHTS)
    before = [np.zeros(3), *expected[:-1]]
    losses = [mean(by_hand, targets, *state)[0] for state in zip(before, WEIGHTS, strict=True)]
    val_losses = [mean(by_hand, targets, *state)[0] for state in zip(expected, WEIGHTS, strict=True)]
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], val_losses, rtol=1e-5)
    assert loss.stage_weight is None
    after = model.evaluate(zeros(len(labels)), labels, batch_size=len(labels), verbose=0)
    np.testing.assert_allclose(after, mean(by_hand, targets, expected[-1], ONES)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "labels", "smoothing"),
    [
        ("adjusted", "ids", 0.0),
        ("adjusted", "one-hot", 0.0),
        ("adjusted", "ids", 0.3),
        ("adjusted", "soft", 0.3),
        ("pairwise", "ids", 0.0),
        ("focal", "soft", 0.0),
        ("weighted focal", "ids", 0.3),
    ],
)
def test_weights_hold_from_their_epoch_to_the_next_and_the_last_ones_stay(name, labels, smoothing):
    (make, by_hand), (labels, targets) = LOSSES[name], LABELS[labels]
    check_run(make(label_smoothing=smoothing), labels, (1 - smoothing) * targets + smoothing / 3, by_hand)


def test_the_weights_of_independent_labels_weigh_each_label():
    targets = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
    loss = kla.losses.BinaryLogitAdjustedCrossentropy([20, 50, 90], 100, tau=0.5)
    check_run(loss, targets, targets, labels_by_hand)


COMPILED = {
    "tensorflow": [{"jit_compile": True}, {"run_eagerly": True}, {"jit_compile": False, "steps_per_execution": 2}],
    "jax": [{"run_eagerly": True}, {"jit_compile": True, "steps_per_execution": 2}],
    "torch": [{"run_eagerly": True}],
}[BACKEND]


@pytest.mark.parametrize("options", [GRAPH, *COMPILED], ids=str)
def test_a_step_has_the_weights_of_its_epoch_however_it_is_compiled(options):
    make, by_hand = LOSSES["adjusted"]
    biases, _ = fit(bias_only(make(), **options), IDS, STAGES, epochs=5, batch_size=3)
    expected = trajectory(by_hand, [ONE_HOT[:3], ONE_HOT[3:]], WEIGHTS[:5])
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)


def test_training_that_stops_early_leaves_the_loss_as_it_was():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    make, by_hand = LOSSES["adjusted"]
    model = bias_only(make())
    biases, _ = fit(model, IDS, STAGES, callbacks=[Stop()])
    np.testing.assert_allclose(biases, trajectory(by_hand, [ONE_HOT], WEIGHTS[:3]), rtol=1e-5, atol=1e-6)
    assert model.loss.stage_weight is None
    after = mean(by_hand, ONE_HOT, biases[-1], ONES)[0]
    np.testing.assert_allclose(model.evaluate(zeros(), IDS, verbose=0), after, rtol=1e-5)


@pytest.mark.parametrize(
    ("tau", "by_hand", "weights", "run"),
    [
        (0.5, adjusted_by_hand, EARLY, fit),
        (1.0, consistent_by_hand, EARLY, warned_fit),
        (1.0, consistent_by_hand, 2 * ONES, fit),
    ],
    ids=["not consistent", "consistent", "consistent, weights all equal"],
)
def test_an_interrupted_model_that_is_trained_anew_begins_without_weights(tau, by_hand, weights, run):
    model = bias_only(kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=tau))
    with pytest.raises(RuntimeError, match="power cut"):
        run(model, IDS, {1: weights}, callbacks=[Interrupt(2)])
    model.layers[-1].bias.assign(np.zeros(3))
    biases, _ = run(model, IDS, {1: weights}, epochs=3)
    np.testing.assert_allclose(biases, trajectory(by_hand, [ONE_HOT], [ONES, weights, weights]), rtol=1e-5, atol=1e-6)


BUILT_IN = {
    "adjusted": (
        lambda: kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5),
        lambda: kla.losses.PairwiseMarginCrossentropy(
            COUNTS, class_weight=LATE, label_margin=-0.5 * LOG_PRIOR, rival_margin=0.5 * LOG_PRIOR
        ),
    ),
    "adaptive": (
        lambda: kla.losses.AdaptiveMarginCrossentropy(COUNTS, max_margin=2.0),
        lambda: kla.losses.PairwiseMarginCrossentropy(
            COUNTS, class_weight=LATE, label_margin=2.0 * (1 / np.array(COUNTS)) ** 0.25
        ),
    ),
    "focal": (
        lambda: kla.losses.FocalCrossentropy(gamma=1.5),
        lambda: kla.losses.FocalCrossentropy(gamma=1.5, class_weight=LATE),
    ),
    "Keras's own": 2 * (lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),),
}


def network(loss, outputs=1):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh")(inputs)
    heads = [keras.layers.Dense(3, name=f"head_{i}")(hidden) for i in range(outputs)]
    model = keras.Model(inputs, heads if outputs > 1 else heads[0])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **GRAPH)
    return model


def data(rng):
    return rng.normal(size=(24, 4)).astype("float32"), rng.integers(0, 3, 24)


def train(model, x, y, stages, callbacks=(), **options):
    callbacks = [*callbacks] if stages is None else [kla.callbacks.DeferredReweighting(stages), *callbacks]
    options = {"epochs": 6, "batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, callbacks=callbacks, **options).history


def check_equal_weights(model, other):
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adjusted", "adaptive"])
def test_weights_from_the_first_epoch_on_equal_weights_built_into_the_loss(name, rng):
    x, y = data(rng)
    staged, weighted = (network(make()) for make in BUILT_IN[name])
    weighted.set_weights(staged.get_weights())
    options = {"epochs": 2, "validation_data": (x[:5], y[:5])}
    history = train(staged, x, y, {0: LATE}, **options)
    expected = train(weighted, x, y, None, **options)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-5)
    check_equal_weights(staged, weighted)


def named(parts):
    return {f"head_{i}": part for i, part in enumerate(parts)}


@pytest.mark.parametrize(
    ("pack", "names"), [(list, ("adjusted", "focal")), (named, ("Keras's own", "adaptive"))], ids=["list", "dict"]
)
def test_every_loss_of_several_outputs_is_weighed_but_keras_s_own(pack, names, rng):
    x, y = data(rng)
    staged, weighted = (network(pack(BUILT_IN[name][i]() for name in names), outputs=2) for i in range(2))
    weighted.set_weights(staged.get_weights())
    train(staged, x, pack([y, y[::-1]]), {0: LATE}, epochs=2)
    train(weighted, x, pack([y, y[::-1]]), None, epochs=2)
    check_equal_weights(staged, weighted)


def uninterrupted(x, y):
    """A fresh model, and what it is after six epochs."""
    model, done = (network(BUILT_IN["adaptive"][0]()) for _ in range(2))
    done.set_weights(model.get_weights())
    train(done, x, y, STAGES)
    return model, done


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_run_from_a_saved_model_ends_where_an_uninterrupted_one_does(epoch, rng, tmp_path):
    x, y = data(rng)
    model, done = uninterrupted(x, y)
    train(model, x, y, STAGES, epochs=epoch)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    train(loaded, x, y, STAGES, initial_epoch=epoch)
    check_equal_weights(loaded, done)


@pytest.mark.parametrize(("epoch", "fresh"), [(2, True), (5, False)])
def test_a_run_restored_from_its_backup_ends_as_an_uninterrupted_one(epoch, fresh, rng, tmp_path):
    x, y = data(rng)
    model, done = uninterrupted(x, y)
    with pytest.raises(RuntimeError, match="power cut"):
        train(model, x, y, STAGES, [keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt(epoch)])
    resumed = network(BUILT_IN["adaptive"][0]()) if fresh else model
    begun = []
    follow = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    train(resumed, x, y, STAGES, [keras.callbacks.BackupAndRestore(tmp_path / "backup"), follow])
    assert begun == list(range(epoch, 6))
    check_equal_weights(resumed, done)


@pytest.mark.parametrize("name", ["adjusted", "weighted focal"])
def test_a_model_saved_within_a_stage_is_loaded_without_its_weights(name, tmp_path):
    make, by_hand = LOSSES[name]
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    biases, _ = fit(bias_only(make()), IDS, STAGES, epochs=2, callbacks=[save])
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert loaded.loss.get_config() == make().get_config()
    assert loaded.loss.stage_weight is None
    expected = mean(by_hand, ONE_HOT, biases[1], ONES)[0]
    np.testing.assert_allclose(loaded.evaluate(zeros(), IDS, verbose=0), expected, rtol=1e-5)


def test_weights_that_undo_consistency_warn_with_the_reason_and_hold():
    # The weighed loss overrates class b against a by w_b/w_a: by 5 for (0, 2), less for other pairs.
    reason = "Classes 0 and 2 fail Lemma 2: the minimizer prefers class 2 until P(x|0) is 5 times P(x|2)."
    message = f"'mine' is Fisher consistent.*with the weights of `Def.*{re.escape(reason)} An adjusted loss needs no"
    model = bias_only(kla.losses.LogitAdjustedCrossentropy(COUNTS, name="mine"))
    with pytest.warns(UserWarning, match=message):
        biases, _ = fit(model, IDS, {1: EARLY}, epochs=2)
    expected = trajectory(consistent_by_hand, [ONE_HOT], [ONES, EARLY])
    np.testing.assert_allclose(biases, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (kla.losses.LogitAdjustedCrossentropy(COUNTS), 2 * ONES),
        (kla.losses.LogitAdjustedCrossentropy(COUNTS), None),
        (kla.losses.AdaptiveMarginCrossentropy(COUNTS), EARLY),
        (kla.losses.FocalCrossentropy(), EARLY),
    ],
    ids=["all equal", "none", "adaptive", "focal"],
)
def test_weights_that_undo_nothing_do_not_warn(loss, weights):
    callback = kla.callbacks.DeferredReweighting({1: weights})
    callback.set_model(bias_only(loss))
    callback.on_train_begin()


def test_an_epoch_has_the_weights_of_the_last_stage_that_began():
    callback = kla.callbacks.DeferredReweighting({np.int64(4): LATE, 1: EARLY, 3: None})
    found = [callback.weights_at(epoch) for epoch in (*range(6), 10**6)]
    for weights, expected in zip(found, WEIGHTS, strict=True):
        np.testing.assert_array_equal(ONES if weights is None else weights, expected)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, r"`stages` must map epochs to class weights, \{160: weights\}. Received: \{\}"),
        (None, r"`stages` must map epochs to class weights, \{160: weights\}. Received: None"),
        ([(1, EARLY)], r"`stages` must map epochs to class weights, .* Received: \[\(1"),
        ({-1: EARLY}, "`epoch` must be an integer of at least 0. Received: epoch=-1"),
        ({1.5: EARLY}, r"`epoch` must be an integer of at least 0. Received: epoch=1\.5"),
        ({True: EARLY}, "`epoch` must be an integer of at least 0. Received: epoch=True"),
        ({0: EARLY, "1": EARLY}, "`epoch` must be an integer of at least 0. Received: epoch='1'"),
        ({1: [1, 0, 2]}, r"`weights` must be greater than zero. Received \[0\.0\] at class 1"),
        ({1: EARLY, 2: [-1, 1, -2]}, r"`weights` must be greater than zero. Received \[-1\.0, -2\.0\] at classes 0, 2"),
        ({1: [1, 1, np.nan]}, r"`weights` must be finite. Received \[nan\] at class 2"),
        ({1: [1, np.inf, 1]}, r"`weights` must be finite. Received \[inf\] at class 1"),
        ({1: []}, r"`weights` must be a non-empty vector.*shape \(0,\)"),
        ({1: 2.0}, r"`weights` must be a non-empty vector.*shape \(\)"),
        ({1: "many"}, "`weights` must be a list or vector of numbers.*weights='many'"),
    ],
)
def test_stages_that_are_no_weights_of_epochs_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        kla.callbacks.DeferredReweighting(stages)


@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.LogitAdjustedCrossentropy(COUNTS, name="mine"),
        kla.losses.AdaptiveMarginCrossentropy(COUNTS, name="mine"),
        kla.losses.FocalCrossentropy(class_weight=ALPHA, name="mine"),
        kla.losses.BinaryLogitAdjustedCrossentropy([20, 50, 90], 100, name="mine"),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("weights", [[1.0, 2.0], [2.0]], ids=len)
def test_weights_of_other_classes_than_the_loss_s_are_refused(weights, loss):
    with pytest.raises(ValueError, match=f"loss 'mine' has 3 classes, `weights` has {len(weights)}"):
        fit(bias_only(loss), ONE_HOT, {5: weights})


@pytest.mark.parametrize("weights", [[1.0, 2.0], [2.0], [1.0, 2.0, 3.0, 4.0]], ids=len)
def test_weights_of_other_classes_than_the_logits_are_refused(weights):
    with pytest.raises(ValueError, match=r"one (number|column) for each class"):
        fit(bias_only(kla.losses.FocalCrossentropy()), IDS, {0: weights}, epochs=1)


@pytest.mark.parametrize("loss", ["mse", keras.losses.CategoricalCrossentropy(from_logits=True), ["mse"]])
def test_a_model_of_keras_s_own_losses_is_told_of_class_weight(loss):
    with pytest.raises(
        ValueError, match=r"weighs the losses of `kla.losses`; model '.*' .*use `fit\(class_weight=…\)`"
    ):
        fit(bias_only(loss), ONE_HOT, STAGES)
