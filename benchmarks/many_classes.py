"""The adjusted loss of a linear head with many classes: in chunks and sampled, against our own loss of all logits.

    python benchmarks/many_classes.py [--classes 100000 1000000] [--backends jax tensorflow torch] [--output FILE.json]
    python benchmarks/many_classes.py --classes 5000 --rounds 3  # half a minute

The script measures one evaluation of the loss and its gradients to features, kernel and bias, without an optimizer. A
batch has 256 examples of 128 features, the kernel is stored [L, D], and the step is compiled (torch: eager). Every
backend and size has its own process, in which the ways are called in turn. The ratio of a round is the time of a way
over the time of the dense one; the table has its median, smallest and largest value.

Temporaries are the memory of the compiled step beside its arguments and results, reported by XLA (JAX only). The peak
is the rise of the process's resident memory above its inputs, with results; ways are first called in the order of their
memory.

Two other implementations are compared, with the log-prior in their bias. torch's own `linear_cross_entropy` works in
chunks of examples (only up to 100,000 classes: it is slow). TensorFlow's `sampled_softmax_loss` has the same number of
rivals. The cosine compares the gradients of one draw (kernel and features) with the exact ones.

Last, the largest resident size of a process that trains a `ManyClassModel` of the largest size by the exact loss, with
Adam, for three steps. It includes interpreter, backend and data.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

import numpy as np

BATCH, WIDTH, RIVALS = 256, 128, 8192
BACKENDS = ("jax", "tensorflow", "torch")
SUMMARY = (np.median, np.min, np.max)
PEERS = {"torch": "torch's", "tensorflow": "TensorFlow's"}  # backend → its own way
LARGEST_OF_TORCH = 100_000
ROUNDS = 7


def inputs_of(num_classes):
    """Zipf counts, labels drawn from them, features, kernel and bias."""
    rng = np.random.default_rng(0)
    counts = np.maximum(1.0, 1e7 / np.arange(1, num_classes + 1))
    labels = rng.choice(num_classes, BATCH, p=counts / counts.sum()).astype("int32")
    features = rng.normal(size=(BATCH, WIDTH)).astype("float32")
    kernel = rng.normal(size=(num_classes, WIDTH)).astype("float32") / np.float32(WIDTH**0.5)
    return counts, labels, [features, kernel, np.zeros(num_classes, "float32")]


def losses_of(counts, labels):
    """Way → the mean loss as a function of features, kernel and bias."""
    import keras
    from keras import ops

    import keras_logit_adjust as kla

    log_prior = kla.priors.log_prior(counts)
    sampler = kla.losses.RivalSampler(counts, num_rivals=min(RIVALS, counts.size))

    def sampled(features, kernel, bias):
        rivals = sampler.draw(0, step=0)
        return ops.mean(
            kla.losses.sampled_logit_adjusted_crossentropy(
                labels, features, kernel, bias, log_prior, rivals=rivals, class_axis=0
            )
        )

    def chunked(features, kernel, bias):
        return ops.mean(
            kla.losses.linear_logit_adjusted_crossentropy(labels, features, kernel, bias, log_prior, class_axis=0)
        )

    def dense(features, kernel, bias):
        logits = ops.matmul(features, ops.transpose(kernel)) + bias
        return ops.mean(kla.losses.logit_adjusted_crossentropy(labels, logits, log_prior))

    def of_torch(features, kernel, bias):
        import torch

        prior = torch.as_tensor(log_prior, dtype=torch.float32)
        options = torch.nn.LinearCrossEntropyOptions()
        targets = torch.as_tensor(labels, dtype=torch.int64)
        return torch.nn.functional.linear_cross_entropy(
            features, kernel, targets, linear_bias=bias + prior, options=options
        )

    def of_tensorflow(features, kernel, bias):
        import tensorflow as tf

        values = tf.nn.sampled_softmax_loss(
            weights=kernel,
            biases=bias + tf.constant(log_prior, tf.float32),
            labels=labels[:, None],
            inputs=features,
            num_sampled=min(RIVALS, counts.size - 1),
            num_classes=counts.size,
            seed=0,
        )
        return tf.reduce_mean(values)

    losses = {"sampled": sampled, "chunked": chunked, "dense": dense}  # in the order of their memory
    backend = keras.backend.backend()
    if backend == "tensorflow" or (backend == "torch" and counts.size <= LARGEST_OF_TORCH):
        losses = {PEERS[backend]: of_tensorflow if backend == "tensorflow" else of_torch} | losses
    return losses


def with_jax(loss, arrays):
    import jax

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays)), compiled.memory_analysis().temp_size_in_bytes


def with_tensorflow(loss, arrays):
    import tensorflow as tf

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            value = loss(*arrays)
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, arrays)]

    return lambda: [np.asarray(gradient) for gradient in step()], None  # waits for the results without a copy


def with_torch(loss, arrays):
    arrays = [array.detach().clone().requires_grad_() for array in arrays]

    def step():
        for array in arrays:
            array.grad = None
        loss(*arrays).backward()
        return [array.grad for array in arrays]

    return step, None


def resident_peak():
    """The largest resident size of this process until now, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cosine(a, b):
    return float(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def measure(num_classes, rounds):
    """The rows of this process's backend for one size."""
    import keras
    from keras import ops

    backend = keras.backend.backend()
    prepare = {"jax": with_jax, "tensorflow": with_tensorflow, "torch": with_torch}[backend]
    counts, labels, arrays = inputs_of(num_classes)
    arrays = [ops.convert_to_tensor(array) for array in arrays]
    losses, steps, rows, gradients = losses_of(counts, labels), {}, {}, {}
    for way in losses:
        steps[way], temporaries = prepare(losses[way], arrays)
        before = resident_now()
        gradients[way] = [np.asarray(ops.convert_to_numpy(x)).ravel() for x in steps[way]()[:2]]
        rows[way] = {
            "backend": backend,
            "classes": num_classes,
            "way": way,
            "temporary_mb": None if temporaries is None else temporaries / 1e6,
            "peak_mb": resident_peak() - before,
        }
    for way in losses.keys() - {"dense"}:
        features, kernel = (cosine(a, b) for a, b in zip(gradients[way], gradients["dense"], strict=True))
        rows[way] |= {"cosine_features": features, "cosine_kernel": kernel}
    del gradients
    seconds = {way: [] for way in losses}
    for _ in range(rounds):
        for way in losses:
            start = time.perf_counter()
            steps[way]()
            seconds[way].append(time.perf_counter() - start)
    for way in losses:
        ratios = np.divide(seconds[way], seconds["dense"])
        rows[way] |= {"seconds": float(np.median(seconds[way])), "ratio": [float(f(ratios)) for f in SUMMARY]}
    return list(rows.values())


def resident_now():
    """The resident size of this process, in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def fit(num_classes):
    """The peak of this process, in MB, after three steps of `fit`."""
    import keras

    import keras_logit_adjust as kla

    counts, labels, (features, *_) = inputs_of(num_classes)
    inputs = keras.Input((WIDTH,))
    head = kla.layers.ManyClassDense(num_classes, counts)
    model = kla.layers.ManyClassModel(inputs, head(keras.layers.Dense(WIDTH, "relu")(inputs)))
    model.compile("adam")
    model.fit(features, labels, batch_size=BATCH, epochs=3, verbose=0)
    return resident_peak()


def in_own_process(backend, num_classes, rounds):
    """The measurements of a separate process at one size; with no rounds, the peak of `fit`."""
    command = [sys.executable, __file__, "--classes", str(num_classes), "--rounds", str(rounds), "--here"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


NAMES = {"dense": "all logits", "chunked": "by chunks", "sampled": f"{RIVALS:,} rivals"}
NAMES |= {"torch's": "`linear_cross_entropy` of torch's", "TensorFlow's": f"`sampled_softmax_loss`, {RIVALS:,} rivals"}
BACKEND_NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "torch"}


def to_markdown(results):
    """The table of the documentation from the results on file."""
    lines = [
        "| backend | classes | loss | seconds | times that of all logits | temporaries, MB | peak, MB "
        "| cosine, features | cosine, kernel |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(results["rows"], key=lambda row: (BACKENDS.index(row["backend"]), row["classes"])):
        median, low, high = row["ratio"]
        ratio = "1" if row["way"] == "dense" else f"{median:.3f} [{low:.3f}, {high:.3f}]"
        temporary = "" if row["temporary_mb"] is None else f"{row['temporary_mb']:,.0f}"
        cosines = (f"{row[key]:.5f}" if key in row else "" for key in ("cosine_features", "cosine_kernel"))
        cells = [
            BACKEND_NAMES[row["backend"]],
            f"{row['classes']:,}",
            NAMES[row["way"]],
            f"{row['seconds']:.2f}",
            ratio,
            temporary,
            f"{row['peak_mb']:,.0f}",
            *cosines,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"Loss and gradients, batches of {BATCH}, {WIDTH} features, kernel [L, D]; medians of {results['rounds']} "
        f"rounds in turn, in brackets the smallest and the largest. {results['machine']}."
    )
    peaks = ", ".join(f"{BACKEND_NAMES[b]} {mb / 1024:.1f} GiB" for b, mb in results["fit_peak_mb"].items())
    most = max(row["classes"] for row in results["rows"])
    fitted = f"Largest resident size of a process that trains {most:,} classes with Adam by the exact loss: {peaks}."
    return "\n".join([*lines, "", note, "", fitted])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # the option that each process is given
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.classes[0], options.rounds) if options.rounds else fit(options.classes[0])))
        return
    rows = []
    for backend in options.backends:
        for num_classes in options.classes:
            rows += in_own_process(backend, num_classes, options.rounds)
    peaks = {backend: in_own_process(backend, max(options.classes), 0) for backend in options.backends}
    import keras

    machine = f"{platform.machine()}, {os.cpu_count()} cores, Keras {keras.__version__}"
    results = {"machine": machine, "rounds": options.rounds, "rows": rows, "fit_peak_mb": peaks}
    print(to_markdown(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
