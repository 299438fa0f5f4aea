"""`keras-logit-adjust adjust` and `inspect`: a model's file in, an adjusted one or a description out."""

import pathlib
import re
import zipfile

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, adjusted_by_hand, numpy, rows, sequential, with_loss
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.cli import main

PLAIN_LOSS = keras.losses.SparseCategoricalCrossentropy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a trained model's file, its class counts and held-out data; the commands run in it."""
    monkeypatch.chdir(tmp_path)
    model = sequential(layers.Dense(5, "tanh"), layers.Dense(3, "softmax", name="head"))
    model.name = "trained"
    model.compile("adam", PLAIN_LOSS())
    model.save("model.keras")
    write_counts("counts.csv", COUNTS)
    rng = np.random.default_rng(1)
    np.savez("val.npz", x=rows(rng, 60, WIDTH), y=np.arange(60) % 3)
    return tmp_path


def write_counts(path, counts):
    lines = [f"{c},{count}" for c, count in enumerate(counts)]
    pathlib.Path(path).write_text("\n".join(["class_id,count", *lines]) + "\n")


def predictions(path, data):
    return numpy(keras.saving.load_model(path, compile=False)(data))


def test_adjust_writes_a_model_that_predicts_the_adjusted_probabilities(folder, rng, capsys):
    assert main(["adjust", "model.keras", "--counts", "counts.csv", "--tau", "0.5", "--output", "out.keras"]) == 0
    data = rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", 0.5 * log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)
    layer = "layer 'logit_adjustment' (LogitAdjustment)"
    assert capsys.readouterr().out.splitlines() == [
        "model     trained_adjusted",
        "head      'head' (Dense), 3 classes",
        "gives     softmax",
        f"adjusted  by {layer}, tau 0.5, class counts [90, 9, 1], target prior uniform",
        "prior     training prior to the power 0.5, renormalized (tau=0.5)",
        "",
        "Written to out.keras: a Keras model",
    ]


def test_a_target_prior_is_read_from_a_file_and_folded(folder, rng, capsys):
    write_counts("target.csv", [1, 1, 2])
    options = ["--counts", "counts.csv", "--target-prior", "target.csv", "--fold", "--output", "out.keras"]
    assert main(["adjust", "model.keras", *options]) == 0
    data = rows(rng, 7, WIDTH)
    shift = log_prior(COUNTS) - log_prior([1, 1, 2])
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", shift)
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)
    printed = capsys.readouterr().out
    assert "adjusted  by the bias of 'head', tau 1," in printed
    assert "prior     target\n" in printed
    assert len(keras.saving.load_model("out.keras").layers) == 2


def test_tau_auto_is_the_tau_that_tune_tau_finds_on_the_validation_file(folder, rng, capsys):
    options = ["--counts", "counts.csv", "--validation", "val.npz", "--tau", "auto", "--output", "out.keras"]
    assert main(["adjust", "model.keras", *options]) == 0
    with np.load("val.npz") as held_out:
        tuned = kla.tune_tau(
            keras.saving.load_model("model.keras", compile=False), (held_out["x"], held_out["y"]), COUNTS
        )
    data = rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", tuned.tau * log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-4)
    first = capsys.readouterr().out.splitlines()[0]
    low, high = tuned.interval
    assert first == (
        f"tau       {tuned.tau:.4g}, chosen on 60 validation examples; interval {low:.4g} to {high:.4g}, "
        f"balanced accuracy {tuned.balanced_accuracy:.4f}"
    )


def test_a_warning_of_tune_tau_is_a_line_on_the_error_stream(folder, rng, capsys):
    np.savez("val.npz", x=rows(rng, 41, WIDTH), y=np.repeat([0, 1, 2], [20, 20, 1]))
    options = ["--counts", "counts.csv", "--validation", "val.npz", "--tau", "auto", "--output", "out.keras"]
    assert main(["adjust", "model.keras", *options]) == 0
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("keras-logit-adjust: 1 of 3 classes have fewer than 5 held-out examples ")
    assert printed.out.startswith("tau       ")


def test_independent_labels_are_adjusted_by_their_odds(folder, rng):
    model, data = sequential(layers.Dense(2, "sigmoid")), rows(rng, 7, WIDTH)
    model.save("labels.keras")
    write_counts("positives.csv", [50, 20])
    options = ["--counts", "positives.csv", "--num-examples", "100", "--output", "out.keras"]
    assert main(["adjust", "labels.keras", *options]) == 0
    expected = adjusted_by_hand(model(data), "sigmoid", np.log([50 / 50, 20 / 80]))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)


def test_an_output_that_exists_is_replaced_only_when_forced(folder, capsys):
    command = ["adjust", "model.keras", "--counts", "counts.csv", "--output", "out.keras"]
    pathlib.Path("out.keras").write_text("mine")
    assert main(command) == 2
    assert "out.keras exists and is not overwritten" in capsys.readouterr().err
    assert pathlib.Path("out.keras").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert zipfile.is_zipfile("out.keras")


def test_a_failed_write_leaves_no_half_file(folder, capsys, monkeypatch):
    def save(model, path):
        pathlib.Path(path).write_text("half")
        raise OSError("no space left on device")

    before = sorted(entry.name for entry in folder.iterdir())
    monkeypatch.setattr(keras.Model, "save", save)
    assert main(["adjust", "model.keras", "--counts", "counts.csv", "--output", "out.keras"]) == 2
    assert capsys.readouterr().err == "keras-logit-adjust: no space left on device\n"
    assert sorted(entry.name for entry in folder.iterdir()) == before


def served_by(arguments, data):
    """What the SavedModel that `adjust --fold` writes says of some rows."""
    import tensorflow as tf

    assert main(["adjust", *arguments, "--counts", "counts.csv", "--fold", "--output", "served"]) == 0
    function = tf.saved_model.load("served").signatures["serving_default"]
    (slot,) = function.structured_input_signature[1]
    return {name: found.numpy() for name, found in function(**{slot: tf.constant(data)}).items()}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_savedmodel_is_told_the_prior_that_was_folded_in(folder, rng):
    pathlib.Path("names.txt").write_text("cat\ndog\nemu\n")
    data = rows(rng, 7, WIDTH)
    found = served_by(["model.keras", "--class-names", "names.txt"], data)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", log_prior(COUNTS))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5)
    names = np.array([b"cat", b"dog", b"emu"])
    assert found["class_name"].tolist() == names[expected.argmax(axis=-1)].tolist()
    assert set(found["prior"].tolist()) == {b"uniform"}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_savedmodel_is_told_that_folded_logits_are_of_independent_labels(folder, rng):
    sequential(layers.Dense(3)).save("labels.keras")
    data = rows(rng, 7, WIDTH)
    found = served_by(["labels.keras", "--num-examples", "200"], data)
    logits = predictions("labels.keras", data) - np.log(np.array(COUNTS) / (200 - np.array(COUNTS)))
    np.testing.assert_allclose(found["probabilities"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert set(found["prior"].tolist()) == {b"uniform"}


def test_inspect_says_that_no_adjustment_is_seen_and_what_leaves_no_trace(folder, capsys):
    assert main(["inspect", "model.keras"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model     trained",
        "head      'head' (Dense), 3 classes",
        "gives     softmax",
        "adjusted  not seen (a folded bias, class weights and a resampled training set leave no trace)",
        "prior     training, if nothing was folded into the bias",
    ]


def test_a_model_compiled_with_an_adjusted_loss_is_known_by_its_file(folder, capsys):
    with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS)).save("adjusted.keras")
    assert main(["inspect", "adjusted.keras"]) == 0
    assert "by loss 'LogitAdjustedCrossentropy', tau 1" in capsys.readouterr().out
    assert main(["adjust", "adjusted.keras", "--counts", "counts.csv", "--output", "out.keras"]) == 2
    error = capsys.readouterr().err
    assert "corrected twice: the model in adjusted.keras was compiled with the adjusted loss" in error
    assert "Give --allow-double-correction" in error
    options = ["--counts", "counts.csv", "--tau", "auto", "--validation", "val.npz", "--allow-double-correction"]
    assert main(["adjust", "adjusted.keras", *options, "--output", "out.keras"]) == 2
    assert "give a number as --tau" in capsys.readouterr().err


def test_the_prior_is_unknown_where_training_corrected_it_too(folder, capsys):
    with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5)).save("half.keras")
    options = ["--counts", "counts.csv", "--tau", "0.5", "--allow-double-correction", "--fold", "--output", "out.keras"]
    assert main(["adjust", "half.keras", *options]) == 0
    assert "prior     unknown: corrected more than once\n" in capsys.readouterr().out


@pytest.mark.parametrize("fold", [[], ["--fold"]])
@pytest.mark.parametrize("tau", ["auto", "0.5"])
def test_calibration_is_that_of_the_validation_logits_for_the_counts(fold, tau, folder, rng, capsys):
    model = keras.saving.load_model("model.keras", compile=False)
    x = rows(rng, 60, WIDTH)
    noisy = np.log(numpy(model(x))) + rng.gumbel(size=(60, 3))  # labels as the model says, and each class among them
    np.savez("val.npz", x=x, y=np.concatenate([[0, 1, 2], noisy.argmax(-1)[3:]]))
    options = ["--counts", "counts.csv", "--validation", "val.npz", "--calibrate", "--tau", tau, *fold]
    assert main(["adjust", "model.keras", *options, "--output", "out.keras"]) == 0
    with np.load("val.npz") as held_out:
        logits, labels = np.log(numpy(model(held_out["x"]))), held_out["y"]
    found = kla.calibrate(logits, labels, method="bias_corrected_temperature", class_prior=COUNTS)
    chosen = float(kla.tune_tau(found.apply(logits), labels, COUNTS)) if tau == "auto" else 0.5
    data = rows(rng, 7, WIDTH)
    expected = softmax(found.apply(np.log(numpy(model(data)))) - chosen * log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-3)
    printed = capsys.readouterr().out
    shown = re.match(r"logits    calibrated on 60 validation examples; temperature ([\d.]+), biases", printed)
    assert float(shown[1]) == pytest.approx(found.temperature, rel=1e-3)
    shown = re.search(r"^tau       ([\d.]+), chosen", printed, re.MULTILINE)
    assert (shown is not None) == (tau == "auto")
    assert shown is None or float(shown[1]) == pytest.approx(chosen, rel=1e-3)
    assert ", calibrated before" in printed


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


def save_decisions():
    sequential(layers.Dense(3), kla.layers.MinimumRiskDecision(np.eye(3))).save("decisions.keras")


def save_with_raw_softmax():
    """A graph whose softmax is an operation, not a layer: its output can be passed off as logits."""
    inputs = keras.Input((WIDTH,))
    keras.Model(inputs, keras.ops.softmax(layers.Dense(3)(inputs))).save("raw.keras")


AUTO = ["--tau", "auto", "--validation", "val.npz"]
BAD = {
    "no such model": (None, "absent.keras", [], "No such file: absent.keras"),
    "a model that is text": (lambda: pathlib.Path("t.keras").write_text("no"), "t.keras", [], "It is no zip archive"),
    "a model that is empty": (lambda: pathlib.Path("t.keras").touch(), "t.keras", [], "t.keras must be a Keras model"),
    "a model that is a folder": (lambda: pathlib.Path("t.keras").mkdir(), "t.keras", [], "It is a folder"),
    "a model that is a CSV": (None, "counts.csv", [], "must be a Keras model"),
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
        'Say what it gives: --gives "logits", "softmax" or',
    ),
    "decisions": (save_decisions, "decisions.keras", ["--gives", "logits"], "scores of decisions, which are no logits"),
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
    "an upper-case suffix": (None, None, ["--output", "out.KERAS"], "must be .keras, .tflite, .onnx, or none"),
    "an unknown suffix": (None, None, ["--output", "out.json"], "name the format (--to)"),
    "names for a file": (
        lambda: pathlib.Path("n.txt").write_text("a\nb\nc\n"),
        None,
        ["--class-names", "n.txt"],
        "no place for them",
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
    expected = "keras-logit-adjust: out.keras: Permission denied. Name a place where you may read and write.\n"

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


def test_a_tau_below_0_puts_the_prior_back(folder, rng, capsys):
    assert main(["adjust", "model.keras", "--counts", "counts.csv", "--tau", "-0.5", "--output", "out.keras"]) == 0
    data = rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", -0.5 * log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)


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
