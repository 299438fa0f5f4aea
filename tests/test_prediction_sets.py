"""`kla.held_out.PredictionSets`: what the sets promise holds, and the layer says what the arrays say."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from helpers.arrays import array
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import PredictionSets

SHARES = np.array([0.7, 0.2, 0.07, 0.03])
SPLITS = 200


def draw(rng, y):
    """Logits `log P(y|x)`, not quite right, of Gaussian classes."""
    x = rng.normal(size=(y.size, 4)) + 1.5 * np.eye(4)[y]
    return 1.3 * x + np.log(SHARES), y


def coverages(n, seed=0, drawn=None, **options):
    """For each of many splits: coverage, and coverage of each class, on new examples of the calibration mix."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(SPLITS):
        y = rng.choice(4, n, p=SHARES) if drawn is None else drawn
        sets = PredictionSets(*draw(rng, y), SHARES, **options)
        logits, y = draw(rng, rng.choice(4, 300, p=SHARES))
        hits = sets.sets(logits)[np.arange(y.size), y]
        found.append([hits.mean(), *(hits[y == c].mean() if (y == c).any() else np.nan for c in range(4))])
    return np.array(found)


@pytest.mark.parametrize("score", ["prevalence_adjusted", "softmax"])
@pytest.mark.parametrize(("n", "alpha"), [(60, 0.1), (19, 0.2)])
def test_the_mean_coverage_of_many_splits_is_the_promised_one(score, n, alpha):
    found = coverages(n, score=score, alpha=alpha)[:, 0]
    error = 3 * found.std(ddof=1) / np.sqrt(SPLITS)
    assert 1 - alpha - error < found.mean() < 1 - alpha + 1 / (n + 1) + error
    exact = np.ceil(round((n + 1) * (1 - alpha), 9)) / (n + 1)  # without ties
    assert abs(found.mean() - exact) < error


def test_class_conditional_coverage_is_promised_for_every_class():
    drawn = np.repeat([0, 1, 2, 3], [60, 40, 25, 19])
    found = coverages(None, drawn=drawn, coverage="class_conditional", alpha=0.2)
    for c, n in enumerate(np.bincount(drawn), start=1):
        own = found[:, c][~np.isnan(found[:, c])]
        error = 3 * own.std(ddof=1) / np.sqrt(own.size)
        assert abs(own.mean() - np.ceil(round((n + 1) * 0.8, 9)) / (n + 1)) < error


@pytest.mark.filterwarnings("ignore:.*classes have fewer than.*:UserWarning")
def test_interpolated_sets_are_wrong_for_two_alpha_at_most():
    found = coverages(60, coverage="interpolated", weight=0.5)
    assert found[:, 0].mean() > 0.8
    tail = np.nanmean(found[:, 4])
    assert tail > np.nanmean(coverages(60)[:, 4])  # nearer to every class than marginal ones


def of_scores(scores):
    """Logits of two classes whose true class, the first, has these scores under equal shares."""
    p = np.asarray(scores, "float64")
    return np.log(np.stack([p, 1 - p], axis=1)), np.zeros(p.size, int)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(9, 0.1, 9), (10, 0.1, 10), (19, 0.1, 18), (4, 0.2, 4), (3, 0.5, 2), (3, 1 - 1e-12, 1)]
)
def test_the_threshold_is_the_score_of_the_promised_rank(n, alpha, rank):
    scores = np.random.default_rng(n).permutation(np.linspace(0.55, 0.95, n))
    sets = PredictionSets(*of_scores(scores), [1, 1], alpha=alpha, score="softmax")
    np.testing.assert_allclose(sets.thresholds, np.sort(scores)[::-1][rank - 1], rtol=1e-12)
    assert sets.sets(of_scores(scores)[0])[:, 0].sum() == rank  # a class at its threshold is in


def test_scores_are_those_of_arithmetic(rng):
    logits, y = draw(rng, rng.choice(4, 80, p=SHARES))
    p = np.array([softmax(row) for row in logits])
    for score, values in {"softmax": p, "prevalence_adjusted": p / SHARES}.items():
        sets = PredictionSets(logits, y, SHARES, score=score)
        q = np.sort(values[np.arange(80), y])[::-1][int(np.ceil(81 * 0.9)) - 1]
        np.testing.assert_allclose(sets.thresholds, q, rtol=1e-12)
        np.testing.assert_array_equal(sets.sets(logits), values >= q * (1 - 1e-12))


def test_the_prior_is_put_back_that_an_adjusted_loss_took_off(rng):
    logits, y = draw(rng, rng.choice(4, 80, p=SHARES))
    plain = PredictionSets(logits, y, SHARES)
    adjusted = logits - 0.5 * log_prior(SHARES)
    sets = PredictionSets(adjusted, y, SHARES, tau=0.5)
    np.testing.assert_allclose(sets.thresholds, plain.thresholds, rtol=1e-12)
    others = draw(rng, y)[0]
    np.testing.assert_array_equal(sets.sets(others - 0.5 * log_prior(SHARES)), plain.sets(others))
    np.testing.assert_array_equal(array(sets.layer()(others - 0.5 * log_prior(SHARES))), plain.sets(others))


def test_a_class_with_too_few_examples_is_in_every_set_and_named(rng):
    drawn = np.repeat([0, 1, 2, 3], [60, 20, 9, 8])
    logits, y = draw(rng, drawn)
    with pytest.warns(UserWarning, match=r"1 of 4 classes have fewer than 9 .* alpha=0.1: class 3. They are in every"):
        sets = PredictionSets(logits, y, SHARES, coverage="class_conditional")
    assert sets.always == (3,) and sets.thresholds[3] == 0 and (sets.thresholds[:3] > 0).all()
    assert sets.sets(logits)[:, 3].all() and "1 classes in every set" in repr(sets)
    assert array(sets.layer()(logits))[:, 3].all()


def test_interpolation_goes_from_marginal_to_class_conditional_thresholds(rng):
    logits, y = draw(rng, np.repeat([0, 1, 2, 3], [60, 20, 9, 8]))
    marginal = PredictionSets(logits, y, SHARES).thresholds
    with pytest.warns(UserWarning, match="Their threshold is 1 − weight = 0.75 times the threshold of all"):
        mixed = PredictionSets(logits, y, SHARES, coverage="interpolated", weight=0.25)
    with pytest.warns(UserWarning):
        own = PredictionSets(logits, y, SHARES, coverage="class_conditional").thresholds
    np.testing.assert_allclose(mixed.thresholds, 0.25 * own + 0.75 * marginal, rtol=1e-12)
    assert mixed.always == ()


def test_a_report_counts_what_the_sets_hold(rng):
    sets = PredictionSets(*draw(rng, rng.choice(4, 60, p=SHARES)), SHARES)
    logits, y = draw(rng, np.repeat([0, 1, 3], [50, 20, 30]))
    report = sets.evaluate(logits, y)
    held = sets.sets(logits)
    own = [held[y == c, c].mean() for c in (0, 1, 3)]
    np.testing.assert_allclose(report.class_coverage, [own[0], own[1], np.nan, own[2]])
    assert report.coverage == pytest.approx(held[np.arange(100), y].mean())
    assert report.macro_coverage == pytest.approx(np.mean(own))
    assert report.mean_size == pytest.approx(held.sum(axis=1).mean())
    for name, (low, high) in report.intervals.items():
        assert low <= getattr(report, name) <= high and high > low
    width = np.diff(report.intervals["macro_coverage"])[0]
    error = np.sqrt(sum(p * (1 - p) / n for p, n in zip(own, (50, 20, 30), strict=True))) / 3
    assert 0.7 < width / (2 * 1.96 * error) < 1.3
    assert "macro coverage" in repr(report)


def test_the_layer_says_what_the_arrays_say_and_is_saved(rng, tmp_path):
    logits, y = draw(rng, rng.choice(4, 100, p=SHARES))
    sets = PredictionSets(logits, y, SHARES)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, sets.layer(name="sets")(inputs))
    model.save(tmp_path / "sets.keras")
    loaded = keras.saving.load_model(tmp_path / "sets.keras")
    for one in (model, loaded):
        found = one.predict(logits.astype("float32"), verbose=0)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, sets.sets(logits))  # those at the threshold too


def test_rare_classes_are_in_their_sets_more_often_than_by_the_plain_score(rng):
    logits, y = draw(rng, rng.choice(4, 2000, p=SHARES))
    by_score = {score: PredictionSets(logits, y, SHARES, score=score) for score in ("softmax", "prevalence_adjusted")}
    test = draw(rng, np.repeat(np.arange(4), 500))
    plain, adjusted = (sets.evaluate(*test) for sets in by_score.values())
    assert adjusted.intervals["macro_coverage"][0] > plain.intervals["macro_coverage"][1]


def test_a_model_of_sets_is_not_adjusted_and_says_what_it_gives():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, kla.layers.PredictionSet([-1, -2, -3])(keras.layers.Dense(3)(inputs)), name="mine")
    with pytest.raises(ValueError, match="'mine' gives prediction sets, .* without its PredictionSet"):
        kla.adjust(model, [5, 3, 1], output="logits")
    assert "the model gives prediction sets" in str(kla.serving.describe(model))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch writes no SavedModel")
def test_a_saved_model_of_labels_is_refused_for_sets(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, kla.layers.PredictionSet([-1, -2, -3])(keras.layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match=r"gives prediction sets: model.export\(path\) writes them"):
        kla.serving.export(model, tmp_path / "served", output="logits")


GOOD = (np.log([[0.7, 0.2, 0.1]] * 12), [0] * 12)
BAD = {
    "alpha of 0": (GOOD, {"alpha": 0}, "`alpha` must be a number strictly between 0 and 1"),
    "alpha of 1": (GOOD, {"alpha": 1}, "`alpha` must be a number strictly between 0 and 1"),
    "too few examples": (GOOD, {"alpha": 0.05}, "at least 19 calibration examples. Received 12"),
    "an unknown score": (GOOD, {"score": "aps"}, "`score` must be one of"),
    "an unknown coverage": (GOOD, {"coverage": "all"}, "`coverage` must be one of"),
    "a weight above 1": (GOOD, {"weight": 2}, "`weight` must be a number of at least 0 and at most 1"),
    "probabilities": ((np.exp(GOOD[0]), GOOD[1]), {}, "must be logits. Received probabilities"),
    "labels of others": ((GOOD[0], [3] * 12), {}, "class ids 0 … 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    (logits, y), options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        PredictionSets(logits, y, [70, 20, 10], **options)


@pytest.mark.parametrize("lowest", [[np.nan, -1], [np.inf, -1], [[-1, -2]], [-1], "a"])
def test_bounds_of_a_layer_are_numbers_or_minus_infinity(lowest):
    with pytest.raises(ValueError, match="`lowest` must be a vector"):
        kla.layers.PredictionSet(lowest)


def test_a_layer_refuses_logits_of_another_width():
    with pytest.raises(ValueError, match="`lowest` must have one number for each class"):
        kla.layers.PredictionSet([-1, -2])(np.zeros((1, 3), "float32"))


@pytest.mark.slow
def test_macro_coverage_of_banking77_is_higher_at_equal_mean_size():
    """The pair on the same test examples: the interval of the difference, over splits and examples, is above 0."""
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "prediction_sets.py"
    spec = importlib.util.spec_from_file_location("prediction_sets_benchmark", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.measure("banking77_lt", splits=10)
    adjusted, as_large, _ = np.array(found["sizes"])
    np.testing.assert_allclose(adjusted, as_large, rtol=0.02)
    assert found["low"] > 0


@pytest.mark.parametrize("level", [0, 1, "0.9"])
def test_the_level_of_an_interval_lies_between_0_and_1(level, rng):
    y = np.repeat([0, 1], 20)
    logits = rng.normal(size=(40, 2)) + 2 * np.eye(2)[y]
    with pytest.raises(ValueError, match="`level` must .*level="):
        kla.held_out.PredictionSets(logits, y, [20, 20]).evaluate(logits, y, level=level)


def test_few_logits_of_one_unit_may_all_lie_between_0_and_1(rng):
    y = np.repeat([0, 1], 40)
    logits = rng.normal(size=80) + 3 * y - 1
    sets = PredictionSets(logits, y, [60, 20])
    few = np.array([0.2, 0.6, 0.9])
    expected = sets.sets(np.append(few, [-30.0, 30.0]))[:3]
    np.testing.assert_array_equal(sets.sets(few), expected)
    np.testing.assert_array_equal(sets.sets(few[:1]), expected[:1])
    with pytest.raises(ValueError, match="must be logits. Received numbers in"):
        PredictionSets(1 / (1 + np.exp(-logits)), y, [60, 20])
