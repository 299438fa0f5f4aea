"""Heads made of the names of 77 intents: alone, debiased, beside a probe, and as the start of training.

    KERAS_BACKEND=torch python benchmarks/zero_shot_names.py [--seeds 3] [--names FILE.npz]
        [--output benchmarks/results/zero_shot_names.json]

The names are embedded by MiniLM (extra `text`), which made the features of `banking77_lt`; FILE keeps them. The
zero-shot head gives their cosines with the features. Its temperature and its prior are estimated on the training set,
which it was not trained on. The probe is `fit_linear_probe` with the adjusted loss. Its temperature is found on its
out-of-fold logits before the adjustment. Trained heads are `CosineDense` with the adjusted loss, with one learning
rate. Nothing is chosen by the test set: every number of epochs is shown.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, statistics, storage

SCALE, RATE, BATCH = 20.0, 0.003, 64
EPOCHS = (2, 10, 50)
ROWS = {
    "zero_shot": "names, zero-shot",
    "debiased": "names, debiased",
    "debiased_alike": "names, debiased with classes weighed alike",
    "probe": "probe, adjusted loss",
    "calibrated": "probe at its temperature out of fold",
    "sum": "debiased names × probe",
    "sum_calibrated": "debiased names × probe at its temperature",
    **{
        f"{start}_{epochs}": f"cosine head from {title}, {epochs} epochs"
        for epochs in EPOCHS
        for start, title in {"random": "random numbers", "names": "names"}.items()
    },
}
# The row with which a row is compared.
RIVALS = {
    "debiased": "zero_shot",
    "debiased_alike": "zero_shot",
    "calibrated": "probe",
    "sum": "probe",
    "sum_calibrated": "calibrated",
    **{f"names_{epochs}": f"random_{epochs}" for epochs in EPOCHS},
}


def embed(path):
    """The embeddings `[77, 384]` of the names, from the file `path` if it exists."""
    import text_encoder as text  # a file beside this one; tests load this one by its path

    def make():
        names = kla.data.load("banking77_lt", validation="none").class_names
        tokens = text.tokenize([name.replace("_", " ").lower() for name in names])
        return {"names": text.predict(text.build_encoder(), tokens)}

    return make()["names"] if path is None else text.finished(path, make)["names"]


def linear(kernel, bias):
    """A model of logits."""
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(len(bias))])
    model.layers[0].set_weights([kernel, bias])
    return model


def logits_of(names, data):
    """`{row: test logits}` of one seed's draw, and the temperatures."""
    (x, y), (x_test, _), counts = data.train, data.test, data.class_counts
    head = linear(SCALE * names.T, np.zeros(len(names)))
    logits = head.predict(x, verbose=0)
    warm = kla.calibrate(logits, y, method="bias_corrected_temperature").temperature
    models = {"zero_shot": head}
    for name, mix in {"debiased": None, "debiased_alike": np.ones(len(names))}.items():
        source = kla.held_out.estimate_source_prior(logits / warm, y, class_prior=mix)
        models[name] = kla.adjust(head, source, calibration=kla.Calibration(warm))
    probe = kla.held_out.fit_linear_probe(x, y, tau=1.0, seed=data.seed)
    log_prior = kla.priors.log_prior(counts)
    calibration = kla.calibrate(probe.out_of_fold_logits + log_prior, y[probe.out_of_fold_rows])
    models["probe"] = linear(probe.kernel, probe.bias)
    models["calibrated"] = kla.adjust(linear(probe.kernel, probe.bias + log_prior), counts, calibration=calibration)
    for name, expert in {"sum": "probe", "sum_calibrated": "calibrated"}.items():
        models[name] = kla.product_of_experts([models["debiased"], models[expert]], [1] * len(names), taus=0)
    found = {name: model.predict(x_test, verbose=0) for name, model in models.items()}
    for start, kernel in {"random": None, "names": names.T}.items():
        found |= {f"{start}_{epochs}": values for epochs, values in trained(kernel, data).items()}
    return found, {"names": warm, "probe": calibration.temperature}


def trained(kernel, data):
    """`{epochs: test logits}` of a cosine head on the features, trained with the adjusted loss."""
    keras.utils.set_random_seed(data.seed)
    head = kla.layers.CosineDense(data.num_classes, scale=SCALE, initial_kernel=kernel)
    model = keras.Sequential([keras.Input((data.train[0].shape[1],)), head])
    model.compile(keras.optimizers.Adam(RATE), kla.losses.LogitAdjustedCrossentropy(data.class_counts))
    found, done = {}, 0
    for epochs in EPOCHS:
        model.fit(*data.train, initial_epoch=done, epochs=epochs, batch_size=BATCH, verbose=0)
        found[epochs], done = model.predict(data.test[0], verbose=0), epochs
    return found


def measure(names, seeds):
    """The figures of all rows, and the paired differences."""
    rows, temperatures = {name: [] for name in ROWS}, []
    for seed in range(seeds):
        data = kla.data.load("banking77_lt", validation="none", seed=seed)
        found, warm = logits_of(names, data)
        temperatures.append(warm)
        for name, logits in found.items():
            rows[name].append(logits)
    labels, counts = data.test[1], data.class_counts
    hits = {name: np.array([of.argmax(axis=-1) == labels for of in logits]) for name, logits in rows.items()}
    results = {}
    for name, of_seeds in rows.items():
        figures = [statistics.figures(labels, logits, class_counts=counts) for logits in of_seeds]
        results[name] = {"seeds": figures, "summary": statistics.summarize(figures)}
        for key, other in {"versus_rival": RIVALS.get(name), "versus_probe": "probe"}.items():
            is_known = other is not None and other != name
            results[name][key] = statistics.paired_difference(labels, hits[name], hits[other]) if is_known else None
    return {"temperatures": temperatures, "rows": results}


def to_markdown(results):
    """The table of the results."""
    columns = ("balanced_error", "many_accuracy", "medium_accuracy", "few_accuracy")
    header = ["head", *(report.COLUMNS[key] for key in columns), "difference to", "points", "to the probe"]
    rows = [
        [
            ROWS[name],
            *(_cell(row["summary"][key]) for key in columns),
            ROWS.get(RIVALS.get(name), ""),
            *(report.show_difference(row[key]) if row[key] else "" for key in ("versus_rival", "versus_probe")),
        ]
        for name, row in results["rows"].items()
    ]
    how = f"""\
The figures are mean ± standard deviation over {results["seeds"]} seeds. Each seed redraws the training set. The
differences are in balanced error, with a 95 % paired bootstrap interval over test examples and seeds. "None" means that
the interval contains zero: no difference was found. "×" is `product_of_experts`, with the names at their temperature.
Every cosine head is trained with the adjusted loss.

Repeat: `{results["command"]}`"""
    return f"{report.to_table(header, rows)}\n\n{how}"


def _cell(figure):
    deviation = "" if figure is None or not figure["std"] else f" ± {figure['std']:.1f}"
    return "-" if figure is None else f"{figure['mean']:.1f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--names", type=pathlib.Path, help="file of the names' embeddings, made if it is missing")
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    command = f"python benchmarks/zero_shot_names.py --seeds {options.seeds}"
    results = {"command": command, "versions": storage.versions(), "seeds": options.seeds}
    results |= measure(embed(options.names), options.seeds)
    print(to_markdown(results))
    if options.output:
        storage.write_text(options.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
