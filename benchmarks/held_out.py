"""Functions that choose on held-out logits, timed at 1,000 classes × 20,000 examples: offsets, calibration, class mix.

    python benchmarks/held_out.py [--against CHECKOUT] [--examples 20000] [--classes 1000] [--output held_out.json]

Each function runs in its own process, which also measures its peak memory. `--against` is a folder with another version
of the package. The two versions then take turns, and the ratio of their CPU times is printed. A whole `tune_offsets` of
an old version takes long; one sweep over one bootstrap sample is enough to compare:

    python benchmarks/held_out.py --functions macro_f1 balanced --bags 1 --sweeps 1 --against CHECKOUT
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
    """Logits of a model that is 1.5 times too certain, labels of a random mix, long-tailed counts."""
    rng = np.random.default_rng(0)
    counts = 2000 * 100.0 ** (-np.arange(num_classes) / (num_classes - 1))
    labels = rng.choice(num_classes, size=num_examples, p=rng.dirichlet(np.full(num_classes, 3.0)))
    labels[:num_classes] = np.arange(num_classes)
    logits = 4.0 * rng.normal(size=(num_examples, num_classes)) + np.log(counts / counts.sum())
    logits[np.arange(num_examples), labels] += 16.0
    return 1.5 * logits, labels, counts


NAMES = {
    "macro_f1": '`tune_offsets`, "macro_f1"',
    "balanced": '`tune_offsets`, "balanced"',
    "temperature": "`calibrate`, temperature",
    "bias_corrected_temperature": "`calibrate`, bias-corrected temperature",
    "em": "`estimate_target_prior`, EM with 200 replicates",
}


def measure(name, num_examples, num_classes, search):
    """Seconds and peak memory of one function, printed as JSON: the work of each process."""
    import keras_logit_adjust as kla

    logits, labels, counts = make(num_examples, num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processor = time.perf_counter(), time.process_time()
    if name == "em":
        kla.estimate_target_prior(logits / 1.5, counts)
    elif name in ("macro_f1", "balanced"):
        kla.tune_offsets(logits, labels, counts, objective=name, **search)
    else:
        kla.calibrate(logits, labels, method=name)
    found = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    found["peak_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps(found))


def run(checkout, name, options):
    sizes = (f"--{option}={getattr(options, option)}" for option in ("examples", "classes", "bags", "sweeps"))
    command = [sys.executable, __file__, "--measure", name, *sizes]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def to_markdown(results):
    """The table of a run: medians over its rounds."""
    from keras_logit_adjust.compare import report

    rows = []
    for row in results["rows"]:
        now, before = (
            {key: np.median([found[key] for found in row[when]]) for key in row["now"][0]} if row[when] else None
            for when in ("now", "before")
        )
        cells = [f"{now['seconds']:.1f}", f"{now['processor_seconds']:.1f}", f"{now['peak_mib']:.0f}"]
        if before:
            ratio = before["processor_seconds"] / now["processor_seconds"]
            cells += [f"{before['processor_seconds']:.1f}", f"{before['peak_mib']:.0f}", f"{ratio:.1f}"]
        rows.append([NAMES[row["function"]], *cells, *[""] * (6 - len(cells))])
    header = ["function", "seconds", "CPU seconds", "MiB", "CPU seconds before", "MiB before", "ratio"]
    sizes = f"{results['classes']:,} classes × {results['examples']:,} examples"
    against = f", against commit {results['against']}" if results["against"] else ""
    threads = f"OMP_NUM_THREADS={results['threads']}" if results["threads"] else "all threads"
    search = f"`tune_offsets` with bags={results['bags']}, sweeps={results['sweeps']}"
    how = f"{sizes}; {search}; {threads}{against}; MiB beside the logits, rounds: {results['rounds']}."
    versions = results["versions"]
    return f"{report.to_table(header, rows)}\n\n{how} {versions['machine']}, {results['load']}."


def commit_of(checkout):
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=FUNCTIONS)
    parser.add_argument("--bags", type=int, default=10, help="of tune_offsets")
    parser.add_argument("--sweeps", type=int, default=4, help="of tune_offsets")
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        search = {"bags": options.bags, "sweeps": options.sweeps}
        return measure(options.measure, options.examples, options.classes, search)
    from keras_logit_adjust.compare import storage

    processes = os.getloadavg()[0]
    results = {"versions": storage.versions(), "threads": os.environ.get("OMP_NUM_THREADS"), "rows": []}
    results["load"] = f"load {processes:.1f} of other processes" if processes > 0.5 else "nothing else running"
    results.update({name: getattr(options, name) for name in ("examples", "classes", "bags", "sweeps", "rounds")})
    results["against"] = commit_of(options.against) if options.against else None
    for name in options.functions:
        row = {"function": name, "now": [], "before": []}
        for _ in range(options.rounds):
            row["now"].append(run(HERE, name, options))
            if options.against:
                row["before"].append(run(options.against.resolve(), name, options))
        results["rows"].append(row)
        print(to_markdown(results), flush=True)
    if options.output:
        storage.write_text(options.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
