"""`LongTailSampler`: the shares of the classes, against the formulas, by counting and by χ² over fixed seeds."""

import concurrent.futures
import math
import pathlib
import sys

import numpy as np
import pytest
from helpers.tails import (
    COUNTS,
    NAMED,
    STRATEGIES,
    assert_even,
    class_counts_by_epoch,
    epochs_of,
    labels_of,
    shares,
    spread_in_class,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_logit_adjust.data import LongTailSampler, _strategies, read_class_counts
from keras_logit_adjust.data._plan import splitmix64

quick = settings(max_examples=60)


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


def test_every_piece_of_every_batch_has_a_seed_of_its_own():
    parts = [LongTailSampler(np.arange(12) % 3, 4, seed=0).shard(2, index) for index in range(2)]
    seeds = np.concatenate([part.map_seeds(step, 2, pieces=3) for part in parts for step in (0, 2, 4)])
    assert len(np.unique(seeds, axis=0)) == len(seeds) == 2 * 6 * 3
    np.testing.assert_array_equal(seeds[3:6], parts[0].map_seeds(1, 1, pieces=3))


@pytest.mark.parametrize(("step", "steps"), [(0, 1), (2, 3), (1, 7), (3, 14)])
def test_a_block_over_several_epochs_has_the_rows_of_each_step(step, steps):
    sampler = LongTailSampler(np.arange(12) % 3, 4, strategy="instance", seed=0)  # epochs of three steps
    expected = [sampler.rows(i).tolist() for i in range(step, step + steps)]
    assert sampler.block(step, steps).tolist() == expected


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


def test_progressive_draws_with_replacement_follow_the_epoch():
    labels = labels_of([900, 90, 10])
    sampler = LongTailSampler(
        labels, 100, strategy="progressive", progressive_epochs=2, replacement=True, num_classes=4, seed=0
    )
    for epoch, due in ((0, [900, 90, 10, 0]), (1, [1000 / 3] * 3 + [0]), (5, [1000 / 3] * 3 + [0])):
        rows = np.concatenate([sampler.rows(10 * epoch + step) for step in range(10)])
        drawn = np.bincount(labels[rows], minlength=4)
        assert (np.abs(drawn - due) <= 4 * np.sqrt(due)).all()


def test_progressive_shares_are_the_same_in_many_threads():
    """tf.data may draw batches of one sampler in several threads."""
    epochs = np.random.default_rng(0).integers(0, 30, 400)
    alone = [_strategies.Progressive(np.array([50, 9, 1]), 20, 60).expected(60 * e + 7) for e in epochs]
    together = _strategies.Progressive(np.array([50, 9, 1]), 20, 60)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda e: together.expected(60 * e + 7), np.tile(epochs, 5)))
    finally:
        sys.setswitchinterval(before)
    np.testing.assert_allclose(found, alone * 5, rtol=1e-9)
