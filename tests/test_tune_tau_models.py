"""`tune_tau` on models: their outputs, cross-fitting, bad input, and what it gains."""

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS as MODEL_COUNTS
from helpers.posthoc_models import GRAPHS, Subclassed, build, conv, numpy, rows, sequential
from helpers.tuned_taus import COUNTS, gaussian, tune
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust import held_out
from keras_logit_adjust.held_out.tau import pool

# --- models ----------------------------------------------------------------------------------------------------------


def assert_equal(tuned, other, rtol=1e-4):
    np.testing.assert_allclose([tuned.tau, *tuned.interval], [other.tau, *other.interval], rtol=rtol)
    assert tuned.balanced_accuracy == pytest.approx(other.balanced_accuracy)
    assert tuned.balanced_accuracy_at_one == pytest.approx(other.balanced_accuracy_at_one)
    assert tuned.coverage == other.coverage


def hand_logits(outputs, kind):
    outputs = numpy(outputs)
    if kind == "logits":
        return outputs
    return np.log(outputs) - (np.log1p(-outputs) if kind == "sigmoid" else 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "sequential logits",
        "sequential softmax",
        "nested twice",
        "softmax layer",
        "conv2d",
        "several inputs",
        "inputs in a dict",
    ],
)
def test_a_model_is_tuned_as_its_logits_are(name, rng):
    model, kind, x = build(name, rng)
    x = keras.tree.map_structure(lambda part: np.concatenate([part, *(rows(rng, *part.shape) for _ in range(5))]), x)
    outputs = model(x)
    y = rng.integers(0, 3, outputs.shape[:-1])
    tuned = kla.tune_tau(model, (x, y), MODEL_COUNTS, batch_size=16)
    assert_equal(tuned, kla.tune_tau(hand_logits(outputs, kind), y, MODEL_COUNTS))
    assert GRAPHS[name][1] == kind


@pytest.mark.parametrize(("output", "activation"), [("logits", None), ("softmax", "softmax")])
def test_a_subclassed_model_is_tuned_by_what_it_is_said_to_give(output, activation, rng):
    model, x, y = Subclassed(3, activation), rows(rng, 40, 6), rng.integers(0, 3, 40)
    expected = kla.tune_tau(hand_logits(model(x), output), y, MODEL_COUNTS)
    assert_equal(kla.tune_tau(model, (x, y), MODEL_COUNTS, output=output), expected)
    with pytest.raises(ValueError, match='output="logits", "softmax" or "sigmoid"'):
        kla.tune_tau(model, (x, y), MODEL_COUNTS)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("as_column", [False, True])
def test_one_sigmoid_unit_is_tuned_as_two_classes(activation, as_column, rng):
    model, x, y = sequential(layers.Dense(1, activation)), rows(rng, 40, 6), rng.integers(0, 2, 40)
    logits = hand_logits(model(x), activation or "logits")[:, 0]
    expected = kla.tune_tau(np.stack([0 * logits, logits], axis=-1), y, [90, 10])
    assert_equal(kla.tune_tau(model, (x, y[:, None] if as_column else y), [90, 10]), expected)


@pytest.mark.filterwarnings("ignore:Every good τ is negative")  # the model was not trained
def test_a_model_of_independent_labels_is_tuned_as_its_logits_are(rng):
    model, x, on = sequential(layers.Dense(3, "sigmoid")), rows(rng, 60, 6), rng.random((60, 3)) < 0.5
    expected = kla.tune_tau(hand_logits(model(x), "sigmoid"), on, [5, 20, 60], num_examples=100)
    assert_equal(kla.tune_tau(model, (x, on.astype("float32")), [5, 20, 60], num_examples=100), expected)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.y) // 16)

    def __getitem__(self, i):
        rows = slice(16 * i, 16 * i + 16)
        return self.x[rows], self.y[rows]


@pytest.mark.parametrize("kind", ["generator", "list", "PyDataset", "tensors", "one-hot"])
def test_a_dataset_of_batches_is_as_good_as_arrays(kind, rng):
    model, x, y = sequential(layers.Dense(3, "softmax")), rows(rng, 50, 6), rng.integers(0, 3, 50)
    pairs = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 50, 16)]
    data = {
        "generator": (pair for pair in pairs),
        "list": [list(pair) for pair in pairs],
        "PyDataset": Batches(x, y),
        "tensors": [tuple(map(keras.ops.convert_to_tensor, pair)) for pair in pairs],
        "one-hot": [(x_i, np.eye(3)[y_i]) for x_i, y_i in pairs],
    }[kind]
    assert_equal(kla.tune_tau(model, data, MODEL_COUNTS), kla.tune_tau(model, (x, y), MODEL_COUNTS))


def test_sample_weights_are_refused_and_not_ignored(rng):
    model, x, y = sequential(layers.Dense(3, "softmax")), rows(rng, 8, 6), rng.integers(0, 3, 8)
    with pytest.raises(ValueError, match="Sample weights are not used"):
        kla.tune_tau(model, [(x, y, np.ones(8))], MODEL_COUNTS)


def test_held_out_examples_of_one_class_alone_are_refused(rng):
    with pytest.raises(ValueError, match="at least two classes. Received examples of class 1 alone"):
        kla.tune_tau(rng.normal(size=(9, 3)), np.ones(9, int), MODEL_COUNTS)


def test_ignored_positions_are_left_out_as_if_they_were_not_there(rng):
    model = conv(layers.Conv2D, 2)
    x, y = rows(rng, 6, 4, 4, 2), rng.integers(0, 3, (6, 4, 4))
    y[:, 0] = 255
    kept = y != 255
    tuned = kla.tune_tau(model, (x, y), MODEL_COUNTS, ignore_class=255)
    assert_equal(tuned, kla.tune_tau(numpy(model(x)).astype("float32")[kept], y[kept], MODEL_COUNTS))


def test_a_model_given_is_not_changed(rng):
    model, x, y = sequential(layers.Dense(3, "softmax")), rows(rng, 50, 6), rng.integers(0, 3, 50)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = numpy(model(x))
    kla.tune_tau(model, (x, y), MODEL_COUNTS)
    np.testing.assert_array_equal(numpy(model(x)), before)
    assert model.compiled and isinstance(model.optimizer, keras.optimizers.SGD)


def test_models_that_are_adjusted_already_are_refused(rng):
    x, y = rows(rng, 20, 6), rng.integers(0, 3, 20)
    trained_adjusted = sequential(layers.Dense(3))
    trained_adjusted.compile("sgd", kla.losses.LogitAdjustedCrossentropy(MODEL_COUNTS))
    adjusted = kla.adjust(sequential(layers.Dense(3)), MODEL_COUNTS)
    for model in (trained_adjusted, adjusted):
        with pytest.raises(ValueError, match="a model whose prior was not corrected"):
            kla.tune_tau(model, (x, y), MODEL_COUNTS)


# --- cross-fitting ---------------------------------------------------------------------------------------------------


class Memory:
    """A training function whose models give logits that are told by a table, and that keeps the rows it was shown."""

    def __init__(self, tables):
        self.tables, self.seen = tables, []

    def __call__(self, x, y):
        model = sequential(layers.Dense(self.tables.shape[-1], use_bias=False), width=self.tables.shape[1])
        model.layers[0].kernel.assign(self.tables[len(self.seen)])
        self.seen.append((np.asarray(x), np.asarray(y)))
        return model


def numbered(rng, y, width=4):
    """Rows that can be told apart: the first feature is the number of the row."""
    x = rows(rng, len(y), width)
    x[:, 0] = np.arange(len(y))
    return x


def test_cross_fitted_logits_are_of_models_that_saw_other_examples(rng):
    y = np.repeat([0, 1, 2], [30, 13, 7])
    x = numbered(rng, y)
    tables = rng.normal(size=(5, 4, 3))
    tables[:, 0] = 0  # the number of the row is no feature
    train = Memory(tables)
    tuned = kla.tune_tau(train, (x, y), [30, 13, 7], cross_fit=5, seed=4)
    assert len(train.seen) == 5
    low, high, ids = [], [], []
    tested = []
    for (x_seen, y_seen), table in zip(train.seen, tables, strict=True):
        shown = x_seen[:, 0].astype(int)
        np.testing.assert_array_equal(y_seen, y[shown])
        held_out = np.setdiff1d(np.arange(50), shown)
        tested += held_out.tolist()
        assert len(shown) + len(held_out) == 50
        path = kla.TauPath(y[held_out], (x[held_out] @ table).astype("float32"), np.bincount(y_seen))
        low, high, ids = [*low, *path.low], [*high, *path.high], [*ids, *path.recall_ids]
    assert sorted(tested) == list(range(50))
    np.testing.assert_array_equal(tuned.path.recall_ids, ids)
    np.testing.assert_allclose(tuned.path.low, low, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tuned.path.high, high, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(tuned.path.examples, [30, 13, 7])


def test_every_fold_of_the_cross_fit_has_its_share_of_every_class(rng):
    y = np.tile([0, 0, 1, 2], 15)
    train = Memory(rng.normal(size=(3, 4, 3)))
    kla.tune_tau(train, (numbered(rng, y), np.eye(3)[y]), [30, 15, 15], cross_fit=3)
    for _, y_seen in train.seen:
        np.testing.assert_array_equal(np.bincount(y_seen), [20, 10, 10])


def test_a_class_of_one_example_counts_as_empty_in_cross_fitting(rng):
    y = np.array([0] * 20 + [1] * 10 + [2] + [3] * 9)
    x = numbered(rng, y)
    tables = rng.normal(size=(4, 4, 4))
    tables[:, 0] = 0
    train = Memory(tables)
    with pytest.warns(UserWarning, match=r"1 of 4 classes have fewer than 5 held-out examples \(1 have none\)"):
        tuned = kla.tune_tau(train, (x, y), [20, 10, 1, 9], cross_fit=4)
    assert tuned.coverage == {"classes": 4, "pooled": 1, "empty": 1, "buckets": 3}
    np.testing.assert_array_equal(tuned.path.examples, [20, 10, 0, 9])
    np.testing.assert_array_equal(tuned.path.class_counts, [20, 10, 1, 9])
    # The model that was not shown class 2 is judged as if it had no such class.
    right, place = [], 0
    for (x_seen, y_seen), table in zip(train.seen, tables, strict=True):
        held_out = np.setdiff1d(np.arange(40), x_seen[:, 0].astype(int))
        held_out = held_out[y[held_out] != 2]
        counts = np.bincount(y_seen, minlength=4)
        logits = np.where(counts > 0, x[held_out] @ table - log_prior(np.maximum(counts, 1)), -np.inf)
        right += (logits.argmax(-1) == y[held_out]).tolist()
        place += held_out.size
    np.testing.assert_array_equal(tuned.path.is_right(1.0), right)
    assert place == 39


def test_a_cross_fit_of_one_sigmoid_unit_is_that_of_its_two_classes(rng):
    y = np.repeat([0, 1], [20, 10])
    x, tables = numbered(rng, y), rng.normal(size=(3, 4, 1))
    tables[:, 0] = 0
    pairs = np.concatenate([0 * tables, tables], axis=-1)
    unit = kla.tune_tau(Memory(tables), (x, y), [20, 10], cross_fit=3)
    assert_equal(unit, kla.tune_tau(Memory(pairs), (x, y), [20, 10], cross_fit=3))


def test_inputs_in_a_dict_are_split_into_folds_too(rng):
    y = np.repeat([0, 1, 2], 8)
    shown = []

    def train(x, y_seen):
        shown.append((set(x), len(x["first"]), len(x["second"]), len(y_seen)))
        model, _, _ = build("inputs in a dict", np.random.default_rng(0))
        return model

    x = {"first": rows(rng, 24, 6), "second": rows(rng, 24, 2)}
    tuned = kla.tune_tau(train, (x, y), MODEL_COUNTS, cross_fit=3)
    assert shown == [({"first", "second"}, 16, 16, 16)] * 3
    np.testing.assert_array_equal(tuned.path.examples, [8, 8, 8])


def test_a_real_training_function_is_cross_fitted(rng):
    y = np.repeat([0, 1, 2], [60, 20, 10])
    x = (rng.normal(size=(90, 3)) + 2 * np.eye(3)[y]).astype("float32")

    def train(x, y):
        model = sequential(layers.Dense(3, "softmax"), width=3)
        model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=5, batch_size=len(y), verbose=0)
        return model

    tuned = kla.tune_tau(train, (x, y), [60, 20, 10], cross_fit=2)
    assert tuned.path.recall_ids.size == 90
    assert 1 / 3 < tuned.balanced_accuracy_at_one < 1
    np.testing.assert_allclose(tuned.balanced_accuracy_at_one, tuned.path.at(1.0), atol=1e-12)


# --- bad input -------------------------------------------------------------------------------------------------------

LOGITS, LABELS = np.arange(30.0).reshape(10, 3) % 7, np.arange(10) % 3


@pytest.mark.parametrize(
    ("logits", "y", "counts", "options", "message"),
    [
        (np.where(LOGITS == 3, np.nan, LOGITS), LABELS, [3, 2, 1], {}, r"`logits` must be finite. NaN"),
        (np.full((10, 4), 0.25), LABELS, [4, 3, 2, 1], {}, r"must be logits. Received probabilities"),
        (LOGITS, LABELS, [3, 2], {}, r"`logits` must have shape \[N, 2\].*\(10, 3\)"),
        (LOGITS, LABELS[:9], [3, 2, 1], {}, r"one class id for each of the 10 rows.*\(9,\)"),
        (LOGITS, LABELS + 1, [3, 2, 1], {}, r"class ids 0 … 2.*Received 3 at row 2"),
        (LOGITS, (LOGITS, LABELS), [3, 2, 1], {}, r"`validation_data` are the labels alone.*Received a tuple"),
        (LOGITS, LABELS, [3, 2, 1], {"folds": 11}, r"as many held-out examples as folds. Received 10 for folds=11"),
        (LOGITS, LABELS, [3, 2, 1], {"folds": 1}, r"folds"),
        (LOGITS, LABELS, [3, 2, 1], {"folds": 2.5}, r"folds"),
        (LOGITS, LABELS, [3, 2, 1], {"min_examples": 0}, r"min_examples"),
        (LOGITS, LABELS, [3, 2, 1], {"standard_errors": -1.0}, r"standard_errors"),
        (LOGITS, LABELS, [3, 2, 1], {"standard_errors": np.nan}, r"standard_errors"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused(logits, y, counts, options, message):
    with pytest.raises(ValueError, match=message):
        kla.tune_tau(logits, y, counts, **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (kla.data.LongTailSampler([0, 1, 2], 3, seed=0).py_dataset(np.ones((3, 6))), "must end. Received an endless"),
        ((np.ones((4, 6)), np.zeros(4), np.ones(4)), r"must be a pair \(x, y\). Received a tuple of 3"),
        ((np.ones((4, 6)), np.zeros(3)), r"as many rows. Received \[3, 4\]"),
        ([np.ones((4, 6))], r"dataset of batches \(x, y\).*Received a batch that is a ndarray"),
        ([], r"at least one held-out example"),
        ((np.ones((4, 6)), np.full(4, 3)), r"class ids 0 … 2"),
    ],
)
def test_validation_data_that_are_no_inputs_with_labels_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        kla.tune_tau(sequential(layers.Dense(3)), data, MODEL_COUNTS)


def test_a_model_that_gives_nan_is_refused():
    model = sequential(layers.Dense(3))
    x = np.full((10, 6), np.nan, "float32")
    with pytest.raises(ValueError, match="must be finite. NaN or infinity in 10 of 10 rows"):
        kla.tune_tau(model, (x, LABELS), MODEL_COUNTS)


@pytest.mark.parametrize(
    ("train", "data", "folds", "options", "message"),
    [
        (sequential(layers.Dense(3)), (LOGITS, LABELS), 2, {}, r"a function train\(x, y\).*Received: Sequential"),
        (LOGITS, (LOGITS, LABELS), 2, {}, r"a function train\(x, y\).*Received: ndarray"),
        (lambda x, y: None, LABELS, 2, {}, r"the training data \(x, y\).*ndarray"),
        (lambda x, y: None, (LOGITS, LABELS), 1, {}, r"cross_fit"),
        (lambda x, y: None, (LOGITS, LABELS), 11, {}, r"as many examples as folds. Received 10 for cross_fit=11"),
        (lambda x, y: None, (LOGITS, LABELS), 2, {}, r"`model` must be a `keras.Model`. Received: NoneType"),
        (lambda x, y: None, (LOGITS, LABELS), 2, {"num_examples": 9}, r"classes that exclude each other"),
        (lambda x, y: None, (LOGITS, LABELS + 1), 2, {}, r"class ids 0 … 2"),
        (lambda x, y: None, (LOGITS[:3], np.arange(3)), 3, {}, r"example"),  # of no class is there one in two folds
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(train, data, folds, options, message):
    with pytest.raises(ValueError, match=message):
        kla.tune_tau(train, data, [3, 2, 1], cross_fit=folds, **options)


# --- what it gains ---------------------------------------------------------------------------------------------------


def regrets(counts, each, scale, draws):
    """Balanced accuracy lost against τ = 1, on fresh examples, by the τ tuned in every draw."""
    y, logits = gaussian(np.random.default_rng(99), counts, 2000, scale)
    fresh = kla.TauPath(y, logits, counts)
    lost = []
    for seed in range(draws):
        y, logits = gaussian(np.random.default_rng(seed), counts, each, scale)
        lost.append(fresh.at(1.0) - fresh.at(tune(logits, y, counts).tau))
    return np.array(lost)


def test_where_another_tau_is_right_tuning_gains_on_fresh_examples():
    lost = regrets(COUNTS, each=50, scale=2.0, draws=20)
    assert lost.mean() < 0
    assert lost.max() <= 0.01


def test_tuning_where_one_is_right_loses_less_than_a_point():
    lost = regrets(COUNTS, each=5, scale=1.0, draws=20)
    assert lost.mean() <= 0.01


@pytest.mark.parametrize("name", GRAPHS)
def test_logits_are_predicted_from_in_front_of_the_activation(name, rng):
    model, kind, data = build(name, rng)
    outputs, logits = numpy(model(data)), held_out.predict_logits(model, data, batch_size=3).astype("float64")
    expected = {"logits": lambda f: f, "softmax": softmax}[kind](logits)
    rtol = 2e-2 if "mixed" in name else 1e-4  # bfloat16 layers round otherwise in a graph than eagerly
    np.testing.assert_allclose(expected, outputs, rtol=rtol, atol=1e-5)


def test_a_bucket_is_full_with_as_many_examples_as_a_class_needs():
    assert pool(np.array([2, 3, 2, 3]), np.array([40, 30, 20, 10]), 5).tolist() == [0, 0, 2, 2]


GIVEN_A_MODEL = {
    "calibrate": lambda model: kla.calibrate(model, [0, 1, 2]),
    "tune_offsets": lambda model: kla.tune_offsets(model, [0, 1, 2], MODEL_COUNTS),
    "TauPath": lambda model: kla.TauPath([0, 1, 2], model, MODEL_COUNTS),
    "estimate_target_prior": lambda model: kla.estimate_target_prior(model, MODEL_COUNTS),
    "estimate_source_prior": lambda model: kla.held_out.estimate_source_prior(model, [0, 1, 2]),
    "PredictionSets": lambda model: kla.held_out.PredictionSets(model, [0, 1, 2], MODEL_COUNTS),
}


@pytest.mark.parametrize("name", GIVEN_A_MODEL)
def test_a_model_in_place_of_logits_is_refused_with_the_way_to_its_logits(name):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="mine")
    with pytest.raises(
        ValueError, match=r"`logits` must be .* model 'mine': give kla.held_out.predict_logits\(model, x\)"
    ):
        GIVEN_A_MODEL[name](model)
