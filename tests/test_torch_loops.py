"""A training loop of torch's own around a head that knows the prior: the flag of Keras decides, and is missed aloud."""

import keras
import numpy as np
import pytest

import keras_logit_adjust as kla

torch = pytest.importorskip("torch", reason="the loops are of torch")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="the loops need torch as Keras's backend")


@pytest.fixture
def model():
    head = kla.layers.PriorAwareDense(3, [90, 9, 1], name="head")
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), head])


X = np.ones((2, 2), "float32")


def test_a_gradient_through_logits_without_the_prior_warns_once(model):
    model.train()  # torch's flag, which is not that of Keras
    message = r"layer 'head' .* `training=True`, so its logits had no prior.*model\(x, training=True\)"
    with pytest.warns(UserWarning, match=message):
        model(X).sum().backward()
    model(X, training=False).sum().backward()  # once is enough: warnings are errors here


def test_what_trains_with_the_prior_or_trains_nothing_does_not_warn(model):
    model(X, training=True).sum().backward()  # warnings are errors here
    model(X).detach().numpy()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, np.array([0, 2]), validation_data=(X, np.array([0, 2])), verbose=0)
    model.predict(X, verbose=0)
