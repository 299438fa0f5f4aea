"""Studies: what they refuse, and files that are not theirs."""

import dataclasses

import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS
from helpers.small_studies import run_from_command_line

from keras_logit_adjust import cli, studies

pytestmark = pytest.mark.usefixtures("folder")


def test_an_unknown_study_is_refused_naming_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["study", "calibration"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "invalid choice: 'calibration'" in message and all(name in message for name in studies.STUDIES)
    with pytest.raises(ValueError, match=r"`study` must be one of .*weight-norms.*label-noise.*Received: study='x'"):
        studies.run_study("x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["groups", *ROWS, "--methods", "lda"], "Unknown method 'lda'"),
        (["consistency", "--sizes", "1"], "--sizes must be an integer of at least 20. Received: --sizes 1"),
        (["consistency", "--trials", "0"], "--trials must be an integer of at least 1. Received: --trials 0"),
        (["groups", *ROWS, "--output", "train.npz"], "--output must be a folder. train.npz is a file"),
    ],
)
def test_bad_input_to_a_study_ends_with_status_2_and_a_reason(arguments, message, capsys, fitted):
    assert cli.main(["study", *arguments]) == 2
    assert message in capsys.readouterr().err and fitted == []


@pytest.mark.parametrize("first", ["compare", "study groups"])
def test_a_folder_of_another_command_is_refused_and_left_as_it_was(first, fitted, folder, capsys):
    assert cli.main([*first.split(), *ROWS, "--seeds", "1", "--output", "out"]) == 0
    before = (folder / "out" / "results.json").read_text()
    assert run_from_command_line("label-noise", "--output", "out") == 2
    assert "out holds results of another command" in capsys.readouterr().err
    assert (folder / "out" / "results.json").read_text() == before


def test_compare_refuses_the_folder_of_a_study(fitted, folder, capsys):
    assert run_from_command_line("label-noise", "--output", "out") == 0
    assert cli.main(["compare", *ROWS, "--output", "out"]) == 2
    assert "out holds a study. Choose another --output." in capsys.readouterr().err


@pytest.mark.parametrize("counts", [[30, 30, 30], [40, 20]], ids=str)
def test_norms_of_even_or_of_two_classes_have_no_correlation_to_look_at(counts, fitted, folder, capsys):
    y = np.repeat(np.arange(len(counts)), counts)
    np.savez(folder / "train.npz", x=np.zeros((y.size, 4)), y=y)
    np.savez(folder / "test.npz", x=np.zeros((y.size, 4)), y=y)
    assert run_from_command_line("weight-norms") == 2
    assert "at least three classes of different size. Received counts" in capsys.readouterr().err
    assert not fitted


def test_label_noise_needs_test_examples_of_the_largest_class(fitted, folder, capsys):
    np.savez(folder / "test.npz", x=np.zeros((4, 4)), y=[1, 1, 2, 2])
    assert run_from_command_line("label-noise") == 2
    assert "examples of the largest class. Received none of class 0" in capsys.readouterr().err
    assert not fitted


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0)])
def test_a_study_of_no_noise_is_refused_and_not_one_of_a_hundredth(zero, fitted, capsys):
    assert cli.main(["study", "label-noise", *ROWS, "--label-noise", str(zero)]) == 2
    expected = (
        "--label-noise must be above 0 here: without noise there is nothing to compare. Received: --label-noise 0"
    )
    assert expected in capsys.readouterr().err
    with pytest.raises(ValueError, match="`label_noise` must be above 0 here"):
        studies.run_study("label-noise", config=dataclasses.replace(CONFIG, label_noise=zero))
    assert fitted == []


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("weight-norms", "optimizer", "adam", "`optimizer` would change nothing: the study of norms compares the opt"),
        ("groups", "strategy", "multi_worker", "`strategy` 'multi_worker' is for `compare` only"),
    ],
)
def test_what_a_study_would_ignore_or_cannot_do_is_refused(name, field, value, message, fitted):
    with pytest.raises(ValueError, match=message):
        studies.run_study(name, config=dataclasses.replace(CONFIG, **{field: value}))
    assert fitted == []


def test_a_study_refuses_options_that_it_has_not():
    with pytest.raises(ValueError, match="The study 'consistency' has no option `epochs`. It has sizes, trials"):
        studies.run_study("consistency", epochs=3)
    with pytest.raises(ValueError, match="The study 'many-classes' has no option `sizes`. It has num_classes"):
        studies.run_study("many-classes", sizes=[3])
