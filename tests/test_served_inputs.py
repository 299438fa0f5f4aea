"""The inputs that a served model asks for: their number, dtype and name, without a file."""

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed
from keras import layers

import keras_logit_adjust as kla
from keras_logit_adjust.serving import _signature


@keras.saving.register_keras_serializable(package="test_served_inputs")
class OfIds(keras.Model):
    """A subclassed model that takes ids."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embedding, self.head = layers.Embedding(400, 5), layers.Dense(3, "softmax", dtype="float32")

    def call(self, inputs):
        return self.head(self.embedding(inputs))


@keras.saving.register_keras_serializable(package="test_served_inputs")
class TwoOutputs(Subclassed):
    def call(self, inputs, training=None):
        outputs = super().call(inputs)
        return {"fine": outputs, "coarse": outputs}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [Subclassed, TwoOutputs])
def test_numbers_are_asked_for_in_float32_whatever_the_policy(make, policy):
    model, counts, output = make(activation="softmax", dtype=policy), COUNTS, "softmax"
    model.dense.dtype_policy = keras.DTypePolicy("float32")
    if make is TwoOutputs:
        counts, output = {"fine": COUNTS}, {"fine": "softmax"}
    adjusted = kla.adjust(model, counts, output=output)
    adjusted(np.ones((2, WIDTH), "float32"))
    (spec,) = _signature.input_signature(adjusted)
    assert (spec.dtype, spec.shape) == ("float32", (None, WIDTH))


def test_ids_that_a_policy_would_round_are_refused_with_the_way_out():
    ids = np.array([[257, 300]])  # bfloat16 holds 256 and 300
    model = OfIds(dtype="mixed_bfloat16")
    adjusted = kla.adjust(model, COUNTS, output="softmax")
    adjusted(ids)
    with pytest.raises(
        ValueError, match=r"has an Embedding, under the policy mixed_bfloat16.*rounds them.*dtype=\"int32\""
    ):
        _signature.input_signature(adjusted)
    inputs = keras.Input((2,), dtype="int32")
    (spec,) = _signature.input_signature(kla.adjust(keras.Model(inputs, model(inputs)), COUNTS, output="softmax"))
    assert spec.dtype == "int32"
    whole = kla.adjust(OfIds(), COUNTS, output="softmax")
    whole(ids)
    assert _signature.input_signature(whole)[0].dtype == "float32"
