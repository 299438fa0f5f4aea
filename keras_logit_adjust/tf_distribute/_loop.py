"""The loops over epochs and batches, and what callbacks are told on the way."""

import keras
import numpy as np

from keras_logit_adjust.tf_distribute import _diagnosis, _keras, _steps


class Training:
    """A training from a place on.

    Args:
        model: built and compiled.
        strategy: its strategy.
        feed: the training `Feed`.
        validation: a `Feed`, or None.
        validation_freq: epochs from one validation to the next, or a list of those that are followed by one.
        backup: a `Backup`, or None.
        place: the `Place` to begin with; moved along.
    """

    def __init__(self, model, strategy, feed, validation, validation_freq, backup, place):
        self.model, self.strategy, self.feed, self.validation = model, strategy, feed, validation
        self.validation_freq, self.backup, self.place = validation_freq, backup, place
        self.needing = _steps.needing_examples(model, feed, is_training=True)
        self._refuses_empty_tests = validation is not None and bool(_steps.needing_examples(model, validation))
        self._train_step = self._test_step = self._version = None

    def run(self, callbacks, epochs):
        """Train up to epoch number `epochs`."""
        model, place = self.model, self.place
        model.stop_training = place.stopped
        callbacks.on_train_begin()
        model.history.history.update({name: list(values) for name, values in place.history.items()})
        logs = None
        while place.epoch < epochs and not model.stop_training:
            logs = self._run_epoch(callbacks)
            callbacks.on_epoch_end(place.epoch, logs)
            place.epoch, place.batch, place.stopped = place.epoch + 1, 0, model.stop_training
            place.history = model.history.history
            if self.backup:
                self.backup.after_epoch(place, is_last=place.epoch == epochs or place.stopped)
        if model.optimizer is not None:
            model.optimizer.finalize_variable_values(model.trainable_weights)
        callbacks.on_train_end(logs=logs)
        if self.backup and place.stopped and logs is not None:
            self.backup.save(place)  # a callback that ends a training may choose its weights then (`EarlyStopping`)

    def _run_epoch(self, callbacks):
        """The logs of the rest of an epoch."""
        model, place = self.model, self.place
        if not place.batch:
            model.reset_metrics()
        callbacks.on_epoch_begin(place.epoch)
        logs = self._run_batches(callbacks, self.feed.iterator(place))
        logs = _exact(model, logs)
        if self.validation and self._is_validated(place.epoch + 1):
            tested = run_evaluation(model, self._test_step, self.validation, callbacks)
            logs.update({f"val_{name}": value for name, value in tested.items()})
        return logs

    def _is_validated(self, number):
        """Whether the epoch of a number, from 1, is followed by a validation."""
        freq = self.validation_freq
        return number in freq if isinstance(freq, list) else number % freq == 0

    def _run_batches(self, callbacks, iterator):
        model, place, logs = self.model, self.place, {}
        step = self._step()
        while self.feed.steps is None or place.batch < self.feed.steps:
            callbacks.on_train_batch_begin(place.batch)
            try:
                logs, labels = step(iterator)
            except out_of_data():
                self.feed.check_end(place)
                break
            self._check_finite(logs, labels)
            callbacks.on_train_batch_end(place.batch, logs)
            place.batch, place.steps = place.batch + 1, place.steps + 1
            if self.backup:
                self.backup.after_batch(place)
            if model.stop_training:
                break
        return logs

    def _step(self):
        """The compiled training step, traced anew where a callback has asked Keras for that."""
        version = _keras.train_version(self.model)
        if version is not self._version:
            model = self.model
            norms = _keras.batch_norms(model) if self.strategy.num_replicas_in_sync > 1 else []
            statistics = [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]
            step = _steps.mean_over_replicas(
                self.strategy, model.train_step, model.jit_compile, bool(self.needing), statistics
            )
            self._version, self._train_step = version, _steps.compiled(model, step)
            self._test_step = compile_test(model, self.strategy, self._refuses_empty_tests)
        return self._train_step

    def _check_finite(self, logs, labels):
        loss = float(logs["loss"]) if "loss" in logs else 0.0
        if np.isfinite(loss):
            return
        outputs = getattr(self.model, "outputs", None)  # a subclassed model has none
        shapes = [output.shape for output in keras.tree.flatten(outputs)] if outputs else None
        found = _diagnosis.describe_batch(labels, shapes, self.strategy)
        raise FloatingPointError(
            f"The loss is {loss} {self.place}. Examples of each class in that batch: {found}. An id that is no class "
            "gives NaN; else lower the learning rate, clip gradients (`clipnorm`), or look for values in the data that "
            "are not finite."
        )


def compile_test(model, strategy, refuses_empty):
    """The compiled step of `run_evaluation`."""
    step = _steps.mean_over_replicas(strategy, model.test_step, model.jit_compile, refuses_empty)
    return _steps.compiled(model, step)


def run_evaluation(model, step, feed, callbacks):
    """Loss and metrics of a model over a feed, as plain floats and arrays."""
    model.reset_metrics()
    model.stop_evaluating = False
    callbacks.on_test_begin()
    iterator, logs, batch = feed.from_start(), {}, 0
    while not model.stop_evaluating and (feed.steps is None or batch < feed.steps):
        callbacks.on_test_batch_begin(batch)
        try:
            logs, _ = step(iterator)
        except out_of_data():
            break
        callbacks.on_test_batch_end(batch, logs)
        batch += 1
    logs = _as_plain(_exact(model, logs))
    callbacks.on_test_end(logs)
    return logs


def _exact(model, logs):
    """The logs of a last batch with the exact values of what is a metric of the model: of all batches and replicas."""
    results = model.get_metrics_result()
    return {name: results.get(name, value) for name, value in logs.items()} if logs else results


def run_prediction(model, step, feed, callbacks):
    """The outputs for a feed, batch after batch."""
    model.stop_predicting = False
    callbacks.on_predict_begin()
    iterator, parts = feed.from_start(), []
    while not model.stop_predicting and (feed.steps is None or len(parts) < feed.steps):
        callbacks.on_predict_batch_begin(len(parts))
        try:
            part = step(iterator)
        except out_of_data():
            break
        parts.append(part)
        callbacks.on_predict_batch_end(len(parts) - 1, {"outputs": part})
    callbacks.on_predict_end()
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def out_of_data():
    """What TensorFlow raises where a dataset ends."""
    import tensorflow as tf

    return tf.errors.OutOfRangeError, StopIteration


def _as_plain(logs):
    """Floats, and arrays where a metric is a vector; one that is a dict gives its entries."""
    plain = {}
    for name, value in logs.items():
        if isinstance(value, dict):
            plain.update(_as_plain(value))
        else:
            plain[name] = float(value) if np.ndim(value) == 0 else np.asarray(value)
    return plain
