"""`compare` from start to end on tiny rows: its files, resuming, and everything a user may get wrong."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS, read_json, write_rows

from keras_logit_adjust import __version__, cli
from keras_logit_adjust.compare import METHODS, Config, compare, devices, report, statistics, training

TRAINED = [name for name in METHODS if METHODS[name].trained_as is None and not METHODS[name].experts]


pytestmark = pytest.mark.usefixtures("folder")


# --- real training, once ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a comparison of all methods, trained for real, and the names it was called with."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_rows(folder)
        names = [*METHODS]
        assert cli.main(["compare", *ROWS, "--methods", ", ".join(names), "--seeds", "2", "--output", "out"]) == 0
    return folder / "out", names


@pytest.mark.slow
def test_every_promised_file_is_there_and_no_half_written_one(finished):
    output, _ = finished
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    runs = [f"runs/{name}_seed{seed}.npz" for name in TRAINED for seed in (0, 1)]
    figures = ["group_accuracy.png", "per_class_accuracy.png", "tail.png"]
    named = ["config.json", "predictions.npz", "report.html", "report.md", "results.json"]
    assert found == sorted(named + figures + runs)  # la_posthoc uses the model of erm


@pytest.mark.slow
def test_the_table_follows_from_the_predictions_alone(finished):
    output, names = finished
    results = read_json(output / "results.json")
    with np.load(output / "predictions.npz") as file:
        stored = dict(file)
    labels, counts = stored["labels"], stored["class_counts"]
    with np.load(output.parent / "test.npz") as test:
        np.testing.assert_array_equal(labels, test["y"])
    assert counts.tolist() == [[135, 54, 13]] * 2  # 150, 60 and 15 less a tenth, rounded half up
    assert list(results["methods"]) == names
    for name in names:
        logits = [stored[f"{name}_seed{seed}"] for seed in (0, 1)]
        rows = [statistics.figures(labels, x, class_counts=n) for x, n in zip(logits, counts, strict=True)]
        assert results["methods"][name]["seeds"] == rows
        assert results["methods"][name]["summary"] == statistics.summarize(rows)
        hits, baseline = (
            np.stack([stored[f"{key}_seed{seed}"].argmax(axis=-1) == labels for seed in (0, 1)])
            for key in (name, "erm")
        )
        expected = None if name == "erm" else statistics.paired_difference(labels, hits, baseline)
        assert results["methods"][name]["versus_erm"] == expected


@pytest.mark.slow
def test_post_hoc_logits_are_those_of_erm_less_the_log_prior(finished):
    with np.load(finished[0] / "predictions.npz") as stored:
        for seed in (0, 1):
            shift = stored[f"erm_seed{seed}"] - stored[f"la_posthoc_seed{seed}"]
            counts = stored["class_counts"][seed]
            np.testing.assert_allclose(shift, np.tile(np.log(counts / counts.sum()), (70, 1)), atol=1e-5)
            assert (stored[f"la_loss_seed{seed}"] != stored[f"erm_seed{seed}"]).any()


@pytest.mark.slow
def test_the_report_holds_the_table_its_conditions_and_figures(finished):
    output, names = finished
    results, text = read_json(output / "results.json"), (output / "report.md").read_text(encoding="utf-8")
    assert report.to_markdown(results) in text
    assert "train.npz, its own class mix, 3 classes, 202 training examples (135 to 13 a class)" in text
    assert f"validation stratified, 2 seeds, {keras.backend.backend()} backend" in text
    for name in names:
        cells = [cell.strip() for cell in text.split(f"| `{name}` ")[1].split("\n")[0].split("|")]
        method = results["methods"][name]
        for key, cell in zip(report.COLUMNS, cells[1:], strict=False):
            figure = method["summary"][key]
            assert cell == f"{figure['mean']:.1f} ± {figure['std']:.1f}"
        versus = method["versus_erm"]
        verdict = "" if versus is None else "none" if versus["low"] <= 0 <= versus["high"] else versus["difference"]
        assert cells[6].split(" ")[0] == (verdict if isinstance(verdict, str) else f"{verdict:+.1f}")
    assert "![tail](tail.png)" in text and "![per class accuracy](per_class_accuracy.png)" in text


@pytest.mark.slow
def test_results_name_the_command_and_no_path_that_was_not_typed(finished):
    output, names = finished
    results = read_json(output / "results.json")
    options = "--train train.npz --test test.npz --epochs 1"
    assert results["command"] == f"keras-logit-adjust compare --methods {','.join(names)} --seeds 2 {options}"
    for name in ("results.json", "config.json", "report.md"):
        text = (output / name).read_text(encoding="utf-8")
        assert str(output.parent) not in text and "/home" not in text and "/root" not in text
    expected = {**dataclasses.asdict(CONFIG), "backend": keras.backend.backend(), "keras": keras.__version__}
    expected["keras_logit_adjust"], expected["label_noise"] = __version__, 0.0
    expected["threads"] = devices.threads()
    assert results["config"] == read_json(output / "config.json") == expected
    assert len(set(results["split_hashes"])) == 2
    assert results["train_seconds"].keys() == {f"{name}_seed{seed}" for name in TRAINED for seed in (0, 1)}


def test_a_loss_that_diverges_is_reported(monkeypatch, capsys):
    def not_a_number(y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1) * float("nan")

    monkeypatch.setitem(METHODS, "erm", dataclasses.replace(METHODS["erm"], loss=lambda counts: not_a_number))
    assert cli.main(["compare", *ROWS, "--methods", "erm", "--seeds", "1"]) == 2
    assert "the loss of 'cross-entropy (ERM)' is not finite" in capsys.readouterr().err


def test_every_run_is_trained_under_the_precision_asked_for(monkeypatch):
    seen, build = [], training.recipes.build_model

    def build_model(*args, **options):
        seen.append(keras.config.dtype_policy().name)
        return build(*args, **options)

    monkeypatch.setattr(training.recipes, "build_model", build_model)
    before = keras.config.dtype_policy()
    compare(dataclasses.replace(CONFIG, precision="mixed_bfloat16"), methods=["erm", "la_loss"], seeds=1)
    assert seen == ["mixed_bfloat16"] * 2
    assert keras.config.dtype_policy() == before


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out", None])
def test_an_interrupted_comparison_goes_on_with_the_missing_runs(output, trained, monkeypatch, capsys, folder):
    train = training.train

    def interrupt_the_third(*arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    command = ["compare", *ROWS, "--seeds", "2", *(["--output", output] if output else [])]
    monkeypatch.setattr(training, "train", interrupt_the_third)
    assert cli.main(command) == 130
    assert "2 finished runs are kept in" in capsys.readouterr().out
    assert trained == [(0, "erm"), (0, "class_weight")]
    monkeypatch.setattr(training, "train", train)
    assert cli.main(command) == 0
    assert trained[2:] == [(0, "la_loss"), (1, "erm"), (1, "class_weight"), (1, "la_loss")]
    if output is None:
        assert not list((folder / "cache").rglob("*.npz"))  # nothing is left behind


def test_a_save_that_is_cut_short_leaves_no_run(trained, monkeypatch, capsys):
    def cut_short(file, **arrays):
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "savez_compressed", cut_short)
        compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert "Interrupted. 0 finished runs are kept" in capsys.readouterr().out
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert trained == [(0, "erm")] * 2


def test_a_finished_comparison_trains_nothing_again(trained):
    first = compare(CONFIG, seeds=2, output="out")
    again = compare(CONFIG, seeds=2, output="out")
    assert len(trained) == 6
    assert again["methods"] == first["methods"]


def test_more_seeds_and_methods_extend_a_folder_and_fewer_leave_it(trained, folder):
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    results = compare(CONFIG, methods=["la_head", "la_posthoc"], seeds=2, output="out")
    assert trained == [(0, "erm"), (0, "la_head"), (1, "erm"), (1, "la_head")]
    assert list(results["methods"]) == ["erm", "la_head", "la_posthoc"]
    assert list(compare(CONFIG, methods=["erm"], seeds=1, output="out")["methods"]) == ["erm"]
    assert len(trained) == len(list((folder / "out" / "runs").iterdir())) == 4


def test_the_legend_of_one_training_set_says_that_it_is_the_same(trained):
    said = "All seeds have the same training set, and each draws another initialization."
    for config, same in ((CONFIG, False), (dataclasses.replace(CONFIG, validation="none"), True)):
        text = " ".join(report.to_markdown(compare(config, methods=["erm"], seeds=2)).split())
        assert (said in text) == same


def test_the_returned_results_are_the_stored_ones(trained, folder):
    returned = compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert read_json(folder / "out" / "results.json") == json.loads(json.dumps(returned))


def damage(path, how, folder):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_text("not an archive")
    else:
        with np.load(path) as file:
            arrays = dict(file)
        if how == "another shape":
            arrays["test_logits"] = arrays["test_logits"][:-1]
        elif how == "logits of NaN":
            arrays["test_logits"][3, 1] = np.nan
        elif how == "another method":
            arrays["method"] = np.array("la_loss")
        elif how == "another head":
            arrays["bias"] = np.zeros(7)
        elif how == "another seed":
            arrays["seed"] = np.array(5)
        elif how == "another split":
            arrays["split_hash"] = np.array("0" * 64)
        elif how == "seconds in words":
            arrays["seconds"] = np.array("many")
        else:
            del arrays[how.removeprefix("without ")]
        np.savez(path, **arrays)


DAMAGES = ["truncated", "empty", "garbage", "logits of NaN", "seconds in words"]
DAMAGES += [f"another {part}" for part in ("shape", "split", "method", "head", "seed")]
DAMAGES += [f"without {part}" for part in ("test_logits", "validation_logits", "seconds", "split_hash", "loss")]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_run_is_trained_again(how, trained, folder):
    first = compare(CONFIG, methods=["la_loss"], seeds=1, output="out")
    damage(folder / "out" / "runs" / "erm_seed0.npz", how, folder)
    assert compare(CONFIG, methods=["la_loss"], seeds=1, output="out")["methods"] == first["methods"]
    assert trained == [(0, "erm"), (0, "la_loss"), (0, "erm")]


@pytest.mark.parametrize("part", ["train", "test"])
def test_files_that_changed_under_their_name_are_trained_on_again(part, trained, folder):
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    with np.load(folder / f"{part}.npz") as file:
        x, y = file["x"], file["y"]
    x[0, 0] += 1
    np.savez(folder / f"{part}.npz", x=x, y=y)
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert len(trained) == 2


OTHERS = {
    "epochs": 2,
    "batch_size": 7,
    "label_noise": 0.1,
    "recipe": "paper",
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "validation": "none",
    "imbalance_ratio": 3.0,
    "profile": "step",
    "model": "cosine",
    "precision": "mixed_bfloat16",
}


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.parametrize("kept", ["config.json", "results.json"])
def test_a_folder_of_another_configuration_is_refused_naming_the_field(field, kept, trained, folder):
    first = dataclasses.replace(CONFIG, profile="exponential", imbalance_ratio=5.0)
    compare(first, methods=["erm"], seeds=1, output="out")
    for name in {"config.json", "results.json"} - {kept}:
        (folder / "out" / name).unlink()
    theirs, mine = first.settled()[field], OTHERS[field]
    message = f"another configuration: its {field} is {theirs!r}, this one's is {mine!r}. Choose another `output`"
    with pytest.raises(ValueError, match=message):
        compare(dataclasses.replace(first, **{field: mine}), methods=["erm"], seeds=1, output="out")
    assert len(trained) == 1


def test_a_mistyped_option_does_not_claim_the_folder(trained):
    with pytest.raises(ValueError, match="Unknown data set"):
        compare(Config(dataset="fashion_mnist"[:-1]), methods=["erm"], seeds=1, output="out")
    assert not pathlib.Path("out").exists()
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert trained == [(0, "erm")]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '{"config": 3}', "\x00", "[" * 99999])
@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_a_broken_file_in_the_folder_is_named(name, content, trained, folder):
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    (folder / "out" / name).write_text(content)
    # A config.json without our fields is well-formed, and another's.
    message = rf"{name} is broken \(.*\)\. Remove it" if (name, content) != ("config.json", '{"config": 3}') else "its"
    with pytest.raises(ValueError, match=message):
        compare(CONFIG, methods=["erm"], seeds=1, output="out")
