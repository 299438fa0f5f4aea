"""`.keras` files that version 0.1.0 wrote: they load and predict what they did, or say what to do."""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla

FOLDER = pathlib.Path(__file__).parent / "files" / "version_0_1"
KNOWN = json.loads((FOLDER / "predictions.json").read_text())
LOADED = [name for name in KNOWN if name != "streaming"]

spec = importlib.util.spec_from_file_location("version_0_1", FOLDER / "write.py")
version_0_1 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(version_0_1)  # registers the user's class


def load(name):
    return keras.models.load_model(FOLDER / f"{name}.keras")


def test_every_old_file_is_looked_at():
    assert {path.stem for path in FOLDER.glob("*.keras")} == set(KNOWN)


@pytest.mark.filterwarnings("ignore:The logits come from a cosine head")
@pytest.mark.parametrize("name", LOADED)
def test_an_old_file_predicts_and_evaluates_as_it_did(name):
    model, known = load(name), KNOWN[name]
    np.testing.assert_allclose(model.predict(version_0_1.X, verbose=0), known["predictions"], rtol=1e-6, atol=1e-6)
    assert model.compiled == ("logs" in known)
    if model.compiled:
        logs = model.evaluate(version_0_1.X, version_0_1.labels_of(name), verbose=0, return_dict=True)
        assert logs.keys() == known["logs"].keys()
        for key, value in known["logs"].items():
            np.testing.assert_allclose(np.asarray(logs[key]), value, rtol=1e-6, atol=1e-6, err_msg=key)


PRIORS = {
    "adjusted": "training prior to the power 0.5 times the target prior, renormalized (tau=0.5)",
    "adjusted_twice": "unknown: corrected more than once",
    "adjusted_subclass": "uniform",
    "calibrated": "uniform",
    "experts": "target",
}


@pytest.mark.parametrize("name", PRIORS)
def test_the_prior_of_an_old_file_is_named(name):
    assert kla.serving.describe(load(name)).prior == PRIORS[name]


def test_an_old_streaming_head_says_what_to_build():
    with pytest.raises(ValueError, match=r"'head' follows a StreamingPrior.*StreamingPriorDense.*to_dense\(\)"):
        load("streaming")
