"""Hostile calls of every public name, drawn from a seed: a value, or a `ValueError` or `TypeError` of our own.

A call that is right has one or two of its arguments replaced, by a value of another kind or by its own value spoiled.
Whatever comes back must hold no NaN that finite arguments and DESIGN do not explain. Whatever is raised must be raised
in the package: such a message has a rule, what arrived and a remedy, and that of a library below has not.
"""

import pathlib
import signal
import traceback
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_logit_adjust as kla

COUNTS = [60, 30, 10]
IDS = np.array([0, 1, 2, 0, 1, 0])
LOGITS = np.random.default_rng(0).normal(0, 3, (6, 3)).astype("float32")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=-1, keepdims=True)
TARGETS = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
PACKAGE = str(pathlib.Path(kla.__file__).parent)
SECONDS = 10  # a call that takes longer hangs
DRAWS = 60  # of each name

HOSTILE = [
    None,
    True,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.5,
    1e300,
    1e-300,
    float("nan"),
    float("inf"),
    1j,
    "1",
    "",
    b"1",
    [],
    [[]],
    [1],
    [1, 2],
    [1, 2, 3],
    [0, 0, 0],
    [-1, 2, 3],
    [1, float("nan"), 2],
    [1e300, 1e300, 1e300],
    [1e-300, 1, 1],
    [1, [2, 3]],
    ["a", "b", "c"],
    [None, 1, 2],
    {},
    {0: 1, 1: 2},
    {"a": 1},
    {1, 2, 3},
    (1, 2, 3),
    range(3),
    np.array(3.0),
    np.array([]),
    np.zeros((0, 3)),
    np.zeros((2, 0)),
    np.ones((2, 3, 3)),
    np.array([1 + 1j, 2, 3]),
    np.array([True, False, True]),
    np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "datetime64[D]"),
    np.array([1, 2, 3], "uint64") + np.uint64(2**63),
    np.array([1, "a", None], dtype=object),
    np.ma.masked_array([1, 2, 3], [True, False, False]),
    np.array([1, 2, 3], "float16"),
    object(),
    len,
    ValueError,
    keras.Sequential,
]


def spoiled(value, rng):
    """The value of a right call, one thing about it changed."""
    if not isinstance(value, (list, np.ndarray)):
        return HOSTILE[rng.integers(len(HOSTILE))]
    array = np.array(value)
    kind = rng.integers(12)
    if kind < 5:
        array = array.astype("float64")
        array.flat[rng.integers(array.size)] = [np.nan, np.inf, -1.0, 1e300, 0.5][kind]
        return array
    return [
        lambda: array.astype("float16"),
        lambda: array[:-1],
        lambda: array[None],
        lambda: array.T[..., None],
        lambda: array.astype(object),
        lambda: array.astype("int64") + 2**32,
        lambda: ops.convert_to_tensor(array.astype("float32")),
    ][kind - 5]()


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


def of_path(tau, measure, **kwargs):
    path = kla.TauPath(**kwargs)
    return path.at(tau, measure), path.best(measure).value


LABELED = {"y_true": IDS, "y_pred": LOGITS, "sample_weight": None}
OPTIONS = {"label_smoothing": 0.1, "ignore_class": None, "reduction": "sum_over_batch_size"}
ON_COUNTS = {**LABELED, "class_counts": COUNTS, **OPTIONS}
MARGINS = {"class_weight": [1, 2, 3], "label_margin": [0, 1, 2], "rival_margin": [0, 1, 2], "logit_scale": [1, 1, 2]}
MEASURED = {**LABELED, "num_classes": 3, "ignore_class": None}
UNIT = {"y_true": IDS % 2, "y_pred": LOGITS[:, :1], "sample_weight": None}
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
        {"labels_or_dataset": IDS, "num_classes": 3, "label_form": None, "record_label": None},
    ),
    "priors.StreamingPrior": (
        streamed,
        {"y_true": IDS, "y_pred": None, "num_classes": 3, "half_life": 10.0, "smoothing": 1.0, "ignore_class": None},
    ),
    "layers.LogitAdjustment": (
        applied(kla.layers.LogitAdjustment),
        {"inputs": LOGITS, "class_counts": COUNTS, "tau": 1.0, "target_prior": None},
    ),
    "layers.PriorAwareDense": (
        applied(kla.layers.PriorAwareDense),
        {"inputs": LOGITS, "units": 3, "class_counts": COUNTS},
    ),
    "layers.CosineDense": (applied(kla.layers.CosineDense), {"inputs": LOGITS, "units": 3, "scale": 30.0}),
    "layers.MinimumRiskDecision": (
        applied(kla.layers.MinimumRiskDecision),
        {"inputs": LOGITS, "costs": np.ones((3, 2)), "from_logits": True},
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
    "fold_into_bias": (
        lambda **kwargs: kla.fold_into_bias(network(), **kwargs) and None,
        {"class_counts": COUNTS, "tau": 1.0, "target_prior": None},
    ),
    "normalize_weights": (
        lambda **kwargs: kla.normalize_weights(network(), **kwargs) and None,
        {"tau": 1.0},
    ),
}
CHECKED_BY_KERAS = {"inputs", "units"}  # of its layers, with messages of its own
MAY_BE_NAN = ("losses.", "metrics.", "priors.Streaming")  # of labels that are no classes, or where no label was seen


class Hung(BaseException):
    pass


@pytest.fixture
def alarm():
    def ring(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    keras.config.disable_traceback_filtering()  # that who raised an error can be seen
    yield signal.setitimer
    keras.config.enable_traceback_filtering()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def is_finite(value):
    """Whether an argument is nothing but numbers that float32 holds with room to spare, or none at all."""
    try:
        return bool((np.abs(np.asarray(value, "float64")) < 1e30).all())
    except Exception:
        return True


def ours(error):
    """The frames of the traceback that are the package's, and whether the last one is."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    return inside, frames[-1].filename.startswith((PACKAGE, __file__))


def judge(name, arguments, alarm):
    """What is wrong with a call, or None."""
    function = CALLS[name][0]
    alarm(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            result = function(**arguments)
            numbers = [
                np.asarray(ops.convert_to_numpy(x)) for x in keras.tree.flatten(result) if not isinstance(x, str)
            ]
    except Hung:
        return f"took more than {SECONDS} s"
    except (ValueError, TypeError) as error:
        inside, is_last = ours(error)
        return None if is_last else f"{type(error).__name__} of another's, {str(error)[:120]!r}, from {inside[-1:]}"
    except Exception as error:
        return f"{type(error).__name__}, {str(error)[:120]!r}, from {ours(error)[0][-1:]}"
    finally:
        alarm(signal.ITIMER_REAL, 0)
    is_nan = any(np.isnan(x).any() for x in numbers if x.dtype.kind == "f")
    if is_nan and not name.startswith(MAY_BE_NAN) and all(map(is_finite, arguments.values())):
        return f"NaN of finite arguments: {result}"
    return None


@pytest.mark.parametrize("name", CALLS)
def test_a_right_call_gives_numbers(name, alarm):
    function, arguments = CALLS[name]
    assert judge(name, arguments, alarm) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = function(**arguments)
    for value in keras.tree.flatten(result):
        if value is not None and not isinstance(value, str):
            assert np.isfinite(np.asarray(ops.convert_to_numpy(value), "float64")).all()


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_call_gives_a_value_or_an_error_of_our_own(name, alarm):
    rng = np.random.default_rng(list(name.encode()))
    right, wrong = CALLS[name][1], []
    for _ in range(DRAWS):
        changed = {str(key) for key in rng.choice(list(right), size=min(len(right), rng.integers(1, 3)), replace=False)}
        changed = {
            key: spoiled(right[key], rng) if rng.random() < 0.5 else HOSTILE[rng.integers(len(HOSTILE))]
            for key in sorted(changed - CHECKED_BY_KERAS)
        }
        if (found := judge(name, {**right, **changed}, alarm)) is not None:
            wrong.append(f"{changed}: {found}")
    assert not wrong, "\n".join([f"{len(wrong)} of {DRAWS}:", *wrong[:40]])


def test_every_public_function_and_class_of_numbers_is_called():
    others = {  # of models and datasets, files and figures: their own tests give them what they do not expect
        "callbacks.SamplerBackup",
        "data.LongTailDataset",
        "data.RebalancedStream",
        "data.load",
        "data.read_class_counts",
        "data.rebalance",
        "data.subsample_stream",
        "held_out.predict_logits",
        "layers.StreamingPriorDense",
        "losses.Consistency",
        "losses.Witness",
        "held_out.BestTau",
        "held_out.TargetPrior",
        "held_out.TunedOffsets",
        "held_out.TunedTau",
        "posthoc.AdjustedModel",
        "posthoc.product_of_experts",
        "priors.CountingModel",
        "priors.Prior",
    }
    called = {name.split(".")[-1] for name in CALLS}
    for room in ("losses", "metrics", "priors", "layers", "held_out", "data", "callbacks", "posthoc"):
        names = set(getattr(kla, room).__all__)
        assert {f"{room}.{name}" for name in names - called} <= others, room
