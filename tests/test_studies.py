"""The studies: files and tables from the command line, resuming, and every figure of theirs against an oracle."""

import dataclasses
import json
import re
import shlex
from unittest import mock

import keras
import numpy as np
import pytest
import scipy.stats
from helpers.rows import CONFIG, read_json
from helpers.small_studies import RUNS, run_from_command_line

from keras_logit_adjust import cli, plots, studies
from keras_logit_adjust.compare import METHODS, statistics, training
from keras_logit_adjust.studies import consistency, groups, label_noise, many_classes, weight_norms

pytestmark = pytest.mark.usefixtures("folder")


def load(path):
    with np.load(path) as stored:
        return dict(stored)


# --- files, tables, resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", studies.STUDIES)
def test_a_study_writes_its_numbers_their_table_and_a_figure(name, fitted, folder, capsys):
    assert run_from_command_line(name, "--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    assert results["study"] == name and results["versions"]["backend"] == keras.backend.backend()
    text, table = (folder / "out" / "report.md").read_text(encoding="utf-8"), studies.to_markdown(results)
    assert text.startswith(f"# Study: {name}\n\n{table}\n\n![figure](figure.png)\n")
    assert table in capsys.readouterr().out
    assert (folder / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert len(fitted) == RUNS[name] and not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("name", studies.STUDIES)
def test_a_study_without_an_output_folder_prints_and_leaves_nothing(name, fitted, folder, capsys):
    assert run_from_command_line(name) == 0
    column = "optimizer" if name == "weight-norms" else "method"
    assert capsys.readouterr().out.count(f"| {column} |") == 1
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["test.npz", "train.npz"]


@pytest.mark.parametrize("output", [["--output", "out"], []])
@pytest.mark.parametrize("name", studies.STUDIES)
def test_an_interrupted_study_goes_on_with_what_is_missing(name, output, fitted, folder, monkeypatch):
    stubs = {
        (training, "train"): training.train,
        (consistency, "fit_affine"): consistency.fit_affine,
        (many_classes, "fit"): many_classes.fit,
    }

    def interrupted(stub):
        def fit(*args, **options):
            if len(fitted) == 3:
                raise KeyboardInterrupt
            return stub(*args, **options)

        return fit

    with monkeypatch.context() as patch:
        for (module, attribute), stub in stubs.items():
            patch.setattr(module, attribute, interrupted(stub))
        assert run_from_command_line(name, *output) == 130
    assert run_from_command_line(name, *output) == 0
    assert len(fitted) == len(set(fitted)) == RUNS[name]


@pytest.mark.parametrize("name", studies.STUDIES)
def test_a_report_names_the_command_that_repeats_it_without_training(name, fitted, folder):
    assert run_from_command_line(name, "--output", "out") == 0
    first = read_json(folder / "out" / "results.json")
    assert f"Repeat: `{first['command']}`" in (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert cli.main([*first["command"].split()[1:], "--output", "out"]) == 0
    assert len(fitted) == RUNS[name] and read_json(folder / "out" / "results.json") == first


def test_a_study_without_matplotlib_says_how_to_get_the_figure(fitted, folder, monkeypatch, capsys):
    monkeypatch.setattr(studies.run.importlib.util, "find_spec", lambda module: None)
    assert run_from_command_line("consistency", "--output", "out") == 0
    assert 'pip install "keras_logit_adjust[plots]"' in capsys.readouterr().out
    assert not (folder / "out" / "figure.png").exists()
    assert "png" not in (folder / "out" / "report.md").read_text(encoding="utf-8")


# --- weight norms ----------------------------------------------------------------------------------------------------


def test_norms_are_correlated_with_the_prior_under_both_optimizers(fitted, folder):
    assert run_from_command_line("weight-norms", "--output", "out") == 0
    found = read_json(folder / "out" / "results.json")["optimizers"]
    assert list(found) == ["sgd", "adam"] and [call[0] for call in fitted] == ["sgd"] * 2 + ["adam"] * 2
    text = (folder / "out" / "report.md").read_text(encoding="utf-8")
    for optimizer, row in found.items():
        stored = load(folder / "out" / optimizer / "predictions.npz")
        norms = [stored[f"class_norms_erm_seed{seed}"] for seed in (0, 1)]
        np.testing.assert_array_equal(row["norms"], norms)
        priors = [counts / counts.sum() for counts in stored["class_counts"]]
        pearson = [scipy.stats.pearsonr(*pair).statistic for pair in zip(priors, norms, strict=True)]
        spearman = [scipy.stats.spearmanr(*pair).statistic for pair in zip(priors, norms, strict=True)]
        np.testing.assert_allclose(row["pearson"], pearson, rtol=1e-9)
        np.testing.assert_allclose(row["spearman"], spearman, rtol=1e-9)
        own = read_json(folder / "out" / optimizer / "results.json")["methods"]
        assert row["balanced_error"] == own["erm"]["summary"]["balanced_error"]
        assert row["weight_norm"] == own["weight_norm"]["versus_erm"]
        cells = text.split(f"| {weight_norms.OPTIMIZERS[optimizer]} |")[1].split("|")
        shown = [f"{np.mean(v):+.2f} ({min(v):+.2f} to {max(v):+.2f})" for v in (pearson, spearman)]
        assert [cell.strip() for cell in cells[:2]] == shown


# --- consistency -----------------------------------------------------------------------------------------------------


def test_the_table_has_the_error_of_every_rule_at_every_size(fitted, folder):
    assert run_from_command_line("consistency", "--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    stored = {path.name: load(path)["weights"].astype("float64") for path in (folder / "out").glob("*.npz")}
    assert len(stored) == 8 and results["sizes"] == [50, 2000] and results["trials"] == 3
    shift = np.array([[0, 0], [0, 0], [np.log(0.95), np.log(0.05)]])
    for i, size in enumerate(results["sizes"]):
        rules = {
            name: stored[f"{name}_{size}_3_400_1_{keras.backend.backend()}.npz"]
            for name in ("erm", "adaptive", "equalized", "la")
        }
        posthoc = consistency.balanced_error(rules["erm"] - shift)
        rules["weight_norm"] = rules["erm"] / np.sqrt((rules["erm"] ** 2).sum(axis=1, keepdims=True))
        assert results["balanced_error"].keys() == rules.keys() == consistency.TITLES.keys()
        for name, rule in rules.items():
            errors, found = consistency.balanced_error(rule), results["balanced_error"][name]
            np.testing.assert_allclose([found["mean"][i], found["std"][i]], [errors.mean(), errors.std()], rtol=1e-9)
        gap = np.abs(consistency.balanced_error(rules["la"]) - posthoc).mean()
        np.testing.assert_allclose(results["loss_against_posthoc"][i], gap)


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "buckets"), [(10, 10), (23, 10), (100, 10), (3, 10), (7, 2)])
def test_buckets_hold_equally_many_classes_the_most_frequent_first(num_classes, buckets, rng):
    counts, recalls = rng.permutation(np.arange(1, num_classes + 1) * 7), rng.random(num_classes)
    ranked, expected = sorted(range(num_classes), key=lambda c: -counts[c]), []
    number = min(buckets, num_classes)
    for i in range(number):
        size = num_classes // number + (i < num_classes % number)
        expected.append(100 * sum(recalls[c] for c in ranked[:size]) / size)
        ranked = ranked[size:]
    np.testing.assert_allclose(groups.bucket_accuracy(recalls, counts, buckets=buckets), expected, rtol=1e-12)
    assert ranked == [] and (num_classes > 10 or buckets < 10 or sorted(expected) == sorted(100 * recalls))


def test_a_class_without_test_examples_counts_in_no_bucket():
    found = groups.bucket_accuracy([0.5, np.nan, 0.25, np.nan], [9, 8, 7, 6], buckets=3)
    np.testing.assert_array_equal(found, [50, 25, np.nan])


def test_groups_and_buckets_follow_from_the_predictions(fitted, folder):
    assert run_from_command_line("groups", "--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    (path,) = (folder / "out").rglob("predictions.npz")
    stored = load(path)
    labels, counts = stored["labels"], stored["class_counts"]
    assert list(results["methods"]) == ["erm", "la_loss", "la_posthoc"] and results["class_counts"] == [135, 54, 13]
    rows = re.findall(r"^\| `(\w+)` [^|]*\|(.*)\|$", (folder / "out" / "report.md").read_text("utf-8"), re.MULTILINE)
    for (name, found), (shown, cells) in zip(results["methods"].items(), rows, strict=True):
        predicted = [stored[f"{name}_seed{seed}"].argmax(axis=1) for seed in (0, 1)]
        recalls = np.array([[100 * np.mean(p[labels == c] == c) for c in range(3)] for p in predicted])
        np.testing.assert_allclose(found["buckets"], recalls.mean(axis=0))  # 135, 54 and 13: one class each
        for group, accuracy in zip(("many", "medium", "few"), recalls.T, strict=True):
            expected = {"mean": accuracy.mean(), "std": accuracy.std(ddof=1)}
            assert found["groups"][group] == pytest.approx(expected)
        assert shown == name and [float(c) for c in cells.split("|")] == [round(v, 1) for v in [*recalls.mean(0)] * 2]
        assert len(counts) == 2 and found["title"] == METHODS[name].title


def test_a_class_without_test_examples_leaves_the_report_without_nan(fitted, folder):
    with np.load("test.npz") as file:
        kept = file["y"] != 1
        np.savez("test.npz", x=file["x"][kept], y=file["y"][kept])
    assert run_from_command_line("groups", "--output", "out") == 0
    read_json(folder / "out" / "results.json")
    assert "nan" not in (folder / "out" / "report.md").read_text(encoding="utf-8")


# --- label noise -----------------------------------------------------------------------------------------------------


def test_what_noise_costs_the_frequent_class_follows_from_both_predictions(fitted, folder):
    assert run_from_command_line("label-noise", "--output", "out") == 0
    results = read_json(folder / "out" / "results.json")
    clean, noisy = (load(folder / "out" / part / "predictions.npz") for part in ("clean", "noisy"))
    assert [call[1] for call in fitted] == [0.0] * 2 + [0.2] * 2
    assert results["share"] == 0.2 and results["classes"] == [0, 2]
    assert results["counts"] == {"clean": [135, 54, 13], "noisy": [135 - 27, 54, 13 + 27]}
    labels = clean["labels"]
    for name, found in results["methods"].items():
        hits, errors, mistaken = [], [], []
        for part in (clean, noisy):
            predicted = np.stack([part[f"{name}_seed{seed}"].argmax(axis=1) for seed in (0, 1)])
            hits.append(predicted == labels)
            errors.append(np.mean([100 - 100 * np.mean(predicted[:, labels == c] == c) for c in range(3)]))
            mistaken.append(100 * np.mean([p == 2 for row in predicted for p in row[labels == 0]]))
        np.testing.assert_allclose(found["head_as_tail"], mistaken)
        np.testing.assert_allclose([found["clean_error"], found["noisy_error"]], errors)
        np.testing.assert_allclose(found["versus_clean"]["difference"], errors[1] - errors[0])
        assert found["versus_clean"] == statistics.paired_difference(labels, hits[1], hits[0])
    text = " ".join((folder / "out" / "report.md").read_text(encoding="utf-8").split())
    assert "27 of 135 training examples of class 0 labeled as class 2, which has 13 of its own" in text


@pytest.mark.parametrize("config", [None, CONFIG])
def test_a_hundredth_is_mislabeled_where_no_share_is_given(config, fitted, monkeypatch):
    results = studies.run_study("label-noise", config=config or CONFIG, methods=["erm"], seeds=1)
    assert results["share"] == label_noise.SHARE == 0.01
    assert results["counts"]["noisy"] == [135 - 1, 54, 13 + 1]


def test_figures_hold_the_results_of_their_study(fitted, monkeypatch):
    drawn = {}
    for name in ("class_norms", "error_by_sample_size", "group_accuracy", "label_noise"):
        drawn[name] = mock.create_autospec(getattr(plots, name))  # refuses what the figure would refuse
        monkeypatch.setattr(plots, name, drawn[name])
    own = {"config": CONFIG, "seeds": 1}
    found = {name: studies.run_study(name, **own) for name in ("weight-norms", "groups", "label-noise")}
    found["consistency"] = studies.run_study("consistency", sizes=[50], trials=2)
    for name, results in found.items():
        studies.STUDIES[name].figure(json.loads(json.dumps(results)))
    counts, norms = drawn["class_norms"].call_args.args
    assert counts == [135, 54, 13] and list(norms) == ["SGD with momentum", "Adam"]
    assert list(norms.values()) == [row["norms"] for row in found["weight-norms"]["optimizers"].values()]
    (sizes, errors), options = drawn["error_by_sample_size"].call_args
    assert sizes == [50] and list(errors) == list(consistency.TITLES.values())
    assert list(options["lines"].values()) == [consistency.BAYES_ERROR, consistency.ERM_ERROR]
    (bars,), options = drawn["group_accuracy"].call_args
    expected = {name: row["buckets"] for name, row in found["groups"]["methods"].items()}
    assert {name: curve.tolist() for name, curve in options["buckets"].items()} == expected
    assert bars["erm"] == found["groups"]["methods"]["erm"]["groups"]
    (shares,) = drawn["label_noise"].call_args.args
    assert shares == {name: row["head_as_tail"] for name, row in found["label-noise"]["methods"].items()}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"text"])
def test_a_damaged_fit_is_made_again(content, fitted, folder):
    assert run_from_command_line("consistency", "--output", "out") == 0
    first = read_json(folder / "out" / "results.json")
    next((folder / "out").glob("adaptive_50_*.npz")).write_bytes(content)
    assert run_from_command_line("consistency", "--output", "out") == 0
    assert len(fitted) == RUNS["consistency"] + 1
    assert read_json(folder / "out" / "results.json").keys() == first.keys()


FROM_PYTHON = {
    "weight-norms": {"config": dataclasses.replace(CONFIG, batch_size=7), "seeds": 1},
    "groups": {"config": CONFIG, "methods": "erm,la_loss", "seeds": 1},
    "label-noise": {
        "config": dataclasses.replace(CONFIG, profile="step", imbalance_ratio=5),
        "methods": ["paper"],
        "seeds": 2,
    },
    "label-shift": {"seeds": 1, "config": dataclasses.replace(CONFIG, precision="mixed_bfloat16")},
    "consistency": {"sizes": np.array([50, 30]), "trials": 2, "steps": 7, "seed": 3},
    "many-classes": {"num_classes": 30, "rivals": np.array([8, 2]), "epochs": 2, "seeds": 1},
}


@pytest.mark.filterwarnings("ignore:The confusion matrix is near singular")
@pytest.mark.parametrize("name", studies.STUDIES)
def test_the_command_of_a_study_run_from_python_repeats_it(name, fitted, folder, monkeypatch):
    monkeypatch.setattr(studies.run, "_write", lambda study, folder, results: kept.append(results))
    kept = []
    results = studies.run_study(name, **FROM_PYTHON[name])
    marks = list(fitted)
    assert cli.main([*shlex.split(results["command"])[1:], "--output", "out"]) == 0
    assert fitted[len(marks) :] == marks
    if name != "consistency":  # whose made-up fits are others each time
        assert kept == [results]
    assert [again["command"] for again in kept] == [results["command"]]
