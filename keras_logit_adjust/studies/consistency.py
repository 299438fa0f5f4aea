"""Two Gaussian classes, one rare: which methods approach the Bayes balanced error as the sample grows (§6.1)?

`y = ±1` with `P(y = +1) = 5 %` and `x | y ~ N(y·(1, 1), σ²·I)`, `σ = 1`. The scorer is affine, and the Bayes rule is a
line through the origin. So the error above the Bayes error is caused by the method. Errors are exact: the normal
distribution function gives them, not a test sample.
"""

import contextlib

import keras
import numpy as np
from scipy import special
from tqdm import tqdm

from keras_logit_adjust import _checks, losses
from keras_logit_adjust.compare import storage
from keras_logit_adjust.studies.table import Table

PRIOR = np.array([0.95, 0.05])
SIZES = (100, 300, 1000, 3000, 10_000)
_SMALLEST = 20  # examples: one of them is rare on average
TITLES = {
    "erm": "cross-entropy (ERM)",
    "adaptive": "adaptive margins (LDAM)",
    "equalized": "equalized loss",
    "weight_norm": "weight normalization",
    "la": "logit adjustment",
}
BAYES_ERROR = float(100 * special.ndtr(-np.sqrt(2.0)))
# The rule of the least plain error is 2(x₁ + x₂) + log(0.05/0.95) > 0; its score has the deviation 2√2.
_SHIFT = np.log(PRIOR[0] / PRIOR[1])
ERM_ERROR = float(50 * special.ndtr((np.array([_SHIFT, -_SHIFT]) - 4) / np.sqrt(8.0)).sum())


def run(folder, *, sizes=SIZES, trials=100, steps=400, seed=0):
    """Fit affine scorers with every loss on every sample size, all trials of one size at once."""
    sizes = sorted({_checks.check_integer(size, "sizes", minimum=_SMALLEST) for size in np.ravel(sizes).tolist()})
    if not sizes:
        raise _checks.ArgumentError("sizes", "`sizes` must name a number of training examples. Received none.")
    trials, steps = (_checks.check_integer(v, name, 1) for v, name in ((trials, "trials"), (steps, "steps")))
    seed = _checks.check_seed(seed)
    fits = _fit_missing(folder, sizes=sizes, trials=trials, steps=steps, seed=seed)
    errors = [{name: balanced_error(rule) for name, rule in _rules(fits[size]).items()} for size in sizes]
    return {
        "sizes": sizes,
        "trials": trials,
        "balanced_error": {
            name: {
                "mean": [float(np.mean(found[name])) for found in errors],
                "std": [float(np.std(found[name])) for found in errors],
            }
            for name in TITLES
        },
        "loss_against_posthoc": [float(np.abs(found["la"] - found["la_posthoc"]).mean()) for found in errors],
        "bayes_error": BAYES_ERROR,
        "erm_error": ERM_ERROR,
    }


def _fit_missing(folder, *, sizes, trials, steps, seed):
    """`{size: {loss: weights [T, 3, 2]}}`; results on disk are not fitted again."""
    folder.mkdir(parents=True, exist_ok=True)
    fits = {size: {} for size in sizes}
    for size, name in tqdm([(size, name) for size in sizes for name in _losses()], unit="fit", leave=False, delay=2):
        path = folder / f"{name}_{size}_{trials}_{steps}_{seed}_{keras.backend.backend()}.npz"
        weights = None
        # A damaged archive raises errors of many types, from zipfile, zlib or NumPy.
        with contextlib.suppress(Exception), np.load(path) as stored:
            weights = stored["weights"]
        if weights is None:
            weights = fit_affine(*_sample(size, trials, seed=seed), loss=_losses()[name], steps=steps)
            storage.write_npz(path, {"weights": weights})
        fits[size][name] = weights.astype("float64")
    return fits


def _rules(fits):
    """The affine rules that are compared, from the fitted ones."""
    plain, only_bias = fits["erm"], np.array([[0.0], [0.0], [1.0]])
    normalized = plain / np.linalg.norm(plain, axis=1, keepdims=True)  # the bias is the weight of the constant feature
    return {**fits, "weight_norm": normalized, "la_posthoc": plain - np.log(PRIOR) * only_bias}


def _losses():
    return {
        "erm": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # With this margin, the margins of LDAM are the paper's π_y^(−¼).
        "adaptive": losses.AdaptiveMarginCrossentropy(PRIOR, max_margin=float(PRIOR.min() ** -0.25)),
        "equalized": losses.EqualizedCrossentropy(PRIOR),
        "la": losses.LogitAdjustedCrossentropy(PRIOR),
    }


def _sample(size, trials, *, seed):
    """Samples `[trials, size, 3]`, whose third column is 1 for the bias, and ids `[trials, size]`, 1 if rare."""
    rng = np.random.default_rng([seed, size])
    y = (rng.random((trials, size)) < PRIOR[1]).astype("int32")
    x = rng.normal(size=(trials, size, 2)) + np.where(y == 1, 1.0, -1.0)[..., None]
    return np.concatenate([x, np.ones((trials, size, 1))], axis=-1).astype("float32"), y


def fit_affine(x, y, *, loss, steps):
    """Weights `[T, 3, 2]` that minimize the loss on each trial's own sample, by full-batch Adam at a falling rate."""
    # one affine scorer for each trial
    scorers = keras.layers.EinsumDense("tnd,tdc->tnc", output_shape=(x.shape[1], 2), kernel_initializer="zeros")
    model = keras.Sequential([keras.Input(batch_shape=x.shape), scorers])
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, steps)), loss)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model.get_weights()[0]


def balanced_error(weights):
    """The exact balanced error in percent of affine rules `[T, 3, 2]`.

    Example:

    >>> through_origin = np.array([[[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]])
    >>> abs(balanced_error(through_origin)[0] - BAYES_ERROR) < 1e-12
    np.True_
    """
    difference = weights[:, :, 1] - weights[:, :, 0]
    slope, bias = difference[:, :2], difference[:, 2]
    deviation, distance = np.linalg.norm(slope, axis=1), slope.sum(axis=1)
    missed, alarms = special.ndtr(-(distance + bias) / deviation), special.ndtr((bias - distance) / deviation)
    return 50 * (missed + alarms)


def table(results):
    """A row for each method, a column for each sample size."""
    return Table(
        f"Two Gaussian classes at prior {PRIOR[0]:.0%} / {PRIOR[1]:.0%}, affine scorers, {results['trials']} trials",
        ["method", *(f"{size:,}" for size in results["sizes"])],
        [
            [TITLES[name], *(f"{m:.2f} ± {s:.2f}" for m, s in zip(found["mean"], found["std"], strict=True))]
            for name, found in results["balanced_error"].items()
        ],
        f"""\
Balanced error in percent by number of training examples, mean ± deviation over trials.
The Bayes balanced error is {BAYES_ERROR:.2f}. The error of ERM tends to {ERM_ERROR:.2f}.
The adjusted loss and post-hoc adjustment are one rule here: at the largest sample they differ by \
{results["loss_against_posthoc"][-1]:.3f} points.
The equalized loss and adaptive margins tend to other rules: the equalized loss uses only the rival's frequency,
adaptive margins only the label's.
Weight normalization changes nothing, because the weights of two classes mirror each other.""",
    )


def figure(results):
    """Balanced error against sample size."""
    from keras_logit_adjust import plots

    return plots.error_by_sample_size(
        results["sizes"],
        {TITLES[name]: found for name, found in results["balanced_error"].items()},
        lines={"Bayes": results["bayes_error"], "ERM, infinite sample": results["erm_error"]},
    )
