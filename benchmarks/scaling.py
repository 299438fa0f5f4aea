"""Step time and throughput of one device, two replicas in a process, and two worker processes on this machine.

    python benchmarks/scaling.py [--output benchmarks/results/scaling.json]

Every way trains the same model on the same global batches, in its own processes, in turn for several rounds. The
script prints medians over the rounds of the median step, and ratios within a round to Keras's own `fit` on one device.

Two replicas that share the cores of one CPU cannot be faster than one, which uses all cores already. This benchmark
shows the cost of the loop of `kla.tf_distribute` against Keras's (one device). It also shows the cost of dividing
batches and adding gradients (two replicas: in memory; two processes: over loopback). It does not show the speed of
several GPUs or machines, where each replica has its own cores and the network has another latency.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from keras_logit_adjust.compare import report, storage

WAYS = {
    "keras": "one device, Keras's `fit`",
    "one": "one device, `kla.tf_distribute.fit`",
    "keras_mirrored": "two replicas, Keras's `fit`",
    "mirrored": "two replicas, `kla.tf_distribute.fit`",
    "workers": "two processes, `kla.tf_distribute.fit`",
}
MODELS = ("small_cnn", "linear")
BATCH, STEPS, EPOCHS = 128, 20, 4  # the first epoch is not counted: it compiles
ROUNDS = 5


def train(way, model_name, path):
    """Train in this process and write the seconds of every counted step."""
    import keras
    import tensorflow as tf

    import keras_logit_adjust as kla

    strategy = _strategy(way)
    classes, shape = (10, (28, 28, 1)) if model_name == "small_cnn" else (1000, (2048,))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(BATCH * 4, *shape)).astype("float32"), rng.integers(0, classes, BATCH * 4)
    with strategy.scope():
        model = kla.models.small_cnn(shape, classes) if len(shape) == 3 else kla.models.linear_head(*shape, classes)
        model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(np.arange(1, classes + 1)))
    clock = _Clock(keras.callbacks.Callback)
    options = {"steps_per_epoch": STEPS, "epochs": EPOCHS, "callbacks": [clock.callback], "verbose": 0}
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True).cache().repeat()
    if way.startswith("keras"):
        model.fit(batches, shuffle=False, **options)
    else:
        kla.tf_distribute.fit(model, batches, **options)
    if kla.tf_distribute.is_chief(strategy):
        storage.write_text(pathlib.Path(path), json.dumps(clock.seconds()))


class _Clock:
    """Records the time at the end of every step."""

    def __init__(self, callback_class):
        self.times = []
        clock = self

        class Callback(callback_class):
            def on_epoch_begin(self, epoch, logs=None):
                clock.times.append([time.perf_counter()])

            def on_train_batch_end(self, batch, logs=None):
                float(logs["loss"])  # waits for the result
                clock.times[-1].append(time.perf_counter())

        self.callback = Callback()

    def seconds(self):
        return [step for times in self.times[1:] for step in np.diff(times).tolist()]


def _strategy(way):
    import tensorflow as tf

    from keras_logit_adjust import tf_distribute

    if way == "workers":
        return tf_distribute.multi_worker_strategy()
    if not way.endswith("mirrored"):
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def run_workers(command):
    """Run a command as two workers on this machine, until both have ended."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(2)]
        addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    workers = [subprocess.Popen(command, env={**os.environ, "TF_CONFIG": json.dumps(task)}) for task in tasks]
    try:
        assert [worker.wait() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def median_step(way, model_name):
    """The median step of a way, measured in separate processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "seconds.json"
        command = [sys.executable, __file__, "--train", way, model_name, str(path)]
        if way == "workers":
            run_workers(command)
        else:
            subprocess.run(command, check=True)
        return float(np.median(json.loads(path.read_text(encoding="utf-8"))))


def measure(rounds):
    """For each model and way, seconds of a step in every round."""
    found = {name: {way: [] for way in WAYS} for name in MODELS}
    for number in range(rounds):
        order = np.random.default_rng(number).permutation(list(WAYS))
        for name in MODELS:
            for way in order:
                found[name][way].append(median_step(way, name))
                print(f"round {number} {name} {way}: {1e3 * found[name][way][-1]:.2f} ms", flush=True)
    return found


def summarize(found):
    """Step, throughput and ratio of every way."""
    rows = {}
    for name, by_way in found.items():
        baseline = np.array(by_way["keras"])
        rows[name] = {
            way: {
                "milliseconds": 1e3 * float(np.median(seconds)),
                "examples_per_second": BATCH / float(np.median(seconds)),
                "ratio_to_keras": float(np.median(np.array(seconds) / baseline)),
            }
            for way, seconds in by_way.items()
        }
    return rows


def to_markdown(results):
    """The table of the results."""
    header = ["model", "way", "step (ms)", "examples/s", "× Keras on one device"]
    rows = [
        [
            name,
            WAYS[way],
            f"{row['milliseconds']:.1f}",
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio_to_keras']:.2f}",
        ]
        for name, by_way in results["rows"].items()
        for way, row in by_way.items()
    ]
    versions = results["versions"]
    how = f"Medians over {results['rounds']} rounds, ratios within a round; batches of {results['batch']}."
    return f"{report.to_table(header, rows)}\n\n{how} {versions['machine']}, Keras {versions['keras']}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument("--train", nargs=3, metavar=("WAY", "MODEL", "FILE"), help="used by the script itself")
    options = parser.parse_args()
    if options.train:
        train(*options.train)
        return
    found = measure(options.rounds)
    results = {"command": "python benchmarks/scaling.py", "versions": storage.versions(), "batch": BATCH}
    results.update(rounds=options.rounds, seconds=found, rows=summarize(found))
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
