"""A million classes in every room: nothing is quadratic, and no config or message spells out a million numbers."""

import json

import keras
import numpy as np
import pytest
from helpers.arrays import array

import keras_logit_adjust as kla
from keras_logit_adjust.compare import Config

L = 1_000_000
COUNTS = np.maximum(1, 1e6 / np.arange(1, L + 1)).astype("int64")
LONGEST = 2000  # characters


def test_the_prior_of_a_million_classes_is_that_of_its_counts():
    prior = kla.priors.as_prior(COUNTS)
    assert prior.probabilities.sum() == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(prior.logits[[0, -1]], np.log([1e6, 1.0]) - np.log(COUNTS.sum()), rtol=1e-12)
    assert len(repr(prior)) < LONGEST


def test_labels_are_counted_where_most_classes_have_none(rng):
    labels = rng.integers(0, L, 100)
    counts = kla.priors.count_classes(labels, num_classes=L)
    assert counts.shape == (L,) and counts.sum() == 100 and (counts[labels] > 0).all()


def test_names_of_other_classes_are_told_apart_in_one_pass():
    counts = {f"c{i}": 1 for i in range(100_000)}
    with pytest.raises(ValueError, match=r"missing: \['d0', .*of no class: \['c0', ") as raised:
        kla.priors.as_prior(counts, class_names=[f"d{i}" for i in range(100_000)])
    assert len(str(raised.value)) < LONGEST


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform", "prior"])
def test_as_many_rivals_are_expected_as_are_drawn(distribution):
    sampler = kla.losses.RivalSampler(COUNTS, num_rivals=8192, distribution=distribution)
    assert np.exp(sampler.log_expected).sum() == pytest.approx(8192, rel=1e-9)
    ids = array(sampler.draw(0).ids)
    assert ids.shape == np.unique(ids).shape == (8192,) and 0 <= ids.min() <= ids.max() < L


def test_a_sampler_balances_a_million_classes():
    labels = np.repeat(np.arange(L), np.where(np.arange(L) < 10, 10_000, 1))
    sampler = kla.data.LongTailSampler(labels, 4096, strategy="balanced", seed=0)
    drawn = labels[sampler.rows(0)]
    assert (labels < 10).mean() > 0.09 and (drawn < 10).mean() < 0.01  # ten classes of a million


LAYERS = {
    "adjustment": lambda: kla.layers.LogitAdjustment(COUNTS, tau=np.linspace(0, 1, L), target_prior=COUNTS[::-1]),
    "calibrated": lambda: kla.layers.LogitAdjustment(COUNTS, calibration=kla.Calibration(2.0, np.zeros(L))),
    "prior_aware": lambda: kla.layers.PriorAwareDense(L, COUNTS, target_prior=np.ones(L)),
    "many_classes": lambda: kla.layers.ManyClassDense(L, COUNTS, num_rivals=10),
    "streaming": lambda: kla.layers.StreamingPriorDense(L, kla.priors.StreamingPrior(L)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_config_of_a_layer_spells_out_no_million_numbers(name):
    layer = LAYERS[name]()
    assert len(json.dumps(keras.saving.serialize_keras_object(layer))) < LONGEST
    assert len(repr(layer)) < LONGEST


def test_what_is_shown_of_a_calibration_is_short_where_its_bias_is_long():
    assert repr(kla.Calibration(2.0, (0.5, -0.5))) == "Calibration(temperature=2.0, bias=(0.5, -0.5))"
    shown = repr(kla.Calibration(2.0, np.zeros(L)))
    assert shown.endswith("0.0, … 1000000 in all))") and len(shown) < LONGEST


MESSAGES = {
    "zeros": (lambda: kla.priors.as_prior(COUNTS - 1), "greater than zero"),
    "other length": (lambda: kla.layers.PriorAwareDense(L - 1, COUNTS), "1000000"),
    "no choice": (lambda: kla.losses.RivalSampler(COUNTS, num_rivals=5, distribution=[0.0] * L), "greater than zero"),
    "no names": (lambda: kla.priors.as_prior(dict(enumerate(COUNTS.tolist(), 1))), "in order of class id"),
    "vector": (lambda: kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=COUNTS[:-1]), "`tau` must be"),
    "groups": (lambda: kla.metrics.GroupAccuracy(COUNTS, groups=["a"] * (L - 1)), "groups"),
    "rivals": (
        lambda: kla.losses.sampled_logit_adjusted_crossentropy(
            [0], np.ones((1, 2)), np.ones((2, 3)), None, np.log([1 / 3] * 3), rivals=COUNTS.tolist()
        ),
        "`rivals` must be",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_spells_out_no_million_numbers(name):
    call, match = MESSAGES[name]
    with pytest.raises(ValueError, match=match) as raised:
        call()
    assert len(str(raised.value)) < LONGEST


def test_the_interval_of_an_accuracy_takes_one_pass_for_all_classes(rng):
    y, x = rng.permutation(20_000), rng.normal(size=(20_000, 1)).astype("float32")
    kernel = rng.normal(size=(1, 4)).astype("float32")
    path = kla.TauPath.from_features([(y % 4, x)], [4, 3, 2, 1], kernel=kernel)
    path.recall_ids, path.prior = y, kla.priors.as_prior(np.ones(20_000))  # each example of a class of its own
    low, high = path.confidence_interval(1.0, replicates=20)
    assert low == high == pytest.approx(path.at(1.0))  # one example, drawn again, is itself


def test_the_tail_is_drawn_in_as_many_steps_as_there_are_counts():
    plots = pytest.importorskip("keras_logit_adjust.plots")
    (axes,) = plots.class_counts(COUNTS, class_names=[str(c) for c in range(L)]).axes
    (steps,) = axes.patches
    values, edges, _ = steps.get_data()
    np.testing.assert_array_equal(np.repeat(values, np.diff(edges).astype(int)), COUNTS)
    assert len(values) == np.unique(COUNTS).size and edges[0] == 0.5


def test_a_comparison_of_too_many_classes_is_refused_before_it_trains(folder):
    ids = np.arange(50_001)
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", x=np.zeros((ids.size, 1), "float32"), y=ids)
    config = Config(train="train.npz", test="test.npz", validation="none")
    with pytest.raises(ValueError, match=r"at most 50,000 classes.*Received 50,001.*docs/guide/many_classes\.md"):
        config.load(0)
