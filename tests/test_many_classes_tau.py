"""τ on held-out data where no row of all logits exists: the same path, chunk by chunk of the classes."""

import keras
import numpy as np
import pytest
from helpers.arrays import array
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_logit_adjust as kla
from keras_logit_adjust.layers import ManyClassDense, ManyClassModel

N, D, L = 24, 3, 9
COUNTS = np.array([50, 50, 20, 20, 20, 7, 3, 1, 1])


def example(rng, whole=False):
    """Ids, features `[N, D]`, kernel `[D, L]` and bias; of whole numbers many scores tie."""
    arrays = [rng.normal(0, 2, shape).astype("float32") for shape in ((N, D), (D, L), (L,))]
    return rng.integers(0, L, N), *(np.round(a) if whole else a for a in arrays)


def same_intervals(found, expected):
    empty = expected.low > expected.high
    np.testing.assert_array_equal(found.low > found.high, empty)
    np.testing.assert_array_equal(found.recall_ids, expected.recall_ids)
    for end in ("low", "high"):
        ends = (getattr(path, end)[~empty] for path in (found, expected))
        np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), whole=st.booleans(), chunk_size=st.integers(1, 12), class_axis=st.sampled_from([0, -1])
)
def test_the_path_by_chunks_is_that_of_all_logits(seed, whole, chunk_size, class_axis):
    y, x, kernel, bias = example(np.random.default_rng(seed), whole)
    expected = kla.TauPath(y, (x @ kernel).astype("float64") + bias, COUNTS)
    options = {"kernel": kernel.T if class_axis == 0 else kernel, "bias": bias, "class_axis": class_axis}
    batches = [(y[:10], x[:10]), (y[10:], x[10:])]
    same_intervals(kla.TauPath.from_features(batches, COUNTS, chunk_size=chunk_size, **options), expected)


def test_of_scores_that_tie_the_first_class_is_right_as_argmax_has_it(rng):
    y, x, kernel, bias = example(rng, whole=True)
    counts = 2.0 ** np.array([4, 4, 3, 3, 2, 2, 1, 0, 0])
    path = kla.TauPath.from_features([(y, x)], counts, kernel=kernel, bias=bias, chunk_size=2)
    scores = (x @ kernel + bias).astype("float64")
    for tau in (0.0, *np.linspace(-1.03, 2.07, 40)):
        winner = (scores - tau * np.log(counts / counts.sum())).argmax(axis=1)
        np.testing.assert_array_equal(path.is_right(tau), winner == y)
    assert (np.sort(scores, axis=1)[:, -1] == np.sort(scores, axis=1)[:, -2]).any()  # there are ties at τ = 0


def test_rows_of_an_ignored_class_are_left_out_and_a_bias_need_not_be(rng):
    y, x, kernel, _ = example(rng)
    marked = np.where(np.arange(N) % 3 == 0, 255, y)
    found = kla.TauPath.from_features([(marked, x)], COUNTS, kernel=kernel, ignore_class=255)
    kept = marked != 255
    same_intervals(found, kla.TauPath(y[kept], x[kept] @ kernel, COUNTS))


@pytest.mark.parametrize("dtype", ["int64", "float16"])
def test_a_kernel_of_another_type_is_raised_before_it_is_multiplied(rng, dtype):
    y, x, kernel, _ = example(rng)
    kernel = kernel.round().astype(dtype)
    found = kla.TauPath.from_features([(y, x)], COUNTS, kernel=kernel)
    same_intervals(found, kla.TauPath(y, x @ kernel.astype("float64"), COUNTS))


def model_of(tau):
    inputs = keras.Input((D,))
    model = ManyClassModel(inputs, ManyClassDense(L, COUNTS, tau=tau, chunk_size=4)(inputs))
    model.compile("sgd")
    return model


def test_tau_of_a_model_of_many_classes_is_that_of_its_logits(rng):
    y, x, kernel, bias = example(rng)
    model = model_of(0.0)
    model.head.kernel.assign(kernel.T)
    model.head.bias.assign(bias)
    options = {"min_examples": 1, "standard_errors": 0.5}
    found = kla.tune_tau(model, (x, y), COUNTS, batch_size=7, **options)
    expected = kla.tune_tau(x @ array(kernel) + bias, y, COUNTS, **options)
    assert found.tau == pytest.approx(expected.tau, rel=1e-3)
    assert found.balanced_accuracy == pytest.approx(expected.balanced_accuracy)
    same_intervals(found.path, expected.path)


def test_tau_of_a_head_that_trained_the_adjusted_loss_is_refused(rng):
    y, x, *_ = example(rng)
    with pytest.raises(ValueError, match=r"was not corrected.*tau=1\..*train the head with tau=0"):
        kla.tune_tau(model_of(1.0), (x, y), COUNTS)


def test_what_a_model_of_many_classes_does_not_give_or_have_is_refused(rng):
    y, x, *_ = example(rng)
    with pytest.raises(ValueError, match="`output` must be one of 'auto', 'logits'"):
        kla.tune_tau(model_of(0.0), (x, y), COUNTS, output="softmax")
    with pytest.raises(ValueError, match="head 'many.*' has 9 classes, `class_counts` has 8"):
        kla.tune_tau(model_of(0.0), (x, y), COUNTS[:-1])


def test_all_logits_of_a_model_that_avoids_them_are_refused(rng):
    for output in ("auto", "logits"):  # its output is features, which must not pass for logits
        with pytest.raises(ValueError, match="`model` must give logits.*`kla.tune_tau`, which takes it as it is"):
            kla.held_out.predict_logits(model_of(0.0), np.ones((2, D)), output=output)
    with pytest.raises(ValueError, match="`model` must give logits.*the top classes.*`kla.tune_tau` takes that model"):
        kla.tune_tau(model_of(0.0).predictor(2), (np.ones((2, D)), [0, 1]), COUNTS)


def test_the_top_k_scores_are_refused_with_what_serves():
    counts = np.arange(2000, 0, -1)
    with pytest.raises(ValueError, match=r"\(4, 50\)\. The scores of the best classes do not.*TauPath.from_features"):
        kla.TauPath([0, 1, 2, 3], np.zeros((4, 50)), counts)


BAD = {
    "other classes": (
        {"kernel": np.zeros((D, L - 1))},
        r"`kernel` must be \[D, L\].*exclusive classes .*, 9\..*\(3, 8\)",
    ),
    "other axis": ({"class_axis": 0}, r"`kernel` must be \[L, D\] with class_axis=0.*\(3, 9\)"),
    "NaN in kernel": ({"kernel": np.full((D, L), np.nan)}, "`kernel` must be finite"),
    "short bias": ({"bias": np.zeros(2)}, "`bias` must have one number for each class"),
    "chunk of 0": ({"chunk_size": 0}, "`chunk_size` must be an integer of at least 1"),
    "wide features": ({"batches": [([0], np.zeros((1, 5)))]}, r"`features` must be \[N, 3\].*\(1, 5\)"),
    "NaN in features": ({"batches": [([0], np.full((1, D), np.nan))]}, "`features` must be finite"),
    "no batches": ({"batches": []}, "at least one held-out example"),
    "other axes": ({"batches": [(np.zeros((3, 2)), np.zeros((2, 3, D)))]}, "and `features` must have the same leading"),
    "labels": ({"batches": [([9], np.zeros((1, D)))]}, "must be class ids 0 … 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_head_that_does_not_fit_is_refused(case):
    change, match = BAD[case]
    right = {"batches": [([0], np.ones((1, D)))], "class_counts": COUNTS, "kernel": np.ones((D, L))}
    with pytest.raises(ValueError, match=match):
        kla.TauPath.from_features(**{**right, **change})
