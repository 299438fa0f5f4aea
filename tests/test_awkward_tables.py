"""Tables as people have them: the class of a single column, gaps, numbers that are text, columns that may be empty."""

import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust._checks import ArgumentError

pd = pytest.importorskip("pandas", reason="the tables are of pandas")

COUNTS = [60, 25, 15]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
FRAME = pd.DataFrame(PROBABILITIES, columns=["ant", "bee", "cat"])
SHIFTED = PROBABILITIES / COUNTS
SHIFTED = SHIFTED / SHIFTED.sum(axis=1, keepdims=True)
FRAUD = np.array([0.1, 0.9])


@pytest.mark.parametrize("scores", [pd.DataFrame({"fraud": FRAUD}), pd.Series(FRAUD, name="fraud")])
def test_a_column_is_of_the_second_class_and_is_refused_as_the_first(scores):
    counts = {"fraud": 10, "fine": 90}
    odds = FRAUD / (1 - FRAUD) * 90 / 10
    found = kla.adjust_scores(scores, counts, class_names=["fine", "fraud"])
    np.testing.assert_allclose(np.ravel(found), odds / (1 + odds), rtol=1e-12)
    with pytest.raises(ArgumentError, match=r"last of `class_names` must be the class.*'fraud': put that class last"):
        kla.adjust_scores(scores, counts, class_names=["fraud", "fine"])
    unnamed = kla.adjust_scores(FRAUD, counts, class_names=["fine", "fraud"])
    np.testing.assert_array_equal(np.ravel(found), unnamed)


@pytest.mark.parametrize("dtype", ["Float64", object, "float32", pd.SparseDtype(float)])
def test_columns_of_every_type_of_numbers_are_adjusted(dtype):
    found = kla.adjust_scores(FRAME.astype(dtype), {"cat": 15, "ant": 60, "bee": 25})
    np.testing.assert_allclose(found.to_numpy(), SHIFTED, rtol=1e-6)
    assert list(found.columns) == list(FRAME.columns)


@pytest.mark.parametrize("gap", [pd.NA, None])
def test_a_missing_value_is_named_by_its_column_and_row(gap):
    frame = FRAME.astype("Float64" if gap is pd.NA else object)
    frame.iloc[1, 2] = gap
    with pytest.raises(ArgumentError, match=r"must not have missing values.*1 missing in column 'cat', first in row 1"):
        kla.adjust_scores(frame, COUNTS)


def test_numbers_that_are_text_are_to_be_converted():
    with pytest.raises(ArgumentError, match=r"text, '0.7', in column 'ant': convert it, scores.astype\(\"float64\"\)"):
        kla.adjust_scores(FRAME.astype(str), COUNTS)


def test_names_that_columns_repeat_are_said_to_be_twice():
    frame = FRAME.set_axis(["ant", "ant", "cat"], axis=1)
    with pytest.raises(ArgumentError, match=r"twice in `class_names`: \['ant'\]"):
        kla.adjust_scores(frame, {"ant": 60, "cat": 15})


def test_nullable_booleans_are_targets_and_no_counts():
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)
    table, scores = pd.DataFrame(targets).astype("boolean"), targets * 2.0 - 1.5
    assert kla.priors.count_labels(table).positive_counts.tolist() == [2, 2, 1]
    metric = kla.metrics.MultiLabelBalancedAccuracy(3, threshold=0)
    metric.update_state(table, scores)
    assert float(metric.result()) == 1.0
    with pytest.raises(ArgumentError, match=r"dtype bool: class_counts.astype\(int\)"):
        kla.priors.prior(pd.Series([True, True, False], dtype="boolean"))
    table.iloc[0, 0] = pd.NA
    with pytest.raises(ArgumentError, match="must be rows of 0 and 1"):
        kla.priors.count_labels(table)
