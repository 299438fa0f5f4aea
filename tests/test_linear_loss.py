"""The loss of a linear head by chunks of classes, against float64 arithmetic of the formula on all logits."""

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import as_float64
from helpers.gradients import BACKEND, MODES, quickly, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_logit_adjust.losses import (
    binary_logit_adjusted_crossentropy,
    linear_logit_adjusted_crossentropy,
    logit_adjusted_crossentropy,
)

L, D = 11, 3
COUNTS = np.arange(L, 0, -1.0) ** 3
LOG_PRIOR = reference.log_prior(COUNTS)
VECTOR = np.linspace(0.5, 2, L)
QUICKEST = "jit" if BACKEND == "jax" else "eager"  # op by op, JAX compiles each operation for each shape
COMPILED = MODES[-1]  # where there is a compiler
VALUES, GRADIENTS = {"rtol": 1e-5, "atol": 1e-6}, {"rtol": 1e-5, "atol": 2e-6}


def head(rng, *leading, num_classes=L, width=D, class_axis=-1):
    """Ids, features, kernel, bias and weights of the values."""
    shape = (num_classes, width) if class_axis == 0 else (width, num_classes)
    arrays = rng.normal(0, 2, (*leading, width)), rng.normal(0, 1, shape), rng.normal(0, 1, num_classes)
    weight = rng.uniform(0.5, 2, leading)
    return rng.integers(0, num_classes, leading), *(array.astype("float32") for array in (*arrays, weight))


def oracle(ids, features, kernel, bias, weight, *, tau=1.0, log_prior=LOG_PRIOR, class_axis=-1, label_smoothing=0.0):
    """Weighted values and the gradients of their sum by features, kernel and bias, in float64."""
    features, kernel, bias, weight = (np.asarray(x, "float64") for x in (features, kernel, bias, weight))
    by_class = kernel if class_axis == 0 else kernel.T
    num_classes = len(bias)
    targets = np.eye(num_classes)[ids] * (1 - label_smoothing) + label_smoothing / num_classes
    scores = features @ by_class.T + bias + np.multiply(tau, log_prior)
    values, slopes = reference.over_rows(reference.crossentropy, targets, scores)
    slopes = slopes * weight[..., None]
    flat = slopes.reshape(-1, num_classes)
    into_kernel = flat.T @ features.reshape(-1, features.shape[-1])
    return values * weight, [slopes @ by_class, into_kernel if class_axis == 0 else into_kernel.T, flat.sum(axis=0)]


def ours(ids, features, kernel, bias, weight, *, mode=QUICKEST, log_prior=LOG_PRIOR, **options):
    def weighted(features, kernel, bias):
        values = linear_logit_adjusted_crossentropy(ids, features, kernel, bias, log_prior, **options)
        return ops.multiply(values, weight)

    value, gradients = value_and_gradients(weighted, (features, kernel, bias), mode)
    return as_float64(value), [as_float64(gradient) for gradient in gradients]


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], **VALUES)
    for gradient, truth in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(gradient, truth, **GRADIENTS)


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
@pytest.mark.parametrize("class_axis", [0, -1])
def test_value_and_gradients_are_those_of_the_formula(rng, chunk_size, class_axis):
    arrays = head(rng, 6, class_axis=class_axis)
    assert_same(
        ours(*arrays, class_axis=class_axis, chunk_size=chunk_size, tau=VECTOR),
        oracle(*arrays, class_axis=class_axis, tau=VECTOR),
    )


OTHER_MODES = [
    pytest.param(mode, marks=pytest.mark.slow) if BACKEND == "jax" else mode for mode in MODES if mode != QUICKEST
]


@pytest.mark.parametrize("mode", OTHER_MODES)
@pytest.mark.parametrize("class_axis", [0, -1])
def test_in_every_other_mode_it_is_the_same(rng, mode, class_axis):
    arrays = head(rng, 4, 2, class_axis=class_axis)
    options = {"class_axis": class_axis, "label_smoothing": 0.1}
    assert_same(ours(*arrays, mode=mode, chunk_size=4, **options), oracle(*arrays, **options))


@settings(max_examples=5 if BACKEND == "jax" else 20)
@given(
    leading=st.lists(st.integers(0, 3), max_size=3),
    num_classes=st.integers(2, 9),
    width=st.integers(1, 4),
    chunk_size=st.integers(1, 10),
    class_axis=st.sampled_from([0, -1]),
    label_smoothing=st.sampled_from([0.0, 0.2]),
)
def test_any_shape_gives_the_formula(leading, num_classes, width, chunk_size, class_axis, label_smoothing):
    arrays = head(np.random.default_rng(1), *leading, num_classes=num_classes, width=width, class_axis=class_axis)
    log_prior = reference.log_prior(range(1, num_classes + 1))
    options = {"class_axis": class_axis, "label_smoothing": label_smoothing, "log_prior": log_prior}
    assert_same(ours(*arrays, chunk_size=chunk_size, **options), oracle(*arrays, **options))


def test_it_equals_the_loss_of_the_logits(rng):
    ids, features, kernel, bias, _ = head(rng, 5)
    options = {"label_smoothing": 0.3, "ignore_class": int(ids[0]), "tau": 2.0}

    @quickly
    def both(features):
        chunked = linear_logit_adjusted_crossentropy(
            ids[:, None], features, kernel, bias, LOG_PRIOR, chunk_size=4, **options
        )
        logits = ops.matmul(features, kernel) + bias
        return chunked, logit_adjusted_crossentropy(ids[:, None], logits, LOG_PRIOR, **options)

    np.testing.assert_allclose(*map(as_float64, both(features)), **VALUES)


def test_without_a_bias_it_is_that_of_a_bias_of_zero(rng):
    ids, features, kernel, bias, _ = head(rng, 5)

    @quickly
    def both(features):
        return [linear_logit_adjusted_crossentropy(ids, features, kernel, b, LOG_PRIOR) for b in (None, 0 * bias)]

    np.testing.assert_array_equal(*map(as_float64, both(features)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_add_up_in_float32_or_more(rng, dtype):
    if dtype == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 by default")
    ids, *arrays, weight = head(rng, 64)
    arrays = [ops.cast(array, dtype) for array in arrays]
    expected = oracle(ids, *(as_float64(array) for array in arrays), weight)
    value, gradients = value_and_gradients(
        lambda *arrays: ops.multiply(
            ops.cast(linear_logit_adjusted_crossentropy(ids, *arrays, LOG_PRIOR, chunk_size=4), "float32"), weight
        ),
        arrays,
        QUICKEST,
    )
    np.testing.assert_allclose(as_float64(value), expected[0], **VALUES)
    rounding, atol = {"float16": (2.0**-11, 1e-5), "bfloat16": (2.0**-8, 1e-5), "float64": (1e-11, 1e-13)}[dtype]
    for gradient, truth in zip(gradients, expected[1], strict=True):
        assert keras.backend.standardize_dtype(gradient.dtype) == dtype
        np.testing.assert_allclose(as_float64(gradient), truth, rtol=1.1 * rounding, atol=atol)


def test_one_precision_may_meet_another(rng):
    ids, features, kernel, bias, weight = head(rng, 8)
    half = as_float64(ops.cast(features, "bfloat16"))
    value, gradients = value_and_gradients(
        lambda *arrays: ops.multiply(linear_logit_adjusted_crossentropy(ids, *arrays, LOG_PRIOR, chunk_size=4), weight),
        (ops.cast(features, "bfloat16"), kernel, bias),
        QUICKEST,
    )
    expected = oracle(ids, half, kernel, bias, weight)
    np.testing.assert_allclose(as_float64(value), expected[0], **VALUES)
    np.testing.assert_allclose(as_float64(gradients[1]), expected[1][1], **GRADIENTS)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_large_and_missing_logits_stay_exact(chunk_size):
    bias, log_prior = np.array([3e4, 3e4, -3e4, -np.inf], "float32"), np.log([0.25] * 4)
    options = {"kernel": np.zeros((1, 4), "float32"), "log_prior": log_prior, "chunk_size": chunk_size}
    values = quickly(lambda x: linear_logit_adjusted_crossentropy(np.arange(3), x, bias=bias, **options))
    np.testing.assert_allclose(as_float64(values(np.ones((3, 1), "float32"))), np.log(2) + [0, 0, 6e4], rtol=1e-6)


def test_an_id_that_is_no_class_gives_nan_and_no_other_does(rng):
    _, *arrays, weight = head(rng, 5)
    ids = np.array([0, L, -1, 2.5, L - 1], "float32")
    value, gradients = ours(ids, *arrays, weight, mode=COMPILED, chunk_size=4)
    np.testing.assert_array_equal(np.isnan(value), [False, True, True, True, False])
    np.testing.assert_array_equal(np.isnan(gradients[0]).all(axis=-1), [False, True, True, True, False])


def test_what_is_ignored_does_no_harm_whatever_its_features(rng):
    ids, features, kernel, bias, weight = head(rng, 4)
    ids[1], features[1] = 255, np.nan
    kept = [0, 2, 3]
    value, gradients = ours(ids, features, kernel, bias, weight, mode=COMPILED, chunk_size=4, ignore_class=255)
    expected = oracle(ids[kept], features[kept], kernel, bias, weight[kept])
    assert value[1] == 0 and (gradients[0][1] == 0).all()
    assert_same((value[kept], [gradients[0][kept], *gradients[1:]]), expected)


def test_a_mask_of_the_features_is_kept():
    masking, kernel, log_prior = keras.layers.Masking(), np.ones((2, 3), "float32"), np.log([1 / 3] * 3)
    loss = quickly(lambda x: linear_logit_adjusted_crossentropy([[0, 7]], masking(x), kernel, None, log_prior))
    values = loss(np.array([[[1.0, 2.0], [0.0, 0.0]]], "float32"))
    np.testing.assert_allclose(as_float64(values), [[np.log(3), 0.0]], rtol=1e-6)


def test_a_variable_serves_as_kernel_and_gets_its_gradient(rng):
    ids, features, kernel, bias, weight = head(rng, 5)
    layer = keras.layers.Dense(L)
    layer.build((None, D))
    layer.set_weights([kernel, bias])

    def total():
        values = linear_logit_adjusted_crossentropy(ids, features, layer.kernel, layer.bias, LOG_PRIOR, chunk_size=4)
        return ops.sum(ops.multiply(values, weight))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = total()
        gradients = tape.gradient(value, [layer.kernel.value, layer.bias.value])
    elif BACKEND == "torch":
        total().backward()
        gradients = [layer.kernel.value.grad, layer.bias.value.grad]
    else:
        import jax

        def stateless(values):
            pairs = zip(layer.trainable_variables, values, strict=True)
            with keras.StatelessScope(state_mapping=list(pairs)):
                return total()

        gradients = jax.jit(jax.grad(stateless))([variable.value for variable in layer.trainable_variables])
    for gradient, truth in zip(gradients, oracle(ids, features, kernel, bias, weight)[1][1:], strict=True):
        np.testing.assert_allclose(as_float64(gradient), truth, **GRADIENTS)


def test_a_second_derivative_is_refused(rng):
    ids, features, kernel, bias, _ = head(rng, 5)

    def total(features):
        return ops.sum(linear_logit_adjusted_crossentropy(ids, features, kernel, bias, LOG_PRIOR, chunk_size=4))

    with pytest.raises(NotImplementedError, match="has no second derivatives"):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            x = tf.constant(features)
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    value = total(x)
                gradient = inner.gradient(value, x)
            outer.gradient(gradient, x)
        elif BACKEND == "torch":
            import torch

            x = torch.tensor(features, requires_grad=True)
            (gradient,) = torch.autograd.grad(total(x), x, create_graph=True)
            gradient.sum().backward()
        else:
            import jax

            jax.jit(jax.grad(lambda x: jax.grad(total)(x).sum()))(features)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX tells how much memory a compiled step takes")
@pytest.mark.parametrize("class_axis", [0, -1])
def test_memory_is_that_of_a_chunk(rng, class_axis):
    import jax

    num_classes, chunk_size = 6001, 100
    ids, *arrays, weight = head(rng, 32, num_classes=num_classes, width=4, class_axis=class_axis)
    log_prior = np.full(num_classes, -np.log(num_classes))

    def total(features, kernel, bias):
        options = {"class_axis": class_axis, "chunk_size": chunk_size}
        return ops.sum(linear_logit_adjusted_crossentropy(ids, features, kernel, bias, log_prior, **options))

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 4 * 32 * chunk_size + 4 * 4 * num_classes


@pytest.mark.skipif(BACKEND != "torch", reason="torch tells what its graph keeps")
def test_nothing_as_large_as_the_logits_is_kept(rng):
    import torch

    ids, *arrays, _ = head(rng, 32, num_classes=500)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        arrays = [torch.tensor(array, requires_grad=True) for array in arrays]
        linear_logit_adjusted_crossentropy(ids, *arrays, np.log(np.full(500, 1 / 500)), chunk_size=50)
    assert kept and max(kept) == arrays[1].numel()


BAD = {
    "chunk of 0": ({"chunk_size": 0}, r"`chunk_size` must be an integer of at least 1\. Received: chunk_size=0"),
    "chunk of 1.5": ({"chunk_size": 1.5}, r"`chunk_size` must be an integer"),
    "other axis": ({"class_axis": 2}, r"`class_axis` must be one of 0, 1, -1\. Received: class_axis=2"),
    "other layout": ({"class_axis": 0}, r"\[L, D\] with class_axis=0 and L=11.*\(3, 11\): the other layout goes with"),
    "short prior": ({"log_prior": [0.0, 0.0]}, r"`kernel` must be \[D, L\] with class_axis=-1 and L=2.*\(3, 11\)"),
    "wide features": ({"features": np.zeros((4, 5))}, r"`features` must be \[\.\.\., D\] with D=3.*\(4, 5\)"),
    "short bias": ({"bias": np.zeros(4)}, r"`bias` must be a vector with one number for each of the 11.*\(4,\)"),
    "rows": (
        {"y_true": np.eye(11)[:4]},
        r"must be class ids of shape \(4,\) or \(4, 1\).*\(4, 11\)\. One-hot and soft",
    ),
    "other batch": ({"y_true": [0, 1]}, r"must agree in every dimension.*\(2,\) and \(4,\)"),
    "tau": ({"tau": [1.0, 2.0]}, r"`tau` must be a number or a vector of 11"),
    "smoothing": ({"label_smoothing": 1.0}, r"`label_smoothing` must be a number in \[0, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    change, match = BAD[case]
    right = {"y_true": [0, 1, 2, 3], "features": np.zeros((4, D)), "kernel": np.zeros((D, L)), "bias": np.zeros(L)}
    with pytest.raises(ValueError, match=match):
        linear_logit_adjusted_crossentropy(**{**right, "log_prior": LOG_PRIOR, **change})


def test_probabilities_in_place_of_their_logarithms_are_refused():
    """Of many classes every probability is small: none is far above 0, where a logarithm must not be."""
    prior = 1 / np.arange(1, 1001) ** 0.3
    prior /= prior.sum()
    assert prior.max() < 0.01
    features, kernel, bias = np.ones((2, 3), "float32"), np.ones((3, 1000), "float32"), np.zeros(1000, "float32")
    with pytest.raises(ValueError, match="Every number in `log_prior` must be at most 0, the logarithm of a probab"):
        linear_logit_adjusted_crossentropy([0, 5], features, kernel, bias, prior)
    rounded = np.log(prior / prior.sum())
    rounded[0] = 1e-3  # one number, as half precision may round it
    linear_logit_adjusted_crossentropy([0, 5], features, kernel, bias, rounded)


def test_counts_in_place_of_log_odds_are_refused():
    with pytest.raises(ValueError, match=r"`log_odds` must be from −100 to 100.*kla.priors.log_odds\(positive_counts"):
        binary_logit_adjusted_crossentropy(np.ones((1, 2)), np.zeros((1, 2)), [200, 4000])
