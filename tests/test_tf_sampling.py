"""`LongTailSampler.dataset`: `tf.data`, its checkpoints, processes that are killed, and `tf.distribute`."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.combinations import fast_first
from helpers.recorder import shown

from keras_logit_adjust.data import LongTailSampler

LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(4), [24, 10, 5, 1]))
ROWS = np.arange(40)
NUMBERS = np.arange(40, dtype="float32")[:, None]


def make(labels=LABELS, batch_size=6, seed=3, **options):
    return LongTailSampler(labels, batch_size, seed=seed, **options)


def expected(steps, sampler=None):
    return [(sampler or make()).rows(step).tolist() for step in steps]


def taken(dataset, count):
    return [batch.tolist() for batch in dataset.take(count).as_numpy_iterator()]


def nested(rng):
    return {
        "image": rng.integers(0, 256, (40, 2, 2, 1)).astype("uint8"),
        "text": {"tokens": rng.integers(0, 9, (40, 3)), "weight": rng.random(40)},
        "flag": rng.random(40) < 0.5,
        "name": np.array([f"image {i}" for i in range(40)]),
        "bytes": np.array([b"x" * i for i in range(40)], object),
        "pair": (rng.random((40, 1)).astype("float16"), np.arange(40, dtype="int32")),
    }


def test_batches_have_the_structure_the_dtypes_and_the_rows_of_the_data(rng):
    sampler, data = make(), nested(rng)
    dataset = sampler.dataset(data)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    for spec, leaf in zip(tf.nest.flatten(dataset.element_spec), tf.nest.flatten(data), strict=True):
        assert spec.shape == (6, *leaf.shape[1:])
        assert spec.dtype == (tf.string if leaf.dtype.kind in "UO" else leaf.dtype)
    for step, batch in enumerate(dataset.take(150)):
        tf.nest.assert_same_structure(batch, data)
        for got, leaf in zip(tf.nest.flatten(batch), tf.nest.flatten(data), strict=True):
            rows = leaf[sampler.rows(step)]
            np.testing.assert_array_equal(got, np.char.encode(rows) if rows.dtype.kind == "U" else rows)


@pytest.mark.parametrize("num_parallel_calls", [None, 1, 4])
@pytest.mark.parametrize("options", [{}, {"per_batch": "exact"}, {"replacement": True, "strategy": 0.3}], ids=str)
def test_batches_come_in_order_however_many_are_mapped_at_once(num_parallel_calls, options):
    sampler = make(**options)
    mapped = sampler.dataset(ROWS, map_fn=lambda rows: rows + 1, num_parallel_calls=num_parallel_calls)
    assert (np.array(taken(mapped, 200)) - 1).tolist() == expected(range(200), sampler)


def test_the_labels_may_be_the_data():
    for step, (x, y) in enumerate(make().dataset((NUMBERS, LABELS)).take(9)):
        np.testing.assert_array_equal(x, NUMBERS[make().rows(step)])
        np.testing.assert_array_equal(y, LABELS[make().rows(step)])


def test_large_rows_are_gathered_batch_by_batch():
    rows = np.zeros((40, 500_000), "float32")
    rows[:, -1] = ROWS
    dataset = make().dataset(rows, map_fn=lambda x: x[:, -1])
    assert taken(dataset, 9) == expected(range(9))


def test_a_memory_mapped_array_is_read_row_by_row(tmp_path):
    np.save(tmp_path / "x.npy", NUMBERS)
    dataset = make().dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), map_fn=lambda x: x[:, 0])
    assert taken(dataset, 80) == expected(range(80))


def test_tensors_are_data():
    assert taken(make().dataset(tf.constant(ROWS)), 9) == expected(range(9))


def test_one_dataset_begins_anew_for_everyone_who_iterates():
    dataset = make().dataset(ROWS)
    assert taken(dataset, 9) == taken(dataset, 9) == expected(range(9))


@pytest.mark.parametrize("step", [1, 6, 7, 100])
def test_a_resumed_sampler_begins_with_the_very_next_batch(step):
    resumed = LongTailSampler.from_state(json.loads(json.dumps(make().state(step))), LABELS)
    assert taken(resumed.dataset(ROWS), 80) == expected(range(step, step + 80))


def test_a_shard_feeds_its_part():
    part = make().shard(3, 2)
    assert taken(part.dataset(ROWS), 80) == [rows[4:] for rows in expected(range(80))]


def jittered(rows, seed):
    return rows, tf.random.stateless_uniform([6], seed)


def test_a_random_map_differs_in_every_batch_and_repeats_on_resuming():
    first = [(r.tolist(), u.tolist()) for r, u in make().dataset(ROWS, map_fn=jittered).take(200).as_numpy_iterator()]
    assert [rows for rows, _ in first] == expected(range(200))
    assert len({number for _, uniform in first for number in uniform}) == 1200
    resumed = LongTailSampler.from_state(make().state(70), LABELS).dataset(ROWS, map_fn=jittered, num_parallel_calls=1)
    assert [(r.tolist(), u.tolist()) for r, u in resumed.take(130).as_numpy_iterator()] == first[70:]


def test_the_seeds_of_a_map_are_those_on_any_backend():
    of_keras = make().py_dataset((ROWS, LABELS), map_fn=lambda rows, labels, seed: seed)
    of_tf = make().dataset((ROWS, LABELS), map_fn=lambda rows, labels, seed: seed)
    for index, seed in enumerate(of_tf.take(7)):
        assert seed.dtype == tf.int32 and seed.shape == (2,)
        np.testing.assert_array_equal(seed, of_keras[index])


# Checkpoints of the iterator


def saved(dataset, count, path):
    """Take batches and save the iterator; the checkpoint's path."""
    batches = iter(dataset)
    for _ in range(count):
        next(batches)
    return tf.train.Checkpoint(batches=batches).write(str(path / "saved"))


def restored(dataset, checkpoint):
    batches = iter(dataset)
    tf.train.Checkpoint(batches=batches).read(checkpoint).assert_consumed()
    return batches


@pytest.mark.parametrize("count", [0, 1, 7, 10, 63, 64, 65, 128, 131])  # an epoch is 7 batches, a block 64
def test_a_restored_iterator_goes_on_with_the_very_next_batch(count, tmp_path):
    checkpoint = saved(make().dataset(ROWS, map_fn=jittered), count, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10_000
    batches = restored(make().dataset(ROWS, map_fn=jittered), checkpoint)
    following = [next(batches) for _ in range(70)]
    assert [rows.numpy().tolist() for rows, _ in following] == expected(range(count, count + 70))
    uninterrupted = list(make().dataset(ROWS, map_fn=jittered).skip(count).take(70))
    np.testing.assert_array_equal([u for _, u in following], [u for _, u in uninterrupted])


def test_an_iterator_may_be_saved_again_after_it_was_restored(tmp_path):
    seen, checkpoint = [], None
    for leg in range(4):
        batches = iter(make().dataset(ROWS))
        holder = tf.train.Checkpoint(batches=batches)
        if checkpoint:
            holder.read(checkpoint)
        seen += [next(batches).numpy().tolist() for _ in range(23)]
        checkpoint = holder.write(str(tmp_path / str(leg)))
    assert seen == expected(range(92))


OTHERS = {
    "a label": {"labels": np.where(ROWS == 0, (LABELS[0] + 1) % 4, LABELS)},
    "the order": {"labels": LABELS[::-1]},
    "the seed": {"seed": 4},
    "the batch size": {"batch_size": 5},
    "the strategy": {"strategy": "instance"},
}


@fast_first(
    ("name", "count"), [*((name, 10) for name in OTHERS), ("a label", 0), ("the seed", 64)], OTHERS, (0, 10, 64)
)
def test_an_iterator_restored_over_something_else_raises(name, count, tmp_path):
    checkpoint = saved(make().dataset(ROWS), count, tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="saved over other labels, settings, shapes or workers"):
        next(restored(make(**OTHERS[name]).dataset(ROWS), checkpoint))  # restoring raises where a block was begun


def test_an_iterator_restored_over_data_of_another_size_raises(tmp_path):
    checkpoint = saved(make().dataset(NUMBERS), 10, tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="saved over other labels, settings, shapes or workers"):
        next(restored(make().dataset(np.zeros((40, 100_000))), checkpoint))


# `fit`


def test_the_epochs_of_a_fit_follow_each_other():
    seen = shown(make().dataset((NUMBERS, LABELS)), 3, steps=7)
    assert seen == expected(range(21))
    assert sorted(seen[:7]) != sorted(seen[7:14])


def test_the_optimizer_knows_where_a_fit_stopped():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(make().dataset((NUMBERS, LABELS)), steps_per_epoch=9, verbose=0, shuffle=False)
    state = make().state(int(model.optimizer.iterations))
    resumed = LongTailSampler.from_state(state, LABELS)
    seen = shown(resumed.dataset((NUMBERS, LABELS)), 2, steps=7)
    assert seen == expected(range(9, 23))


# Processes of their own


def start(script, *arguments):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, pathlib.Path(__file__).with_name("helpers") / script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    """What a process printed last; it ended well and without noise."""
    try:
        out, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-2000:]
    for noise in ("Traceback", "Error", "Exception", "terminate", "Segmentation"):
        assert noise not in errors, errors[-2000:]
    return out


@pytest.mark.slow
def test_a_process_killed_in_an_epoch_goes_on_with_the_very_next_batch(tmp_path):
    log, labels = tmp_path / "indices.log", np.repeat(np.arange(4), [24, 10, 5, 1])
    first = start("sampled_until_killed.py", tmp_path, 10**6)
    deadline = time.monotonic() + 100
    while not log.exists() or log.read_text().count("\n") < 17:  # in the third epoch
        assert first.poll() is None, first.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=100)
    assert first.returncode == -signal.SIGKILL
    reached = log.read_text().count("\n")
    assert finished(start("sampled_until_killed.py", tmp_path, reached + 20)) == ""
    sequence = expected(range(reached + 20), LongTailSampler(labels, 6, seed=3))
    for kind in ("dataset", "indices"):
        seen = [json.loads(line) for line in (tmp_path / f"{kind}.log").read_text().splitlines()]
        assert len(seen) >= reached + 19
        assert seen == sequence[: len(seen)]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def replicas():
    """What every replica was given: of one worker with two devices, and of two workers."""
    ports = free_ports(2)
    workers = [start("sampled_replicas.py", index, *ports) for index in range(2)]
    printed = [json.loads(finished(worker).splitlines()[-1]) for worker in workers]
    two = {way: [a + b for a, b in zip(printed[0][way], printed[1][way], strict=True)] for way in printed[0]}
    mirrored = json.loads(finished(start("sampled_replicas.py")).splitlines()[-1])
    return {"two devices": mirrored, "two workers": two}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["two devices", "two workers"])
@pytest.mark.parametrize("way", ["drawn alone", "cut"])
def test_the_replicas_parts_make_up_each_batch(replicas, where, way):
    sampler = LongTailSampler(np.repeat(np.arange(5), [40, 20, 10, 3, 1]), 16, seed=3)
    steps = replicas[where][way]
    assert len(steps) == 70
    for step, parts in enumerate(steps):
        assert [len(rows) for rows, _ in parts] == [8, 8]
        assert parts[0][0] + parts[1][0] == sampler.rows(step).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["two devices", "two workers"])
def test_every_replica_has_seeds_of_its_own(replicas, where):
    seeds = {tuple(seed) for parts in replicas[where]["drawn alone"] for _, seed in parts}
    assert len(seeds) == 140


def test_the_replicas_of_several_workers_get_their_parts_in_order():
    parts = []
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, num_replicas_in_sync=4)
        parts.append(taken(make(batch_size=8).dataset(ROWS, input_context=context), 160))
    for step, rows in enumerate(expected(range(80), make(batch_size=8))):
        pieces = [part[2 * step + piece] for part in parts for piece in range(2)]
        assert [len(piece) for piece in pieces] == [2] * 4
        assert sum(pieces, []) == rows


@pytest.mark.parametrize("replicas_in_sync", [4, 10])
def test_a_batch_that_does_not_divide_by_the_replicas_is_refused(replicas_in_sync):
    context = tf.distribute.InputContext(2, 0, num_replicas_in_sync=replicas_in_sync)
    with pytest.raises(ValueError, match="`batch_size` must divide by the parts .*batch_size=6 for"):
        make().dataset(ROWS, input_context=context)
