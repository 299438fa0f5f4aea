"""Values of the metrics: against scikit-learn and NumPy loops, over label forms, weights, masks and class mixes."""

import keras
import numpy as np
import pytest
from helpers import reference_metrics
from helpers.combinations import pairs_first
from sklearn import metrics as sk

import keras_logit_adjust as kla

L = 4
COUNTS = [300, 100, 50, 5]
GROUPS = ["many", "many", "medium", "few"]
CLASSES = {
    "balanced": kla.metrics.BalancedAccuracy,
    "per_class": kla.metrics.PerClassAccuracy,
    "precision": kla.metrics.PerClassPrecision,
    "macro_f1": kla.metrics.MacroF1,
    "worst": kla.metrics.WorstClassAccuracy,
    "group": kla.metrics.GroupAccuracy,
}
ORACLES = {
    "balanced": reference_metrics.balanced_accuracy,
    "per_class": reference_metrics.per_class_accuracy,
    "precision": reference_metrics.per_class_precision,
    "macro_f1": reference_metrics.macro_f1,
    "worst": reference_metrics.worst_class_accuracy,
    "group": lambda ids, scores, **kw: reference_metrics.group_accuracy(ids, scores, GROUPS, **kw),
}
every_metric = pytest.mark.parametrize("name", CLASSES)
PRIOR_FREE = ("per_class", "worst")  # recalls depend on no class mix


def build(name, **kwargs):
    return CLASSES[name](COUNTS if name == "group" else L, **kwargs)


def as_array(result):
    """A result as one float64 array, and the names of its parts."""
    if isinstance(result, dict):
        return np.array([float(value) for value in result.values()]), list(result)
    return np.asarray(keras.ops.convert_to_numpy(result), "float64"), None


def evaluate(metric, *batches):
    for batch in batches:
        metric.update_state(*batch)
    return as_array(metric.result())


def check(metric, expected, *batches):
    value, names = evaluate(metric, *batches)
    expected, expected_names = as_array(expected)
    assert names == expected_names
    np.testing.assert_allclose(value, expected, rtol=2e-6)


def draw(rng, *shape, missing=()):
    """Ids and scores that are right more often than not; `missing` classes are predicted but never true."""
    ids = rng.choice([c for c in range(L) if c not in missing], size=shape)
    scores = rng.normal(size=(*shape, L)) + 1.2 * np.eye(L)[ids]
    return ids, scores.astype("float32")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [(), (2,)])
def test_metrics_equal_scikit_learn_over_the_classes_that_occur(rng, missing, weighted):
    ids, scores = draw(rng, 90, missing=missing)
    weight = rng.uniform(0.1, 3, 90) if weighted else None
    present = [c for c in range(L) if c not in missing]
    common = {"labels": present, "sample_weight": weight, "zero_division": 0}
    recall = sk.recall_score(ids, scores.argmax(-1), average=None, **common)
    precision = sk.precision_score(ids, scores.argmax(-1), average=None, **common)
    f1 = sk.f1_score(ids, scores.argmax(-1), average="macro", **common)
    check(build("balanced"), recall.mean(), (ids, scores, weight))
    check(build("worst"), recall.min(), (ids, scores, weight))
    check(build("macro_f1"), f1, (ids, scores, weight))
    for name, values in (("per_class", recall), ("precision", precision)):
        spread = np.full(L, np.nan)
        spread[present] = values
        check(build(name), spread, (ids, scores, weight))
    if not missing:
        balanced = sk.balanced_accuracy_score(ids, scores.argmax(-1), sample_weight=weight)
        check(build("balanced"), balanced, (ids, scores, weight))


@pytest.mark.parametrize(
    ("name", "prior"),
    [(name, prior) for name in CLASSES for prior in (None, [40, 20, 3, 1]) if prior is None or name not in PRIOR_FREE],
)
def test_batches_of_uneven_size_add_up_to_the_whole(rng, name, prior):
    ids, scores = draw(rng, 50)
    weight = rng.uniform(0.1, 3, 50).astype("float32")
    expected = ORACLES[name](ids, scores, weight=weight, prior=prior)
    parts = [(ids[a:b], scores[a:b], weight[a:b]) for a, b in ((0, 1), (1, 18), (18, 50))]
    check(build(name, **({} if prior is None else {"class_prior": prior})), expected, *parts)


FORMS = {
    "column": lambda ids: ids[..., None],
    "float32 ids": lambda ids: ids.astype("float32"),
    "float64 column": lambda ids: ids.astype("float64")[..., None],
    "uint8 ids": lambda ids: ids.astype("uint8"),
    "int8 ids": lambda ids: ids.astype("int8"),
    "int32 ids": lambda ids: ids.astype("int32"),
    "one-hot": lambda ids: np.eye(L, dtype="float32")[ids],
    "integer one-hot": lambda ids: np.eye(L, dtype="int64")[ids],
    "boolean one-hot": lambda ids: np.eye(L, dtype="bool")[ids],
    "smoothed": lambda ids: (0.9 * np.eye(L)[ids] + 0.1 / L).astype("float32"),
}


@pairs_first(form=FORMS, shape=[(12,), (3, 4), (2, 3, 5)], name=["balanced", "macro_f1", "group"])
def test_every_label_form_means_the_same(rng, form, shape, name):
    ids, scores = draw(rng, *shape)
    check(build(name), ORACLES[name](ids, scores), (FORMS[form](ids), scores))


def test_lists_are_taken_as_they_are():
    check(build("per_class"), [1.0, 0.0, np.nan, np.nan], ([0, 1], [[1.0, 0, 0, 0], [0, 0, 1.0, 0]]))


@every_metric
def test_soft_rows_count_for_their_largest_entry_and_empty_rows_for_none(rng, name):
    ids, scores = draw(rng, 20)
    rows = rng.dirichlet(np.full(L, 0.3), 20).astype("float32")
    rows[::5] = 0
    kept = rows.any(-1)
    check(build(name), ORACLES[name](rows.argmax(-1)[kept], scores[kept]), (rows, scores))


@every_metric
@pytest.mark.parametrize("shape", ["(5,)", "(5, 1)", "(5, 3)", "(5, 3, 1)"])
def test_sample_weights_expand_to_the_right(rng, name, shape):
    ids, scores = draw(rng, 5, 3)
    weight = rng.uniform(0.1, 3, (5, 3))
    if "3" not in shape:
        weight = np.repeat(weight[:, :1], 3, axis=1)
    given = {"(5,)": weight[:, 0], "(5, 1)": weight[:, :1], "(5, 3)": weight, "(5, 3, 1)": weight[..., None]}[shape]
    check(build(name), ORACLES[name](ids, scores, weight=weight), (ids, scores, given))


@every_metric
def test_a_weight_of_zero_leaves_the_example_out(rng, name):
    ids, scores = draw(rng, 30)
    weight = (rng.uniform(size=30) < 0.6).astype("float32")
    weight[ids == 2] = 0  # a class whose examples all weigh nothing has no examples
    kept = weight > 0
    check(build(name), ORACLES[name](ids[kept], scores[kept]), (ids, scores, weight))


@every_metric
@pytest.mark.parametrize(("ignored", "dtype"), [(-1, "int32"), (255, "uint8"), (0, "int64"), (2, "float32")])
def test_ignored_ids_are_left_out(rng, name, ignored, dtype):
    ids, scores = draw(rng, 6, 5)
    ids = np.where(rng.uniform(size=ids.shape) < 0.3, ignored, ids)
    kept = ids != ignored
    scores[~kept] = np.nan
    check(build(name, ignore_class=ignored), ORACLES[name](ids[kept], scores[kept]), (ids.astype(dtype), scores))


def test_padding_under_a_keras_mask_is_left_out_even_with_bad_labels(rng):
    tokens = rng.integers(1, 9, (6, 5))
    tokens[2:, 3:] = tokens[5, 1:] = 0
    inputs = keras.Input((5,), dtype="int32")
    outputs = keras.layers.Dense(L)(keras.layers.Embedding(9, 6, mask_zero=True)(inputs))
    model = keras.Model(inputs, outputs)
    ids = np.where(tokens == 0, -7, rng.integers(0, L, tokens.shape))
    kept, scores = tokens > 0, model.predict(tokens, verbose=0)
    loss = kla.losses.LogitAdjustedCrossentropy(COUNTS)
    model.compile("sgd", loss, metrics=[build(name) for name in CLASSES])
    logs = model.evaluate(tokens, ids, batch_size=4, verbose=0, return_dict=True)
    for name in ("balanced", "macro_f1", "worst"):
        expected = ORACLES[name](ids[kept], scores[kept])
        np.testing.assert_allclose(logs[build(name).name], expected, rtol=2e-6)
    for name, expected in ORACLES["group"](ids[kept], scores[kept]).items():
        np.testing.assert_allclose(logs[name], expected, rtol=2e-6)
    # The same without a model, sample weights on top.
    weight = rng.uniform(0.1, 3, 6)
    expected = ORACLES["balanced"](ids[kept], scores[kept], weight=np.repeat(weight[:, None], 5, 1)[kept])
    check(build("balanced"), expected, (ids, model(tokens), weight))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_top_k_equals_the_rank_in_a_stable_sort(rng, k):
    ids, scores = draw(rng, 15, 4)
    scores = np.round(scores)  # many ties
    expected = reference_metrics.balanced_accuracy(ids, scores, k=k)
    check(kla.metrics.BalancedAccuracy(L, k=k), expected, (ids, scores))
    check(kla.metrics.BalancedAccuracy(L, k=k), expected, (ids.ravel(), scores.reshape(60, L)))
    assert expected < 1 or k == L


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_constant_model_has_the_first_k_classes_right_and_no_more(k):
    scores = np.zeros((L, L), "float32")
    metric = kla.metrics.BalancedAccuracy(L, k=k)
    assert metric.name == ("balanced_accuracy" if k == 1 else f"top_{k}_balanced_accuracy")
    check(metric, k / L, (np.arange(L), scores))


@pytest.mark.parametrize("k", [1, 2, L])
def test_a_diverged_model_has_nothing_right(k):
    check(kla.metrics.BalancedAccuracy(L, k=k), 0.0, (np.arange(L), np.full((L, L), np.nan, "float32")))


def replicated(rng, copies):
    """A balanced test set, and the same with class y repeated `copies[y]` times."""
    ids = np.repeat(np.arange(L), 15)
    scores = (rng.normal(size=(ids.size, L)) + np.eye(L)[ids]).astype("float32")
    times = np.asarray(copies)[ids]
    return ids, scores, np.repeat(ids, times), np.repeat(scores, times, axis=0)


COPIES = [9, 4, 2, 1]


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in PRIOR_FREE])
def test_class_prior_judges_a_balanced_test_set_as_the_deployment_would(rng, name):
    ids, scores, deployed_ids, deployed_scores = replicated(rng, COPIES)
    plain = (deployed_scores.argmax(-1) == deployed_ids).mean()
    if name == "balanced":
        expected = plain
    elif name == "group":  # plain accuracy among the deployed examples of the group
        hits = deployed_scores.argmax(-1) == deployed_ids
        groups = np.array(GROUPS)[deployed_ids]
        expected = {f"{g}_accuracy": hits[groups == g].mean() for g in ("many", "medium", "few")}
    else:
        expected = ORACLES[name](deployed_ids, deployed_scores)
    check(build(name, class_prior=COPIES), expected, (ids, scores))
    probabilities = np.array(COPIES) / np.sum(COPIES)
    check(build(name, class_prior=probabilities), expected, (ids, scores))


@pytest.mark.parametrize("name", ["balanced", "macro_f1", "precision"])
def test_a_uniform_class_prior_changes_nothing_and_another_one_does(rng, name):
    ids, scores, _, _ = replicated(rng, COPIES)
    scores += np.array([1.0, 0, 0, -1], "float32")  # so that the classes differ in recall
    check(build(name, class_prior=[7] * L), ORACLES[name](ids, scores), (ids, scores))
    plain, _ = evaluate(build(name), (ids, scores))
    weighted, _ = evaluate(build(name, class_prior=COPIES), (ids, scores))
    assert np.abs(plain - weighted).max() > 0.01


def test_class_prior_leaves_absent_classes_out_of_the_mean(rng):
    ids, scores = draw(rng, 40, missing=(0, 3))
    check(
        build("balanced", class_prior=COPIES),
        reference_metrics.balanced_accuracy(ids, scores, prior=COPIES),
        (ids, scores),
    )


@every_metric
def test_nothing_seen_is_nan_and_reset_forgets(rng, name):
    metric = build(name)
    assert np.isnan(as_array(metric.result())[0]).all()
    ids, scores = draw(rng, 30)
    metric.update_state(ids[::-1], scores)
    metric.reset_state()
    assert np.isnan(as_array(metric.result())[0]).all()
    check(metric, ORACLES[name](ids, scores), (ids, scores))


@every_metric
@pytest.mark.parametrize("bad", [-1, L, 2**30, 0.5, np.nan])
def test_a_bad_label_shows_in_every_part_of_the_result(rng, name, bad):
    ids, scores = draw(rng, 30)
    labels = ids.astype(type(bad))
    labels[4] = bad
    value, _ = evaluate(build(name), (labels, scores), (ids, scores))
    assert np.isnan(value).all()


@every_metric
def test_ids_of_many_classes_stay_exact_in_bfloat16(name):
    keras.config.set_floatx("bfloat16")
    classes = 3000
    ids = np.array([2048, 2049, 2050, 2999, 2999])
    scores = np.zeros((5, classes), "float32")
    scores[np.arange(5), [2048, 2049, 2051, 2999, 0]] = 1
    groups = {2048: "a", 2049: "a", 2050: "b", 2999: "b"}
    metric = (
        kla.metrics.GroupAccuracy(np.full(classes, 7), groups=groups) if name == "group" else CLASSES[name](classes)
    )
    assert {metric.dtype, *(variable.dtype for variable in metric.variables)} == {"float32"}
    seen = {"per_class": [1, 1, 0, 0.5], "precision": [1, 1, 0, 1]}.get(name)
    for cast in (np.asarray, keras.ops.convert_to_tensor, lambda x: np.asarray(x, "float32")):
        metric.reset_state()
        value, names = evaluate(metric, (cast(ids), scores))
        if seen is not None:
            np.testing.assert_array_equal(value[[2048, 2049, 2050, 2999]], seen)
            assert np.isnan(np.delete(value, [2048, 2049, 2050, 2999])).all()
        elif name == "group":
            assert dict(zip(names, value, strict=True)) == {"a_accuracy": 1.0, "b_accuracy": 0.25}
        else:
            expected = {"balanced": 2.5 / 4, "worst": 0.0, "macro_f1": (1 + 1 + 0 + 2 / 3) / 4}[name]
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_counts_pass_the_largest_integers_of_bfloat16():
    keras.config.set_floatx("bfloat16")
    metric = build("per_class")
    for _ in range(3):
        metric.update_state(np.zeros(901, "int32"), np.eye(L, dtype="float32")[np.arange(901) % 2])
    np.testing.assert_allclose(as_array(metric.result())[0][0], 451 / 901, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (None, ["many", "many", "medium", "few"]),
        (["b", "a", "b", "a"], ["b", "a", "b", "a"]),
        ({0: "x", 3: "x", 1: "y"}, ["x", "y", None, "x"]),
        (["only", None, None, "only"], ["only", None, None, "only"]),
    ],
)
def test_groups_come_from_counts_names_or_a_mapping(rng, groups, names):
    ids, scores = draw(rng, 60)
    metric = kla.metrics.GroupAccuracy(COUNTS, groups=groups)
    check(metric, reference_metrics.group_accuracy(ids, scores, names), (ids, scores))


@pytest.mark.parametrize(
    ("counts", "bounds", "expected"),
    [
        ([100, 99, 21, 20], (20, 100), ["many", "medium", "few"]),
        ([100, 99, 50, 21], (20, 100), ["many", "medium"]),
        ([101, 100, 5, 5], (5, 101), ["many", "medium", "few"]),
        ([200, 200, 200, 200], (20, 100), ["many"]),
        ([3, 2, 2, 1], np.array([20, 100]), ["few"]),
    ],
)
def test_groups_without_classes_do_not_appear(counts, bounds, expected):
    metric = kla.metrics.GroupAccuracy(counts, bounds=bounds)
    assert list(metric.result()) == [f"{name}_accuracy" for name in expected]


def test_few_is_at_most_20_examples_and_many_at_least_100():
    counts = [100, 99, 21, 20]
    assert kla.metrics.groups.groups_of_counts(counts) == ["many", "medium", "medium", "few"]
    metric = kla.metrics.GroupAccuracy(counts)
    metric.update_state(np.arange(L), np.eye(L)[[0, 1, 0, 0]])  # the first two right
    assert {name: float(value) for name, value in metric.result().items()} == {
        "many_accuracy": 1.0,
        "medium_accuracy": 0.5,
        "few_accuracy": 0.0,
    }


def test_bounds_belong_to_many_and_few_or_to_medium():
    counts = [101, 100, 99, 21, 20, 19, 100.5, 19.5]
    paper, oltr = (kla.metrics.groups_of_counts(counts, inclusive=inclusive) for inclusive in (True, False))
    assert paper == ["many", "many", "medium", "medium", "few", "few", "many", "few"]
    assert oltr == ["many", "medium", "medium", "medium", "medium", "few", "many", "few"]
    assert kla.metrics.groups_of_counts(counts) == paper


def test_the_metric_and_the_report_take_either_kind_of_bounds():
    counts, data = [101, 100, 20, 19], (np.eye(4), np.arange(4))
    for inclusive, expected in ((True, ["many", "few"]), (False, ["many", "medium", "few"])):
        metric = kla.metrics.GroupAccuracy(counts, inclusive=inclusive)
        assert list(metric.result()) == [f"{name}_accuracy" for name in expected]
        assert kla.metrics.GroupAccuracy.from_config(metric.get_config()).inclusive is inclusive
        report = kla.callbacks.LongTailReport(counts, validation_data=data, inclusive=inclusive)
        assert list(report._members) == expected
    with pytest.raises(ValueError, match="`inclusive` must be True or False. Received: inclusive='outer'"):
        kla.metrics.GroupAccuracy(counts, inclusive="outer")


def test_a_group_whose_classes_were_not_seen_has_no_accuracy(rng):
    ids, scores = draw(rng, 40, missing=(3,))
    value, names = evaluate(build("group"), (ids, scores))
    assert np.isnan(value[names.index("few_accuracy")])
    assert np.isfinite(value[names.index("many_accuracy")])
