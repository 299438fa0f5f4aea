"""`tune_tau` where classes have no held-out example near them: what is known, what τ may do then, and what it loses."""

import numpy as np
import pytest
from helpers.tuned_taus import chosen_by_loop, gaussian, tune

import keras_logit_adjust as kla
from keras_logit_adjust.held_out.tau import known_classes, pool

TAIL = np.round(1000 * np.geomspace(1, 0.005, 40)).astype(int)  # 40 classes, 1,000 to 5 training examples


def held_out_of(seed, examples, scale=1.0):
    """So many held-out examples of each class of `TAIL`, and `scale` times their exact log-posteriors."""
    y, logits = gaussian(np.random.default_rng(seed), TAIL, max(examples), scale, signal=2.5)
    kept = np.tile(np.arange(max(examples)), TAIL.size) < np.asarray(examples)[y]
    return logits[kept], y[kept]


@pytest.fixture(scope="module")
def fresh():
    """Balanced accuracy of the same models on 200 examples of every class."""
    y, logits = gaussian(np.random.default_rng(99), TAIL, 200, signal=2.5)
    return kla.TauPath(y, logits, TAIL)


# --- what is known ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "frequencies", "known"),
    [
        ([9, 8, 7], [400, 20, 1], {0: 1, 1: 1, 2: 1}),  # all have some
        ([1, 1, 1], [400, 20, 1], {0: 3}),  # so they have if these are few
        ([9, 9, 0], [40, 20, 10], {0: 1, 1: 2}),  # half as frequent: near
        ([9, 9, 0], [40, 20, 9], {0: 1, 1: 1}),  # not near
        ([0, 9, 9], [41, 20, 10], {1: 1, 2: 1}),  # nor on the other side
        ([0, 9, 9], [40, 20, 10], {1: 2, 2: 1}),
        ([9, 0, 4, 0, 1, 9], [900, 60, 50, 8, 5, 3], {0: 1, 1: 4, 5: 1}),  # each by another of the pool
        ([9, 0, 4, 0, 1, 9], [900, 101, 50, 11, 5, 3], {0: 1, 1: 2, 5: 1}),
        ([9, 1, 0, 0, 0], [90, 20, 19, 18, 17], {0: 1, 1: 1}),  # one example speaks for one class
        ([9, 1, 1, 0, 0], [90, 20, 19, 18, 17], {0: 1, 1: 2}),
        ([9, 6, *[0] * 9], [90, 20, *range(19, 10, -1)], {0: 1, 1: 6}),  # and six for six, their own one of them
    ],
)
def test_examples_speak_for_near_classes_and_each_for_no_more_than_one(examples, frequencies, known):
    for scale in (1, 1 / sum(frequencies)):  # counts, or probabilities
        frequency = np.array(frequencies) * scale
        bucket = pool(np.array(examples), frequency, 5)
        found = known_classes(np.array(examples), frequency, bucket)
        assert {b: int(found[b]) for b in np.flatnonzero(found)} == known


@pytest.mark.parametrize(
    ("examples", "frequencies", "groups"),
    [
        ([9, 0, 9, 0, 9], [16, 15, 4, 3, 1], [[0, 1], [2, 3], [4]]),  # each with its own neighbor
        ([9, 0, 1, 0], [100, 90, 2, 1], [[0, 1], [2, 3]]),  # a pool that is far from one is left by it
        ([9, 9, 0, 2, 3, 0], [900, 60, 50, 9, 8, 1], [[0], [1, 2], [3, 4, 5]]),  # of those far from all the last stays
        ([0, 9, 0, 9], [1, 10, 2, 100], [[0, 1, 2], [3]]),
    ],
)
def test_a_class_without_examples_joins_the_nearest_that_has_some(examples, frequencies, groups):
    bucket = pool(np.array(examples), np.array(frequencies), 5)
    found = [np.flatnonzero(bucket == b).tolist() for b in dict.fromkeys(bucket.tolist())]
    assert found == groups


def test_where_every_class_has_examples_nothing_is_unknown(rng):
    y, logits = gaussian(rng, [500, 150, 40, 10], 12, 2.0)
    tuned = kla.tune_tau(logits, y, [500, 150, 40, 10])  # warnings are errors here
    assert tuned.unknown == 0.0
    np.testing.assert_allclose(tuned.weight, tuned.path.weights("balanced_accuracy"), rtol=1e-12)
    rows, few = held_out_of(0, np.where(TAIL > 100, 9, 1))
    assert tune(rows, few, TAIL).unknown == 0.0


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("standard_errors", [0, 1.0])
def test_a_gain_must_exceed_what_the_unknown_classes_may_lose(scale, standard_errors, rng):
    counts = [500, 200, 90, 40, 30, 1]  # the last has no example: u / (1 − u) = 1/5
    y, logits = gaussian(rng, counts, 40, scale)
    y, logits = y[y < 5], logits[y < 5]
    tuned = tune(logits, y, counts, standard_errors=standard_errors)
    tau, best, _ = chosen_by_loop(y, logits, counts, [0, 1, 2, 3, 4, -1], standard_errors, unknown=1 / 5)
    np.testing.assert_allclose([tuned.tau, tuned.best.tau], [tau, best], rtol=1e-9)
    assert tuned.unknown == pytest.approx(1 / 6)
    at_one = [np.mean(tuned.path.is_right(1.0)[y == c]) for c in range(5)]
    assert tuned.balanced_accuracy_at_one == pytest.approx(np.mean(at_one))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_from_half_of_the_classes_unknown_tau_stays_one(scale):
    for known in (1 + TAIL.size // 8, TAIL.size // 4):
        examples = np.where(np.arange(TAIL.size) < known, 30, 0)
        tuned = tune(*held_out_of(3, examples, scale), TAIL)
        assert tuned.unknown >= 0.5 and tuned.tau == 1.0
        assert tuned.interval == (-np.inf, np.inf)


# --- what it loses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rare", [0, 1])
def test_without_rare_examples_tau_stays_one_and_one_example_is_no_proof(rare):
    examples = np.where(np.arange(TAIL.size) < 8, 8, 0)
    examples[-1] = rare
    for seed in range(6):
        with pytest.warns(UserWarning, match=r"\d+ of 40 classes, mostly the rare ones, .* tau stays 1\. Give"):
            tuned = kla.tune_tau(*held_out_of(seed, examples), TAIL)
        assert tuned.tau == 1.0
        assert tuned.weight.max() <= 1 / (TAIL.size * (1 - tuned.unknown)) + 1e-12


def test_with_the_last_class_unknown_little_is_lost_where_one_is_right(fresh):
    taus = [tune(*held_out_of(seed, [20] * 39 + [0]), TAIL).tau for seed in range(6)]
    assert 0.5 <= min(taus) <= max(taus) <= 1.5
    assert (fresh.at(1.0) - fresh.at(taus)).max() <= 0.01


def test_classes_without_examples_between_others_are_known_by_them(fresh):
    for seed in range(6):
        examples = np.where(np.random.default_rng(seed).random(TAIL.size) < 0.5, 12, 0)
        examples[[0, -1]] = 12
        rows = held_out_of(seed, examples)
        with pytest.warns(UserWarning, match=r"means in all\.$"):
            tuned = kla.tune_tau(*rows, TAIL)
        assert tuned.unknown == 0.0 and tuned.coverage["empty"] > 9
        assert fresh.at(1.0) - fresh.at(tuned.tau) <= 0.01
        assert tune(*held_out_of(seed, examples, 2.5), TAIL).tau > 1.3  # 2.5 is right


def test_missing_frequent_classes_are_named_as_such():
    with pytest.warns(UserWarning, match=r"mostly the frequent ones, .* \(within a factor of 2\).*tau stays 1"):
        kla.tune_tau(*held_out_of(0, [0] * 20 + [9] * 20), TAIL)


def test_the_warning_names_the_gain_that_would_count():
    rows = held_out_of(0, [0] + [40] * 39, 4.0)
    counts = [9000, *TAIL[1:]]
    with pytest.warns(
        UserWarning, match=r"1 of 40 classes, .*only for a gain of more than 0.026 on the other classes\."
    ):
        tuned = kla.tune_tau(*rows, counts)  # 1 / 39
    assert tuned.tau > 1.0


# --- what the result shows -------------------------------------------------------------------------------------------


def test_the_weights_give_the_function_that_was_maximized():
    tuned = tune(*held_out_of(1, np.where(TAIL > 100, 9, 1), 2.0), TAIL)
    assert tuned.weight.sum() == pytest.approx(1.0)
    steps = tuned.path.steps(tuned.weight)
    assert steps.at(tuned.best.tau) == pytest.approx(tuned.best.value)
    assert steps.highest()[1] == pytest.approx(tuned.best.value)
    assert steps.at(1.0) == pytest.approx(tuned.balanced_accuracy_at_one)
