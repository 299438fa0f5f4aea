"""Classes without training examples: a group of their own in metrics and reports, and counts that do not name them."""

import collections

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust.priors import log_prior, prior

COUNTS = [200, 50, 5, 4, 0, 0]
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]
SEEN = collections.Counter(dict(zip(NAMES, [200, 50, 5, 4], strict=False)))
Y = np.arange(6)
SCORES = np.eye(6)[[0, 1, 2, 0, 4, 0]]  # wrong: the dog and the fox
GROUPS = {"many_accuracy": 1.0, "medium_accuracy": 1.0, "few_accuracy": 0.5, "unseen_accuracy": 0.5}


def test_classes_of_no_examples_are_in_no_other_group():
    metric = kla.metrics.GroupAccuracy(COUNTS)
    metric.update_state(Y, SCORES)
    assert {name: float(value) for name, value in metric.result().items()} == GROUPS
    again = kla.metrics.GroupAccuracy.from_config(metric.get_config())
    assert list(again.result()) == list(GROUPS)
    assert kla.metrics.groups_of_counts(COUNTS) == ["many", "medium", "few", "few", "unseen", "unseen"]
    assert kla.metrics.groups_of_counts([1, 0, 50], bounds=(0, 1), inclusive=False) == ["medium", "unseen", "many"]


def test_groups_of_ones_own_say_where_unseen_classes_belong():
    metric = kla.metrics.GroupAccuracy(COUNTS, groups=["a", "a", "a", "b", "b", "b"])
    metric.update_state(Y, SCORES)
    own = {name: float(value) for name, value in metric.result().items()}
    assert own == {"a_accuracy": 1.0, "b_accuracy": pytest.approx(1 / 3)}


def test_labels_without_positives_are_a_group_of_their_own():
    metric = kla.metrics.MultiLabelGroupAccuracy([200, 5, 0], threshold=0)
    metric.update_state(np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]))
    expected = {"many_accuracy": 1.0, "few_accuracy": 1.0, "unseen_accuracy": 0.5}
    assert {name: float(value) for name, value in metric.result().items()} == expected


@pytest.mark.parametrize(("counts", "names"), [(COUNTS, None), (COUNTS, NAMES), (SEEN, NAMES), (dict(SEEN), NAMES)])
def test_a_report_tells_the_accuracy_of_unseen_classes(counts, names, capsys):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, kernel_initializer="identity")])
    eager = keras.backend.backend() == "tensorflow"  # compiled it takes seconds
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=eager)
    report = kla.callbacks.LongTailReport(counts, validation_data=(SCORES, Y), class_names=names, worst=2)
    history = model.fit(SCORES, Y, callbacks=[report], verbose=2).history
    assert {name.removeprefix("val_"): history[name] for name in history if name[4:] in GROUPS} == {
        name: [value] for name, value in GROUPS.items()
    }
    dog, fox = (NAMES[3], NAMES[5]) if names else (3, 5)
    assert f"worst classes: {dog} 0.0000 (4), {fox} 0.0000 (0)" in capsys.readouterr().out


def test_classes_that_counts_do_not_name_have_pseudo_examples_alone():
    total = sum(COUNTS) + 6
    expected = np.array([201, 51, 6, 5, 1, 1]) / total
    np.testing.assert_allclose(prior(SEEN, smoothing=1, class_names=NAMES), expected, rtol=1e-15)
    np.testing.assert_allclose(log_prior(dict(SEEN), smoothing=1, class_names=NAMES), np.log(expected), rtol=1e-15)
    full = {name: count + 1 for name, count in zip(NAMES[::-1], COUNTS[::-1], strict=True)}
    np.testing.assert_allclose(prior(full, class_names=NAMES), expected, rtol=1e-15)


def test_a_message_of_missing_names_leads_to_a_prior_that_is_taken():
    way = "kla.priors.prior(class_counts, smoothing=1, class_names=class_names)"
    for refuse in (prior, kla.priors.as_prior, log_prior):
        with pytest.raises(
            ValueError, match=r"missing: \['elk', 'fox'\], of no class: \[\]\. If these have no exam"
        ) as e:
            refuse(SEEN, class_names=NAMES)
        assert f"{way};" in str(e.value)
    found = eval(way, {"kla": kla, "class_counts": SEEN, "class_names": NAMES})
    np.testing.assert_allclose(kla.priors.as_prior(found).probabilities, prior(COUNTS, smoothing=1), rtol=1e-15)


@pytest.mark.parametrize("smoothing", [0, 1])
def test_a_name_of_no_class_is_refused_with_smoothing_too(smoothing):
    with pytest.raises(ValueError, match=r"of no class: \['emu'\]\.$"):
        prior({**SEEN, "emu": 3}, smoothing=smoothing, class_names=NAMES)
    with pytest.raises(
        ValueError, match=r"6 names for 7.*: \[\], of no class: \[\], twice in `class_names`: \['ant'\]\.$"
    ):
        prior(dict.fromkeys(NAMES, 9), smoothing=smoothing, class_names=[*NAMES, "ant"])


def test_what_needs_true_counts_takes_what_its_message_says():
    with pytest.raises(ValueError, match=r"no finite weight.*class_counts=np.maximum\(class_counts, 1\)\.") as refused:
        kla.losses.class_balanced_weights([9, 3, 0])
    assert "smoothing" not in str(refused.value)
    weights = kla.losses.class_balanced_weights(np.maximum([9, 3, 0], 1), beta=0.5)
    expected = 0.5 / (1 - 0.5 ** np.array([9, 3, 1]))
    np.testing.assert_allclose(weights, expected * 3 / expected.sum(), rtol=1e-14)


def test_ids_that_begin_with_one_are_told_to_begin_with_zero():
    with pytest.raises(ValueError, match=r"If your ids begin with 1: y = y - 1\.$"):
        prior([0, 5, 3])


@pytest.mark.parametrize("counts", [COUNTS, SEEN, dict(SEEN)])
def test_one_smoothed_prior_goes_wherever_counts_go(counts):
    names = None if counts is COUNTS else NAMES
    smoothed = kla.priors.as_prior(counts, class_names=names, smoothing=2)
    expected = np.array(COUNTS) + 2.0
    np.testing.assert_array_equal(smoothed.counts, expected)
    logs = np.log(expected / expected.sum())
    np.testing.assert_allclose(kla.adjust_scores(2 * SCORES, smoothed, kind="logits"), 2 * SCORES - logs, atol=1e-12)
    loss = kla.losses.LogitAdjustedCrossentropy(smoothed)
    assert float(loss(Y, np.zeros((6, 6), "float32"))) == pytest.approx(-logs.mean(), abs=1e-6)
    for balanced in (kla.losses.class_balanced_weights(smoothed), kla.losses.class_balanced_weights(expected)):
        np.testing.assert_allclose(balanced, kla.losses.class_balanced_weights(list(expected)), rtol=1e-14)
    assert kla.metrics.groups_of_counts(smoothed) == kla.metrics.groups_of_counts(COUNTS)  # of real examples
    path = kla.TauPath(Y, 2 * SCORES, smoothed)
    np.testing.assert_array_equal(path.weights("few_accuracy"), path.weights([2, 3]))  # without the classes never seen
    layer = kla.layers.PriorAwareDense(6, smoothed)
    np.testing.assert_allclose(type(layer).from_config(layer.get_config()).class_counts, expected)
    assert kla.tune_offsets(2 * SCORES, Y, smoothed, bags=1).log_prior == pytest.approx(logs)


def test_labels_never_or_always_on_get_examples_of_both_kinds():
    smoothed = kla.priors.as_prior([0, 3, 10], num_examples=10, smoothing=1)
    np.testing.assert_allclose(smoothed.probabilities, [1 / 12, 4 / 12, 11 / 12], rtol=1e-15)
    again = kla.priors.as_prior(smoothed, smoothing=3)  # four of each kind in all
    np.testing.assert_allclose(again.probabilities, [4 / 18, 7 / 18, 14 / 18], rtol=1e-15)
    shifted = kla.adjust_scores(np.zeros((1, 3)), smoothed, kind="logits")
    np.testing.assert_allclose(shifted, -np.log([[1 / 11, 4 / 8, 11 / 1]]), atol=1e-12)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([0.9, 0.1, 0.0], {}, "`smoothing` adds examples and so needs true counts"),
        (kla.priors.as_prior([0.9, 0.1]), {}, "`smoothing` adds examples and so needs true counts"),
        (kla.priors.as_prior([9, 1]), {"num_examples": 20}, "`num_examples` must be that of the prior"),
        ([9, -0.5], {}, "Every number in `class_counts` must not be negative"),
        ([9, -0.5], {"num_examples": 20}, "`positive_counts` must be from 0 to num_examples=20.*-0.5"),
        ([9, 21], {"num_examples": 20}, "`positive_counts` must be from 0 to num_examples=20.*21"),
        ([9, 1], {"smoothing": -1}, "`smoothing` must be a number of at least 0"),
        ([9, 1], {"smoothing": np.nan}, "`smoothing` must be a number"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(counts, options, message):
    with pytest.raises(ValueError, match=message):
        kla.priors.as_prior(counts, **{"smoothing": 1, **options})
