"""The study of label shift: its mixes, its figures against an oracle, what it does without validation examples."""

import json

import keras
import numpy as np
import pytest
from helpers.fake_training import fake_training
from helpers.rows import CONFIG, ROWS, read_json

from keras_logit_adjust import cli, studies
from keras_logit_adjust.held_out.calibration import calibrate
from keras_logit_adjust.held_out.label_shift import estimate_target_prior
from keras_logit_adjust.studies import label_shift

PRIOR = np.array([135, 54, 13]) / 202  # of the rows that are trained on


pytestmark = pytest.mark.usefixtures("folder")


def informed_logits(rng, y, num_classes):
    """Logits that know something of the labels."""
    return 2 * (rng.normal(size=(y.size, num_classes)) + 2 * np.eye(num_classes)[y]) + np.log(PRIOR)


@pytest.fixture
def trained(monkeypatch):
    """The seeds of the runs that made-up logits stood in for."""
    return fake_training(monkeypatch, mark=lambda name, dataset, config: dataset.seed, logits=informed_logits)


def run_from_command_line(*options):
    return cli.main(["study", "label-shift", *ROWS, "--seeds", "2", *options])


def test_mixes_are_even_the_tail_the_other_way_round_and_zipfs():
    counts = np.array([30, 600, 300, 70])
    mixes = label_shift.mixes_of(counts)
    assert list(mixes) == ["uniform", "reversed", "shuffled"]
    np.testing.assert_allclose(mixes["uniform"], 0.25)
    np.testing.assert_allclose(mixes["reversed"], [0.6, 0.03, 0.07, 0.3])
    zipf = np.array([1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(np.sort(mixes["shuffled"])[::-1], zipf / zipf.sum())
    np.testing.assert_array_equal(mixes["shuffled"], label_shift.mixes_of(counts[::-1])["shuffled"])


@pytest.mark.parametrize("target", [[0.2, 0.3, 0.5], [0.998, 0.001, 0.001], [1 / 3] * 3])
def test_a_resampled_mix_is_as_large_as_it_can_be_and_draws_nothing_twice(target, rng):
    labels = rng.permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    target, rows = np.array(target), label_shift.resample(labels, np.array(target), seed=3)
    size = min(50 / target[0], 30 / target[1], 20 / target[2])
    expected = [max(1, int(size * share + 1e-9)) for share in target]
    assert np.bincount(labels[rows]).tolist() == expected and np.unique(rows).size == rows.size
    np.testing.assert_array_equal(rows, label_shift.resample(labels, target, seed=3))
    if target[0] == 0.2:
        assert (rows != label_shift.resample(labels, target, seed=4)).any()


@pytest.mark.filterwarnings("ignore:The confusion matrix is near singular")
def test_accuracies_distances_and_intervals_follow_from_the_stored_logits(trained, folder):
    assert run_from_command_line("--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    with np.load(folder / "out" / "compare" / "predictions.npz") as file:
        stored = dict(file)
    assert trained == [0, 1] and results["class_counts"] == [135, 54, 13] and results["seeds"] == 2
    for mix, target in label_shift.mixes_of([135, 54, 13]).items():
        for seed in (0, 1):
            rows = label_shift.resample(stored["labels"], target, seed=seed)
            logits, labels = stored[f"erm_seed{seed}"][rows], stored["labels"][rows]
            with np.load(folder / "out" / "compare" / "runs" / f"erm_seed{seed}.npz") as run:
                held_out = run["validation_logits"], CONFIG.load(seed).validation[1]
            counts = np.bincount(labels)
            assert results["drawn_counts"][mix][seed] == counts.tolist()
            calibrated = calibrate(*held_out, method="bias_corrected_temperature").apply(logits)
            estimates = {
                "em": (logits, estimate_target_prior(logits, PRIOR)),
                "em_calibrated": (calibrated, estimate_target_prior(calibrated, PRIOR)),
                "bbse": (logits, estimate_target_prior(logits, PRIOR, method="bbse", validation=held_out)),
            }
            plain = {"none": PRIOR, "uniform": np.ones(3), "true": counts}
            shifted = {name: (logits, prior) for name, prior in plain.items()}
            shifted |= {name: (f, found.prior * counts.sum() + 0.5) for name, (f, found) in estimates.items()}
            assert results["mixes"][mix].keys() == shifted.keys() == label_shift.RULES.keys()
            for name, (scores, prior) in shifted.items():
                hits = [row.argmax() == y for row, y in zip(scores + np.log(prior / PRIOR), labels, strict=True)]
                found = {key: values[seed] for key, values in results["mixes"][mix][name].items()}
                assert found["accuracy"] == pytest.approx(100 * np.mean(hits))
                if name in plain:
                    assert found["distance"] is found["inside"] is None
                    continue
                estimate, truth = estimates[name][1], counts / counts.sum()
                assert found["distance"] == pytest.approx(np.abs(estimate.prior - truth).sum())
                assert found["inside"] == sum(
                    low <= p <= high for low, p, high in zip(estimate.low, truth, estimate.high, strict=True)
                )
            assert results["smallest_singular_value"][seed] == estimates["bbse"][1].smallest_singular_value


def test_the_table_has_means_and_deviations_of_the_results(trained, folder):
    assert run_from_command_line("--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    table = studies.to_markdown(results)
    assert table in (folder / "out" / "report.md").read_text(encoding="utf-8")
    for name, title in label_shift.RULES.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` {title} |"))
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        for i, found in enumerate(results["mixes"].values()):
            values = found[name]["accuracy"]
            assert cells[2 * i] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
            distance, inside = found[name]["distance"], found[name]["inside"]
            shown = "" if distance[0] is None else f"{np.mean(distance):.2f} ({np.mean(inside):.1f})"
            assert cells[2 * i + 1] == shown
    assert "on 30 (uniform), " in table and "nan" not in table


def test_without_validation_examples_what_needs_them_is_left_out(trained, folder):
    assert run_from_command_line("--output", "out", "--validation", "none") == 0
    results = read_json(folder / "out" / "results.json")
    table = studies.to_markdown(results)
    for name in ("em_calibrated", "bbse"):
        assert f"| `{name}` {label_shift.RULES[name]} | - | - | - | - | - | - |" in table
    assert "examples of every\nclass: there are none." in table and results["smallest_singular_value"] == [None] * 2
    assert (folder / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_a_class_without_test_examples_cannot_be_resampled(trained, folder, capsys):
    np.savez(folder / "test.npz", x=np.zeros((4, 4)), y=[0, 0, 2, 2])
    assert run_from_command_line() == 2
    assert "examples of every class, to be resampled. Received none of class 1" in capsys.readouterr().err
    assert not trained


def test_what_is_finished_is_not_trained_again(trained, folder):
    assert run_from_command_line("--output", "out") == 0
    first = read_json(folder / "out" / "results.json")
    assert run_from_command_line("--output", "out") == 0
    assert trained == [0, 1] and read_json(folder / "out" / "results.json") == first
    assert first["command"].startswith("keras-logit-adjust study label-shift")


def test_the_figure_has_a_bar_for_each_rule_with_the_mean_over_seeds(trained, folder):
    results = json.loads(json.dumps(studies.run_study("label-shift", config=CONFIG, seeds=2)))
    (axes,) = studies.STUDIES["label-shift"].figure(results).axes
    for bars, (name, title) in zip(axes.containers[1::2], label_shift.RULES.items(), strict=True):
        means = [np.mean(found[name]["accuracy"]) for found in results["mixes"].values()]
        np.testing.assert_allclose([bar.get_height() for bar in bars], means)
        assert bars.get_label() == title


@pytest.mark.slow
def test_one_epoch_is_really_trained(folder):
    results = studies.run_study("label-shift", config=CONFIG, seeds=1)
    assert results["versions"]["backend"] == keras.backend.backend()
    assert all(0 <= found["true"]["accuracy"][0] <= 100 for found in results["mixes"].values())
