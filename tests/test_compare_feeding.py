"""What a training of `compare` is fed: the order of its examples and its augmentation, from any epoch on."""

import itertools

import numpy as np
import pytest

from keras_logit_adjust.compare import feeding, recipes

SHAPE, PIXELS = (5, 7, 2), 2
RECIPE = recipes.Recipe(3, batch_size=8, shift=PIXELS)


def examples(rng, size=30):
    y = rng.permutation(np.repeat([0, 1, 2], [size - 9, 6, 3]))
    return rng.integers(1, 256, (size, *SHAPE)).astype("uint8"), y


def training_of(x, y, seed=0, recipe=RECIPE, strategy=None):
    return feeding.Training(x, y, recipe=recipe, num_classes=3, seed=seed, strategy=strategy)


def epochs_of(training, first, last, **options):
    """The batches of each of some epochs, as a `fit` that begins with the first of them takes them."""
    given = training.fit_arguments(initial_epoch=first, **options)
    assert given["initial_epoch"] == first
    numbers = np.arange((last - first) * given["steps_per_epoch"]).reshape(last - first, -1)
    return [[given["x"][i] for i in of_epoch] for of_epoch in numbers]


def test_every_example_comes_once_an_epoch_in_an_order_of_its_own(rng):
    x, y = np.arange(60.0).reshape(30, 2), np.repeat([0, 1, 2], 10)
    orders = []
    for seed in (0, 1):
        for batches in epochs_of(training_of(x, y, seed), 0, 3):
            assert [len(rows) for rows, _ in batches] == [8, 8, 8, 6]
            drawn = np.concatenate([rows[:, 0] for rows, _ in batches]).astype(int) // 2
            np.testing.assert_array_equal(np.sort(drawn), np.arange(30))
            np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), y[drawn])
            orders.append(tuple(drawn))
    assert len(set(orders)) == 6


@pytest.mark.parametrize("strategy", [None, "balanced"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("mix", [False, True])
def test_a_fit_from_an_epoch_on_takes_the_batches_of_a_whole_one(strategy, full, mix, rng):
    x, y = examples(rng)
    recipe = recipes.Recipe(3, batch_size=8, label_smoothing=0.1, mix=True) if mix else RECIPE
    whole = epochs_of(training_of(x, y, strategy=strategy, recipe=recipe), 0, 3, full=full)
    again = training_of(x, y, strategy=strategy, recipe=recipe)
    for expected, found in zip(whole[1:], epochs_of(again, 1, 3, full=full), strict=True):
        for (images, labels), (same, same_labels) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(images, same)
            np.testing.assert_array_equal(labels, same_labels)


def moves_of(image, moved):
    """Every (down, right, is mirrored) that makes one image of the other, spelled as a loop over pixels."""
    found = []
    for down, right, mirrored in itertools.product(range(-PIXELS, PIXELS + 1), range(-PIXELS, PIXELS + 1), (0, 1)):
        expected = np.zeros_like(image)
        for i, j in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
            if 0 <= i - down < SHAPE[0] and 0 <= j - right < SHAPE[1]:
                expected[i, SHAPE[1] - 1 - j if mirrored else j] = image[i - down, j - right]
        if (expected == moved).all():
            found.append((down, right, mirrored))
    return found


def test_images_move_by_whole_pixels_and_half_of_them_are_mirrored(rng):
    images = rng.integers(1, 256, (80, *SHAPE)).astype("uint8")
    shifted = feeding.shifted(images, PIXELS, rng)
    assert shifted.dtype == images.dtype and shifted.shape == images.shape
    moves = [moves_of(image, moved) for image, moved in zip(images, shifted, strict=True)]
    assert all(len(found) == 1 for found in moves)
    assert 24 <= sum(mirrored for ((_, _, mirrored),) in moves) <= 56  # 3.6 deviations of 80 fair coins


def test_all_shifts_are_equally_likely(rng):
    ramp = np.broadcast_to(np.arange(1, 10)[:, None, None], (9000, 9, 9, 1)).astype("uint8")
    counts = np.bincount(feeding.shifted(ramp, PIXELS, rng)[:, 4, 4, 0])[3:]
    assert counts.size == 5 and np.abs(counts - 1800).max() < 4 * np.sqrt(9000 * 0.2 * 0.8)


def test_rows_and_recipes_without_a_shift_are_fed_as_they_are(rng):
    x, y = examples(rng)
    for given, recipe in ((x.reshape(30, -1), RECIPE), (x, recipes.Recipe(1, batch_size=8))):
        training = training_of(given, y, recipe=recipe)
        (batches,) = epochs_of(training, 0, 1)
        for step, (rows, _) in enumerate(batches):
            np.testing.assert_array_equal(rows, given[training.rows(0, step)])


def test_tensorflows_pipeline_shifts_each_batch_by_its_own_numbers(rng):
    pytest.importorskip("tensorflow")
    x, y = examples(rng)
    training = training_of(x, y)
    sampler = training.full_batches()
    for _ in range(2):
        for step, (images, labels) in enumerate(training.dataset(sampler).take(3)):
            rows = sampler.rows(step)
            np.testing.assert_array_equal(labels, y[rows])
            moves = [moves_of(image, moved) for image, moved in zip(x[rows], images.numpy(), strict=True)]
            assert all(len(found) == 1 for found in moves) and len({move for (move,) in moves}) > 1
            expected = np.random.default_rng(sampler.map_seeds(step, 1)[0].view("uint32"))
            np.testing.assert_array_equal(images, feeding.shifted(x[rows], PIXELS, expected))
