"""What a user may type to `compare`, and get wrong."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers.fake_training import fake_training
from helpers.rows import CONFIG, enter_folder_of_rows

from keras_logit_adjust import cli, data
from keras_logit_adjust.compare import GROUPS, METHODS, Config, compare, report, training


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return enter_folder_of_rows(tmp_path, monkeypatch)


@pytest.fixture
def trained(monkeypatch):
    """(seed, method) of the runs that made-up logits stood in for."""
    return fake_training(monkeypatch, mark=lambda name, dataset, config: (dataset.seed, name))


def test_erm_is_added_first_and_repeated_methods_are_run_once(trained):
    assert list(compare(CONFIG, methods=["la_loss", "la_loss"], seeds=1)["methods"]) == ["erm", "la_loss"]
    assert list(compare(CONFIG, methods=["la_loss", "erm"], seeds=1)["methods"]) == ["la_loss", "erm"]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_models_train_at_the_precision_asked_for_and_later_ones_do_not(precision, monkeypatch, trained):
    train, policies = training.train, []
    monkeypatch.setattr(
        training, "train", lambda *a, **k: policies.append(keras.config.dtype_policy().name) or train(*a, **k)
    )
    compare(dataclasses.replace(CONFIG, precision=precision), methods=["erm"], seeds=1)
    assert policies == [precision]
    assert keras.config.dtype_policy().name == "float32"


def test_a_report_without_matplotlib_says_how_to_get_figures(trained, monkeypatch, capsys, folder):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(report, "_figures", lambda *_: pytest.fail("drew figures without matplotlib"))
    compare(CONFIG, methods=["erm"], seeds=1, output="out")
    assert 'pip install "keras_logit_adjust[plots]"' in capsys.readouterr().out
    assert "png" not in (folder / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "fashion"], "Unknown data set 'fashion'"),
        (["--dataset", ""], "Unknown data set ''"),
        (["--dataset", "cifar10", "--data-dir", "."], "'cifar10' is not on disk under .. Download it once with"),
        (
            ["--methods", "erm,lda"],
            "Unknown method 'lda'. Known: erm, class_weight, balanced_sampler, square_root_sampler_la",
        ),
        (
            ["--methods", "la_posthoc_tuned", "--validation", "none"],
            "'la_posthoc_tuned' chooses τ on the validation set",
        ),
        (["--label-noise", "1"], "--label-noise must be a number in [0, 1). Received: --label-noise 1.0"),
        (["--methods", ""], "Unknown method ''. Known: erm"),
        (["--seeds", "0"], "--seeds must be an integer of at least 1. Received: --seeds 0"),
        (["--epochs", "0"], "--epochs must be an integer of at least 1. Received: --epochs 0"),
        (["--batch-size", "-1"], "--batch-size must be an integer of at least 1. Received: --batch-size -1"),
        (["--ratio", "0.5"], "--ratio must lie between 1 and"),
        (["--ratio", "nan"], "every class keeps an example. Received: --ratio nan"),
        (["--train", "train.npz"], "--train and --test go together"),
        (["--test", "test.npz"], "--train and --test go together"),
        (["--train", "none.npz", "--test", "test.npz"], "No such file: none.npz. Make one with"),
        (["--train", "train.npz", "--test", "wide.npz"], "must have one shape. Received x of shape (4,) to train"),
        (["--train", "wide.npz", "--test", "bad.npz"], "bad.npz is not a NumPy .npz file"),
        (["--recipe", "released"], "Received: --dataset 'fashion_mnist_lt'. Choose 'paper', 'strong' or 'quick'"),
        (["--model", "linear"], "--model 'linear' does not take images of shape (28, 28, 1). Choose 'auto'"),
        (["--output", "train.npz"], "--output must be a folder. train.npz is a file"),
        (["--profile", "pareto"], "argument --profile: invalid choice: 'pareto'"),
        (["--validation", "random"], "argument --validation: invalid choice: 'random'"),
        (["--optimizer", "lamb"], "argument --optimizer: invalid choice: 'lamb'"),
        (["--recipe", "slow"], "argument --recipe: invalid choice: 'slow'"),
        (["--model", "vit"], "argument --model: invalid choice: 'vit'"),
        (["--precision", "float8"], "argument --precision: invalid choice: 'float8'"),
        (["--ratio", "many"], "argument --ratio: invalid float value: 'many'"),
        (["--epochs", "1.5"], "argument --epochs: invalid int value: '1.5'"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_line_that_says_why(options, message, capsys, folder):
    np.savez(folder / "wide.npz", x=np.zeros((6, 5)), y=[0, 1, 2] * 2)
    (folder / "bad.npz").write_text("no archive")
    try:
        status = cli.main(["compare", *options])
    except SystemExit as stop:  # argparse's own way
        status = stop.code
    lines = capsys.readouterr().err.strip().split("\n")
    assert status == 2
    assert any(line.startswith("keras-logit-adjust") and message in line for line in lines)
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("field", ["recipe", "optimizer", "model", "precision"])
def test_a_config_refuses_a_choice_that_does_not_exist(field):
    with pytest.raises(ValueError, match=rf"`{field}` must be one of .*Received: {field}='x'"):
        Config(**{field: "x"})


def test_help_names_every_option_and_method(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{'ratio' if field.name == 'imbalance_ratio' else field.name.replace('_', '-')} " in text
    for name in (*METHODS, *GROUPS, "--output", "--methods", "--seeds", *data.datasets.VALIDATIONS):
        assert name in text
