"""`subsample_stream`: the examples that are kept have exactly the counts asked for, every subset alike."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.streams import COUNTS, LABELS, ROWS, columns, slices, stream

from keras_logit_adjust.data import subsample, subsample_stream

WANTED = [70, 26, 10, 0]


@pytest.mark.parametrize("block_size", [1, 97, 4096])
def test_a_subset_of_a_stream_has_exactly_the_counts_asked_for(block_size):
    kept = subsample_stream(stream(), WANTED, available_counts=COUNTS, seed=0, block_size=block_size)
    chosen, labels = (np.array(column) for column in zip(*kept.as_numpy_iterator(), strict=True))
    assert (np.diff(chosen) > 0).all()  # in the order of the stream, none twice
    np.testing.assert_array_equal(labels, LABELS[chosen])
    assert np.bincount(labels, minlength=4).tolist() == WANTED
    assert np.bincount(LABELS[subsample(LABELS, WANTED, seed=0)], minlength=4).tolist() == WANTED


def test_all_or_nothing_of_a_class_can_be_kept():
    (chosen, _) = columns(subsample_stream(stream(), [1400, 0, 125, 0], available_counts=COUNTS, seed=0, batch_size=64))
    np.testing.assert_array_equal(chosen, ROWS[np.isin(LABELS, [0, 2])])
    assert list(subsample_stream(stream(), [0] * 4, available_counts=COUNTS, seed=0)) == []


@pytest.mark.parametrize("block_size", [1, 300, 451, 10_000])
def test_every_subset_is_equally_likely(block_size):
    # 300 classes of four examples each, the first of all before the second of any: 300 independent draws a seed.
    times = dict.fromkeys([0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100], 0)
    dataset = slices(np.arange(1200), np.tile(np.arange(300), 4))
    for seed in (0, 1):
        kept = subsample_stream(
            dataset, [2] * 300, available_counts=[4] * 300, seed=seed, batch_size=600, block_size=block_size
        )
        chosen, labels = columns(kept)
        subsets = np.bincount(labels, 2 ** (chosen // 300))
        for subset in subsets.astype(int):
            times[subset] += 1
    observed, expected = np.array([*times.values()]), 600 / 6
    assert ((observed - expected) ** 2 / expected).sum() < 25.7  # the 99.99 % point of χ² with 5 degrees


def test_every_place_in_the_stream_is_kept_equally_often():
    dataset = slices(np.arange(4000), np.tile(np.arange(200), 20))
    chosen, _ = columns(
        subsample_stream(dataset, [5] * 200, available_counts=[20] * 200, seed=0, batch_size=1000, block_size=330)
    )
    observed, expected = np.bincount(chosen // 200, minlength=20), 200 * 5 / 20
    # 5 of 20 without replacement: a statistic with the mean of a χ² with 19 degrees; 4 and 50 are its 0.01 % points.
    assert observed.sum() == 1000
    assert 4 < ((observed - expected) ** 2 / (expected * (1 - 5 / 20))).sum() * 19 / 20 < 50


def test_the_subset_follows_from_the_seed_and_repeats():
    def chosen(seed, dataset=None, repeats=1, **options):
        kept = subsample_stream(dataset or stream(), WANTED, available_counts=COUNTS, seed=seed, **options)
        return [int(row) for row in columns(kept.repeat(repeats).batch(64))[0]]

    first = chosen(3)
    assert first == chosen(3)
    assert chosen(3, repeats=2) == first * 2
    assert first != chosen(4)
    for dataset in (stream().batch(7), stream(np.eye(4, dtype="float32")[LABELS])):
        kept = subsample_stream(dataset, WANTED, available_counts=COUNTS, seed=3, batch_size=16)
        assert columns(kept)[0].tolist() == first


def test_a_subset_comes_as_the_stream_did_or_in_batches_asked_for():
    def sizes(dataset, **options):
        kept = subsample_stream(dataset, WANTED, available_counts=COUNTS, seed=0, **options)
        return [y.shape for _, y in kept.as_numpy_iterator()]

    assert sizes(stream()) == [()] * 106
    assert sizes(stream().batch(40, drop_remainder=True)) == [(40,), (40,), (26,)]
    assert sizes(stream().batch(7), batch_size=50) == [(50,), (50,), (6,)]
    assert sizes(stream(), batch_size=50) == [(50,), (50,), (6,)]


def test_sample_weights_and_features_travel_with_a_subset():
    dataset = slices({"row": ROWS, "text": ROWS.astype("str"), "pair": np.stack([ROWS, -ROWS], 1)}, LABELS, ROWS / 2)
    x, y, weight = columns(subsample_stream(dataset, WANTED, available_counts=COUNTS, seed=0, batch_size=64))
    np.testing.assert_array_equal(y, LABELS[x["row"]])
    np.testing.assert_array_equal(weight, x["row"] / 2)
    np.testing.assert_array_equal(x["pair"][:, 1], -x["row"])
    np.testing.assert_array_equal(x["text"].astype("int64"), x["row"])


@pytest.mark.parametrize(
    ("available", "message"),
    [
        ([1400, 450, 125, 24], "has more examples than `available_counts` says at class 3. Count it"),
        ([1000, 450, 125, 24], "has more examples than `available_counts` says at class"),
        ([1402, 450, 126, 25], r"ended with fewer examples .* says: \[2, 1\] are missing at classes 0, 2"),
    ],
)
def test_a_stream_that_was_counted_wrongly_is_an_error_while_reading(available, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(subsample_stream(stream(), [3, 2, 1, 0], available_counts=available, seed=0))


BAD_SUBSAMPLE = [
    ({"class_counts": [1401, 450, 126, 0]}, r"Asked for \[1401, 126\] of \[1400, 125\] at classes 0, 2: lower"),
    ({"class_counts": [0.7, 0.1, 0.1, 0.1]}, r"`class_counts` must be whole numbers.*multiply probabilities"),
    ({"class_counts": [-1, 0, 0, 0]}, r"`class_counts` must be whole numbers.* at least 0"),
    ({"class_counts": [1, 1]}, "`class_counts` must have one number for each class: available_counts has 4.*has 2"),
    ({"available_counts": COUNTS / 2000}, "`available_counts` must be whole numbers"),
    ({"seed": -1}, "`seed` must be an integer of at least 0.*seed=-1"),
    ({"batch_size": 0}, "`batch_size` must be an integer of at least 1.*batch_size=0"),
    ({"block_size": 0}, "`block_size` must be an integer of at least 1.*block_size=0"),
    ({"block_size": None}, "`block_size` must be an integer of at least 1.*block_size=None"),
    ({"dataset": stream().batch(3)}, "`batch_size` must be given.*without `drop_remainder=True`"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SUBSAMPLE)
def test_subsample_stream_refuses_what_does_not_fit(change, message):
    options = {"dataset": stream(), "class_counts": WANTED, "available_counts": COUNTS, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        subsample_stream(**options)


def test_more_than_numpy_can_draw_from_is_refused():
    with pytest.raises(ValueError, match="must be below 1,000,000,000 a class.*Received 2,000,000,000"):
        subsample_stream(stream(), [1, 1], available_counts=[2_000_000_000, 5], seed=0)
