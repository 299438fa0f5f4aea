"""The cost of half precision in balanced error: the embedded images under each of Keras's mixed policies.

    python benchmarks/precision.py --runs DIR [--seeds 12] [--output benchmarks/results/precision.json]

The same seeds, splits and initializations are trained in float32, mixed_float16 (with loss scaling) and mixed_bfloat16.
The script prints the mean balanced error over the seeds, and the paired difference to float32 in points with a 95 %
bootstrap interval over test examples and seeds. Finished runs are kept in DIR: repeat the command to continue, also
with more seeds.
"""

import argparse
import json
import pathlib

import numpy as np

from keras_logit_adjust.compare import Config, report, statistics, storage
from keras_logit_adjust.compare.config import PRECISIONS
from keras_logit_adjust.compare.run import compare_with_predictions

METHODS = ("erm", "la_loss")


def measure(seeds, runs):
    """For each method and policy, the balanced error and its difference to float32."""
    found = {}
    for precision in PRECISIONS:
        config = Config(precision=precision, validation="none")
        results, predictions = compare_with_predictions(
            config, methods=METHODS, seeds=seeds, output=pathlib.Path(runs) / precision
        )
        labels = predictions.labels
        for name in METHODS:
            hits = predictions.hits(name)
            errors = [row["balanced_error"] for row in results["methods"][name]["seeds"]]
            found[name, precision] = {"errors": errors, "hits": hits}
    return {
        name: {
            precision: {
                "balanced_error": float(np.mean(found[name, precision]["errors"])),
                "deviation": float(np.std(found[name, precision]["errors"], ddof=1)),
                "versus_float32": statistics.paired_difference(
                    labels, found[name, precision]["hits"], found[name, "float32"]["hits"]
                ),
            }
            for precision in PRECISIONS
        }
        for name in METHODS
    }


def to_markdown(results):
    """The table of the results."""
    header = ["method", "precision", "balanced error %", "difference to float32 (points)"]
    rows = [
        [f"`{name}`", precision, f"{row['balanced_error']:.1f} ± {row['deviation']:.1f}", _difference(precision, row)]
        for name, by_precision in results["methods"].items()
        for precision, row in by_precision.items()
    ]
    versions = results["versions"]
    how = f"{report.in_seeds(results['seeds'])}, paired; 95 % bootstrap intervals over test examples and seeds."
    return f"{report.to_table(header, rows)}\n\n{how} {versions['machine']}, Keras {versions['keras']}."


def _difference(precision, row):
    versus = row["versus_float32"]
    return (
        "" if precision == "float32" else f"{versus['difference']:+.2f} [{versus['low']:+.2f}, {versus['high']:+.2f}]"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", required=True, metavar="DIR", help="folder of finished runs")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--output", metavar="FILE.json")
    options = parser.parse_args()
    command = f"python benchmarks/precision.py --seeds {options.seeds}"
    results = {"command": command, "versions": storage.versions(), "seeds": options.seeds}
    results["methods"] = measure(options.seeds, options.runs)
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
