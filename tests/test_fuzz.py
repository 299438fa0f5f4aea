"""Hostile calls of every public name, drawn from a seed: a value, or a `ValueError` or `TypeError` of our own.

A call that is right has one or two of its arguments replaced, by a value of another kind or by its own value spoiled.
Whatever comes back must hold no NaN that finite arguments and DESIGN do not explain. Whatever is raised must be raised
in the package: such a message has a rule, what arrived and a remedy, and that of a library below has not.
"""

import os
import pathlib
import signal
import traceback
import warnings

import keras
import numpy as np
import pytest
from helpers.right_calls import CALLS
from keras import ops

import keras_logit_adjust as kla

PACKAGE = str(pathlib.Path(kla.__file__).parent)
SECONDS = 10  # a call that takes longer hangs
DRAWS = int(os.environ.get("FUZZ_DRAWS", 20))  # of each name

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
        "callbacks.PredictorMetrics",
        "callbacks.SamplerBackup",
        "data.LongTailDataset",
        "data.RebalancedStream",
        "data.load",
        "data.read_class_counts",
        "data.rebalance",
        "data.subsample_stream",
        "held_out.predict_logits",
        "layers.ManyClassModel",
        "layers.ManyClassPredictor",
        "layers.StreamingPriorDense",
        "layers.TopClasses",
        "layers.many_class_layout",
        "losses.Consistency",
        "losses.Rivals",
        "losses.Witness",
        "held_out.BestTau",
        "held_out.LinearProbe",
        "held_out.SetReport",
        "held_out.SourcePrior",
        "held_out.TargetPrior",
        "held_out.TunedOffsets",
        "held_out.TunedTau",
        "posthoc.AdjustedModel",
        "posthoc.AdjustedOutputs",
        "posthoc.product_of_experts",
        "priors.CountingModel",
        "priors.LabelCounts",
        "priors.Prior",
    }
    called = {name.split(".")[-1] for name in CALLS}
    for room in ("losses", "metrics", "priors", "layers", "held_out", "data", "callbacks", "posthoc"):
        names = set(getattr(kla, room).__all__)
        assert {f"{room}.{name}" for name in names - called} <= others, room
