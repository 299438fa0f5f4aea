"""Fixtures every test shares: seeds and the precision state come from here."""

import contextlib
import gc
import os
import signal
from unittest import mock

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side: each on a core of its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored there, and so in whatever a test starts

# TensorFlow switches it on by itself on some processors alone. Without it a CPU has no channels-first convolution.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import hypothesis
import keras
import numpy as np
import pytest

# The same examples in every run; `HYPOTHESIS_PROFILE=random` hunts for others.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items):
    """XLA's compiling is slow by nature: two seconds for each formula, whose eager and graph modes are quick."""
    for item in items:
        if getattr(getattr(item, "callspec", None), "params", {}).get("mode") == "xla":
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What imports and collection made stays: a search for garbage through it all takes a second each time."""
    gc.collect()
    gc.freeze()


def kept_kernels():
    """In it, TensorFlow keeps its kernels with a new seed or session: to make them anew takes a seventh of the time.

    Only for the functions of `tf.random` does a kernel hold the state of a generator. No test calls them.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    from tensorflow.python.eager import context

    return mock.patch.object(context.pywrap_tfe, "TFE_ContextClearCaches")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same seeds and leaves Keras's global precision as it found it."""
    with kept_kernels():
        keras.utils.set_random_seed(0)
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    with kept_kernels():
        keras.backend.clear_session(free_memory=False)  # collecting garbage takes half a second each time


@pytest.fixture
def rng():
    """The one source of random test data."""
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with tiny files of rows for `compare`."""
    from helpers.rows import enter_folder_of_rows

    return enter_folder_of_rows(tmp_path, monkeypatch)


@pytest.fixture
def fitted(monkeypatch):
    """A mark for each fit of a study, in whose place random numbers stand."""
    from helpers.small_studies import replace_fits

    return replace_fits(monkeypatch)


@pytest.fixture
def trained(monkeypatch):
    """(seed, method) of the runs of `compare` that made-up logits stand in for."""
    from helpers.fake_training import fake_training

    return fake_training(monkeypatch, mark=lambda name, dataset, config: (dataset.seed, name))
