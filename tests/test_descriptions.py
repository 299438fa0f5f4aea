"""What a model says about itself: its head, what corrects its prior, and the name of the prior it serves."""

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, sequential, with_loss
from keras import layers

import keras_logit_adjust as kla
from keras_logit_adjust import serving


def with_prior_aware_head():
    return sequential(kla.layers.PriorAwareDense(3, COUNTS, target_prior=[1, 1, 2], name="head"))


def adjusted_twice():
    once = kla.adjust(sequential(layers.Dense(3)), COUNTS)
    return kla.adjust(once, COUNTS, tau=[0, -1, 0.5], allow_double_correction=True)


def adjusted_and_compiled():
    model = with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5))
    adjusted = kla.adjust(model, COUNTS, tau=0.5, allow_double_correction=True)
    adjusted.compile("sgd", model.loss)
    return adjusted


def of_a_subclass_with_loss():
    model = Subclassed(3)
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5))
    adjusted = kla.adjust(model, COUNTS, tau=0.5, output="logits", allow_double_correction=True)
    adjusted(np.ones((1, WIDTH)))
    return adjusted


def of_a_subclass():
    adjusted = kla.adjust(Subclassed(3), COUNTS, output="logits")
    adjusted(np.ones((1, WIDTH)))
    return adjusted


DESCRIBED = {
    "adjusted loss": (
        lambda: with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS)),
        ["by loss 'LogitAdjustedCrossentropy', tau 1, class counts [90, 9, 1], target prior uniform", "uniform"],
    ),
    "reweighted loss": (
        lambda: with_loss(kla.losses.ClassBalancedCrossentropy(COUNTS, beta=0.9)),
        ["by loss 'ClassBalancedCrossentropy', whose", "as corrected by loss 'ClassBalancedCrossentropy'"],
    ),
    "adjusted by shares": (
        lambda: kla.adjust(
            sequential(layers.Dense(3)),
            kla.priors.effective_prior(COUNTS, class_weight=[1, 10, 90]),
            target_prior=COUNTS,
        ),
        ["tau 1, class prior [0.333333, 0.333333, 0.333333], target prior [0.9, 0.09, 0.01]", "target"],
    ),
    "prior-aware head": (
        with_prior_aware_head,
        [
            "(PriorAwareDense), 3 classes",
            "by layer 'head' (PriorAwareDense), tau 1",
            "prior [0.25, 0.25, 0.5]",
            "target",
        ],
    ),
    "adjusted twice": (
        adjusted_twice,
        ["tau 1,", "tau [0, -1, 0.5],", "of logits corrected before", "unknown: corrected more than once"],
    ),
    "adjusted by hand behind another": (
        lambda: sequential(layers.Dense(3), kla.layers.LogitAdjustment(COUNTS), kla.layers.LogitAdjustment(COUNTS)),
        ["unknown: corrected more than once"],
    ),
    "an adjusted loss and its rest": (
        lambda: kla.adjust(
            with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5)),
            COUNTS,
            tau=0.5,
            allow_double_correction=True,
        ),
        ["tau 0.5,", "of logits corrected before", "unknown: corrected more than once"],
    ),
    "an adjusted loss of labels and its rest": (
        lambda: kla.adjust(
            with_loss(kla.losses.BinaryLogitAdjustedCrossentropy(COUNTS, 100, tau=0.5)),
            COUNTS,
            tau=0.25,
            num_examples=100,
            allow_double_correction=True,
        ),
        ["of 100 examples", "of logits corrected before", "unknown: corrected more than once"],
    ),
    "a reweighted loss, adjusted": (
        lambda: kla.adjust(
            with_loss(kla.losses.ClassBalancedCrossentropy(COUNTS, beta=0.9)), COUNTS, allow_double_correction=True
        ),
        ["of logits corrected before", "unknown: corrected more than once"],
    ),
    "an adjusted loss, adjusted and calibrated": (
        lambda: kla.adjust(
            with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS)),
            COUNTS,
            calibration=kla.Calibration(2.0),
            allow_double_correction=True,
        ),
        ["calibrated before, of logits corrected", "unknown: corrected more than once"],
    ),
    "trained on after it was adjusted": (adjusted_and_compiled, ["unknown: corrected more than once"]),
    "a subclass of an adjusted loss": (
        of_a_subclass_with_loss,
        ["by loss", "of logits corrected before", "unknown: corrected more than once"],
    ),
    "decisions": (
        lambda: keras.Sequential(
            [kla.adjust(sequential(layers.Dense(3)), COUNTS), kla.layers.MinimumRiskDecision(np.eye(3)[:, :2])]
        ),
        ["none found: the model gives scores of decisions", "gives     decisions", "uniform"],
    ),
    "a subclass": (of_a_subclass, ["none found: the output of a model of another kind", "gives     logits", "uniform"]),
    "one unit": (
        lambda: kla.adjust(sequential(layers.Dense(1, "sigmoid")), [90, 10]),
        ["one unit for two classes", "class counts 10 of 100 examples", "uniform"],
    ),
    "a target prior on an adjusted loss": (
        lambda: kla.adjust(with_loss(kla.losses.LogitAdjustedCrossentropy(COUNTS)), [1, 1, 1], target_prior=[1, 2, 5]),
        ["target prior [0.125, 0.25, 0.625]", "target"],
    ),
    "a target prior at half of the strength": (
        lambda: kla.adjust(sequential(layers.Dense(3)), [1, 1, 1], target_prior=[1, 2, 5], tau=0.5),
        ["tau 0.5,", "target"],
    ),
    "odds of labels, no training prior": (
        lambda: kla.adjust(sequential(layers.Dense(3)), COUNTS, tau=0, num_examples=100, target_prior=[0.2, 0.3, 0.5]),
        ["tau 0,", "training odds times the target odds"],
    ),
    "odds of one unit at half of the strength": (
        lambda: kla.adjust(sequential(layers.Dense(1)), [90, 10], tau=0.5, target_prior=[0.4, 0.6]),
        ["tau 0.5,", "training odds to the power 0.5 times the target odds (tau=0.5)"],
    ),
    "no head": (
        lambda: sequential(layers.Dense(3), layers.ReLU(name="last")),
        ["No head was found", "'last'", "not known"],
    ),
    "not of the package": (
        lambda: Subclassed(3),
        ["none found: Model 'subclassed", "is a subclassed model", "gives     not known"],
    ),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_description_names_the_head_the_means_and_the_prior(name):
    make, texts = DESCRIBED[name]
    described = str(serving.describe(make()))
    for text in texts[:-1]:
        assert text in described
    assert described.endswith(texts[-1]) or texts[-1] in described.splitlines()[2]


def test_each_output_of_several_is_described_by_its_name():
    inputs = keras.Input((4,))
    heads = {name: keras.layers.Dense(units, "softmax", name=name)(inputs) for name, units in {"a": 3, "b": 2}.items()}
    model = kla.adjust(
        keras.Model(inputs, heads, name="two"), {"a": [5, 3, 1], "b": [3, 1]}, target_prior={"b": [1, 2]}
    )
    found = kla.serving.describe(model)
    assert (found.head, found.output, found.prior, len(found.corrections)) == (None, None, "of each output its own", 2)
    assert "several outputs, ['a', 'b']: describe(model, output_name='a')" in str(found)
    first, second = (kla.serving.describe(model, output_name=name) for name in "ab")
    assert (first.head, first.num_outputs, first.output, first.prior) == ("a", 3, "softmax", "uniform")
    assert (second.head, second.num_outputs, second.prior) == ("b", 2, "target")
    with pytest.raises(
        ValueError, match=r"`output_name` must name outputs of model 'two_adjusted', \['a', 'b'\]\. Received: 'c'"
    ):
        kla.serving.describe(model, output_name="c")
    with pytest.raises(ValueError, match="`output_name` is for Functional models"):
        kla.serving.describe(of_a_subclass(), output_name="a")


class TwoHeads(keras.Model):
    def __init__(self):
        super().__init__(name="heads")
        self.a, self.b = layers.Dense(3), layers.Dense(1, "sigmoid")

    def call(self, inputs):
        return {"a": self.a(inputs), "b": self.b(inputs)}


def test_each_output_of_a_subclassed_model_is_described_by_its_name():
    model = kla.adjust(
        TwoHeads(), {"a": [5, 3, 1], "b": [3, 1]}, output={"a": "logits", "b": "sigmoid"}, tau={"a": 0.5}
    )
    found = kla.serving.describe(model)
    assert (found.output, found.prior, len(found.corrections)) == (None, "of each output its own", 2)
    first, second = (kla.serving.describe(model, output_name=name) for name in "ab")
    assert (first.output, first.num_outputs, first.is_binary) == ("logits", 3, False)
    assert first.prior.startswith("training prior to the power 0.5")
    assert (second.output, second.num_outputs, second.is_binary, second.prior) == ("sigmoid", 1, True, "uniform")
    with pytest.raises(ValueError, match=r"must be one that is adjusted, \['a', 'b'\]\. Received: output_name='c'"):
        kla.serving.describe(model, output_name="c")


@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: [loss], lambda loss: {"head": loss}])
def test_independent_labels_are_known_from_every_form_of_the_loss(form):
    inputs = keras.Input((WIDTH,))
    outputs = layers.Dense(3, name="head")(inputs)
    model = keras.Model(inputs, {"head": outputs} if isinstance(form(0), dict) else outputs)
    model.compile(loss=form(keras.losses.BinaryCrossentropy(from_logits=True)))
    assert serving.describe(model).served_output == "binary_logits"
