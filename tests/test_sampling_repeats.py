"""`LongTailSampler` draws the same again: in another process, from any batch on, in shards."""

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.tails import COUNTS, epochs_of, labels_of

from keras_logit_adjust.data import LongTailSampler


def digest(sampler, steps=40):
    return hashlib.sha256(np.concatenate([sampler.rows(step) for step in range(steps)]).tobytes()).hexdigest()


@pytest.mark.slow
def test_batches_are_the_same_in_another_process():
    code = (
        "import hashlib, numpy as np\n"
        "from keras_logit_adjust.data import LongTailSampler\n"
        "sampler = LongTailSampler(np.arange(76) % 7, 8, strategy=0.3, seed=11)\n"
        "rows = np.concatenate([sampler.rows(step) for step in range(40)])\n"
        "print(hashlib.sha256(rows.tobytes()).hexdigest(), sampler.fingerprint)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True).stdout
    sampler = LongTailSampler(np.arange(76) % 7, 8, strategy=0.3, seed=11)
    assert printed.split() == [digest(sampler), sampler.fingerprint]


@pytest.mark.parametrize("options", [{}, {"replacement": True}, {"per_batch": "exact"}, {"strategy": "instance"}])
def test_a_seed_draws_the_same_again_and_no_two_seeds_or_epochs_do(options):
    labels = labels_of(COUNTS)
    sampler = LongTailSampler(labels, 8, seed=4, **options)
    assert digest(sampler) == digest(LongTailSampler(labels, 8, seed=4, **options))
    assert digest(sampler) != digest(LongTailSampler(labels, 8, seed=5, **options))
    epochs = epochs_of(sampler, 10)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 10
    batches = epochs.reshape(-1, 8).tolist()
    assert len({tuple(batch) for batch in batches}) == len(batches)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64])
def test_a_seed_may_be_an_integer_of_numpy(kind):
    labels = labels_of(COUNTS)
    assert digest(LongTailSampler(labels, 8, seed=kind(4))) == digest(LongTailSampler(labels, 8, seed=4))


def test_a_batch_far_ahead_is_drawn_without_those_before():
    labels = labels_of(COUNTS)
    walked = LongTailSampler(labels, 8, seed=0)
    for step in range(1000):
        walked.rows(step)
    np.testing.assert_array_equal(walked.rows(1000), LongTailSampler(labels, 8, seed=0).rows(1000))
    assert LongTailSampler(labels, 8, seed=0).rows(10**12).shape == (8,)


def test_indices_give_one_batch_after_the_other():
    sampler = LongTailSampler(labels_of(COUNTS), 8, seed=0)
    batches = sampler.indices()
    assert iter(batches) is batches
    assert [b.tolist() for b in itertools.islice(batches, 30)] == [sampler.rows(s).tolist() for s in range(30)]
    assert batches.state() == sampler.state(30)


def test_what_the_sampler_hands_out_is_not_its_own():
    sampler = LongTailSampler(labels_of(COUNTS), 8, seed=0)
    before = digest(sampler)
    sampler.effective_prior[:] = 0
    sampler.rows(0)[:] = 0
    sampler.shard(2, 0).rows(0)[:] = 0
    assert sampler.effective_prior.tolist() == [1 / 4] * 4
    assert digest(sampler) == before


def test_a_shard_of_a_shard_is_a_part_of_the_part():
    whole = LongTailSampler(labels_of(COUNTS), 12, seed=0)
    parts = [whole.shard(2, i).shard(3, j) for i in range(2) for j in range(3)]
    for step in (0, 5, 99):
        assert np.concatenate([part.rows(step) for part in parts]).tolist() == whole.rows(step).tolist()
        for i, part in enumerate(parts):
            np.testing.assert_array_equal(part.rows(step), whole.shard(6, i).rows(step))
    assert parts[4].rows_in_batch == 2 and parts[4].batch_size == 12
    assert parts[4].steps_per_epoch == whole.steps_per_epoch
    np.testing.assert_array_equal(parts[4].effective_prior, whole.effective_prior)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([(0, 0)], r"`num_shards` must be an integer of at least 1\. Received: num_shards=0"),
        ([(2.0, 0)], r"`num_shards` must be an integer .*num_shards=2\.0"),
        ([(2, -1)], r"`index` must be an integer of at least 0\. Received: index=-1"),
        ([(2, True)], r"`index` must be an integer .*index=True"),
        ([(2, 2)], r"`index` must be below num_shards=2\. Received: index=2"),
        ([(5, 0)], r"`batch_size` must divide by the parts .*batch_size=12 for 5 parts"),
        ([(4, 0), (2, 0)], r"`batch_size` must divide by the parts .*batch_size=12 for 8 parts"),
    ],
)
def test_a_shard_refuses_what_is_no_part(shards, message):
    sampler = LongTailSampler(labels_of(COUNTS), 12, seed=0)
    with pytest.raises(ValueError, match=message):
        for shard in shards:
            sampler = sampler.shard(*shard)
