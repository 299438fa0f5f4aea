"""Class weights that come in at an epoch of the training."""

import warnings
from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust.losses import _base, is_fisher_consistent


class DeferredReweighting(keras.callbacks.Callback):
    """Deferred re-weighting (DRW): class weights from an epoch on, `w_y(epoch)·ℓ(y, f)`.

    Weighing from the start costs the features of the frequent classes; weights that come late, when the learning rate
    has dropped, move the decision instead. The weights multiply those that the losses of this package have of their
    own, in training and in the validation loss. Each stage compiles the training step anew. The stage follows from the
    epoch's number alone, so that a run which goes on from a checkpoint, `BackupAndRestore` or `initial_epoch` is in the
    right one; past the last listed epoch the last stage stays. When training ends the losses are as they were. After
    one that was cut short (an exception, Ctrl-C) they are so once `fit` is called with the callback again, or its
    `on_train_end()`.

    Args:
        stages: `{epoch: weights}`: from that epoch on (counted from 0) class y weighs `weights[y]`, `[L]` numbers > 0;
            None for no weights.

    Raises:
        ValueError: for stages that are empty or not epochs, weights that are not > 0; in `fit`, where no loss of the
            model is one of this package or its number of classes is another. For Keras's own losses use `class_weight`.

    Warns:
        UserWarning: in `fit`, where a loss is Fisher consistent for the balanced error and with the weights is not: an
            adjusted loss needs no weights.

    Example:

    >>> import keras_logit_adjust as kla
    >>> weights = kla.losses.class_balanced_weights([900, 100, 10], beta=0.9999)
    >>> callback = DeferredReweighting({160: weights})
    >>> callback.weights_at(159) is None, callback.weights_at(200) is callback.weights_at(160)
    (True, True)

    Reference: Cao et al. (2019), LDAM-DRW.
    """

    def __init__(self, stages):
        super().__init__()
        if not isinstance(stages, Mapping) or not stages:
            raise ValueError(f"`stages` must map epochs to class weights, {{160: weights}}. Received: {stages!r}")
        self.stages = {
            int(epoch): None
            if stages[epoch] is None
            else _checks.as_class_vector(stages[epoch], "weights", positive=True)
            for epoch in sorted(stages, key=lambda epoch: _checks.check_integer(epoch, "epoch", minimum=0))
        }
        self._losses = []

    def weights_at(self, epoch):
        """The weights `[L]` of an epoch, None where there are none."""
        return self.stages.get(max((start for start in self.stages if start <= epoch), default=None))

    def on_train_begin(self, logs=None):
        self._losses = [loss for loss in keras.tree.flatten(self.model.loss) if isinstance(loss, _base.MaskedLoss)]
        if not self._losses:
            raise ValueError(
                f"`DeferredReweighting` weighs the losses of `kla.losses`; model {self.model.name!r} was compiled with "
                f"{self.model.loss!r}. For Keras's own use `fit(class_weight=…)`."
            )
        self._set(None)  # a training that was cut short left them weighted
        for weights in self.stages.values():
            for loss in self._losses if weights is not None else ():
                _check_size(loss, weights)
                _warn_of_inconsistency(loss, weights)

    def on_epoch_begin(self, epoch, logs=None):
        self._set(self.weights_at(epoch))

    def on_train_end(self, logs=None):
        self._set(None)

    def _set(self, weights):
        if all(loss.stage_weight is weights for loss in self._losses):
            return
        for loss in self._losses:
            loss.stage_weight = weights
        # A compiled step holds the weights it was traced with.
        self.model.make_train_function(force=True)
        self.model.make_test_function(force=True)


def _check_size(loss, weights):
    """Raise where a loss knows its number of classes and it is another."""
    for name in ("class_counts", "positive_counts", "class_weight"):
        if (known := getattr(loss, name, None)) is not None:
            _checks.check_length(weights, known.size, "weights", f"loss {loss.name!r}")


def _warn_of_inconsistency(loss, weights):
    if getattr(loss, "class_counts", None) is None or not is_fisher_consistent(loss):
        return
    loss.stage_weight = weights
    try:
        found = is_fisher_consistent(loss)
    finally:
        loss.stage_weight = None
    if not found:
        warnings.warn(
            f"Loss {loss.name!r} is Fisher consistent for the balanced error, and with the weights of "
            f"`DeferredReweighting` it is not: {found.reason} An adjusted loss needs no weights.",
            stacklevel=2,
        )
