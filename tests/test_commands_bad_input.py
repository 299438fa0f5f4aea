"""`keras-logit-adjust adjust` and `inspect`: what they refuse."""

import pathlib

import keras
import numpy as np
import pytest
from helpers.commands_folder import save_model_counts_and_data, write_counts
from helpers.posthoc_models import WIDTH, Subclassed, sequential
from keras import layers

import keras_logit_adjust as kla
from keras_logit_adjust.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model_counts_and_data()
    return tmp_path


def save_with_nan():
    model = sequential(layers.Dense(3))
    model.layers[0].bias.assign([0.0, np.nan, 0.0])
    model.save("nan.keras")


def save_layer():
    layer = layers.Dense(2)
    layer.build((None, WIDTH))
    keras.saving.save_model(layer, "layer.keras")


def save_subclassed():
    model = Subclassed(3)
    model(np.ones((1, WIDTH)))
    model.save("sub.keras")


def save_labels():
    sequential(layers.Dense(3, "sigmoid")).save("labels.keras")
    np.savez("on.npz", x=np.ones((2, WIDTH)), y=[[1, 1, 0], [1, 0, 0]])


def save_decisions():
    sequential(layers.Dense(3), kla.layers.MinimumRiskDecision(np.eye(3))).save("decisions.keras")


def save_with_raw_softmax():
    """A graph whose softmax is an operation, not a layer: its output can be passed off as logits."""
    inputs = keras.Input((WIDTH,))
    keras.Model(inputs, keras.ops.softmax(layers.Dense(3)(inputs))).save("raw.keras")


AUTO = ["--tau", "auto", "--validation", "val.npz"]


BAD = {
    "no such model": (None, "absent.keras", [], "No such file: absent.keras"),
    "a model that is text": (
        lambda: pathlib.Path("t.keras").write_text("no"),
        "t.keras",
        [],
        "It is not a zip archive",
    ),
    "a model that is empty": (lambda: pathlib.Path("t.keras").touch(), "t.keras", [], "t.keras must be a Keras model"),
    "a model that is a folder": (lambda: pathlib.Path("t.keras").mkdir(), "t.keras", [], "It is a folder"),
    "a model that is data": (None, "val.npz", [], "must be a Keras model"),
    "a kind of scores of a model": (None, None, ["--kind", "logits"], "--kind is for scores"),
    "weights of labels": (None, None, ["--num-examples", "200", "--class-weight", "balanced"], "Leave one out"),
    "weights without a name": (None, None, ["--class-weight", "counts.csv"], "the columns class_id and weight"),
    "a layer": (save_layer, "layer.keras", [], "It holds a Dense"),
    "another number of counts": (lambda: write_counts("c.csv", [5, 5]), None, ["--counts", "c.csv"], "has 2"),
    "a count of zero": (
        lambda: write_counts("c.csv", [5, 5, 0]),
        None,
        ["--counts", "c.csv"],
        "class 2. Add a pseudo-count in",
    ),
    "a target of zero": (
        lambda: write_counts("c.csv", [5, 0, 5]),
        None,
        ["--target-prior", "c.csv"],
        "c.csv must be greater than zero",
    ),
    "a label that is always on": (None, None, ["--num-examples", "90"], "must be below --num-examples 90"),
    "a CSV in latin-1": (
        lambda: pathlib.Path("c.csv").write_bytes(b"class_id,count\xe9\n"),
        None,
        ["--counts", "c.csv"],
        "UTF-8 text. Received c.csv",
    ),
    "a wrong CSV": (lambda: pathlib.Path("c.csv").write_text("a,b\n1,2\n"), None, ["--counts", "c.csv"], "columns"),
    "counts by name": (
        lambda: pathlib.Path("c.csv").write_text("class,count\na,5\nb,3\nc,1\n"),
        None,
        ["--counts", "c.csv"],
        "c.csv names its classes, but a model has them by class id: put the column class_id in place of class, 0 "
        "for the first class and so on, or give the names in order of class id, --class-names FILE.txt.\n",
    ),
    "names of other classes than the counts": (
        lambda: (
            pathlib.Path("c.csv").write_text("class,count\na,5\nb,3\nc,1\n"),
            pathlib.Path("n.txt").write_text("a\nb\nd\n"),
        ),
        None,
        ["--counts", "c.csv", "--class-names", "n.txt"],
        "c.csv must name every class in --class-names once, and no other. Received 3 names for 3; missing in c.csv: "
        "['d'], missing in --class-names: ['c']",
    ),
    "no such CSV": (None, None, ["--counts", "absent.csv"], "absent.csv"),
    "weights that are NaN": (save_with_nan, "nan.keras", [], "must not be NaN"),
    "logits that are NaN": (
        lambda: np.savez("n.npz", x=np.full((9, WIDTH), np.nan), y=np.arange(9) % 3),
        None,
        ["--tau", "auto", "--validation", "n.npz"],
        "NaN",
    ),
    "a softmax called logits": (None, None, ["--gives", "logits"], "gives 'softmax'"),
    "probabilities for logits": (save_with_raw_softmax, "raw.keras", ["--gives", "logits", *AUTO], "gives 'softmax'"),
    "labels of other classes": (
        lambda: np.savez("n.npz", x=np.ones((9, WIDTH)), y=np.arange(9)),
        None,
        ["--tau", "auto", "--validation", "n.npz"],
        "class ids 0 … 2",
    ),
    "no examples": (
        lambda: np.savez("n.npz", x=np.ones((0, WIDTH)), y=np.ones(0, int)),
        None,
        ["--tau", "auto", "--validation", "n.npz"],
        "n.npz must have a row for each held-out example, and there must be some",
    ),
    "x for other rows": (
        lambda: np.savez("n.npz", x=np.ones((2, WIDTH)), y=[1]),
        None,
        ["--calibrate", "--validation", "n.npz"],
        "Received shapes (2, 6) and (1,)",
    ),
    "no arrays": (lambda: np.savez("n.npz", a=[1]), None, ["--tau", "auto", "--validation", "n.npz"], "named x and y"),
    "auto without data": (None, None, ["--tau", "auto"], "need held-out data"),
    "calibration without data": (None, None, ["--calibrate"], "Received --tau 1.0 --calibrate without --validation"),
    "data without use": (None, None, ["--validation", "val.npz"], "Received --tau 1.0 with --validation"),
    "a subclass of unknown output": (
        save_subclassed,
        "sub.keras",
        [],
        'Give the kind of its output: --gives "logits", "softmax" or',
    ),
    "decisions": (
        save_decisions,
        "decisions.keras",
        ["--gives", "logits"],
        "scores of decisions, which are not logits",
    ),
    "labels without their number": (save_labels, "labels.keras", [], "needs --num-examples"),
    "auto towards a target": (None, None, [*AUTO, "--target-prior", "counts.csv"], "give --tau 1"),
    "a target of labels": (None, None, ["--num-examples", "200", "--target-prior", "counts.csv"], "independent"),
    "a target that is empty text": (
        None,
        None,
        ["--target-prior", ""],
        "A file of class counts must be one that can be read. Received '': Is a directory. Check the path.",
    ),
    "names that are empty text": (None, None, ["--class-names", ""], "Received '': Is a directory. Check the path."),
    "validation that is empty text": (None, None, ["--calibrate", "--validation", ""], "No such file: ."),
    "names with a gap": (
        lambda: pathlib.Path("n.txt").write_text("a\n\nb\n"),
        None,
        ["--class-names", "n.txt"],
        "one name a line",
    ),
    "names in UTF-16": (
        lambda: pathlib.Path("n.txt").write_text("a\nb\nc\n", encoding="utf-16"),
        None,
        ["--class-names", "n.txt"],
        "must be UTF-8 text. Received n.txt",
    ),
    "an upper-case suffix": (None, None, ["--output", "out.KERAS"], "must be .keras, .tflite, .onnx, or empty"),
    "an unknown suffix": (None, None, ["--output", "out.json"], "name the format (--to)"),
    "names for a file": (
        lambda: pathlib.Path("n.txt").write_text("a\nb\nc\n"),
        None,
        ["--class-names", "n.txt"],
        "A keras file has no place for --class-names, which a SavedModel has. Leave it out, or write a SavedModel, a "
        "folder: --output without a suffix.\n",
    ),
    "calibration on data without a class": (
        lambda: np.savez("n.npz", x=np.ones((6, WIDTH)), y=np.arange(6) % 2),
        None,
        ["--calibrate", "--validation", "n.npz"],
        "--calibrate weights the examples in n.npz to the class mix in counts.csv, so every class needs an example "
        "there. Missing for class 2: hold out more examples, or leave --calibrate out.",
    ),
    "calibration of a label that is always on": (
        save_labels,
        "labels.keras",
        ["--num-examples", "200", "--calibrate", "--validation", "on.npz"],
        "and one without it. Missing for classes 0, 2: hold out more examples",
    ),
    "another suffix": (None, None, ["--to", "onnx"], "must be named ….onnx"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error_and_nothing_is_written(name, folder, capsys):
    prepare, model, options, message = BAD[name]
    if prepare is not None:
        prepare()
    before = sorted(entry.name for entry in folder.iterdir())
    command = ["adjust", model or "model.keras", "--counts", "counts.csv", "--output", "out.keras", *options]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-logit-adjust: ")
    assert message in error
    assert sorted(entry.name for entry in folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_to_is_named(folder, capsys, monkeypatch):
    command = ["adjust", "model.keras", "--counts", "counts.csv", "--output", "out.keras"]
    expected = "keras-logit-adjust: out.keras: Permission denied. Give a path where you may read and write.\n"

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", ".out.keras.k3j2")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    assert main(command) == 2
    assert capsys.readouterr().err == expected
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(command) == 2
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("tau", ["much", "inf", "nan"])
def test_tau_is_a_finite_number_or_auto(tau, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["adjust", "model.keras", "--counts", "counts.csv", "--output", "out.keras", "--tau", tau])
    assert ended.value.code == 2
    assert f"argument --tau: must be a number, or auto. Received: {tau!r}" in capsys.readouterr().err


def test_a_tau_that_overflows_is_refused_and_nothing_is_written(folder, capsys):
    assert main(["adjust", "model.keras", "--counts", "counts.csv", "--tau", "1e300", "--output", "out.keras"]) == 2
    assert "--tau must be at most 1,000,000 in size" in capsys.readouterr().err
    assert not pathlib.Path("out.keras").exists()


@pytest.mark.parametrize("option", ["--counts", "--target-prior", "--class-names"])
@pytest.mark.parametrize("path", [".", "counts.csv/x", "absent.csv"])
def test_files_that_cannot_be_read_are_told_in_words(option, path, folder, capsys):
    options = {"--counts": "counts.csv", "--output": "out.keras", option: path}
    assert main(["adjust", "model.keras", *(part for pair in options.items() for part in pair)]) == 2
    content = "class names" if option == "--class-names" else "class counts"
    error = capsys.readouterr().err
    assert error.startswith(
        f"keras-logit-adjust: A file of {content} must be one that can be read. Received {str(path)!r}: "
    )
    assert "Errno" not in error


@pytest.mark.parametrize("options", [["--to", "pickle"], []])
def test_options_that_cannot_be_parsed_end_with_code_2(options, folder):
    counts = ["--counts", "counts.csv"] if options else []
    with pytest.raises(SystemExit) as ended:
        main(["adjust", "model.keras", *counts, "--output", "out.keras", *options])
    assert ended.value.code == 2
