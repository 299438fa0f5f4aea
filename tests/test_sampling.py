"""`LongTailSampler`: which rows are drawn, against the formulas, by counting and by χ² over fixed seeds."""

import itertools
import math
import pathlib

import numpy as np
import pytest
from helpers.tails import COUNTS, epochs_of, labels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_logit_adjust.data import LongTailSampler, read_class_counts
from keras_logit_adjust.data._plan import splitmix64

quick = settings(max_examples=60)
NAMED = ["instance", "square_root", "balanced", "effective_number"]
STRATEGIES = [*NAMED, 0.3, -1, [0.1, 0.2, 0.3, 0.4]]
UNLIKELY = 1e-4  # p-values below it do not happen by chance in the few dozen tests here


def class_counts_by_epoch(sampler, labels, count):
    """How often each class was drawn by the end of each epoch, `[count, L]`."""
    classes = np.asarray(labels)[epochs_of(sampler, count)]
    return np.cumsum([np.bincount(c, minlength=sampler.class_counts.size) for c in classes], axis=0)


def spread_in_class(rows, labels):
    """By how much the draws of the examples of one class differ at most."""
    drawn, labels = np.bincount(rows, minlength=len(labels)), np.asarray(labels)
    return max(np.ptp(drawn[labels == c]) for c in np.unique(labels))


def assert_even(observed, expected=None):
    """That counts are what chance gives, by Pearson's χ²."""
    assert stats.chisquare(observed, expected).pvalue > UNLIKELY


def shares(strategy, class_counts, beta=0.9999):
    """The formulas of the docstring, class by class."""
    exponents = {"instance": 1, "square_root": 1 / 2, "balanced": 0}
    if isinstance(strategy, list):
        mass = strategy
    elif strategy == "effective_number":
        mass = [n * (1 - beta) / (1 - beta**n) if n else 0 for n in class_counts]
    else:
        mass = [n ** float(exponents.get(strategy, strategy)) if n else 0 for n in class_counts]
    return np.array(mass) / sum(mass)


# Shares


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("class_counts", [COUNTS, [3, 40, 7, 7]], ids=str)
def test_the_shares_are_the_formula(strategy, class_counts):
    sampler = LongTailSampler(labels_of(class_counts), 8, strategy=strategy, seed=0)
    np.testing.assert_allclose(sampler.effective_prior, shares(strategy, class_counts), rtol=1e-9)
    assert sampler.effective_prior.dtype == np.float64


@pytest.mark.parametrize("beta", [0, 0.5, 0.9, 0.999, 0.999999])
def test_the_effective_number_goes_from_equal_examples_to_equal_classes(beta):
    sampler = LongTailSampler(labels_of(COUNTS), 8, strategy="effective_number", beta=beta, seed=0)
    np.testing.assert_allclose(sampler.effective_prior, shares("effective_number", COUNTS, beta), rtol=1e-6)
    if beta == 0:
        np.testing.assert_allclose(sampler.effective_prior, np.array(COUNTS) / sum(COUNTS), rtol=1e-12)
    if beta == 0.999999:
        np.testing.assert_allclose(sampler.effective_prior, 1 / 4, rtol=1e-4)


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda v: np.array(v, "float32")])
def test_a_distribution_may_be_any_vector(make):
    sampler = LongTailSampler(labels_of(COUNTS), 8, strategy=make([0.1, 0.2, 0.3, 0.4]), seed=0)
    np.testing.assert_allclose(sampler.effective_prior, [0.1, 0.2, 0.3, 0.4], rtol=1e-7)
    assert abs(sampler.effective_prior.sum() - 1) < 1e-15


def test_an_exponent_of_a_thousand_leaves_the_largest_class():
    sampler = LongTailSampler(labels_of(COUNTS), 8, strategy=1000, seed=0)
    assert sampler.effective_prior.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_progressive_shares_go_from_equal_examples_to_equal_classes(seed):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, 8, strategy="progressive", progressive_epochs=5, seed=seed)
    drawn = class_counts_by_epoch(sampler, labels, 9)
    exponents = [1, 3 / 4, 2 / 4, 1 / 4, 0, 0, 0, 0, 0]
    due = np.cumsum([80 * shares(q, COUNTS) for q in exponents], axis=0)  # 80 = 10 batches of 8
    assert np.abs(drawn - due).max() <= 2
    assert np.abs(drawn[0] - 80 * np.array(COUNTS) / 76).max() <= 2
    assert np.abs(np.diff(drawn[3:], axis=0) - 80 / 4).max() <= 2


def test_the_last_of_two_progressive_epochs_is_balanced():
    labels = labels_of([60, 20])
    sampler = LongTailSampler(labels, 8, strategy="progressive", progressive_epochs=2, seed=0)
    drawn = class_counts_by_epoch(sampler, labels, 3)
    assert np.abs(drawn - [[60, 20], [100, 60], [140, 100]]).max() <= 1


# How often each class comes


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_every_class_was_drawn_within_two_of_its_due_after_every_epoch(strategy, seed):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, 10, strategy=strategy, seed=seed)
    drawn = class_counts_by_epoch(sampler, labels, 30)
    due = 80 * np.arange(1, 31)[:, None] * shares(strategy, COUNTS)  # 80 = 8 batches of 10
    assert (drawn.sum(axis=1) == 80 * np.arange(1, 31)).all()
    assert np.abs(drawn - due).max() <= 2


@pytest.mark.parametrize(("small_classes", "seed"), [(40, 0), (40, 1), (40, 2), (400, 0), (4000, 0)])
def test_a_large_class_among_many_small_ones_is_within_two_of_its_due(small_classes, seed):
    small = [1 + c % 3 for c in range(small_classes)]
    labels = labels_of([sum(small), *small])  # the first class has half of all examples
    batch_size = labels.size * 2 // 3  # so that epochs are no passes
    sampler = LongTailSampler(labels, batch_size, strategy="instance", seed=seed)
    drawn = class_counts_by_epoch(sampler, labels, 12)
    due = 2 * batch_size * np.arange(1, 13)[:, None] * shares("instance", [sum(small), *small])
    assert np.abs(drawn - due).max() <= 2


def test_the_first_draws_favour_no_class():
    labels, seeds = labels_of([6, 2, 1, 1]), 1500
    first = [LongTailSampler(labels, 3, strategy="instance", seed=seed).rows(0) for seed in range(seeds)]
    assert_even(np.bincount(labels[np.concatenate(first)]), 3 * seeds * np.array([0.6, 0.2, 0.1, 0.1]))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_with_replacement_classes_and_their_examples_come_by_chance(strategy):
    labels = labels_of([30, 12, 5, 3])
    sampler = LongTailSampler(labels, 50, strategy=strategy, replacement=True, seed=5)
    rows = epochs_of(sampler, 400).ravel()
    classes = labels[rows]
    assert_even(np.bincount(classes), rows.size * shares(strategy, [30, 12, 5, 3]))
    for c in range(4):
        assert_even(np.bincount(rows[classes == c], minlength=50)[labels == c])


def test_with_replacement_a_draw_knows_nothing_of_the_one_before():
    labels = labels_of([30, 12, 5, 3])
    rows = epochs_of(LongTailSampler(labels, 50, strategy="balanced", replacement=True, seed=6), 400).ravel()
    pairs = 4 * labels[rows[:-1]] + labels[rows[1:]]
    assert_even(np.bincount(pairs))
    again = (rows[:-1] == rows[1:]).sum()  # p = Σ_c 1/4² · 1/n_c
    chance = sum(1 / 16 / n for n in (30, 12, 5, 3))
    assert_even([again, rows.size - 1 - again], (rows.size - 1) * np.array([chance, 1 - chance]))


# Which example of a class comes


@pytest.mark.parametrize("strategy", [*STRATEGIES, "progressive"], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_examples_of_a_class_are_drawn_equally_often_within_one(strategy, seed):
    labels = labels_of(COUNTS)
    epochs = 6 if strategy == "progressive" else None
    sampler = LongTailSampler(labels, 10, strategy=strategy, progressive_epochs=epochs, seed=seed)
    rows = epochs_of(sampler, 12)
    assert all(spread_in_class(rows[:count].ravel(), labels) <= 1 for count in range(1, 13))


@pytest.mark.parametrize("batch_size", [4, 6])
def test_passes_go_on_across_epochs_with_equal_counts_in_every_batch(batch_size):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, batch_size, per_batch="exact", seed=3)
    rows = np.concatenate([sampler.rows(step) for step in range(200)])
    assert all(spread_in_class(rows[: step * batch_size], labels) <= 1 for step in range(1, 200, 7))
    for c, n in enumerate(COUNTS) if batch_size == 4 else ():
        draws = rows[labels[rows] == c]  # in order, for a batch has one of each class
        passes = draws[: draws.size // n * n].reshape(-1, n)
        assert passes.size >= 200 - n
        assert (np.sort(passes, axis=1) == np.flatnonzero(labels == c)).all()


def passes_of_three(seed):
    """Of 100 classes with three examples each: the order of pass after pass, `[100 classes, 60 passes]`, in 0 … 5."""
    labels = np.arange(300) % 100
    sampler = LongTailSampler(labels, 100, per_batch="exact", seed=seed)
    rows = epochs_of(sampler, 60).reshape(180, 100)  # a batch holds one of each class
    by_class = np.take_along_axis(rows, np.argsort(labels[rows], axis=1), axis=1).T.reshape(100, 60, 3) // 100
    number = {order: i for i, order in enumerate(itertools.permutations(range(3)))}
    return np.array([[number[tuple(order)] for order in passes] for passes in by_class.tolist()])


@pytest.mark.parametrize("seed", [0, 1])
def test_every_order_of_a_pass_is_as_likely_whatever_the_pass_before_was(seed):
    orders = passes_of_three(seed)
    assert_even(np.bincount(orders.ravel()))
    assert_even(np.bincount(orders[:, 0]))  # the first pass alone
    assert_even(np.bincount((6 * orders[:, :-1] + orders[:, 1:]).ravel()))
    assert_even(np.bincount((6 * orders[:-1] + orders[1:]).ravel()))  # classes beside each other
    assert_even(np.bincount((6 * orders + passes_of_three(seed + 2)).ravel()))  # seeds that are near


def test_any_example_may_stand_at_any_place_of_the_first_pass():
    labels, seeds = labels_of([7, 7]), 700
    table = np.zeros((7, 14))
    for seed in range(seeds):
        sampler = LongTailSampler(labels, 2, per_batch="exact", seed=seed)
        for place in range(7):
            table[place, sampler.rows(place)] += 1
    for c in range(2):
        for places in table[:, labels == c]:
            assert_even(places)


def test_any_examples_of_a_large_class_may_come_in_the_first_epoch():
    labels, seeds, drawn = labels_of([12, 1, 1]), 1500, np.zeros(14)
    for seed in range(seeds):
        drawn[np.unique(epochs_of(LongTailSampler(labels, 14, seed=seed), 1))] += 1
    observed = drawn[labels == 0]
    # About 14/3 of 12 without replacement: the statistic is a χ² of 11 degrees times this variance.
    statistic = ((observed - observed.mean()) ** 2 / (observed.mean() * (1 - observed.mean() / seeds))).sum() * 11 / 12
    assert UNLIKELY < stats.chi2.sf(statistic, 11) < 1 - UNLIKELY
    assert 4 < observed.sum() / seeds < 5.4


# Where in a batch and an epoch


@pytest.mark.parametrize("per_batch", [None, "exact"])
@pytest.mark.parametrize("replacement", [False, True])
def test_the_classes_of_a_batch_stand_in_any_order(per_batch, replacement):
    labels = np.arange(4)
    sampler = LongTailSampler(labels, 4, per_batch=per_batch, replacement=replacement, seed=8)
    batches = epochs_of(sampler, 2400)  # an epoch is a batch
    for place in range(4):
        assert_even(np.bincount(batches[:, place]))
    if per_batch or not replacement:
        orders = (batches * [64, 16, 4, 1]).sum(axis=1)
        assert_even(np.bincount(orders)[[64 * a + 16 * b + 4 * c + d for a, b, c, d in itertools.permutations(labels)]])


def test_a_draw_may_stand_in_any_batch_of_its_epoch():
    labels = labels_of([8, 4])
    epochs = epochs_of(LongTailSampler(labels, 3, strategy="instance", seed=9), 1500)
    table = np.array([np.bincount(place, minlength=12) for place in epochs.T])  # place × row
    assert (table.sum(axis=0) == 1500).all()  # an epoch is a pass
    for places in table:
        assert_even(places)


# Equal counts in every batch


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [4, 8, 9, 11])
def test_every_batch_has_every_class_equally_often(batch_size, replacement):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, batch_size, per_batch="exact", replacement=replacement, seed=1)
    batches = np.array([np.bincount(labels[sampler.rows(step)], minlength=4) for step in range(100)])
    assert batches.min() == batch_size // 4 and batches.max() == -(-batch_size // 4)
    assert np.ptp(batches.sum(axis=0)) <= 1
    assert sampler.effective_prior.tolist() == [1 / 4] * 4


def test_with_replacement_the_examples_of_equal_classes_come_by_chance():
    labels = labels_of([30, 12, 5, 3])
    sampler = LongTailSampler(labels, 4, per_batch="exact", replacement=True, seed=2)
    rows = epochs_of(sampler, 300).ravel()
    for c in range(4):
        assert_even(np.bincount(rows, minlength=50)[labels == c])


@pytest.mark.parametrize("batch_size", [2, 6])
def test_a_distribution_uniform_over_some_classes_gives_them_equal_counts(batch_size):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, batch_size, strategy=[0.5, 0, 0.5, 0], per_batch="exact", seed=1)
    for step in range(50):
        assert np.bincount(labels[sampler.rows(step)], minlength=4).tolist() == [batch_size // 2, 0, batch_size // 2, 0]


# Small and large


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_class_with_a_sole_example_does_not_starve(strategy):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, 10, strategy=strategy, seed=0)
    drawn = np.bincount(epochs_of(sampler, 8).ravel(), minlength=76)[labels == 3]
    assert drawn[0] >= 8 * 80 * shares(strategy, COUNTS)[3] - 2 > 0


@pytest.mark.parametrize("strategy", [*NAMED, 0.3, [1.0]], ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_a_single_class_is_all_there_is(strategy, replacement):
    sampler = LongTailSampler([0] * 7, 3, strategy=strategy, replacement=replacement, seed=0)
    assert sampler.effective_prior.tolist() == [1] and sampler.steps_per_epoch == 3
    rows = epochs_of(sampler, 7).ravel()
    assert set(rows) == set(range(7))
    if not replacement:
        assert np.bincount(rows).tolist() == [9] * 7


@pytest.mark.parametrize("options", [{}, {"replacement": True}, {"per_batch": "exact"}, {"strategy": "instance"}])
def test_one_example_fills_a_batch_of_four(options):
    sampler = LongTailSampler([0], 4, seed=0, **options)
    assert sampler.steps_per_epoch == 1
    assert sampler.rows(0).tolist() == sampler.rows(17).tolist() == [0] * 4


@pytest.mark.parametrize("strategy", [*NAMED, 0.3, -2, [0.5, 0, 0.5, 0, 0]], ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_ids_without_examples_have_no_share(strategy, replacement):
    labels = [0, 2, 0, 2, 2, 0, 0]
    sampler = LongTailSampler(labels, 2, strategy=strategy, num_classes=5, replacement=replacement, seed=0)
    assert sampler.class_counts.tolist() == [4, 0, 3, 0, 0]
    assert sampler.effective_prior[[1, 3, 4]].tolist() == [0] * 3
    assert abs(sampler.effective_prior.sum() - 1) < 1e-15
    assert set(epochs_of(sampler, 20).ravel()) == set(range(7))


@pytest.mark.parametrize("render", [list, lambda y: y.astype("uint8"), lambda y: y[:, None], lambda y: y.astype("u8")])
def test_labels_are_ids_in_any_integer_form(render):
    labels = labels_of(COUNTS)
    other = LongTailSampler(render(labels), 8, seed=0)
    assert other.state(0) == LongTailSampler(labels, 8, seed=0).state(0)
    np.testing.assert_array_equal(other.rows(3), LongTailSampler(labels, 8, seed=0).rows(3))


def test_a_million_labels_of_a_hundred_thousand_classes_are_drawn(rng):
    labels = np.concatenate([np.arange(100_000), (rng.random(900_000) ** 4 * 100_000).astype("int64")])
    sampler = LongTailSampler(labels, 1000, seed=0)
    rows = np.concatenate([sampler.rows(step) for step in range(1000)])
    assert np.abs(np.bincount(labels[rows]) - 10).max() <= 2
    drawn = np.bincount(rows, minlength=labels.size)
    highest = np.zeros(100_000, "int64")
    np.maximum.at(highest, labels, drawn)
    lowest = highest.copy()
    np.minimum.at(lowest, labels, drawn)
    assert (highest - lowest).max() <= 1


# For any labels and settings


@st.composite
def settings_of_a_sampler(draw):
    """(labels, batch size, strategy, seed) of any kind."""
    labels = draw(st.lists(st.integers(0, 7), min_size=1, max_size=40))
    strategy = draw(st.one_of(st.sampled_from(NAMED), st.floats(-3, 3), st.integers(-2, 4)))
    return labels, draw(st.integers(1, 12)), strategy, draw(st.integers(0, 2**70))


@quick
@given(settings_of_a_sampler(), st.integers(1, 4))
def test_any_draw_keeps_its_shares_and_its_passes(drawn_settings, epochs):
    labels, batch_size, strategy, seed = drawn_settings
    sampler = LongTailSampler(labels, batch_size, strategy=strategy, seed=seed)
    assert sampler.steps_per_epoch == math.ceil(len(labels) / batch_size)
    rows = epochs_of(sampler, epochs).ravel()
    assert rows.dtype == np.int64 and sampler.rows(0).shape == (batch_size,)
    assert rows.min() >= 0 and rows.max() < len(labels)
    due = rows.size * shares(strategy, np.bincount(labels).tolist())
    assert np.abs(np.bincount(np.asarray(labels)[rows], minlength=due.size) - due).max() <= 2
    assert spread_in_class(rows, labels) <= 1


@quick
@given(settings_of_a_sampler(), st.booleans(), st.permutations(range(9)))
def test_a_batch_does_not_depend_on_which_were_asked_for_before(drawn_settings, replacement, order):
    labels, batch_size, strategy, seed = drawn_settings

    def make():
        return LongTailSampler(labels, batch_size, strategy=strategy, replacement=replacement, seed=seed)

    in_order = make()
    expected = [in_order.rows(step).tolist() for step in range(9)]
    shuffled = make()
    assert all(shuffled.rows(step).tolist() == expected[step] for step in order)
    assert make().rows(order[0]).tolist() == expected[order[0]]


@quick
@given(settings_of_a_sampler(), st.integers(1, 4), st.integers(0, 50))
def test_the_shards_of_a_batch_make_it_up(drawn_settings, parts, step):
    labels, part_size, strategy, seed = drawn_settings
    whole = LongTailSampler(labels, part_size * parts, strategy=strategy, seed=seed)
    shards = [whole.shard(parts, i).rows(step) for i in range(parts)]
    assert [s.size for s in shards] == [part_size] * parts
    assert np.concatenate(shards).tolist() == whole.rows(step).tolist()


def test_the_random_numbers_are_the_published_ones():
    # Vigna's splitmix64.c seeded with 1234567, as Rosetta Code and many test suites have its first outputs.
    published = [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]
    assert splitmix64(1234567, np.arange(5)).tolist() == published
    assert int(splitmix64(1234567, 3)) == published[3]


def test_the_tail_of_places_lt_is_drawn_evenly_from_its_first_epoch():
    counts = read_class_counts(pathlib.Path(__file__).parents[1] / "benchmarks" / "class_counts" / "places_lt.csv")
    labels = labels_of(counts)
    sampler = LongTailSampler(labels, 256, strategy="balanced", seed=0)
    drawn = class_counts_by_epoch(sampler, labels, 2)
    due = sampler.steps_per_epoch * 256 * np.array([[1], [2]]) / 365
    assert np.abs(drawn - due).max() <= 2  # 172 of every class, of which the largest has 4,980 examples, the smallest 5


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 25),
    st.sampled_from([("instance", None), ("square_root", None), ("balanced", None), (-1, None), ("balanced", "exact")]),
    st.integers(0, 2**32),
)
def test_no_example_comes_again_before_all_others_of_its_class_did(class_counts, batch_size, how, seed):
    (strategy, per_batch), labels = how, labels_of(class_counts)
    batch_size = max(batch_size, len(class_counts)) if per_batch else batch_size
    sampler = LongTailSampler(labels, batch_size, strategy=strategy, per_batch=per_batch, seed=seed)
    sequence = np.concatenate([sampler.rows(step) for step in range(4 * sampler.steps_per_epoch)])
    for label, size in enumerate(class_counts):
        of_class = sequence[labels[sequence] == label]
        for start in range(0, of_class.size, size):
            one_pass = of_class[start : start + size]
            assert np.unique(one_pass).size == one_pass.size


def test_progressive_draws_with_replacement_follow_the_epoch():
    labels = labels_of([900, 90, 10])
    sampler = LongTailSampler(
        labels, 100, strategy="progressive", progressive_epochs=2, replacement=True, num_classes=4, seed=0
    )
    for epoch, due in ((0, [900, 90, 10, 0]), (1, [1000 / 3] * 3 + [0]), (5, [1000 / 3] * 3 + [0])):
        rows = np.concatenate([sampler.rows(10 * epoch + step) for step in range(10)])
        drawn = np.bincount(labels[rows], minlength=4)
        assert (np.abs(drawn - due) <= 4 * np.sqrt(due)).all()
