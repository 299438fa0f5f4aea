"""What a compiled loss says of logits: independent labels need `num_examples`, and exclusive classes take none."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, rows, sequential, with_loss
from keras import layers, losses
from reference import log_prior

import keras_logit_adjust as kla

N = 100
LOG_ODDS = np.log(np.array(COUNTS) / (N - np.array(COUNTS)))
MAKERS = [kla.adjust, kla.fold_into_bias]
INDEPENDENT = {
    "binary": losses.BinaryCrossentropy(from_logits=True),
    "focal": losses.BinaryFocalCrossentropy(from_logits=True),
    "by name": "binary_crossentropy",
    "by short name": "bce",
    "by class name": "BinaryFocalCrossentropy",
    "a function": losses.binary_crossentropy,
    "of this package": kla.losses.BinaryLogitAdjustedCrossentropy([50, 50, 50], N),
}
EXCLUSIVE = {
    "sparse": losses.SparseCategoricalCrossentropy(from_logits=True),
    "rows": losses.CategoricalCrossentropy(from_logits=True),
    "by name": "sparse_categorical_crossentropy",
    "of this package": kla.losses.FocalCrossentropy(),
}
SILENT = {"none": None, "another": "mse", "of the user": lambda y_true, y_pred: keras.ops.mean(y_pred - y_true)}
NEEDS = r"loss '\w+' of independent labels, needs `num_examples`.*exclude each other, give num_examples=sum"
TAKES_NONE = r"`num_examples` is for independent.*loss '\w+' of classes that exclude each other\. Leave it out"
pytestmark = pytest.mark.filterwarnings("ignore:Model .* has no softmax or sigmoid")


def check(made, model, shift, rng):
    data = rows(rng, 4, WIDTH)
    np.testing.assert_allclose(as_float64(made(data)), as_float64(model(data)) - shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_logits_of_independent_labels_need_num_examples(make, rng):
    for loss in INDEPENDENT.values():
        model = with_loss(loss)
        with pytest.raises(ValueError, match=NEEDS):
            make(model, COUNTS)
    check(make(model, COUNTS, num_examples=N), model, LOG_ODDS, rng)


@pytest.mark.parametrize("make", MAKERS)
def test_logits_of_exclusive_classes_take_no_num_examples(make, rng):
    for loss in EXCLUSIVE.values():
        model = with_loss(loss)
        with pytest.raises(ValueError, match=TAKES_NONE):
            make(model, COUNTS, num_examples=N)
    check(make(model, COUNTS), model, log_prior(COUNTS), rng)


@pytest.mark.parametrize("make", MAKERS)
def test_a_loss_that_does_not_say_the_kind_raises_nothing(make, rng):
    for loss in SILENT.values():
        model = with_loss(loss)
        check(make(model, COUNTS), model, log_prior(COUNTS), rng)
        check(make(model, COUNTS, num_examples=N), model, LOG_ODDS, rng)


def test_one_logit_takes_two_counts_whatever_its_loss(rng):
    model = sequential(layers.Dense(1))
    model.compile("sgd", INDEPENDENT["binary"])
    for make in MAKERS:
        check(make(model, [75, 25]), model, np.log(25 / 75), rng)


@pytest.mark.parametrize("in_dict", [False, True], ids=["a list", "a dict"])
@pytest.mark.parametrize("make", MAKERS)
def test_of_several_outputs_each_has_the_loss_of_its_own(make, in_dict, rng):
    inputs = keras.Input((WIDTH,))
    tags, kind = layers.Dense(3, name="tags")(inputs), layers.Dense(3, name="kind")(inputs)
    model = keras.Model(inputs, {"tags": tags, "kind": kind} if in_dict else [tags, kind])
    compiled = {"tags": INDEPENDENT["binary"], "kind": EXCLUSIVE["sparse"]}
    model.compile("sgd", compiled if in_dict else list(compiled.values()))
    both = {"kind": COUNTS, "tags": COUNTS}  # the other output is changed first
    with pytest.raises(ValueError, match=NEEDS):
        make(model, both)
    with pytest.raises(ValueError, match=TAKES_NONE):
        make(model, both, num_examples=N)
    data = rows(rng, 4, WIDTH)
    ours, given = make(model, both, num_examples={"tags": N})(data), model(data)
    for place, shift in zip(compiled if in_dict else [0, 1], [LOG_ODDS, log_prior(COUNTS)], strict=True):
        np.testing.assert_allclose(as_float64(ours[place]), as_float64(given[place]) - shift, rtol=1e-5, atol=1e-5)


class Two(keras.Model):
    """A subclass with two outputs."""

    def __init__(self):
        super().__init__()
        self.tags, self.kind = layers.Dense(3), layers.Dense(3)

    def call(self, inputs):
        return {"tags": self.tags(inputs), "kind": self.kind(inputs)}


def test_a_subclass_that_gives_logits_is_read_by_its_loss_too(rng):
    model = Subclassed()
    model.compile("sgd", INDEPENDENT["binary"])
    with pytest.raises(ValueError, match=NEEDS):
        kla.adjust(model, COUNTS, output="logits")
    check(kla.adjust(model, COUNTS, num_examples=N, output="logits"), model, LOG_ODDS, rng)
    model = Two()
    model.compile("sgd", {"tags": INDEPENDENT["binary"], "kind": EXCLUSIVE["sparse"]})
    with pytest.raises(ValueError, match=NEEDS):
        kla.adjust(model, {"tags": COUNTS}, output="logits")
    with pytest.raises(ValueError, match=TAKES_NONE):
        kla.adjust(model, {"kind": COUNTS}, num_examples=N, output="logits")
    kla.adjust(model, {"tags": COUNTS, "kind": COUNTS}, num_examples={"tags": N}, output="logits")
