"""`LongTailSampler` at work: its prior in losses and heads, its state, and `fit` on its `PyDataset`."""

import itertools
import json

import keras
import numpy as np
import pytest
from helpers.recorder import shown

import keras_logit_adjust as kla
from keras_logit_adjust.data import LongTailSampler

COUNTS = [24, 10, 5, 1]
LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(4), COUNTS))
STRATEGIES = ["instance", "square_root", "balanced", "effective_number", 0.3, [0.1, 0.2, 0.3, 0.4]]


def make(labels=LABELS, batch_size=6, seed=3, **options):
    return LongTailSampler(labels, batch_size, seed=seed, **options)


# The prior of what the model sees


def frequencies(sampler, epochs=60):
    """Class frequencies of what the sampler draws, and how far they may be from its shares."""
    rows = np.concatenate([sampler.rows(step) for step in range(epochs * sampler.steps_per_epoch)])
    within = 4 * 0.5 / rows.size**0.5 if sampler.state(0)["replacement"] else 2 / rows.size
    return np.bincount(LABELS[rows], minlength=4) / rows.size, within


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("replacement", [False, True])
def test_losses_and_heads_are_adjusted_to_what_is_drawn(strategy, replacement, rng):
    sampler = make(strategy=strategy, replacement=replacement)
    prior = kla.priors.prior(sampler)
    seen, within = frequencies(sampler)
    np.testing.assert_allclose(prior, seen, rtol=0, atol=within)

    logits, ids = rng.normal(size=(9, 4)).astype("float32"), rng.integers(0, 4, 9)
    scores = logits + np.log(prior)
    expected = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(9), ids]
    loss = kla.losses.LogitAdjustedCrossentropy(sampler, reduction=None)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss(ids, logits)), expected, rtol=1e-5)

    features = rng.normal(size=(5, 3)).astype("float32")
    head = kla.layers.PriorAwareDense(4, sampler)
    plain = keras.ops.convert_to_numpy(head(features))
    adjusted = keras.ops.convert_to_numpy(head(features, training=True))
    np.testing.assert_allclose(adjusted - plain, np.tile(np.log(prior), (5, 1)), rtol=1e-4, atol=1e-5)


def test_balanced_batches_leave_nothing_to_adjust(rng):
    logits, ids = rng.normal(size=(9, 4)).astype("float32"), rng.integers(0, 4, 9)
    adjusted = kla.losses.LogitAdjustedCrossentropy(make(per_batch="exact"))(ids, logits)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(ids, logits)
    np.testing.assert_allclose(float(adjusted), float(plain), rtol=1e-6)


def test_a_loss_given_a_sampler_is_saved_with_its_prior():
    loss = kla.losses.LogitAdjustedCrossentropy(make(strategy=0.3))
    again = kla.losses.LogitAdjustedCrossentropy.from_config(json.loads(json.dumps(loss.get_config())))
    logits = np.arange(8, dtype="float32").reshape(2, 4)
    np.testing.assert_allclose(float(again([0, 3], logits)), float(loss([0, 3], logits)), rtol=1e-7)


def test_the_shards_of_a_sampler_have_its_prior():
    np.testing.assert_array_equal(
        kla.priors.prior(make(strategy=0.3).shard(3, 1)), kla.priors.prior(make(strategy=0.3))
    )


USES = {
    "prior": kla.priors.prior,
    "loss": kla.losses.LogitAdjustedCrossentropy,
    "head": lambda sampler: kla.layers.PriorAwareDense(sampler.class_counts.size, sampler),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_progressive_sampler_has_no_prior_to_adjust_to(use):
    with pytest.raises(ValueError, match='strategy="progressive" has no effective prior: its shares change'):
        use(make(strategy="progressive", progressive_epochs=3))


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("options", [{"num_classes": 6}, {"strategy": [0.5, 0.3, 0.2, 0, 0, 0], "num_classes": 6}])
def test_a_class_that_is_never_drawn_is_named(use, options):
    missing = 4 if "strategy" not in options else 3
    with pytest.raises(ValueError, match=rf"must be greater than zero.*Received \[0.*at classes {missing}, "):
        use(make(**options))


# State


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strategy": "instance"},
        {"strategy": 0.3, "replacement": True},
        {"strategy": "effective_number", "beta": 0.9},
        {"strategy": "progressive", "progressive_epochs": 4},
        {"per_batch": "exact"},
        {"per_batch": "exact", "replacement": True},
        {"strategy": [0.1, 0.2, 0.3, 0.4]},
        {"strategy": np.array([0.1, 0.2, 0.3, 0.4], "float32")},
        {"strategy": np.float32(0.3)},
        {"num_classes": 9},
        {"seed": 2**70},
        {"strategy": list(np.array([0.1, 0.2, 0.3, 0.4], "float32"))},
        {"strategy": "progressive", "progressive_epochs": np.int64(4)},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", [0, 1, 5, 6, 35, 1000])
def test_the_state_goes_through_json_and_on_with_the_very_next_batch(options, step):
    sampler = make(**options)
    text = json.dumps(sampler.state(step))
    assert len(text) < 1000
    resumed = LongTailSampler.from_state(json.loads(text), LABELS)
    assert resumed.start_step == step
    following = [rows.tolist() for rows in itertools.islice(resumed.indices(), 20)]
    assert following == [sampler.rows(s).tolist() for s in range(step, step + 20)]
    assert resumed.fingerprint == sampler.fingerprint
    assert resumed.state(step) == json.loads(text)
    assert resumed.rows(0).tolist() == sampler.rows(0).tolist()  # `rows` counts from the first batch all the same


def test_where_the_indices_stand_is_a_state():
    batches = make().indices()
    seen = [next(batches).tolist() for _ in range(9)]
    resumed = LongTailSampler.from_state(json.loads(json.dumps(batches.state())), LABELS).indices()
    assert [*seen, next(resumed).tolist()] == [make().rows(step).tolist() for step in range(10)]
    assert resumed.state()["step"] == 10


def test_a_shard_is_taken_anew_of_what_was_resumed():
    state = make().shard(2, 1).indices().state()
    resumed = LongTailSampler.from_state(state, LABELS).shard(2, 1)
    assert next(resumed.indices()).tolist() == make().shard(2, 1).rows(0).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"labels": LABELS[::-1]},
        {"batch_size": 7},
        {"seed": 4},
        {"strategy": "instance"},
        {"per_batch": "exact"},
        {"replacement": True},
        {"num_classes": 5},
    ],
    ids=str,
)
def test_the_fingerprint_tells_labels_and_settings_apart(options):
    assert make(**options).fingerprint != make().fingerprint == make().fingerprint


# `fit` on any backend


NUMBERS = np.arange(40, dtype="float32")[:, None]  # each row is its own number


# Of an endless dataset read by several workers Keras throws away the batch that it builds the model with.
DROPS_FIRST = keras.backend.backend() != "tensorflow"


@pytest.mark.parametrize("workers", [1, 2])
def test_epochs_of_one_fit_follow_each_other(workers):
    sampler = make()
    seen = shown(sampler.py_dataset((NUMBERS, LABELS), workers=workers), epochs=3, steps=7)
    first = 1 if workers > 1 and DROPS_FIRST else 0
    assert seen == [sampler.rows(step).tolist() for step in range(first, first + 21)]
    assert sorted(seen[:7]) != sorted(seen[7:14])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resumed_fit_begins_with_the_very_next_batch(workers):
    sampler = make()
    resumed = LongTailSampler.from_state(json.loads(json.dumps(sampler.state(8))), LABELS)  # in the second epoch
    seen = shown(resumed.py_dataset((NUMBERS, LABELS), workers=workers), epochs=2, steps=7)
    first = 9 if workers > 1 and DROPS_FIRST else 8
    assert seen == [sampler.rows(step).tolist() for step in range(first, first + 14)]


def test_a_shard_feeds_its_part():
    sampler = make()
    part = sampler.shard(2, 1)
    seen = shown(part.py_dataset((NUMBERS, LABELS)), epochs=2, steps=7, batch_size=3)
    assert seen == [sampler.rows(step)[3:].tolist() for step in range(14)]


def test_a_batch_has_the_structure_and_dtypes_of_the_data(rng):
    sampler = make()
    data = {
        "image": rng.integers(0, 256, (40, 2, 2, 1)).astype("uint8"),
        "text": {"tokens": rng.integers(0, 9, (40, 3)), "weight": rng.random(40).astype("float16")},
        "flag": rng.random(40) < 0.5,
        "name": np.array([f"image {i}" for i in range(40)]),
        "pair": (np.arange(40), np.arange(40.0)),
    }
    batches = sampler.py_dataset(data)
    assert batches.num_batches is None
    for index in (0, 6, 2):
        batch, rows = batches[index], sampler.rows(index)
        keras.tree.assert_same_structure(batch, data)
        for got, leaf in zip(keras.tree.flatten(batch), keras.tree.flatten(data), strict=True):
            assert got.dtype == leaf.dtype
            np.testing.assert_array_equal(got, leaf[rows])


def test_one_array_lists_and_tensors_are_data():
    sampler = make()
    rows = sampler.rows(4)
    np.testing.assert_array_equal(sampler.py_dataset(NUMBERS)[4], NUMBERS[rows])
    np.testing.assert_array_equal(sampler.py_dataset(list(range(40)))[4], rows)
    np.testing.assert_array_equal(sampler.py_dataset((list(range(40)), LABELS))[4][0], rows)
    x, y = sampler.py_dataset((keras.ops.convert_to_tensor(NUMBERS), LABELS))[4]
    np.testing.assert_array_equal(x, NUMBERS[rows])
    np.testing.assert_array_equal(y, LABELS[rows])


def test_a_memory_mapped_array_is_data(tmp_path):
    np.save(tmp_path / "x.npy", NUMBERS)
    sampler = make()
    x, y = sampler.py_dataset((np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS))[3]
    np.testing.assert_array_equal(x, NUMBERS[sampler.rows(3)])


def test_a_map_is_called_as_a_dataset_would_call_it():
    sampler = make()
    mapped = sampler.py_dataset((NUMBERS, LABELS), map_fn=lambda x, y: (x + 1, y))
    np.testing.assert_array_equal(mapped[2][0], NUMBERS[sampler.rows(2)] + 1)
    mapped = sampler.py_dataset({"x": NUMBERS}, map_fn=lambda batch: batch["x"] * 2)
    np.testing.assert_array_equal(mapped[2], NUMBERS[sampler.rows(2)] * 2)
    mapped = sampler.py_dataset(NUMBERS, map_fn=lambda x: -x)
    np.testing.assert_array_equal(mapped[2], -NUMBERS[sampler.rows(2)])


def with_seed(x, y, seed):
    return x, y, seed


def test_each_batch_has_a_seed_of_its_own_and_the_same_again():
    batches = make().py_dataset((NUMBERS, LABELS), map_fn=with_seed)
    seeds = []
    for epoch in range(30):
        seeds += [batches[7 * epoch + index][2] for index in range(7)]
        np.testing.assert_array_equal(batches[7 * epoch + 3][2], seeds[7 * epoch + 3])
        batches.on_epoch_end()
    assert {(s.shape, s.dtype.name) for s in seeds} == {((2,), "int32")}
    assert len({tuple(s.tolist()) for s in seeds}) == 210
    assert len({n for s in seeds for n in s.tolist()}) == 420
    resumed = LongTailSampler.from_state(make().state(100), LABELS).py_dataset((NUMBERS, LABELS), map_fn=with_seed)
    np.testing.assert_array_equal(resumed[0][2], seeds[100])
    assert make(seed=4).py_dataset((NUMBERS, LABELS), map_fn=with_seed)[0][2].tolist() != seeds[0].tolist()


def test_shards_get_seeds_of_their_own():
    parts = [make().shard(3, i).py_dataset((NUMBERS, LABELS), map_fn=with_seed) for i in range(3)]
    assert len({tuple(part[index][2].tolist()) for part in parts for index in range(6)}) == 18


@pytest.mark.parametrize("kind", ["py_dataset", "dataset"])
@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ((NUMBERS[:-1], LABELS), r"\(39, 1\)"),
        ((NUMBERS, LABELS[:-1]), r"\(39,\)"),
        ({"x": NUMBERS, "y": {"z": np.zeros(3)}}, r"\(3,\)"),
        (np.zeros((1, 40)), r"\(1, 40\)"),
        (np.float32(1), r"\(\)"),
        ([1.0, 2.0], r"\(2,\)"),
    ],
)
def test_data_of_another_length_is_refused(kind, data, shape):
    if kind == "dataset" and keras.backend.backend() != "tensorflow":
        pytest.skip("tf.data")
    match = f"a row for each of the 40 labels.*Received an array of shape {shape}"
    with pytest.raises(ValueError, match=match):
        getattr(make(), kind)(data)
