"""`tune_tau` against the rule written as loops; pooling by hand; models, folds and refusals; and what it gains."""

import warnings

import numpy as np
import pytest
from helpers.posthoc_models import numpy, rows, sequential
from helpers.tuned_taus import COUNTS, chosen_by_loop, gaussian, right_at, tune
from keras import layers
from reference import log_prior

import keras_logit_adjust as kla
from keras_logit_adjust.held_out.tau import pool

# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("standard_errors", [0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("each", [6, 25])
def test_tau_is_the_nearest_to_one_within_standard_errors_of_the_best(scale, standard_errors, each, rng):
    y, logits = gaussian(rng, COUNTS, each, scale)
    tuned = kla.tune_tau(logits, y, COUNTS, standard_errors=standard_errors)
    tau, best, outermost = chosen_by_loop(y, logits, COUNTS, range(4), standard_errors)
    np.testing.assert_allclose(tuned.tau, tau, rtol=1e-9)
    np.testing.assert_allclose(tuned.best.tau, best, rtol=1e-9)
    for end, piece in zip(tuned.interval, outermost, strict=True):
        assert piece[0] <= end <= piece[1]


def test_without_standard_errors_it_is_a_maximizer(rng):
    for scale in (0.4, 1.0, 2.0):
        y, logits = gaussian(rng, COUNTS, 15, scale)
        tuned = kla.tune_tau(logits, y, COUNTS, standard_errors=0)
        highest = tuned.path.best()
        assert tuned.best == highest
        np.testing.assert_allclose(tuned.path.at(tuned.tau), highest.value, atol=1e-12)


def test_a_path_that_is_highest_at_one_leaves_one_exactly(rng):
    y, logits = gaussian(rng, COUNTS, 8, signal=9.0)  # all right on a wide interval about 1
    for standard_errors in (0, 1.0):
        tuned = kla.tune_tau(logits, y, COUNTS, standard_errors=standard_errors)
        assert tuned.tau == 1.0
        assert tuned.best.value == pytest.approx(1.0)
        assert tuned.best.low < 1.0 < tuned.best.high


def test_more_standard_errors_keep_tau_nearer_to_one(rng):
    moved = 0
    for scale in (0.4, 1.0, 2.0):
        y, logits = gaussian(rng, COUNTS, 30, scale)
        tuned = [kla.tune_tau(logits, y, COUNTS, standard_errors=k) for k in (0, 0.5, 1, 2, 100)]
        distances = [abs(one.tau - 1) for one in tuned]
        assert distances == sorted(distances, reverse=True)
        for narrow, wide in zip(tuned, tuned[1:], strict=False):
            assert wide.interval[0] <= narrow.interval[0] <= narrow.interval[1] <= wide.interval[1]
        assert tuned[-1].tau == 1.0
        moved += distances[0] > 0
    assert moved == 3


def test_an_interval_that_nothing_bounds_is_infinite():
    # Class 0 is right up to 2 and class 1 from 3 on: half are right elsewhere, no hundred errors less.
    logits = np.log(2.0) * np.array([[2.0, 0]] * 5 + [[3.0, 0]] * 5)
    tuned = kla.tune_tau(logits, [0] * 5 + [1] * 5, [2, 1], standard_errors=100)
    assert tuned.interval == (-np.inf, np.inf)


def test_cross_validation_judges_each_example_at_the_tau_of_other_folds(rng):
    y, logits = gaussian(rng, COUNTS, 12, 2.0)
    tuned = kla.tune_tau(logits, y, COUNTS, folds=4, seed=3)
    # The folds: shuffled, then class by class dealt out in turn.
    shuffled = np.random.default_rng(3).permutation(y.size)
    by_class = [i for c in range(4) for i in shuffled if y[i] == c]
    fold = np.empty(y.size, int)
    for place, i in enumerate(by_class):
        fold[i] = place % 4
    recalls = np.zeros(4)
    for k in range(4):
        tau, _, _ = chosen_by_loop(y[fold != k], logits[fold != k], COUNTS, range(4), 1.0)
        right = right_at(y, logits, COUNTS, tau)
        recalls += [right[(fold == k) & (y == c)].sum() / 12 for c in range(4)]
    np.testing.assert_allclose(tuned.balanced_accuracy, recalls.mean(), atol=1e-12)
    at_one = [right_at(y, logits, COUNTS, 1.0)[y == c].mean() for c in range(4)]
    np.testing.assert_allclose(tuned.balanced_accuracy_at_one, np.mean(at_one), atol=1e-12)


def test_a_seed_repeats_its_findings_and_tau_depends_on_no_seed(rng):
    y, logits = gaussian(rng, COUNTS, 12, 2.0)
    tuned = [kla.tune_tau(logits, y, COUNTS, seed=seed) for seed in (0, 0, *range(1, 8))]
    assert tuned[0].balanced_accuracy == tuned[1].balanced_accuracy
    assert len({one.balanced_accuracy for one in tuned}) > 1
    assert {one.tau for one in tuned} == {tuned[0].tau}


def test_the_result_carries_its_path_and_stands_for_its_tau(rng):
    y, logits = gaussian(rng, COUNTS, 100, 2.0)
    tuned = kla.tune_tau(logits, y, COUNTS)
    np.testing.assert_array_equal(tuned.path.at([0.0, tuned.tau]), kla.TauPath(y, logits, COUNTS).at([0.0, tuned.tau]))
    assert float(tuned) == tuned.tau != 1.0
    model, x = sequential(layers.Dense(4)), rows(rng, 9, 6)
    expected = numpy(model(x)) - tuned.tau * log_prior(COUNTS)
    for given in (tuned.tau, tuned):
        np.testing.assert_allclose(numpy(kla.adjust(model, COUNTS, tau=given)(x)), expected, rtol=1e-5, atol=1e-5)


# --- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "frequencies", "groups"),
    [
        ([5, 9, 5], [3, 2, 1], [[0], [1], [2]]),  # all can stand alone
        ([9, 3, 2, 9], [4, 3, 2, 1], [[0], [1, 2], [3]]),  # two fill one
        ([3, 9, 2, 9], [1, 4, 2, 3], [[0, 2], [1], [3]]),  # whatever their ids
        ([9, 4, 4, 4, 4], [5, 4, 3, 2, 1], [[0], [1, 2], [3, 4]]),  # neighbors by frequency
        ([9, 4, 4, 4], [4, 3, 2, 1], [[0], [1, 2, 3]]),  # what is left over joins the last
        ([9, 0, 4, 0, 1, 9], [6, 5, 4, 3, 2, 1], [[0], [1, 2, 3, 4], [5]]),  # none at all
        ([9, 0, 3, 3, 0], [100, 50, 30, 20, 10], [[0], [1, 2, 3, 4]]),  # none at all, left over behind a full one
        ([1, 1, 1], [3, 2, 1], [[0, 1, 2]]),  # all few, together too
        ([9, 4], [2, 1], [[0], [1]]),  # nobody to share with
        ([9, 9, 0], [3, 2, 1], [[0], [1, 2]]),  # nor any example: with the nearest that has some
        ([9, 0, 9, 8], [9, 8, 2, 1], [[0, 1], [2], [3]]),
    ],
)
def test_classes_of_few_examples_share_a_recall_with_their_neighbors(examples, frequencies, groups):
    bucket = pool(np.array(examples), np.array(frequencies), min_examples=5)
    found = [np.flatnonzero(bucket == b).tolist() for b in dict.fromkeys(bucket.tolist())]
    assert found == groups


def test_a_pooled_recall_counts_for_its_classes_and_its_examples_equally():
    # Classes 1, 2 and 3 share one recall, 1 + 4 examples, which counts for three classes of four.
    counts, y = [400, 30, 20, 10], np.array([0] * 6 + [1] * 1 + [2] * 4)
    right = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1], bool)
    logits = np.where(right, 99.0, -99.0)[:, None] * np.eye(4)[y]  # at every τ that is near
    with pytest.warns(
        UserWarning, match=r"3 of 4 classes have fewer than 5 held-out examples \(1 have none\).*, 2 means"
    ):
        tuned = kla.tune_tau(logits, y, counts)
    assert tuned.balanced_accuracy_at_one == pytest.approx((3 / 6 + 3 * 4 / 5) / 4)
    assert tuned.balanced_accuracy == pytest.approx((3 / 6 + 3 * 4 / 5) / 4)
    assert tuned.best.value == pytest.approx((3 / 6 + 3 * 4 / 5) / 4)
    assert tuned.coverage == {"classes": 4, "pooled": 3, "empty": 1, "buckets": 2}


def test_the_rule_holds_of_pooled_recalls_too(rng):
    counts = [500, 200, 90, 40, 20, 10]
    y, logits = gaussian(rng, counts, 20, 2.0)
    kept = np.isin(y, [0, 1]) | ((y == 2) & (np.arange(y.size) % 5 == 0)) | (np.arange(y.size) % 9 == 0)
    y, logits = y[kept & (y != 4)], logits[kept & (y != 4)]
    examples = np.bincount(y, minlength=6)
    assert (examples[2:] < 6).all() and examples[4] == 0
    tuned = tune(logits, y, counts, min_examples=6)
    tau, best, _ = chosen_by_loop(y, logits, counts, [0, 1, *pool(examples, np.array(counts), 6)[2:]], 1.0)
    np.testing.assert_allclose([tuned.tau, tuned.best.tau], [tau, best], rtol=1e-9)


def test_where_all_classes_have_few_examples_one_mean_remains(rng):
    y, logits = gaussian(rng, COUNTS, 1)
    with pytest.warns(
        UserWarning, match=r"4 of 4 classes have fewer than 5 held-out examples \(0 have none\).*, 1 means"
    ):
        tuned = kla.tune_tau(logits, y, COUNTS, folds=2)
    np.testing.assert_allclose(tuned.balanced_accuracy_at_one, right_at(y, logits, COUNTS, 1.0).mean())
    assert tuned.coverage == {"classes": 4, "pooled": 4, "empty": 0, "buckets": 1}


def test_a_warning_at_the_callers_line_comes_only_with_small_classes(rng):
    y, logits = gaussian(rng, COUNTS, 5)
    coverage = kla.tune_tau(logits, y, COUNTS).coverage  # warnings are errors here
    assert coverage == {"classes": 4, "pooled": 0, "empty": 0, "buckets": 4}
    with pytest.warns(UserWarning, match="4 of 4 classes have fewer than 6") as caught:
        kla.tune_tau(logits, y, COUNTS, min_examples=6)
    assert caught[0].filename == __file__


# --- independent labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["counts in another order", "logits adjusted before"])
def test_a_negative_tau_is_warned_of_with_what_may_be_wrong(fault, rng):
    y, logits = gaussian(rng, COUNTS, 40, 1.0)
    counts = np.array(COUNTS)
    if fault == "logits adjusted before":
        logits = logits - 3 * log_prior(COUNTS)
    else:
        counts = counts[::-1]
    with pytest.warns(
        UserWarning, match=r"τ is negative, such as -.*in the same order, and that the logits were not adjusted"
    ):
        assert kla.tune_tau(logits, y, counts).tau < 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kla.tune_tau(gaussian(rng, COUNTS, 40, 1.0)[1], y, COUNTS).tau > 0


def test_independent_labels_of_two_recalls_each_are_tuned_by_log_odds(rng):
    positives, examples = [20, 100, 300], 1000
    on = rng.random((200, 3)) < [0.2, 0.4, 0.5]
    odds = np.log(positives) - np.log(examples - np.array(positives))
    logits = 2.0 * (2 * (rng.normal(size=(200, 3)) + np.where(on, 1.0, -1.0)) + odds)
    tuned = kla.tune_tau(logits, on, positives, num_examples=examples)
    at_one = (logits - odds > 0) == on
    recalls = [at_one[on[:, c] == state, c].mean() for c in range(3) for state in (False, True)]
    np.testing.assert_allclose(tuned.balanced_accuracy_at_one, np.mean(recalls), atol=1e-12)
    assert tuned.coverage["classes"] == 6
    assert tuned.tau > 1  # 2 is right
    assert tuned.best == kla.TauPath(on, logits, positives, num_examples=examples).best()


# --- cross-fitting without some of the rows --------------------------------------------------------------------------


def fixed(rng):
    """A training function that returns the same linear model each time, and the shapes that it was given."""
    model, seen = sequential(layers.Dense(3), width=4), []
    model.layers[0].kernel.assign(rng.normal(size=(4, 3)))
    return lambda x, y: (seen.append((x, y)), model)[1], seen


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[:, None]])
def test_ignored_rows_are_in_no_fold_of_a_cross_fit(form, rng):
    y = rng.permutation(np.repeat([0, 1, 2, 255], [30, 13, 7, 10]))
    x, known = rows(rng, 60, 4), y < 255
    train, seen = fixed(rng)
    tuned = kla.tune_tau(train, (x, form(y)), [30, 13, 7], cross_fit=3, seed=1, ignore_class=255)
    expected = kla.tune_tau(train, (x[known], y[known]), [30, 13, 7], cross_fit=3, seed=1)
    assert tuned.tau == expected.tau and tuned.interval == expected.interval
    assert all((labels < 3).all() and len(labels) == len(part) for part, labels in seen)


def test_a_cross_fit_needs_two_classes_of_two_examples(rng):
    train, _ = fixed(rng)
    with pytest.raises(ValueError, match=r"two examples of two classes.*Received \[9, 0, 0\] examples of the classes"):
        kla.tune_tau(train, (rows(rng, 9, 4), np.zeros(9, "int64")), [9, 2, 1], cross_fit=3)


def test_results_can_be_compared_and_hashed(rng):
    y, logits = gaussian(rng, COUNTS, 6, 1.0)
    tuned = kla.tune_tau(logits, y, COUNTS)
    offsets = kla.tune_offsets(logits, y, COUNTS, bags=0)
    for result in (tuned, offsets):
        assert result == result and {result} == {result} and result != object()


def test_no_examples_have_no_logits():
    model = sequential(layers.Dense(3), width=4)
    with pytest.raises(ValueError, match="`x` must have at least one example. Received none"):
        kla.held_out.predict_logits(model, np.zeros((0, 4), "float32"))
