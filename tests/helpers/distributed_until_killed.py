"""Run by `test_tf_distribute_faults.py`: a worker of two that trains with a sampler and checkpoints, as JSON.

python distributed_until_killed.py FOLDER KILLED_AT INDEX PORT PORT

Worker 1 is killed by SIGKILL when it has trained KILLED_AT batches: with 0 before it calls `fit`, with -1 never.
"""

import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from helpers import distributed_fit
from keras_logit_adjust import tf_distribute
from keras_logit_adjust.data import LongTailSampler

LABELS = np.repeat(np.arange(4), [50, 10, 5, 2])
X = np.random.default_rng(0).normal(size=(67, 5)).astype("float32")


class Killer(keras.callbacks.Callback):
    """Kills this process after a number of batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    folder, killed_at, index, *ports = sys.argv[1:]
    tf.config.experimental.enable_op_determinism()
    strategy = distributed_fit.make_strategy("workers", index, *ports)
    model = distributed_fit.make_model(strategy)
    steps = []
    if killed_at == "0" and index == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    history = tf_distribute.fit(
        model,
        lambda sampler: sampler.dataset((X, LABELS)),
        sampler=LongTailSampler(LABELS, 8, seed=1),  # nine batches an epoch
        epochs=3,
        callbacks=[
            Killer(int(killed_at) if index == "1" else -1),
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch)),
        ],
        backup_dir=folder,
        save_freq=5,
        verbose=0,
    )
    weights = np.concatenate([w.ravel() for w in model.get_weights()]).tolist()
    print(json.dumps({"weights": weights, "history": distributed_fit.plain(history.history), "steps": len(steps)}))


if __name__ == "__main__":
    main()
