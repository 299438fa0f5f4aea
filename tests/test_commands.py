"""`keras-logit-adjust adjust` and `inspect`: a model's file in, an adjusted one or a description out."""

import pathlib
import re
import warnings
import zipfile

import keras
import numpy as np
import pytest
from helpers.commands_folder import save_model_counts_and_data, write_counts
from helpers.posthoc_models import COUNTS, WIDTH, adjusted_by_hand, numpy, rows, sequential, with_loss
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla
from keras_logit_adjust.cli import main

TRAINED = kla.losses.LogitAdjustedCrossentropy(COUNTS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model_counts_and_data()
    return tmp_path


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


@keras.saving.register_keras_serializable(package="test_commands")
class WithOwnCompile(keras.Model):
    """A class whose `compile` is its own, as those of KerasHub's tasks: Keras does not compile it again."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)


def test_a_loss_that_only_the_file_names_is_seen(folder, capsys):
    inputs = keras.Input((WIDTH,))
    model = WithOwnCompile(inputs, layers.Dense(3, name="head")(inputs), name="task")
    assert "training set and a loss that the file does not keep leave no trace)" in str(kla.serving.describe(model))
    assert kla.serving.describe(model).prior.endswith("and no adjusted loss trained it")
    options = ["--counts", "counts.csv", "--output", "out.keras", "--force"]
    for loss, code in ((keras.losses.SparseCategoricalCrossentropy(from_logits=True), 0), (TRAINED, 2)):
        model.compile("sgd", loss)
        model.save("task.keras")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`compile..` was not called as part of model loading")
            assert main(["inspect", "task.keras"]) == 0
            assert ("adjusted  by loss 'LogitAdjustedCrossentropy', tau 1" in capsys.readouterr().out) == (code == 2)
            assert main(["adjust", "task.keras", *options]) == code
    assert (
        "the model in task.keras has the layer 'head', which the adjusted loss LogitAdjustedCrossentropy trained"
        in capsys.readouterr().err
    )


def test_counts_by_name_of_a_model_are_put_in_order_by_the_class_names(folder, rng, capsys):
    pathlib.Path("named.csv").write_text("class,count\nemu,1\ncat,90\ndog,9\n")
    pathlib.Path("names.txt").write_text("cat\ndog\nemu\n")
    options = ["--counts", "named.csv", "--class-names", "names.txt", "--output", "out.keras"]
    assert main(["adjust", "model.keras", *options]) == 0
    assert COUNTS == [90, 9, 1]
    data = rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)
    printed = capsys.readouterr().out
    assert "paired    named.csv by name: class 'cat' ← 90, class 'dog' ← 9, class 'emu' ← 1\n" in printed


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


def test_a_tau_below_0_puts_the_prior_back(folder, rng, capsys):
    assert main(["adjust", "model.keras", "--counts", "counts.csv", "--tau", "-0.5", "--output", "out.keras"]) == 0
    data = rows(rng, 7, WIDTH)
    expected = adjusted_by_hand(predictions("model.keras", data), "softmax", -0.5 * log_prior(COUNTS))
    np.testing.assert_allclose(predictions("out.keras", data), expected, rtol=1e-5)
