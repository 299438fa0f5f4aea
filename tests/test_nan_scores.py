"""Rows of scores with NaN predict no class: wrong in the recall of their own class, in no class's predictions."""

import numpy as np
import pytest
from keras import ops
from sklearn import metrics as sk

import keras_logit_adjust as kla

L, NO_CLASS = 3, 3
COUNTS = [300, 50, 5]
IDS = np.repeat(np.arange(L), 4)
# Right but for the last example of each class. Then NaN in every column of some rows, and in all of another.
PREDICTED = np.where(np.arange(12) % 4 == 3, (IDS + 1) % L, IDS)
SCORES = 5 * np.eye(L, dtype="float32")[PREDICTED]
SCORES[[0, 1, 2], [0, 1, 2]] = np.nan  # of the right class, and of others
SCORES[[4, 8, 9], [0, 0, 2]] = np.nan
SCORES[6] = np.nan
ANSWERS = np.where(np.isnan(SCORES).any(axis=-1), NO_CLASS, PREDICTED)
RECALLS = np.array([np.mean(ANSWERS[c == IDS] == c) for c in range(L)])
EXPECTED = {
    "balanced": (kla.metrics.BalancedAccuracy(L), RECALLS.mean()),
    "per_class": (kla.metrics.PerClassAccuracy(L), RECALLS),
    "worst": (kla.metrics.WorstClassAccuracy(L), RECALLS.min()),
    "group": (kla.metrics.GroupAccuracy(COUNTS), RECALLS),
    "precision": (
        kla.metrics.PerClassPrecision(L),
        [np.sum((c == ANSWERS) & (c == IDS)) / max((c == ANSWERS).sum(), 1) for c in range(L)],
    ),
    "macro_f1": (
        kla.metrics.MacroF1(L),
        sk.f1_score(IDS, ANSWERS, labels=range(L), average="macro", zero_division=0),
    ),
}


def value(metric, scores):
    metric.update_state(IDS, scores)
    result = metric.result()
    parts = result.values() if isinstance(result, dict) else [result]
    return np.concatenate([np.ravel(ops.convert_to_numpy(part)) for part in parts])


def test_every_metric_reads_nan_as_no_class():
    for name, (metric, expected) in EXPECTED.items():
        np.testing.assert_allclose(value(metric, SCORES), np.ravel(expected), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("k", [2, L])
def test_among_the_k_best_of_a_row_with_nan_is_no_class(k):
    is_number = ~np.isnan(SCORES).any(axis=-1)
    order = np.argsort(-np.nan_to_num(SCORES), axis=-1, kind="stable")
    hits = is_number & (order[:, :k] == IDS[:, None]).any(axis=-1)
    expected = np.mean([hits[c == IDS].mean() for c in range(L)])
    np.testing.assert_allclose(value(kla.metrics.BalancedAccuracy(L, k=k), SCORES), [expected], rtol=1e-6)
    best = {"ids": order, "scores": np.take_along_axis(SCORES, order, axis=-1)}
    np.testing.assert_allclose(value(kla.metrics.BalancedAccuracy(L, k=k), best), [expected], rtol=1e-6)
    assert expected < 1
