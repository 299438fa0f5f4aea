"""Classifiers of scikit-learn, adjusted by their scores, and their class weights undone."""

import json
import pathlib

import numpy as np
import pytest
from imblearn.over_sampling import RandomOverSampler
from reference import log_prior, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

import keras_logit_adjust as kla

SHARES = [0.85, 0.11, 0.04]


def problem(seed):
    """Training and test sets of Gaussian classes, whose Bayes rule logistic regression can express."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, 5))
    for size in (2000, 4000):
        y = rng.choice(3, size, p=SHARES)
        yield rng.normal(size=(size, 5)) + centers[y], y


def log_loss(p, y):
    return -np.log(p[np.arange(y.size), y]).mean()


def brier_score(p, y):
    return ((p - np.eye(3)[y]) ** 2).sum(axis=1).mean()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So little data is slower on several."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def judged(one_thread):
    """Log loss and Brier score `[seeds, 2]` of logistic regression: plain, with weights, undone, resampled, undone."""
    rows = {"plain": [], "weighted": [], "weights undone": [], "resampling undone": []}
    for seed in range(5):
        (x, y), (x_test, y_test) = problem(seed)
        counts = np.bincount(y)
        plain = LogisticRegression().fit(x, y).predict_proba(x_test)
        weighted = LogisticRegression(class_weight="balanced").fit(x, y).predict_proba(x_test)
        more = RandomOverSampler(random_state=seed).fit_resample(x, y)
        resampled = LogisticRegression().fit(*more).predict_proba(x_test)
        by_weight = kla.priors.effective_prior(counts, class_weight="balanced")
        by_sample = kla.priors.effective_prior(counts, resampled_counts=np.bincount(more[1]))
        found = {
            "plain": plain,
            "weighted": weighted,
            "weights undone": kla.adjust_scores(weighted, by_weight, target_prior=counts),
            "resampling undone": kla.adjust_scores(resampled, by_sample, target_prior=counts),
        }
        for name, p in found.items():
            rows[name].append([log_loss(p, y_test), brier_score(p, y_test)])
    return {name: np.array(values) for name, values in rows.items()}


@pytest.mark.parametrize("name", ["weights undone", "resampling undone"])
def test_undone_logistic_regression_is_as_good_as_a_plain_one(judged, name):
    """Paired, for each of five seeds; the weights themselves cost twenty times as much."""
    assert (np.abs(judged[name] - judged["plain"]) < 0.01).all()
    assert (judged["weighted"] - judged["plain"] > 0.05).all()


@pytest.mark.parametrize("classifier", [LogisticRegression(), DecisionTreeClassifier(max_depth=3)], ids=type)
def test_probabilities_of_scikit_learn_are_adjusted_as_by_hand(classifier):
    (x, y), (x_test, _) = problem(0)
    names = np.array(["ant", "bee", "cat"])
    classifier.fit(x, names[y])
    p = classifier.predict_proba(x_test)
    counts = {name: int(count) for name, count in zip(names, np.bincount(y), strict=True)}
    found = kla.adjust_scores(p, counts, class_names=classifier.classes_)
    with np.errstate(divide="ignore"):
        logits = np.log(p) - log_prior(np.bincount(y))
    np.testing.assert_allclose(found, np.apply_along_axis(softmax, 1, logits), rtol=1e-11)
    assert isinstance(classifier, LogisticRegression) or (found == 0).any()  # leaves without a class


def test_decision_values_are_adjusted_as_logits():
    (x, y), (x_test, _) = problem(0)
    y = np.minimum(y, 1)  # two classes: one value a row
    model, counts = LogisticRegression().fit(x, y), np.bincount(y)
    values = kla.adjust_scores(model.decision_function(x_test), counts, kind="logits")
    p = kla.adjust_scores(model.predict_proba(x_test), counts)
    np.testing.assert_allclose(values, np.log(p[:, 1] / p[:, 0]), atol=1e-9)
    second = kla.adjust_scores(model.predict_proba(x_test)[:, 1], counts)
    np.testing.assert_allclose(second, p[:, 1], rtol=1e-9)


def test_what_the_page_says_of_boosters_is_on_file():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "results" / "undone_weights.json"
    for name, ways in json.loads(path.read_text())["classifiers"].items():
        plain, weighted, undone = (np.array(ways[way]["log_loss"]) for way in ("plain", "class_weight", "undone"))
        if name.endswith("overfitted"):
            assert undone.mean() > weighted.mean()
        else:
            assert (np.abs(undone - plain) < (0.01 if name.startswith("logistic") else 0.02)).all()
            assert (weighted - plain > 0.05).all()
