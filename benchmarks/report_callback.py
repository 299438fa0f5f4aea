"""The cost of `kla.callbacks.LongTailReport`: a training step with it and without, and its pass over validation data.

    python benchmarks/report_callback.py [--rounds 30] [--output benchmarks/results/report_callback.json]

One model is trained by `fit` in three ways, in turn in random order, in one process: alone, with Keras's validation,
and with the report. Validation data and batch size are the same. A step goes from its `on_train_batch_begin` to the end
of `on_train_batch_end` with the loss read, in all epochs of a fit except the first. The passes at the end of an epoch
are timed separately, also without the first of a fit, which compiles.

The script prints medians over the rounds of the median of a fit, and ratios within a round with a 95 % interval of
their median. CPU time, over all threads of the process, is given beside wall-clock time, which other processes on the
machine disturb.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, storage

WAYS = {"alone": "alone", "validation": "Keras's validation", "report": "`LongTailReport`"}
CLASSES, SHAPE, BATCH, STEPS, EPOCHS, HELD_OUT = 10, (28, 28, 1), 64, 20, 4, 1024
ROUNDS = 30


def _now():
    return np.array([time.perf_counter(), time.process_time()])


class _Clock(keras.callbacks.Callback):
    """Wall-clock and CPU seconds of every step by epoch, and of Keras's passes."""

    def __init__(self):
        super().__init__()
        self.steps, self.passes = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append([])

    def on_train_batch_begin(self, batch, logs=None):
        self._begun = _now()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the result
        self.steps[-1].append(_now() - self._begun)

    def on_test_begin(self, logs=None):
        self._begun = _now()

    def on_test_end(self, logs=None):
        self.passes.append(_now() - self._begun)


class _TimedReport(kla.callbacks.LongTailReport):
    """A report that times its pass, which is all its work at the end of an epoch."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.passes = []

    def on_epoch_end(self, epoch, logs=None):
        begun = _now()
        super().on_epoch_end(epoch, logs)
        self.passes.append(_now() - begun)


def measure(rounds):
    """Wall-clock and CPU seconds of a step, and of a pass, for every way and round: medians over a fit."""
    rng = np.random.default_rng(0)
    size = BATCH * STEPS + HELD_OUT
    x, y = rng.normal(size=(size, *SHAPE)).astype("float32"), rng.integers(0, CLASSES, size)
    train, held_out = (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])
    counts = np.bincount(train[1], minlength=CLASSES)
    model = kla.models.small_cnn(SHAPE, CLASSES)
    metric = kla.metrics.PerClassAccuracy(CLASSES)
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(counts), weighted_metrics=[metric])
    timed = _TimedReport(counts, validation_data=held_out, bounds=(1, 2), batch_size=BATCH)
    found = {way: {"steps": [], "passes": []} for way in WAYS}
    for number in range(-1, rounds):  # the first round compiles and is not counted
        for way in np.random.default_rng(number + 1).permutation(list(WAYS)):
            clock = _Clock()
            callbacks = [clock, timed] if way == "report" else [clock]
            validation = {"validation_data": held_out} if way == "validation" else {}
            model.fit(*train, BATCH, EPOCHS, verbose=0, callbacks=callbacks, **validation)
            if number < 0:
                continue
            passes = timed.passes if way == "report" else clock.passes
            steps = [step for epoch in clock.steps[1:] for step in epoch]
            found[way]["steps"].append(np.median(steps, axis=0).tolist())
            if way != "alone":
                found[way]["passes"].append(np.median(passes[1:], axis=0).tolist())
        print(f"round {number}", flush=True)
    return found


def summarize(found):
    """For wall-clock and CPU time: medians in milliseconds, and the ratios of steps and of passes."""
    return {
        time_of: {
            "milliseconds": {
                way: {kind: 1e3 * float(np.median(column)) for kind, column in columns.items()}
                for way, columns in by_way.items()
            },
            "step_with_report_to_alone": _ratio(by_way["report"]["steps"], by_way["alone"]["steps"]),
            "step_with_validation_to_alone": _ratio(by_way["validation"]["steps"], by_way["alone"]["steps"]),
            "pass_of_report_to_validation": _ratio(by_way["report"]["passes"], by_way["validation"]["passes"]),
        }
        for time_of, by_way in ((name, _column(found, i)) for i, name in enumerate(("clock", "processor")))
    }


def _column(found, i):
    return {
        way: {kind: np.array(seconds)[:, i] for kind, seconds in by_kind.items() if seconds}
        for way, by_kind in found.items()
    }


def _ratio(seconds, baseline):
    """The median of the ratios of pairs, and its 95 % bootstrap interval."""
    ratios = seconds / baseline
    draws = np.random.default_rng(0).integers(0, ratios.size, (2000, ratios.size))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def to_markdown(results):
    """The table of the results, and the ratios."""
    rows, ratios = [], []
    for time_of in ("clock", "processor"):
        for way, row in results[time_of]["milliseconds"].items():
            rows.append([WAYS[way], time_of, f"{row['steps']:.2f}", f"{row['passes']:.0f}" if "passes" in row else ""])
        for name, row in results[time_of].items():
            if "_to_" in name:
                words = f"{name.replace('_', ' ')}, {time_of}"
                ratios.append(f"{words}: {row['median']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    versions = results["versions"]
    how = f"Medians over {results['rounds']} rounds; batches of {BATCH}, {HELD_OUT} validation examples."
    table = report.to_table(["way", "time", "step (ms)", "pass (ms)"], rows)
    ratios = "\n".join(ratios)
    return f"{table}\n\n{ratios}\n\n{how} {versions['machine']}, Keras {versions['keras']}, {versions['backend']}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", metavar="FILE.json")
    options = parser.parse_args()
    found = measure(options.rounds)
    results = {"command": "python benchmarks/report_callback.py", "versions": storage.versions()}
    results.update(rounds=options.rounds, **summarize(found), seconds=found)
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
