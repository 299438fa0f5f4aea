"""The loops over epochs and batches, and their calls of callbacks."""

import itertools

import keras
import numpy as np

from keras_logit_adjust.tf_distribute import _diagnosis, _keras, _steps


class Training:
    """A training that starts at any place.

    Args:
        model: built and compiled.
        feed: the training `Feed`.
        validation: a `Feed`, or None.
        validation_freq: epochs from one validation to the next, or a list of the epochs that end with a validation.
        backup: a `Backup`, or None.
        place: the `Place` of the start; it is updated.
    """

    def __init__(self, model, feed, *, validation, validation_freq, backup, place):
        self.model, self.feed, self.validation = model, feed, validation
        self.validation_freq, self.backup, self.place = validation_freq, backup, place
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
            self.backup.save(place)  # a callback may set its final weights at the end of the training (`EarlyStopping`)

    def _run_epoch(self, callbacks):
        """The logs of the rest of an epoch, with its validation."""
        model, place, freq = self.model, self.place, self.validation_freq
        if not place.batch:
            model.reset_metrics()
        callbacks.on_epoch_begin(place.epoch)
        logs = _exact(model, self._run_batches(callbacks, self.feed.iterator(place)))
        number = place.epoch + 1
        if self.validation and (number in freq if isinstance(freq, list) else number % freq == 0):
            tested = run_evaluation(model, self._test_step, self.validation, callbacks=callbacks)
            logs.update({f"val_{name}": value for name, value in tested.items()})
        return logs

    def _run_batches(self, callbacks, iterator):
        model, place, logs = self.model, self.place, {}
        self._trace()
        while self.feed.steps is None or place.batch < self.feed.steps:
            callbacks.on_train_batch_begin(place.batch)
            if (found := self._train_step(iterator)) is None:
                self.feed.check_end(place)
                break
            logs, labels = found
            self._check_finite(logs, labels)
            callbacks.on_train_batch_end(place.batch, logs)
            place.batch, place.steps = place.batch + 1, place.steps + 1
            if self.backup:
                self.backup.after_batch(place)
            if model.stop_training:
                break
        return logs

    def _trace(self):
        """Make the steps; make them again if a callback has asked Keras for it."""
        model, version = self.model, _keras.train_version(self.model)
        if version is not self._version:
            self._version = version
            self._train_step = _steps.mean_over_replicas(model, self.feed, model.train_step, is_training=True)
            if self.validation:
                self._test_step = _steps.mean_over_replicas(model, self.validation, model.test_step)

    def _check_finite(self, logs, labels):
        loss = float(logs.get("loss", 0.0))
        if np.isfinite(loss):
            return
        outputs = getattr(self.model, "outputs", None)  # a subclassed model has no outputs
        shapes = [output.shape for output in keras.tree.flatten(outputs)] if outputs else None
        found = _diagnosis.describe_batch(labels, output_shapes=shapes, strategy=self.feed.strategy)
        raise FloatingPointError(
            f"The loss is {loss} {self.place}. Examples of each class in that batch: {found}. An id outside the "
            "classes gives NaN; else lower the learning rate, clip gradients (`clipnorm`), or look for values in the "
            "data that are not finite."
        )


def run_evaluation(model, step, feed, *, callbacks):
    """Loss and metrics of a model over a feed, as plain floats and arrays."""
    model.reset_metrics()
    model.stop_evaluating, logs = False, {}
    callbacks.on_test_begin()
    results = _results(step, feed, on_begin=callbacks.on_test_batch_begin, is_stopped=lambda: model.stop_evaluating)
    for batch, (logs, _) in results:
        callbacks.on_test_batch_end(batch, logs)
    logs = _as_plain(_exact(model, logs))
    callbacks.on_test_end(logs)
    return logs


def run_prediction(model, step, feed, *, callbacks):
    """The outputs for a feed, batch after batch."""
    model.stop_predicting, parts = False, []
    callbacks.on_predict_begin()
    results = _results(step, feed, on_begin=callbacks.on_predict_batch_begin, is_stopped=lambda: model.stop_predicting)
    for batch, outputs in results:
        parts.append(outputs)
        callbacks.on_predict_batch_end(batch, {"outputs": outputs})
    callbacks.on_predict_end()
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def _results(step, feed, *, on_begin, is_stopped):
    """`(number, what the step returns)` of every batch until the data ends or a callback stops it."""
    iterator = feed.iterate()
    for batch in itertools.takewhile(lambda _: not is_stopped(), itertools.islice(itertools.count(), feed.steps)):
        on_begin(batch)
        if (found := step(iterator)) is None:
            return
        yield batch, found


def _exact(model, logs):
    """The logs of a last batch, with the exact values of the model's metrics over all batches and replicas."""
    results = model.get_metrics_result()
    return {name: results.get(name, value) for name, value in logs.items()} if logs else results


def _as_plain(logs):
    """Floats, and arrays for metrics that are vectors; a metric that is a dict gives its entries."""
    plain = {}
    for name, value in logs.items():
        if isinstance(value, dict):
            plain.update(_as_plain(value))
        else:
            plain[name] = float(value) if np.ndim(value) == 0 else np.asarray(value)
    return plain
