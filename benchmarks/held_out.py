"""What is chosen on held-out logits, timed at 1,000 classes × 20,000 examples: offsets, calibration, the class mix.

    python benchmarks/held_out.py [--against CHECKOUT] [--examples 20000] [--classes 1000] [--output held_out.json]

Each function runs in a process of its own, which also tells its peak memory. With `--against`, a folder that holds
another version of the package, the two versions take turns, and the ratio of their processor times is printed.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parents[1]
FUNCTIONS = ("macro_f1", "balanced", "temperature", "bias_corrected_temperature", "em")


def make(num_examples, num_classes):
    """Logits of a model that is 1.5 times too sure, labels of a mix drawn at random, long-tailed counts."""
    rng = np.random.default_rng(0)
    counts = 2000 * 100.0 ** (-np.arange(num_classes) / (num_classes - 1))
    labels = rng.choice(num_classes, size=num_examples, p=rng.dirichlet(np.full(num_classes, 3.0)))
    labels[:num_classes] = np.arange(num_classes)
    logits = 4.0 * rng.normal(size=(num_examples, num_classes)) + np.log(counts / counts.sum())
    logits[np.arange(num_examples), labels] += 16.0
    return 1.5 * logits, labels, counts


def measure(name, num_examples, num_classes):
    """Seconds and peak memory of one function, printed as JSON: what the processes run."""
    import keras_logit_adjust as kla

    logits, labels, counts = make(num_examples, num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processor = time.perf_counter(), time.process_time()
    if name == "em":
        kla.estimate_target_prior(logits / 1.5, counts)
    elif name in ("macro_f1", "balanced"):
        kla.tune_offsets(logits, labels, counts, objective=name)
    else:
        kla.calibrate(logits, labels, method=name)
    found = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    found["peak_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps(found))


def run(checkout, name, sizes):
    command = [sys.executable, __file__, "--measure", name, *sizes]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=FUNCTIONS)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure, options.examples, options.classes)
    sizes, rows = ["--examples", str(options.examples), "--classes", str(options.classes)], []
    for name in options.functions:
        row = {"function": name, "now": [], "before": []}
        for _ in range(options.rounds):
            row["now"].append(run(HERE, name, sizes))
            if options.against:
                row["before"].append(run(options.against.resolve(), name, sizes))
        rows.append(row)
        now = {key: np.median([found[key] for found in row["now"]]) for key in row["now"][0]}
        print(f"{name}: {now['seconds']:.1f} s, {now['peak_mib']:.0f} MiB beside the logits", end="")
        if row["before"]:
            before = np.median([found["processor_seconds"] for found in row["before"]])
            print(f"; {before / now['processor_seconds']:.1f} times the processor time before", end="")
        print(flush=True)
    if options.output:
        options.output.write_text(json.dumps({"sizes": sizes, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
