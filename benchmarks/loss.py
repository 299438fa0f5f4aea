"""The adjusted loss against Keras's own cross-entropy: forward + backward, interleaved in one run, as ratios.

    python benchmarks/loss.py [--output benchmarks/results/loss.json]

Per size and mode the two are timed in turn, in random order within a pair; the ratio of each pair is ours over Keras's.
The median ratio and a 95 % bootstrap interval of it are printed. "graph" is `tf.function`, which `fit` runs; "xla" adds
`jit_compile=True`; "eager" is for debugging. Also compared: a loss of the general family (LDAM) with Keras's
cross-entropy, focal loss with Keras's, and a folded model with the original, in operations and time.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import time

import keras
import numpy as np
import tensorflow as tf

import keras_logit_adjust as kla

BATCH = 256
CLASSES = (100, 1000, 8142)
MODES = ("graph", "xla", "eager")
CALLS = {100: 60, 1000: 20, 8142: 4}  # calls in one measurement
PAIRS = 41


def training_step(loss, labels, mode):
    """A function of the logits that gives the loss and its gradient."""

    def step(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")


def paired_ratios(ours, theirs, argument, calls, pairs=PAIRS):
    """Time ratios ours / theirs of `pairs` interleaved measurements."""
    rng = np.random.default_rng(0)
    for function in (ours, theirs):
        timed(function, argument, calls)
    ratios = []
    for _ in range(pairs):
        order = [ours, theirs] if rng.random() < 0.5 else [theirs, ours]
        seconds = {function: timed(function, argument, calls) for function in order}
        ratios.append(seconds[ours] / seconds[theirs])
    return np.array(ratios)


def timed(function, argument, calls):
    """Seconds of `calls` calls, until the last result is ready."""
    start = time.perf_counter()
    for _ in range(calls):
        result = function(argument)
    np.asarray(keras.tree.flatten(result)[-1])
    return time.perf_counter() - start


def interval(ratios):
    """Median and 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (2000, ratios.size))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def pairs_of_losses(counts, ids):
    """Name → (our loss, our labels, Keras's loss, its labels)."""
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    focal = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)
    rows = tf.one_hot(ids, counts.size)
    return {
        "logit_adjusted": (kla.losses.LogitAdjustedCrossentropy(counts), ids, plain, ids),
        "adaptive": (kla.losses.AdaptiveMarginCrossentropy(counts), ids, plain, ids),
        "focal": (kla.losses.FocalCrossentropy(), rows, focal, rows),
        "focal_of_ids": (kla.losses.FocalCrossentropy(), ids, focal, rows),  # Keras's takes only rows
    }


def compare_losses():
    """Ratios for every loss, size and mode."""
    rng, found = np.random.default_rng(0), []
    for num_classes in CLASSES:
        counts = np.maximum(1, (1e5 * np.arange(1, num_classes + 1.0) ** -1.2)).astype(int)
        logits = tf.constant(rng.normal(size=(BATCH, num_classes)), "float32")
        ids = tf.constant(rng.integers(0, num_classes, BATCH), "int32")
        for (name, losses), mode in itertools.product(pairs_of_losses(counts, ids).items(), MODES):
            steps = (training_step(*pair, mode) for pair in (losses[:2], losses[2:]))
            ratios = paired_ratios(*steps, logits, CALLS[num_classes])
            found.append({"loss": name, "classes": num_classes, "mode": mode, **interval(ratios)})
            line = "{loss:14s} {classes:6d} classes, {mode:5s}: {median:.2f} [{low:.2f}, {high:.2f}]"
            print(line.format(**found[-1]), flush=True)
    return found


TITLES = {
    "logit_adjusted": "`LogitAdjustedCrossentropy`",
    "adaptive": "`AdaptiveMarginCrossentropy`, of the general family",
    "focal": "`FocalCrossentropy` of rows, against Keras's focal loss",
    "focal_of_ids": "`FocalCrossentropy` of ids, against Keras's focal loss of rows",
}


def to_markdown(results):
    """The table of the documentation from the results on file."""
    found = {(row["loss"], row["mode"], row["classes"]): row for row in results["loss"]}
    lines = [
        f"| loss | way | {' | '.join(f'{classes:,} classes' for classes in CLASSES)} |",
        f"|---|---|{'---:|' * len(CLASSES)}",
    ]
    for name, title in TITLES.items():
        for mode in MODES:
            cells = ["{median:.2f} [{low:.2f}, {high:.2f}]".format(**found[name, mode, classes]) for classes in CLASSES]
            lines.append(f"| {title} | {mode} | {' | '.join(cells)} |")
    folded = results["folded"]
    assert folded["same_operations"]
    return "\n".join(
        [
            *lines,
            "",
            f"Time of ours over the time of Keras's own loss, forward and backward, batches of {results['batch']}; "
            f"median of {results['pairs']} pairs with its 95 %",
            "interval. Graph: used by `fit`; xla: with `jit_compile`; eager: for debugging. Keras's focal loss takes "
            "only rows.",
            f"A folded model has the operations of the original, and takes {folded['median']:.2f} "
            f"[{folded['low']:.2f}, {folded['high']:.2f}] of its time.",
            f"{results['machine']}.",
        ]
    )


def compare_folded():
    """A folded model against its original: the same operations, and the ratio of their times."""
    model = kla.models.small_cnn((28, 28, 1), 10)
    folded = kla.fold_into_bias(model, np.arange(10, 0, -1))
    images = tf.zeros((BATCH, 28, 28, 1))
    functions = [tf.function(lambda x, m=m: m(x, training=False), autograph=False) for m in (folded, model)]
    operations = [sorted(op.type for op in f.get_concrete_function(images).graph.get_operations()) for f in functions]
    row = {"same_operations": operations[0] == operations[1], **interval(paired_ratios(*functions, images, 4))}
    print("folded model: same operations {same_operations}, time {median:.2f} [{low:.2f}, {high:.2f}]".format(**row))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    print(f"Time of our losses over Keras's, forward + backward, batch {BATCH}; {machine}")
    results = {"machine": machine, "batch": BATCH, "pairs": PAIRS, "loss": compare_losses(), "folded": compare_folded()}
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
