"""Hostile arguments for every function that NumPy alone computes: a right value, or an error of our own.

Each trial takes a call that is right and puts one or two values into it that a user might bring by mistake, or a right
one in another form.
"""

import collections
import datetime
import decimal
import os
import pathlib
import signal
import traceback
import warnings

import keras
import numpy as np
import pytest
from helpers.tables import DataFrame, Series

import keras_logit_adjust as kla
from keras_logit_adjust import data, held_out, losses, metrics, priors

PACKAGE = str(pathlib.Path(kla.__file__).parent)
TRIALS = int(os.environ.get("FUZZ_TRIALS", 150))  # of each function
SECONDS = 10  # a trial that takes longer hangs

SCALARS = (
    *(0, 1, 2, 3, -1, 7, 255, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 10**30, 10**400, -(10**400)),
    *(0.5, -0.5, 1.0, 1e-9, 5e-324, 1e-310, 1e37, 1e39, 1e300, -1e308, np.inf, -np.inf, np.nan),
    *(True, False, None, "", "a", "1", b"1", "\0", 1j, object, datetime.date(2020, 1, 1), decimal.Decimal("NaN")),
    *(np.float32(1), np.float16(2), np.int8(-1), np.uint64(2**63), np.bool_(True), np.array(3), np.array("x")),
    *(np.datetime64("NaT"), np.timedelta64(3, "D"), np.ma.masked, decimal.Decimal(2), keras.KerasTensor((2,))),
)
DTYPES = ("int8", "uint8", "int64", "uint64", "float16", "float32", "float64", "longdouble", "bfloat16")
SHAPES = ((), (3,), (12,), (12, 3))  # that fit some argument
ODD_DTYPES = ("bool", "complex64", "M8[D]", "m8[s]", "U3", "S2", "object")


def numbers(rng, shape):
    """Numbers as they might be, of any type that has them."""
    kind = rng.integers(5)
    if kind == 0:
        values = rng.integers(0, 6, shape)
    elif kind == 1:
        values = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 5)
    elif kind == 2:
        values = rng.choice([0.0, 1.0, -1.0, 1e-300, 1e300, 3e38, np.nan, np.inf, 2.0**63], shape)
    elif kind == 3:
        values = np.eye(max(1, shape[-1] if shape else 1))[
            rng.integers(0, max(1, shape[-1] if shape else 1), shape[:-1])
        ]
    else:
        values = rng.dirichlet(np.ones(max(1, shape[-1] if shape else 1)), shape[:-1])
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(rng.choice(DTYPES if rng.random() < 0.8 else ODD_DTYPES))


def hostile(rng):
    """A value for any argument."""
    if rng.random() < 0.35:
        return SCALARS[rng.integers(len(SCALARS))]
    shape = SHAPES[rng.integers(len(SHAPES))] if rng.random() < 0.6 else tuple(rng.integers(0, 5, rng.integers(0, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = numbers(rng, shape)
    forms = (
        lambda: values,
        lambda: values,
        lambda: values.tolist(),
        lambda: tuple(values.tolist()) if values.ndim else (values,),
        lambda: np.ma.masked_array(values, rng.random(values.shape) < 0.3),
        lambda: values[::-1] if values.ndim else values,
        lambda: np.asfortranarray(values),
        lambda: [*np.atleast_1d(values).tolist(), SCALARS[rng.integers(len(SCALARS))]],
        lambda: [[1, 2], [3]],
        lambda: dict(enumerate(np.atleast_1d(values).tolist())),
        lambda: {*"abc"},
        lambda: (n for n in (1, 2)),
        lambda: range(rng.integers(0, 4)),
        lambda: collections.Counter("abca"),
        lambda: Series(np.ravel(values), rng.permutation(values.size)),
        lambda: DataFrame(np.reshape(values, (-1, 1)), list("abcd" * 64)[: values.size]),
        lambda: keras.ops.convert_to_tensor(np.array([1.0, 2.0, 3.0], "float32")),
        lambda: keras.Variable(np.array([3.0, 2.0, 1.0], "float32")),
    )
    return forms[rng.integers(len(forms))]()


def in_another_form(rng, value):
    """A right value as another library, type or container has it; rarely with a number changed."""
    if isinstance(value, (str, bool, type(None))) or (isinstance(value, list) and isinstance(value[0], str)):
        return value
    array = np.array(value)
    if array.ndim == 0:
        kinds = (float, int, np.float32, np.float16, np.int8, np.uint64, np.longdouble, decimal.Decimal, np.array)
        return kinds[rng.integers(len(kinds))](value)
    array = array.astype(rng.choice(DTYPES)) if rng.random() < 0.5 else array
    if rng.random() < 0.3:
        array.flat[rng.integers(array.size)] = rng.choice([0, 1, 2, 100])
    forms = (
        lambda: array,
        lambda: array.tolist(),
        lambda: np.asfortranarray(array),
        lambda: np.ma.masked_array(array, np.zeros(array.shape, bool)),
        lambda: Series(array, np.arange(len(array))) if array.ndim == 1 else array,
        lambda: keras.ops.convert_to_tensor(array.astype("float32")),
        lambda: keras.Variable(array.astype("float32")),
    )
    return forms[rng.integers(len(forms))]()


LOGITS = np.random.default_rng(1).normal(size=(12, 3))
IDS, COUNTS = np.arange(12) % 3, [50, 30, 20]
PATH = kla.TauPath(IDS, LOGITS, COUNTS)


def is_distribution(value):
    return np.isfinite(value).all() and (value >= 0).all() and abs(value.sum() - 1) < 1e-9


def are_finite(value):
    return np.isfinite(np.asarray(value, "float64")).all()


def are_counts(value):
    return value.dtype == np.int64 and (value >= 1).all() and (np.diff(value) <= 0).all()


def is_in_unit(value):
    return 0 <= value <= 1 + 1e-9


def batches_are_rows(sampler):
    rows = np.stack([sampler.rows(step) for step in range(2)])
    return rows.shape[1] == sampler.batch_size and ((rows >= 0) & (rows < sampler.num_examples)).all()


def sampled(labels, batch_size, **options):
    sampler = data.LongTailSampler(labels, batch_size, **options)
    return sampler if sampler.batch_size < 10**6 and sampler.class_counts.size < 10**6 else None  # too large to draw


def tail(num_classes, **options):
    return data.long_tail_counts(num_classes, **options)


def calibrated(**options):
    found = held_out.calibrate(**options)
    return [found.temperature, *(found.bias or ())]


def offsets(**options):
    found = kla.tune_offsets(**options)
    return [*found.offsets, *found.base]


def interval(**options):
    return PATH.confidence_interval(replicates=3, **options)


# function, right arguments, and what holds for its value (None: too large to look at)
CALLS = {
    "prior": (priors.prior, {"class_counts": COUNTS, "smoothing": 0.5}, is_distribution),
    "log_prior": (priors.log_prior, {"class_counts": COUNTS, "smoothing": 0}, are_finite),
    "log_odds": (priors.log_odds, {"positive_counts": COUNTS, "num_examples": 100}, are_finite),
    "as_prior": (
        lambda **options: priors.as_prior(**options).logits,
        {"class_counts": COUNTS, "num_examples": None, "class_names": list("abc")},
        are_finite,
    ),
    "effective_prior": (
        priors.effective_prior,
        {"class_counts": COUNTS, "class_weight": [1, 2, 3], "resampled_counts": [5, 5, 5], "class_names": list("abc")},
        is_distribution,
    ),
    "adjust_scores": (
        kla.adjust_scores,
        {"scores": LOGITS, "class_counts": COUNTS, "kind": "logits", "tau": 0.5, "target_prior": [1, 1, 2]},
        None,
    ),
    "class_balanced_weights": (
        losses.class_balanced_weights,
        {"class_counts": COUNTS, "beta": 0.99, "mean_over": "examples"},
        lambda value: are_finite(value) and (value > 0).all(),
    ),
    "groups_of_counts": (
        metrics.groups_of_counts,
        {"class_counts": COUNTS, "bounds": (20, 100), "inclusive": True},
        lambda value: set(value) <= {"many", "medium", "few"},
    ),
    "Calibration": (
        lambda temperature, bias, logits: kla.Calibration(temperature, bias).apply(logits),
        {"temperature": 2.0, "bias": [0.1, 0.2, 0.3], "logits": LOGITS},
        None,
    ),
    "long_tail_counts": (tail, {"num_classes": 5, "max_count": 100, "imbalance_ratio": 10.0}, are_counts),
    "zipf_counts": (data.zipf_counts, {"num_classes": 5, "num_examples": 100, "exponent": 1.0}, are_counts),
    "subsample": (
        data.subsample,
        {"labels": IDS, "class_counts": [2, 1, 0], "seed": 0},
        lambda value: value.dtype == np.int64 and (np.diff(value) > 0).all(),
    ),
    "LongTailSampler": (
        sampled,
        {"labels": IDS, "batch_size": 4, "strategy": "balanced", "seed": 0, "num_classes": 3, "beta": 0.9},
        batches_are_rows,
    ),
    "TauPath": (
        lambda tau, **options: kla.TauPath(**options).at(tau),
        {"y_true": IDS, "logits": LOGITS, "class_counts": COUNTS, "tau": 1.0},
        lambda value: ((np.asarray(value) >= 0) & (np.asarray(value) <= 1 + 1e-9)).all(),
    ),
    "confidence_interval": (
        interval,
        {"tau": 1.0, "measure": "balanced_accuracy", "level": 0.9, "seed": 0},
        are_finite,
    ),
    "tune_tau": (
        lambda **options: float(kla.tune_tau(**options)),
        {"model_or_logits": LOGITS, "validation_data": IDS, "class_counts": COUNTS, "seed": 0, "folds": 2},
        are_finite,
    ),
    "tune_offsets": (
        offsets,
        {"logits": LOGITS, "y_true": IDS, "class_counts": COUNTS, "objective": "macro_f1", "bags": 1, "tau": 0.5},
        are_finite,
    ),
    "tune_offsets by cost": (
        offsets,
        {"logits": LOGITS, "y_true": IDS, "class_counts": COUNTS, "objective": [1, 2, 3], "seed": 0, "shrinkage": 5},
        are_finite,
    ),
    "calibrate": (
        calibrated,
        {"logits": LOGITS, "y_true": IDS, "method": "bias_corrected_temperature", "class_prior": None},
        are_finite,
    ),
    "calibration_error": (
        held_out.calibration_error,
        {"probabilities": np.eye(3)[IDS] * 0.7 + 0.1, "y_true": IDS, "kind": "classwise", "num_bins": 4},
        is_in_unit,
    ),
    "reliability": (
        lambda **options: held_out.reliability(**options)["weight"],
        {"probabilities": np.eye(3)[IDS] * 0.7 + 0.1, "y_true": IDS, "num_bins": 4, "balanced": True},
        is_distribution,
    ),
    "estimate_target_prior": (
        lambda **options: kla.estimate_target_prior(replicates=2, max_iterations=50, **options).effective_prior,
        {"logits": LOGITS, "class_counts": COUNTS, "level": 0.9, "seed": 0, "tol": 1e-6},
        is_distribution,
    ),
    "estimate_target_prior by BBSE": (
        lambda logits, labels, **options: (
            kla.estimate_target_prior(
                logits, replicates=2, method="bbse", validation=(LOGITS, labels), **options
            ).effective_prior
        ),
        {"logits": LOGITS, "labels": IDS, "class_counts": COUNTS},
        is_distribution,
    ),
}


@pytest.fixture
def no_hang():
    """Ends what takes longer than `SECONDS` with a `TimeoutError`, where the system can."""
    if not hasattr(signal, "SIGALRM"):
        yield lambda seconds: None
        return

    def end(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def answer(call, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a warning of ours is an answer; one of NumPy's is an error
        return call(**arguments)


def is_ours(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, ValueError | TypeError) and last.filename.startswith(PACKAGE)


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_argument_gives_a_right_value_or_an_error_of_ours(name, no_hang):
    call, right, holds = CALLS[name]
    rng = np.random.default_rng([*name.encode()])
    assert holds is None or holds(answer(call, right))
    for _ in range(TRIALS):
        arguments = {**right}
        for argument in rng.choice(list(right), rng.choice([1, 1, 2]), replace=False):
            change = hostile(rng) if rng.random() < 0.7 else in_another_form(rng, right[argument])
            arguments[argument] = change
        no_hang(SECONDS)
        try:
            value = answer(call, arguments)
        except Exception as error:
            no_hang(0)
            assert is_ours(error), f"{name}({arguments}): {error!r}"
            assert 10 < len(str(error)) < 2000, f"{name}({arguments}): {error!r}"
            continue
        no_hang(0)
        assert value is None or holds is None or holds(value), f"{name}({arguments}) = {value}"
