"""Run by `test_tf_sampling.py` in processes of its own: what each replica is given, as JSON.

python sampled_replicas.py               one worker, mirrored over two devices
python sampled_replicas.py INDEX PORT …  worker INDEX of as many as there are ports
"""

import json
import os
import sys

import numpy as np
import tensorflow as tf

from keras_logit_adjust.data import LongTailSampler

LABELS = np.repeat(np.arange(5), [40, 20, 10, 3, 1])
STEPS = 70  # more than one block


def make():
    return LongTailSampler(LABELS, 16, seed=3)


def make_strategy(index=0, *ports):
    if ports:
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": int(index)}})
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def given(strategy, dataset):
    """For every step and every replica of this worker, its (rows, seed)."""
    batches = iter(dataset)
    steps = [tf.nest.map_structure(strategy.experimental_local_results, next(batches)) for _ in range(STEPS)]
    return [[(r.numpy().tolist(), s.numpy().tolist()) for r, s in zip(*step, strict=True)] for step in steps]


def with_seed(rows, seed):
    return rows, seed


def main():
    strategy, data = make_strategy(*sys.argv[1:]), np.arange(LABELS.size)
    drawn_alone = strategy.distribute_datasets_from_function(
        lambda context: make().dataset(data, map_fn=with_seed, input_context=context)
    )
    cut = strategy.experimental_distribute_dataset(make().dataset(data, map_fn=lambda rows: (rows, rows)))
    print(json.dumps({"drawn alone": given(strategy, drawn_alone), "cut": given(strategy, cut)}))


if __name__ == "__main__":
    main()
