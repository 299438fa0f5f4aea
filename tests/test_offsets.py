"""Offsets per class: what is made of the search, shrinkage and bags by arithmetic, labels by loops, and in models."""

import keras
import numpy as np
import pytest
from helpers.offsets import COUNTS, WHOLE, between, draw
from helpers.posthoc_models import numpy, randomize, rows, sequential
from hypothesis import given
from hypothesis import strategies as st
from reference import log_prior
from sklearn.metrics import f1_score, recall_score

import keras_logit_adjust as kla


def centered(offsets):
    return np.asarray(offsets) - np.mean(offsets)


# --- what the search is given, and what is made of it ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "base"),
    [
        ("macro_f1", {}, -0.5 * log_prior(COUNTS)),
        ("balanced", {}, -log_prior(COUNTS)),
        ("macro_f1", {"tau": 0.2}, -0.2 * log_prior(COUNTS)),
        ("balanced", {"tau": [0.0, 1.0, 2.0]}, -np.array([0, 1, 2]) * log_prior(COUNTS)),
        ("macro_f1", {"class_prior": [2, 3, 5]}, -log_prior(COUNTS) + 0.5 * np.log([0.2, 0.3, 0.5])),
        ("balanced", {"class_prior": [2, 3, 5]}, -log_prior(COUNTS)),
        ("macro_f1", {"class_prior": COUNTS, "tau": 0.2}, -0.2 * log_prior(COUNTS)),
        ([1.0, 2.0, 9.0], {}, np.log([1, 2, 9])),
        ([1, 2, 9], {"class_prior": [2, 3, 5]}, -log_prior(COUNTS) + np.log([2, 6, 45])),
    ],
)
def test_offsets_of_little_evidence_are_those_of_logit_adjustment(objective, options, base, rng):
    logits, y = draw(rng, 40, 3)
    tuned = kla.tune_offsets(logits, y, COUNTS, objective=objective, shrinkage=1e12, bags=2, **options)
    np.testing.assert_allclose(tuned.base, centered(base), atol=1e-12)
    np.testing.assert_allclose(tuned.offsets, tuned.base, atol=1e-9)
    np.testing.assert_allclose(tuned.log_prior, log_prior(COUNTS), rtol=1e-12)
    assert tuned.value == tuned.value_of_base


def test_what_was_found_is_believed_by_the_number_of_examples(rng):
    logits, y = draw(rng, 40, 3)
    found = kla.tune_offsets(logits, y, COUNTS, **WHOLE)
    apart = found.offsets - found.base
    assert np.ptp(apart) > 0.1
    trust = np.bincount(y) / (np.bincount(y) + 7)
    expected = found.base + trust * (apart - np.median(apart))
    shrunk = kla.tune_offsets(logits, y, COUNTS, bags=0, shrinkage=7)
    np.testing.assert_allclose(shrunk.offsets, centered(expected), atol=1e-12)


@pytest.mark.parametrize("mix", [None, [2, 3, 5]])
@pytest.mark.parametrize("objective", ["macro_f1", "balanced", [1.0, 2.0, 9.0]])
def test_the_values_are_of_held_out_examples_weighted_to_the_deployment(objective, mix, rng):
    logits, y = draw(rng, 30, 3)
    tuned = kla.tune_offsets(logits, y, COUNTS, objective=objective, class_prior=mix, **WHOLE)
    weight = np.ones(30) if mix is None else (np.array(mix) / np.bincount(y))[y]
    for offsets, value in ((tuned.offsets, tuned.value), (tuned.base, tuned.value_of_base)):
        predicted = (logits + offsets).argmax(-1)
        if objective == "macro_f1":
            expected = f1_score(y, predicted, average="macro", sample_weight=weight, zero_division=0)
        elif objective == "balanced":
            expected = recall_score(y, predicted, average="macro")
        else:
            expected = np.average(predicted == y, weights=weight * np.array(objective)[y])
        assert value == pytest.approx(expected, abs=1e-12)
    assert tuned.value_of_base < tuned.value < 1


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_mix_of_the_deployment_counts_as_examples_that_are_repeated(num_classes, rng):
    logits, y = draw(rng, 30, num_classes)
    times = 1 + 4 * np.arange(num_classes)
    repeated = np.repeat(np.arange(30), times[y])
    mix = np.bincount(y) * times
    weighted = kla.tune_offsets(logits, y, COUNTS[:num_classes], class_prior=mix, tau=1, **WHOLE)
    again = kla.tune_offsets(logits[repeated], y[repeated], COUNTS[:num_classes], tau=1, **WHOLE)
    plain = kla.tune_offsets(logits, y, COUNTS[:num_classes], tau=1, **WHOLE)
    np.testing.assert_allclose(weighted.offsets, again.offsets, atol=1e-12)
    assert weighted.value == pytest.approx(again.value, abs=1e-12)
    assert np.abs(weighted.offsets - plain.offsets).max() > 1e-3


@pytest.mark.parametrize("objective", ["macro_f1", "balanced"])
def test_bags_are_drawn_within_each_class(objective):
    # Equal examples within a class: every sample is the data again, whatever was drawn.
    y = np.array([0] * 9 + [1] * 4 + [2])
    logits = np.array([[3.0, 0.0, 1.0], [2.5, 1.0, 0.0], [2.0, 0.0, 1.5]])[y]
    once, *others = (
        kla.tune_offsets(logits, y, [9, 4, 1], objective=objective, bags=bags, seed=seed, shrinkage=0)
        for bags, seed in ((1, 0), (1, 1), (7, 2))
    )
    assert once.value == 1.0
    for other in others:
        np.testing.assert_allclose(other.offsets, once.offsets, atol=1e-12)


def test_what_bags_find_is_averaged():
    # Right is every threshold between 0 and the least margin drawn of class 0, halfway: 1, or 3 where 6 came twice.
    bags = 400
    logits = np.array([[2.0, 0.0], [6.0, 0.0], [0.0, 0.0]])
    tuned = kla.tune_offsets(logits, [0, 0, 1], [1, 1], objective="balanced", bags=bags, shrinkage=0)
    threshold = tuned.offsets[1] - tuned.offsets[0]
    assert threshold == pytest.approx(0.75 * 1 + 0.25 * 3, abs=4 * np.sqrt(3 / 16) * 2 / np.sqrt(bags))
    of_threes = (threshold - 1) / 2 * bags
    assert of_threes == pytest.approx(round(of_threes), abs=1e-9)


def test_the_seed_decides_the_bags(rng):
    logits, y = draw(rng, 30, 3)
    first, again, other = (kla.tune_offsets(logits, y, COUNTS, bags=3, seed=seed).offsets for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("objective", "optimum"),
    [([1.0, 2.0, 6.0], np.log([1, 2, 6])), ("balanced", -log_prior([6, 3, 1]))],
    ids=["costs", "balanced"],
)
def test_offsets_of_true_posteriors_become_log_costs_or_minus_log_prior(objective, optimum, rng):
    y = rng.choice(3, size=40_000, p=[0.6, 0.3, 0.1])
    logits = 1.5 * (rng.normal(size=(y.size, 3)) + 1.5 * np.eye(3)[y]) + np.log([0.6, 0.3, 0.1])
    # The counts are wrong, so that the search does not start where it should end.
    tuned = kla.tune_offsets(logits, y, [1, 3, 6], objective=objective, class_prior=[6, 3, 1], **WHOLE)
    assert np.abs(tuned.base - centered(optimum)).max() > 1
    np.testing.assert_allclose(tuned.offsets, centered(optimum), atol=0.2)


def test_the_offsets_of_others_rise_over_a_class_without_held_out_examples():
    logits = np.array([[0.0, -3.0, 1.0], [-3.0, 0.0, 1.0]])  # the third wins both, by 1
    tuned = kla.tune_offsets(logits, [0, 1], [5, 5, 5], **WHOLE)
    assert (tuned.value, tuned.value_of_base) == (1.0, 0.0)
    assert (tuned.offsets[:2] > tuned.offsets[2] + 1).all()


def test_one_hot_rows_leading_axes_lists_and_half_precision_are_taken(rng):
    logits, y = draw(rng, 12, 3)
    logits = logits.astype("float16")
    expected = kla.tune_offsets(logits.astype("float64"), y, COUNTS).offsets
    for given_logits, labels in (
        (logits, np.eye(3)[y]),
        (logits.reshape(3, 4, 3), y.reshape(3, 4)),
        (logits.tolist(), y.tolist()),
    ):
        np.testing.assert_array_equal(kla.tune_offsets(given_logits, labels, COUNTS).offsets, expected)


# --- independent labels ----------------------------------------------------------------------------------------------


def draw_labels(rng, size):
    """Four labels: rare, frequent, never on, always on."""
    on = rng.random((size, 4)) < [0.2, 0.7, 0, 1]
    return rng.normal(size=on.shape) + 1.5 * on - 1, on.astype("int64")


@pytest.mark.parametrize("objective", ["macro_f1", "balanced"])
def test_every_label_has_the_best_of_all_its_thresholds(objective, rng):
    score = f1_score if objective == "macro_f1" else lambda on, said: recall_score(on, said, average="macro")
    for _ in range(4):
        logits, on = draw_labels(rng, 25)
        tuned = kla.tune_offsets(logits, on, [20, 60, 5, 90], objective=objective, num_examples=100, **WHOLE)
        best = []
        for label in range(2):
            said = logits[:, label] > -tuned.offsets[label]
            best.append(max(score(on[:, label], logits[:, label] > t) for t in between(logits[:, label])))
            assert score(on[:, label], said) == pytest.approx(best[-1], abs=1e-12)
        assert tuned.value == pytest.approx(np.mean(best), abs=1e-12)
        before = [score(on[:, i], logits[:, i] > -tuned.base[i]) for i in range(2)]
        assert tuned.value_of_base == pytest.approx(np.mean(before), abs=1e-12)
        np.testing.assert_array_equal(tuned.offsets[2:], tuned.base[2:])  # nothing to learn from


@pytest.mark.parametrize(("objective", "tau"), [("macro_f1", 0.5), ("balanced", 1.0)])
def test_thresholds_are_shrunk_towards_log_odds_by_their_positives(objective, tau, rng):
    logits, on = draw_labels(rng, 25)
    base = -tau * np.log([20 / 80, 60 / 40, 5 / 95, 90 / 10])
    options = {"num_examples": 100, "bags": 0}
    found = kla.tune_offsets(logits, on, [20, 60, 5, 90], objective=objective, shrinkage=0, **options)
    shrunk = kla.tune_offsets(logits, on, [20, 60, 5, 90], objective=objective, shrinkage=7, **options)
    positives = on.sum(0)
    np.testing.assert_allclose(found.base, base, atol=1e-12)
    expected = base + positives / (positives + 7) * (found.offsets - base)
    np.testing.assert_allclose(shrunk.offsets, expected, atol=1e-12)
    assert np.abs(found.offsets - base)[:2].max() > 0.1


def test_labels_that_are_never_on_have_no_value():
    tuned = kla.tune_offsets(np.zeros((3, 2)), np.zeros((3, 2)), [1, 9], num_examples=10)
    assert np.isnan([tuned.value, tuned.value_of_base]).all()
    np.testing.assert_array_equal(tuned.offsets, tuned.base)


# --- in models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_a_model_with_the_tau_of_tuned_offsets_decides_by_them(make, rng):
    model, data = sequential(keras.layers.Dense(3)), rows(rng, 60, 6)
    randomize(model, rng)
    logits = numpy(model(data))
    tuned = kla.tune_offsets(logits, rng.integers(0, 3, 60), COUNTS, bags=3)
    outputs = numpy(make(model, COUNTS, tau=tuned.tau)(data))
    shift = outputs - logits - tuned.offsets  # the same number for every class decides nothing
    np.testing.assert_allclose(shift, np.full_like(shift, shift[0, 0]), rtol=1e-5, atol=1e-5)
    assert (outputs.argmax(-1) != logits.argmax(-1)).any()


def test_offsets_of_a_logit_adjustment_have_its_strength_for_every_class():
    log_prior = np.log(np.array([900, 90, 9, 1]) / 1000)
    for tau in (0.0, 0.5, 1.0, 1.7):
        offsets = -tau * log_prior
        tuned = kla.held_out.TunedOffsets(offsets - offsets.mean(), offsets, 1.0, 1.0, log_prior)
        np.testing.assert_allclose(tuned.tau, tau, rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=6).filter(lambda counts: len(set(counts)) > 1),
    st.integers(0, 2**32 - 1),
)
def test_no_constant_makes_the_strengths_of_offsets_more_alike(counts, seed):
    log_prior = np.log(np.array(counts) / sum(counts))
    offsets = np.random.default_rng(seed).normal(size=len(counts))
    tau = kla.held_out.TunedOffsets(offsets, offsets, 1.0, 1.0, log_prior).tau
    shift = -tau * log_prior - offsets
    np.testing.assert_allclose(shift, np.full_like(shift, shift[0]), rtol=1e-6, atol=1e-6 * np.abs(shift).max())
    for constant in (-1e-3, 1e-3):
        assert np.var(tau) <= np.var(tau + constant / log_prior) * (1 + 1e-9)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_a_sigmoid_model_with_the_tau_of_tuned_thresholds_decides_by_them(make, rng):
    model, data = sequential(keras.layers.Dense(2)), rows(rng, 60, 6)
    randomize(model, rng)
    logits = numpy(model(data))
    tuned = kla.tune_offsets(logits, rng.integers(0, 2, (60, 2)), [20, 5], num_examples=100, bags=3)
    outputs = numpy(make(model, [20, 5], tau=tuned.tau, num_examples=100)(data))
    np.testing.assert_allclose(outputs, logits + tuned.offsets, rtol=1e-5, atol=1e-5)


def test_a_label_of_half_the_examples_has_no_tau_and_the_way_out_works(rng):
    model, data = sequential(keras.layers.Dense(2)), rows(rng, 20, 6)
    logits = numpy(model(data))
    tuned = kla.tune_offsets(logits, np.tile([[0, 1], [1, 1]], (10, 1)), [50, 9], num_examples=100, shrinkage=0)
    assert abs(tuned.offsets[0]) > 1e-3
    with pytest.raises(ValueError, match=r"half of the examples have: class 0.*calibration=kla.Calibration\(bias"):
        _ = tuned.tau
    calibration = kla.Calibration(bias=tuned.offsets)
    adjusted = kla.adjust(model, [50, 9], tau=0, num_examples=100, calibration=calibration)
    np.testing.assert_allclose(numpy(adjusted(data)), logits + tuned.offsets, rtol=1e-5, atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------------

LOGITS, Y, ON = np.arange(12.0).reshape(4, 3) % 5, [0, 1, 2, 0], np.eye(4, 3)
PROBABILITIES = np.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.where(ON == 1, np.nan, LOGITS)}, "`logits` must be finite. NaN or infinity in 3 of 4 rows"),
        ({"logits": PROBABILITIES}, r"`logits` must be logits. Received probabilities.*np.log\(probabilities\)"),
        ({"logits": LOGITS[:, :2]}, r"`logits` must have shape \[N, 3\].*\(4, 2\)"),
        ({"logits": LOGITS[:0], "y_true": []}, r"`logits` must have shape \[N, 3\], N ≥ 1.*\(0, 3\)"),
        ({"class_counts": [5, 3]}, r"`logits` must have shape \[N, 2\].*\(4, 3\)"),
        ({"class_counts": [5, 0, 2]}, "`class_counts` must be greater than zero.*class 1"),
        ({"y_true": [0, 1]}, r"one class id for each of the 4 rows.*\(2,\)"),
        ({"y_true": [0, 1, 3, 0]}, "class ids 0 … 2.*Received 3 at row 2"),
        ({"y_true": [0, 1, 0.5, 0]}, "`y_true` must be whole numbers"),
        ({"y_true": PROBABILITIES}, "Rows of `y_true` must be one-hot.*soft"),
        ({"objective": 1 - np.eye(3)}, r"A matrix of costs.*kla.layers.MinimumRiskDecision\(costs\)"),
        ({"objective": "f1"}, "`objective` must be one of 'macro_f1', 'balanced'. Received: objective='f1'"),
        ({"objective": [1, 2]}, "`objective` must have one number for each class.*has 2"),
        ({"objective": [1, 0, 2]}, r"`objective` must be greater than zero. Received \[0\.0\] at class 1"),
        ({"objective": [1, np.nan, 2]}, r"`objective` must be finite. Received \[nan\] at class 1"),
        ({"objective": [1, 2, 3], "tau": 1.0}, "`tau` goes with a named objective"),
        ({"tau": [1, 2]}, r"`tau` must be a number or a vector of 3.*\(2,\)"),
        ({"class_prior": [1, 1]}, "`class_prior` must have one number for each class.*has 2"),
        ({"class_prior": [1, 0, 1]}, "`class_prior` must be greater than zero.*class 1"),
        ({"shrinkage": -1}, "`shrinkage` must be a number of at least 0.*-1"),
        ({"bags": -1}, "`bags` must be an integer of at least 0.*-1"),
        ({"sweeps": 0}, "`sweeps` must be an integer of at least 1.*0"),
        ({"num_examples": 9}, r"`y_true` must have a 0 or 1 for each label, shape \(4, 3\).*\(4,\)"),
        ({"num_examples": 9, "y_true": ON / 2}, "Every number in `y_true` must be 0 or 1"),
        ({"num_examples": 5, "y_true": ON}, "strictly between 0 and num_examples=5.*class 0"),
        ({"num_examples": 9, "y_true": ON, "objective": [1, 2, 3]}, "Independent labels take the objectives"),
        ({"num_examples": 9, "y_true": ON, "class_prior": [1, 2, 3]}, "Independent labels.*no `class_prior`"),
        ({"num_examples": 9, "y_true": ON, "objective": "f1"}, "`objective` must be one of"),
        ({"num_examples": 9, "y_true": ON, "logits": 1 / (1 + np.exp(-LOGITS))}, "`logits` must be logits.*robabil"),
    ],
)
def test_bad_arguments_are_refused_with_rule_value_and_remedy(change, message):
    arguments = {"logits": LOGITS, "y_true": Y, "class_counts": [5, 3, 2], **change}
    with pytest.raises(ValueError, match=message):
        kla.tune_offsets(**arguments)
