"""The weight that `LogitAdjustment` and `PriorAwareDense` own: how it is computed, changed and stored in a config."""

import zlib

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _calibration, _checks, priors

MAX_CLASSES_IN_CONFIG = 10_000


class Adjustment:
    """Mixed into a Keras layer: the weight `adjustment = τ·log π − log target`, less the bias of a calibration."""

    calibration = None

    def _settle(self, class_counts, tau, target_prior, num_examples=None, calibration=None):
        """Check the arguments, keep them for the config, and return the adjustment (None without counts)."""
        self.num_examples = num_examples
        if class_counts is None:
            self.class_counts, self.tau, self.target_prior = None, tau, target_prior
            self.calibration = _calibration.as_calibration(calibration, None)
            return None
        counts = _as_counts(class_counts, num_examples)
        if self.built:
            _checks.check_length(counts, self.adjustment.shape[0], "class_counts", f"layer {self.name!r}")
        tau = _checks.as_tau(tau, counts.size)
        adjustment = tau * _log_prior(counts, num_examples)
        if target_prior is not None:
            target_prior = as_target(target_prior, num_examples)
            _checks.check_length(target_prior, counts.size, "target_prior", "class_counts")
            adjustment = adjustment - _log_prior(target_prior, None if num_examples is None else 1.0)
        calibration = _calibration.as_calibration(calibration, counts.size)
        # Kept last: a refused change leaves the layer as it was.
        self.class_counts, self.tau, self.target_prior, self.calibration = counts, tau, target_prior, calibration
        return adjustment if calibration is None or calibration.bias is None else adjustment - calibration.bias

    def _add_adjustment(self, num_classes, values):
        if values is not None:
            _checks.check_length(values, num_classes, "class_counts", "the input")
        else:
            # Never 0: a model whose counts are not known must not pass for an unadjusted one.
            values = np.full(num_classes, np.nan)
        self.adjustment = self._add_constant("adjustment", values)

    def _add_constant(self, name, values):
        return self.add_weight(
            name=name,
            shape=values.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype),
            trainable=False,
            autocast=False,
            dtype="float32",
        )

    def _change(self, tau, target_prior, class_counts, **calibration):
        """What `set` does: None leaves a value as it is."""
        if self.class_counts is None and (class_counts is None or tau is None):
            raise ValueError(
                f"Layer {self.name!r} does not know its class counts, τ and target prior: configs of more than "
                f"{MAX_CLASSES_IN_CONFIG} classes leave them out. Give `class_counts` and `tau` together."
            )
        class_counts = self.class_counts if class_counts is None else class_counts
        tau = self.tau if tau is None else tau
        if isinstance(target_prior, str):
            _checks.check_choice(target_prior, "target_prior", ["uniform"])
            target_prior = None
        elif target_prior is None:
            target_prior = self.target_prior
        values = self._settle(class_counts, tau, target_prior, self.num_examples, **calibration)
        if self.built:
            self.adjustment.assign(ops.convert_to_tensor(values, dtype="float32"))
        self.values = values

    def _adjustment_config(self):
        counts = self.class_counts
        target = None if self.target_prior is None else self.target_prior.tolist()
        if isinstance(counts, priors.StreamingPrior):
            # By this Keras knows a prior that heads share again; its own mark is lost when configs are copied.
            mark = {"shared_object_id": zlib.crc32(counts.name.encode())}
            counts = {**keras.saving.serialize_keras_object(counts), **mark}
            return {"class_counts": counts, "tau": self.tau.tolist(), "target_prior": target}
        if counts is None or counts.size > MAX_CLASSES_IN_CONFIG:
            return {"class_counts": None, "tau": 1.0, "target_prior": None}
        return {"class_counts": counts.tolist(), "tau": self.tau.tolist(), "target_prior": target}


def _as_counts(class_counts, num_examples):
    if num_examples is None:
        return _checks.as_counts(class_counts)
    return _checks.as_positive_counts(class_counts, num_examples)


def as_target(target_prior, num_examples):
    """The target prior as probabilities: of classes that exclude each other, or of each label where they do not."""
    if num_examples is None:
        return priors.prior(_checks.as_counts(target_prior, "target_prior"))
    target = _checks.as_vector(target_prior, "target_prior")
    if (bad := (target <= 0) | (target >= 1)).any():
        raise ValueError(
            "Every number in `target_prior` must be the probability of a label, strictly between 0 and 1. "
            f"Received {target[bad].tolist()} at {_checks.name_classes(bad)}: divide counts by the number of examples."
        )
    return target


def _log_prior(class_counts, num_examples):
    """`log π` of classes that exclude each other, or the log-odds of labels that do not."""
    return priors.log_prior(class_counts) if num_examples is None else priors.log_odds(class_counts, num_examples)
