"""Class-balanced batches of 28×28 images: the sampler and the tools of TensorFlow, Keras and imbalanced-learn.

    pip install imbalanced-learn
    python benchmarks/sampler.py [--classes 100 1000 8142 100000] [--output benchmarks/results/sampler.json] 2>/dev/null

Per number of classes every candidate is timed in turn, in random order within a round. A ratio is ours over the other's
examples per second in the same round. The median ratio and a 95 % bootstrap interval of it are printed. Batches that
were prefetched between two turns are read before the clock starts; no other candidate prefetches more than two batches.

Datasets are read by a `tf.function` that loops over the iterator, as `fit` reads them; other sources are read by a
Python loop. Time to the first batch (with all preparation), peak memory beyond the data and the size of a saved
iterator are measured in a separate process for each candidate.

"shuffle", "gather" and "numpy" do not balance: they show the cost of any batch. "numpy" is the limit: it gathers rows
that are already known.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np

BATCH, ROUNDS = 256, 5
DRAIN_SECONDS, WINDOW_SECONDS = 0.3, 1.0
MOST_BATCHES = 256  # in one call
LIMIT_SECONDS = 120  # for the first batch
CLASSES = (100, 1000, 8142, 100_000)


def make_data(num_classes):
    """Images and the labels of a Zipf law: 100,000, or twice the number of classes if that is more."""
    from keras_logit_adjust.data import zipf_counts

    size = max(100_000, 2 * num_classes)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(num_classes), zipf_counts(num_classes, num_examples=size)))
    return rng.integers(0, 256, (size, 28, 28), dtype="uint8"), labels


def ours(images, labels):
    from keras_logit_adjust.data import LongTailSampler

    sampler = LongTailSampler(labels, BATCH, strategy="balanced", seed=0)
    return sampler.dataset((images, labels))


def ours_py_dataset(images, labels):
    from keras_logit_adjust.data import LongTailSampler

    sampler = LongTailSampler(labels, BATCH, strategy="balanced", seed=0)
    return iter(sampler.py_dataset((images, labels)))


def rejection_resample(images, labels):
    import tensorflow as tf

    counts = np.bincount(labels)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(10_000).repeat()
    dataset = dataset.rejection_resample(
        lambda x, y: tf.cast(y, tf.int32),
        target_dist=np.full(counts.size, 1 / counts.size, "float32"),
        initial_dist=(counts / counts.sum()).astype("float32"),
    )
    dataset = dataset.map(lambda _, example: example)
    return dataset.batch(BATCH, drop_remainder=True).prefetch(2)


def sample_from_datasets(images, labels):
    import tensorflow as tf

    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    datasets = [
        tf.data.Dataset.from_tensor_slices((images[rows], labels[rows])).shuffle(rows.size).repeat() for rows in parts
    ]
    mixed = tf.data.Dataset.sample_from_datasets(datasets)
    return mixed.batch(BATCH, drop_remainder=True).prefetch(2)


def shuffle(images, labels):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(10_000).repeat()
    return dataset.batch(BATCH, drop_remainder=True).prefetch(2)


def gather(images, labels):
    import tensorflow as tf

    images, labels = tf.constant(images), tf.constant(labels)
    rows = tf.data.Dataset.range(len(labels)).shuffle(len(labels)).repeat().batch(BATCH, drop_remainder=True)
    batches = rows.map(lambda r: (tf.gather(images, r), tf.gather(labels, r)), num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(2)


def imbalanced_learn(images, labels):
    from imblearn.keras import BalancedBatchGenerator

    # It takes only rows, and by default keeps as many of each class as of the rarest.
    batches = BalancedBatchGenerator(images.reshape(len(images), -1), labels, batch_size=BATCH, random_state=0)
    return epochs_of(batches)


def numpy(images, labels):
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(labels))
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield images[rows], labels[rows]


def epochs_of(py_dataset):
    """The batches of a `PyDataset`, epoch after epoch."""
    while True:
        for i in range(len(py_dataset)):
            yield py_dataset[i]
        py_dataset.on_epoch_end()


CANDIDATES = {
    f.__name__: f
    for f in (
        ours,
        ours_py_dataset,
        rejection_resample,
        sample_from_datasets,
        shuffle,
        gather,
        imbalanced_learn,
        numpy,
    )
}


def reader(source):
    """A function that reads n batches of a dataset or an iterator."""
    import tensorflow as tf

    iterator = iter(source)
    if not isinstance(source, tf.data.Dataset):

        def read(batches):
            for _ in range(batches):
                next(iterator)

        return read

    @tf.function
    def loop(batches):
        total = tf.constant(0, tf.int64)
        for _ in tf.range(batches):
            total += tf.cast(next(iterator)[1][0], tf.int64)
        return total

    return lambda batches: loop(tf.constant(batches)).numpy()


def per_second(read, seconds):
    """Examples per second over at least this many seconds."""
    total, batches, start = 0, 1, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        read(batches)
        total, batches = total + batches, min(2 * batches, MOST_BATCHES)
    return total * BATCH / elapsed


def measure_speed(num_classes, names):
    """Examples per second of each candidate, `{name: [rounds]}`, interleaved."""
    data, rng = make_data(num_classes), np.random.default_rng(0)
    readers = {name: reader(CANDIDATES[name](*data)) for name in names}
    for read in readers.values():
        read(1)
    found = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in rng.permutation(names):
            per_second(readers[name], DRAIN_SECONDS)
            found[name].append(per_second(readers[name], WINDOW_SECONDS))
            time.sleep(DRAIN_SECONDS)  # until its prefetching has ended
    return found


def probe(name, num_classes):
    """First batch, memory and state of one candidate, measured in a separate process."""
    import tensorflow as tf

    data = make_data(num_classes)
    next(iter(tf.data.Dataset.range(8).batch(4).map(lambda r: r + 1).prefetch(1)))  # TensorFlow's own start
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again (Linux)
    before, start = peak_memory(), time.perf_counter()
    source = CANDIDATES[name](*data)
    iterator = iter(source)
    next(iterator)
    first = time.perf_counter() - start
    is_dataset = isinstance(source, tf.data.Dataset)
    state = saved_size(iterator) if is_dataset else None
    for _ in range(20):
        next(iterator)
    return {"first_batch_s": first, "memory_mb": peak_memory() - before, "state_bytes": state}


def peak_memory():
    """MB; `ru_maxrss` would be the peak of the process which started this one."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def saved_size(iterator):
    """Bytes of the iterator's checkpoint; None if it cannot be saved."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{folder}/state")
        except tf.errors.OpError:
            return None
        return sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())


def run_probe(name, num_classes):
    """`probe` in a new process; None if no batch came in time."""
    command = [sys.executable, __file__, "--probe", name, "--classes", str(num_classes)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    if result.returncode:
        raise RuntimeError(f"{name} at {num_classes} classes: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def interval(ratios):
    """Median and 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def compare(num_classes):
    """Every candidate's row at one number of classes."""
    rows = {name: run_probe(name, num_classes) for name in CANDIDATES}
    speeds = measure_speed(num_classes, [name for name, row in rows.items() if row])
    for name, speed in speeds.items():
        rows[name]["examples_per_s"] = float(np.median(speed))
        rows[name]["ours_over_it"] = interval(np.divide(speeds["ours"], speed))
    for name, row in rows.items():
        print(f"{num_classes:7d}  {name:22s} {describe(row)}", flush=True)
    return rows


def describe(row):
    if row is None:
        return f"no batch within {LIMIT_SECONDS} s"
    state = "cannot be saved" if row["state_bytes"] is None else f"{row['state_bytes'] / 1024:.1f} KB"
    ratio = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["ours_over_it"])
    return (
        f"{row['examples_per_s']:10,.0f}/s   ours over it {ratio}   first batch {row['first_batch_s']:.2f} s   "
        f"memory {row['memory_mb']:.0f} MB   state {state}"
    )


TITLES = {
    "ours": "`LongTailSampler.dataset`",
    "ours_py_dataset": "`LongTailSampler.py_dataset`",
    "rejection_resample": "`Dataset.rejection_resample`",
    "sample_from_datasets": "`Dataset.sample_from_datasets`, one a class",
    "imbalanced_learn": "imbalanced-learn's `BalancedBatchGenerator`",
    "shuffle": "not balanced: `shuffle(10_000).batch`",
    "gather": "not balanced: shuffled indices, batches gathered",
    "numpy": "not balanced: a NumPy loop, the limit",
}


def to_markdown(results):
    """The table in README."""
    sizes = list(results["classes"])
    names = " | ".join(f"{int(size):,} classes" for size in sizes)
    lines = [
        f"| examples/s | {names} | first batch, s | memory, MB | saved iterator |",
        "|---|" + "---:|" * (len(sizes) + 3),
    ]
    for name, title in TITLES.items():
        rows = [results["classes"][size][name] for size in sizes]
        lines.append(
            f"| {title} | {' | '.join(_speed(row) for row in rows)} | {_costs([row for row in rows if row])} |"
        )
    note = (
        f"Batches of {results['batch']} images of 28×28 with Zipf counts; in brackets how many times faster "
        "`LongTailSampler.dataset` is (median over rounds). First batch with all preparation, and peak memory beyond "
        "the data: smallest and largest over the sizes. "
        f"None: no batch within {results['limit_s']} s. {results['machine']}."
    )
    return "\n".join([*lines, "", note])


def _speed(row):
    if row is None:
        return "none"
    ratio = row["ours_over_it"]["median"]
    return f"{row['examples_per_s']:,.0f}" + (
        "" if ratio == 1 else f" ({ratio:,.2g}×)" if ratio < 100 else f" ({ratio:,.0f}×)"
    )


def _costs(rows):
    first, memory = (_range([row[key] for row in rows]) for key in ("first_batch_s", "memory_mb"))
    state = rows[-1]["state_bytes"]
    return f"{first} | {memory} | {'no' if state is None else f'{state / 1024:,.0f} KB'}"


def _range(values):
    low, high = (f"{value:.1f}" if value < 10 else f"{value:,.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers of classes")
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    parser.add_argument("--probe", choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options.probe, options.classes[0])))
        return
    import keras
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(f"Batches of {BATCH} images of 28×28; {machine}")
    found = {str(num_classes): compare(num_classes) for num_classes in options.classes}
    if options.output:
        results = {"machine": machine, "batch": BATCH, "rounds": ROUNDS, "limit_s": LIMIT_SECONDS, "classes": found}
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
