"""A head of many classes under `tf.distribute`: data parallel, with the loss by chunks or against drawn rivals."""

import numpy as np
import pytest
from helpers import workers


@pytest.fixture(scope="module")
def runs():
    """What every case of `mirrored_many_classes.py` ends with, on one device and mirrored over two."""
    return workers.found_by("mirrored_many_classes.py", timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["exact", "drawn"])
def test_two_mirrored_devices_train_as_one_does(runs, case):
    one, two = runs[case]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-6)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=0, atol=2e-6)
    assert one["loss"][1] < one["loss"][0]
