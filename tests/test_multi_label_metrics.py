"""Metrics of independent labels: against scikit-learn, with weights, masks and unknown targets, in models."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from keras import ops
from sklearn.metrics import balanced_accuracy_score, f1_score

import keras_logit_adjust as kla
from keras_logit_adjust._labels import masks

M = kla.metrics
L, N = 5, 60
COUNTS = [500, 200, 50, 8, 3]
RNG = np.random.default_rng(0)
Y = (RNG.random((N, L)) < [0.7, 0.5, 0.3, 0.2, 0.15]).astype("int32")
LOGITS = (RNG.normal(size=(N, L)) + 1.5 * Y - 0.5).astype("float32")
WEIGHT = RNG.uniform(0, 3, N).astype("float32")
EVERY = {
    "balanced": lambda **options: M.MultiLabelBalancedAccuracy(L, **options),
    "per_label": lambda **options: M.PerLabelBalancedAccuracy(L, **options),
    "macro_f1": lambda **options: M.MultiLabelMacroF1(L, **options),
    "groups": lambda **options: M.MultiLabelGroupAccuracy(COUNTS, **options),
}


def expected(y, yes, weight=None):
    """scikit-learn's figures of labels that all have positives and negatives."""
    labels = [balanced_accuracy_score(y[:, c], yes[:, c], sample_weight=weight) for c in range(y.shape[1])]
    groups = {"many": labels[:2], "medium": labels[2:3], "few": labels[3:]}
    return {
        "balanced": np.mean(labels),
        "per_label": labels,
        "macro_f1": f1_score(y, yes, average="macro", sample_weight=weight),
        "groups": {f"{name}_accuracy": np.mean(own) for name, own in groups.items()},
    }


def value(metric, *arguments):
    metric.update_state(*arguments)
    return keras.tree.map_structure(ops.convert_to_numpy, metric.result())


def check(found, wanted):
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        found, wanted = [found[name] for name in wanted], list(wanted.values())
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", EVERY)
def test_the_figures_are_those_of_scikit_learn(name, weight):
    metric, wanted = EVERY[name](threshold=0), expected(Y, LOGITS > 0, weight)[name]
    for rows in np.array_split(np.arange(N), 4):  # sums over batches add
        metric.update_state(Y[rows], LOGITS[rows], None if weight is None else weight[rows])
    check(keras.tree.map_structure(ops.convert_to_numpy, metric.result()), wanted)
    metric.reset_state()
    check(value(metric, Y, LOGITS, weight), wanted)
    probabilities = 1 / (1 + np.exp(-LOGITS.astype("float64")))
    check(value(EVERY[name](threshold=0.5), Y.astype(bool), probabilities, weight), wanted)


def test_each_label_may_have_a_threshold_of_its_own():
    thresholds = [-1.0, -0.5, 0.0, 0.5, 1.0]
    check(
        value(EVERY["per_label"](threshold=thresholds), Y, LOGITS),
        expected(Y, np.greater(LOGITS, thresholds))["per_label"],
    )
    at_the_threshold = value(M.PerLabelBalancedAccuracy(1, threshold=0.5), [1.0, 0.0, 0.0], [[0.5], [0.5], [0.6]])
    assert at_the_threshold.tolist() == [0.25]  # 0.5 is not above 0.5


@pytest.mark.parametrize("name", EVERY)
def test_unknown_targets_and_masked_steps_do_not_count(name):
    unknown = np.random.default_rng(1).random((N, L)) < 0.2
    known = [(Y[~u, c], LOGITS[~u, c] > 0) for c, u in enumerate(unknown.T)]
    labels = [balanced_accuracy_score(*pair) for pair in known]
    groups = dict(
        zip(("many_accuracy", "medium_accuracy", "few_accuracy"), map(np.mean, np.split(labels, [2, 3])), strict=True)
    )
    wanted = {"balanced": np.mean(labels), "per_label": labels, "macro_f1": np.mean([f1_score(*p) for p in known])}
    wanted["groups"] = groups
    found = value(EVERY[name](threshold=0, ignore_class=-1), np.where(unknown, -1, Y), LOGITS)
    check(found, wanted[name])

    # Three steps of padding behind every example, with targets that are none.
    scores = np.concatenate([LOGITS[:, None], np.ones((N, 3, L), "float32")], axis=1)
    y = np.concatenate([Y[:, None], np.full((N, 3, L), 7)], axis=1)
    inputs = keras.Input((4, L))
    outputs = keras.layers.Dense(L, kernel_initializer="identity")(keras.layers.Masking(mask_value=1.0)(inputs))
    model = keras.Model(inputs, outputs)
    eager = keras.backend.backend() == "tensorflow"  # compiled it takes seconds
    model.compile(loss="mse", metrics=[EVERY[name](threshold=0)], run_eagerly=eager)
    logs = model.evaluate(scores, y, batch_size=N, verbose=0, return_dict=True)
    del logs["loss"]
    wanted = expected(Y, LOGITS > 0)[name]
    check(logs if name == "groups" else [*logs.values()][0], wanted)


def test_a_label_without_positives_or_negatives_is_left_out():
    y, scores = np.array([[1, 0, 1], [0, 0, 1]]), np.array([[1.0, -1.0, 1.0], [2.0, 1.0, -1.0]])
    np.testing.assert_array_equal(value(M.PerLabelBalancedAccuracy(3, threshold=0), y, scores), [0.5, np.nan, np.nan])
    assert value(M.MultiLabelBalancedAccuracy(3, threshold=0), y, scores) == 0.5
    assert value(M.MultiLabelMacroF1(3, threshold=0), y, scores) == pytest.approx(2 / 3)  # ⅔ and ⅔; none of the second
    groups = value(M.MultiLabelGroupAccuracy([300, 50, 5], threshold=0), y, scores)
    assert groups["many_accuracy"] == 0.5 and np.isnan([groups["medium_accuracy"], groups["few_accuracy"]]).all()
    for metric in (M.MultiLabelBalancedAccuracy(3, threshold=0), M.MultiLabelMacroF1(3, threshold=0)):
        assert np.isnan(ops.convert_to_numpy(metric.result()))


def test_a_target_between_counts_as_a_part_of_each():
    soft = value(M.PerLabelBalancedAccuracy(1, threshold=0), [0.75, 0.25], [[1.0], [-1.0]])
    whole = value(M.PerLabelBalancedAccuracy(1, threshold=0), [1, 0, 1, 0], [[1.0]] * 2 + [[-1.0]] * 2, [3, 1, 1, 3])
    assert soft.tolist() == whole.tolist() == [0.75]


@pytest.mark.parametrize("bad", [-1.0, 2.0, np.nan])
@pytest.mark.parametrize("name", EVERY)
def test_a_target_that_is_none_makes_every_figure_nan(name, bad):
    y = Y.astype("float32")
    y[3, 1] = bad
    assert all(np.isnan(part).all() for part in keras.tree.flatten(value(EVERY[name](threshold=0), y, LOGITS)))


def test_a_score_of_nan_is_never_right():
    scores = np.where(np.arange(N)[:, None] % 2, np.nan, 100.0 * (2 * Y - 1))
    share = [[(1 - np.arange(N)[Y[:, c] == t] % 2).mean() for c in range(L)] for t in (0, 1)]
    check(value(EVERY["per_label"](threshold=0), Y, scores), np.mean(share, axis=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": [0, 1]}, r"one for each of the 5 labels: 0\.5 for probabilities, 0 for logits\. Received: thr"),
        ({"threshold": np.nan}, "must be a finite number"),
        ({"threshold": "0"}, "`threshold` must be a number or one number for each label"),
        ({"threshold": 0, "dtype": "float16"}, "takes no `dtype`"),
        ({"threshold": 0, "ignore_class": 0.5}, "`ignore_class` must be an integer"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", EVERY)
def test_bad_options_are_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        EVERY[name](**options)


def test_labels_of_another_form_are_refused():
    with pytest.raises(TypeError, match="threshold"):
        M.MultiLabelMacroF1(L)
    for shape in ((N,), (N, 1), (N, L + 1)):
        with pytest.raises(ValueError, match="`y_true` must have the shape of `y_pred`"):
            M.MultiLabelMacroF1(L, threshold=0).update_state(np.zeros(shape), LOGITS)
    with pytest.raises(ValueError, match="`positive_counts` must be numbers of examples"):
        M.MultiLabelGroupAccuracy([0.9, 0.1], threshold=0)


def test_a_compiled_model_reports_them_and_a_file_keeps_them(tmp_path):
    model = keras.Sequential([keras.Input((L,)), keras.layers.Dense(L, kernel_initializer="identity")])
    metrics = [make(threshold=[0.0] * L, ignore_class=-1) for make in EVERY.values()]
    metrics.append(M.MultiLabelGroupAccuracy(COUNTS, threshold=0, groups=["a", "a", "b", None, None], name="own"))
    model.compile("sgd", kla.losses.BinaryLogitAdjustedCrossentropy(COUNTS, 1000), weighted_metrics=metrics)
    logs = model.evaluate(LOGITS, Y, sample_weight=WEIGHT, batch_size=17, verbose=0, return_dict=True)
    wanted = expected(Y, LOGITS > 0, WEIGHT)
    own = {"own_a_accuracy": np.mean(wanted["per_label"][:2]), "own_b_accuracy": wanted["per_label"][2]}
    wanted = {
        "multi_label_balanced_accuracy": wanted["balanced"],
        "per_label_balanced_accuracy": wanted["per_label"],
        "multi_label_macro_f1": wanted["macro_f1"],
        **wanted["groups"],
        **own,
    }
    for name, figure in wanted.items():
        np.testing.assert_allclose(np.asarray(logs[name]), figure, rtol=1e-5, err_msg=name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(LOGITS, Y, sample_weight=WEIGHT, batch_size=17, verbose=0, return_dict=True)
    keras.tree.map_structure(np.testing.assert_allclose, again, logs)


def test_two_metrics_of_groups_with_one_name_are_refused():
    model = keras.Sequential([keras.Input((L,)), keras.layers.Dense(L)])
    metrics = [
        M.MultiLabelGroupAccuracy(COUNTS, threshold=0, name=name) for name in (None, "multi_label_group_accuracy")
    ]
    model.compile(loss="binary_crossentropy", metrics=metrics, run_eagerly=keras.backend.backend() == "tensorflow")
    with pytest.raises(ValueError, match=r"Received two of 'many_accuracy'.*MultiLabelGroupAccuracy\(…, name='fine'\)"):
        model.evaluate(LOGITS, Y, verbose=0)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_named_is_what_the_documentation_says(name):
    named = {
        "ignore_class": None,
        **({"bounds": (20, 100), "inclusive": True, "groups": None} if name == "groups" else {}),
    }
    default = EVERY[name](threshold=0).get_config()
    assert default == EVERY[name](threshold=0.0, **named).get_config()
    words = {"balanced": "multi_label_balanced_accuracy", "per_label": "per_label_balanced_accuracy"}
    words |= {"macro_f1": "multi_label_macro_f1", "groups": "multi_label_group_accuracy"}
    assert default["name"] == words[name]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="a JAX tensor does not show the sigmoid that made it")
def test_a_threshold_of_logits_is_refused_for_the_output_of_a_sigmoid():
    scores = keras.layers.Activation("sigmoid")(keras.ops.convert_to_tensor(LOGITS))
    for threshold in (0, 1, [0.5, 0.5, -0.1, 0.5, 0.5]):
        with pytest.raises(ValueError, match="must be between 0 and 1 for the output of a sigmoid"):
            M.MultiLabelBalancedAccuracy(L, threshold=threshold)(Y, scores)
        M.MultiLabelBalancedAccuracy(L, threshold=threshold)(Y, LOGITS)
    with pytest.raises(ValueError, match="must be between 0 and 1 for the output of a sigmoid"):
        M.BalancedAccuracy(2, threshold=0)(Y[:, 0], keras.layers.Activation("sigmoid")(LOGITS[:, :1]))
    M.MultiLabelBalancedAccuracy(L, threshold=0.5)(Y, scores)


def test_the_errors_of_a_rare_label_are_counted_beside_many_negatives():
    """One more negative does not change a float32 sum of 2²⁵, and F1 depends on the wrong ones."""
    metric = M.PerLabelBalancedAccuracy(1, threshold=0)
    f1 = M.MultiLabelMacroF1(1, threshold=0)
    many = [(np.zeros((1, 1)), -np.ones((1, 1)), 2.0**25)]
    batches = many + [(np.ones((4, 1)), np.ones((4, 1)), 1.0)] + [(np.zeros((1, 1)), np.ones((1, 1)), 1.0)] * 8
    for target, scores, weight in batches:
        for each in (metric, f1):
            each.update_state(target, scores, sample_weight=np.full(len(target), weight))
    np.testing.assert_allclose(float(f1.result()), 2 * 4 / (2 * 4 + 8), rtol=1e-6)
    np.testing.assert_allclose(as_float64(metric.result()), [(1 + 2.0**25 / (2.0**25 + 8)) / 2], rtol=1e-6)


def test_an_update_of_many_rows_is_summed_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    target, scores = rng.integers(0, 2, (50, L)), rng.normal(size=(50, L))
    by_label = M.PerLabelBalancedAccuracy(L, threshold=0)
    expected = as_float64(by_label(target, scores))
    by_label.reset_state()
    monkeypatch.setattr(masks, "_PART", 7)
    np.testing.assert_allclose(as_float64(by_label(target, scores)), expected, rtol=1e-6)
