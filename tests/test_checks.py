"""`ArgumentError`: it names the argument, wherever it is caught."""

import inspect
import pickle

import keras
import numpy as np
import pytest

from keras_logit_adjust import _checks

# Each check with something that it refuses, and the argument that the error is about.
REFUSED = {
    "as_array": (lambda: _checks.as_array([1j], "logits"), "logits"),
    "as_names": (lambda: _checks.as_names("cat"), "class_names"),
    "as_vector": (lambda: _checks.as_vector("many", "weights"), "weights"),
    "as_log_prior": (lambda: _checks.as_log_prior([5, 3]), "log_prior"),
    "as_counts": (lambda: _checks.as_counts([3, 0]), "class_counts"),
    "as_true_counts": (lambda: _checks.as_true_counts([0.5, 0.5]), "class_counts"),
    "as_positive_counts": (lambda: _checks.as_positive_counts([5, 3], 5), "positive_counts"),
    "as_tau": (lambda: _checks.as_tau(np.nan, 2), "tau"),
    "as_class_vector": (lambda: _checks.as_class_vector([1.0], "alpha", 2), "alpha"),
    "check_length": (lambda: _checks.check_length(np.ones(3), 2, "bias", "class_counts"), "bias"),
    "check_axis": (lambda: _checks.check_axis(1.0), "axis"),
    "check_bool": (lambda: _checks.check_bool(1, "replacement"), "replacement"),
    "check_seed": (lambda: _checks.check_seed(-1), "seed"),
    "check_integer": (lambda: _checks.check_integer(1.5, "epochs", minimum=1), "epochs"),
    "check_number": (lambda: _checks.check_number(-1, "gamma", minimum=0), "gamma"),
    "check_positive": (lambda: _checks.check_positive(0, "scale"), "scale"),
    "check_open_fraction": (lambda: _checks.check_open_fraction(0, "level"), "level"),
    "check_fraction": (lambda: _checks.check_fraction(1, "label_noise"), "label_noise"),
    "check_ignore_class": (lambda: _checks.check_ignore_class("0"), "ignore_class"),
    "check_choice": (lambda: _checks.check_choice("x", "model", ["a"]), "model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_check_raises_an_error_that_knows_its_argument(name):
    refuse, argument = REFUSED[name]
    with pytest.raises(_checks.ArgumentError) as caught:
        refuse()
    assert isinstance(caught.value, ValueError)
    assert caught.value.argument == argument
    assert f"`{argument}`" in str(caught.value)


def test_no_check_is_left_out_here():
    functions = [name for name, _ in inspect.getmembers(_checks, inspect.isfunction)]
    assert [name for name in functions if name.startswith(("as_", "check_"))] == sorted(REFUSED)


def test_the_error_survives_pickling():
    copy = pickle.loads(pickle.dumps(_checks.ArgumentError("tau", "`tau` must be finite.")))
    assert (type(copy), copy.argument, str(copy)) == (_checks.ArgumentError, "tau", "`tau` must be finite.")


def test_inside_of_a_layer_it_is_still_a_value_error_with_its_message():
    class Checking(keras.layers.Layer):
        def call(self, inputs):
            _checks.check_integer(0, "width", minimum=1)

    with pytest.raises(ValueError, match="`width` must be an integer of at least 1"):
        Checking()(np.ones((1, 1)))


def test_a_number_that_float32_cannot_invert_is_told_from_one_below_0():
    with pytest.raises(ValueError, match="must be a number above 1e-37, so that float32 holds its inverse"):
        _checks.check_positive(1e-40, "temperature")
    with pytest.raises(ValueError, match="must be a positive number"):
        _checks.check_positive(-1, "temperature")


@pytest.mark.parametrize("value", [[10**5000], {"a": 10**5000}, (1, 10**5000)])
def test_a_message_shows_numbers_of_thousands_of_digits(value):
    assert _checks.shown(value) == f"a {type(value).__name__} with an integer of thousands of digits"
