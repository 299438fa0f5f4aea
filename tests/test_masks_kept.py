"""Masks of a model stay masks after a correction: those of positions, and those of classes."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import COUNTS, reload
from keras import layers
from reference import log_prior, softmax

import keras_logit_adjust as kla

LENGTH = 4
IDS = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [2, 0, 0, 0]])  # 0 is padding
TAGS = np.array([[0, 1, 2, 0], [1, 2, 0, 0], [2, 0, 0, 0]])
SHIFT = log_prior(COUNTS)


@keras.saving.register_keras_serializable(package="test_masks_kept")
class Tagger(keras.Model):
    """Tags for each position of padded texts, from a model whose logits cannot be read off."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embedding, self.head = layers.Embedding(8, 5, mask_zero=True), layers.Dense(3, "softmax")

    def call(self, inputs):
        return self.head(self.embedding(inputs))


def averaged():
    """Two softmaxes, averaged: no logits are in front of the output."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    features = layers.Embedding(8, 5, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.Average()([layers.Dense(3, "softmax")(features) for _ in range(2)]))


def two_taggers():
    inputs = keras.Input((LENGTH,), dtype="int32")
    features = layers.Embedding(8, 5, mask_zero=True)(inputs)
    parts = [layers.Average()([layers.Dense(3, "softmax")(features) for _ in range(2)]) for _ in range(2)]
    return keras.Model(inputs, {"fine": parts[0], "coarse": parts[1]})


MAKERS = {"subclass": Tagger, "average": averaged}


def adjusted_rows(model):
    """What the adjusted model must give, of the probabilities of `model`."""
    return softmax(np.log(as_float64(model(IDS))) - SHIFT)


def mean_over_known(probabilities, tags=TAGS):
    values = -np.log(np.take_along_axis(probabilities, tags[..., None], axis=-1)[..., 0])
    return values[IDS != 0].mean()


@pytest.mark.parametrize("maker", MAKERS)
def test_padding_stays_masked_in_an_adjusted_model(maker, tmp_path):
    keras.utils.set_random_seed(0)
    model = MAKERS[maker]()
    expected = adjusted_rows(model)
    adjusted = kla.adjust(model, COUNTS, output="softmax")
    np.testing.assert_allclose(as_float64(adjusted(IDS)), expected, rtol=1e-5)
    for served in (adjusted, reload(adjusted, tmp_path)):
        served.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        loss, accuracy = served.evaluate(IDS, TAGS, verbose=0)
        np.testing.assert_allclose(loss, mean_over_known(expected), rtol=1e-5)
        right = expected.argmax(axis=-1) == TAGS
        np.testing.assert_allclose(accuracy, right[IDS != 0].mean(), rtol=1e-6)


def test_padding_stays_masked_in_several_adjusted_outputs(tmp_path):
    keras.utils.set_random_seed(0)
    model = two_taggers()
    before = {name: as_float64(outputs) for name, outputs in model(IDS).items()}
    expected = {name: softmax(np.log(outputs) - SHIFT) for name, outputs in before.items()}
    adjusted = kla.adjust(model, {"fine": COUNTS, "coarse": COUNTS}, output="softmax")
    for served in (adjusted, reload(adjusted, tmp_path)):
        served.compile(loss=dict.fromkeys(expected, "sparse_categorical_crossentropy"))
        loss = served.evaluate(IDS, dict.fromkeys(expected, TAGS), return_dict=True, verbose=0)["loss"]
        np.testing.assert_allclose(loss, sum(map(mean_over_known, expected.values())), rtol=1e-5)


def test_padding_stays_masked_in_a_subclass_with_several_outputs():
    @keras.saving.register_keras_serializable(package="test_masks_kept")
    class Two(Tagger):
        def call(self, inputs):
            outputs = super().call(inputs)
            return {"fine": outputs, "coarse": outputs}

    keras.utils.set_random_seed(0)
    model = Two()
    before = as_float64(model(IDS)["fine"])
    adjusted = kla.adjust(model, {"fine": COUNTS}, output="softmax")
    adjusted.compile(loss={"fine": "sparse_categorical_crossentropy", "coarse": "sparse_categorical_crossentropy"})
    loss = adjusted.evaluate(IDS, {"fine": TAGS, "coarse": TAGS}, return_dict=True, verbose=0)["loss"]
    fine = mean_over_known(softmax(np.log(before) - SHIFT))
    np.testing.assert_allclose(loss, fine + mean_over_known(before), rtol=1e-5)


@pytest.mark.parametrize("is_input", [True, False])
def test_classes_that_a_softmax_masks_get_no_share(is_input, rng):
    """A mask of classes is an argument of `Softmax`: a correction in front of a new softmax would lose it."""
    inputs, known = keras.Input((3,)), keras.Input((3,), dtype="bool")
    logits = layers.Dense(3, name="head")(inputs)
    mask = known if is_input else np.array([[True, True, False]])
    model = keras.Model([inputs, known] if is_input else inputs, layers.Softmax()(logits, mask=mask))
    data = rng.normal(size=(4, 3)).astype("float32")
    data = [data, np.tile([True, True, False], (4, 1))] if is_input else data
    before = as_float64(model(data))
    adjusted = as_float64(kla.adjust(model, COUNTS, output="softmax")(data))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(adjusted, softmax(np.log(before) - SHIFT), rtol=1e-5, atol=1e-30)
    assert (adjusted[:, 2] < 1e-30).all()
