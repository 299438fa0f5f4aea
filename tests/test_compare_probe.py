"""`compare --recipe linear_probe`: every row is the optimum on frozen features."""

import numpy as np
import pytest

from keras_logit_adjust import compare, held_out
from keras_logit_adjust.compare import report, statistics
from keras_logit_adjust.compare.run import compare_with_predictions

COUNTS = (40, 16, 7, 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for name, y in (("train", np.repeat(np.arange(4), COUNTS)), ("test", np.repeat(np.arange(4), 25))):
        np.savez(folder / f"{name}.npz", x=rng.normal(size=(y.size, 5)) + 1.5 * np.eye(5)[y], y=y)
    return {name: str(folder / f"{name}.npz") for name in ("train", "test")}


@pytest.fixture(scope="module")
def probed(files):
    config = compare.Config(**files, recipe="linear_probe", validation="none")
    methods = ["erm", "class_weight", "balanced_sampler", "la_posthoc", "la_posthoc_tuned", "la_loss", "la_head"]
    return compare_with_predictions(config, methods=[*methods, "weight_norm", "square_root_sampler_la"], seeds=1)


@pytest.fixture(scope="module")
def arrays(files):
    return {name: dict(np.load(path)) for name, path in files.items()}


def test_rows_are_the_fits_of_the_public_function(probed, arrays):
    _, predictions = probed
    train, x = arrays["train"], arrays["test"]["x"]
    options = {
        "erm": {"criterion": "expected_error"},
        "class_weight": {"class_weight": "balanced"},
        "la_loss": {"tau": 1.0},
        "square_root_sampler_la": {"class_weight": lambda n: np.sqrt(n.mean() / n), "tau": 1.0},
    }
    for name, chosen in options.items():
        probe = held_out.fit_linear_probe(train["x"], train["y"], **chosen)
        np.testing.assert_allclose(predictions.logits[name][0], probe.logits(x), atol=1e-4)


def test_rows_that_are_one_result_have_the_same_predictions(probed):
    _, predictions = probed
    for first, second in (("la_posthoc", "la_loss"), ("la_loss", "la_head"), ("class_weight", "balanced_sampler")):
        np.testing.assert_array_equal(predictions.logits[first][0], predictions.logits[second][0])
    assert set(predictions.runs) == {"erm", "class_weight", "la_posthoc", "square_root_sampler_la"}


@pytest.mark.filterwarnings("ignore:.*recall is pooled.*:UserWarning")
def test_tau_is_chosen_on_the_logits_out_of_fold(probed):
    """Without a validation set, on the logits before adjustment."""
    results, predictions = probed
    (run,) = predictions.runs["la_posthoc"]
    expected = held_out.tune_tau(run.out_of_fold_logits, run.out_of_fold_labels, COUNTS, folds=5).tau
    assert results["methods"]["la_posthoc_tuned"]["tau"] == [expected]
    log_prior = np.log(np.array(COUNTS) / sum(COUNTS))
    np.testing.assert_allclose(
        predictions.logits["la_posthoc_tuned"][0], run.test_logits - expected * log_prior, atol=1e-5
    )


def test_the_report_names_penalties_and_the_one_result(probed):
    results, predictions = probed
    text = report.to_markdown(results)
    penalty = predictions.runs["erm"][0].penalty
    assert results["probes"]["erm"]["penalty"] == [penalty]
    assert "At the optimum `la_loss` and `la_posthoc` are one result" in text
    assert f"Penalty for each seed: `erm` {penalty:g}" in text
    assert "There is one seed, so the interval covers test sampling only" in text


def test_a_finished_run_is_read_again(files, tmp_path, monkeypatch):
    config = compare.Config(**files, recipe="linear_probe")
    first = compare.compare(config, methods=["la_posthoc"], seeds=1, output=tmp_path)
    monkeypatch.setattr(compare.probing, "fit_linear_probe", None)
    again = compare.compare(config, methods=["la_posthoc"], seeds=1, output=tmp_path)
    assert again["methods"] == first["methods"] and again["probes"] == first["probes"]


@pytest.mark.parametrize(
    ("changed", "methods", "message"),
    [
        ({}, ["focal"], r"weights and margins of cross-entropy: erm, .*Received 'focal'"),
        ({}, ["crt", "weight_norm_tuned"], r"Received 'crt', 'weight_norm_tuned'"),
        ({"epochs": 3}, ["erm"], r"`epochs` would change nothing: `recipe` 'linear_probe' finds an optimum"),
        ({"model": "cosine"}, ["erm"], r"`model` would change nothing"),
        ({"precision": "mixed_bfloat16"}, ["erm"], r"`precision` would change nothing"),
        ({"strategy": "mirrored"}, ["erm"], r"`strategy` would change nothing"),
        ({"train": None, "test": None}, ["erm"], r"rows of features .*images of shape \(28, 28, 1\): extract features"),
    ],
)
def test_what_the_recipe_cannot_do_is_refused(files, changed, methods, message):
    with pytest.raises(ValueError, match=message):
        compare.compare(compare.Config(**{**files, "recipe": "linear_probe", **changed}), methods=methods, seeds=1)


# --- the baseline ----------------------------------------------------------------------------------------------------


def test_differences_are_to_the_baseline(files):
    config = compare.Config(**files, recipe="linear_probe", validation="none", label_noise=0.05)
    options = {"methods": ["la_posthoc"], "seeds": 2, "baseline": "class_weight"}
    results, predictions = compare_with_predictions(config, **options)
    assert list(results["methods"]) == ["erm", "la_posthoc", "class_weight"]
    assert results["methods"]["class_weight"]["versus_class_weight"] is None
    hits = (predictions.hits(name) for name in ("la_posthoc", "class_weight"))
    expected = statistics.paired_difference(predictions.labels, *hits)
    assert results["methods"]["la_posthoc"]["versus_class_weight"] == expected
    assert results["command"].endswith("--baseline class_weight")
    text = report.to_markdown(results)
    assert "| difference to `class_weight` (points) | t-interval over seeds |" in text
    assert (
        "the balanced error minus that of `class_weight`" in " ".join(text.split()) and "test sampling only" not in text
    )
    with pytest.raises(ValueError, match="Unknown method 'plain'"):
        compare.compare(config, methods=["erm"], seeds=1, baseline="plain")


def test_the_t_interval_is_that_of_the_differences_of_seeds():
    """Three differences, 0, −10 and −20 points: mean −10, deviation 10, and 4.303 of Student's t with 2 degrees."""
    labels = np.repeat([0, 1], 10)
    baseline = np.tile(np.arange(20) % 10 >= 5, (3, 1))
    hits = baseline.copy()
    hits[1, [0, 10]] = hits[2, [0, 1, 10, 11]] = True
    found = statistics.paired_difference(labels, hits, baseline)
    assert found["difference"] == pytest.approx(-10)
    half = 4.302652729911275 * 10 / np.sqrt(3)
    assert (found["t_low"], found["t_high"]) == pytest.approx((-10 - half, -10 + half))
    assert "t_low" not in statistics.paired_difference(labels, hits[:1], baseline[:1])


def test_the_legend_says_what_a_seed_draws_anew(files):
    """Data of its own mix is the same for all seeds of a probe, and so no interval can cover its noise."""
    same, drawn = ({}, {"profile": "exponential", "imbalance_ratio": 4.0, "max_count": 12})
    for options, said in (
        (same, "All seeds have the same training set, and each draws another split of its folds."),
        (drawn, "Each seed redraws subset and initialization."),
    ):
        config = compare.Config(**files, recipe="linear_probe", validation="none", **options)
        text = " ".join(report.to_markdown(compare.compare(config, methods=["erm"], seeds=2)).split())
        assert said in text
        assert ("So no interval covers the noise of the training set." in text) == (options == same)
