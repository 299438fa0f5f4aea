"""The cost of TFLite's low precisions for an adjusted model: balanced error and logits, adjusted before and after.

    python benchmarks/served_precision.py [--output benchmarks/results/served_precision.json]

Two linear models: a logistic regression on the embedded sentence features, and the Bayes rule of 16 normal classes
whose priors span 12 nats. Each is converted in three forms: adjusted by a layer, folded, and plain. The scores of the
plain file are adjusted in Python. Reference: the adjusted model in float64. Quantized formats see 500 examples of the
training mix.
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, storage

FORMATS = {
    "float32": "float32",
    "float16": "float16",
    "int8_weights": "int8 weights",
    "int16": "int8 weights, int16 activations",
    "int8": "int8",
    "int8_softmax": "int8, softmax inside",
}
WAYS = {"layer": kla.adjust, "folded": kla.fold_into_bias, "after": None}
NUM_REPRESENTATIVE = 500


def options_of(precision, examples):
    """The options of `model.export(path, "litert", …)` for a format."""
    import tensorflow as tf

    if precision == "float32":
        return {}
    options = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if precision == "float16":
        return options | {"target_spec": {"supported_types": [tf.float16]}}
    if precision == "int8_weights":
        return options
    integers = {
        "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        "int16": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
    }[precision.removesuffix("_softmax")]
    return options | {
        "target_spec": {"supported_ops": [integers]},
        "representative_dataset": lambda: ([row[None]] for row in examples),
        "inference_input_type": tf.int16 if precision == "int16" else tf.int8,
        "inference_output_type": tf.int16 if precision == "int16" else tf.int8,
    }


def scores_of(model, precision, examples, x):
    """The output of the converted model for `x`, as floats, and one step of its output (0 for floats)."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "model.tflite"))
        model.export(path, "litert", verbose=False, **options_of(precision, examples))
        interpreter = tf.lite.Interpreter(path)
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], quantized(x, given))
    interpreter.invoke()
    found, (scale, zero) = interpreter.get_tensor(made["index"]), made["quantization"]
    return (found if scale == 0 else scale * (found.astype("float64") - zero)), scale


def quantized(x, details):
    """`x` in the form of the input tensor of a file."""
    scale, zero = details["quantization"]
    if scale == 0:
        return x
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(x / scale + zero), limits.min, limits.max).astype(details["dtype"])


def banking():
    """Kernel and bias of a logistic regression, class counts, training rows, test rows and labels."""
    data = kla.data.load("banking77_lt", validation="none")
    with threadpool_limits(1):  # with so little data, several threads are slower
        model = LogisticRegression(C=10.0, max_iter=300).fit(*data.train)
    return model.coef_.T, model.intercept_, data.class_counts, data.train[0], *data.test


def normal(num_classes=16, dimensions=96, span=12.0):
    """The Bayes rule of normal classes with variance 1, its counts, rows of the training mix, balanced test rows."""
    rng = np.random.default_rng(0)
    counts = np.exp(np.linspace(span, 0, num_classes))
    centers = rng.normal(scale=0.33, size=(num_classes, dimensions))
    bias = kla.priors.log_prior(counts) - (centers**2).sum(axis=1) / 2
    y = np.repeat(np.arange(num_classes), 500)
    seen = centers[rng.choice(num_classes, 4 * NUM_REPRESENTATIVE, p=kla.priors.prior(counts))]
    rows = [(means + rng.normal(size=means.shape)).astype("float32") for means in (seen, centers[y])]
    return centers.T, bias, counts, *rows, y


def measure(kernel, bias, counts, seen, x, y):
    """Balanced error, largest error of a logit and the step of the output, for each format and way."""
    exact = kla.adjust_scores(x.astype("float64") @ kernel + bias, counts, kind="logits")
    examples = np.random.default_rng(0).permutation(seen)[:NUM_REPRESENTATIVE].astype("float32")
    rows = {}
    for precision in FORMATS:
        kind = "probabilities" if precision.endswith("softmax") else "logits"
        model = keras.Sequential(
            [keras.Input((len(kernel),)), keras.layers.Dense(len(bias), "softmax" if kind != "logits" else None)]
        )
        model.layers[0].set_weights([kernel, bias])
        for way, adjust in WAYS.items():
            made = model if adjust is None else adjust(model, counts)
            found, step = scores_of(made, precision, examples, x.astype("float32"))
            if adjust is None:
                found = found if kind == "logits" else found / found.sum(axis=1, keepdims=True)
                found = kla.adjust_scores(found, counts, kind=kind)
            rows.setdefault(precision, {})[way] = {
                "balanced_error": balanced_error(found, y),
                "error": float(np.abs(found - exact).max()) if kind == "logits" else None,
                "step": float(step),
            }
    return {"exact": balanced_error(exact, y), "formats": rows}


def balanced_error(scores, y):
    """The mean over classes of the share of wrong answers, in percent."""
    wrong = scores.argmax(axis=-1) != y
    return float(100 * (np.bincount(y, wrong) / np.bincount(y)).mean())


def to_markdown(results):
    """The table of the results."""
    header = ["data", "format", "step (nats)", "a layer", "folded", "adjusted after"]
    rows = []
    for name, found in results["data"].items():
        rows.append([f"`{name}`", "float64", "", *[f"{found['exact']:.1f}"] * 3])
        for precision, title in FORMATS.items():
            row = found["formats"][precision]
            steps = (
                "" if row["folded"]["error"] is None or not row["folded"]["step"] else f"{row['folded']['step']:.2g}"
            )
            rows.append([f"`{name}`", title, steps, *map(_cell, row.values())])
    how = (
        "Balanced error in percent, and the largest error of an adjusted logit in nats. Step: of the output of the "
        f"folded file. Quantized with {NUM_REPRESENTATIVE} examples of the training mix; logits outside their range "
        "are cut."
    )
    versions = results["versions"]
    return f"{report.to_table(header, rows)}\n\n{how} {versions['machine']}, TensorFlow {results['tensorflow']}."


def _cell(row):
    error = "" if row["error"] is None else f" ({row['error']:.1g})"
    return f"{row['balanced_error']:.1f}{error}"


def main():
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", metavar="FILE.json")
    options = parser.parse_args()
    results = {"command": "python benchmarks/served_precision.py", "versions": storage.versions()}
    results["tensorflow"] = tf.__version__
    results["data"] = {"banking77_lt": measure(*banking()), "normal_12_nats": measure(*normal())}
    print(to_markdown(results))
    if options.output:
        storage.write_text(pathlib.Path(options.output), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
