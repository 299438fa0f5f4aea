"""The methods of `compare`: one row of a table each."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from keras_logit_adjust import losses, models, priors
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.callbacks import DeferredReweighting
from keras_logit_adjust.compare import tuning
from keras_logit_adjust.layers import PriorAwareDense
from keras_logit_adjust.losses import PairwiseMarginCrossentropy

_DEFERRED_FROM = 0.8  # the share of the epochs before the weights start: 160 of 200 in LDAM


def cross_entropy(class_counts, label_smoothing=0.0):
    """Keras's cross-entropy: for ids, or with label smoothing for rows of labels, which such a recipe gives."""
    if label_smoothing:
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Method:
    """The training of a row of the table, and the correction of its logits afterwards.

    Attributes:
        title: the row's name in a report.
        loss: (class_counts, label_smoothing=…) → the loss to compile with.
        head: class_counts → a callable that makes the output layer from the number of classes.
        class_weight: class_counts → weights `{class: weight}` for `fit`, or None.
        callbacks: (class_counts, epochs) → callbacks for `fit`.
        strategy: the strategy of the `LongTailSampler` for the batches; the loss then gets its effective prior. None
            stands for every example once an epoch.
        retrains_head: whether the head is trained again on class-balanced batches at the end (cRT).
        trained_as: the row whose trained model this one uses, if it does not train its own.
        experts: the rows whose models' log-probabilities are averaged instead, if it uses several.
        correct: (logits `[N, L]`, run=, class_counts=, tau=) → logits, after training; `run` is a `Run`.
        tuned_on: where τ is chosen, "validation" or "test" (an oracle); None for τ = 1.
        choose: (logits, labels, correct=, class_counts=) → the τ chosen there; `correct` is (logits, tau=) → logits.
        needs_dense: whether it works on the weights of a dense head.
    """

    title: str
    loss: Callable = cross_entropy
    head: Callable = lambda class_counts: models.dense_head
    class_weight: Callable | None = None
    callbacks: Callable = lambda class_counts, epochs: []
    strategy: str | None = None
    retrains_head: bool = False
    trained_as: str | None = None
    experts: tuple = ()
    correct: Callable = lambda logits, *, run, class_counts, tau: logits
    tuned_on: str | None = None
    choose: Callable = tuning.grid_tau
    needs_dense: bool = False


def balanced_weights(class_counts):
    """scikit-learn's "balanced" weights, `N / (L·n_y)`: what Keras users pass as `class_weight` today."""
    return dict(enumerate((class_counts.sum() / (class_counts.size * class_counts)).tolist()))


def subtract_log_prior(logits, *, run, class_counts, tau):
    """Post-hoc adjustment (Menon et al., 2021, equation 9)."""
    return (logits - tau * priors.log_prior(class_counts)).astype("float32")


def divide_by_norms(logits, *, run, class_counts, tau):
    """Weight normalization without the bias, as `kla.normalize_weights(…, bias="drop")` (Kang et al., 2020)."""
    return ((logits.astype("float64") - run.bias) / run.class_norms**tau).astype("float32")


def prior_aware_head(class_counts):
    """A `PriorAwareDense` in place of the output layer."""
    return lambda units: PriorAwareDense(units, np.asarray(class_counts), dtype="float32", name="head")


def deferred_weights(class_counts, epochs):
    """LDAM's schedule: weights by effective number in the last fifth of training, at least in the last epoch.

    Their mean over the training examples is one, as torch's division by the sum of weights makes it in the original.
    """
    start = min(round(_DEFERRED_FROM * epochs), epochs - 1)
    return [DeferredReweighting({start: losses.class_balanced_weights(class_counts, mean_over="examples")})]


# LDAM's normalized head. Half of its scale is the margin of the rarest class.
_ADAPTIVE = Method(
    "adaptive margins (LDAM), cosine head",
    loss=losses.AdaptiveMarginCrossentropy,
    head=lambda class_counts: models.cosine_dense_head,
)
_POSTHOC = Method("logit adjustment, post hoc", trained_as="erm", correct=subtract_log_prior)
_WEIGHT_NORM = Method("weight normalization", trained_as="erm", correct=divide_by_norms, needs_dense=True)


def _tuned(method, where, choose=tuning.grid_tau):
    note = {"validation": "τ by validation", "test": "oracle τ, chosen on the test set"}[where]
    return dataclasses.replace(method, title=f"{method.title}, {note}", tuned_on=where, choose=choose)


METHODS = {
    "erm": Method("cross-entropy (ERM)"),
    "class_weight": Method("balanced class_weight", class_weight=balanced_weights),
    "balanced_sampler": Method("balanced sampler", strategy="balanced"),
    "square_root_sampler_la": Method(
        "square-root sampler, logit-adjusted loss", loss=losses.LogitAdjustedCrossentropy, strategy="square_root"
    ),
    "class_balanced": Method("class-balanced loss", loss=losses.ClassBalancedCrossentropy),
    "focal": Method("focal loss", loss=lambda class_counts, **options: losses.FocalCrossentropy(**options)),
    "weight_norm": _WEIGHT_NORM,
    "weight_norm_tuned": _tuned(_WEIGHT_NORM, "validation"),
    "weight_norm_oracle": _tuned(_WEIGHT_NORM, "test"),
    "crt": Method("classifier retraining (cRT)", retrains_head=True),
    "adaptive": _ADAPTIVE,
    "adaptive_drw": dataclasses.replace(_ADAPTIVE, title=f"{_ADAPTIVE.title}, DRW", callbacks=deferred_weights),
    "equalized": Method("equalized loss", loss=losses.EqualizedCrossentropy),
    "vector_scaling": Method("vector-scaling loss", loss=losses.VectorScalingCrossentropy),
    "la_posthoc": _POSTHOC,
    "la_posthoc_tuned": _tuned(_POSTHOC, "validation", tuning.shrunk_tau),
    "la_posthoc_oracle": _tuned(_POSTHOC, "test", tuning.highest_tau),
    "la_loss": Method("logit-adjusted loss", loss=losses.LogitAdjustedCrossentropy),
    "la_loss_double": Method(
        "logit-adjusted loss, τ = 2", loss=functools.partial(losses.LogitAdjustedCrossentropy, tau=2.0)
    ),
    "la_loss_adaptive": Method(
        "logit-adjusted + adaptive loss", loss=PairwiseMarginCrossentropy.logit_adjusted_adaptive
    ),
    "la_head": Method("prior-aware head", head=prior_aware_head),
    # The strengths 0, 1 and 2 have the mean 1: no correction is left to do.
    "product_of_experts": Method(
        "product of experts trained with τ = 0, 1, 2", experts=("erm", "la_loss", "la_loss_double")
    ),
}

# Names for several rows at once. "paper" is table 3, in its order. The paper's τ* used the test set, ours does not.
GROUPS = {
    "paper": (
        "erm",
        "weight_norm",
        "weight_norm_tuned",
        "adaptive",
        "equalized",
        "la_posthoc",
        "la_posthoc_tuned",
        "la_loss",
    )
}


def _probed(name, **changed):
    return dataclasses.replace(METHODS[name], **changed)


# The rows in the recipe "linear_probe". At the optimum the adjusted loss equals post-hoc adjustment, and a balanced
# sampler equals balanced weights.
PROBED = {
    **{name: METHODS[name] for name in ("erm", "class_weight", "class_balanced", "square_root_sampler_la")},
    "balanced_sampler": _probed("balanced_sampler", trained_as="class_weight"),
    **{name: METHODS[name] for name in ("weight_norm", "weight_norm_oracle")},
    "la_posthoc": _probed("la_posthoc", trained_as=None),
    **{name: _probed(name, trained_as="la_posthoc") for name in ("la_posthoc_tuned", "la_posthoc_oracle")},
    **{name: _probed(name, trained_as="la_posthoc", correct=subtract_log_prior) for name in ("la_loss", "la_head")},
}


def rows_of(recipe):
    """`METHODS` as the recipe of this name trains them."""
    return PROBED if recipe == "linear_probe" else METHODS


@functools.cache
def trainings_of(name, recipe="quick"):
    """The rows that train the models of the row `name`."""
    method = rows_of(recipe)[name]
    return method.experts or (method.trained_as or name,)


def spell_out(methods, *, validation, recipe="quick"):
    """The names of the rows, with groups expanded and "erm" included, after a check that they exist."""
    methods = methods.split(",") if isinstance(methods, str) else methods
    methods = [name for given in methods for name in GROUPS.get(given, (given,))]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        known = ", ".join((*METHODS, *GROUPS))
        raise ArgumentError("methods", f"Unknown method {', '.join(map(repr, unknown))}. Known: {known}.")
    tuned = [name for name in methods if METHODS[name].tuned_on == "validation"]
    if tuned and validation == "none" and recipe != "linear_probe":  # this recipe has logits out of fold
        raise ArgumentError(
            "validation",
            f"Method {tuned[0]!r} chooses τ on the validation set. Received: validation='none'. Choose 'stratified', "
            "or leave the method out.",
        )
    return list(dict.fromkeys(["erm", *methods] if "erm" not in methods else methods))
