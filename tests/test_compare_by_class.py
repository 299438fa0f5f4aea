"""The table of classes in a report: their names, and what the best row gains and loses on each."""

import re

import numpy as np
import pytest
from helpers import reports
from sklearn.metrics import recall_score

from keras_logit_adjust.compare import by_class, report
from keras_logit_adjust.data import load


@pytest.fixture
def results():
    whole = reports.committed("compare_fashion_mnist_lt")
    return {**whole, "class_names": [f"kind {c}" for c in range(10)]}


def test_each_class_has_its_name_its_count_and_both_recalls(results):
    predictions = reports.predictions_of(results)
    recalls = by_class.mean_recalls(predictions, 10)
    header, rows, words = by_class.table(results, recalls, "erm", "la_loss")
    assert header == ["class", "training examples", "`erm` %", "`la_loss` %", "change (points)"]
    assert words.startswith("All classes, in order of the change")
    expected = {
        name: np.mean([recall_score(predictions.labels, p, average=None) for p in predictions.predicted(name)], axis=0)
        for name in ("erm", "la_loss")
    }
    order = np.argsort(expected["erm"] - expected["la_loss"], kind="stable")
    assert [row[0] for row in rows] == [f"kind {c}" for c in order]
    for c, row in zip(order, rows, strict=True):
        plain, best = (100 * expected[name][c] for name in ("erm", "la_loss"))
        assert row[1:] == [f"{results['class_counts'][c]}", f"{plain:.1f}", f"{best:.1f}", f"{best - plain:+.1f}"]


def test_of_many_classes_those_that_change_most_are_shown():
    counts, change = [5] * 200, np.random.default_rng(0).permutation(np.linspace(-0.3, 0.4, 200))
    change[7] = np.nan
    recalls = {"erm": np.full(200, 0.5), "la_loss": 0.5 + change}
    _, rows, words = by_class.table({"class_counts": counts}, recalls, "erm", "la_loss")
    order = np.argsort(-np.nan_to_num(change, nan=-np.inf))[:199]
    assert [int(row[0]) for row in rows] == [*order[:10], *order[-10:]]
    assert words.startswith("The 10 classes that gain most and the 10 that lose most, of 199")


def test_both_reports_have_the_table_if_another_row_is_best(results, tmp_path):
    page = reports.write(tmp_path / "out", results).read_text()
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Classes" in text and "| kind 9 |" in text and "Recall of classes" in page and "kind 9" in page
    alone = {**results, "methods": {"erm": results["methods"]["erm"]}}
    assert "Recall of classes" not in reports.write(tmp_path / "alone", alone).read_text()


def test_the_names_are_those_in_the_file_of_the_user(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.repeat([0, 1, 2], 10)
    path = tmp_path / "mine.npz"
    np.savez(path, x=x, y=y, class_names=["cat", "lynx", "ocelot"])
    assert load(path, test=path, validation="none").class_names == ["cat", "lynx", "ocelot"]
    np.savez(path, x=x, y=y)
    assert load(path, test=path, validation="none").class_names == ["0", "1", "2"]
    for names in (["cat", "lynx"], ["cat", "lynx", "cat"]):
        np.savez(path, x=x, y=y, class_names=names)
        with pytest.raises(ValueError, match="must be 3 different names, one for each class in order of id"):
            load(path, test=path, validation="none")


def test_a_bar_in_a_name_does_not_end_its_cell(results):
    named = {**results, "class_names": [f"a|b {c}" for c in range(10)]}
    header, rows, _ = by_class.table(named, by_class.mean_recalls(reports.predictions_of(named), 10), "erm", "la_loss")
    lines = report.to_table(header, rows).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(header) + 1}
    assert all(r"a\|b" in line for line in lines[2:])


def test_names_in_a_file_are_texts(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.repeat([0, 1], 10)
    path = tmp_path / "mine.npz"
    np.savez(path, x=x, y=y, class_names=np.array(["käfer".encode(), b"ant"]))
    assert load(path, test=path, validation="none").class_names == ["käfer", "ant"]
    np.savez(path, x=x, y=y, class_names=np.array(["bee", "ant"], dtype=object))
    with pytest.raises(ValueError, match=r"must be an array of texts.*objects.*dtype=str"):
        load(path, test=path, validation="none")
