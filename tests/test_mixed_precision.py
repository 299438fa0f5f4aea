"""Half precision in numbers: 8,142 classes, priors down to 1e-9, and `fit` under both of Keras's mixed policies.

The budget of a loss on half-precision logits is the error that its formula has in NumPy's float32, plus a few units in
the last place of the result; a gradient comes back in half precision and may be rounded to it, once.
"""

import functools

import keras
import numpy as np
import pytest
import reference
from helpers.gradients import BACKEND, MODES, as_float64, value_and_gradient
from keras import ops

import keras_logit_adjust as kla
from keras_logit_adjust.losses import PairwiseMarginCrossentropy

L = 8142
COUNTS = np.round(np.geomspace(1_800_000, 1, L))  # a billion examples: the rarest class has π = 1e-9
PRIOR = COUNTS / COUNTS.sum()
LOG_PRIOR = np.log(PRIOR)
IDS = np.array([0, 2049, 4097, 8141])  # neither float16 nor bfloat16 holds the last three
HALVES = ["float16", "bfloat16"]
POLICIES = ["mixed_float16", "mixed_bfloat16"]
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of a half-precision number, relative to it
LARGEST = {"float16": 65504.0, "bfloat16": 3e38}
UNDERFLOW = {"float16": 2.0**-25, "bfloat16": 0.0}
ULP = 2.0**-23
ALPHA, MARGIN, RIVAL, SCALE = (np.linspace(*ends, L) for ends in ((0.5, 2), (-1, 2), (3, -3), (0.5, 1)))


# The formulas, in the precision of their arguments


def log_sum_exp(scores):
    top = scores.max(axis=-1, keepdims=True)
    return (top + np.log(np.exp(scores - top).sum(axis=-1, keepdims=True)))[..., 0]


def shifted_crossentropy(targets, logits, shift):
    """`Σ_y t_y·(lse(g) − g_y)` with `g = f + shift`, and its gradient."""
    scores = logits + shift
    gaps = log_sum_exp(scores)[..., None] - scores
    return (targets * gaps).sum(axis=-1), np.exp(-gaps) * targets.sum(axis=-1, keepdims=True) - targets


def error_log_odds(targets, logits, label_margin, rival_margin, scale):
    """`r_y` of equation 11 for one-hot targets, and its gradient."""
    chosen = targets == 1
    scores = scale * logits
    rivals = np.where(chosen, -np.inf, rival_margin + (scores - scores[chosen][:, None]))
    log_rivals = log_sum_exp(rivals)
    slope = scale * (np.exp(rivals - log_rivals[:, None]) - chosen)
    return (targets * label_margin).sum(axis=-1) + log_rivals, slope


def softplus(x):
    return np.logaddexp(x.dtype.type(0), x)


def equation_11(targets, logits, class_weight, *margins):
    weight = (targets * class_weight).sum(axis=-1)
    odds, slope = error_log_odds(targets, logits, *margins)
    return weight * softplus(odds), (weight * np.exp(-softplus(-odds)))[:, None] * slope


def focal(targets, logits, gamma):
    ones = np.ones_like(logits[0])
    odds, slope = error_log_odds(targets, logits, 0 * ones, 0 * ones, ones)
    log_p, log_error = -softplus(odds), -softplus(-odds)
    factor = np.exp(gamma * log_error)
    return -factor * log_p, (factor * (np.exp(log_error) - gamma * np.exp(log_p) * log_p))[:, None] * slope


def sigmoids(targets, logits, shift):
    scores = logits + shift
    values = (targets * softplus(-scores) + (1 - targets) * softplus(scores)).mean(axis=-1)
    return values, (np.exp(-softplus(-scores)) - targets) / targets.dtype.type(L)


LDAM = 15 * (COUNTS.min() / COUNTS) ** 0.25
EQUALIZED = np.where(PRIOR < 0.3 / L, np.log(0.05), 0.0)
SMALL_SHARE = (COUNTS / COUNTS.max()) ** 0.1
ZEROS, ONES = np.zeros(L), np.ones(L)
BALANCED = reference.class_balanced_weights(COUNTS, 0.9999)
LOG_ODDS = reference.log_odds(COUNTS, 2e9)
LOSSES = {
    "adjusted": (kla.losses.LogitAdjustedCrossentropy, [COUNTS], shifted_crossentropy, [LOG_PRIOR]),
    "adjusted, tau": (
        functools.partial(kla.losses.LogitAdjustedCrossentropy, tau=SCALE),
        [COUNTS],
        shifted_crossentropy,
        [SCALE * LOG_PRIOR],
    ),
    "binary": (kla.losses.BinaryLogitAdjustedCrossentropy, [COUNTS, 2e9], sigmoids, [LOG_ODDS]),
    "pairwise": (
        functools.partial(
            PairwiseMarginCrossentropy, class_weight=ALPHA, label_margin=MARGIN, rival_margin=RIVAL, logit_scale=SCALE
        ),
        [COUNTS],
        equation_11,
        [ALPHA, MARGIN, RIVAL, SCALE],
    ),
    "consistent": (
        functools.partial(PairwiseMarginCrossentropy.fisher_consistent, delta=PRIOR),
        [COUNTS],
        equation_11,
        [ONES, -LOG_PRIOR, LOG_PRIOR, ONES],
    ),
    "balanced": (PairwiseMarginCrossentropy.balanced, [COUNTS], equation_11, [1 / (L * PRIOR), ZEROS, ZEROS, ONES]),
    "adaptive": (kla.losses.AdaptiveMarginCrossentropy, [COUNTS], equation_11, [ONES, LDAM, ZEROS, ONES]),
    "adjusted adaptive": (
        PairwiseMarginCrossentropy.logit_adjusted_adaptive,
        [COUNTS],
        equation_11,
        [ONES, PRIOR.min() ** -0.25 * LDAM / 15 - LOG_PRIOR, LOG_PRIOR, ONES],
    ),
    "equalized": (kla.losses.EqualizedCrossentropy, [COUNTS], equation_11, [ONES, ZEROS, EQUALIZED, ONES]),
    "scaling": (
        kla.losses.VectorScalingCrossentropy,
        [COUNTS],
        equation_11,
        [ONES, -LOG_PRIOR, LOG_PRIOR, SMALL_SHARE],
    ),
    "class-balanced": (kla.losses.ClassBalancedCrossentropy, [COUNTS], equation_11, [BALANCED, ZEROS, ZEROS, ONES]),
    "focal": (kla.losses.FocalCrossentropy, [2.0], focal, [np.float64(2)]),
}
CORE = ["adjusted", "pairwise", "focal"]  # the rest are members of these
KINDS = [(name, "ids", "float16", MODES[0]) for name in LOSSES if name != "binary"]
KINDS += [(name, "ids", "bfloat16", MODES[-1]) for name in CORE]
KINDS += [(name, "rows", "float16", MODES[-1]) for name in [*CORE, "binary"]]
KINDS += [("adjusted", "ids", "bfloat16", mode) for mode in MODES[:-1]]


def one_hot(ids):
    return (np.arange(L) == np.asarray(ids)[:, None]).astype("float64")


@functools.cache
def half_logits(dtype):
    """Rows of usual logits, of well-fitted ones and of ones near float16's end, for each of the ids, as float64."""
    rng = np.random.default_rng(0)
    usual = rng.normal(0, 4, (IDS.size, L))
    fitted = rng.normal(0, 1, (IDS.size, L)) + 30 * one_hot(IDS)
    extreme = rng.uniform(-60_000, 60_000, (IDS.size, L))
    return as_float64(ops.cast(np.concatenate([usual, fitted, extreme]).astype("float32"), dtype))


@pytest.mark.parametrize(("name", "form", "dtype", "mode"), KINDS)
def test_the_error_of_a_loss_is_that_of_naive_float32(name, form, dtype, mode):
    make, arguments, formula, constants = LOSSES[name]
    logits = half_logits(dtype)
    labels = np.tile(IDS, 3)
    targets = one_hot(labels)
    value, gradient = value_and_gradient(
        make(*arguments, reduction=None),
        labels if form == "ids" else targets.astype("float32"),
        ops.cast(logits.astype("float32"), dtype),
        mode,
    )
    truth, slope = formula(targets, logits, *constants)
    naive, naive_slope = formula(*(np.asarray(x, "float32") for x in (targets, logits, *constants)))
    for rows in np.split(np.arange(labels.size), 3):
        budget = np.abs(naive - truth)[rows].max() + 2 * ULP * np.abs(truth[rows]).max() + ULP
        assert np.abs(value - truth)[rows].max() <= budget
        budget = np.abs(naive_slope - slope)[rows].max() + 4 * ULP
        rounded = np.clip(slope[rows], -LARGEST[dtype], LARGEST[dtype])
        rounding = ROUNDING[dtype] * np.abs(rounded) + UNDERFLOW[dtype]
        received = np.clip(gradient[rows], -LARGEST[dtype], LARGEST[dtype])
        assert (np.abs(received - rounded) <= budget + 1.01 * rounding).all()


def float32_copies(loss, labels, logits):
    """Float32 tensors like `logits`: in a step's memory (JAX), made in its graph, or kept for torch's gradient."""
    if BACKEND == "jax":
        import jax

        step = jax.jit(jax.value_and_grad(lambda logits: loss(labels, logits))).lower(logits).compile()
        return round(step.memory_analysis().temp_size_in_bytes / (4 * logits.size), 1)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(lambda logits: tf.gradients(loss(labels, logits), logits), autograph=False)
        made = [output for op in step.get_concrete_function(logits).graph.get_operations() for output in op.outputs]
        return sum(output.dtype == "float32" and output.shape == logits.shape for output in made)
    import torch

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        loss(labels, logits.detach().requires_grad_())
    return len({t.data_ptr() for t in kept if t.dtype == torch.float32 and t.shape == logits.shape})


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_logits_have_no_more_float32_copies_than_in_keras(dtype):
    logits, labels = ops.cast(half_logits(dtype).astype("float32"), dtype), ops.convert_to_tensor(np.tile(IDS, 3))
    theirs = float32_copies(keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels, logits)
    ours = float32_copies(kla.losses.LogitAdjustedCrossentropy(COUNTS), labels, logits)
    sums = int(BACKEND == "tensorflow")  # its graph names logits and prior apart; the sum takes the place of the logits
    assert 0 < ours <= theirs + sums


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_layers_do_not_round_the_prior(policy, dtype):
    keras.config.set_dtype_policy(policy)
    logits = half_logits(dtype)[: IDS.size]
    half = ops.cast(logits.astype("float32"), dtype)
    for target in (None, COUNTS[::-1]):
        shift = LOG_PRIOR if target is None else LOG_PRIOR - LOG_PRIOR[::-1]
        layer = kla.layers.LogitAdjustment(COUNTS, target_prior=target)
        np.testing.assert_allclose(as_float64(layer(half)), logits - shift, rtol=0, atol=40 * ULP)
        head = kla.layers.PriorAwareDense(L, COUNTS, target_prior=target, kernel_initializer="zeros")
        served, trained = (as_float64(head(half[:, :8], training=training)) for training in (False, True))
        assert (served == 0).all()
        np.testing.assert_allclose(trained, np.broadcast_to(shift, trained.shape), rtol=4 * ULP)
        assert layer.adjustment.dtype == head.adjustment.dtype == "float32"


@pytest.mark.parametrize("policy", POLICIES)
def test_adjusting_a_half_precision_head_does_not_round_the_prior(rng, policy):
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(L)])
    x = rng.normal(size=(3, 4)).astype("float32")
    adjusted = kla.adjust(model, COUNTS)(x)
    assert keras.backend.standardize_dtype(adjusted.dtype) == "float32"
    np.testing.assert_allclose(as_float64(adjusted), as_float64(model(x)) - LOG_PRIOR, rtol=0, atol=40 * ULP)


@pytest.mark.parametrize("policy", POLICIES)
def test_cosines_and_risks_are_float32s(rng, policy):
    keras.config.set_dtype_policy(policy)
    x = rng.normal(size=(6, 5)).astype("float32")
    cosine, kernel = kla.layers.CosineDense(4, scale=20), rng.normal(size=(5, 4))
    cosine.build(x.shape)
    cosine.set_weights([kernel])
    expected = 20 * (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(as_float64(cosine(x)), expected, rtol=0, atol=40 * ULP)
    costs = np.array([[0.0, 1.0, 2049.0]] * 3 + [[1e-3, 2047.0, 1.0]] * 2)
    shares = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    scores = kla.layers.MinimumRiskDecision(costs)(x)
    np.testing.assert_allclose(as_float64(scores), -shares @ costs, rtol=16 * ULP)


@pytest.mark.parametrize("policy", POLICIES)
def test_metrics_of_half_precision_scores_tell_neighbors_apart(policy):
    keras.config.set_dtype_policy(policy)
    labels = np.array([2048, 2049, 8140, 8141])
    guesses = np.array([2049, 2049, 8140, 8140])
    scores = ops.cast(one_hot(guesses).astype("float32"), policy.removeprefix("mixed_"))
    groups = {2048: "a", 2049: "b", 8140: "c", 8141: "d"}
    by_class, by_group = kla.metrics.PerClassAccuracy(L), kla.metrics.GroupAccuracy(COUNTS, groups=groups)
    precision, balanced = kla.metrics.PerClassPrecision(L), kla.metrics.BalancedAccuracy(L)
    for metric in (by_class, by_group, precision, balanced):
        metric.update_state(labels, scores)
    np.testing.assert_array_equal(as_float64(by_class.result())[labels], [0, 1, 1, 0])
    np.testing.assert_array_equal(as_float64(precision.result())[labels], [0, 0.5, 0.5, 0])
    assert [float(value) for value in by_group.result().values()] == [0, 1, 1, 0]
    assert float(balanced.result()) == 0.5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("head", ["dense", "prior-aware"])
def test_ids_of_a_sampler_reach_loss_and_metric_exactly(policy, head):
    keras.config.set_dtype_policy(policy)
    labels = np.repeat(IDS, [8, 4, 2, 2])
    features = np.eye(IDS.size, dtype="float32")[np.searchsorted(IDS, labels)]
    sampler = kla.data.LongTailSampler(labels, 8, seed=0, num_classes=L)
    layer, loss = keras.layers.Dense(L), kla.losses.LogitAdjustedCrossentropy(COUNTS)
    if head == "prior-aware":
        layer, loss = kla.layers.PriorAwareDense(L, COUNTS), keras.losses.SparseCategoricalCrossentropy(True)
    model = keras.Sequential([keras.Input((IDS.size,)), layer])
    kernel = 16 * one_hot(IDS)  # outweighs log 1,800,000
    model.set_weights([kernel, *model.get_weights()[1:]])
    model.compile(keras.optimizers.SGD(0.0), loss, metrics=[kla.metrics.PerClassAccuracy(L, name="recall")])
    make = sampler.dataset if BACKEND == "tensorflow" and head == "dense" else sampler.py_dataset
    batches, steps = make((features, labels)), sampler.steps_per_epoch
    history = model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0).history
    drawn = np.searchsorted(IDS, labels[np.concatenate([sampler.rows(step) for step in range(steps)])])
    costs, _ = shifted_crossentropy(one_hot(IDS)[drawn], kernel[drawn], LOG_PRIOR)
    np.testing.assert_allclose(history["loss"], [costs.mean()], rtol=1e-5)
    recall = np.asarray(history["recall"][0])
    assert np.flatnonzero(~np.isnan(recall)).tolist() == IDS.tolist()
    assert (recall[IDS] == 1).all()


# Loss scaling


SMALL = np.array([61, 30, 5])
SMALL_IDS = np.repeat([0, 1, 2], SMALL)
ROWS = (np.random.default_rng(1).normal(size=(96, 4)) + np.eye(3, 4)[SMALL_IDS]).astype("float32")


def train(policy, epochs, loss, optimizer=None, callbacks=(), streaming=None):
    """Losses of the epochs, a batch each, and weights after them, from the same start."""
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((4,))
    if streaming is None:
        model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="zeros")(inputs))
    else:
        head = kla.layers.StreamingPriorDense(3, streaming, kernel_initializer="zeros")
        model = kla.priors.CountingModel(inputs, head(inputs))
    model.compile(optimizer or keras.optimizers.SGD(0.5), loss)
    options = {"batch_size": 96, "epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    losses = model.fit(ROWS, SMALL_IDS, **options).history["loss"]
    return losses, [as_float64(weight) for weight in model.trainable_weights]


def assert_close(half, single, policy):
    """Losses and weights of a half-precision run against float32's: Dense layers round each number they give."""
    np.testing.assert_allclose(half[0], single[0], rtol=4 * ROUNDING[policy.removeprefix("mixed_")])
    for ours, theirs in zip(half[1], single[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * ROUNDING[policy.removeprefix("mixed_")])


@functools.cache
def train_in_stages(policy):
    stages = kla.callbacks.DeferredReweighting({2: [0.5, 1.0, 8.0]})
    loss = kla.losses.PairwiseMarginCrossentropy(SMALL, label_margin=[0.0, 0.5, 1.0])
    return train(policy, 4, loss, callbacks=[stages])


@functools.cache
def train_with_streaming_prior(policy):
    streaming = kla.priors.StreamingPrior(3)
    run = train(policy, 5, keras.losses.SparseCategoricalCrossentropy(True), streaming=streaming)
    assert streaming.class_counts.tolist() == (5 * SMALL).tolist()  # 305, which bfloat16 does not hold
    return run


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("run", [train_in_stages, train_with_streaming_prior])
def test_half_precision_trains_as_float32_does(run, policy):
    assert_close(run(policy), run("float32"), policy)


def test_a_step_that_overflows_is_skipped_and_training_goes_on():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=2.0**20)
    loss = kla.losses.LogitAdjustedCrossentropy(SMALL)
    losses, weights = train("mixed_float16", 8, loss, optimizer)
    skipped = 8 - int(optimizer.inner_optimizer.iterations)
    assert 0 < skipped < 6
    expected, _ = shifted_crossentropy(np.eye(3)[SMALL_IDS], np.zeros((96, 3)), np.log(SMALL / 96))
    np.testing.assert_allclose(losses[: skipped + 1], expected.mean(), rtol=1e-6)  # unscaled, from the same weights
    single = train("float32", 8 - skipped, loss)
    assert_close((losses[skipped:], weights), single, "mixed_float16")
