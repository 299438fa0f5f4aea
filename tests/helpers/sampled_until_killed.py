"""Run by `test_tf_sampling.py` in a process of its own, which it kills: batches that go on where they were saved.

    python sampled_until_killed.py FOLDER STEPS

Two loops in one: a `tf.data` iterator saved by `tf.train.Checkpoint`, and row numbers with their state as JSON. Each
writes down the rows it saw, then saves; a batch that was written down but not saved counts as not seen.
"""

import json
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

from keras_logit_adjust.data import LongTailSampler

LABELS = np.repeat(np.arange(4), [24, 10, 5, 1])


def make():
    return LongTailSampler(LABELS, 6, seed=3)


def keep(log, lines):
    """Cut `log` to as many lines, and open it for more."""
    kept = log.read_text().splitlines(keepends=True)[:lines] if log.exists() else []
    assert len(kept) == lines
    log.write_text("".join(kept))
    return log.open("a")


def write(log, rows):
    log.write(json.dumps(np.asarray(rows).tolist()) + "\n")
    log.flush()


def main(folder, steps):
    batches, seen = iter(make().dataset(np.arange(LABELS.size))), tf.Variable(0)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(batches=batches, seen=seen), folder / "saved", 2)
    manager.restore_or_initialize()
    state = folder / "state.json"
    resumed = LongTailSampler.from_state(json.loads(state.read_text()), LABELS) if state.exists() else make()
    indices = resumed.indices()
    logs = [keep(folder / "dataset.log", int(seen)), keep(folder / "indices.log", indices.step)]
    while int(seen) < steps:
        write(logs[0], next(batches))
        seen.assign_add(1)
        manager.save()
        write(logs[1], next(indices))
        (folder / "new.json").write_text(json.dumps(indices.state()))
        os.replace(folder / "new.json", state)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
