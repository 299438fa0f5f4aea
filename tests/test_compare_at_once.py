"""Two comparisons at once, data that changes or does not fit, and what is on disk when a table cannot be printed."""

import dataclasses
import errno
import gc
import io
import json
import os
import pathlib
import subprocess
import sys
import weakref

import numpy as np
import pytest
from helpers.fake_training import fake_training
from helpers.rows import CONFIG, ROWS, read_json, write_rows

from keras_logit_adjust import cli, studies
from keras_logit_adjust._printing import say
from keras_logit_adjust.compare import Config, compare, run, storage, training

COMMANDS = {
    "compare": ["compare", *ROWS, "--methods", "erm,la_posthoc_tuned", "--seeds", "2"],
    "study": ["study", "label-shift", *ROWS, "--seeds", "2"],
}
# Holds the lock of a folder until it is killed.
HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); sys.stdin.read()"


pytestmark = pytest.mark.usefixtures("folder")


def before_run(monkeypatch, number, act):
    """Calls `act` once, before the run of this number is trained."""
    train, runs = training.train, []

    def train_and_act(*arguments, **options):
        runs.append(1)
        if len(runs) == number:
            act()
        return train(*arguments, **options)

    monkeypatch.setattr(training, "train", train_and_act)


def cached(folder):
    """The runs that wait without an output folder."""
    return sorted(path.name for path in folder.joinpath("cache").rglob("*_seed*.npz"))


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The confusion matrix is near singular")
@pytest.mark.parametrize("name", COMMANDS)
def test_projects_of_one_file_name_print_what_they_print_alone(name, trained, folder, monkeypatch, capsys):
    for seed, project in enumerate(("one", "other")):
        (folder / project).mkdir()
        write_rows(folder / project, seed=seed)

    def print_in(project):
        before = pathlib.Path.cwd()
        os.chdir(folder / project)
        assert cli.main(COMMANDS[name]) == 0
        os.chdir(before)
        return capsys.readouterr().out

    alone = {project: print_in(project) for project in ("one", "other")}
    assert alone["one"] != alone["other"]
    within = []
    before_run(monkeypatch, 2, lambda: within.append(print_in("other")))
    assert print_in("one") == alone["one"] and within == [alone["other"]]
    assert cached(folder) == []


@pytest.mark.parametrize("output", [["--output", "out"], []])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_twice_at_once_is_refused_and_the_first_ends(
    name, output, trained, folder, monkeypatch, capsys
):
    before_run(monkeypatch, 2, lambda: status.append(cli.main([*COMMANDS[name], *output])))
    status, number = [], len(trained)
    assert cli.main([*COMMANDS[name], *output]) == 0 and status == [2]
    printed = capsys.readouterr()
    assert "is in use by another process. Wait until it has finished" in printed.err
    assert printed.out.count("| method |") == 1 and len(trained) - number == 2


def test_a_lock_is_kept_by_a_process_that_lives_and_by_no_other(trained, folder):
    (folder / "out").mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match=r"out is in use by another process\. Wait .* choose another `output`"):
            compare(CONFIG, methods=["erm"], seeds=1, output="out")
        other.kill()
        other.wait()
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert trained == [(0, "erm")]


def test_a_file_written_twice_at_once_is_one_of_the_two_and_whole(folder):
    path = folder / "numbers.txt"
    with storage._written(path) as first:
        first.write(b"first, ")
        storage.write_text(path, "second")
        first.write(b"whole")
    assert path.read_text() == "first, whole"
    assert not list(folder.glob("*.partial"))


def test_a_folder_without_locks_of_folders_is_locked_by_a_file_beside(trained, folder, monkeypatch):
    monkeypatch.setattr(storage, "fcntl", None)  # as on Windows, which removes the file when it is closed
    monkeypatch.setattr(os, "O_TEMPORARY", 0, raising=False)
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert (folder / "out.lock").exists()
    with pytest.raises(ValueError, match="out is in use by another process"):
        compare(CONFIG, methods=["erm"], seeds=1, output="out")


# --- data of several seeds -------------------------------------------------------------------------------------------


def test_the_data_of_one_seed_at_a_time_is_in_memory(monkeypatch, folder):
    load, loaded, alive = Config.load, [], []

    def load_and_watch(config, seed):
        gc.collect()
        alive.append(sum(dataset() is not None for dataset in loaded))
        dataset = load(config, seed)
        loaded.append(weakref.ref(dataset))
        return dataset

    monkeypatch.setattr(Config, "load", load_and_watch)
    fake_training(monkeypatch, mark=lambda name, dataset, config: dataset.seed)
    with run.compared(CONFIG, methods=["erm", "la_loss"], seeds=4) as (_, predictions, _):
        assert alive == [0] * 4  # before the next seed is loaded, the last one is gone
        assert all(split.test_labels is predictions.splits[0].test_labels for split in predictions.splits)


def test_a_file_that_changes_between_two_seeds_is_refused(trained, folder, monkeypatch):
    before_run(monkeypatch, 2, lambda: write_rows(folder, seed=1))
    with pytest.raises(ValueError, match=r"`train` must not change until all seeds are trained\. train.npz has"):
        compare(CONFIG, methods=["erm", "la_loss"], seeds=2, output="out")
    assert trained == [(0, "erm"), (0, "la_loss")]
    compare(CONFIG, methods=["erm", "la_loss"], seeds=2, output="out")
    assert trained[2:] == [(0, "erm"), (0, "la_loss"), (1, "erm"), (1, "la_loss")]  # on the data that is there now


# --- a table that cannot be printed ----------------------------------------------------------------------------------


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("ignore:The confusion matrix is near singular")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_table_that_does_not_fit_on_the_disk_is_printed_later(name, trained, folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert cli.main(COMMANDS[name]) == 2
    error, number = capsys.readouterr().err, len(trained)
    assert "Standard output cannot be written (No space left on device). Finished work is kept in" in error
    assert len(cached(folder)) == number == 2
    assert cli.main(COMMANDS[name]) == 0
    assert "| method |" in capsys.readouterr().out and len(trained) == number and cached(folder) == []


def test_a_closed_output_is_refused_before_training_where_nothing_is_kept(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(COMMANDS["compare"]) == 2 and trained == []
    assert "Standard output is closed, so the table would be lost. Give --output." in capsys.readouterr().err
    assert cli.main([*COMMANDS["compare"], "--output", "out"]) == 0


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "τ for"), ("cp1252", "tau for"), ("ascii", "tau for"), ("utf-16", "τ for")]
)
def test_a_table_is_printed_whatever_characters_there_are(encoding, expected, trained, monkeypatch):
    printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", printed)
    assert cli.main(COMMANDS["compare"]) == 0
    text = printed.buffer.getvalue().decode(encoding)
    assert f"{expected} each seed" in text and ("+/-" in text) == (encoding == "ascii")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["adjust", "--help"])


def test_what_a_stream_cannot_write_is_spelled_out(folder):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("τ ± … é \udcff", stream)
    assert stream.buffer.getvalue() == b"tau +/- ... \\xe9 \\udcff\n"


def test_a_closed_error_stream_changes_nothing(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(COMMANDS["compare"]) == 0
    assert "| method |" in capsys.readouterr().out


# --- folders and files that cannot be used ---------------------------------------------------------------------------


def test_a_full_disk_is_named_with_its_path_and_leaves_finished_runs(trained, folder, monkeypatch, capsys):
    save, saved = np.savez_compressed, []

    def fill_up(file, **arrays):
        saved.append(file)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", fill_up)
        assert cli.main([*COMMANDS["compare"], "--output", "out"]) == 2
    path = pathlib.Path("out", "runs", "erm_seed1.npz")
    expected = f"keras-logit-adjust: {path}: No space left on device. Make room, and give the same command again.\n"
    assert capsys.readouterr().err.endswith(expected)
    assert [path.name for path in (folder / "out" / "runs").iterdir()] == ["erm_seed0.npz"]
    assert cli.main([*COMMANDS["compare"], "--output", "out"]) == 0
    assert trained == [(0, "erm"), (1, "erm"), (1, "erm")]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("train.npz/x", "--output must be a folder. {folder}/train.npz is a file: choose another --output."),
        ("gone", "--output must be a folder. gone is a link to nothing: choose another --output."),
        ("", "--output must be a path. Received: --output ''"),
        ("a\udcff", r"--output must be a path in UTF-8, as reports name it. Received: --output 'a\udcff'"),
        ("x" * 300, "xx: File name too long: choose another --output."),
    ],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_cannot_be_a_folder_is_refused_at_once(name, output, message, trained, folder, capsys):
    (folder / "gone").symlink_to("nowhere")
    assert cli.main([*COMMANDS[name], "--output", output]) == 2
    assert message.format(folder=folder) in capsys.readouterr().err and trained == []


def test_a_null_character_is_in_no_path(trained, capsys):
    with pytest.raises(ValueError, match=r"`output` must be a path\. Received: output='a\\x00b'"):
        compare(CONFIG, methods=["erm"], seeds=1, output="a\0b")
    with pytest.raises(SystemExit, match="2"):
        cli.main([*COMMANDS["compare"], "--output", "a\0b"])
    assert "an argument must not hold a null character" in capsys.readouterr().err and trained == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_home_that_cannot_be_written_to_asks_for_an_output(name, trained, folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert cli.main(COMMANDS[name]) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "train.npz" / "cache"))
    assert cli.main(COMMANDS[name]) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2 and trained == []
    assert all("folder for caches" in line and line.endswith("Give --output.") for line in lines)


def test_a_folder_that_came_to_nothing_is_not_left_behind(trained, folder, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    (folder / "mine").mkdir()
    for output in ("out", "mine"):
        with pytest.raises(KeyboardInterrupt):
            compare(CONFIG, methods=["erm"], seeds=1, output=output)
    assert not (folder / "out").exists() and (folder / "mine").exists()


@pytest.mark.parametrize("make", [dict, lambda: "erm", lambda: 0])
def test_a_config_that_is_none_is_refused(make):
    for call in (compare, lambda config: studies.run_study("groups", config=config)):
        with pytest.raises(ValueError, match=r"`config` must be a `keras_logit_adjust\.compare\.Config`\. Received: a"):
            call(make())


def test_numbers_of_numpy_and_paths_are_written_as_plain_values(trained, folder):
    given = {"epochs": np.int64(2), "label_noise": np.float32(0.25), "imbalance_ratio": np.int32(4), "profile": "step"}
    config = Config(train=pathlib.Path("train.npz"), test=pathlib.Path("test.npz"), **given)
    compare(config, methods=["erm"], seeds=np.int64(1), output="out")
    stored = read_json(folder / "out" / "results.json")["config"]
    expected = {"train": "train.npz", "epochs": 2, "label_noise": 0.25, "imbalance_ratio": 4.0, "dataset": None}
    assert {name: stored[name] for name in expected} == expected
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)
