"""Real scores of LightGBM, XGBoost and scikit-learn, as arrays and pandas frames, through `kla.adjust_scores`."""

import numpy as np
import pytest
from reference import log_odds, log_prior, sigmoid, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import keras_logit_adjust as kla

lightgbm = pytest.importorskip("lightgbm", reason="the booster whose scores are adjusted")
pandas = pytest.importorskip("pandas", reason="its frames are adjusted")

NAMES = ["wolf", "lynx", "bear"]  # not in order of the alphabet
COUNTS = {"wolf": 800, "lynx": 160, "bear": 40}
TARGET = {"bear": 0.5, "lynx": 0.3, "wolf": 0.2}
COLUMNS = ["length", "weight", "height", "age"]


def booster(**options):
    return lightgbm.LGBMClassifier(n_estimators=12, num_leaves=7, n_jobs=1, verbose=-1, random_state=0, **options)


@pytest.fixture(scope="module")
def table():
    """A frame of features with an index, and its class names."""
    rng = np.random.default_rng(0)
    y = np.repeat(NAMES, list(COUNTS.values()))
    centers = rng.normal(scale=0.7, size=(3, len(COLUMNS)))
    x = rng.normal(size=(y.size, len(COLUMNS))) + np.repeat(centers, list(COUNTS.values()), axis=0)
    return pandas.DataFrame(x, index=[f"animal {i}" for i in range(y.size)], columns=COLUMNS), y


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def expected(p, classes, tau=1.0):
    """Posteriors under the target, by float64 arithmetic."""
    shift = tau * log_prior([COUNTS[name] for name in classes]) - log_prior([TARGET[name] for name in classes])
    return np.apply_along_axis(softmax, 1, np.log(p) - shift)


CLASSIFIERS = {
    "LightGBM": booster,
    "scikit-learn, boosted": lambda: HistGradientBoostingClassifier(max_iter=12, max_leaf_nodes=7),
    "scikit-learn, logistic": LogisticRegression,
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_frame_of_probabilities_comes_back_as_arithmetic_says(name, table):
    x, y = table
    model = CLASSIFIERS[name]().fit(x, y)
    frame = pandas.DataFrame(model.predict_proba(x), index=x.index, columns=model.classes_)
    found = kla.adjust_scores(frame, COUNTS, tau=0.7, target_prior=TARGET)
    right = pandas.DataFrame(expected(frame.to_numpy(), model.classes_, tau=0.7), x.index, model.classes_)
    pandas.testing.assert_frame_equal(found, right, rtol=1e-11)
    # Of columns in another order, the same numbers in that order.
    reordered = kla.adjust_scores(frame[NAMES], pandas.Series(COUNTS), tau=0.7, target_prior=pandas.Series(TARGET))
    pandas.testing.assert_frame_equal(reordered, right[NAMES], rtol=1e-11)


def test_raw_scores_of_lightgbm_are_logits_of_its_probabilities(table):
    x, y = table
    model = booster().fit(x, y)
    raw, p = model.predict(x, raw_score=True), model.predict_proba(x)
    counts = [COUNTS[name] for name in model.classes_]
    found = kla.adjust_scores(raw, counts, kind="logits")
    np.testing.assert_allclose(found, raw - log_prior(counts), rtol=1e-12)
    np.testing.assert_allclose(np.apply_along_axis(softmax, 1, found), kla.adjust_scores(p, counts), rtol=1e-9)


def test_a_booster_of_two_classes_gives_the_second_alone(table):
    x, y = table
    is_rare = (y == "bear").astype(int)
    raw = booster().fit(x, is_rare)
    series = pandas.Series(raw.booster_.predict(x), index=x.index, name="bear")
    found = kla.adjust_scores(series, np.bincount(is_rare))
    right = sigmoid(np.log(series / (1 - series)).to_numpy() - log_odds([is_rare.sum()], y.size)[0])
    pandas.testing.assert_series_equal(found, pandas.Series(right, x.index, name="bear"), rtol=1e-9)


def test_probabilities_of_xgboost_in_float32_are_adjusted_in_float32(table):
    xgboost = pytest.importorskip("xgboost", reason="the booster whose scores are adjusted")
    x, y = table
    classes, ids = np.unique(y, return_inverse=True)
    p = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, ids).predict_proba(x)
    counts, target = ([values[name] for name in classes] for values in (COUNTS, TARGET))
    found = kla.adjust_scores(p, counts, target_prior=target)
    assert p.dtype == np.float32
    np.testing.assert_allclose(found, expected(p.astype("float64"), classes), rtol=2e-6)


def test_weights_of_lightgbm_are_undone_by_its_effective_prior(table):
    """Boosting is approximate: the log loss comes nearer to that of unweighted training, and is not equal to it."""
    x, y = table
    plain, weighted = (booster(class_weight=w).fit(x[::2], y[::2]).predict_proba(x[1::2]) for w in (None, "balanced"))
    classes, ids = np.unique(y, return_inverse=True)
    counts = np.bincount(ids[::2])
    prior = kla.priors.effective_prior(counts, class_weight="balanced")
    undone = kla.adjust_scores(weighted, prior, target_prior=counts)

    def log_loss(p):
        return -np.log(p[np.arange(len(p)), ids[1::2]]).mean()

    assert abs(log_loss(undone) - log_loss(plain)) < 0.3 * (log_loss(weighted) - log_loss(plain))


def test_tables_as_pandas_reads_them_name_classes_or_are_refused(table, tmp_path):
    x, y = table
    model = LogisticRegression().fit(x, y)
    frame = pandas.DataFrame(model.predict_proba(x), index=x.index, columns=model.classes_)
    path = tmp_path / "counts.csv"
    path.write_text("class,count\n" + "".join(f"{name},{count}\n" for name, count in COUNTS.items()))
    counts = pandas.read_csv(path)
    for column in (counts["count"], counts[["count"]]):
        with pytest.raises(ValueError, match=r'set_index\("class"\)\["count"\]'):
            kla.adjust_scores(frame, column)
    found = kla.adjust_scores(frame, counts.set_index("class")["count"], target_prior=TARGET)
    np.testing.assert_allclose(found, expected(frame.to_numpy(), model.classes_), rtol=1e-11)
    frame.insert(0, "animal", frame.index)
    with pytest.raises(ValueError, match=r"Received text, 'animal 0', in column 'animal'.*set_index\('animal'\)"):
        kla.adjust_scores(frame, COUNTS)
    found = kla.adjust_scores(frame.set_index("animal"), COUNTS, target_prior=TARGET)
    np.testing.assert_allclose(found, expected(model.predict_proba(x), model.classes_), rtol=1e-11)
