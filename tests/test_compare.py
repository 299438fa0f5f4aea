"""The statistics, recipes and methods of `compare`, against loops, scikit-learn and a brute-force bootstrap."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from keras_logit_adjust import models
from keras_logit_adjust.compare import METHODS, recipes, statistics
from keras_logit_adjust.compare.methods import trainings_of

COUNTS = np.array([500, 100, 99, 21, 20, 1])


@pytest.fixture
def run(rng):
    """Labels, uneven over classes, and logits that are right about half of the time."""
    labels = rng.permutation(np.repeat(np.arange(6), [30, 5, 20, 9, 40, 3]))
    logits = rng.normal(size=(labels.size, 6)) + 1.5 * np.eye(6)[labels]
    return labels, logits


# --- figures of one run ----------------------------------------------------------------------------------------------


def test_figures_are_the_ones_of_scikit_learn_and_of_a_loop(run):
    labels, logits = run
    predicted = logits.argmax(axis=-1)
    row = statistics.figures(labels, logits, class_counts=COUNTS)
    recall = [np.mean([p == c for p, y in zip(predicted, labels, strict=True) if y == c]) for c in range(6)]
    weights = np.array([COUNTS[y] / COUNTS.sum() / (labels == y).sum() for y in labels])
    expected = {
        "balanced_error": 100 - 100 * balanced_accuracy_score(labels, predicted),
        "many_accuracy": 100 * np.mean(recall[:2]),
        "medium_accuracy": 100 * np.mean(recall[2:4]),
        "few_accuracy": 100 * np.mean(recall[4:]),
        "macro_f1": 100 * f1_score(labels, predicted, average="macro", sample_weight=weights),
    }
    assert row.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(row[key], value, rtol=1e-12, err_msg=key)


def test_a_class_without_test_examples_and_an_empty_group_are_left_out(run):
    labels, logits = run
    kept = ~np.isin(labels, [1, 4, 5])
    row = statistics.figures(labels[kept], logits[kept], class_counts=COUNTS)
    predicted = logits[kept].argmax(axis=-1)
    recall = [np.mean(predicted[labels[kept] == c] == c) for c in (0, 2, 3)]
    np.testing.assert_allclose(row["balanced_error"], 100 - 100 * np.mean(recall))
    np.testing.assert_allclose(row["many_accuracy"], 100 * recall[0])
    assert row["few_accuracy"] is None
    weights = (COUNTS / np.bincount(labels[kept], minlength=6).clip(1))[labels[kept]]
    expected = f1_score(labels[kept], predicted, labels=[0, 2, 3], average="macro", sample_weight=weights)
    np.testing.assert_allclose(row["macro_f1"], 100 * expected)


def test_macro_f1_is_taken_at_the_training_prior(run):
    labels, logits = run
    rare, even = (
        statistics.macro_f1(labels, logits.argmax(axis=-1), prior)
        for prior in (COUNTS / COUNTS.sum(), np.full(6, 1 / 6))
    )
    assert abs(rare - even) > 0.05


@pytest.mark.parametrize("predicted", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]])
def test_degenerate_predictions_have_finite_figures(predicted):
    labels = np.array([0, 0, 1, 1])
    row = statistics.figures(labels, np.eye(2)[predicted], class_counts=np.array([9, 1]))
    expected = f1_score(labels, predicted, average="macro", sample_weight=np.array([0.9, 0.9, 0.1, 0.1]))
    np.testing.assert_allclose(row["macro_f1"], 100 * expected)


def test_a_summary_has_the_deviation_of_a_sample():
    rows = [{"a": 1.0, "b": None}, {"a": 2.0, "b": None}, {"a": 6.0, "b": None}]
    assert statistics.summarize(rows) == {"a": {"mean": 3.0, "std": pytest.approx(np.sqrt((4 + 1 + 9) / 2))}, "b": None}
    assert statistics.summarize(rows[:1]) == {"a": {"mean": 1.0, "std": None}, "b": None}


# --- differences -----------------------------------------------------------------------------------------------------


def balanced_error(labels, hits):
    return 100 * (1 - np.mean([np.mean(hits[labels == c]) for c in np.unique(labels)]))


def brute_force(labels, hits, baseline, replicates, rng):
    """The paired bootstrap as one would say it: draw seeds, draw examples within classes, compare, take percentiles."""
    differences = []
    for _ in range(replicates):
        seeds = rng.integers(0, len(hits), len(hits))
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in range(3)])
        pairs = [
            balanced_error(labels[drawn], hits[s][drawn]) - balanced_error(labels[drawn], baseline[s][drawn])
            for s in seeds
        ]
        differences.append(np.mean(pairs))
    return np.percentile(differences, [2.5, 97.5])


@pytest.fixture
def pair(rng):
    """Hits of a method and of a baseline, alike on most examples, over 3 seeds and 3 classes of uneven size."""
    labels = rng.permutation(np.repeat([0, 1, 2], [60, 25, 10]))
    baseline = rng.random((3, labels.size)) < 0.6
    changed = rng.random((3, labels.size)) < 0.3
    hits = np.where(changed, rng.random((3, labels.size)) < [[0.9], [0.7], [0.8]], baseline)
    return labels, hits, baseline


def test_the_difference_is_the_mean_difference_of_balanced_errors(pair):
    labels, hits, baseline = pair
    expected = np.mean([balanced_error(labels, h) - balanced_error(labels, b) for h, b in zip(*pair[1:], strict=True)])
    found = statistics.paired_difference(labels, hits, baseline)
    np.testing.assert_allclose(found["difference"], expected, rtol=1e-12)
    assert found["low"] < expected < found["high"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_is_the_one_of_a_brute_force_bootstrap(pair, rng, seeds):
    labels, hits, baseline = pair[0], pair[1][:seeds], pair[2][:seeds]
    found = statistics.paired_difference(labels, hits, baseline)
    low, high = brute_force(labels, hits, baseline, 2500, rng)
    # Percentiles of 2,500 and 2,000 replicates err by 2 % of the interval; at 90 % confidence each end moves by 8 %.
    assert abs(found["low"] - low) < 0.055 * (high - low)
    assert abs(found["high"] - high) < 0.055 * (high - low)


def test_pairing_makes_the_interval_narrower_than_two_unpaired_ones(pair, rng):
    labels, hits, baseline = pair
    paired = statistics.paired_difference(labels, hits, baseline)
    shuffled = baseline.copy()
    for c in range(3):
        shuffled[:, labels == c] = rng.permutation(baseline[:, labels == c], axis=1)
    unpaired = statistics.paired_difference(labels, hits, shuffled)
    assert paired["high"] - paired["low"] < 0.85 * (unpaired["high"] - unpaired["low"])


def test_methods_that_agree_everywhere_differ_by_none_and_zero(pair):
    labels, hits, _ = pair
    assert statistics.paired_difference(labels, hits, hits) == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "verdict": "none",
        "t_low": 0.0,
        "t_high": 0.0,
    }


def test_a_method_that_is_always_right_is_lower_than_one_that_never_is():
    labels, right = np.array([0, 0, 1]), np.ones((2, 3), bool)
    found = statistics.paired_difference(labels, right, ~right)
    ends = {"low": -100.0, "high": -100.0, "t_low": -100.0, "t_high": -100.0}
    assert found == {"difference": -100.0, "verdict": "lower", **ends}
    assert statistics.paired_difference(labels, ~right, right)["verdict"] == "higher"


def test_seeds_that_disagree_widen_the_interval_until_it_holds_zero():
    labels = np.repeat([0, 1], 500)
    worse = np.tile([True, True, True, False], 250)
    hits, baseline = np.stack([np.ones(1000, bool), worse, worse]), np.stack([worse, np.ones(1000, bool), worse])
    # Every single seed is decided beyond doubt or level; seeds redrawn among themselves say so.
    assert statistics.paired_difference(labels, hits[:1], baseline[:1])["verdict"] == "lower"
    found = statistics.paired_difference(labels, hits, baseline)
    assert found["verdict"] == "none" and found["low"] < -15 and found["high"] > 15


def test_an_interval_repeats_bit_for_bit(pair):
    assert statistics.paired_difference(*pair) == statistics.paired_difference(*pair)
    assert statistics.paired_difference(*pair) != statistics.paired_difference(*pair, seed=1)


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_paper_recipe_warms_up_and_drops_where_the_paper_says():
    recipe = recipes.find_recipe("paper", dataset="cifar10_lt")
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.shift) == (200, 128, 2e-4, 4)
    warm_up = [0.1 * k / 5 for k in (1, 2, 3, 4, 5)]
    np.testing.assert_allclose([recipe.rate(e) for e in range(6)], [*warm_up, 0.1])
    np.testing.assert_allclose([recipe.rate(e) for e in (159, 160, 179, 180, 199)], [0.1, 0.01, 0.01, 0.001, 0.001])
    optimizer = recipe.optimizer()
    assert isinstance(optimizer, keras.optimizers.SGD) and optimizer.momentum == 0.9 and not optimizer.nesterov


@pytest.mark.parametrize(
    ("dataset", "epochs", "warm_up", "drops"),
    [("cifar10_lt", 1241, 20, (604, 926, 1128)), ("cifar100_lt", 1419, 22, (691, 1059, 1290))],
)
def test_the_released_recipe_has_schedule_and_shifts_of_the_released_code(dataset, epochs, warm_up, drops):
    recipe = recipes.find_recipe("released", dataset=dataset)
    assert recipe.epochs == epochs and recipe.optimizer().nesterov
    assert (recipe.weight_decay, recipe.shift) == (2e-4, 2)
    np.testing.assert_allclose(recipe.rate(0), 0.1 / warm_up)
    np.testing.assert_allclose(recipe.rate(warm_up - 1), 0.1)
    for i, drop in enumerate(drops):
        np.testing.assert_allclose([recipe.rate(drop - 1), recipe.rate(drop)], [0.1**i / 10, 0.1 ** (i + 1) / 10])


def test_a_schedule_is_squeezed_to_fewer_epochs():
    recipe = recipes.find_recipe("paper", dataset="any", epochs=20, batch_size=7)
    assert (recipe.epochs, recipe.batch_size) == (20, 7)
    np.testing.assert_allclose([recipe.rate(e) for e in (0, 15, 16, 17, 18, 19)], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    recipe = recipes.find_recipe("paper", dataset="any", epochs=400)
    np.testing.assert_allclose([recipe.rate(e) for e in (0, 9, 319, 320, 360)], [0.01, 0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("given", [0.0, 5e-3])
def test_a_weight_decay_asked_for_takes_the_place_of_the_recipes(given):
    recipe = recipes.find_recipe("paper", dataset="any", weight_decay=given)
    assert recipe == dataclasses.replace(recipes.find_recipe("paper", dataset="any"), weight_decay=given)
    penalties = recipes.build_model(
        "resnet32", models.dense_head, example_shape=(8, 8, 3), num_classes=3, recipe=recipe
    ).losses
    assert len(penalties) == (33 if given else 0)


def test_the_quick_recipe_is_adam_at_one_rate():
    recipe = recipes.find_recipe("quick", dataset="fashion_mnist_lt")
    assert isinstance(recipe.optimizer(), keras.optimizers.Adam)
    assert {recipe.rate(epoch) for epoch in range(recipe.epochs)} == {2e-3}


def test_the_released_recipe_is_refused_for_other_data():
    with pytest.raises(
        ValueError, match=r"for cifar10_lt and cifar100_lt\. Received: dataset='x'\. Choose 'paper', 'strong'"
    ):
        recipes.find_recipe("released", dataset="x")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("auto", (7,), "linear"),
        ("auto", (32, 32, 3), "resnet32"),
        ("auto", (28, 28, 1), "small_cnn"),
        ("small_cnn", (32, 32, 3), "small_cnn"),
        ("cosine", (7,), "cosine"),
    ],
)
def test_the_model_follows_the_shape_of_the_examples(name, shape, expected):
    assert recipes.resolve_model(name, shape) == expected


@pytest.mark.parametrize(("name", "shape"), [("linear", (8, 8, 1)), ("cosine", (8, 8, 1)), ("resnet32", (7,))])
def test_a_model_that_does_not_take_the_examples_is_refused(name, shape):
    with pytest.raises(ValueError, match=rf"`model` '{name}' does not take .*{shape[0]}.*\. Choose 'auto'"):
        recipes.resolve_model(name, shape)


def test_a_cosine_model_has_no_room_for_another_head():
    recipe = recipes.find_recipe("quick", dataset="any")
    heads = {name: METHODS[name].head(COUNTS) for name in ("erm", "la_head")}
    assert (
        recipes.build_model("cosine", models.dense_head, example_shape=(7,), num_classes=6, recipe=recipe).name
        == "linear"
    )
    with pytest.raises(ValueError, match=r"'cosine' has its own head: method 'la_head' needs 'linear'"):
        recipes.check_heads("cosine", heads)
    recipes.check_heads("linear", heads)


@pytest.mark.parametrize(
    "num_examples, batch_size, epochs", [(2228, None, 20), (360, None, 120), (50_000, None, 20), (360, 36, 36)]
)
def test_a_small_training_set_gets_more_epochs_of_the_quick_recipe(num_examples, batch_size, epochs):
    recipe = recipes.find_recipe("quick", dataset="any", epochs=None, batch_size=batch_size, num_examples=num_examples)
    assert recipe.epochs == epochs
    assert (
        recipes.find_recipe("quick", dataset="any", epochs=3, batch_size=batch_size, num_examples=num_examples).epochs
        == 3
    )


# --- methods ---------------------------------------------------------------------------------------------------------


def test_post_hoc_subtracts_the_log_prior_from_the_logits_of_erm():
    counts = np.array([90, 9, 1])
    logits = np.array([[1.0, 2.0, 3.0]], "float32")
    assert trainings_of("la_posthoc") == ("erm",)
    expected = [[1 - np.log(0.9), 2 - np.log(0.09), 3 - np.log(0.01)]]
    np.testing.assert_allclose(
        METHODS["la_posthoc"].correct(logits, run=None, class_counts=counts, tau=1.0), expected, rtol=1e-6
    )
    halfway = METHODS["la_posthoc_tuned"].correct(logits, run=None, class_counts=counts, tau=0.5)
    np.testing.assert_allclose(halfway, (logits + np.array(expected)) / 2, rtol=1e-6)


def test_class_weight_weighs_every_class_the_same_in_all():
    weights = METHODS["class_weight"].class_weight(np.array([90, 9, 1]))
    np.testing.assert_allclose([weights[c] for c in range(3)], [100 / (3 * n) for n in (90, 9, 1)])


def test_rounding_makes_no_difference_between_methods_that_are_equal():
    labels = np.repeat(np.arange(3), [7, 7, 6])
    found = statistics.paired_difference(labels, (labels == 1)[None], (labels == 2)[None])
    assert (found["low"], found["high"], found["verdict"]) == (0.0, 0.0, "none")
