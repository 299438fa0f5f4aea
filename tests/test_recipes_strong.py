"""The recipe "strong": its schedule, its averaged weights, and what its batches are made of."""

import dataclasses
import functools
import itertools
import math

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, read_json, write_rows

from keras_logit_adjust.compare import METHODS, compare, devices, feeding, methods, recipes, resuming, training

STRONG = recipes.find_recipe("strong", dataset="any")
RECIPE = dataclasses.replace(STRONG, batch_size=16)


# --- schedule and optimizer ------------------------------------------------------------------------------------------


def test_the_rate_warms_up_in_a_line_and_falls_along_half_a_cosine():
    assert (STRONG.epochs, STRONG.warmup, STRONG.learning_rate) == (200, 5, 0.1)
    expected = [0.1 * (epoch + 1) / 5 for epoch in range(5)]
    expected += [0.1 * (1 + math.cos(math.pi * (epoch - 5) / 195)) / 2 for epoch in range(5, 200)]
    np.testing.assert_allclose([STRONG.rate(epoch) for epoch in range(200)], expected, rtol=1e-12)
    assert STRONG.rate(199) < 1e-4 * STRONG.rate(5)


@pytest.mark.parametrize(("epochs", "warmup"), [(40, 1), (400, 10), (2, 0), (1, 0)])
def test_a_stretched_cosine_still_ends_at_the_last_epoch(epochs, warmup):
    recipe = recipes.find_recipe("strong", dataset="any", epochs=epochs)
    assert (recipe.epochs, recipe.warmup) == (epochs, warmup)
    assert recipe == dataclasses.replace(STRONG, epochs=epochs, warmup=warmup)
    falling = [recipe.rate(epoch) for epoch in range(warmup, epochs)]
    steps = epochs - warmup
    np.testing.assert_allclose(falling, [0.1 * math.cos(math.pi * k / steps / 2) ** 2 for k in range(steps)])


def test_the_optimizer_is_nesterov_sgd_that_averages_its_weights():
    optimizer = STRONG.optimizer()
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert (optimizer.use_ema, optimizer.ema_momentum, optimizer.ema_overwrite_frequency) == (True, 0.99, None)
    assert optimizer is not STRONG.optimizer()


@pytest.mark.parametrize(
    ("name", "optimizer", "kind", "rate", "momentum"),
    [
        ("quick", "auto", "Adam", 2e-3, None),
        ("quick", "adam", "Adam", 2e-3, None),
        ("quick", "sgd", "SGD", 0.02, 0.9),
        ("paper", "sgd", "SGD", 0.1, 0.9),
        ("paper", "adam", "Adam", 1e-3, None),
        ("strong", "auto", "SGD", 0.1, 0.9),
        ("strong", "adam", "Adam", 1e-3, None),
    ],
)
def test_an_optimizer_asked_for_comes_at_a_rate_that_suits_it(name, optimizer, kind, rate, momentum):
    recipe = recipes.find_recipe(name, dataset="any", optimizer=optimizer)
    found = recipe.optimizer()
    assert type(found).__name__ == kind and getattr(found, "momentum", None) == momentum
    assert float(found.learning_rate) == pytest.approx(rate) and recipe.learning_rate == rate
    kept = recipes.find_recipe(name, dataset="any")
    assert recipe == dataclasses.replace(kept, learning_rate=rate, momentum=momentum)
    assert found.use_ema == (name == "strong")


@pytest.mark.parametrize("momentum", [0.5, None])
def test_training_ends_with_averaged_weights_where_these_are_asked_for(momentum, rng):
    x, y = rng.normal(size=(12, 2)).astype("float32"), rng.permutation(np.repeat([0, 1], 6))
    recipe = recipes.Recipe(3, batch_size=12, learning_rate=0.5, momentum=0.0, average=momentum)
    model = recipes.build_model(
        "linear", lambda n: keras.layers.Dense(n, use_bias=False), example_shape=(2,), num_classes=2, recipe=recipe
    )
    kernel, average = model.get_weights()[0].astype("float64"), None
    batches = feeding.Training(x, y, recipe=recipe, num_classes=2, seed=0)
    loss = functools.partial(METHODS["erm"].loss, np.array([6, 6]))
    training._fit(model, batches, loss=loss, callbacks=[], devices=devices.OneDevice(), place=resuming.Place())
    for _ in range(3):  # one full batch an epoch
        exponentials = np.exp(x @ kernel)
        kernel = kernel - 0.5 * x.T @ (exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(2)[y]) / 12
        average = kernel if average is None or momentum is None else momentum * average + (1 - momentum) * kernel
    np.testing.assert_allclose(model.get_weights()[0], average, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_label_smoothing_reaches_every_loss_and_that_of_retraining(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    seen = []
    for name, method in METHODS.items():
        if method.trained_as is None:

            def loss(counts, plain=method.loss, **options):
                seen.append(options)
                return plain(counts, **options)

            monkeypatch.setitem(METHODS, name, dataclasses.replace(method, loss=loss))
    smoothed, plain = [], methods.cross_entropy
    monkeypatch.setattr(
        methods, "cross_entropy", lambda counts, **options: smoothed.append(options) or plain(counts, **options)
    )
    config = dataclasses.replace(CONFIG, recipe="strong", epochs=2, batch_size=64)
    results = compare(config, methods=list(METHODS), seeds=1, output="out")
    trained = [name for name, method in METHODS.items() if method.trained_as is None and not method.experts]
    assert seen == [{"label_smoothing": 0.1}] * len(trained) and smoothed == [{"label_smoothing": 0.1}]
    assert list(results["methods"]) == list(METHODS)
    assert all(np.isfinite(found["summary"]["balanced_error"]["mean"]) for found in results["methods"].values())
    assert read_json(tmp_path / "out" / "results.json")["config"]["recipe"] == "strong"
    assert "--epochs 2 --batch-size 64" in results["command"] and "--recipe strong" in results["command"]


# --- batches ---------------------------------------------------------------------------------------------------------


def batches_of(training, epochs=1):
    """The batches of each epoch, taken as Keras takes them."""
    arguments = training.fit_arguments()
    steps = arguments["steps_per_epoch"]
    for epoch in range(epochs):
        yield [arguments["x"][epoch * steps + i] for i in range(steps)]


def images_of_classes(rng, shape=(8, 10, 3)):
    """Images whose every value is 100 times their class, 0, 1 or 2."""
    y = rng.permutation(np.repeat([0, 1, 2], [20, 9, 4]))
    return np.broadcast_to((100 * y)[:, None, None, None], (y.size, *shape)).astype("uint8"), y


def rows_of_classes(rng):
    y = rng.permutation(np.repeat([0, 1, 2], [20, 9, 4]))
    return np.stack([100.0 * y, -y], axis=1).astype("float32"), y


def test_smoothed_labels_are_fed_as_rows(rng):
    x, y = rows_of_classes(rng)
    recipe = recipes.Recipe(1, batch_size=7, label_smoothing=0.1)
    training = feeding.Training(x, y, recipe=recipe, num_classes=3, seed=0)
    (batches,) = batches_of(training)
    rows = np.concatenate([training.rows(0, step) for step in range(5)])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), np.eye(3)[y[rows]])


@pytest.mark.parametrize("make", [images_of_classes, rows_of_classes])
def test_batches_have_the_shape_of_the_examples_and_rows_that_sum_to_one(make, rng):
    x, y = make(rng)
    (batches,) = batches_of(feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=0))
    assert [len(images) for images, _ in batches] == [16, 16, 16]
    for images, labels in batches:
        assert images.shape == (len(labels), *x.shape[1:]) and labels.shape == (len(images), 3)
        assert images.dtype == labels.dtype == np.float32
        np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
        assert labels.min() >= 0


@pytest.mark.parametrize("strategy", [None, "balanced"])
@pytest.mark.parametrize("make", [images_of_classes, rows_of_classes])
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(make, strategy, rng):
    x, y = make(rng)
    first, again, other = (
        [
            batch
            for epoch in batches_of(
                feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=seed, strategy=strategy), 2
            )
            for batch in epoch
        ]
        for seed in (1, 1, 2)
    )
    for (a, a_labels), (b, b_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a_labels, b_labels)
    assert any((a != b).any() for (a, _), (b, _) in zip(first, other, strict=True))
    assert any((a != b).any() for (a, _), (b, _) in zip(first[:3], first[3:], strict=True))


def test_mixed_batches_show_all_examples_before_one_comes_again(rng):
    x, y = rows_of_classes(rng)
    sampler = feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=0).fit_arguments()["x"].sampler
    drawn = np.concatenate([sampler.rows(step) for step in range(33)])  # 16 · 33: every example 16 times
    assert np.ptp(np.bincount(drawn, minlength=33)) <= 1


def augmentation(is_image, mixer):
    """The augmentation with one of its mixers, and nothing done to single images."""
    augment = feeding._Mixing(is_image=is_image)
    augment.single = []
    augment.mixers = [layer for layer in augment.mixers if isinstance(layer, mixer)]
    assert len(augment.mixers) == 1
    return augment


@pytest.mark.parametrize("make", [images_of_classes, rows_of_classes])
def test_mixup_mixes_examples_with_the_weights_of_their_labels(make, rng):
    x, y = (part[:16] for part in make(rng))
    mixed, labels = augmentation(x.ndim == 4, keras.layers.MixUp)(x, np.eye(3, dtype="float32")[y], rng)
    value = labels @ [0, 1, 2]
    if x.ndim == 4:
        np.testing.assert_allclose(mixed, np.broadcast_to(100 * value[:, None, None, None], x.shape), atol=1e-3)
    else:
        np.testing.assert_allclose(mixed, np.stack([100 * value, -value], axis=1), atol=1e-3)
    assert ((labels > 0.01) & (labels < 0.99)).any()


def test_cutmix_labels_images_by_the_share_of_the_area_that_was_pasted(rng):
    x, y = (part[:16] for part in images_of_classes(rng))
    height, width = x.shape[1:3]
    mixed, labels = augmentation(True, keras.layers.CutMix)(x, np.eye(3, dtype="float32")[y], rng)
    pasted = 0
    for image, row, label in zip(mixed, labels, y, strict=True):
        foreign = image[..., 0] != 100 * label
        assert set(np.unique(image[foreign])) <= {100.0 * c for c in np.flatnonzero(row)}
        side = np.sqrt(1 - row[label])  # of the box that the label tells of, as a share of either side
        shares = [
            rows(side * height) * columns(side * width) / (height * width)
            for rows, columns in itertools.product((math.floor, math.ceil), repeat=2)
        ]
        if foreign.any():
            pasted += 1
            assert min(abs(foreign.mean() - share) for share in shares) < 1e-6
    assert pasted > 3


@pytest.mark.parametrize("is_image", [True, False])
def test_images_get_both_ways_of_mixing_in_turn_and_rows_mixup_alone(is_image, monkeypatch, rng):
    x, y = (images_of_classes if is_image else rows_of_classes)(rng)
    seen = []
    for kind in (keras.layers.MixUp, keras.layers.CutMix):
        plain = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda s, *a, plain=plain, **k: seen.append(type(s)) or plain(s, *a, **k))
    list(batches_of(feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=0), 4))
    assert len(seen) == 12  # 3 batches in each of 4 epochs
    assert set(seen) == ({keras.layers.MixUp, keras.layers.CutMix} if is_image else {keras.layers.MixUp})


def test_images_are_shifted_mirrored_and_cut_and_stay_in_their_range(rng):
    x, y = rng.integers(50, 256, (16, 8, 10, 3)).astype("uint8"), np.arange(16) % 3
    augment = feeding._Mixing(is_image=True)
    augment.mixers = [lambda batch, training: batch]
    labels = np.eye(3, dtype="float32")[y]
    augmented, same = augment(x, labels, rng)
    np.testing.assert_array_equal(same, labels)
    assert augmented.dtype == np.float32 and augmented.min() >= 0 and augmented.max() <= 255
    changed = [(a != b).any() for a, b in zip(augmented, x, strict=True)]
    assert sum(changed) > 12
    for epoch in batches_of(feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=0), 4):
        assert min(images.min() for images, _ in epoch) >= 0
        # A mixture of two numbers of 255 rounds to at most two units in the last place above it.
        assert max(images.max() for images, _ in epoch) <= 255 * (1 + 2 * np.finfo("float32").eps)


def alone(kind, images):
    """Images after one of the layers of the augmentation, at its settings there."""
    (layer,) = [layer for layer in feeding._Mixing(is_image=True).single if isinstance(layer, kind)]
    return keras.ops.convert_to_numpy(layer(images.astype("float32"), training=True))


def test_mirroring_turns_about_half_of_the_images_and_leaves_the_others(rng):
    images = rng.integers(50, 256, (64, 8, 10, 3)).astype("float32")
    found = alone(keras.layers.RandomFlip, images)
    mirrored = [(image == other).all() for image, other in zip(found, images[:, :, ::-1], strict=True)]
    same = [(image == other).all() for image, other in zip(found, images, strict=True)]
    assert sum(mirrored) + sum(same) == 64 and 16 <= sum(mirrored) <= 48  # 4 deviations of 64 fair coins


def test_shifts_are_of_whole_pixels_up_to_an_eighth_and_pad_with_zeros(rng):
    images = rng.integers(50, 256, (64, 16, 24, 3)).astype("float32")
    steps = []
    for image, shifted in zip(images, alone(keras.layers.RandomTranslation, images), strict=True):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
        moves = itertools.product(range(-2, 3), range(-3, 4))
        fits = [(i, j) for i, j in moves if (padded[2 - i : 18 - i, 3 - j : 27 - j] == shifted).all()]
        assert len(fits) == 1
        steps += fits
    assert {i for i, _ in steps} == set(range(-2, 3)) and {j for _, j in steps} == set(range(-3, 4))


def test_a_box_is_cut_out_of_about_half_of_the_images(rng):
    images = rng.integers(50, 256, (64, 16, 24, 3)).astype("float32")
    found, cut = alone(keras.layers.RandomErasing, images), 0
    for image, other in zip(found, images, strict=True):
        rows, columns = np.nonzero((image != other).any(axis=-1))
        if rows.size:
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width <= 0.25 * 16 * 24  # a fifth of the area, its sides rounded
            cut += 1
    assert 16 <= cut <= 48


def test_features_are_in_no_range_and_no_example_given_is_changed(rng):
    x, y = rows_of_classes(rng)
    before = x.copy()
    values = np.concatenate(
        [b[0] for epoch in batches_of(feeding.Training(x, y, recipe=RECIPE, num_classes=3, seed=0), 3) for b in epoch]
    )
    assert values[:, 1].min() < -1 and values[:, 0].max() == 200
    np.testing.assert_array_equal(x, before)


def test_a_batch_of_one_image_is_mixed_with_itself(rng):
    x, y = images_of_classes(rng)
    recipe = dataclasses.replace(RECIPE, batch_size=1)
    for images, labels in next(batches_of(feeding.Training(x[:3], y[:3], recipe=recipe, num_classes=3, seed=0))):
        assert sorted(labels[0]) == [0, 0, pytest.approx(1)] and images.shape == (1, *x.shape[1:])


@pytest.mark.slow
def test_images_train_with_the_strong_recipe_on_a_model_of_images(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    for name, counts in (("train", [40, 10, 5]), ("test", [6, 6, 6])):
        y = np.repeat([0, 1, 2], counts)
        np.savez(name, x=rng.integers(0, 256, (y.size, 8, 8, 1)).astype("uint8"), y=y)
    config = dataclasses.replace(CONFIG, recipe="strong", epochs=1, batch_size=16)
    results = compare(config, methods=["erm", "crt"], seeds=1)
    assert 0 <= results["methods"]["crt"]["summary"]["balanced_error"]["mean"] <= 100
