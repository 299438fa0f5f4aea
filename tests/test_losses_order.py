"""Arguments of a loss that were mixed up: counts as log-priors, logits as labels, another framework's tensors."""

import functools

import keras
import numpy as np
import pytest

from keras_logit_adjust.losses import (
    BinaryLogitAdjustedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    linear_logit_adjusted_crossentropy,
    logit_adjusted_crossentropy,
    sampled_logit_adjusted_crossentropy,
)

COUNTS = [5, 3, 2]
HEAD = (np.array([0]), np.ones((1, 4), "float32"), np.ones((4, 3), "float32"), np.zeros(3, "float32"))
TAKE_A_LOG_PRIOR = {
    "full": lambda prior: logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 3), "float32"), prior),
    "linear": lambda prior: linear_logit_adjusted_crossentropy(*HEAD, prior),
    "sampled": lambda prior: sampled_logit_adjusted_crossentropy(*HEAD, prior, rivals="batch"),
}


@pytest.mark.parametrize("case", TAKE_A_LOG_PRIOR.values(), ids=TAKE_A_LOG_PRIOR)
def test_counts_in_place_of_a_log_prior_are_refused(case):
    message = r"`log_prior` must be at most 0.*\[5\.0, 3\.0, 2\.0\].*give kla\.priors\.log_prior\(class_counts\)"
    with pytest.raises(ValueError, match=message):
        case(COUNTS)
    with pytest.raises(ValueError, match="at most 0.*at class 1"):
        case([-1.0, 1.0, -1.0])


def test_a_log_prior_that_rounds_above_0_is_right():
    [value] = logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 2), "float32"), np.array([1e-3, -9.0], "float16"))
    assert float(value) == pytest.approx(np.log1p(np.exp(-9.001)), rel=1e-2)


def test_labels_and_logits_the_other_way_round_are_refused():
    rows, logits = np.eye(3)[[0, 1]], np.array([[2.0, -1.0, 0.5], [0.1, 0.2, 3.0]], "float32")
    members = [build(COUNTS) for build in (LogitAdjustedCrossentropy, PairwiseMarginCrossentropy)]
    for loss in (*members, FocalCrossentropy()):
        with pytest.raises(
            ValueError,
            match=r"Rows of `y_true`.*without negative numbers\. Received -1\. The order is \(y_true, y_pred\)",
        ):
            loss(logits, rows)
        for ids in ([0, 1], [[0], [1]])[: 1 if isinstance(loss, FocalCrossentropy) else 2]:
            with pytest.raises(ValueError, match="The order is .y_true, y_pred.; torch has it the other way round"):
                loss(logits, np.array(ids))
        with pytest.raises(ValueError, match="The order is"):  # as many ids as there are classes
            loss(np.zeros((3, 3), "float32"), np.zeros(3, "int32"))


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3)])
def test_eager_tensors_the_other_way_round_are_refused_too(shape):
    rows = keras.ops.convert_to_tensor(np.eye(3, dtype="float32")[[0, 1]].reshape(shape))
    logits = keras.ops.convert_to_tensor(np.array([[2.0, 1.0, 0.5], [0.1, -1.5, 3.0]], "float32").reshape(shape))
    for loss in (LogitAdjustedCrossentropy(COUNTS), PairwiseMarginCrossentropy(COUNTS), FocalCrossentropy()):
        with pytest.raises(ValueError, match=r"without negative numbers\. Received -1\.5\. The order is"):
            loss(logits, rows)
        assert np.isfinite(float(loss(rows, logits)))


def test_a_traced_step_reads_no_numbers_of_labels():
    if keras.backend.backend() == "torch":
        pytest.skip("torch traces no step by default")
    loss = LogitAdjustedCrossentropy(COUNTS)
    if keras.backend.backend() == "jax":
        trace = pytest.importorskip("jax", reason="the backend").jit
    else:
        # As Keras's own steps: AutoGraph would rewrite the package first.
        trace = functools.partial(pytest.importorskip("tensorflow", reason="the backend").function, autograph=False)
    negative = keras.ops.convert_to_tensor(np.array([[-1.0, 1.0, 1.0]], "float32"))
    assert np.isnan(float(trace(loss)(negative, keras.ops.zeros((1, 3)))))  # no error: nothing is read


def test_a_torch_tensor_whose_gradient_would_be_lost_is_refused():
    torch = pytest.importorskip("torch", reason="the tensors are of torch")
    logits, rows = torch.zeros((2, 3), requires_grad=True), torch.eye(3)[[0, 1]]
    features, kernel = torch.ones((2, 4), requires_grad=True), torch.ones((4, 3))
    calls = {
        "class": lambda y, f: LogitAdjustedCrossentropy(COUNTS)(y, f),
        "function": lambda y, f: logit_adjusted_crossentropy(y, f, [-1.0, -1.0, -1.0]),
        "binary": lambda y, f: BinaryLogitAdjustedCrossentropy(COUNTS, 20)(y, f),
        "linear": lambda y, f: linear_logit_adjusted_crossentropy([0, 1], features, kernel, None, [-1.0, -1.0, -1.0]),
    }
    for name, call in calls.items():
        if keras.backend.backend() != "torch":
            with pytest.raises(ValueError, match="must be of Keras's backend.*Set the .*KERAS_BACKEND=torch"):
                call(rows, logits)
            assert name == "linear" or np.isfinite(np.asarray(call(rows, logits.detach()))).all()
            continue
        [gradient] = torch.autograd.grad(call(rows, logits).sum(), features if name == "linear" else logits)
        assert torch.isfinite(gradient).all()
        if name != "linear":
            with pytest.raises(ValueError, match="`y_true` must be labels.*requires_grad=True.*torch has it the other"):
                call(logits, rows)
