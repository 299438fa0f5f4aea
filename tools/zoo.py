"""Adjust and fold every model of `keras.applications`, with random weights: `python tools/zoo.py --output FILE.json`.

Each model has three classes and the smallest images that it accepts. It is compared with softmax(log p − τ·log π) in
float64. Results on file are kept, so an interrupted run continues. Keras has no NASNet on torch: run these two models
on another backend.
"""

import argparse
import collections
import inspect
import json
import pathlib
import time

import keras
import numpy as np

import keras_logit_adjust as kla

COUNTS, TAU = np.array([900, 90, 10]), 1.5
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}  # all others accept 32 pixels


def constructors():
    """The names of all functions of `keras.applications` that make a model."""
    return sorted(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))


def build(name):
    """The model, with random weights."""
    size = SIZES.get(name, 32)
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=COUNTS.size)


def expected(probabilities):
    """softmax(log p − τ·log π) in float64."""
    weighted = probabilities.astype("float64") / (COUNTS / COUNTS.sum()) ** TAU
    return weighted / weighted.sum(axis=-1, keepdims=True)


def check(name):
    """The difference of the adjusted and of the folded model to the formula, or why there is none."""
    started, model = time.perf_counter(), build(name)
    images = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    truth = expected(keras.ops.convert_to_numpy(model(images, training=False)))
    row = {"model": name, "million_parameters": round(model.count_params() / 1e6, 1)}
    row["last"] = " → ".join(type(layer).__name__ for layer in model.layers[-3:])
    for way, make in (("adjust", kla.adjust), ("fold", kla.fold_into_bias)):
        try:
            made = make(model, COUNTS, tau=TAU)(images, training=False)
            row[way] = float(np.abs(keras.ops.convert_to_numpy(made) - truth).max())
        except ValueError as error:
            row[way] = str(error)
    return {**row, "backend": keras.backend.backend(), "seconds": round(time.perf_counter() - started, 1)}


def to_markdown(results):
    """A table with one line for each kind of last layers."""
    endings = collections.defaultdict(list)
    for row in results["models"]:
        endings[row["last"]].append(row)
    lines = [
        "| last layers | models | adjusted, largest difference | folded, largest difference |",
        "|---|---|---:|---:|",
    ]
    for ending, rows in sorted(endings.items(), key=lambda item: -len(item[1])):
        names = ", ".join(row["model"] for row in rows)
        lines.append(f"| {ending} | {len(rows)}: {names} | {_worst(rows, 'adjust')} | {_worst(rows, 'fold')} |")
    backends = ", ".join(sorted({row["backend"] for row in results["models"]}))
    how = f"{len(results['models'])} constructors, random weights, τ = {TAU:g}. Keras {results['keras']} on {backends}."
    return "\n".join(lines) + f"\n\n{how}"


def _worst(rows, way):
    refused = [row["model"] for row in rows if isinstance(row[way], str)]
    numbers = [row[way] for row in rows if not isinstance(row[way], str)]
    text = f"{max(numbers):.0e}" if numbers else ""
    return text + (f" (refused: {', '.join(refused)})" if refused else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", help="constructors to try; all by default")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE.json")
    options = parser.parse_args()
    results = {"keras": keras.__version__, "models": []}
    if options.output and options.output.exists():
        results = json.loads(options.output.read_text())
    done = {row["model"] for row in results["models"]}
    for name in options.names or constructors():
        if name not in done:
            results["models"].append(check(name))
            print(results["models"][-1], flush=True)
            keras.backend.clear_session()
            if options.output:
                options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(to_markdown(results))


if __name__ == "__main__":
    main()
