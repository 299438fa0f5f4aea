"""The main job on real images, from the command line: trained for real, its table recomputed from its predictions."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

METHODS = ["erm", "la_posthoc", "la_loss"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished `compare` of one seed and eight epochs on the embedded images."""
    output = tmp_path_factory.mktemp("compare") / "report"
    options = ["--methods", ",".join(METHODS), "--seeds", "1", "--epochs", "8", "--output", str(output)]
    command = [sys.executable, "-m", "keras_logit_adjust", "compare", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "| `la_loss`" in result.stdout
    return output


@pytest.mark.slow
def test_the_table_follows_from_the_stored_predictions(folder):
    results = json.loads((folder / "results.json").read_text())
    predictions = np.load(folder / "predictions.npz")
    labels, counts = predictions["labels"], predictions["class_counts"][0]
    assert np.bincount(labels).tolist() == [1000] * 10
    for name in METHODS:
        predicted = predictions[f"{name}_seed0"].argmax(axis=-1)
        shown = results["methods"][name]["summary"]
        weights = (counts / counts.sum())[labels]
        expected = {
            "balanced_error": 1 - balanced_accuracy_score(labels, predicted),
            "many_accuracy": np.mean([np.mean(predicted[labels == c] == c) for c in np.flatnonzero(counts >= 100)]),
            "few_accuracy": np.mean([np.mean(predicted[labels == c] == c) for c in np.flatnonzero(counts <= 20)]),
            "macro_f1": f1_score(labels, predicted, average="macro", sample_weight=weights),
        }
        for key, value in expected.items():
            np.testing.assert_allclose(shown[key]["mean"], 100 * value, rtol=1e-6, err_msg=f"{name} {key}")


@pytest.mark.slow
def test_post_hoc_rows_are_the_erm_model_shifted_by_the_log_prior(folder):
    predictions = np.load(folder / "predictions.npz")
    counts = predictions["class_counts"][0]
    shift = predictions["erm_seed0"] - predictions["la_posthoc_seed0"]
    np.testing.assert_allclose(shift, np.broadcast_to(np.log(counts / counts.sum()), shift.shape), atol=1e-5)


@pytest.mark.slow
def test_adjustment_cuts_the_balanced_error_of_real_images(folder):
    methods = json.loads((folder / "results.json").read_text())["methods"]
    erm = methods["erm"]["summary"]["balanced_error"]["mean"]
    for name in ("la_posthoc", "la_loss"):
        assert methods[name]["versus_erm"]["verdict"] == "lower"
        assert methods[name]["summary"]["balanced_error"]["mean"] < 0.95 * erm
