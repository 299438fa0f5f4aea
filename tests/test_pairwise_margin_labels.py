"""The family and focal loss on the common base: masks, weights, means, improper labels, and life in a model."""

import inspect
from functools import partial

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import MODES, as_float64, value_and_gradient, with_mask
from keras import ops

from keras_logit_adjust.losses import (
    AdaptiveMarginCrossentropy,
    ClassBalancedCrossentropy,
    EqualizedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    VectorScalingCrossentropy,
    focal_crossentropy,
    pairwise_margin_crossentropy,
)

COUNTS = [437, 50, 12, 1]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ENDS = list(dict.fromkeys((MODES[0], MODES[-1])))  # eager and as compiled as can be
WEIGHT, LABEL_MARGIN, RIVAL_MARGIN = [0.5, 1.0, 2.0, 3.0], [0.3, -1.0, 0.0, 2.0], [-0.7, 0.0, 1.5, -2.0]
SCALE = [1.0, 0.5, 2.0, 0.25]
TABLE = np.add.outer(LABEL_MARGIN, RIVAL_MARGIN)
KINDS = {
    "family": (
        partial(
            PairwiseMarginCrossentropy,
            COUNTS,
            class_weight=WEIGHT,
            label_margin=LABEL_MARGIN,
            rival_margin=RIVAL_MARGIN,
            logit_scale=SCALE,
        ),
        partial(reference.pairwise_crossentropy, class_weight=WEIGHT, margin=TABLE, scale=SCALE),
    ),
    "focal": (
        partial(FocalCrossentropy, 1.5, class_weight=WEIGHT),
        partial(reference.focal_crossentropy, gamma=1.5, class_weight=WEIGHT),
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def sequences(rng):
    """Ids [3, 4] and their logits."""
    return rng.integers(0, 4, (3, 4)).astype("int32"), rng.normal(0, 3, (3, 4, 4)).astype("float32")


def assert_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@each_kind
@pytest.mark.parametrize(
    ("reduction", "label_smoothing"),
    [("sum", 0.2), ("sum_over_batch_size", 0.0), ("mean_with_sample_weight", 0.2), (None, 0.0)],
)
@pytest.mark.parametrize("mode", ENDS)
def test_means_leave_out_what_a_mask_or_an_ignored_class_leaves_out(
    sequences, rng, mode, reduction, label_smoothing, kind
):
    build, oracle = KINDS[kind]
    ids, logits = sequences
    ids[0, 0] = ids[2, 3] = 2
    weight = rng.uniform(0, 2, ids.shape).astype("float32")
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1]], "bool")
    counted = weight * (mask & (ids != 2))
    rows = np.eye(4)[ids] * (1 - label_smoothing) + label_smoothing / 4
    values, gradients = reference.over_rows(oracle, rows, logits)
    divisor = {"sum_over_batch_size": (counted > 0).sum(), "mean_with_sample_weight": counted.sum()}.get(reduction, 1)
    expected = values * counted / divisor, gradients * counted[..., None] / divisor
    if reduction is not None:
        expected = expected[0].sum(), expected[1]
    logits[~(mask & (ids != 2))] = np.nan  # what lies under a mask does no harm
    loss = with_mask(build(ignore_class=2, reduction=reduction, label_smoothing=label_smoothing), mask, weight)
    assert_same(value_and_gradient(loss, ids, logits, mode), expected)


FUNCTIONS = {
    "family": partial(
        pairwise_margin_crossentropy,
        class_weight=WEIGHT,
        label_margin=LABEL_MARGIN,
        rival_margin=RIVAL_MARGIN,
        logit_scale=SCALE,
    ),
    "focal": partial(focal_crossentropy, gamma=1.5, class_weight=WEIGHT),
}


@each_kind
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_function_gives_the_values_of_the_formula(sequences, label_smoothing, kind):
    ids, logits = sequences
    ids[0, 0] = ids[2, 3] = 2
    rows = np.eye(4)[ids] * (1 - label_smoothing) + label_smoothing / 4
    values, gradients = reference.over_rows(KINDS[kind][1], rows, logits)
    values, gradients = values * (ids != 2), gradients * (ids != 2)[..., None]
    function = partial(FUNCTIONS[kind], label_smoothing=label_smoothing, ignore_class=2)
    assert_same(value_and_gradient(function, ids, logits), (values, gradients))


@each_kind
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": [1, 2, 3]}, r"`y_pred` of shape \(3, 4, 4\) has 4 classes, `class_weight` has 3"),
        ({"class_weight": [1, 2, 3, -4]}, "`class_weight` must be greater than zero"),
        ({"label_smoothing": 1}, r"`label_smoothing` must be a number in \[0, 1\)"),
        ({"ignore_class": 0.5}, "`ignore_class` must be an integer"),
    ],
)
def test_the_function_refuses_what_the_class_refuses(sequences, kind, options, message):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[kind](*sequences, **options)


@each_kind
@pytest.mark.parametrize("weight_shape", [(3,), (3, 1), (3, 4)], ids=str)
def test_a_weight_of_examples_weights_each_of_their_positions(sequences, kind, weight_shape):
    build, oracle = KINDS[kind]
    ids, logits = sequences
    weight = np.random.default_rng(1).uniform(0.5, 2, weight_shape).astype("float32")
    spread = np.broadcast_to(weight if weight.ndim == 2 else weight[:, None], (3, 4))
    expected = (reference.over_rows(oracle, np.eye(4)[ids], logits)[0] * spread).mean()
    for labels in (ids, np.eye(4, dtype="float32")[ids]):
        np.testing.assert_allclose(as_float64(build()(labels, logits, weight)), expected, **CLOSE)


@each_kind
@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize(("dtype", "label_smoothing"), [("int32", 0.1), ("float32", 0.0)])
def test_an_improper_id_gives_nan_and_harms_no_other_row(rng, mode, dtype, label_smoothing, kind):
    build, oracle = KINDS[kind]
    improper = [-1, -7, 4, 255] if dtype == "int32" else [-1.0, 4.0, 0.5, np.nan]
    labels, logits = np.array([1, *improper, 2], dtype), rng.normal(0, 3, (6, 4)).astype("float32")
    value, gradient = value_and_gradient(build(label_smoothing=label_smoothing, reduction=None), labels, logits, mode)
    assert np.isnan(value[1:-1]).all() and np.isnan(gradient[1:-1]).all()
    rows = np.eye(4)[[1, 2]] * (1 - label_smoothing) + label_smoothing / 4
    assert_same((value[[0, -1]], gradient[[0, -1]]), reference.over_rows(oracle, rows, logits[[0, -1]]))


@each_kind
@pytest.mark.parametrize("mode", ENDS)
@pytest.mark.parametrize("as_rows", [False, True])
def test_an_empty_batch_costs_nothing(mode, as_rows, kind):
    logits = np.zeros((0, 4), "float32")
    labels = logits if as_rows else np.zeros((0,), "int32")
    assert_same(value_and_gradient(KINDS[kind][0](), labels, logits, mode), (0.0, logits))


@each_kind
@pytest.mark.parametrize("mode", MODES[1:] or MODES)
def test_a_batch_with_nothing_valid_costs_nothing(sequences, mode, kind):
    ids, logits = sequences
    loss = KINDS[kind][0](ignore_class=0)
    assert_same(value_and_gradient(loss, 0 * ids, logits, mode), (0.0, np.zeros_like(logits)))


@each_kind
def test_weights_of_a_training_stage_multiply_those_of_the_loss(sequences, kind):
    build, oracle = KINDS[kind]
    ids, logits = sequences
    stage = np.array([4.0, 0.5, 1.0, 3.0])
    loss = build(reduction=None)
    loss.stage_weight = stage
    values, gradients = reference.over_rows(oracle, np.eye(4)[ids], logits)
    expected = values * stage[ids], gradients * stage[ids][..., None]
    assert_same(value_and_gradient(loss, ids, logits), expected)
    assert_same(value_and_gradient(loss, np.eye(4, dtype="float32")[ids], logits), expected)


OPTIONS = {"label_smoothing": 0.1, "ignore_class": -1, "reduction": "sum"}
LOSSES = [
    PairwiseMarginCrossentropy(
        COUNTS,
        class_weight=WEIGHT,
        label_margin=LABEL_MARGIN,
        rival_margin=RIVAL_MARGIN,
        logit_scale=SCALE,
        **OPTIONS,
        name="a",
    ),
    PairwiseMarginCrossentropy.fisher_consistent(COUNTS, delta=[1, 2, 5, 0.5], **OPTIONS, name="b"),
    PairwiseMarginCrossentropy.balanced(np.array(COUNTS), **OPTIONS, name="c"),
    PairwiseMarginCrossentropy.logit_adjusted_adaptive(COUNTS, tau=2, max_margin=1, **OPTIONS, name="d"),
    AdaptiveMarginCrossentropy(COUNTS, max_margin=np.float64(3), **OPTIONS, name="e"),
    EqualizedCrossentropy(COUNTS, threshold=0.05, gamma=0.5, form="prior", **OPTIONS, name="f"),
    EqualizedCrossentropy(COUNTS, threshold=np.float32(0.25), gamma=0.5, **OPTIONS, name="g"),
    VectorScalingCrossentropy(COUNTS, gamma=0.2, tau=[0.5, 1, 1.5, 2], **OPTIONS, name="h"),
    ClassBalancedCrossentropy(COUNTS, beta=0.9, **OPTIONS, name="i"),
    FocalCrossentropy(gamma=1.5, class_weight=np.array(WEIGHT), **OPTIONS, name="j"),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name}-{type(loss).__name__}")


@each_loss
def test_a_saved_model_brings_its_loss_along(rng, tmp_path, loss):
    rebuilt = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert rebuilt.get_config() == loss.get_config()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", loss, run_eagerly=True)  # files are looked at, not traces
    x, y = rng.normal(size=(6, 3)), rng.integers(-1, 4, 6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is type(loss)
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.test_on_batch(x, y) == model.test_on_batch(x, y)
    logits, y = ops.convert_to_tensor(model.predict_on_batch(x)), ops.convert_to_tensor(y)
    np.testing.assert_array_equal(as_float64(rebuilt(y, logits)), as_float64(loss(y, logits)))


@each_loss
def test_a_config_names_every_argument_of_the_constructor_in_plain_values(loss):
    config = loss.get_config()
    assert set(config) == set(inspect.signature(type(loss)).parameters)
    assert {key: config[key] for key in OPTIONS} == OPTIONS
    for value in config.values():
        for leaf in value if isinstance(value, list) else [value]:
            assert type(leaf) in (int, float, str, type(None))


@each_loss
def test_fit_moves_a_bias_by_the_gradient_at_zero_logits(rng, loss):
    ids = rng.integers(-1, 4, 6)
    value, gradient = value_and_gradient(loss, ids, np.zeros((6, 4), "float32"))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    # TensorFlow traces a step for one loss of each base: compiled formulas are those of `ENDS`.
    eager = keras.backend.backend() == "tensorflow" and loss.name not in ("a", "j")
    model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=eager)
    history = model.fit(np.zeros((6, 2), "float32"), ids, batch_size=6, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [value], rtol=1e-5)
    np.testing.assert_allclose(model.layers[-1].get_weights()[1], -0.5 * gradient.sum(axis=0), **CLOSE)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    "loss",
    [
        LogitAdjustedCrossentropy,
        AdaptiveMarginCrossentropy,
        ClassBalancedCrossentropy,
        EqualizedCrossentropy,
        lambda counts, **options: FocalCrossentropy(1.5, **options),
    ],
)
def test_a_row_of_zeros_costs_nothing_and_has_no_gradient(rng, loss, label_smoothing):
    loss = loss(COUNTS, label_smoothing=label_smoothing, reduction=None)
    rows, logits = np.eye(4, dtype="float32")[[0, 0, 3]], rng.normal(0, 3, (3, 4)).astype("float32")
    padded = rows * [[0], [1], [1]]
    whole, gradient = value_and_gradient(loss, rows, logits)
    value, padded_gradient = value_and_gradient(loss, padded.astype("float32"), logits)
    np.testing.assert_array_equal(value, whole * [0, 1, 1])
    np.testing.assert_array_equal(padded_gradient, gradient * [[0], [1], [1]])
    assert whole[0] > 0
