"""What a user may type to `compare`, and get wrong."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers.rows import CONFIG, ROWS

from keras_logit_adjust import cli, data
from keras_logit_adjust.compare import GROUPS, METHODS, Config, compare, recipes, report, training

pytestmark = pytest.mark.usefixtures("folder")


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
        (
            ["--batch-size", "1" + "0" * 22],
            "--batch-size must be an integer of at least 1 and at most 2,147,483,647. Received: --batch-size 1000000",
        ),
        (["--ratio", "0.5"], "--ratio must lie between 1 and"),
        (["--ratio", "nan"], "every class keeps an example. Received: --ratio nan"),
        (["--train", "train.npz"], "--train and --test go together"),
        (["--test", "test.npz"], "--train and --test go together"),
        (
            [*ROWS, "--ratio", "10"],
            "--ratio would change nothing: the data keeps its own class mix (set --profile to impose one). Received: "
            "--ratio 10.0. Leave it out.",
        ),
        ([*ROWS, "--ratio", "100"], "--ratio would change nothing"),
        ([*ROWS, "--max-count", "5"], "--max-count would change nothing: the data keeps its own class mix"),
        (["--profile", "none", "--max-count", "5"], "--max-count would change nothing: the data keeps its own class"),
        ([*ROWS, "--dataset", "fashion_mnist_lt"], "--dataset would change nothing: --train and --test are the data"),
        ([*ROWS, "--data-dir", "."], "--data-dir would change nothing: --train and --test are the data"),
        (["--data-dir", "."], "--data-dir would change nothing: 'fashion_mnist_lt' is inside the package"),
        (["--dataset", "cifar10", "--data-dir", ""], "--data-dir must be a path. Received: --data-dir ''"),
        (
            [*ROWS, "--test", "\udcff.npz"],
            r"--test must be a path in UTF-8, as reports name it. Received: --test '\udcff",
        ),
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
        (["--epochs", "1_0"], "argument --epochs: invalid int value: '1_0'"),
        (["--seeds", "\u0663"], "argument --seeds: invalid int value: '\u0663'"),
        (["--ratio", "1_0.5"], "argument --ratio: invalid float value: '1_0.5'"),
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


NAMES = np.array(["cat", "dog", "emu"])
OWN = {
    "channels first": ((6, 3, 32, 32), [0, 1, 2] * 2, "If channels come first: x = np.moveaxis(x, 1, -1)"),
    "a gray channel first": ((6, 1, 28, 28), [0, 1, 2] * 2, "If channels come first: x = np.moveaxis(x, 1, -1)"),
    "alpha first": ((6, 4, 8, 8), [0, 1, 2] * 2, "of at least 4 × 4 pixels. Received images of shape (4, 8, 8)."),
    "tiny images": ((6, 3, 5, 1), [0, 1, 2] * 2, "of at least 4 × 4 pixels. Received images of shape (3, 5, 1)."),
    "no channels": ((6, 8, 8, 0), [0, 1, 2] * 2, "Received images of shape (8, 8, 0)."),
    "no columns": (
        (6, 0),
        [0, 1, 2] * 2,
        "--train must have at least one column of features. Received rows without one.",
    ),
    "names": ((6, 2), NAMES[[0, 1, 2] * 2], "Received names, ['cat', 'dog', 'emu']. Make ids of them, by one list"),
    "bytes": (
        (6, 2),
        NAMES.astype("S")[[0, 1, 2] * 2],
        "one list of names for all data sets: ids = {name: i for i, name in",
    ),
    "objects": ((6, 2), NAMES.astype(object)[[0, 1, 2] * 2], "If its labels are names: Make ids of them, by one"),
    "fractions": ((6, 2), [0, 1, 1.5] * 2, "must be a non-empty vector of integer class ids"),
    "NaN": ((6, 2), [0, 1, np.nan] * 2, "must be a non-empty vector of integer class ids"),
    "no whole id": ((6, 2), [0, 1, 1e300] * 2, "must be a non-empty vector of integer class ids"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("what", OWN)
def test_own_data_that_does_not_fit_is_refused_before_training(what, part, trained, folder, capsys):
    shape, y, message = OWN[what]
    np.savez(folder / "test.npz", x=np.ones(shape), y=[0, 1, 2] * 2)
    np.savez(folder / "train.npz", x=np.ones(shape), y=[0, 1, 2] * 2)
    np.savez(folder / f"{part}.npz", x=np.ones(shape), y=y)
    assert cli.main(["compare", *ROWS, "--methods", "erm", "--seeds", "1"]) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("keras-logit-adjust: ") and message in line and trained == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_labels_that_are_whole_numbers_are_ids_in_any_dtype(dtype, trained, folder):
    expected = compare(CONFIG, methods=["erm"], seeds=1)["methods"]
    for name in ("train", "test"):
        with np.load(folder / f"{name}.npz") as file:
            np.savez(folder / f"{name}.npz", x=file["x"], y=file["y"].astype(dtype))
    assert compare(CONFIG, methods=["erm"], seeds=1)["methods"] == expected


@pytest.mark.parametrize("label", [-1, 3, 2**63 + 1])
def test_test_labels_of_no_class_are_refused_before_training(label, trained, folder):
    with np.load(folder / "test.npz") as file:
        x, y = file["x"], file["y"].astype("uint64" if label > 3 else "int64")
    y[-1] = label
    np.savez(folder / "test.npz", x=x, y=y)
    with pytest.raises(ValueError, match="(?i)(test|label)"):
        compare(CONFIG, methods=["erm"], seeds=1)
    assert trained == []


def test_labels_that_a_source_leaves_open_are_refused_before_training(trained, monkeypatch):
    load = data.load

    def load_with_an_open_label(*arguments, **options):
        loaded = load(*arguments, **options)
        loaded.test[1][0] = -1  # as TFDS marks a label that is not known
        return loaded

    monkeypatch.setattr(data, "load", load_with_an_open_label)
    with pytest.raises(ValueError, match=r"Labels of the test set must be the ids 0 … 2 .* Received -1 to 2"):
        compare(CONFIG, methods=["erm"], seeds=1)
    assert trained == []


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("quick", None), ("paper", "weight decay and shifts and mirroring"), ("strong", "weight decay")],
)
def test_what_a_model_lacks_of_the_recipe_is_in_the_report(recipe, expected, trained, folder):
    results = compare(dataclasses.replace(CONFIG, recipe=recipe), methods=["erm"], seeds=1, output="out")
    assert results["left_out"] == (expected and f"`linear` is trained without the recipe's {expected}.")
    for name in ("report.md", "report.html"):
        text = (folder / "out" / name).read_text(encoding="utf-8")
        assert ("is trained without the recipe" in text) == (expected is not None)


@pytest.mark.parametrize(("model", "expected"), [("small_cnn", "weight decay"), ("resnet32", None)])
def test_images_are_shifted_whatever_the_model(model, expected):
    found = recipes.left_out(recipes.find_recipe("paper", dataset="any"), model)
    assert found == (expected and f"`{model}` is trained without the recipe's {expected}.")


@pytest.mark.parametrize("decay", [-1e-4, float("nan"), "much"])
def test_a_weight_decay_must_be_a_number_of_at_least_0(decay):
    with pytest.raises(ValueError, match="`weight_decay` must be a number"):
        Config(weight_decay=decay)


def test_a_weight_decay_that_the_model_would_ignore_is_refused(trained, capsys, folder):
    assert cli.main(["compare", *ROWS, "--weight-decay", "5e-4", "--output", "out"]) == 2
    message = "--weight-decay would change nothing: model 'linear' has no penalty. Received: --weight-decay 0.0005."
    assert message in capsys.readouterr().err
    assert trained == [] and not (folder / "out").exists()


def test_a_ratio_is_100_by_default_where_a_profile_is_imposed():
    own = dataclasses.replace(CONFIG, profile="exponential")
    assert [config.settled()["imbalance_ratio"] for config in (Config(), own, CONFIG)] == [100.0, 100.0, None]
    with pytest.raises(ValueError, match="`imbalance_ratio` would change nothing: the data keeps its own class mix"):
        Config(dataset="imagenet_lt", imbalance_ratio=5)


@pytest.mark.parametrize("field", ["recipe", "optimizer", "model", "precision"])
def test_a_config_refuses_a_choice_that_does_not_exist(field):
    with pytest.raises(ValueError, match=rf"`{field}` must be one of .*Received: {field}='x'"):
        Config(**{field: "x"})


def test_a_group_of_methods_is_no_baseline(trained):
    with pytest.raises(ValueError, match="`baseline` must be one method. Received the group 'paper': .*la_loss"):
        compare(CONFIG, methods=["la_loss"], baseline="paper")
    assert trained == []


def test_help_names_every_option_and_method(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{'ratio' if field.name == 'imbalance_ratio' else field.name.replace('_', '-')} " in text
    for name in (*METHODS, *GROUPS, "--output", "--methods", "--seeds", *data.datasets.VALIDATIONS):
        assert name in text
