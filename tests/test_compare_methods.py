"""The rows of the table: what each is trained with, what is done to its logits, and what stands beside it in print."""

import dataclasses
import re
import types

import keras
import numpy as np
import pytest
import reference
from helpers.arrays import as_float64
from helpers.fake_training import fake_training
from helpers.rows import CONFIG, ROWS, enter_folder_of_rows, read_json

import keras_logit_adjust as kla
from keras_logit_adjust import cli, data, layers
from keras_logit_adjust.compare import (
    METHODS,
    Config,
    compare,
    devices,
    feeding,
    recipes,
    report,
    resuming,
    training,
    units,
)
from keras_logit_adjust.compare.published import published_error

TUNED, ORACLES = ("weight_norm_tuned", "la_posthoc_tuned"), ("weight_norm_oracle", "la_posthoc_oracle")
TABLE_3 = ["erm", "weight_norm", TUNED[0], "adaptive", "equalized", "la_posthoc", TUNED[1], "la_loss"]
COUNTS = np.array([900, 90, 9, 1])
PRIOR = COUNTS / COUNTS.sum()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda results, predictions: {})
    return enter_folder_of_rows(tmp_path, monkeypatch)


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that made-up logits stood in for."""
    return fake_training(monkeypatch, mark=lambda name, dataset, config: name)


@pytest.fixture
def built(monkeypatch):
    """The models that a comparison trains for real."""
    models, build = [], recipes.build_model
    monkeypatch.setattr(
        recipes, "build_model", lambda *args, **options: models.append(build(*args, **options)) or models[-1]
    )
    return models


# --- what a row is trained with --------------------------------------------------------------------------------------


def test_paper_is_the_eight_rows_of_table_3_in_its_order(trained, folder):
    assert cli.main(["compare", *ROWS, "--methods", "paper", "--seeds", "1", "--output", "out"]) == 0
    assert list(read_json(folder / "out" / "results.json")["methods"]) == TABLE_3
    assert trained == ["erm", "adaptive", "equalized", "la_loss"]
    rows = re.findall(r"^\| `(\w+)`", (folder / "out" / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == TABLE_3


def test_a_group_goes_with_other_names_and_repeats_none(trained):
    assert list(compare(CONFIG, methods=["la_head", "paper", "erm"], seeds=1)["methods"]) == ["la_head", *TABLE_3]


def plainly(scores_of_label, targets, logits):
    return reference.softmax_form(targets, logits, scores_of_label)


def class_balanced(targets, logits):
    weights = reference.class_balanced_weights(COUNTS, 0.9999)
    return reference.pairwise_crossentropy(targets, logits, weights, np.zeros((4, 4)), np.ones(4))


def focal(targets, logits):
    return reference.focal_crossentropy(targets, logits, 2.0, np.ones(4))


def ldam(targets, logits):
    return plainly(lambda y, f: reference.ldam_scores(y, f / 30, COUNTS, 30, 0.5), targets, logits)


def equalized(targets, logits):
    def rival_weight(prior):
        return 1.0 if prior >= 0.3 / 4 else 1 - 0.95

    return plainly(lambda y, f: reference.equalized_scores(y, f, COUNTS, rival_weight), targets, logits)


def vector_scaling(targets, logits):
    return plainly(lambda y, f: reference.vector_scaling_scores(y, f, COUNTS, 0.1, 1.0), targets, logits)


def adjusted(targets, logits, tau=1.0):
    values = [reference.adjusted_crossentropy(y, logits, COUNTS, tau) for y in range(4)]
    return np.dot(targets, values), None


def adjusted_adaptive(targets, logits):
    margin = reference.adjusted_adaptive_margin(COUNTS)
    return reference.pairwise_crossentropy(targets, logits, np.ones(4), margin, np.ones(4))


LOSSES = {
    **dict.fromkeys(("erm", "class_weight", "crt", "la_head", "balanced_sampler"), reference.crossentropy),
    "class_balanced": class_balanced,
    "focal": focal,
    **dict.fromkeys(("adaptive", "adaptive_drw"), ldam),
    "equalized": equalized,
    "vector_scaling": vector_scaling,
    **dict.fromkeys(("la_loss", "square_root_sampler_la"), adjusted),
    "la_loss_double": lambda targets, logits: adjusted(targets, logits, tau=2.0),
    "la_loss_adaptive": adjusted_adaptive,
}


def test_every_row_is_trained_or_uses_the_model_of_erm_or_of_several():
    experts = {name for name, method in METHODS.items() if method.experts}
    assert LOSSES.keys() == {name for name, method in METHODS.items() if method.trained_as is None} - experts
    assert {METHODS[name].trained_as for name in METHODS.keys() - LOSSES.keys() - experts} == {"erm"}
    assert all(LOSSES.keys() >= set(METHODS[name].experts) for name in experts)


def test_experts_are_averaged_by_their_log_probabilities(built, folder):
    results = compare(CONFIG, methods=["product_of_experts"], seeds=1, output="out")
    assert list(results["methods"]) == ["erm", "product_of_experts"] and len(built) == 3
    x = units.Scaler(CONFIG.load(0).train[0])(CONFIG.load(0).test[0])
    probabilities = [keras.ops.convert_to_numpy(keras.ops.softmax(model(x))).astype("float64") for model in built]
    with np.load(folder / "out" / "predictions.npz") as stored:
        found = stored["product_of_experts_seed0"]
    np.testing.assert_allclose(found, np.mean(np.log(probabilities), axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_a_row_has_the_loss_its_title_names_smoothed_or_not(name, smoothing, rng):
    ids, logits = np.array([0, 3, 2, 1, 0]), rng.normal(0, 3, (5, 4)).astype("float32")
    rows = np.eye(4, dtype="float32")[ids]
    options = {"label_smoothing": smoothing} if smoothing else {}
    found = METHODS[name].loss(COUNTS, **options)(rows if smoothing else ids, logits)
    targets = rows * (1 - smoothing) + smoothing / 4
    expected = np.mean([LOSSES[name](t, f.astype("float64"))[0] for t, f in zip(targets, logits, strict=True)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_heads_are_dense_but_for_ldams_cosines_and_the_prior_aware_one(name, rng):
    head = METHODS[name].head(COUNTS)(4)
    x = rng.normal(size=(5, 3)).astype("float32")
    found = keras.ops.convert_to_numpy(head(x)).astype("float64")
    kernel, *bias = (w.astype("float64") for w in head.get_weights()[:2])
    expected = x @ kernel
    if name in ("adaptive", "adaptive_drw"):
        assert isinstance(head, layers.CosineDense)
        expected *= 30 / np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(kernel, axis=0)
    else:
        assert type(head) is (layers.PriorAwareDense if name == "la_head" else keras.layers.Dense)
        expected += bias[0] if name != "la_head" else 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if name == "la_head":
        shift = keras.ops.convert_to_numpy(head(x, training=True)) - found
        np.testing.assert_allclose(shift, np.tile(np.log(PRIOR), (5, 1)), rtol=1e-5, atol=1e-5)


def test_the_margin_of_the_rarest_class_is_half_the_scale_of_the_head():
    for name in ("adaptive", "adaptive_drw"):
        scale = METHODS[name].head(COUNTS)(4).scale
        margins = [0.5 * scale * (COUNTS.min() / n) ** 0.25 for n in COUNTS]
        np.testing.assert_allclose(METHODS[name].loss(COUNTS).label_margin, margins, rtol=1e-12)


@pytest.mark.parametrize(("epochs", "start"), [(200, 160), (10, 8), (3, 2)])
def test_deferred_weights_start_at_four_fifths_of_training(epochs, start):
    for name in METHODS.keys() - {"adaptive_drw"}:
        assert METHODS[name].callbacks(COUNTS, epochs) == []
    (callback,) = METHODS["adaptive_drw"].callbacks(COUNTS, epochs)
    assert list(callback.stages) == [start] and callback.weights_at(start - 1) is None
    weights = reference.class_balanced_weights(COUNTS, 0.9999)  # whose mean over the training examples is to be one
    np.testing.assert_allclose(callback.weights_at(epochs), weights / np.average(weights, weights=COUNTS))


# --- weight normalization and classifier retraining, for real --------------------------------------------------------


def test_weight_normalization_is_the_packages_own_without_a_bias(built, folder):
    compare(CONFIG, methods=["weight_norm"], seeds=1, output="out")
    dataset, (model,) = CONFIG.load(0), built
    assert np.abs(model.layers[-1].get_weights()[1]).max() > 1e-3
    x = units.Scaler(dataset.train[0])(dataset.test[0])
    normalized = kla.normalize_weights(model, bias="drop").predict(x, verbose=0)
    with np.load(folder / "out" / "predictions.npz") as stored:
        np.testing.assert_allclose(stored["weight_norm_seed0"], normalized, rtol=1e-4, atol=1e-5)
        norms = np.linalg.norm(model.layers[-1].get_weights()[0].astype("float64"), axis=0)
        np.testing.assert_allclose(stored["class_norms_erm_seed0"], norms, rtol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_weight_normalization_divides_all_but_the_bias_by_a_power_of_norms(tau, rng):
    features, kernel, bias = rng.normal(size=(6, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)
    norms = [np.sqrt(sum(w**2 for w in column)) for column in kernel.T]
    kept = types.SimpleNamespace(bias=bias, class_norms=np.array(norms))
    logits = (features @ kernel + bias).astype("float32")
    found = METHODS["weight_norm"].correct(logits, run=kept, class_counts=COUNTS, tau=tau)
    expected = [[features[i] @ kernel[:, c] / norms[c] ** tau for c in range(4)] for i in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_retraining_gives_a_new_head_on_features_that_stay(rng):
    inputs = keras.Input((4,))
    features = keras.layers.BatchNormalization()(keras.layers.Dense(5, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(features))
    model.layers[-1].set_weights([np.full((5, 3), 1e6), np.full(3, 1e6)])
    before = [w.copy() for layer in model.layers[:-1] for w in layer.get_weights()]
    recipe = recipes.Recipe(3, batch_size=8, learning_rate=1e-3)
    x, y = rng.normal(size=(30, 4)).astype("float32"), np.repeat([0, 1, 2], [20, 7, 3])
    own = feeding.Training(x, y, recipe=recipe, num_classes=3, seed=0, strategy="balanced")
    counts = np.array([20, 7, 3])
    place, told = resuming.Place(), []
    training._retrain_head(
        model, own, class_counts=counts, devices=devices.OneDevice(), on_epoch=told.append, place=place
    )
    assert len(told) == 3 and place.losses == told
    after = [w for layer in model.layers[:-1] for w in layer.get_weights()]
    assert all((a == b).all() for a, b in zip(after, before, strict=True)) and len(after) == 6
    assert np.abs(model.layers[-1].get_weights()[0]).max() < 2  # none of the old head is left


def test_methods_draw_their_batches_as_they_say_and_count_retraining(monkeypatch, folder):
    asked, plain = [], feeding.Training

    def training_of(*arguments, strategy, **options):
        asked.append((strategy, options["recipe"].epochs))
        return plain(*arguments, strategy=strategy, **options)

    monkeypatch.setattr(feeding, "Training", training_of)
    config = dataclasses.replace(CONFIG, epochs=2)
    compare(config, methods=["erm", "crt", "balanced_sampler", "square_root_sampler_la"], seeds=1, output="out")
    assert [strategy for strategy, _ in asked] == [None, None, "balanced", "balanced", "square_root"]
    with np.load(folder / "out" / "runs" / "crt_seed0.npz") as stored:
        assert stored["loss"].shape == (2 + 2,)
    recipe = recipes.Recipe(50)
    expected = {name: 50 + (10 if name == "crt" else 0) for name in METHODS}
    assert {name: training.epochs_of(METHODS[name], recipe) for name in METHODS} == expected


@pytest.mark.slow
def test_a_run_keeps_both_parts_of_its_loss_and_its_training_logits(built, folder, rng):
    labels = np.arange(32) % 3
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", x=rng.integers(0, 256, (32, 8, 8, 3)).astype("uint8"), y=labels)
    config = dataclasses.replace(
        CONFIG, model="resnet32", recipe="paper", epochs=2, weight_decay=0.01, validation="none"
    )
    results = compare(config, methods=["erm"], seeds=1, output="images")
    (model,) = built
    with np.load(folder / "images" / "runs" / "erm_seed0.npz") as run:
        found = {name: run[name] for name in ("loss", "weight_penalty", "train_logits", "train_labels")}
    np.testing.assert_array_equal(found["train_labels"], labels)
    with np.load(folder / "train.npz") as train:
        logits = model.predict(train["x"], verbose=0)
    np.testing.assert_allclose(found["train_logits"], logits, rtol=1e-4, atol=1e-4)
    weighed = [as_float64(w) for w in model.trainable_weights if w.name in ("kernel", "bias")]
    penalty = 0.01 / 2 * sum((w**2).sum() for w in weighed)
    np.testing.assert_allclose(found["weight_penalty"][-1], penalty, rtol=1e-4)
    assert found["weight_penalty"].shape == found["loss"].shape == (2,)
    recall = [(logits.argmax(-1)[labels == y] == y).mean() for y in range(3)]
    assert results["on_training_examples"]["erm_seed0"] == {
        "balanced_error": pytest.approx(100 * (1 - np.mean(recall))),
        "data_loss": pytest.approx(found["loss"][-1] - penalty, rel=1e-4),
        "weight_penalty": pytest.approx(penalty, rel=1e-4),
    }


def test_a_loss_is_adjusted_to_what_the_sampler_feeds_and_never_twice(monkeypatch, folder):
    method, made = METHODS["square_root_sampler_la"], []

    def loss(seen):
        made.append((seen, method.loss(seen)))
        return made[-1][1]

    monkeypatch.setitem(METHODS, "square_root_sampler_la", dataclasses.replace(method, loss=loss))
    compare(CONFIG, methods=["erm", "square_root_sampler_la"], seeds=1, output="out")
    ((sampler, adjusted),) = made
    root = np.sqrt(sampler.class_counts)
    assert root.size == 3 and np.ptp(root) > 0
    np.testing.assert_allclose(adjusted.adjustment, np.log(root / root.sum()), rtol=1e-12)
    assert METHODS["balanced_sampler"].loss is METHODS["erm"].loss  # uniform batches leave nothing to adjust


@pytest.mark.parametrize("name", ["weight_norm", *TUNED[:1], *ORACLES[:1], "la_head"])
def test_what_needs_a_dense_head_is_refused_with_the_cosine_model(name, trained, capsys):
    assert cli.main(["compare", *ROWS, "--methods", name, "--model", "cosine"]) == 2
    assert f"--model 'cosine' has its own head: method '{name}' needs 'linear'" in capsys.readouterr().err
    assert trained == []


def test_the_cosine_model_is_the_linear_one_under_the_head_of_ldam(built):
    compare(dataclasses.replace(CONFIG, model="cosine"), methods=["adaptive", "la_posthoc"], seeds=1)
    assert [type(model.layers[-1]) for model in built] == [layers.CosineDense] * 2
    own = recipes.build_model(
        "linear", METHODS["adaptive"].head(COUNTS), example_shape=(4,), num_classes=3, recipe=recipes.Recipe(1)
    )
    kernel = np.ones((4, 3)) * [1, 2, 3]
    x = np.arange(8.0, dtype="float32").reshape(2, 4)
    for model in (built[0], own):
        model.layers[-1].set_weights([kernel])
    np.testing.assert_array_equal(built[0].predict(x, verbose=0), own.predict(x, verbose=0))


# --- published numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "profile", "method", "error"),
    [
        ("cifar10_lt", "exponential", "erm", 27.16),
        ("cifar10_lt", "exponential", "weight_norm", 24.02),
        ("cifar10_lt", "exponential", "weight_norm_tuned", 21.50),
        ("cifar10_lt", "exponential", "weight_norm_oracle", 21.50),
        ("cifar10_lt", "exponential", "la_posthoc_tuned", 19.08),
        ("cifar100_lt", "exponential", "adaptive", 60.40),
        ("cifar100_lt", "exponential", "equalized", 57.26),
        ("cifar100_lt", "exponential", "la_posthoc_oracle", 57.90),
        ("cifar100_lt", "exponential", "la_loss", 56.11),
        ("cifar10_lt", "step", "adaptive", 34.61),
        ("cifar10_lt", "step", "la_loss", 27.57),
        ("cifar100_lt", "step", "la_posthoc", 55.82),
        ("cifar100_lt", "step", "la_posthoc_tuned", None),
        ("cifar10_lt", "exponential", "focal", None),
        ("cifar10_lt", "zipf", "erm", None),
        ("fashion_mnist_lt", "exponential", "erm", None),
    ],
)
def test_published_errors_are_those_of_the_paper(dataset, profile, method, error):
    where = {"dataset": dataset, "profile": profile}
    assert published_error(method, **where, imbalance_ratio=100) == error
    assert published_error(method, **where, imbalance_ratio=50) is None
    assert published_error(method, **where, imbalance_ratio=100, max_count=500) is None


@pytest.mark.parametrize("dataset", ["cifar10_lt", "cifar100_lt"])
def test_every_row_of_table_3_has_a_published_error(dataset):
    where = {"dataset": dataset, "imbalance_ratio": 100.0}
    errors = [published_error(name, **where, profile="exponential") for name in TABLE_3]
    assert errors[0] == max(errors) and None not in errors
    steps = [published_error(name, **where, profile="step") for name in TABLE_3]
    assert [TABLE_3[i] for i, error in enumerate(steps) if error is None] == list(TUNED)


@pytest.fixture
def as_cifar(monkeypatch):
    """Rows that pass for CIFAR-10-LT."""
    load = data.load

    def rename(name, **options):
        tail = {"imbalance_ratio": None, "max_count": None}
        own = load("train.npz", **{**options, **tail, "profile": "auto", "test": "test.npz"})
        return dataclasses.replace(own, name="cifar10_lt", profile="exponential")

    monkeypatch.setattr(data, "load", rename)
    return Config(dataset="cifar10_lt", epochs=1, model="linear")


def published_cells(text):
    """The last cell of each row, by method, where the table has the column."""
    first, *_ = text.split("## Classes")
    lines = [line.strip("| ").split(" | ") for line in first.split("\n") if line.startswith("|")]
    found = {cells[0].split("`")[1]: cells[-1] for cells in lines[2:]}
    return found if lines[0][-1] == "published error %" else None


def test_published_errors_stand_beside_ours_with_their_own_difference(as_cifar, trained, folder):
    results = compare(as_cifar, methods=["la_loss", "la_posthoc_tuned", "focal"], seeds=1, output="out")
    text = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert published_cells(text) == {
        "erm": "27.16",
        "la_loss": f"22.33 ({22.33 - 27.16:+.2f})",
        "la_posthoc_tuned": f"19.08 ({19.08 - 27.16:+.2f})",
        "focal": "-",
    }
    assert "Its tuned τ is an oracle: it was chosen on the test set" in text.replace("\n", " ")
    assert [found["published_error"] for found in results["methods"].values()] == [27.16, 22.33, 19.08, None]


@pytest.mark.parametrize("changed", [{"imbalance_ratio": 50.0}, {"max_count": 100}, {"label_noise": 0.1}])
def test_other_data_than_the_papers_has_no_published_column(changed, as_cifar, trained, folder):
    compare(dataclasses.replace(as_cifar, **changed), methods=["la_loss"], seeds=1, output="out")
    text = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert published_cells(text) is None and "Published" not in text
