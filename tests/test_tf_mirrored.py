"""Plain `fit`, `evaluate` and `predict` under `MirroredStrategy`: one device's numbers, or an error that helps."""

import numpy as np
import pytest
from helpers import workers

CASES = [
    *("64 + 1, ignored", "64 + 1, unreduced", "64 + 2, weighted"),
    *("64 + 3, two outputs", "64 + 3, mixed_bfloat16"),
]
REPORTED = {"loss", "balanced_accuracy", "per_class_accuracy", "macro_f1"}
GROUPS = {"many_accuracy", "few_accuracy"}  # whose names Keras leaves without that of the output


@pytest.fixture(scope="module")
def runs():
    """What `mirrored_metrics.py` prints."""
    return workers.found_by("mirrored_metrics.py", timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_mirrored_devices_train_report_and_predict_as_one_does(runs, case):
    one, two = runs["cases"][case]
    prefix = "single_" if case == "64 + 3, two outputs" else ""
    names = {"loss", *GROUPS, *(prefix + name for name in REPORTED)}
    assert one.keys() == two.keys() >= {"scores", "weights", *names, *(f"val_{n}" for n in names)}
    assert one.keys() >= {f"test_{name}" for name in names}
    low = case.endswith("bfloat16")
    for name in one:
        # In half precision a reordered sum of a few hundred terms may round a score to its neighbor.
        close = {"rtol": 0.02, "atol": 0.02} if low else {"rtol": 2e-6, "atol": 2e-6}
        np.testing.assert_allclose(two[name], one[name], err_msg=name, **close)
    # Something was learned, and something is rare enough to be left out of the mean.
    assert one["loss"][1] < one["loss"][0]


@pytest.mark.slow
def test_every_mirrored_case_is_looked_at(runs):
    assert set(runs["cases"]) == set(CASES)


REFUSED = {
    "jit_compile": r"ValueError: .*Received jit_compile=True.*`jit_compile=False`.*`kla.tf_distribute.fit`",
    "steps_per_execution": r"ValueError: .*Received steps_per_execution above 1.*=1`.*`kla.tf_distribute.fit`",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_keras_cannot_do_stops_with_the_remedy(runs, case):
    message, finite = runs["broken"][case]
    with pytest.raises(RuntimeError, match=f"(?s){REFUSED[case]}"):
        raise RuntimeError(message)
    assert finite  # the error came before a weight was lost


@pytest.mark.slow
def test_batch_normalization_on_an_empty_replica_gives_nan_as_documented(runs):
    assert runs["broken"]["batch normalization, 64 + 1"] == [None, False]


@pytest.mark.slow
def test_batch_normalization_with_an_example_on_every_replica_trains(runs):
    assert runs["broken"]["batch normalization, 64 + 2"] == [None, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["uneven first batch", "jit_compile, Keras's loss", "steps_per_execution, Keras's loss"]
)
def test_keras_alone_still_fails_so_that_the_refusals_are_still_due(runs, case):
    message, _ = runs["broken"][case]
    assert message and "Received" not in message
