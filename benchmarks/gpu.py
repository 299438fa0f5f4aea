"""The cost of adjustment on an accelerator, and of half precision there: Keras's JAX backend, no TensorFlow.

    python benchmarks/gpu.py [--only loss step recipe] [--data DIR --runs DIR] [--output benchmarks/results/gpu.json]
    python benchmarks/gpu.py --quick  # every section at toy sizes, about a minute on a CPU

`loss`: forward + backward of the adjusted loss and of Keras's cross-entropy, the loss alone. Calls run inside one
compiled loop, each on the gradient of the call before it, so neither Python nor overlap is timed. Bound: bytes that any
implementation must move (logits read once, gradient written once), divided by the bandwidth of a large copy in the same
run. The bound holds if the logits do not fit in a cache; smaller logits may take less time than the bound.

`step`: a training step of ResNet-32 in `fit`, from the batch in NumPy to the new weights, with each loss against the
same model with Keras's cross-entropy.

`recipe`: CIFAR-100-LT by the paper's recipe under each precision, from the files of `benchmarks/compact_cifar.py` in
--data, each seed with its own split and initialization. Finished runs are kept in --runs: repeat the command to
continue, also with more seeds.

Times are medians over pairs of measurements, taken in turn in random order. Ratios are ours over Keras's, pair by pair,
with a 95 % bootstrap interval of their median. --output keeps sections and precisions of earlier calls on the same
device, unless this call measures them.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from jax import numpy as jnp
from tqdm.auto import tqdm

import keras_logit_adjust as kla
from keras_logit_adjust.compare import Config, report, statistics, storage
from keras_logit_adjust.compare.run import compare_with_predictions

SECTIONS = ("loss", "step", "recipe")
PRECISIONS = ("float32", "mixed_bfloat16")
METHODS = ("erm", "la_posthoc", "la_loss")
LOSSES = tuple(name for name in kla.losses.__all__ if name.endswith("Crossentropy"))
plain_loss = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)
MULTI_LABEL = "BinaryLogitAdjustedCrossentropy"  # takes rows of labels, not ids
# The full sizes, and the sizes of --quick.
SIZES = {
    "classes": ((100, 1000, 8142, 32768, 100000), (100, 1000)),
    "loss_batch": (256, 32),
    "copy_mib": (1024, 16),
    "milliseconds": (50.0, 2.0),  # shortest measurement of the loss
    "pairs": (21, 3),
    "step_batch": (128, 8),
    "steps": (50, 2),  # in one measurement
    "step_losses": (LOSSES, ("LogitAdjustedCrossentropy",)),
    "step_model": ("resnet32", "small_cnn"),
    "seeds": (3, 1),
    "epochs": (200, 1),
    "recipe_model": ("auto", "auto"),  # for images of CIFAR's size this is resnet32
}


def long_tail(num_classes):
    """Class counts that fall by a power law."""
    return np.maximum(1, 1e5 * np.arange(1, num_classes + 1.0) ** -1.2).astype(int)


def in_pairs(ours, theirs, pairs):
    """Seconds of two measurements, taken in turn `pairs` times: medians, and their ratio."""
    rng, seconds = np.random.default_rng(0), {ours: [], theirs: []}
    for _ in range(pairs):
        for measure in [ours, theirs] if rng.random() < 0.5 else [theirs, ours]:
            seconds[measure].append(measure())
    ours, theirs = np.array(seconds[ours]), np.array(seconds[theirs])
    medians = {"ours_us": 1e6 * float(np.median(ours)), "keras_us": 1e6 * float(np.median(theirs))}
    return {**medians, "ratio": interval(ours / theirs)}


def progress(cases, section):
    """A progress bar over a list of cases; in a log file it writes few lines."""
    pace = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(cases, desc=section, unit="case", mininterval=pace, leave=False)


def interval(ratios):
    """Median and 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (2000, ratios.size))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def timed(function, *arguments):
    """Seconds of one call, until its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def loop_timer(milliseconds, step, carry, *constants):
    """A measurement: seconds of one `step(carry, *constants)` → carry, in a compiled loop that takes `milliseconds`."""

    def loop(calls):
        return jax.jit(lambda start, *rest: jax.lax.fori_loop(0, calls, lambda _, state: step(state, *rest), start))

    trial = loop(10)
    seconds = min([timed(trial, carry, *constants) for _ in range(3)]) / 10
    calls = max(10, int(np.ceil(milliseconds / 1e3 / seconds)))
    run = loop(calls)
    timed(run, carry, *constants)  # compiles
    return lambda: timed(run, carry, *constants) / calls


def bandwidth(sizes):
    """Bytes per second of a large array that is read and written, the best of several."""
    array = jnp.arange(sizes["copy_mib"] * 2**18, dtype="float32")
    measure = loop_timer(sizes["milliseconds"], lambda x: jax.lax.optimization_barrier(x) + 1, array)
    return 2 * array.nbytes / min(measure() for _ in range(5))


def loss_step(loss):
    """Forward and backward: the gradient becomes the next logits, and the values are added up."""

    def step(carry, labels):
        logits, total = jax.lax.optimization_barrier(carry)  # a compiler may unroll the loop, not fuse calls
        value, gradient = jax.value_and_grad(lambda scores: loss(labels, scores))(logits)
        return gradient, total + value

    return step


def measure_loss(sizes, precisions):
    """A row for every number of classes and dtype, and the bandwidth measured with them."""
    batch, rows, rng = sizes["loss_batch"], [], np.random.default_rng(0)
    moved = bandwidth(sizes)
    for num_classes, precision in progress(list(itertools.product(sizes["classes"], precisions)), "loss"):
        labels = jnp.asarray(rng.integers(0, num_classes, batch), "int32")
        logits = jnp.asarray(rng.standard_normal((batch, num_classes), "float32"), precision.removeprefix("mixed_"))
        losses = (kla.losses.LogitAdjustedCrossentropy(long_tail(num_classes)), plain_loss())
        carry = (logits, jnp.zeros((), "float32"))
        pair = [loop_timer(sizes["milliseconds"], loss_step(loss), carry, labels) for loss in losses]
        row = {"classes": num_classes, "precision": str(logits.dtype), **in_pairs(*pair, sizes["pairs"])}
        bound = 1e6 * 2 * logits.nbytes / moved
        rows.append({**row, "bound_us": bound, "over_bound": row["ours_us"] / bound})
    title = f"forward + backward of the loss, batch {batch}, bound at {moved / 1e9:,.0f} GB/s"
    return {"title": title, "batch": batch, "copy_bytes_per_second": moved, "rows": rows}


def make_loss(name, counts):
    """A loss of `kla.losses` at its defaults."""
    arguments = {"FocalCrossentropy": (), MULTI_LABEL: (counts, int(counts.sum()))}
    return getattr(kla.losses, name)(*arguments.get(name, (counts,)))


def step_timer(loss, x, y, precision, sizes):
    """A measurement: seconds of one training step in `fit`, over an epoch of `steps` steps."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    model = getattr(kla.models, sizes["step_model"])(input_shape=x.shape[1:], num_classes=100)
    keras.config.set_dtype_policy(before)
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), loss)

    def measure():
        start = time.perf_counter()
        model.fit(x, y, batch_size=sizes["step_batch"], verbose=0, shuffle=False)
        jax.block_until_ready([variable.value for variable in model.variables])
        return (time.perf_counter() - start) / sizes["steps"]

    for _ in range(2):  # compiles
        measure()
    return measure


def measure_steps(sizes, precisions):
    """A row for every loss and precision."""
    rng, rows, counts = np.random.default_rng(0), [], long_tail(100)
    x = rng.integers(0, 256, (sizes["steps"] * sizes["step_batch"], 32, 32, 3)).astype("uint8")
    ids = rng.integers(0, 100, len(x)).astype("int32")
    plain = {}
    for precision, name in progress(list(itertools.product(precisions, sizes["step_losses"])), "step"):
        if precision not in plain:
            plain[precision] = step_timer(plain_loss(), x, ids, precision, sizes)
        y = np.eye(100, dtype="float32")[ids] if name == MULTI_LABEL else ids
        ours = step_timer(make_loss(name, counts), x, y, precision, sizes)
        rows.append({"loss": name, "precision": precision, **in_pairs(ours, plain[precision], sizes["pairs"])})
    settings = {key: sizes[key] for key in ("step_model", "step_batch", "steps")}
    return {"title": "training step of {step_model}, batch {step_batch}".format(**settings), **settings, "rows": rows}


class Splits(Config):
    """A comparison with training sets that were drawn before, one file for each seed."""

    def load(self, seed):
        return kla.data.load(pathlib.Path(self.train.format(seed)), validation="none", seed=seed, test=self.test)


def toy_data(folder, seeds):
    """Random features of ten classes in files named as CIFAR-100-LT's."""
    x = np.random.default_rng(0).normal(size=(40, 16)).astype("float32")
    for name in ("cifar100_test.npz", *(f"cifar100_lt_seed{seed}.npz" for seed in range(seeds))):
        np.savez(folder / name, x=x, y=np.arange(40) % 10)
    return folder


def measure_recipe(sizes, precisions, data, runs):
    """A row for every precision and method, over all seeds; for half precision also the difference to float32."""
    rows, hits, seeds = [], {}, range(sizes["seeds"])
    settings = {"epochs": sizes["epochs"], "model": sizes["recipe_model"]}
    files = {"train": str(data / "cifar100_lt_seed{}.npz"), "test": str(data / "cifar100_test.npz")}
    for precision in precisions:  # `compare` shows its own progress
        print(f"recipe: {precision}", file=sys.stderr, flush=True)
        config = Splits(**files, **settings, recipe="paper", validation="none", precision=precision)
        results, predictions = compare_with_predictions(
            config, methods=METHODS, seeds=len(seeds), output=runs / precision
        )
        labels = predictions.labels
        for name in METHODS:
            row = {"method": name, "precision": precision, **results["methods"][name]}
            row["train_seconds"] = [results["train_seconds"].get(f"{name}_seed{seed}", 0.0) for seed in seeds]
            hits[name, precision] = predictions.hits(name)
            if precision != precisions[0] == "float32":
                row["versus_float32"] = statistics.paired_difference(labels, *(hits[name, p] for p in precisions[::-1]))
            rows.append(row)
    source = f"{len(results['class_counts'])} classes, {sum(results['class_counts']):,} training examples"
    title = f"{source}, {report.in_seeds(len(seeds))}, {sizes['epochs']} epochs of the paper's recipe"
    settings |= {"data": source, "seeds": len(seeds), "split_hashes": results["split_hashes"]}
    return {"title": title, **settings, "rows": rows}


VERSIONS = {**storage.versions(), "jax": jax.__version__, "numpy": np.__version__}
KEYS = {"loss": ("classes", "precision"), "step": ("loss", "precision"), "recipe": ("method", "precision")}
PER_CALL = ("rows", "command", "copy_bytes_per_second", "title")


def merged(new, old):
    """New results of a section, with the other rows of an earlier call with the same settings."""
    if old is None or any(new[key] != old.get(key) for key in new if key not in PER_CALL):
        return new
    rows = {tuple(row[part] for part in KEYS[new["section"]]): row for row in (*old["rows"], *new["rows"])}
    return {**new, "rows": list(rows.values())}


def ratio(row, digits=3):
    """An estimate and its interval."""
    return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in list(row.values())[:3])) if row else ""


def mean(row):
    return f"{row['mean']:.2f}" + ("" if row["std"] is None else f" ± {row['std']:.2f}")


# Section → the columns of its table, each a function of a row.
COLUMNS = {
    "loss": {
        "classes": lambda row: f"{row['classes']:,}",
        "precision": lambda row: row["precision"],
        "adjusted µs": lambda row: f"{row['ours_us']:.1f}",
        "Keras's µs": lambda row: f"{row['keras_us']:.1f}",
        "adjusted ÷ Keras's": lambda row: ratio(row["ratio"]),
        "bound µs": lambda row: f"{row['bound_us']:.1f}",
        "adjusted ÷ bound": lambda row: f"{row['over_bound']:.2f}",
    },
    "step": {
        "loss": lambda row: f"`{row['loss']}`",
        "precision": lambda row: row["precision"],
        "step ms": lambda row: f"{row['ours_us'] / 1e3:.2f}",
        "with Keras's loss ms": lambda row: f"{row['keras_us'] / 1e3:.2f}",
        "ratio": lambda row: ratio(row["ratio"]),
    },
    "recipe": {
        "method": lambda row: f"`{row['method']}`",
        "precision": lambda row: row["precision"],
        "balanced error %": lambda row: mean(row["summary"]["balanced_error"]),
        "difference to ERM (points)": lambda row: ratio(row["versus_erm"], 2),
        "to float32 (points)": lambda row: ratio(row.get("versus_float32"), 2),
        "training s": lambda row: f"{np.mean(row['train_seconds']):.0f}",
    },
}


def to_markdown(results):
    """The tables of all sections."""
    texts = []
    for name in (name for name in SECTIONS if name in results):
        columns, found = COLUMNS[name], results[name]
        rows = [[cell(row) for cell in columns.values()] for row in found["rows"]]
        texts.append(f"{found['device']}: {found['title']}\n\n{report.to_table(list(columns), rows)}")
    return "\n\n".join(texts)


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes, random data: for a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="files of benchmarks/compact_cifar.py")
    parser.add_argument("--runs", type=pathlib.Path, metavar="DIR", help="folder of finished trainings")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE.json", help="also writes FILE.md beside it")
    for name, (full, quick) in SIZES.items():
        kind, count = (type(full[0]), "+") if isinstance(full, tuple) else (type(full), None)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, nargs=count, help=f"{full}, quick {quick}")
    options = parser.parse_args(words)
    if "recipe" in options.only and options.data is None and not options.quick:
        parser.error("the recipe needs --data DIR, made by benchmarks/compact_cifar.py; or --only loss step")
    if keras.backend.backend() != "jax":
        parser.error(f"set KERAS_BACKEND=jax. Received: backend {keras.backend.backend()!r}")
    return options


def command_of(options):
    """The command without the paths of this machine."""
    words = ["python benchmarks/gpu.py"]
    for name, value in vars(options).items():
        if value not in (None, False, SECTIONS, PRECISIONS):
            values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
            texts = [name.upper() if isinstance(each, pathlib.Path) else str(each) for each in values]
            words += [f"--{name.replace('_', '-')}", *texts]
    return " ".join(words)


def measure(section, options, sizes):
    """The results of one section."""
    if section != "recipe":
        return {"loss": measure_loss, "step": measure_steps}[section](sizes, options.precisions)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or toy_data(pathlib.Path(folder), sizes["seeds"])
        return measure_recipe(sizes, options.precisions, data, options.runs or pathlib.Path(folder) / "runs")


def main(words=None):
    options = parse(words)
    given = {name: getattr(options, name) for name in SIZES}
    sizes = {name: both[options.quick] if given[name] is None else given[name] for name, both in SIZES.items()}
    about = {"device": jax.devices()[0].device_kind, "versions": VERSIONS, "command": command_of(options)}
    results = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    for section in options.only:
        found = {"section": section, **about, **measure(section, options, sizes)}
        results[section] = merged(found, results.get(section))
        if options.output:  # saved at once: an interruption keeps the sections before
            storage.write_text(options.output, json.dumps(results, indent=1) + "\n")
            storage.write_text(options.output.with_suffix(".md"), to_markdown(results) + "\n")
    print(to_markdown(results))


if __name__ == "__main__":
    main()
