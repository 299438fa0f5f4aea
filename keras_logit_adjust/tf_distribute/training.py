"""`fit`, `evaluate` and `predict` under any strategy of `tf.distribute`, with the results of one device."""

import contextlib
import copy
import functools
import pathlib
import tempfile
import warnings

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust._printing import say
from keras_logit_adjust.callbacks import SamplerBackup
from keras_logit_adjust.losses import _base
from keras_logit_adjust.tf_distribute import _backup, _cluster, _data, _keras, _loop, _steps
from keras_logit_adjust.tf_distribute._feed import Feed

_CHIEF_ONLY = (keras.callbacks.CSVLogger, keras.callbacks.TensorBoard, SamplerBackup)


def fit(
    model,
    dataset,
    *,
    epochs=1,
    steps_per_epoch=None,
    validation_data=None,
    validation_steps=None,
    validation_freq=1,
    callbacks=None,
    class_weight=None,
    initial_epoch=0,
    verbose="auto",
    sampler=None,
    backup_dir=None,
    save_freq="epoch",
):
    """Train a compiled model as `model.fit` does, under any strategy: one device, mirrored, or several workers.

    The batches of the dataset are cut over the replicas. Weights, losses and metrics are then those of one device, for
    every split of the last batch. This holds for losses of `kla.losses` (`tau=0` is plain cross-entropy) and layers
    that do not depend on the batch or on chance. Every worker calls `fit` with the same arguments.

    Keras's own `fit` fails with several workers and with an uneven first batch. It also fails with
    `steps_per_execution` and `jit_compile`. Here steps run one by one, and several replicas run without XLA. Batch
    normalization on a replica without examples gives NaN in Keras, and an error here. In Keras each replica evaluates
    with its own moving statistics, and those of the first are saved; here they are averaged. Keras cannot continue
    within an epoch.

    `backup_dir` keeps the last two checkpoints (weights, optimizer, metrics, history, place in the data). After an
    interruption the same call continues with the next batch. The result equals that of an undisturbed training if the
    dataset gives the same batches again, as a sampler's does, and operations are deterministic
    (`tf.config.experimental.enable_op_determinism()`). The state of callbacks is not kept.

    Callbacks run on every worker, with the same logs. `CSVLogger`, `TensorBoard` and `SamplerBackup` run on the chief
    alone. On the other workers `ModelCheckpoint` writes into a folder that is deleted. Your own callbacks can ask
    `kla.tf_distribute.is_chief()`. Logs of a batch are means over the replicas, and those of an epoch are exact.

    Args:
        model: made and compiled in the scope of its strategy.
        dataset: `tf.data.Dataset` of batches `(x, y)` or `(x, y, sample_weight)`, or a distributed one; with `sampler`
            a function from a sampler to one. Unless its options say otherwise, its batches are divided over the workers
            (`AutoShardPolicy.DATA`), never its files.
        epochs: number of the last epoch, from 1.
        steps_per_epoch: batches in an epoch; needed where the dataset is endless. The sampler's by default.
        validation_data: as `dataset`, evaluated after each epoch.
        validation_steps: batches of it, by default all.
        validation_freq: evaluate after every so many epochs, or after those in a list (from 1).
        callbacks: Keras callbacks.
        class_weight: `{class: weight}` or weights `[L]`, as in `model.fit`.
        initial_epoch: the epoch to begin with.
        verbose: as in `model.fit`; only the chief shows anything.
        sampler: the `LongTailSampler` that `dataset` draws with; a resumed training begins at its next batch.
        backup_dir: folder of checkpoints, on storage that all workers share.
        save_freq: "epoch", or a number of batches between checkpoints.

    Returns:
        The `keras.callbacks.History`, on every worker; of all epochs, those before an interruption too.

    Raises:
        ValueError: for a model that is not compiled or was made outside the scope; for data that is no dataset of
            batches; for a first batch with fewer examples than replicas; for a checkpoint of another model or sampler.
        FloatingPointError: where the loss is not finite, with the step and the classes of its batch.
        WorkerLostError: where another worker is gone.

    Example:

    >>> import numpy as np, tensorflow as tf, keras_logit_adjust as kla
    >>> labels = np.array([0, 0, 0, 1] * 8)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", kla.losses.LogitAdjustedCrossentropy([3, 1]))
    >>> batches = tf.data.Dataset.from_tensor_slices((np.eye(2)[labels], labels)).batch(5)
    >>> history = fit(model, batches, epochs=3, verbose=0)
    >>> len(history.history["loss"])
    3

    Reference: the constructions are this library's; `tf.distribute` in TensorFlow's guide "Distributed training".
    """
    strategy = _ready(model)
    _check_optimizer(model.optimizer, strategy)
    _checks.check_integer(epochs, "epochs", minimum=1)
    _checks.check_integer(initial_epoch, "initial_epoch", minimum=0)
    for number in validation_freq if isinstance(validation_freq, list) else [validation_freq]:
        _checks.check_integer(number, "validation_freq", minimum=1)
    names, weigh = ("dataset", "steps_per_epoch"), None
    if class_weight is not None:
        outputs = getattr(model, "outputs", None) or ()
        rank = len(outputs[0].shape) if len(outputs) == 1 else None
        weigh = functools.partial(_data.weigh_classes, class_weight=class_weight, rank=rank)
    feed = Feed(dataset, strategy, steps=steps_per_epoch, names=names, sampler=sampler, weigh=weigh)
    feed.check_fills_replicas()
    names = ("validation_data", "validation_steps")
    validation = (
        None if validation_data is None else Feed(validation_data, strategy, steps=validation_steps, names=names)
    )
    _warn_of_other_losses(model, feed)
    _keras.build(model, strategy, feed.first_batch)
    chief, place, backup = _cluster.is_chief(strategy), _backup.Place(epoch=initial_epoch), None
    if backup_dir is not None:
        backup = _backup.Backup(backup_dir, model, feed, save_freq=save_freq, sampler=sampler, is_writer=chief)
        if restored := backup.restore():
            place = restored
            _announce(place, epochs=epochs, backup_dir=backup_dir, is_shown=chief and verbose != 0)
    training = _loop.Training(
        model, feed, validation=validation, validation_freq=validation_freq, backup=backup, place=place
    )
    with _callbacks_here(callbacks, chief) as mine, _cluster.naming_a_lost_worker(strategy, place.__str__):
        training.run(_told(model, mine, feed, verbose=verbose, epochs=epochs, add_history=True), epochs)
    return model.history


def evaluate(model, dataset, *, steps=None, callbacks=None, verbose="auto"):
    """Loss and metrics of a compiled model over a dataset, under any strategy: `model.evaluate(return_dict=True)`.

    Args:
        model: as in `fit`.
        dataset: as in `fit`.
        steps: batches of it, by default all.
        callbacks: Keras callbacks.
        verbose: as in `model.evaluate`; only the chief shows anything.

    Returns:
        A dict of floats (arrays for metrics that are vectors), the same on every worker.

    Raises:
        ValueError: as `fit`.

    Example:

    >>> import numpy as np, tensorflow as tf, keras_logit_adjust as kla
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity")])
    >>> model.compile(loss=kla.losses.LogitAdjustedCrossentropy([3, 1]), metrics=[kla.metrics.BalancedAccuracy(2)])
    >>> batches = tf.data.Dataset.from_tensor_slices((np.eye(2), np.array([0, 1]))).batch(2)
    >>> evaluate(model, batches, verbose=0)["balanced_accuracy"]
    1.0
    """
    strategy = _ready(model)
    feed = Feed(dataset, strategy, steps=steps)
    _keras.build(model, strategy, feed.first_batch)
    step = _steps.mean_over_replicas(model, feed, model.test_step)
    with _cluster.naming_a_lost_worker(strategy, lambda: "in `evaluate`"):
        return _loop.run_evaluation(model, step, feed, callbacks=_told(model, callbacks, feed, verbose=verbose))


def predict(model, dataset, *, steps=None, callbacks=None, verbose="auto"):
    """Outputs of a model for a dataset, under any strategy: `model.predict`, in the order of the data.

    Args:
        model: as in `fit`; it need not be compiled.
        dataset: `tf.data.Dataset` of batches `x`, or `(x, …)` of which the rest is ignored.
        steps: batches of it, by default all.
        callbacks: Keras callbacks.
        verbose: as in `model.predict`; only the chief shows anything.

    Returns:
        An array `[N, …]` (or a structure of arrays), the same on every worker.

    Raises:
        ValueError: as `fit`.

    Example:

    >>> import numpy as np, tensorflow as tf
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="identity")])
    >>> predict(model, tf.data.Dataset.from_tensor_slices(np.eye(2)).batch(2), verbose=0).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    strategy = _ready(model, compiled=False)
    feed = Feed(dataset, strategy, steps=steps)
    step = _steps.rows_in_order(model, feed)
    with _cluster.naming_a_lost_worker(strategy, lambda: "in `predict`"):
        return _loop.run_prediction(model, step, feed, callbacks=_told(model, callbacks, feed, verbose=verbose))


def _told(model, callbacks, feed, *, verbose, epochs=1, **options):
    """The callbacks in Keras's container; only the chief shows progress."""
    shown = verbose if _cluster.is_chief(feed.strategy) else 0
    options |= {"model": model, "verbose": shown, "epochs": epochs, "steps": feed.steps}
    return keras.callbacks.CallbackList(callbacks, add_progbar=shown != 0, **options)


def _ready(model, *, compiled=True):
    """The strategy of a model, after a check of the model and the strategy."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`kla.tf_distribute` is for Keras's TensorFlow backend. "
            f"Received: backend {keras.backend.backend()!r}. On JAX set "
            "`keras.distribution.DataParallel` and call `model.fit`."
        )
    import tensorflow as tf

    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: {type(model).__name__}")
    if compiled and not model.compiled:
        raise ValueError("`model` must be compiled, in the scope of its strategy: `model.compile(optimizer, loss)`.")
    current, own = tf.distribute.get_strategy(), _keras.strategy_of(model)
    if tf.distribute.has_strategy() and own is not current:
        raise ValueError(
            "`model` must be made in the scope of the strategy that trains it: `with strategy.scope(): model = …`. "
            f"Received a model of {'no scope' if own is None else type(own).__name__}, in the scope of a "
            f"{type(current).__name__}."
        )
    strategy = own or current
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError("Keras 3 does not train with a ParameterServerStrategy. Use a MultiWorkerMirroredStrategy.")
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        _cluster.check_not_alone(strategy)
    if compiled and model.optimizer is not None and strategy is not _keras.strategy_of_optimizer(model.optimizer):
        raise ValueError(
            "The optimizer must be made in the scope of the model's strategy: call `model.compile` within "
            "`with strategy.scope():`."
        )
    return strategy


def _check_optimizer(optimizer, strategy):
    if optimizer is None:
        raise ValueError("`model` must be compiled with an optimizer. Received: optimizer=None")
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the optimizer inside a `LossScaleOptimizer`
    if strategy.num_replicas_in_sync > 1 and getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            "Keras's optimizers accumulate gradients on one device only. Received: gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps} for {strategy.num_replicas_in_sync} replicas. Remedy: leave it "
            "out, and make the batches larger."
        )


def _warn_of_other_losses(model, feed):
    """Warn if Keras's own mean of a loss would be wrong because a batch is uneven."""
    losses = keras.tree.flatten(model.loss)
    others = [loss for loss in losses if loss is not None and not isinstance(loss, _base.MaskedLoss)]
    if others and not feed.is_full and feed.strategy.num_replicas_in_sync > 1:
        warnings.warn(
            f"If the replicas get unequal shares of a batch, Keras averages {others[0]!r} wrongly. Use a loss of "
            "`kla.losses` (`LogitAdjustedCrossentropy(class_counts, tau=0)` is plain cross-entropy), or full batches: "
            "`.batch(…, drop_remainder=True)`, a `LongTailSampler`.",
            stacklevel=3,
        )


def _announce(place, *, epochs, backup_dir, is_shown):
    """Say that a training continues, or that it has already ended."""
    if place.epoch >= epochs or place.stopped:
        end = "ended by a callback" if place.stopped else "finished"
        more = "" if place.stopped else "raise `epochs` to continue, or "
        warnings.warn(
            f"{backup_dir} holds this training, {end} after {place.epoch} epochs: its weights are loaded, and nothing "
            f"is trained. Remedy: {more}remove the folder to start again.",
            stacklevel=3,
        )
    elif place.steps and is_shown:
        say(f"Continuing {place}, from the checkpoint in {backup_dir}.")


@contextlib.contextmanager
def _callbacks_here(callbacks, chief):
    """The callbacks of this worker. Only the chief writes files; other workers write to a folder that is deleted."""
    callbacks = keras.tree.flatten(callbacks) if callbacks else []
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise ValueError("`BackupAndRestore` knows neither workers nor the place in the data: give `backup_dir`.")
    if chief:
        yield callbacks
        return
    with tempfile.TemporaryDirectory() as folder:
        yield [_elsewhere(callback, folder) for callback in callbacks if not isinstance(callback, _CHIEF_ONLY)]


def _elsewhere(callback, folder):
    """A `ModelCheckpoint` that writes into `folder`: every worker must take part in reading the weights."""
    if not isinstance(callback, keras.callbacks.ModelCheckpoint):
        return callback
    moved = copy.copy(callback)
    moved.filepath = str(pathlib.Path(folder) / pathlib.Path(callback.filepath).name)
    return moved
