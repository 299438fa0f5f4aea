"""The description of a model: its head, its output, and the prior under which its probabilities are posteriors.

A model trained with plain cross-entropy gives posteriors under the class mix of its training, π. With an adjustment of
strength τ to a target prior, the probabilities are posteriors under a prior proportional to `π^(1−τ) · target`. At
τ = 1 this is the target prior; without a target prior it is the uniform prior.
"""

import dataclasses

import keras
import numpy as np

from keras_logit_adjust import _checks, _keras, losses
from keras_logit_adjust.layers import ManyClassModel, MinimumRiskDecision, PredictionSet
from keras_logit_adjust.posthoc import _graph, _guard, _kind, _many_classes
from keras_logit_adjust.posthoc import _outputs as _outputs_of
from keras_logit_adjust.posthoc._outputs import AdjustedOutputs
from keras_logit_adjust.posthoc.adjust import AdjustedModel

# A model trained with such a loss gives the logits of a plain model, adjusted with the loss's own counts and τ.
ADJUSTED_LOSSES = (losses.LogitAdjustedCrossentropy, losses.BinaryLogitAdjustedCrossentropy)
CORRECTED_TWICE = "unknown: corrected more than once"
_SHOWN = 10  # class counts that are written before the list is cut


def name_prior(*, tau=1.0, has_target=False, is_binary=False):
    """The name of the prior that the probabilities of an adjusted model are posteriors under.

    Args:
        tau: strength of the adjustment, a number or a vector `[L]`.
        has_target: whether a target prior was given.
        is_binary: whether labels are independent, adjusted by their odds.

    Example:

    >>> name_prior(tau=1.0), name_prior(tau=1.0, has_target=True), name_prior(tau=0.5)
    ('uniform', 'target', 'training prior to the power 0.5, renormalized (tau=0.5)')
    """
    tau = np.asarray(tau)
    if (tau == 1).all():
        return "target" if has_target else "uniform"
    of, renormalized = ("odds", "") if is_binary else ("prior", ", renormalized")
    times = f" times the target {of}" if has_target else ""
    if (tau == 0).all():
        return f"training{' odds' if is_binary else ''}{times}{renormalized}" if has_target else "training"
    power = f"{1 - tau:.4g}" if tau.ndim == 0 else "1 - tau of each class"
    return f"training {of} to the power {power}{times}{renormalized} (tau={_numbers(tau)})"


@dataclasses.dataclass(frozen=True)
class Correction:
    """A part of a model that corrects its prior; `describe` lists these parts as `corrections`.

    Attributes:
        means: the part in words, as "layer 'logit_adjustment' (LogitAdjustment)" or "loss 'LogitAdjustedCrossentropy'".
        tau: its strength, a float or an array `[L]`. This and the next attributes are None if they are not known.
        class_counts: array `[L]`, counts (or a prior) of the training.
        target_prior: array `[L]`; None for the uniform one.
        num_examples: the number of training examples, of independent labels only.
        calibration: the calibration before the correction, if there is one (see `kla.calibrate`).
        corrected_before: whether something else corrected the logits before it, as in `kla.layers.LogitAdjustment`.
    """

    means: str
    tau: object = None
    class_counts: np.ndarray | None = None
    target_prior: np.ndarray | None = None
    num_examples: float | None = None
    calibration: object = None
    corrected_before: bool = False

    @property
    def adds_target_alone(self):
        """Whether this only adds a target prior to logits whose prior is uniform."""
        if self.target_prior is None or self.corrected_before:
            return False
        return _guard.adds_target_alone(self.class_counts, self.num_examples, self.target_prior)

    @property
    def prior(self):
        """The name of the prior that a model serves if this is its only correction."""
        if self.tau is None:
            return f"as corrected by {self.means}"
        if self.corrected_before:
            return CORRECTED_TWICE
        if self.adds_target_alone:
            return "target"  # at every strength: the prior that it subtracts is uniform
        has_target, is_binary = self.target_prior is not None, self.num_examples is not None
        return name_prior(tau=self.tau, has_target=has_target, is_binary=is_binary)

    def __str__(self):
        if self.tau is None:
            return f"{self.means}, whose counts and tau are not recorded"
        of = "" if self.num_examples is None else f" of {self.num_examples:g} examples"
        target = "uniform" if self.target_prior is None else _numbers(self.target_prior)
        # Counts that sum to one are shares, for example from `kla.priors.effective_prior` after weighted training.
        is_prior = self.num_examples is None and abs(np.sum(self.class_counts) - 1) < 1e-3
        counts = f"{'class prior' if is_prior else 'class counts'} {_numbers(self.class_counts)}{of}"
        calibrated = "" if self.calibration is None else ", calibrated before"
        text = f"{self.means}, tau {_numbers(self.tau)}, {counts}, target prior {target}{calibrated}"
        return f"{text}, of logits corrected before" if self.corrected_before else text


@dataclasses.dataclass(frozen=True)
class Description:
    """The result of `describe`. Its `str` describes the model in a few lines.

    Attributes:
        model: its name.
        head: the name of the layer whose pre-activation is the logits; None where none is found.
        head_type: its class.
        num_outputs: the number of logits; None where it is not known.
        output: what the model gives, "logits", "softmax", "sigmoid" or, behind a `kla.layers.MinimumRiskDecision`,
            "decisions"; of a `kla.layers.ManyClassModel` "features", of its predictor "top classes"; None where it is
            not known.
        is_binary: whether its outputs are independent labels, or a single sigmoid unit.
        corrections: the `Correction`s found.
        prior: the name of the prior that its probabilities are posteriors under, as far as the model shows it.
        note: why no head was found.
        keeps_no_loss: whether a file of the model does not bring back its loss. KerasHub's tasks are such models, and
            all models whose class has a `compile` of its own. An adjusted loss may have trained them, unseen.
    """

    model: str
    head: str | None = None
    head_type: str | None = None
    num_outputs: int | None = None
    output: str | None = None
    is_binary: bool = False
    corrections: tuple = ()
    prior: str = ""
    note: str = ""
    keeps_no_loss: bool = False

    @property
    def is_adjusted(self):
        """Whether a correction is found. A folded bias, class weights and resampling leave no trace."""
        return bool(self.corrections)

    @property
    def served_output(self):
        """`output` in the form for `kla.serving.export`: logits of independent labels are "binary_logits"."""
        return "binary_logits" if self.output == "logits" and self.is_binary else self.output

    def __str__(self):
        kind = "decisions" if self.output == "decisions" else "independent labels" if self.is_binary else "classes"
        width = "one unit for two classes" if self.num_outputs == 1 else f"{self.num_outputs} {kind}"
        head = f"none found: {self.note}" if self.head is None else f"{self.head!r} ({self.head_type}), {width}"
        unseen = "a folded bias, class weights and a resampled training set"
        if self.keeps_no_loss:
            unseen = "a folded bias, class weights, a resampled training set and a loss that the file does not keep"
        rows = {
            "model": self.model,
            "head": head,
            "gives": self.output or "not known",
            "adjusted": "; ".join(f"by {correction}" for correction in self.corrections)
            or f"not seen ({unseen} leave no trace)",
            "prior": self.prior,
        }
        return "\n".join(f"{name:<10}{text}" for name, text in rows.items())


def describe(model, *, output_name=None):
    """Describe the head and the output of a model, and whether, how and towards which prior it is adjusted.

    Args:
        model: any built `keras.Model`. The output of a subclassed model is known only if `kla.adjust` made the model.
        output_name: the key or the position of the output to describe, for a Functional model with several outputs. For
            another kind of model, an output that `kla.adjust` adjusted.

    Returns:
        A `Description`, to print or to read.

    Raises:
        ValueError: for what is no Keras model, or has no such output.

    Example:

    >>> import keras_logit_adjust as kla
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax", name="head")], name="small")
    >>> print(describe(kla.adjust(model, class_counts=[75, 25])))
    model     small_adjusted
    head      'head' (Dense), 2 classes
    gives     softmax
    adjusted  by layer 'logit_adjustment' (LogitAdjustment), tau 1, class counts [75, 25], target prior uniform
    prior     uniform
    """
    if not isinstance(model, keras.Model):
        _graph.require_model(model)
    if isinstance(model, AdjustedOutputs):
        return _of_outputs(model, output_name)
    if output_name is not None:
        model = _outputs_of.one_of(model, output_name)
    corrections = tuple(_as_correction(part) for _, part in _guard.corrections(model))
    is_binary = _kind.of_loss(_kind.loss_of(model)) == "independent" or any(
        correction.num_examples is not None for correction in corrections
    )
    # The ids and scores of a predictor count as one output.
    if not _many_classes.has_many_classes(model) and (names := _outputs_of.names_of(model)):
        return _of_several(model, names, corrections)
    return Description(
        model=model.name,
        corrections=corrections,
        prior=_prior_of(corrections, keeps_no_loss=_keras.keeps_no_loss(model)),
        keeps_no_loss=_keras.keeps_no_loss(model),
        **{"is_binary": is_binary, **_outputs(model, corrections, is_binary)},
    )


def _prior_of(corrections, *, keeps_no_loss=False):
    """The name of the prior that a model with these `corrections` serves."""
    if not corrections:
        return "training, if nothing was folded into the bias" + (
            " and no adjusted loss trained it" if keeps_no_loss else ""
        )
    # A head that was corrected once may be followed by a target prior.
    *_, last = sorted(corrections, key=lambda correction: correction.adds_target_alone)
    if len(corrections) == 2 and last.adds_target_alone:
        return last.prior
    return CORRECTED_TWICE if len(corrections) > 1 else last.prior


def _of_several(model, names, corrections):
    note = f"the model has several outputs, {names}: describe(model, output_name={names[0]!r})"
    return Description(model=model.name, corrections=corrections, prior="of each output its own", note=note)


def _of_outputs(model, output_name):
    """The `Description` of a subclassed model with adjusted outputs, or of one of its outputs."""
    corrections = tuple(map(_as_correction, model.adjustments))
    if output_name is None:
        return _of_several(model, model.places, corrections)
    if output_name not in model.places:
        raise _checks.ArgumentError(
            "output_name",
            f"`output_name` must be one that is adjusted, {model.places}. Received: output_name={output_name!r}",
        )
    place = model.places.index(output_name)
    correction, kind = corrections[place], model.output_kinds[place]
    counts = correction.class_counts
    return Description(
        model=model.name,
        num_outputs=None if counts is None else counts.size,
        output=kind,
        is_binary=kind == "sigmoid" or correction.num_examples is not None,
        corrections=(correction,),
        prior=correction.prior,
        note="the output of a model of another kind is adjusted",
    )


def _outputs(model, corrections, is_binary):
    """The known facts about the outputs of a model, by the names in `Description`."""
    if isinstance(model, AdjustedModel):
        counts, note = corrections[-1].class_counts, "the output of a model of another kind is adjusted"
        num_outputs, kind = None if counts is None else counts.size, model.output_kind
        is_binary = is_binary or kind == "sigmoid"
        return {"num_outputs": num_outputs, "output": kind, "is_binary": is_binary, "note": note}
    if _many_classes.has_many_classes(model):
        head, kind = _many_classes.head_of(model), "features" if isinstance(model, ManyClassModel) else "top classes"
        found = {"head": head.name, "head_type": type(head).__name__, "num_outputs": head.units}
        return {**found, "output": kind, "is_binary": False}
    if _graph.ends_in(model, MinimumRiskDecision):
        note = "the model gives scores of decisions, their negative expected costs"
        return {"num_outputs": model.outputs[0].shape[-1], "output": "decisions", "is_binary": False, "note": note}
    if _graph.ends_in(model, PredictionSet):
        return {"note": "the model gives prediction sets"}
    try:
        _graph.require_model(model)
        head = _graph.find_head(model)
    except ValueError as error:
        return {"note": str(error)}
    is_binary = is_binary or head.output == "sigmoid" or head.width == 1
    found = {"head": head.layer.name, "head_type": type(head.layer).__name__, "num_outputs": head.width}
    return {**found, "output": head.output, "is_binary": is_binary}


def _as_correction(part):
    """The `Correction` that a loss or layer makes."""
    is_loss = isinstance(part, keras.losses.Loss)
    means = f"loss {type(part).__name__!r}" if is_loss else f"layer {part.name!r} ({type(part).__name__})"
    if head := getattr(part, "folded_into", None):
        means = f"the bias of {head!r}"
    counts = getattr(part, "class_counts", getattr(part, "positive_counts", None))
    # A layer that was rebuilt from the config of very many classes has its adjustment, but not its counts.
    if counts is None or is_loss and not isinstance(part, ADJUSTED_LOSSES):
        return Correction(means)
    tau = np.asarray(part.tau)
    tau = tau.item() if tau.ndim == 0 else tau
    known = {name: getattr(part, name, None) for name in ("target_prior", "num_examples", "calibration")}
    return Correction(means, tau, counts, corrected_before=getattr(part, "corrected_before", False), **known)


def _numbers(values):
    values = np.atleast_1d(values)
    text = ", ".join(f"{value:.6g}" for value in values[:_SHOWN])
    listed = f"[{text}]" if values.size <= _SHOWN else f"[{text}, …] ({values.size} in all)"
    return text if values.size == 1 else listed
