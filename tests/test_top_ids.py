"""Metrics of the ids of the best classes: they equal those of all scores, and the precision of several labels."""

import keras
import numpy as np
import pytest
from helpers import reference_metrics

import keras_logit_adjust as kla

L = 6
COUNTS = [300, 120, 80, 30, 15, 5]
GROUPS = ["many", "many", "medium", "medium", "few", "few"]
METRICS = {
    "balanced": (lambda k: kla.metrics.BalancedAccuracy(L, k=k), reference_metrics.balanced_accuracy, (1, 3, L)),
    "groups": (
        lambda k: kla.metrics.GroupAccuracy(COUNTS, k=k),
        lambda ids, scores, weight, k: reference_metrics.group_accuracy(ids, scores, GROUPS, weight, k=k),
        (1, 3),
    ),
    "recalls": (lambda k: kla.metrics.PerClassAccuracy(L), reference_metrics.per_class_accuracy, (1,)),
    "worst": (lambda k: kla.metrics.WorstClassAccuracy(L), reference_metrics.worst_class_accuracy, (1,)),
    "precision": (lambda k: kla.metrics.PerClassPrecision(L), reference_metrics.per_class_precision, (1,)),
    "macro_f1": (lambda k: kla.metrics.MacroF1(L), reference_metrics.macro_f1, (1,)),
}
CASES = [pytest.param(name, k, id=f"{name}-{k}") for name, (_, _, ks) in METRICS.items() for k in ks]


def update(metric, *arguments):
    """`update_state`, as one program where JAX would compile each operation alone."""
    if keras.backend.backend() != "jax":
        return metric.update_state(*arguments)
    import jax

    state = jax.jit(metric.stateless_update_state)([variable.value for variable in metric.variables], *arguments)
    for variable, value in zip(metric.variables, state, strict=True):
        variable.assign(value)


def best_of(scores, k):
    """The `k` best ids of each position and their scores, as a predictor gives them."""
    ids = np.argsort(-scores, axis=-1, kind="stable")[..., :k].astype("int32")
    return {"ids": ids, "scores": np.take_along_axis(scores, ids, axis=-1)}


@pytest.mark.parametrize(("name", "k"), CASES)
def test_a_metric_of_the_best_ids_is_that_of_all_scores(rng, name, k):
    build, oracle, ks = METRICS[name]
    shape = (10, 4) if k == 3 else (40,)
    ids, scores = rng.integers(0, L, shape), rng.normal(size=(*shape, L)).astype("float32")
    weight, metric = rng.uniform(0.1, 3, shape), build(k)
    update(metric, ids, best_of(scores, max(k, 2)), weight)
    expected = oracle(ids, scores, weight, **({"k": k} if len(ks) > 1 else {}))
    result = metric.result()
    found = [np.asarray(keras.ops.convert_to_numpy(part)) for part in keras.tree.flatten(result)]
    np.testing.assert_allclose(found, keras.tree.flatten(expected), rtol=2e-6)
    if name == "groups":
        assert list(result) == [f"top_{k}_{key}" if k > 1 else key for key in expected]


def test_groups_of_the_best_of_all_scores(rng):
    ids, scores = rng.integers(0, L, 40), rng.normal(size=(40, L)).astype("float32")
    metric = kla.metrics.GroupAccuracy(COUNTS, k=3, name="fine")
    update(metric, ids, scores)
    expected = reference_metrics.group_accuracy(ids, scores, GROUPS, k=3)
    assert {name: float(value) for name, value in metric.result().items()} == pytest.approx(
        {f"fine_{name}": value for name, value in expected.items()}, rel=2e-6
    )


def test_as_many_ids_as_classes_are_no_scores():
    metric = kla.metrics.BalancedAccuracy(3)
    update(metric, np.array([0, 1, 2]), {"ids": np.array([[0, 2, 1], [2, 0, 1], [2, 1, 0]])})
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_ids_that_are_no_classes_and_scores_of_nan_are_no_hits():
    labels, ids = np.array([0, 1, 2, 2]), np.array([[-1, 0], [7, 1], [2, 0], [1, 2]])
    scores = np.array([[1, 0], [1, 0], [np.nan, 0], [1, 0]], "float32")
    expected = {1: 0.0, 2: (1 + 1 + 0.5) / 3}
    for k, value in expected.items():
        metric = kla.metrics.BalancedAccuracy(3, k=k)
        update(metric, labels, {"ids": ids, "scores": scores})
        assert float(metric.result()) == pytest.approx(value)
    precision = kla.metrics.PerClassPrecision(3)
    update(precision, labels, {"ids": ids, "scores": scores})
    assert keras.ops.convert_to_numpy(precision.result()).tolist() == [0, 0, 0]


def test_ignored_and_bad_labels_beside_ids():
    best = {"ids": np.array([[0, 1], [1, 2], [2, 0]])}
    metric = kla.metrics.BalancedAccuracy(3, ignore_class=-1)
    update(metric, np.array([0, -1, 1]), best)
    assert float(metric.result()) == 0.5
    update(metric, np.array([0, 3, 1]), best)
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize(
    ("labels", "y_pred", "message"),
    [
        ([0, 1], {"ids": [[0.0], [1.0]]}, r"must be integers \[\.\.\., k\].*float.*top_k"),
        ([0, 1], {"ids": [[0], [1]], "score": [[1], [1]]}, r"must hold the `ids`.*\['ids', 'score'\]"),
        ([0, 1], {"scores": [[0], [1]]}, r"must hold the `ids`"),
        ([0, 1], {"ids": [[0, 1]] * 2, "scores": [[1.0]] * 2}, r"`scores` must have the shape of `ids`, \(2, 2\)"),
        ([0, 1], {"ids": [[0], [1]]}, r"`k` must be at most the number of ids.*1.*k=2.*predictor\(k=2\)"),
        ([0, 1], {"ids": [[0, 1]] * 2, "scores": [[1.0, 0.0]] * 3}, r"`scores` must have the shape of `ids`.*\(3, 2\)"),
        ([0, 1], {"ids": [0, 1]}, r"must be integers \[\.\.\., k\].*of the best class alone `ids\[:, None\]`"),
        ([0, 1, 2], {"ids": [[0, 1], [1, 0]]}, r"must agree in every dimension but the last"),
        (np.eye(6)[:2], {"ids": [[0, 1], [1, 0]]}, r"class ids.*one-hot rows are not read: give ids"),
    ],
)
def test_best_ids_that_do_not_fit_are_refused(labels, y_pred, message):
    metric = kla.metrics.BalancedAccuracy(L, k=2)
    with pytest.raises(ValueError, match=message):
        metric.update_state(np.array(labels), {name: np.array(value) for name, value in y_pred.items()})


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "uint64", "int64"])
def test_ids_of_every_integer_type_are_read_alike(dtype):
    metric = kla.metrics.BalancedAccuracy(256, k=2)
    scores = np.array([[np.nan, np.nan], [2.0, 1.0], [2.0, 1.0]], "float32")
    ids = np.array([[255, 1], [3, 4], [255, 3]]).astype(dtype)
    metric.update_state(np.array([255, 3, 7]), {"ids": ids, "scores": scores})  # −1 as uint8 would be class 255
    assert float(metric.result()) == pytest.approx(1 / 3)


def test_ids_beyond_32_bits_are_no_classes():
    metric = kla.metrics.BalancedAccuracy(L, k=2)
    metric.update_state(np.array([3]), {"ids": np.array([[2**32 + 3, 1]])})
    assert float(metric.result()) == 0


N = 400


def several_labels(rng, size, most=4):
    """Rows of one to `most` ids, filled up with −1, and the sets of them."""
    rows = [rng.choice(L, rng.integers(1, most + 1), replace=False) for _ in range(size)]
    return np.array([np.pad(row, (0, most - len(row)), constant_values=-1) for row in rows]), [set(row) for row in rows]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_propensity_scored_precision_is_that_of_a_loop(rng, k):
    y, rows = several_labels(rng, 30)
    ids, weight = best_of(rng.normal(size=(30, L)), 5)["ids"], rng.uniform(0.1, 3, 30)
    metric = kla.metrics.PropensityScoredPrecision(COUNTS, N, k=k)
    assert metric.name == {1: "", 3: "top_3_", 5: "top_5_"}[k] + "propensity_scored_precision"
    for part in (slice(0, 15), slice(15, 30)):
        update(metric, y[part], ids[part], weight[part])
    expected = reference_metrics.propensity_scored_precision(rows, ids, COUNTS, N, k=k, weight=weight)
    assert 0 < expected < 1
    assert float(metric.result()) == pytest.approx(expected, rel=2e-6)


def test_the_best_ids_reach_a_propensity_scored_precision_of_one(rng):
    y, rows = several_labels(rng, 15)
    rarest = [sorted(row, key=lambda c: COUNTS[c])[:3] for row in rows]
    ids = np.array([[*row, *[c for c in range(L) if c not in row]][:3] for row in rarest])
    metric = kla.metrics.PropensityScoredPrecision(COUNTS, N, k=3, a=0.6, b=2.6)
    update(metric, y, {"ids": ids})
    assert float(metric.result()) == pytest.approx(1, rel=1e-6)


def test_equal_propensities_give_plain_precision_over_the_best_reachable():
    metric = kla.metrics.PropensityScoredPrecision([4, 4, 4], 100, k=2)
    update(metric, np.array([[0, 1], [2, -1]]), np.array([[0, 2], [2, 1]]))
    assert float(metric.result()) == pytest.approx((1 + 1) / (2 + 1))


def test_a_label_that_is_twice_in_a_row_counts_once():
    metrics = [kla.metrics.PropensityScoredPrecision(COUNTS, N, k=2) for _ in range(2)]
    update(metrics[0], np.array([[1, 4, 4, -1]]), np.array([[4, 4]]))
    update(metrics[1], np.array([[1, 4, -1, -1]]), np.array([[4, 0]]))
    assert float(metrics[0].result()) == pytest.approx(float(metrics[1].result()), rel=1e-6)
    assert 0 < float(metrics[0].result()) < 1


def test_several_labels_of_sequences_and_one_label_each():
    metric = kla.metrics.PropensityScoredPrecision([4, 4, 4], 100)
    update(metric, np.array([[[0, 1], [2, -1]]]), np.array([[[1], [1]]]))
    update(metric, np.array([0, 1]), np.array([[0], [1]]))
    assert float(metric.result()) == pytest.approx(3 / 4)


@pytest.mark.parametrize("bad", [6, -2, 0.5])
def test_nothing_seen_and_a_bad_label_are_nan(bad):
    metric = kla.metrics.PropensityScoredPrecision(COUNTS, N)
    assert np.isnan(float(metric.result()))
    update(metric, np.array([[-1.0, -1.0]]), np.array([[1]]))
    assert np.isnan(float(metric.result()))
    update(metric, np.array([[0.0, 1.0]]), np.array([[1]]))
    assert np.isfinite(float(metric.result()))
    update(metric, np.array([[0.0, bad]]), np.array([[1]]))
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([-1, 3], 10), {}, r"`positive_counts` must not be negative.*class 0"),
        (([11, 3], 10), {}, r"`positive_counts` must be at most num_examples=10.*11.*class 0"),
        (([0.5, 0.5], 10), {}, r"`positive_counts` must be numbers of examples"),
        (([1, 1], 2), {}, r"`num_examples` must be a number of at least 3"),
        (([1, 1], 10), {"k": 0}, r"`k` must be an integer of at least 1"),
        (([1, 1], 10), {"k": 3}, r"`k` must be an integer of at least 1 and at most 2"),
        (([1, 1], 10), {"b": 0}, r"`b` must be a positive number"),
        (([1, 1], 10), {"a": -1}, r"`a` must be a number of at least 0"),
        (([1, 1], 10), {"dtype": "float16"}, r"takes no `dtype`"),
    ],
)
def test_propensities_of_bad_counts_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        kla.metrics.PropensityScoredPrecision(*arguments, **options)
    metric = kla.metrics.PropensityScoredPrecision(COUNTS, N)
    with pytest.raises(ValueError, match=r"must be integers \[\.\.\., k\]"):
        metric.update_state(np.array([0]), np.ones((1, L), "float32"))
    with pytest.raises(ValueError, match=r"must be integers \[\.\.\., k\].*`ids\[:, None\]`"):
        metric.update_state(np.array([0, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"`y_true` must be rows of label ids.*\(1, 6\), as wide as there are labels"):
        metric.update_state(np.eye(L, dtype="int32")[:1], np.array([[1]]))


def test_ids_of_100_000_classes_are_counted_one_by_one(rng):
    many = 100_000
    labels = rng.choice(many, 50, replace=False)
    best = np.stack([labels, (labels + 1) % many], axis=-1)
    best[:20] = (best[:20] + 2) % many
    metric = kla.metrics.BalancedAccuracy(many, k=2)
    update(metric, labels, {"ids": best})
    assert float(metric.result()) == pytest.approx(30 / 50)
    assert [tuple(variable.shape) for variable in metric.variables] == [(many,), (many,)]


def sizes_in(jaxpr):
    """The number of entries of each tensor that a program of JAX's makes, in its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (output.aval.size for output in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from sizes_in(getattr(inner, "jaxpr", inner))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX shows all tensors of a step")
@pytest.mark.parametrize("name", ["balanced", "groups", "propensities"])
def test_no_tensor_has_a_score_for_each_example_and_class(name):
    import jax

    many, batch = 5000, 64
    counts = np.arange(many, 0, -1)
    metric = {
        "balanced": lambda: kla.metrics.BalancedAccuracy(many, k=3),
        "groups": lambda: kla.metrics.GroupAccuracy(counts, k=3),
        "propensities": lambda: kla.metrics.PropensityScoredPrecision(counts, many, k=3),
    }[name]()
    labels = np.zeros((batch, 4) if name == "propensities" else batch, "int32")
    state = [variable.value for variable in metric.variables]
    update = jax.make_jaxpr(lambda *values: metric.stateless_update_state(values[0], values[1], {"ids": values[2]}))
    sizes = list(sizes_in(update(state, labels, np.zeros((batch, 5), "int32")).jaxpr))
    assert max(sizes) <= max(many, batch * 4 * 5)
    assert len(sizes) > 10
