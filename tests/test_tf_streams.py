"""Streams whose classes get other shares: what is left out, repeated and kept, against the formulas."""

import functools
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.combinations import fast_first
from helpers.streams import COUNTS, LABELS, ROWS, columns, slices, stream

from keras_logit_adjust.data import rebalance, subsample_stream
from keras_logit_adjust.losses import LogitAdjustedCrossentropy

rebalance_once = functools.partial(rebalance, repeat=False)


def rows(rebalanced):
    return columns(rebalanced.dataset)[0]


def effective_number(beta):
    mass = COUNTS * (1 - beta) / (1 - beta**COUNTS)
    return mass / mass.sum()


STRATEGIES = {
    "instance": ("instance", COUNTS / 2000),
    "square_root": ("square_root", COUNTS**0.5 / (COUNTS**0.5).sum()),
    "balanced": ("balanced", np.full(4, 1 / 4)),
    "an exponent": (0.3, COUNTS**0.3 / (COUNTS**0.3).sum()),
    "effective_number": ("effective_number", effective_number(0.999)),
    "shares with a zero": ([0, 0.5, 0.3, 0.2], np.array([0, 0.5, 0.3, 0.2])),
}


def assert_within(observed, expected, variance):
    """Within five standard deviations, or exact where there is nothing random."""
    assert (np.abs(observed - expected) <= 5 * np.sqrt(variance) + 1e-6).all(), (observed, expected, variance)


CAPPED = [("balanced", 1), ("square_root", 3), ("effective_number", 1), ("shares with a zero", 3)]


@fast_first(("case", "max_copies"), [*((case, None) for case in STRATEGIES), *CAPPED], STRATEGIES, (None, 1, 3))
def test_every_class_gets_its_share_and_no_example_more_copies_than_it_may(case, max_copies):
    strategy, shares = STRATEGIES[case]
    copies = shares / (COUNTS / 2000)
    copies = copies if max_copies is None else copies * min(1, max_copies / copies.max())
    result = rebalance_once(
        stream(), COUNTS, strategy=strategy, seed=0, batch_size=1, max_copies=max_copies, beta=0.999
    )
    np.testing.assert_allclose(result.effective_prior, shares, rtol=1e-12)
    np.testing.assert_allclose(result.copies, copies, rtol=1e-12)
    times = np.bincount(rows(result), minlength=2000)
    # ⌊r + u⌋ is ⌊r⌋ or ⌈r⌉, with the mean r and the variance f(1 − f) for the fraction f of r.
    nearly = np.round(copies, 9)
    for label in range(4):
        assert set(times[label == LABELS]) <= {np.floor(nearly[label]), np.ceil(nearly[label])}
    fraction, used = nearly % 1, np.minimum(1, copies)
    variance = COUNTS * fraction * (1 - fraction)
    assert_within(np.bincount(LABELS, times), COUNTS * copies, variance)
    assert_within(times.sum(), 2000 * result.output_per_input, variance.sum())
    assert_within((times > 0).sum(), 2000 * result.efficiency, (COUNTS * used * (1 - used)).sum())
    np.testing.assert_allclose(result.output_per_input, (COUNTS / 2000) @ copies, rtol=1e-12)
    np.testing.assert_allclose(result.efficiency, (COUNTS / 2000) @ used, rtol=1e-12)


def test_probabilities_stand_for_counts_but_where_their_number_matters():
    by_counts, by_prior = (
        rows(rebalance_once(stream(), prior, seed=0, batch_size=1)) for prior in (COUNTS, COUNTS / COUNTS.sum())
    )
    np.testing.assert_array_equal(by_counts, by_prior)
    with pytest.raises(ValueError, match="must be numbers of examples here, not probabilities"):
        rebalance_once(stream(), COUNTS / COUNTS.sum(), strategy="effective_number", seed=0, batch_size=1)


def test_what_belongs_to_an_example_stays_with_it():
    features = {"row": ROWS, "nested": {"pair": np.stack([ROWS, -ROWS], axis=1), "text": ROWS.astype("str")}}
    x, y, weight = columns(rebalance_once(slices(features, LABELS, ROWS / 2), COUNTS, seed=0, batch_size=16).dataset)
    assert len(y) > 1900
    np.testing.assert_array_equal(y, LABELS[x["row"]])
    np.testing.assert_array_equal(weight, x["row"] / 2)
    np.testing.assert_array_equal(x["nested"]["pair"], np.stack([x["row"], -x["row"]], axis=1))
    np.testing.assert_array_equal(x["nested"]["text"].astype("int64"), x["row"])


FORMS = {
    "batches": lambda: stream().batch(7),
    "full batches": lambda: stream().batch(10, drop_remainder=True),
    "ids in a column": lambda: stream(LABELS[:, None]).batch(7),
    "bytes": lambda: stream(LABELS.astype("uint8")),
    "one-hot examples": lambda: stream(np.eye(4, dtype="float32")[LABELS]),
    "one-hot batches": lambda: stream(np.eye(4, dtype="int64")[LABELS]).batch(7),
    "weighted": lambda: slices(ROWS, LABELS, ROWS).batch(7),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_dataset_gives_the_same_examples(form):
    expected, again = (rows(rebalance_once(stream(), COUNTS, seed=3, batch_size=16, block_size=90)) for _ in range(2))
    np.testing.assert_array_equal(expected, again)
    observed, *rest = columns(rebalance_once(FORMS[form](), COUNTS, seed=3, batch_size=16, block_size=90).dataset)
    np.testing.assert_array_equal(observed, expected)
    labels = rest[0].argmax(axis=-1) if "one-hot" in form else rest[0].ravel()
    np.testing.assert_array_equal(labels, LABELS[expected])


def test_the_seed_alone_decides_and_two_passes_are_equal():
    result = rebalance_once(stream(), COUNTS, seed=3, batch_size=16)
    first = rows(result)
    np.testing.assert_array_equal(first, rows(result))
    other, large = (rows(rebalance_once(stream(), COUNTS, seed=seed, batch_size=16)) for seed in (4, 2**70))
    for draw in (other, large):
        assert np.bincount(draw, minlength=2000).tolist() != np.bincount(first, minlength=2000).tolist()


def test_batches_are_full_and_of_static_size():
    for dataset, batch_size, expected in (
        (stream().batch(32, drop_remainder=True), None, 32),
        (stream().batch(32), 24, 24),
        (stream(), 24, 24),
    ):
        result = rebalance_once(dataset, COUNTS, seed=0, batch_size=batch_size)
        assert [spec.shape.as_list() for spec in result.dataset.element_spec] == [[expected]] * 2
        assert {len(y) for _, y in result.dataset} == {expected}


def test_a_block_may_be_larger_than_the_stream_or_give_nothing():
    whole = rows(rebalance_once(stream(), COUNTS, seed=0, batch_size=1, block_size=10**6))
    assert whole.size == len(rows(rebalance_once(stream(), COUNTS, seed=0, batch_size=1, block_size=2000)))
    ordered = np.repeat([0, 1, 0], 20)  # blocks that are left out as a whole
    kept = rows(rebalance_once(stream(ordered), [40, 20], strategy=[0, 1], seed=0, batch_size=10, block_size=5))
    assert np.bincount(kept, minlength=60).tolist() == [0] * 20 + [3] * 20 + [0] * 20


def test_an_endless_stream_gives_its_shares_forever():
    result = rebalance_once(stream().repeat(), COUNTS, seed=0, batch_size=100)
    _, labels = columns(result.dataset.take(100))
    # Each of the 10,000 examples read adds f(1 − f) ≤ ¼ at most to the variance.
    assert_within(np.bincount(labels), 2500, 10_000 / 4)
    assert result.dataset.cardinality() != 0


@pytest.mark.parametrize(("batch_size", "block_size", "block"), [(10, None, 80), (10, 200, 200)])
def test_no_more_blocks_are_read_ahead_than_there_are_cores(batch_size, block_size, block):
    read = []

    def examples():
        for row in range(100_000):
            read.append(row)
            yield row, row % 4

    scalar = tf.TensorSpec([], tf.int64)
    dataset = tf.data.Dataset.from_generator(examples, output_signature=(scalar, scalar))
    next(iter(rebalance_once(dataset, [1] * 4, seed=0, batch_size=batch_size, block_size=block_size).dataset))
    assert len(read) >= block
    assert len(read) <= block * (os.cpu_count() + 2)


def test_the_copies_of_an_example_are_spread_over_the_block():
    labels = np.repeat([0, 1], [90, 10])  # five copies of each of ten examples
    order = rows(rebalance_once(stream(labels), [90, 10], seed=0, batch_size=1, block_size=100))
    rare = np.flatnonzero(order >= 90)
    assert rare.size == 50
    adjacent = (np.diff(order) == 0).sum()  # 40 where copies come one after the other
    pairs, places = 10 * (5 * 4 / 2), order.size
    expected = pairs * 2 / places
    assert adjacent <= expected + 5 * np.sqrt(expected)
    # The mean place of 50 out of n places, drawn without replacement.
    assert_within(rare.mean(), (places - 1) / 2, (places + 1) * (places - 50) / (12 * 50))


def test_the_stream_is_the_class_counts_of_a_loss(rng):
    result = rebalance_once(stream(), COUNTS, strategy="square_root", seed=0, batch_size=1)
    labels, logits = rng.integers(0, 4, 5), rng.normal(size=(5, 4)).astype("float32")
    expected = LogitAdjustedCrossentropy(COUNTS**0.5)(labels, logits)
    np.testing.assert_allclose(LogitAdjustedCrossentropy(result)(labels, logits), expected, rtol=1e-6)
    without = rebalance_once(stream(), COUNTS, strategy=[0, 0.5, 0.3, 0.2], seed=0, batch_size=1)
    with pytest.raises(ValueError, match=r"must be greater than zero.*\[0\.0\] at class 0"):
        LogitAdjustedCrossentropy(without)


def pipelines():
    yield lambda: rebalance_once(stream().shuffle(50, seed=1).repeat(), COUNTS, seed=0, batch_size=16).dataset
    yield lambda: subsample_stream(stream(), COUNTS // 5, available_counts=COUNTS, seed=0, batch_size=16, block_size=64)


@pytest.mark.parametrize("make", pipelines(), ids=["rebalance", "subsample_stream"])
def test_a_checkpoint_goes_on_with_the_very_next_batch(make, tmp_path):
    iterator, again = iter(make()), iter(make())
    for _ in range(3):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(tmp_path / "at_three")
    expected = [next(iterator)[0].numpy().tolist() for _ in range(20)]
    tf.train.Checkpoint(iterator=again).restore(path)
    assert [next(again)[0].numpy().tolist() for _ in range(20)] == expected


BAD_REBALANCE = [
    ({"strategy": "progressive"}, '`strategy` of a stream must stay the same: "progressive" is for `LongTailSampler`'),
    ({"strategy": "oversample"}, "`strategy` must be one of 'instance'.*strategy='oversample'"),
    ({"strategy": [0.5, 0.5]}, "`strategy` must have one number for each class.*4 classes.*has 2"),
    ({"strategy": [0.5, 0.5, 0.5, 0.5]}, "must sum to one.*with sum 2"),
    ({"batch_size": None}, r"`batch_size` must be given.*for single examples.*Received elements of \(TensorSpec"),
    ({"batch_size": 0}, "`batch_size` must be an integer of at least 1.*batch_size=0"),
    ({"block_size": 0}, "`block_size` must be an integer of at least 1.*block_size=0"),
    ({"max_copies": 0}, "`max_copies` must be a positive number.*max_copies=0"),
    ({"max_copies": "2"}, "`max_copies` must be a positive number.*max_copies='2'"),
    ({"seed": None}, "`seed` must be given"),
    ({"seed": -1}, "`seed` must be an integer of at least 0.*seed=-1"),
    ({"class_counts": [5, 0, 1, 1]}, r"`class_counts` must be greater than zero.*\[0\.0\] at class 1"),
    ({"dataset": stream().batch(3)}, "`batch_size` must be given.*without `drop_remainder=True`"),
    ({"dataset": stream().map(lambda x, y: {"x": x, "y": y})}, r"must be \(x, y\).*a dict"),
    ({"dataset": stream().map(lambda x, y: (x, tf.strings.as_string(y)))}, "Received dtype string: .*StringLookup"),
]


@pytest.mark.parametrize(("change", "message"), BAD_REBALANCE)
def test_rebalance_refuses_what_does_not_fit(change, message):
    options = {"dataset": stream(), "class_counts": COUNTS, "batch_size": 4, "seed": 0, **change}
    options = {name: value for name, value in options.items() if "dataset" not in change or name != "batch_size"}
    with pytest.raises(ValueError, match=message):
        rebalance_once(**options)


def test_the_seed_must_be_given():
    for make in (
        lambda: rebalance(stream(), COUNTS, batch_size=4),
        lambda: subsample_stream(stream(), COUNTS, available_counts=COUNTS),
    ):
        with pytest.raises(ValueError, match="`seed` must be given"):
            make()


@pytest.mark.parametrize("source", [(ROWS, LABELS), "train"], ids=["arrays", "text"])
def test_what_is_no_dataset_is_refused(source):
    for make in (
        lambda: rebalance(source, COUNTS, seed=0, batch_size=4),
        lambda: subsample_stream(source, COUNTS, available_counts=COUNTS, seed=0),
    ):
        with pytest.raises(ValueError, match="must be a `tf.data.Dataset`.*Received: "):
            make()


def test_a_dataset_that_ends_is_read_again_and_drawn_anew():
    result = rebalance(stream(), COUNTS, seed=0, batch_size=100)
    first, second, third = (
        set(np.concatenate([x.numpy() for x, _ in result.dataset.skip(14 * n).take(14)]).tolist()) for n in range(3)
    )
    assert first != second != third
    one_pass = set(rows(rebalance_once(stream(), COUNTS, seed=0, batch_size=1)).tolist())
    assert len(first | second | third) > 1.2 * len(one_pass)


def test_many_copies_are_warned_of_unless_they_were_asked_for():
    rebalance(stream(), [97, 3], seed=0, batch_size=4)  # 16.7 times
    with pytest.warns(UserWarning, match=r"Examples of class 1 will come 50 times each.*`max_copies` limits"):
        rebalance(stream(), [99, 1], seed=0, batch_size=4)
    rebalance(stream(), [99, 1], seed=0, batch_size=4, max_copies=50)


@pytest.mark.parametrize("labels", [[0, 1, -1, 0], [0, 1, 4, 0]], ids=["negative", "too large"])
@pytest.mark.parametrize("kind", ["rebalance", "subsample_stream"])
def test_reading_a_label_outside_the_classes_is_an_error_that_says_so(kind, labels):
    if kind == "rebalance":
        dataset = rebalance_once(stream(labels), COUNTS, seed=0, batch_size=2).dataset
    else:
        dataset = subsample_stream(stream(labels), [1] * 4, available_counts=[4] * 4, seed=0)
    for _ in range(3):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="must be class ids, integers of at least 0 and below the 4"
        ):
            list(dataset)


@pytest.mark.parametrize("kind", ["rebalance", "subsample_stream"])
def test_fractional_labels_are_an_error_while_reading(kind):
    labels = np.array([0, 0.5, 1, 0], "float32")
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="class ids"):
        if kind == "rebalance":
            list(rebalance_once(stream(labels), COUNTS, seed=0, batch_size=2).dataset)
        else:
            list(subsample_stream(stream(labels), [1, 1, 0, 0], available_counts=[3, 1, 0, 0], seed=0))


@pytest.mark.parametrize("row", [[1, 1, 0, 0], [0, 0, 0, 0]], ids=["several", "none"])
@pytest.mark.parametrize("kind", ["rebalance", "subsample_stream"])
def test_a_row_of_no_label_or_of_several_is_an_error_while_reading(kind, row):
    dataset = stream(np.array([[1, 0, 0, 0], row, [0, 0, 1, 0]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be of one label each, and sum to one"):
        if kind == "rebalance":
            list(rebalance_once(dataset, COUNTS, seed=0, batch_size=2).dataset)
        else:
            list(subsample_stream(dataset, [1, 0, 1, 0], available_counts=[2, 0, 1, 0], seed=0))


def test_features_of_unknown_shape_travel_too():
    def opaque(x, y):
        return tf.py_function(lambda value: value, [x], tf.int64), y

    dataset = stream().map(opaque)
    assert [len(y) for _, y in rebalance_once(dataset, COUNTS, seed=0, batch_size=16).dataset.take(2)] == [16, 16]
    kept = subsample_stream(dataset, [70, 26, 10, 0], available_counts=COUNTS, seed=0)
    assert sum(1 for _ in kept) == 106


@pytest.mark.parametrize("labels", [np.eye(5)[[0, 1]], np.zeros((2, 2), int), np.zeros((2, 3, 4))], ids=str)
def test_labels_of_another_width_are_refused_at_once(labels):
    with pytest.raises(ValueError, match="one-hot rows as wide as the 4 classes"):
        rebalance_once(tf.data.Dataset.from_tensors((labels, labels)), COUNTS, seed=0, batch_size=2)


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_labels_that_may_be_one_row_or_a_batch_of_ids_are_refused(dtype):
    """Features as wide as the labels: each number of a feature would be an example."""
    x, y = np.arange(32.0).reshape(8, 4), np.eye(4)[[0, 1, 2, 3, 0, 0, 1, 1]]
    dataset = tf.data.Dataset.from_tensor_slices((x, y.astype(dtype)))
    counts = [3, 3, 1, 1]
    for draw in (
        lambda data: rebalance_once(data, counts, batch_size=2, seed=0).dataset,
        lambda data: subsample_stream(data, [1, 1, 1, 1], available_counts=counts, batch_size=2, seed=0),
    ):
        with pytest.raises(ValueError, match=r"shape \[4\] may be a batch of ids, or the one-hot row of one example"):
            draw(dataset)
        assert [part.shape[1:] for part in draw(dataset.map(lambda x, y: (x, tf.cast(y, "float32")))).element_spec] == [
            (4,),
            (4,),
        ]
    batches = tf.data.Dataset.from_tensor_slices((x, y.argmax(axis=1))).batch(4, drop_remainder=True)
    drawn = rebalance_once(batches.map(lambda x, y: (x, y[:, None])), counts, batch_size=2, seed=0).dataset
    assert [tuple(part.shape) for part in drawn.element_spec] == [(2, 4), (2, 1)]
