"""What the losses make of labels, masks, weights and means, and how they live in a model."""

import contextlib
import inspect

import keras
import numpy as np
import pytest
import reference
from helpers.combinations import fast_first, pairs_first
from helpers.gradients import MODES, as_float64, value_and_gradient, with_mask
from keras import ops

from keras_logit_adjust import _labels
from keras_logit_adjust.layers import CosineDense
from keras_logit_adjust.losses import (
    BinaryLogitAdjustedCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
)

COUNTS = [437, 50, 12, 1]
LOG_PRIOR = reference.log_prior(COUNTS)
REDUCTIONS = ["sum", "sum_over_batch_size", "mean", "mean_with_sample_weight", "none", None]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def sequences(rng):
    """Ids [3, 4] and their logits."""
    return rng.integers(0, 4, (3, 4)).astype("int32"), rng.normal(0, 3, (3, 4, 4)).astype("float32")


def shifted(logits, tau=1.0):
    return (logits + tau * LOG_PRIOR).astype("float32")


def assert_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pairs_first(
    reduction=["sum", "sum_over_batch_size", "mean_with_sample_weight", None],
    mode=MODES,
    masked=[False, True],
    ignore_class=[None, 2],
)
def test_every_reduction_mask_and_ignored_class_is_kerass(sequences, reduction, mode, masked, ignore_class):
    ids, logits = sequences
    ids[0, 0], weight = 2, np.random.default_rng(1).uniform(0, 2, ids.shape).astype("float32")
    options = {"reduction": reduction, "ignore_class": ignore_class}
    ours = LogitAdjustedCrossentropy(COUNTS, **options)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]], "bool") if masked else np.ones((3, 4), "bool")
    expected = value_and_gradient(with_mask(theirs, mask, weight), ids, shifted(logits))
    assert_same(value_and_gradient(with_mask(ours, mask, weight), ids, logits, mode), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [None, (3,), (3, 1)], ids=str)
def test_weights_of_examples_are_kerass(rng, reduction, weight_shape):
    ids, logits = np.array([0, 3, 1]), rng.normal(0, 3, (3, 4)).astype("float32")
    weight = None if weight_shape is None else np.array([0.5, 2.0, 0.0], "float32").reshape(weight_shape)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    expected = as_float64(theirs(ids, shifted(logits), None if weight is None else weight.ravel()))
    for labels in (ids, np.eye(4, dtype="float32")[ids]):
        ours = LogitAdjustedCrossentropy(COUNTS, reduction=reduction)
        np.testing.assert_allclose(as_float64(ours(labels, logits, weight)), expected, **CLOSE)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight_shape", [(3,), (3, 1), (1, 1), (3, 4)], ids=str)
def test_a_weight_of_examples_weights_each_of_their_positions(sequences, reduction, weight_shape):
    ids, logits = sequences
    weight = np.random.default_rng(1).uniform(0.5, 2, weight_shape).astype("float32")
    spread = np.broadcast_to(weight if weight.ndim == 2 else weight[:, None], (3, 4))
    loss = LogitAdjustedCrossentropy(COUNTS, reduction=reduction)
    expected = as_float64(loss(ids, logits, spread))
    np.testing.assert_allclose(as_float64(loss(ids, logits, weight)), expected, **CLOSE)


def test_means_divide_by_valid_positions_or_by_their_weights(sequences):
    ids, logits = sequences
    ids[:, 0], weight = -1, np.array([1.0, 3.0, 0.5])
    values = reference.over_rows(reference.crossentropy, np.eye(4)[ids[:, 1:]], logits[:, 1:] + LOG_PRIOR)[0]
    total = (values * weight[:, None]).sum()
    for reduction, divisor in [("sum", 1), ("sum_over_batch_size", 9), ("mean_with_sample_weight", 3 * weight.sum())]:
        loss = LogitAdjustedCrossentropy(COUNTS, ignore_class=-1, reduction=reduction)
        np.testing.assert_allclose(as_float64(loss(ids, logits, weight)), total / divisor, **CLOSE)


@pairs_first(mode=MODES, how=["mask", "ignore_class"], reduction=["sum_over_batch_size", None])
def test_what_lies_under_a_mask_does_no_harm(sequences, mode, how, reduction):
    ids, logits = sequences
    loss = LogitAdjustedCrossentropy(COUNTS, reduction=reduction, ignore_class=-7)
    mask = np.ones((3, 4), "bool")
    mask[0, 1] = mask[2, :] = False
    clean = value_and_gradient(with_mask(loss, mask), ids, logits)
    ids[~mask] = -7 if how == "ignore_class" else 99
    logits[~mask] = np.nan
    logits[2, 0] = np.inf
    dirty = loss if how == "ignore_class" else with_mask(loss, mask)
    assert_same(value_and_gradient(dirty, ids, logits, mode), clean)
    assert (clean[1][~mask] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_unknown_binary_targets_do_no_harm(rng, mode):
    logits, targets = rng.normal(0, 3, (3, 4)).astype("float32"), rng.integers(0, 2, (3, 4)).astype("float32")
    known = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], "bool")
    scores = logits + reference.log_odds(COUNTS, 1000)
    value, gradient = 0.0, np.zeros((3, 4))
    for i, label in np.argwhere(known):  # the mean over the seven known labels
        cost, slope = reference.sigmoid_crossentropy(targets[i, [label]], scores[i, [label]])
        value, gradient[i, label] = value + cost / 7, slope[0] / 7
    targets[~known], logits[~known] = -1, np.nan
    loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, ignore_class=-1)
    assert_same(value_and_gradient(loss, targets, logits, mode), (value, gradient))


def test_the_best_constant_logit_is_balanced_whatever_else_is_unknown():
    targets = np.array([[1, -1]] * 10 + [[0, 0]] * 90, "float32")  # where label 0 is on, label 1 is unknown
    for reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none"):
        loss = BinaryLogitAdjustedCrossentropy([10, 5], 100, ignore_class=-1, reduction=reduction)
        gradient = value_and_gradient(
            lambda y, f, loss=loss: ops.sum(loss(y, f)), targets, np.zeros((100, 2), "float32")
        )[1]
        np.testing.assert_allclose(gradient[:, 0].sum(), 0.0, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_known_label_weighs_as_much_in_every_reduction(rng, reduction, weighted):
    targets, logits = rng.integers(-1, 2, (6, 4)).astype("float32"), rng.normal(0, 3, (6, 4)).astype("float32")
    targets[5] = -1
    weight = rng.uniform(0, 2, 6).astype("float32") if weighted else np.ones(6, "float32")
    scores, known = logits + reference.log_odds(COUNTS, 1000), targets >= 0
    costs = np.where(known, targets * np.logaddexp(0, -scores) + (1 - targets) * np.logaddexp(0, scores), 0.0)
    total = weight[:, None] * costs
    expected = {
        "sum": total.sum() / 4,
        "sum_over_batch_size": total.sum() / known.sum(),
        "mean": total.sum() / known.sum(),
        "mean_with_sample_weight": total.sum() / (weight[:, None] * known).sum(),
    }.get(reduction, total.sum(axis=1) / 4)
    loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, ignore_class=-1, reduction=reduction)
    np.testing.assert_allclose(as_float64(loss(targets, logits, weight if weighted else None)), expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_a_batch_with_nothing_valid_costs_nothing(sequences, mode, reduction):
    ids, logits = sequences
    loss = LogitAdjustedCrossentropy(COUNTS, ignore_class=0, reduction=reduction)
    assert_same(value_and_gradient(loss, 0 * ids, logits, mode), (0.0, np.zeros_like(logits)))


@pairs_first(mode=MODES, label_smoothing=[0.0, 0.1], rows=[0, 3])
def test_an_empty_batch_costs_nothing(mode, label_smoothing, rows):
    logits = np.zeros((0, 4), "float32")
    labels = logits if rows else np.zeros((0,), "int32")
    loss = LogitAdjustedCrossentropy(COUNTS, label_smoothing=label_smoothing)
    assert_same(value_and_gradient(loss, labels, logits, mode), (0.0, logits))


IMPROPER = {
    "int32": [-1, -7, 4, 255, 2**31 - 1, -(2**31)],
    "float32": [-1.0, 4.0, 0.5, -0.25, 3.5, 2.0**31, np.nan, np.inf, -np.inf],
    "float16": [-1.0, 4.0, 0.5, np.nan, np.inf],
}


@pairs_first(dtype=IMPROPER, mode=MODES, label_smoothing=[0.0, 0.1])
def test_an_improper_id_gives_nan_and_harms_no_other_row(rng, mode, dtype, label_smoothing):
    labels = np.array([1, *IMPROPER[dtype], 2], dtype)
    logits = rng.normal(0, 3, (len(labels), 4)).astype("float32")
    loss = LogitAdjustedCrossentropy(COUNTS, label_smoothing=label_smoothing, reduction=None)
    value, gradient = value_and_gradient(loss, labels, logits, mode)
    assert np.isnan(value[1:-1]).all() and np.isnan(gradient[1:-1]).all()
    clean = value_and_gradient(loss, np.array([1, 2]), logits[[0, -1]])
    assert_same((value[[0, -1]], gradient[[0, -1]]), clean)
    assert np.isnan(as_float64(LogitAdjustedCrossentropy(COUNTS)(labels, logits)))


@pytest.mark.parametrize("mode", MODES)
def test_a_binary_target_outside_0_and_1_gives_nan(rng, mode):
    loss = BinaryLogitAdjustedCrossentropy(COUNTS, 1000, reduction=None)
    targets = np.array([[1, 0, 0, 0], *([1, target, 0, 0] for target in (-1.0, 1.5, 2, np.nan))], "float32")
    value, gradient = value_and_gradient(loss, targets, rng.normal(size=(5, 4)).astype("float32"), mode)
    assert np.isfinite(value[0]) and np.isfinite(gradient[0]).all()
    assert np.isnan(value[1:]).all() and np.isnan(gradient[1:, 1]).all()


@pytest.mark.parametrize("ignore_class", [None, -1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize(
    "labels",
    [
        [2**32, 1],
        [2**32 + 1, 0],
        [2**40, 1],
        [-(2**32), 0],
        np.array([2**64 - 1, 2**63], "uint64"),
        np.array([2**32 - 1, 2**31], "uint32"),
    ],
    ids=str,
)
def test_an_id_that_no_int32_holds_is_nan_and_not_another_class(labels, ignore_class):
    loss = LogitAdjustedCrossentropy([9, 1], reduction=None, ignore_class=ignore_class)
    is_class = np.array([0 <= int(label) < 2 for label in labels])
    given = [np.array(labels)]
    if given[0].dtype == "uint32" or keras.backend.backend() == "tensorflow":  # others cannot hold it in a tensor
        given.append(ops.convert_to_tensor(given[0]))
    for ids in given:
        assert np.isnan(as_float64(loss(ids, np.zeros((2, 2), "float32")))).tolist() == (~is_class).tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "bool"])
def test_ids_of_every_integer_type_are_read(dtype):
    ids, logits = np.array([0, 1, 1, 0]), np.eye(4, 300, dtype="float32")
    loss = LogitAdjustedCrossentropy(np.ones(300), ignore_class=-1)
    assert_same(value_and_gradient(loss, ids.astype(dtype), logits), value_and_gradient(loss, ids, logits))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float32"])
def test_ids_beyond_the_reach_of_half_precision_stay_exact_through_a_model(floatx, policy):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    logits = np.zeros((2, 3000), "float32")
    logits[:, 2049] = 20.0
    loss = LogitAdjustedCrossentropy(np.ones(3000), reduction="sum")
    model = keras.Sequential([keras.Input((3000,)), keras.layers.Identity()])
    model.compile(loss=loss, run_eagerly=True)  # three labels are no reason to trace a step for each precision
    other = np.log(np.exp(20.0) + 2999)
    for labels, expected in [((2049, 2049), 2 * (other - 20.0)), ((2048, 2050), 2 * other)]:
        labels = np.array(labels)
        np.testing.assert_allclose(as_float64(loss(labels, logits)), expected, rtol=1e-5, atol=1e-5)
        reported = float(model.evaluate(logits, labels, verbose=0))  # in `floatx`
        np.testing.assert_allclose(reported, expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float32"])
def test_ids_up_to_2_to_the_24_are_settled_exactly(floatx, dtype):
    keras.config.set_floatx(floatx)
    ids = np.array([0, 2049, 2**24 - 1, 2**24])
    labels = _labels.read(ids.astype(dtype), None, 2**24 + 1)
    assert ops.convert_to_numpy(labels.ids).tolist() == ids.tolist()
    assert ops.convert_to_numpy(labels.proper).all()
    labels = _labels.read(ids.astype(dtype), None, 2**24)
    assert ops.convert_to_numpy(labels.proper).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("dtype", "exact"), [("bfloat16", 256), ("float16", 2048)])
def test_ids_in_half_precision_are_read_where_exact_and_else_refused(dtype, exact):
    """`exact + 1` is rounded to `exact`, so a label of one class would be taken for another."""
    ids = ops.cast(np.array([0.0, exact - 1, exact, -1.0, 0.5], "float32"), dtype)
    for num_classes, last in [(exact + 1, True), (exact, False)]:
        labels = _labels.read(ids, None, num_classes)
        assert ops.convert_to_numpy(labels.ids).tolist() == [0, exact - 1, exact * last, 0, 0]
        assert ops.convert_to_numpy(labels.proper).tolist() == [True, True, last, False, False]
    loss, logits = LogitAdjustedCrossentropy(np.ones(exact + 2)), np.zeros((5, exact + 2), "float32")
    with pytest.raises(ValueError, match=rf"must be integers: {dtype} holds .* to {exact} alone.* as int32"):
        loss(ids, logits)
    keras.config.set_floatx(dtype)  # Keras casts labels that are floats to it
    model = keras.Sequential([keras.Input((exact + 2,)), keras.layers.Identity()])
    model.compile(loss=loss, run_eagerly=True)
    with pytest.raises(ValueError, match=rf"must be integers: {dtype} .* Received {dtype} and {exact + 2} classes"):
        model.evaluate(logits, np.arange(5.0), verbose=0)


SHAPES = {"(B,)": (), "(B,1)": (1,), "(B,L)": (4,), "(B,T)": (5,), "(B,H,W)": (3, 2), "(B,H,W,1)": (3, 2, 1)}


STATIC = [pytest.param(shape, 6, id=f"{shape}-static batch") for shape in ("(B,)", "(B,L)", "(B,H,W,1)")]


@pytest.mark.parametrize(
    ("shape", "batch_size"), [*(pytest.param(shape, None, id=f"{shape}-unknown batch") for shape in SHAPES), *STATIC]
)
def test_fit_moves_a_bias_by_label_frequency_less_prior(rng, shape, batch_size):
    sizes = SHAPES[shape]
    leading = sizes[:-1] if shape in ("(B,1)", "(B,L)", "(B,H,W,1)") else sizes
    ids = rng.integers(0, 4, (6, *leading))
    labels = np.eye(4, dtype="float32")[ids] if shape == "(B,L)" else ids.reshape(6, *sizes)
    model = keras.Sequential([keras.Input(batch_shape=(batch_size, *leading, 2)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(1.0), LogitAdjustedCrossentropy(COUNTS))
    history = model.fit(np.zeros((6, *leading, 2), "float32"), labels, batch_size=6, verbose=0)
    frequency = np.bincount(ids.ravel(), minlength=4) / ids.size
    np.testing.assert_allclose(history.history["loss"], [-(frequency * LOG_PRIOR).sum()], **CLOSE)
    np.testing.assert_allclose(model.layers[-1].get_weights()[1], frequency - np.exp(LOG_PRIOR), **CLOSE)


def test_multi_label_fit_moves_a_bias_by_label_frequency_less_prior():
    targets = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0]])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(1.0), BinaryLogitAdjustedCrossentropy(COUNTS, 1000))
    model.fit(np.zeros((3, 2), "float32"), targets, verbose=0)
    step = targets.mean(axis=0) - np.array(COUNTS) / 1000
    np.testing.assert_allclose(model.layers[-1].get_weights()[1], step / 4, **CLOSE)


def test_fit_leaves_out_the_steps_that_a_layer_masks():
    features = np.array([[[1.0], [1.0], [0.0]], [[1.0], [0.0], [0.0]]], "float32")
    ids = np.array([[0, 3, -7], [1, -7, -7]])
    layers = [keras.layers.Masking(), keras.layers.Dense(4, kernel_initializer="zeros")]
    model = keras.Sequential([keras.Input((3, 1)), *layers])
    model.compile(keras.optimizers.SGD(1.0), LogitAdjustedCrossentropy(COUNTS))
    model.fit(features, ids, verbose=0)
    step = np.array([1, 1, 0, 1]) / 3 - np.exp(LOG_PRIOR)
    np.testing.assert_allclose(model.layers[-1].get_weights()[1], step, **CLOSE)


LOSSES = [
    LogitAdjustedCrossentropy(
        COUNTS, tau=[0.5, 1, 1.5, 2], label_smoothing=0.1, ignore_class=-1, reduction="sum", name="a"
    ),
    BinaryLogitAdjustedCrossentropy(
        np.array(COUNTS), np.int64(1000), tau=2, label_smoothing=0.1, ignore_class=-1, reduction="mean", name="b"
    ),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_saved_model_brings_its_loss_along(rng, tmp_path, loss):
    rebuilt = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert rebuilt.get_config() == loss.get_config()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", loss, run_eagerly=True)  # files are looked at, not traces
    x, y = rng.normal(size=(6, 3)), rng.integers(-1, 2, (6,) if loss.name == "a" else (6, 4))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is type(loss)
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.test_on_batch(x, y) == model.test_on_batch(x, y)
    logits, y = ops.convert_to_tensor(model.predict_on_batch(x)), ops.convert_to_tensor(y)
    np.testing.assert_array_equal(as_float64(rebuilt(y, logits)), as_float64(loss(y, logits)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_config_names_every_argument_of_the_constructor_in_plain_values(loss):
    config = loss.get_config()
    assert set(config) == set(inspect.signature(type(loss)).parameters)
    for value in config.values():
        for leaf in value if isinstance(value, list) else [value]:
            assert type(leaf) in (int, float, str, type(None))


@fast_first(("family", "nested"), [(False, True), (True, False)], (False, True), (False, True))
def test_an_adjusted_loss_warns_of_a_cosine_head_too_narrow_for_the_prior(family, nested):
    loss = LogitAdjustedCrossentropy(COUNTS)
    adjustment = np.array(loss.adjustment)
    np.testing.assert_allclose(np.ptp(adjustment), np.ptp(LOG_PRIOR))
    if family:
        loss = PairwiseMarginCrossentropy(COUNTS, label_margin=-adjustment, rival_margin=adjustment)
    x, y = np.ones((4, 2), "float32"), np.array([0, 1, 2, 3])
    for scale, warns in ((1.0, True), (np.ptp(adjustment), False)):
        model = keras.Sequential([keras.Input((2,)), CosineDense(4, scale=scale)])
        model = keras.Sequential([keras.Input((2,)), model]) if nested else model
        model.compile("sgd", loss, run_eagerly=True)  # the head is looked at before the first step
        message = r"cosine head and lie in \[−1, 1\]; the adjustment spans 6\.08.*scale of at least 6\.08"
        with pytest.warns(UserWarning, match=message) if warns else contextlib.nullcontext():
            model.fit(x, y, verbose=0)
