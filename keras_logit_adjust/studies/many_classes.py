"""Very many classes with Zipf counts, trained end to end: how far is each loss from the Bayes rule?

Each class is a normal distribution around a prototype in 64 dimensions. The rule with the least balanced error takes
the nearest prototype. It is linear in the input, so a linear head can express it. The distance of a loss to this rule
has two causes: the examples are few (most classes have one or two), and the training is not perfect.
"""

import contextlib
import time
import typing

import keras
import numpy as np
from tqdm import tqdm

from keras_logit_adjust import _checks, data, layers, metrics, priors
from keras_logit_adjust.compare import storage
from keras_logit_adjust.compare.report import GROUPS, in_seeds
from keras_logit_adjust.compare.statistics import show, spread
from keras_logit_adjust.studies.table import Table

NUM_CLASSES, RIVALS, EPOCHS = 100_000, (64, 512, 8192), 5
EXAMPLES_A_CLASS = 3
WIDTH, NOISE = 64, 1.0  # the prototypes have a deviation of 1 in each dimension
TESTED = 5000  # test examples in each group of classes
BATCH, RATE = 1024, 0.003
# The features are 30 times as large as the inputs, and the kernel is smaller by the same factor. So one rate suits the
# kernel, whose rows get few gradients, and also the layer, which all examples train.
GAIN = 30.0
BOUNDS = {
    "bayes": "Bayes rule: nearest prototype",
    "bayes_plain": "rule of the least plain error",
    "examples": "best rule that knows the examples alone",
}
_FITTED = {"erm": "cross-entropy (ERM)", "la_posthoc": "ERM, adjusted post hoc", "la": "adjusted loss, exact"}
_BLOCK = 200  # test examples whose scores of all classes are in memory at once


class Sample(typing.NamedTuple):
    """All random data of one seed.

    Attributes:
        class_counts: int `[L]`, the most frequent class first.
        prototypes: float32 `[L, WIDTH]`.
        train: inputs float32 `[N, WIDTH]` and ids.
        test: the same for `TESTED` examples of each group that has classes, one group after the other.
        groups: `{group: number of its classes}`, without those that have none.
    """

    class_counts: np.ndarray
    prototypes: np.ndarray
    train: tuple
    test: tuple
    groups: dict


def run(folder, *, num_classes=NUM_CLASSES, rivals=RIVALS, epochs=EPOCHS, seeds=3):
    """Train with each loss and seed, and measure on test examples from the known distributions."""
    num_classes = _checks.check_integer(num_classes, "num_classes", minimum=2)
    rivals = sorted({_checks.check_integer(number, "rivals", minimum=1) for number in np.ravel(rivals).tolist()})
    if not rivals or rivals[-1] > num_classes:
        received = f"rivals={rivals[-1]}" if rivals else "none"
        raise _checks.ArgumentError(
            "rivals",
            f"`rivals` must be numbers of drawn rivals, each at most {num_classes}, the number of classes. Received: "
            f"{received}.",
        )
    epochs, seeds = (_checks.check_integer(v, name, 1) for v, name in ((epochs, "epochs"), (seeds, "seeds")))
    folder.mkdir(parents=True, exist_ok=True)
    found, names = {}, ["bounds", *heads(rivals)]
    progress = tqdm(total=seeds * len(names), unit="training", leave=False, delay=2)
    for seed in range(seeds):
        sample = draw(num_classes, seed=seed)
        for name in names:
            path = folder / f"{name}_{num_classes}_{epochs}_{seed}_{keras.backend.backend()}.npz"
            predicted, minutes = _stored(path, name, sample, rivals=rivals, epochs=epochs, seed=seed)
            for rule, ids in predicted.items():
                rows = found.setdefault(rule, {"minutes": [], **{key: [] for key in ("balanced", *sample.groups)}})
                # The bounds are computed without training.
                rows["minutes"].append(None if name == "bounds" else minutes)
                for key, value in accuracies(ids, sample).items():
                    rows[key].append(value)
            progress.update()
    progress.close()
    return {
        "num_classes": num_classes,
        "num_examples": int(sample.class_counts.sum()),
        "seen_once": int((sample.class_counts == 1).sum()),
        "largest_count": int(sample.class_counts.max()),
        "groups": sample.groups,
        "epochs": epochs,
        "seeds": seeds,
        "methods": found,
    }


def heads(rivals):
    """`{name: options of the head}` of all trainings; exact ones come last, because they take longest."""
    drawn = {f"partition_{number}": {"num_rivals": number} for number in rivals}
    # "posterior" is made for few rivals. It depends on the distribution from which rivals are drawn.
    posterior = {
        f"posterior{'-uniform' if by == 'uniform' else ''}_{number}": {
            "num_rivals": number,
            "estimator": "posterior",
            "distribution": by,
        }
        for by in ("log_uniform", "uniform")
        for number in rivals[:-1]
    }
    return {**drawn, **posterior, "batch": {"num_rivals": "batch"}, "la": {}, "erm": {"tau": 0.0}}


def titles(names):
    """`{name: title}` of rows."""
    known = {**BOUNDS, **_FITTED, "batch": "adjusted loss, in-batch rivals"}
    return {name: known.get(name) or _title(*name.split("_")) for name in names}


def _title(estimator, number):
    return f"adjusted loss, {int(number):,} rivals, {estimator.replace('-uniform', ', drawn uniformly')}"


def _stored(path, name, sample, *, rivals, epochs, seed):
    """`{rule: predicted ids}` and minutes of CPU time, from disk if they are stored there."""
    # A damaged archive raises errors of many types, from zipfile, zlib or NumPy.
    with contextlib.suppress(Exception), np.load(path) as stored:
        found = dict(stored)
        return found, float(found.pop("minutes"))
    start = time.process_time()
    if name == "bounds":
        found = bounds(sample)
    else:
        found = fit(sample, options=heads(rivals)[name], epochs=epochs, seed=seed)
        if name != "erm":
            found = {name: found["la"]}
    minutes = (time.process_time() - start) / 60
    storage.write_npz(path, {**found, "minutes": minutes})
    return found, minutes


def draw(num_classes, *, seed, noise=NOISE):
    """A `Sample` of prototypes, training and test examples."""
    rng = np.random.default_rng([seed, num_classes])
    counts = data.zipf_counts(num_classes, num_examples=EXAMPLES_A_CLASS * num_classes)
    prototypes = rng.normal(size=(num_classes, WIDTH)).astype("float32")
    of_class = np.array(metrics.groups_of_counts(counts))
    members = {group: np.flatnonzero(of_class == group) for group in GROUPS}
    members = {group: ids for group, ids in members.items() if ids.size}

    def around(ids):
        return prototypes[ids] + noise * rng.standard_normal((ids.size, WIDTH), dtype="float32"), ids.astype("int32")

    train = around(rng.permutation(np.repeat(np.arange(num_classes), counts)))
    test = around(np.concatenate([rng.choice(ids, TESTED) for ids in members.values()]))
    return Sample(counts, prototypes, train, test, {group: int(ids.size) for group, ids in members.items()})


def bounds(sample, noise=NOISE):
    """`{rule: predicted ids}` of rules that know the distributions, or their law and the training examples.

    Prototypes are draws from N(0, I). After n examples with the mean x̄ the next one is a draw from N(n·x̄/(n + σ²),
    σ²·(1 + 1/(n + σ²))·I). The examples allow nothing better than the most likely class under this law.
    """
    x, ids = sample.train
    n, known = sample.class_counts, np.full(sample.class_counts.size, noise**2)
    log_prior = priors.log_prior(n)
    order = np.argsort(ids, kind="stable")
    sums = np.add.reduceat(x[order], np.cumsum(n) - n, axis=0)
    estimated = sums / (n + noise**2)[:, None]
    return {
        "bayes": _most_likely(sample.test[0], sample.prototypes, known, 0.0),
        "bayes_plain": _most_likely(sample.test[0], sample.prototypes, known, log_prior),
        "examples": _most_likely(sample.test[0], estimated, noise**2 * (1 + 1 / (n + noise**2)), 0.0),
    }


def _most_likely(x, means, variances, log_prior):
    """The ids of the largest log-densities of normal distributions; each class has its mean and variance."""
    kernel = (means / variances[:, None]).astype("float32")
    bias = log_prior - (np.square(means).sum(axis=1) / variances + WIDTH * np.log(variances)) / 2
    found = []
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        scores = part @ kernel.T + bias.astype("float32")
        scores -= np.square(part).sum(axis=1, keepdims=True) * (0.5 / variances).astype("float32")
        found.append(scores.argmax(axis=1))
    return np.concatenate(found)


def fit(sample, *, options, epochs, seed):
    """`{rule: predicted ids}` of one training: "la" for its scores; or "erm", and for the same scores less `log π`."""
    (x, y), counts = sample.train, sample.class_counts
    batch = min(BATCH, max(8, len(x) // 100))
    steps = len(x) // batch
    inputs = keras.Input((WIDTH,))
    rotation = keras.initializers.Orthogonal(GAIN, seed=seed)
    features = keras.layers.Dense(WIDTH, use_bias=False, kernel_initializer=rotation)(inputs)
    head = layers.ManyClassDense(counts.size, counts, kernel_initializer="zeros", seed=seed, **options)
    model = layers.ManyClassModel(inputs, head(features))
    # A fifth of the gradient of one example for its class. With a smaller epsilon, Adam replaces the few gradients of
    # a rare class by their signs.
    epsilon = 0.25 * GAIN / batch
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * steps)
    model.compile(keras.optimizers.Adam(rate, epsilon=epsilon))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(x))[: steps * batch]  # whole batches; the examples left over differ between epochs
        model.fit(x[order], y[order], batch_size=batch, shuffle=False, verbose=0)

    def predicted():
        return model.predictor(1).predict(sample.test[0], batch_size=_BLOCK, verbose=0)["ids"][:, 0]

    if not head.is_plain:
        return {"la": predicted()}
    plain = predicted()
    head.bias.assign_sub(priors.log_prior(counts).astype("float32"))
    return {"erm": plain, "la_posthoc": predicted()}


def accuracies(predicted, sample):
    """Accuracy in percent of each group, and balanced: every class has the same weight."""
    hits = (predicted == sample.test[1]).reshape(len(sample.groups), -1).mean(axis=1)
    share = np.array(list(sample.groups.values())) / sample.class_counts.size
    groups = dict(zip(sample.groups, (100 * hits).tolist(), strict=True))
    return {"balanced": float(100 * hits @ share), **groups}


def table(results):
    """A row for each rule and loss."""
    methods, groups = results["methods"], results["groups"]
    best = np.array(methods["bayes"]["balanced"])
    rows = [
        [
            title,
            show(spread(methods[name]["balanced"])),
            "" if name == "bayes" else show(spread(best - methods[name]["balanced"])),
            *(show(spread(methods[name][group])) for group in groups),
            "" if name in BOUNDS else f"{np.mean(methods[name]['minutes']):.1f}",
        ]
        for name, title in titles(_in_order(methods)).items()
    ]
    sizes = ", ".join(f"{number:,} {group}" for group, number in groups.items())
    return Table(
        f"{results['num_classes']:,} classes ({sizes}), {results['num_examples']:,} training examples by Zipf's law "
        f"({results['largest_count']:,} to 1 a class, {results['seen_once']:,} classes with one), "
        f"{results['epochs']} epochs, {in_seeds(results['seeds'])}",
        ["method", "balanced top-1 %", "below Bayes (points)", *(f"{group} %" for group in groups), "CPU min"],
        rows,
        f"""\
Means, ± standard deviation over seeds, each of which redraws prototypes, examples and initialization. Many: at least
100 training examples; few: at most 20; medium between. {TESTED:,} test examples of each group, from the known
distributions; balanced: every class has the same weight. The first three rows are computed, not trained. The
third knows the law that prototypes are drawn from, and the training examples: no other rule that knows only these does
better on average. CPU minutes are for training and prediction, summed over all cores.""",
    )


def _in_order(methods):
    """Bounds first, then exact losses, then drawn rivals."""
    first = [*BOUNDS, *_FITTED]
    return [*first, *(name for name in methods if name not in first)]


def figure(results):
    """Bars of the accuracy of each group of classes."""
    from keras_logit_adjust import plots

    methods = results["methods"]
    return plots.group_accuracy(
        {
            title: {
                group: {"mean": np.mean(values), "std": np.std(values, ddof=1) if len(values) > 1 else None}
                for group, values in ((group, methods[name][group]) for group in results["groups"])
            }
            for name, title in titles(_in_order(methods)).items()
        }
    )
