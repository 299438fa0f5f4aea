"""A right call of every public name that takes numbers: `{name: (function, its arguments)}`."""

import keras
import numpy as np

import keras_logit_adjust as kla

COUNTS = [60, 30, 10]
IDS = np.array([0, 1, 2, 0, 1, 0])
LOGITS = np.random.default_rng(0).normal(0, 3, (6, 3)).astype("float32")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
TARGETS = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]])


def network(activation=None):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation)])


L, M, P, D, H = kla.losses, kla.metrics, kla.priors, kla.data, kla.held_out


def called(loss):
    """A loss that is made and then called, with all the arguments of both."""

    def call(y_true, y_pred, sample_weight, **kwargs):
        return loss(**kwargs)(y_true, y_pred, sample_weight)

    return call


def updated(metric):
    def call(y_true, y_pred, sample_weight, **kwargs):
        made = metric(**kwargs)
        made.update_state(y_true, y_pred, sample_weight)
        return made.result()

    return call


def applied(layer):
    def call(inputs, **kwargs):
        return layer(**kwargs)(inputs)

    return call


def streamed(y_true, y_pred, **kwargs):
    prior = P.StreamingPrior(**kwargs)
    prior.update(y_true, y_pred)
    return prior.snapshot()


def drawn(**kwargs):
    sampler = D.LongTailSampler(**kwargs)
    return sampler.rows(0), sampler.effective_prior


def drawn_by_label(**kwargs):
    sampler = D.MultiLabelSampler(**kwargs)
    return sampler.rows(0), sampler.effective_counts


def rivals_drawn(seed, **kwargs):
    return L.RivalSampler(**kwargs).draw(seed).ids


def of_path(tau, measure, **kwargs):
    path = kla.TauPath(**kwargs)
    return path.at(tau, measure), path.best(measure).value


LABELED = {"y_true": IDS, "y_pred": LOGITS, "sample_weight": None}
OPTIONS = {"label_smoothing": 0.1, "ignore_class": None, "reduction": "sum_over_batch_size"}
ON_COUNTS = {**LABELED, "class_counts": COUNTS, **OPTIONS}
MARGINS = {"class_weight": [1, 2, 3], "label_margin": [0, 1, 2], "rival_margin": [0, 1, 2], "logit_scale": [1, 1, 2]}
MEASURED = {**LABELED, "num_classes": 3, "ignore_class": None}
OF_LABELS = {**LABELED, "y_true": TARGETS, "threshold": [0.0, 0.5, 1.0], "ignore_class": -1}
UNIT = {"y_true": IDS % 2, "y_pred": LOGITS[:, :1], "sample_weight": None}
LINEAR = {
    "y_true": IDS,
    "features": LOGITS[:, :2],
    "kernel": LOGITS[:2],
    "bias": LOGITS[3],
    "log_prior": [-1, -2, -3],
    "tau": 1.0,
    "class_axis": -1,
    "ignore_class": 7,
}
HELD_OUT = {"logits": LOGITS, "y_true": IDS}

# name: (function, the arguments of a call that is right)
CALLS = {
    "losses.logit_adjusted_crossentropy": (
        L.logit_adjusted_crossentropy,
        {
            "y_true": IDS,
            "y_pred": LOGITS,
            "log_prior": [-1, -2, -3],
            "tau": 1.0,
            "label_smoothing": 0.1,
            "ignore_class": 7,
        },
    ),
    "losses.binary_logit_adjusted_crossentropy": (
        L.binary_logit_adjusted_crossentropy,
        {"y_true": TARGETS, "y_pred": LOGITS, "log_odds": [-1, 0, 1], "tau": [1, 2, 3], "ignore_class": -1},
    ),
    "losses.linear_logit_adjusted_crossentropy": (
        L.linear_logit_adjusted_crossentropy,
        {**LINEAR, "chunk_size": 2, "label_smoothing": 0.1},
    ),
    "losses.sampled_logit_adjusted_crossentropy": (
        L.sampled_logit_adjusted_crossentropy,
        {**LINEAR, "rivals": "batch", "estimator": "posterior"},
    ),
    "losses.RivalSampler": (
        rivals_drawn,
        {"class_counts": COUNTS, "num_rivals": 2, "distribution": "prior", "power": 0.5, "seed": 0},
    ),
    "losses.pairwise_margin_crossentropy": (
        L.pairwise_margin_crossentropy,
        {"y_true": IDS, "y_pred": LOGITS, **MARGINS},
    ),
    "losses.focal_crossentropy": (
        L.focal_crossentropy,
        {"y_true": IDS, "y_pred": LOGITS, "gamma": 2.0, "class_weight": [1, 2, 3]},
    ),
    "losses.class_balanced_weights": (L.class_balanced_weights, {"class_counts": COUNTS, "beta": 0.99}),
    "losses.LogitAdjustedCrossentropy": (called(L.LogitAdjustedCrossentropy), {**ON_COUNTS, "tau": 1.0}),
    "losses.BinaryLogitAdjustedCrossentropy": (
        called(L.BinaryLogitAdjustedCrossentropy),
        {**LABELED, "y_true": TARGETS, "positive_counts": COUNTS, "num_examples": 100, "tau": 1.0, **OPTIONS},
    ),
    "losses.PairwiseMarginCrossentropy": (called(L.PairwiseMarginCrossentropy), {**ON_COUNTS, **MARGINS}),
    "losses.AdaptiveMarginCrossentropy": (called(L.AdaptiveMarginCrossentropy), {**ON_COUNTS, "max_margin": 2.0}),
    "losses.ClassBalancedCrossentropy": (called(L.ClassBalancedCrossentropy), {**ON_COUNTS, "beta": 0.99}),
    "losses.EqualizedCrossentropy": (
        called(L.EqualizedCrossentropy),
        {**ON_COUNTS, "threshold": 0.2, "gamma": 0.9, "form": "threshold"},
    ),
    "losses.VectorScalingCrossentropy": (called(L.VectorScalingCrossentropy), {**ON_COUNTS, "gamma": 0.1, "tau": 1.0}),
    "losses.FocalCrossentropy": (
        called(L.FocalCrossentropy),
        {**LABELED, "gamma": 2.0, "class_weight": None, **OPTIONS},
    ),
    "metrics.BalancedAccuracy": (updated(M.BalancedAccuracy), {**MEASURED, "k": 1, "class_prior": COUNTS}),
    "metrics.PerClassAccuracy": (updated(M.PerClassAccuracy), MEASURED),
    "metrics.PerClassPrecision": (updated(M.PerClassPrecision), {**MEASURED, "class_prior": COUNTS}),
    "metrics.MacroF1": (updated(M.MacroF1), {**UNIT, "num_classes": 2, "ignore_class": None, "threshold": 0.5}),
    "metrics.WorstClassAccuracy": (updated(M.WorstClassAccuracy), MEASURED),
    "metrics.GroupAccuracy": (
        updated(M.GroupAccuracy),
        {**LABELED, "class_counts": COUNTS, "bounds": (20, 40), "groups": None, "class_prior": COUNTS},
    ),
    "metrics.MultiLabelBalancedAccuracy": (updated(M.MultiLabelBalancedAccuracy), {**OF_LABELS, "num_labels": 3}),
    "metrics.PerLabelBalancedAccuracy": (updated(M.PerLabelBalancedAccuracy), {**OF_LABELS, "num_labels": 3}),
    "metrics.MultiLabelMacroF1": (updated(M.MultiLabelMacroF1), {**OF_LABELS, "num_labels": 3}),
    "metrics.MultiLabelGroupAccuracy": (
        updated(M.MultiLabelGroupAccuracy),
        {**OF_LABELS, "positive_counts": COUNTS, "bounds": (20, 40), "groups": None},
    ),
    "metrics.PropensityScoredPrecision": (
        updated(M.PropensityScoredPrecision),
        {
            "y_true": np.array([[0, 2], [1, -1]]),
            "y_pred": np.array([[0, 1], [1, 2]]),
            "sample_weight": np.ones(2),
            "positive_counts": COUNTS,
            "num_examples": 100,
            "k": 2,
            "a": 0.55,
            "b": 1.5,
            "ignore_class": -1,
        },
    ),
    "metrics.groups_of_counts": (M.groups_of_counts, {"class_counts": COUNTS, "bounds": (20, 40)}),
    "priors.prior": (P.prior, {"class_counts": COUNTS, "smoothing": 1.0}),
    "priors.log_prior": (P.log_prior, {"class_counts": COUNTS, "smoothing": 1.0}),
    "priors.log_odds": (P.log_odds, {"positive_counts": COUNTS, "num_examples": 100}),
    "priors.as_prior": (
        lambda **kwargs: P.as_prior(**kwargs).logits,
        {"class_counts": COUNTS, "num_examples": None, "independent": None},
    ),
    "priors.count_classes": (
        P.count_classes,
        {"labels_or_dataset": IDS, "num_classes": 3, "ignore_class": -1, "label_form": None, "record_label": None},
    ),
    "priors.count_labels": (P.count_labels, {"targets_or_dataset": TARGETS, "ignore_class": -1}),
    "priors.effective_prior": (
        P.effective_prior,
        {"class_counts": COUNTS, "class_weight": [1, 2, 3], "resampled_counts": [60, 60, 60], "class_names": None},
    ),
    "priors.StreamingPrior": (
        streamed,
        {"y_true": IDS, "y_pred": None, "num_classes": 3, "half_life": 10.0, "smoothing": 1.0, "ignore_class": None},
    ),
    "layers.ManyClassDense": (
        applied(kla.layers.ManyClassDense),
        {"inputs": LOGITS, "units": 3, "class_counts": COUNTS, "tau": 1.0, "num_rivals": 2, "chunk_size": 2, "seed": 0},
    ),
    "layers.LogitAdjustment": (
        applied(kla.layers.LogitAdjustment),
        {"inputs": LOGITS, "class_counts": COUNTS, "tau": 1.0, "target_prior": None},
    ),
    "layers.PriorAwareDense": (
        applied(kla.layers.PriorAwareDense),
        {"inputs": LOGITS, "units": 3, "class_counts": COUNTS},
    ),
    "layers.CosineDense": (
        applied(kla.layers.CosineDense),
        {"inputs": LOGITS, "units": 3, "scale": 30.0, "initial_kernel": np.eye(3)},
    ),
    "layers.MinimumRiskDecision": (
        applied(kla.layers.MinimumRiskDecision),
        {"inputs": LOGITS, "costs": np.ones((3, 2)), "from_logits": True},
    ),
    "layers.PredictionSet": (
        applied(kla.layers.PredictionSet),
        {"inputs": LOGITS, "lowest": [-1.0, -2.0, -3.0], "offset": [0.0, 1.0, 2.0]},
    ),
    "layers.Calibration": (
        lambda logits, **kwargs: kla.layers.Calibration(**kwargs).apply(logits),
        {"logits": LOGITS, "temperature": 2.0, "bias": [0.0, 1.0, 2.0]},
    ),
    "TauPath": (
        of_path,
        {**HELD_OUT, "class_counts": COUNTS, "ignore_class": None, "tau": 1.0, "measure": "accuracy"},
    ),
    "tune_tau": (
        lambda **kwargs: kla.tune_tau(**kwargs).tau,
        {
            "model_or_logits": LOGITS,
            "validation_data": IDS,
            "class_counts": COUNTS,
            "folds": 2,
            "min_examples": 1,
            "seed": 0,
        },
    ),
    "tune_offsets": (
        lambda **kwargs: kla.tune_offsets(**kwargs).offsets,
        {
            **HELD_OUT,
            "class_counts": COUNTS,
            "objective": "macro_f1",
            "class_prior": None,
            "shrinkage": 1,
            "bags": 2,
            "seed": 0,
        },
    ),
    "calibrate": (
        lambda **kwargs: kla.calibrate(**kwargs).temperature,
        {**HELD_OUT, "method": "temperature", "class_prior": None, "independent": False},
    ),
    "estimate_target_prior": (
        lambda **kwargs: kla.estimate_target_prior(**kwargs).prior,
        {"logits": LOGITS, "class_counts": COUNTS, "replicates": 3, "level": 0.9, "seed": 0, "max_iterations": 20},
    ),
    "held_out.estimate_source_prior": (
        lambda **kwargs: H.estimate_source_prior(**kwargs).prior,
        {**HELD_OUT, "class_prior": None, "level": 0.9},
    ),
    "held_out.fit_linear_probe": (
        lambda **kwargs: H.fit_linear_probe(**kwargs).bias,
        {
            "x": np.arange(24.0).reshape(8, 3) % 7,
            "y": np.array([0, 0, 0, 0, 1, 1, 2, 2]),
            "tau": 1.0,
            "criterion": "cross_entropy",
            "penalties": [1.0],
            "folds": 2,
            "seed": 0,
            "tolerance": 1e-4,
        },
    ),
    "held_out.PredictionSets": (
        lambda **kwargs: H.PredictionSets(**kwargs).thresholds,
        {**HELD_OUT, "class_counts": COUNTS, "alpha": 0.4, "coverage": "marginal", "weight": 0.5, "tau": 1.0},
    ),
    "held_out.calibration_error": (
        H.calibration_error,
        {"probabilities": PROBABILITIES, "y_true": IDS, "kind": "plain", "num_bins": 5},
    ),
    "held_out.reliability": (
        lambda **kwargs: H.reliability(**kwargs)["weight"],
        {"probabilities": PROBABILITIES, "y_true": IDS, "num_bins": 5, "balanced": False},
    ),
    "data.long_tail_counts": (
        D.long_tail_counts,
        {"num_classes": 5, "max_count": 100, "imbalance_ratio": 10.0, "profile": "exponential"},
    ),
    "data.zipf_counts": (D.zipf_counts, {"num_classes": 5, "num_examples": 100, "exponent": 1.0}),
    "data.subsample": (D.subsample, {"labels": IDS, "class_counts": [2, 1, 1], "seed": 0}),
    "data.subsample_multi_label": (
        D.subsample_multi_label,
        {"targets": TARGETS, "positive_counts": [2, 2, 1], "seed": 0, "num_unlabeled": 0},
    ),
    "data.MultiLabelSampler": (
        drawn_by_label,
        {
            "targets": TARGETS,
            "batch_size": 4,
            "strategy": "balanced",
            "seed": 0,
            "unlabeled_share": None,
            "repeat_threshold": 0.1,
            "beta": 0.99,
        },
    ),
    "data.LongTailSampler": (
        drawn,
        {"labels": IDS, "batch_size": 4, "strategy": "balanced", "seed": 0, "num_classes": 3, "beta": 0.99},
    ),
    "is_fisher_consistent": (
        lambda **kwargs: bool(kla.is_fisher_consistent(**kwargs)),
        {"loss": L.LogitAdjustedCrossentropy(COUNTS), "class_counts": COUNTS},
    ),
    "callbacks.LongTailReport": (
        lambda **kwargs: kla.callbacks.LongTailReport(**kwargs).per_class_accuracy,
        {
            "class_counts": COUNTS,
            "validation_data": (LOGITS, IDS),
            "worst": 2,
            "every": 1,
            "class_names": ("a", "b", "c"),
        },
    ),
    "callbacks.DeferredReweighting": (
        lambda **kwargs: kla.callbacks.DeferredReweighting(**kwargs) and None,
        {"stages": {2: [1.0, 2.0, 3.0]}},
    ),
    "adjust": (
        lambda **kwargs: kla.adjust(network(), **kwargs) and None,
        {"class_counts": COUNTS, "tau": 1.0, "target_prior": None, "output": "logits", "num_examples": None},
    ),
    "adjust_scores": (
        kla.adjust_scores,
        {
            "scores": PROBABILITIES,
            "class_counts": COUNTS,
            "kind": "probabilities",
            "tau": 1.0,
            "target_prior": None,
            "num_examples": None,
        },
    ),
    "fold_into_bias": (
        lambda **kwargs: kla.fold_into_bias(network(), **kwargs) and None,
        {"class_counts": COUNTS, "tau": 1.0, "target_prior": None},
    ),
    "normalize_weights": (
        lambda **kwargs: kla.normalize_weights(network(), **kwargs) and None,
        {"tau": 1.0},
    ),
}
