"""Bad input to the layers: every public argument, each with a message of rule, value and remedy."""

import keras
import numpy as np
import pytest

from keras_logit_adjust.layers import CosineDense, LogitAdjustment, PriorAwareDense


def unbuilt():
    return PriorAwareDense(2, [3, 1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogitAdjustment([3, 0]), r"`class_counts` must be greater than zero.*\[0\.0\] at class 1.*Remedy"),
        (lambda: LogitAdjustment([3, -1]), r"`class_counts` must be greater than zero.*\[-1\.0\] at class 1"),
        (lambda: LogitAdjustment([3, np.nan]), "`class_counts` must be finite.*class 1"),
        (lambda: LogitAdjustment([np.inf, 3]), "`class_counts` must be finite.*class 0"),
        (lambda: LogitAdjustment([[3, 1]]), r"`class_counts` must be a non-empty vector.*\(1, 2\)"),
        (lambda: LogitAdjustment([]), r"`class_counts` must be a non-empty vector.*\(0,\)"),
        (lambda: LogitAdjustment([3]), "`class_counts` must name at least two classes"),
        (lambda: LogitAdjustment(["a", "b"]), "`class_counts` must be a list or vector of numbers.*'a'"),
        (lambda: LogitAdjustment([3, 1], tau=np.nan), "`tau` must be finite.*nan"),
        (lambda: LogitAdjustment([3, 1], tau=[1, 2, 3]), r"`tau` must be a number or a vector of 2.*\(3,\)"),
        (lambda: LogitAdjustment([3, 1], target_prior=[1, 2, 3]), "`target_prior` must have one number.*2.*3"),
        (lambda: LogitAdjustment([3, 1], target_prior=[1, 0]), "`target_prior` must be greater than zero.*class 1"),
        (lambda: LogitAdjustment([3, 1], num_examples=0), "`num_examples` must be the number of training.*=0"),
        (lambda: LogitAdjustment([3, 9], num_examples=9), "strictly between 0 and num_examples=9.*class 1.*Remedy"),
        (
            lambda: LogitAdjustment([3, 1], num_examples=9, target_prior=[0.5, 2]),
            r"`target_prior` must be the probability of a label.*\[2\.0\] at class 1: divide",
        ),
        (lambda: LogitAdjustment([3, 1])(np.zeros((2, 3))), "the input has 3 classes, `class_counts` has 2"),
        (lambda: LogitAdjustment([3, 1])(keras.Input((None,))), "static last dimension"),
        (lambda: PriorAwareDense(3, [3, 1]), "`class_counts` must have one number.*units=3.*has 2"),
        (lambda: PriorAwareDense(2, [3, 1], activation="softmax"), "takes no `activation`. Remedy.*from_logits=True"),
        (lambda: PriorAwareDense(2, [3, 0]), "`class_counts` must be greater than zero.*class 1"),
        (lambda: PriorAwareDense(2, [3, 1], tau="x"), "`tau` must be a number.*'x'"),
        (lambda: PriorAwareDense(2, [3, 1], target_prior=[1, 2, 3]), "`target_prior` must have one number.*2.*3"),
        (lambda: unbuilt().to_dense(), "has no weights yet: build it"),
        (lambda: CosineDense(1), "`units` must be an integer of at least 2.*units=1"),
        (lambda: CosineDense(3, scale=0), "`scale` must be a positive number.*scale=0"),
    ],
)
def test_bad_arguments_are_refused_with_rule_value_and_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_a_target_of_labels_lies_strictly_between_zero_and_one(probability):
    message = f"strictly between 0 and 1.*label 1|strictly between 0 and 1.*{probability}"
    with pytest.raises(ValueError, match=message):
        LogitAdjustment([10, 20], num_examples=100, target_prior=[0.5, probability])
