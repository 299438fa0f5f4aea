"""`LongTailSampler`: which examples of a class come, and where they stand, by counting and by χ² over fixed seeds."""

import itertools

import numpy as np
import pytest
from helpers.tails import (
    COUNTS,
    STRATEGIES,
    UNLIKELY,
    assert_even,
    epochs_of,
    labels_of,
    spread_in_class,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_logit_adjust.data import LongTailSampler

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
