"""The exact path over τ against evaluating single values of τ: interleaved in one run, as ratios.

    python benchmarks/tau_path.py [--output benchmarks/results/tau_path.json]

One evaluation is the cost of a point of a grid, `(logits − τ·log π).argmax(axis=-1) == labels` in float32. The path is
`kla.TauPath(labels, logits, class_counts).best()`, with argument checks, all intervals in float64, and their sort.
Then 8,142 classes as a stream of batches: peak memory beyond one batch.
"""

import argparse
import json
import os
import pathlib
import platform
import time
import tracemalloc

import numpy as np

import keras_logit_adjust as kla

SIZES = ((50_000, 10), (50_000, 100), (50_000, 1_000))
ROUNDS = 11
GRID = 100
STREAM = {"examples": 50_000, "classes": 8_142, "batch": 500}


def make(num_examples, num_classes, rng):
    counts = kla.data.zipf_counts(num_classes, num_examples=10_000, exponent=1.0)
    labels = rng.integers(0, num_classes, num_examples)
    logits = rng.normal(size=(num_examples, num_classes)).astype("float32")
    logits[np.arange(num_examples), labels] += 4.0
    return labels, logits, rng.permutation(counts)


def evaluate(labels, logits, counts, tau=1.0):
    log_prior = kla.priors.log_prior(counts).astype("float32")
    return (logits - np.float32(tau) * log_prior).argmax(axis=-1) == labels


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare_times(num_examples, num_classes, rng):
    data = make(num_examples, num_classes, rng)
    path = lambda *arguments: kla.TauPath(*arguments).best()  # noqa: E731
    seconds = {path: [], evaluate: []}
    for _ in range(ROUNDS + 1):
        for function in rng.permutation([path, evaluate]):
            seconds[function].append(timed(function, *data))
    ratios = np.array(seconds[path][1:]) / np.array(seconds[evaluate][1:])  # the first round warms up
    low, median, high = np.percentile(ratios, [25, 50, 75])
    row = {"examples": num_examples, "classes": num_classes, "evaluations": median, "low": low, "high": high}
    print(
        "{examples:,} × {classes:,}: the path costs {evaluations:.2f} [{low:.2f}, {high:.2f}] evaluations".format(**row)
    )
    print(f"  so a grid of {GRID} points costs {GRID / median:.0f} times the path")
    return {key: float(value) for key, value in row.items()}


def stream(rng):
    examples, classes, batch = STREAM.values()
    counts = kla.data.zipf_counts(classes, num_examples=10_000, exponent=1.0)

    def batches():
        for _ in range(examples // batch):
            labels = rng.integers(0, classes, batch)
            yield labels, rng.normal(size=(batch, classes)).astype("float32")

    tracemalloc.start()
    start = time.perf_counter()
    kla.TauPath.from_batches(batches(), counts).best()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = {
        **STREAM,
        "seconds": time.perf_counter() - start,
        "peak_mb": peak / 1e6,
        "batch_mb": batch * classes * 4 / 1e6,
    }
    print(
        "{examples:,} × {classes:,} in batches of {batch}: peak {peak_mb:.0f} MB, one batch {batch_mb:.0f} MB".format(
            **row
        )
    )
    return row


def to_markdown(results):
    """The table of the documentation from the results on file."""
    titles = ("examples", "classes", "the path, in single values of τ", f"a grid of {GRID}, in paths")
    lines = [f"| {' | '.join(titles)} |", "|---:|---:|---:|---:|"]
    for row in results["times"]:
        lines.append(
            "| {examples:,.0f} | {classes:,.0f} | {evaluations:.1f} [{low:.1f}, {high:.1f}] |".format(**row)
            + f" {GRID / row['evaluations']:.0f} |"
        )
    stream = "{examples:,} examples of {classes:,} classes in batches of {batch}: {seconds:.0f} s and".format(
        **results["stream"]
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Medians and quartiles of {results['rounds']} rounds. As a stream, {stream}",
            "{peak_mb:.0f} MB at most, where one batch has {batch_mb:.0f} MB. ".format(**results["stream"])
            + f"{results['machine']}.",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, NumPy {np.__version__}"
    print(machine)
    rng = np.random.default_rng(0)
    results = {"machine": machine, "rounds": ROUNDS, "times": [compare_times(*size, rng) for size in SIZES]}
    results["stream"] = stream(rng)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
