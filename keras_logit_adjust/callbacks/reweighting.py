"""Class weights that start at a given epoch of the training."""

import warnings
from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust.losses import _base, is_fisher_consistent


class DeferredReweighting(keras.callbacks.Callback):
    """Deferred re-weighting (DRW): class weights from an epoch on, `w_y(epoch)·ℓ(y, f)`.

    Weights from the start harm the features of the frequent classes. Weights that come late, when the learning rate has
    dropped, change mainly the decision. The weights multiply the weights that the losses of this package have
    themselves, in training and in the validation loss. Each stage compiles the training step anew. The stage depends
    only on the number of the epoch, so a run that continues from a checkpoint, `BackupAndRestore` or `initial_epoch` is
    in the right stage. After the last listed epoch the last stage stays. When training ends, the losses are as they
    were. After an exception or Ctrl-C, call `on_train_end()` or call `fit` with the callback again to restore them.

    Keras divides a weighted loss by the number of examples, torch by the sum of their weights. So the mean of the
    weights over the training examples scales a step in Keras: it is a sixth in LDAM's setting. With `class_counts` the
    weights are divided by this mean, `w_y / Σ_c π_c·w_c`. Steps then stay as long as without weights, as in torch.

    Args:
        stages: `{epoch: weights}`: from that epoch on (counted from 0) class y weighs `weights[y]`, `[L]` numbers > 0.
            None means no weights. A model with several outputs takes `{epoch: {output: weights}}` too; outputs that are
            not named have no weights.
        class_counts: `[L]` training examples of each class, to give the weights a mean of one over them, or
            `{output: [L]}`. By default the weights stay as they are.

    Raises:
        ValueError: for stages that are empty or not epochs; for weights that are not > 0. As `fit` begins: if no loss
            of the model is one of this package; if an output has another number of classes, is not there, or shares its
            loss with an output of other weights. For Keras's own losses use `class_weight`.

    Warns:
        UserWarning: in `fit`, if a loss is Fisher consistent for the balanced error without the weights, but not with
            them. An adjusted loss needs no weights.

    Example:

    >>> import keras_logit_adjust as kla
    >>> weights = kla.losses.class_balanced_weights([900, 100, 10], beta=0.9999)
    >>> callback = DeferredReweighting({160: weights})
    >>> callback.weights_at(159) is None, callback.weights_at(200) is callback.weights_at(160)
    (True, True)
    >>> DeferredReweighting({160: [1, 4]}, class_counts=[80, 20]).weights_at(160).tolist()  # mean 0.8·1 + 0.2·4
    [0.625, 2.5]

    Reference: Cao et al. (2019), LDAM-DRW.
    """

    def __init__(self, stages, *, class_counts=None):
        super().__init__()
        if not isinstance(stages, Mapping) or not stages:
            raise ValueError(f"`stages` must map epochs to class weights, {{160: weights}}. Received: {stages!r}")
        self.stages = {
            int(epoch): _as_weights(stages[epoch], class_counts)
            for epoch in sorted(stages, key=lambda epoch: _checks.check_integer(epoch, "epoch", minimum=0))
        }
        self._losses = {}

    def weights_at(self, epoch):
        """The weights of an epoch, `[L]` or `{output: [L]}`; None if it has no weights."""
        return self.stages.get(max((start for start in self.stages if start <= epoch), default=None))

    def on_train_begin(self, logs=None):
        self._losses = _losses_by_output(self.model)
        if not self._losses:
            raise ValueError(
                f"`DeferredReweighting` weighs the losses of `kla.losses`; model {self.model.name!r} was compiled with "
                f"{self.model.loss!r}. For Keras's own losses use `fit(class_weight=…)`."
            )
        self._set(None)  # an interrupted training left the weights in the losses
        widths = _widths(self.model)
        for weights in self.stages.values():
            _check_outputs(weights, self._losses)
            for output, loss in self._losses.items():
                if (own := _weights_of(output, weights)) is not None:
                    _check_size(own, loss, output, widths=widths, is_named=own is not weights)
                    _warn_of_inconsistency(loss, own)

    def on_epoch_begin(self, epoch, logs=None):
        self._set(self.weights_at(epoch))

    def on_train_end(self, logs=None):
        self._set(None)

    def _set(self, weights):
        wanted = {output: _weights_of(output, weights) for output in self._losses}
        if all(loss.stage_weight is wanted[output] for output, loss in self._losses.items()):
            return
        for output, loss in self._losses.items():
            loss.stage_weight = wanted[output]
        # A compiled step keeps the weights with which it was traced.
        self.model.make_train_function(force=True)
        self.model.make_test_function(force=True)


def _as_weights(weights, class_counts):
    """Weights `[L]` of all outputs or `{output: [L]}` of each, with mean one if `class_counts` are given; or None."""
    if isinstance(weights, Mapping):
        if not weights or not all(isinstance(output, str) for output in weights):
            raise _checks.ArgumentError(
                "stages",
                "Weights of several outputs must be `{output: weights}`, with the names of outputs. Received the keys "
                f"{list(weights)[:8]}: give one number for each class as a list, in order of class id.",
            )
        counts = class_counts if isinstance(class_counts, Mapping) else dict.fromkeys(weights, class_counts)
        if missing := [output for output in weights if output not in counts]:
            raise _checks.ArgumentError(
                "class_counts",
                f"`class_counts` by output must name every output that has weights. Received {list(counts)}, without "
                f"{missing[0]!r}.",
            )
        return {output: _as_weights(own, counts[output]) for output, own in weights.items()}
    if weights is None:
        return None
    weights = _checks.as_class_vector(weights, "weights", positive=True)
    if class_counts is None:
        return weights
    counts = _checks.as_counts(class_counts)
    _checks.check_length(counts, weights.size, "class_counts", "the weights")
    return weights / (weights @ (counts / counts.sum()))


def _weights_of(output, weights):
    return weights.get(output) if isinstance(weights, dict) else weights


def _losses_by_output(model):
    """`{output: loss}` for the losses of this package; an output without a name is called by its number."""
    compiled, names = model.loss, list(getattr(model, "output_names", None) or [])
    if not keras.tree.is_nested(compiled):  # one loss for all outputs
        found = dict.fromkeys(names or [0], compiled)
    elif isinstance(compiled, Mapping):
        found = dict(compiled)
    else:
        flat = keras.tree.flatten(compiled)
        found = dict(zip(names if len(names) == len(flat) else range(len(flat)), flat, strict=True))
    return {output: loss for output, loss in found.items() if isinstance(loss, _base.MaskedLoss)}


def _widths(model):
    """`{output: number of its columns}`, if the model knows them before it is called."""
    tensors = getattr(model, "outputs", None) or []
    return {name: tensor.shape[-1] for name, tensor in zip(getattr(model, "output_names", []), tensors, strict=False)}


def _check_outputs(weights, losses):
    """Raise if weights are given for an output without a loss of this package, or with a shared loss."""
    if not isinstance(weights, dict):
        return
    if unknown := [output for output in weights if output not in losses]:
        raise _checks.ArgumentError(
            "stages",
            "Weights must be named for outputs that were compiled with a loss of `kla.losses`: "
            f"{', '.join(map(repr, losses))}. Received weights for {unknown[0]!r}.",
        )
    for output, loss in losses.items():
        for other in losses:
            if losses[other] is loss and weights.get(other) is not weights.get(output):
                raise _checks.ArgumentError(
                    "stages",
                    f"An output with its own weights must have its own loss. Outputs {output!r} and {other!r} "
                    "share one: compile the model with a new loss for each.",
                )


def _check_size(weights, loss, output, *, widths, is_named):
    """Raise if a loss or the output has another number of classes than the weights."""
    known = (getattr(loss, name, None) for name in ("class_counts", "positive_counts", "class_weight"))
    size, owner = next(((own.size, f"loss {loss.name!r}") for own in known if own is not None), (None, None))
    if size is None:
        size, owner = widths.get(output), f"output {output!r}"
    if size is None or size == weights.size:
        return
    try:
        _checks.check_length(weights, size, "weights", owner)
    except _checks.ArgumentError as error:
        if is_named or len(widths) < 2:
            raise
        raise _checks.ArgumentError(
            "weights", f"{error} Name the outputs of the weights: {{epoch: {{{output!r}: weights, …}}}}."
        ) from None


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
            f"Loss {loss.name!r} is Fisher consistent for the balanced error, but not with the weights of "
            f"`DeferredReweighting`: {found.reason} An adjusted loss needs no weights.",
            stacklevel=2,
        )
