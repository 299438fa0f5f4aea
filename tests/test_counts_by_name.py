"""Counts that name their classes: in order of the names where these are known, refused where they are not."""

import collections

import numpy as np
import pytest
from helpers.tables import DataFrame, Series

import keras_logit_adjust as kla
from keras_logit_adjust.priors import as_prior, log_odds, prior

NAMES = ["ant", "bee", "cat"]
COUNTS = {"ant": 50, "bee": 30, "cat": 20}
SHARES = [0.5, 0.3, 0.2]
BY_FREQUENCY = {"cat": 20, "ant": 50, "bee": 30}  # in an order that is not that of the ids

NAMED = {
    "dict": BY_FREQUENCY,
    "Counter": collections.Counter(["cat"] * 20 + ["ant"] * 50 + ["bee"] * 30),
    "Series": Series([20, 50, 30], ["cat", "ant", "bee"]),
    "DataFrame": DataFrame([[20], [50], [30]], ["cat", "ant", "bee"]),
}
# What takes class counts or one number a class, and how its messages call that.
TAKERS = {
    "prior": (prior, "class_counts"),
    "log_odds": (lambda counts: log_odds(counts, 100), "positive_counts"),
    "loss": (kla.losses.LogitAdjustedCrossentropy, "class_counts"),
    "binary loss": (lambda counts: kla.losses.BinaryLogitAdjustedCrossentropy(counts, 100), "positive_counts"),
    "layer": (kla.layers.LogitAdjustment, "class_counts"),
    "target": (lambda counts: kla.layers.LogitAdjustment([5, 3, 2], target_prior=counts), "target_prior"),
    "metric": (lambda counts: kla.metrics.BalancedAccuracy(3, class_prior=counts), "class_prior"),
    "groups": (kla.metrics.groups_of_counts, "class_counts"),
    "weights": (kla.losses.class_balanced_weights, "class_counts"),
    "stage": (lambda counts: kla.callbacks.DeferredReweighting({1: counts}), None),
    "tau": (lambda counts: kla.losses.LogitAdjustedCrossentropy([5, 3, 2], tau=counts), "tau"),
    "subsample": (lambda counts: kla.data.subsample([0, 1, 2] * 50, counts, seed=0), "class_counts"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_names_put_counts_in_order_of_class_id(kind):
    np.testing.assert_allclose(as_prior(NAMED[kind], class_names=NAMES).probabilities, SHARES, rtol=1e-15)
    np.testing.assert_allclose(as_prior(NAMED[kind], class_names=np.array(NAMES)).probabilities, SHARES, rtol=1e-15)
    odds = as_prior(NAMED[kind], 100, class_names=NAMES).logits
    np.testing.assert_allclose(odds, np.log([50 / 50, 30 / 70, 20 / 80]), rtol=1e-14)


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("taker", TAKERS)
def test_counts_by_name_are_refused_where_names_are_not_known(kind, taker):
    take, name = TAKERS[taker]
    if taker == "stage" and kind in ("dict", "Counter"):
        pytest.skip("these name outputs")
    rule = (
        rf"`{name or 'weights'}` must be in order of class id.*a {kind} with the (keys|index) \['cat', 'ant', 'bee'\]"
    )
    with pytest.raises(ValueError, match=f"{rule}.*c. for c in class_names"):
        take(NAMED[kind])


def test_the_remedies_of_the_message_are_right():
    series = NAMED["Series"]
    assert prior([BY_FREQUENCY[c] for c in NAMES]).tolist() == SHARES
    assert prior([series[c] for c in NAMES]).tolist() == SHARES
    assert prior(Series([20, 50, 30], [2, 0, 1]).sort_index()).tolist() == SHARES
    assert prior([{2: 1, 0: 3}.get(c, 0) for c in range(3)], smoothing=1).tolist() == [4 / 7, 1 / 7, 2 / 7]


def test_a_report_that_knows_the_names_takes_counts_by_name():
    data = (np.eye(3), np.arange(3))
    report = kla.callbacks.LongTailReport(BY_FREQUENCY, validation_data=data, class_names=NAMES)
    assert report.class_counts.tolist() == [50, 30, 20]
    report = kla.callbacks.LongTailReport([50, 30, 20], validation_data=data, class_names=NAMES)
    assert report.class_counts.tolist() == [50, 30, 20]


@pytest.mark.parametrize("index", [[0, 1, 2], [0.0, 1.0, 2.0], np.arange(3, dtype="uint8")])
def test_an_index_of_class_ids_is_in_order(index):
    assert prior(Series([50, 30, 20], index)).tolist() == SHARES


NO_IDS = {
    "ids in another order": ([2, 0, 1], r"add \.sort_index\(\)\."),
    "ids from 1 on": ([1, 2, 3], r"add \.reindex\(range\(num_classes\), fill_value=0\), which leaves out ids below 0"),
    "an id without examples": ([0, 1, 5], r"add \.reindex"),
    "an id for unknown labels": ([-1, 0, 1], r"add \.reindex"),
    "names in order": (["ant", "bee", "cat"], r"give \[class_counts\[c\] for c in class_names\]"),
    "digits as text": (["0", "1", "2"], r"give \[class_counts\[c\] for c in class_names\]"),
    "names and numbers": (np.array([1, "a", 2], object), r"give \[class_counts\[c\]"),
    "two rows of a class": ([0, 0, 1], r"add \.reindex"),
    "truths": (np.array([False, True, 2], object), r"give \[class_counts\[c\]"),
}


@pytest.mark.parametrize("case", NO_IDS)
def test_any_other_index_is_refused_with_what_puts_it_in_order(case):
    index, remedy = NO_IDS[case]
    with pytest.raises(ValueError, match=rf"order of class id. Received a Series with the index \[.*: {remedy}"):
        prior(Series([5, 3, 1], index))


def test_ids_as_names_keep_their_order():
    assert as_prior({0: 50, 1: 30, 2: 20}, class_names=NAMES).probabilities.tolist() == SHARES
    assert as_prior({2: 20, 0: 50, 1: 30}, class_names=range(3)).probabilities.tolist() == SHARES


@pytest.mark.parametrize("table", [Series([50, 30, 20], [0, 1, 2]), DataFrame([[50], [30], [20]], [0, 1, 2])])
def test_a_table_that_numbers_its_rows_names_no_class(table):
    rule = r"must name its classes in its index.*with the index 0 … 2, beside the class names \['ant', 'bee', 'cat'\]"
    remedy = r'table.set_index\("class"\)\["count"\]. Where rows are in order.*give class_counts.to_numpy\(\)'
    with pytest.raises(ValueError, match=f"{rule}.*{remedy}"):
        as_prior(table, class_names=NAMES)
    assert as_prior(table, class_names=range(3)).probabilities.tolist() == SHARES  # the ids are the names


def test_weights_that_number_their_rows_name_no_class():
    with pytest.raises(ValueError, match="`class_weight` must name its classes in its index"):
        kla.priors.effective_prior(COUNTS, class_weight=Series([1, 2, 3], [0, 1, 2]), class_names=NAMES)


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        ({"ant": 50, "bee": 30}, NAMES, r"every class of `class_names` once.*missing: \['cat'\], of no class: \[\]"),
        ({**COUNTS, "dog": 1}, NAMES, r"missing: \[\], of no class: \['dog'\]"),
        (COUNTS, ["ant", "bee", "Cat"], r"missing: \['Cat'\], of no class: \['cat'\]"),
        (COUNTS, [*NAMES, "ant"], "3 names for 4 classes"),
        (Series([5, 3, 2], ["ant", "bee", "bee"]), ["ant", "bee"], "3 names for 2 classes"),
        (
            DataFrame([[5, 3], [2, 1]], ["ant", "bee"]),
            ["ant", "bee"],
            "one column of numbers.*a DataFrame of 2 columns",
        ),
        ([50, 30], NAMES, "class_names has 3 classes, `class_counts` has 2"),
        (COUNTS, {"ant", "bee", "cat"}, "`class_names` must be a list of names, in order of class id. Received a set"),
        (COUNTS, "abc", "`class_names` must be a list of names.*a str"),
        (COUNTS, dict.fromkeys(NAMES), "`class_names` must be a list of names.*a dict"),
    ],
)
def test_names_that_do_not_match_are_told(counts, names, message):
    with pytest.raises(ValueError, match=message):
        as_prior(counts, class_names=names)


def test_a_dict_by_class_id_is_in_order_where_its_keys_are():
    np.testing.assert_allclose(prior({0: 50, 1: 30, 2: 20}), SHARES, rtol=1e-15)
    np.testing.assert_allclose(prior(collections.Counter([0] * 5 + [1] * 3 + [2] * 2)), SHARES, rtol=1e-15)
    for keys in ([1, 0, 2], [1, 2, 3], [0, 2, 1], [0.0, 1.0, 2.0], ["0", "1", "2"]):
        with pytest.raises(ValueError, match="must be in order of class id. Received a dict with the keys"):
            prior(dict(zip(keys, [50, 30, 20], strict=True)))
