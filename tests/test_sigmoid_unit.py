"""One sigmoid unit, two classes: everything that takes two columns takes it, and gives the same."""

import keras
import numpy as np
import pytest
from helpers import reference_metrics
from keras import ops

import keras_logit_adjust as kla

COUNTS = [90, 10]
METRICS = {
    "balanced": (lambda **kw: kla.metrics.BalancedAccuracy(2, **kw), reference_metrics.balanced_accuracy),
    "per_class": (lambda **kw: kla.metrics.PerClassAccuracy(2, **kw), reference_metrics.per_class_accuracy),
    "precision": (lambda **kw: kla.metrics.PerClassPrecision(2, **kw), reference_metrics.per_class_precision),
    "macro_f1": (lambda **kw: kla.metrics.MacroF1(2, **kw), reference_metrics.macro_f1),
    "worst": (lambda **kw: kla.metrics.WorstClassAccuracy(2, **kw), reference_metrics.worst_class_accuracy),
    "group": (
        lambda **kw: kla.metrics.GroupAccuracy([500, 5], **kw),
        lambda *args, **kw: reference_metrics.group_accuracy(*args, ["many", "few"], **kw),
    ),
}


@pytest.fixture
def unit(rng):
    """Ids [60], and logits [60, 1] that are right more often than not."""
    ids = (rng.random(60) < 0.3).astype("int64")
    return ids, rng.normal(4 * ids - 2, 2.0)[:, None].astype("float32")


def values(result):
    return [np.asarray(ops.convert_to_numpy(value)) for value in keras.tree.flatten(result)]


@pytest.mark.parametrize("form", ["[B]", "[B, 1]", "[B, 2]", "floats"])
@pytest.mark.parametrize("output", ["logits", "sigmoid"])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_one_unit_is_that_of_two_classes(unit, name, output, form):
    ids, logits = unit
    build, oracle = METRICS[name]
    y_true = {"[B]": ids, "[B, 1]": ids[:, None], "[B, 2]": np.eye(2)[ids], "floats": ids[:, None].astype("float32")}[
        form
    ]
    metric = build(threshold=0.0 if output == "logits" else 0.5)
    weight = np.random.default_rng(1).uniform(0, 2, 60)
    metric.update_state(y_true, logits if output == "logits" else 1 / (1 + np.exp(-logits)), weight)
    expected = oracle(ids, np.concatenate([0 * logits, logits], axis=-1), weight=weight)
    for value, by_hand in zip(values(metric.result()), values(expected), strict=True):
        np.testing.assert_allclose(value, by_hand, rtol=2e-6)


def test_a_unit_at_each_of_several_times_is_two_classes_there(unit):
    ids, logits = unit
    metric = kla.metrics.PerClassAccuracy(2, threshold=0.0)
    metric.update_state(ids.reshape(20, 3), logits.reshape(20, 3, 1))
    right = (logits[:, 0] > 0) == ids
    expected = [right[ids == 0].mean(), right[ids == 1].mean()]
    np.testing.assert_allclose(values(metric.result())[0], expected, rtol=1e-6)


def test_the_threshold_itself_is_no_yes_and_nan_is_never_right():
    metric = kla.metrics.PerClassAccuracy(2, threshold=0.3)
    metric.update_state(np.array([0, 1, 0, 1]), np.array([[0.3], [0.3], [np.nan], [np.nan]], "float32"))
    np.testing.assert_array_equal(values(metric.result())[0], [0.5, 0.0])


@pytest.mark.parametrize("name", METRICS)
def test_a_unit_without_a_threshold_is_refused_with_both_remedies(unit, name):
    ids, logits = unit
    with pytest.raises(ValueError, match=r"one sigmoid unit says yes.*\(60, 1\).*0\.5 for probabilities.*0 for logits"):
        METRICS[name][0]().update_state(ids, logits)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kla.metrics.MacroF1(3, threshold=0.5), "`threshold` goes with one sigmoid unit.*0.5 for 3 classes"),
        (lambda: kla.metrics.MacroF1(2, threshold=np.nan), "`threshold` must be a number.*nan"),
        (lambda: kla.metrics.MacroF1(2, threshold="0"), "`threshold` must be a number.*'0'"),
        (
            lambda: kla.metrics.MacroF1(1),
            "`num_classes` must be an integer of at least 2.*one sigmoid unit has two classes",
        ),
        (lambda: kla.priors.count_classes([0, 1], num_classes=1), "one sigmoid unit has two classes"),
        (
            lambda: kla.losses.LogitAdjustedCrossentropy(COUNTS)(np.zeros(3, "int32"), np.zeros((3, 1))),
            r"For one sigmoid unit use `BinaryLogitAdjustedCrossentropy\(\[positives\], num_examples\)`",
        ),
    ],
)
def test_what_is_no_unit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def network():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")])


def test_a_report_in_fit_is_that_of_the_unit(unit):
    ids, x = unit
    model = network()
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=[kla.metrics.MacroF1(2, threshold=0.5)])
    report = kla.callbacks.LongTailReport([500, 5], validation_data=(x, ids), threshold=0.5)
    history = model.fit(x, ids, verbose=0, callbacks=[report]).history
    scores = np.concatenate([0 * x, x], axis=-1)
    recall = reference_metrics.per_class_accuracy(ids, scores)
    assert history["val_many_accuracy"] == [pytest.approx(recall[0])]
    assert history["val_few_accuracy"] == [pytest.approx(recall[1])]
    assert history["macro_f1"] == [pytest.approx(reference_metrics.macro_f1(ids, scores))]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (10, 6, 1)])
@pytest.mark.parametrize("objective", ["macro_f1", "balanced", [1.0, 9.0]], ids=str)
def test_offsets_of_a_unit_are_those_of_two_classes_and_serve_it(unit, objective, shape):
    ids, logits = unit
    columns = np.concatenate([0 * logits, logits], axis=-1)
    expected = kla.tune_offsets(columns, ids, COUNTS, objective=objective)
    labels = ids.reshape(shape[:2] if len(shape) > 2 else -1)
    tuned = kla.tune_offsets(logits.reshape(shape), labels, COUNTS, objective=objective)
    np.testing.assert_allclose(tuned.offsets, np.diff(expected.offsets), rtol=1e-12)
    np.testing.assert_allclose(tuned.base, np.diff(expected.base), rtol=1e-12)
    assert (tuned.value, tuned.value_of_base) == (expected.value, expected.value_of_base)
    served = kla.fold_into_bias(network(), COUNTS, tau=tuned.tau).predict(logits, verbose=0)
    np.testing.assert_array_equal(served[:, 0] > 0.5, logits[:, 0] + tuned.offsets > 0)


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_the_class_mix_of_a_unit_is_that_of_two_classes(unit, method):
    ids, logits = unit
    columns = np.concatenate([0 * logits, logits], axis=-1)
    unit_mix, mix = (
        kla.estimate_target_prior(
            scores, COUNTS, method=method, replicates=5, validation=(scores, ids) if method == "bbse" else None
        )
        for scores in (logits[:, 0], columns)
    )
    np.testing.assert_array_equal(unit_mix.prior, mix.prior)
    np.testing.assert_array_equal(unit_mix.low, mix.low)
    with pytest.raises(ValueError, match="look like sigmoid probabilities"):
        kla.estimate_target_prior(1 / (1 + np.exp(-logits)), COUNTS)


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_decision_behind_a_unit_is_of_least_expected_cost(unit, from_logits):
    logits = unit[1]
    costs = np.array([[0.0, 1.0, 0.3], [10.0, 0.0, 0.4]])
    yes = 1 / (1 + np.exp(-logits.astype("float64")))
    layer = kla.layers.MinimumRiskDecision(costs, from_logits=from_logits)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layer(inputs))
    scores = model.predict(logits if from_logits else yes.astype("float32"), verbose=0)
    np.testing.assert_allclose(scores, -np.concatenate([1 - yes, yes], axis=-1) @ costs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="takes logits. Received the sigmoid of layer .*from_logits=False"):
        kla.layers.MinimumRiskDecision(costs)(network().outputs[0])


@pytest.mark.parametrize("score", ["prevalence_adjusted", "softmax"])
@pytest.mark.parametrize("leading", [(60,), (10, 6)])
def test_sets_behind_a_unit_are_those_of_two_classes(unit, score, leading, tmp_path):
    ids, logits = unit
    columns = np.concatenate([0 * logits, logits], axis=-1)
    sets, pairs = (
        kla.held_out.PredictionSets(given, ids, COUNTS, alpha=0.3, score=score, tau=0.4) for given in (logits, columns)
    )
    expected = pairs.sets(columns)
    assert 0 < expected.mean() < 1
    inputs = keras.Input((*leading[1:], 1))
    model = keras.Model(inputs, sets.layer()(inputs))
    assert model.output_shape[-1] == 2
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        found = each.predict(logits.reshape(*leading, 1), verbose=0)
        np.testing.assert_array_equal(found, expected.reshape(*leading, 2))
    with pytest.raises(ValueError, match="`lowest` must have one number for each class: the input has 1 classes"):
        kla.layers.PredictionSet([0.0, 0.0, 0.0])(logits)


def test_a_report_of_one_unit_asks_for_its_own_threshold(unit):
    ids, x = unit
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    with pytest.raises(ValueError, match=r"give `LongTailReport\(…, threshold=0\.5\)` for probabilities"):
        model.fit(x, ids, verbose=0, callbacks=[kla.callbacks.LongTailReport([42, 18], validation_data=(x, ids))])


def test_one_number_as_a_target_prior_is_told_its_two():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    with pytest.raises(
        ValueError, match=r"`target_prior`.*=0\.05: for one unit give \[1 − p, p\], as \[0\.95, 0\.05\]"
    ):
        kla.adjust(model, COUNTS, target_prior=0.05)


def test_a_model_in_place_of_its_logits_is_told_how_to_get_them():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)], name="mine")
    with pytest.raises(ValueError, match="'mine': give kla.held_out.predict_logits.model, x."):
        kla.calibrate(model, (np.zeros((2, 1)), np.zeros(2, "int32")))


def test_an_infinite_logit_of_one_unit_is_a_sure_answer():
    y, scores = np.array([0, 0, 1, 1]), np.array([[-np.inf], [np.inf], [np.inf], [1.0]])
    assert float(kla.metrics.BalancedAccuracy(2, threshold=0)(y, scores)) == 0.75
    scores[3] = np.nan  # no class wins
    assert float(kla.metrics.BalancedAccuracy(2, threshold=0)(y, scores)) == 0.5


def test_a_threshold_is_refused_beside_two_columns():
    with pytest.raises(ValueError, match=r"`threshold` is for one sigmoid unit.*threshold=0\.3.*\(4, 2\)"):
        kla.metrics.BalancedAccuracy(2, threshold=0.3)([0, 0, 1, 1], np.zeros((4, 2)))


def test_ignored_rows_of_one_unit_are_left_out_of_the_choice_of_tau(rng):
    y = np.repeat([0, 1, 255], [40, 20, 9])
    logits = rng.normal(size=69) + 2 * (y == 1) - 1
    expected = kla.tune_tau(logits[:60], y[:60], [40, 20], folds=2).tau
    for given in (logits, logits[:, None]):
        assert kla.tune_tau(given, y, [40, 20], folds=2, ignore_class=255).tau == pytest.approx(expected)
        assert kla.tune_tau(given, y[:, None], [40, 20], folds=2, ignore_class=255).tau == pytest.approx(expected)
