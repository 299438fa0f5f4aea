"""What `LongTailSampler` refuses, and what it says."""

import json

import numpy as np
import pytest

from keras_logit_adjust.data import LongTailSampler

LABELS = [0, 0, 0, 0, 2, 2, 1]
PROGRESSIVE = {"strategy": "progressive", "progressive_epochs": 3}
NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"`labels` must be a non-empty vector of integer class ids\. Received shape \(0,\)"),
        (np.zeros(0, int), r"`labels` must be a non-empty vector .*shape \(0,\)"),
        ([0.0, 1.0], r"`labels` must be .*integer class ids\. Received shape \(2,\), dtype float64"),
        ([True, False], r"`labels` must be .*integer class ids.*dtype bool"),
        (["cat", "dog"], r"`labels` must be .*integer class ids"),
        (np.eye(3, dtype=int), r"`labels` must be .*shape \(3, 3\).*labels\.argmax\(axis=-1\)"),
        (["ant", "bee"], r"must be a non-empty vector of integer.*make ids of names by one list of names"),
        (
            [0, -1, 2, -1],
            r"class ids of at least 0\. Received -1 at position 1 \(2 below 0\): leave these examples out",
        ),
        (3, r"`labels` must be a non-empty vector .*shape \(\)"),
        (None, r"`labels` must be a non-empty vector"),
        ([0, -1], r"`labels` must be class ids of at least 0\. Received -1"),
    ],
)
def test_labels_that_are_no_ids_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        LongTailSampler(labels, 2, seed=0)


BAD = [
    ({"seed": None}, r"`seed` must be given: what is random"),
    ({"seed": -1}, r"`seed` must be an integer of at least 0\. Received: seed=-1"),
    ({"seed": 1.0}, r"`seed` must be an integer .*seed=1\.0"),
    ({"seed": True}, r"`seed` must be an integer .*seed=True"),
    ({"seed": "0"}, r"`seed` must be an integer .*seed='0'"),
    ({"batch_size": 0}, r"`batch_size` must be an integer of at least 1\. Received: batch_size=0"),
    ({"batch_size": 2.0}, r"`batch_size` must be an integer .*batch_size=2\.0"),
    ({"batch_size": None}, r"`batch_size` must be an integer .*batch_size=None"),
    ({"num_classes": 2}, r"`labels` must be class ids below num_classes=2\. Received 2"),
    ({"num_classes": 0}, r"`num_classes` must be an integer of at least 1\. Received: num_classes=0"),
    ({"num_classes": 3.0}, r"`num_classes` must be an integer .*num_classes=3\.0"),
    ({"strategy": "uniform"}, r"`strategy` must be one of 'instance', 'square_root', 'balanced'.*strategy='uniform'"),
    ({"strategy": None}, r"`strategy` must be one of .*an exponent q or a share for each class.*strategy=None"),
    ({"strategy": True}, r"`strategy` must be one of .*strategy=True"),
    ({"strategy": print}, r"`strategy` must be one of .*strategy=<built-in function print>"),
    ({"strategy": {0: 0.5, 1: 0.5}}, r"`strategy` must be one of .*strategy=\{0: 0\.5"),
    ({"strategy": NAN}, r"`strategy` must be finite where it is an exponent. Received: strategy=nan"),
    ({"strategy": float("inf")}, r"`strategy` must be finite where it is an exponent. Received: strategy=inf"),
    ({"strategy": [0.5, 0.5, 0.5]}, r"must sum to one\. Received `strategy` with sum 1\.5: divide it by its sum"),
    ({"strategy": [0.2, 0.2, 0.2]}, r"must sum to one\. Received `strategy` with sum 0\.6"),
    ({"strategy": [0, 0, 0]}, r"must sum to one\. Received `strategy` with sum 0"),
    ({"strategy": [1.5, -0.5, 0]}, r"must not be negative\. Received \[-0\.5\] at class 1"),
    ({"strategy": [0.5, 0.5]}, r"`strategy` must have one number for each class: .* has 3 classes, `strategy` has 2"),
    ({"strategy": [0.25] * 4}, r"`strategy` must have one number for each class: .* has 3 classes, `strategy` has 4"),
    ({"strategy": [0.25] * 4, "num_classes": 4}, r"must not ask for classes that have no examples.*at class 3"),
    ({"strategy": [NAN, 0.5, 0.5]}, r"`strategy` must be finite\. Received \[nan\] at class 0"),
    ({"strategy": [[1.0]]}, r"`strategy` must be a non-empty vector .*shape \(1, 1\)"),
    ({"strategy": ["a", "b", "c"]}, r"`strategy` must be a list or vector of numbers"),
    ({"strategy": []}, r"`strategy` must be a non-empty vector"),
    ({"per_batch": "equal"}, r"`per_batch` must be one of None, 'exact'\. Received: per_batch='equal'"),
    ({"per_batch": True}, r"`per_batch` must be one of None, 'exact'\. Received: per_batch=True"),
    ({"per_batch": "exact", "batch_size": 2}, r"a place for each of the 3 classes .*batch_size=2\. Remedy: larger"),
    ({"per_batch": "exact", "strategy": "instance"}, r"needs equal shares: strategy=\"balanced\".*strategy='instance'"),
    ({"per_batch": "exact", "strategy": [0.5, 0.25, 0.25]}, r"needs equal shares.*strategy=\[0\.5, 0\.25, 0\.25\]"),
    ({"per_batch": "exact", **PROGRESSIVE}, r"needs equal shares.*strategy='progressive'"),
    ({"replacement": "yes"}, r"`replacement` must be True or False\. Received: replacement='yes'"),
    ({"replacement": 1}, r"`replacement` must be True or False\. Received: replacement=1"),
    ({"replacement": None}, r"`replacement` must be True or False\. Received: replacement=None"),
    ({"strategy": "progressive"}, r"`progressive_epochs` goes with .*progressive_epochs=None"),
    ({"progressive_epochs": 3}, r"`progressive_epochs` goes with .*strategy='balanced', progressive_epochs=3"),
    ({**PROGRESSIVE, "progressive_epochs": 1}, r"`progressive_epochs` must be an integer of at least 2.*epochs=1"),
    ({**PROGRESSIVE, "progressive_epochs": 3.0}, r"`progressive_epochs` must be an integer .*epochs=3\.0"),
    ({**PROGRESSIVE, "progressive_epochs": True}, r"`progressive_epochs` must be an integer .*epochs=True"),
    ({"beta": 1}, r"`beta` must be a number in \[0, 1\)\. Received: beta=1"),
    ({"beta": -0.1}, r"`beta` must be a number in \[0, 1\).*beta=-0\.1"),
    ({"beta": NAN}, r"`beta` must be a number in \[0, 1\).*beta=nan"),
    ({"beta": "0.9"}, r"`beta` must be a number in \[0, 1\).*beta='0\.9'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(options) for options, _ in BAD])
def test_a_setting_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LongTailSampler(LABELS, **{"batch_size": 4, "seed": 0, **options})


def test_a_long_distribution_is_not_printed_whole():
    with pytest.raises(ValueError, match="needs equal shares") as caught:
        share = [0.5, *[0.5 / 499] * 499]
        LongTailSampler(np.arange(500), 500, strategy=share, per_batch="exact", seed=0)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("step", [-1, 1.0, True, None, "3"])
def test_a_step_is_an_integer_of_at_least_zero(step):
    sampler = LongTailSampler(LABELS, 2, seed=0)
    for use in (sampler.rows, sampler.state):
        with pytest.raises(ValueError, match=r"`step` must be an integer of at least 0\. Received: step="):
            use(step)


OTHER_LABELS = {
    "one label is another": [0, 0, 0, 1, 2, 2, 1],
    "the order is another": [0, 0, 0, 2, 0, 2, 1],
    "one is missing": LABELS[:-2] + [1],
    "a class is new": [0, 0, 0, 3, 2, 2, 1],
    "a class is gone": [0, 0, 0, 0, 2, 2, 2],
}


@pytest.mark.parametrize("labels", OTHER_LABELS.values(), ids=OTHER_LABELS.keys())
@pytest.mark.parametrize("strategy", ["balanced", [0.5, 0.25, 0.25]], ids=str)
def test_a_state_is_refused_over_other_labels(labels, strategy):
    state = LongTailSampler(LABELS, 4, strategy=strategy, seed=0).state(3)
    with pytest.raises(ValueError, match=r"`labels` must be those .*hash differs\. Received \d labels"):
        LongTailSampler.from_state(json.loads(json.dumps(state)), labels)


STATE = LongTailSampler(LABELS, 4, seed=0).state(3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {**STATE, "format": 2},
            r"`state` must come from `LongTailSampler\.state` of this version\. Received: \{'batch_size",
        ),
        ({**STATE, "format": None}, r"`state` must come from"),
        ({name: value for name, value in STATE.items() if name != "format"}, r"`state` must come from"),
        ({}, r"`state` must come from .*Received: \{\}"),
        (None, r"`state` must come from .*Received: None"),
        (json.dumps(STATE), r"`state` must come from .*Received: '\{"),
        ({**STATE, "step": -1}, r"`step` must be an integer of at least 0\. Received: step=-1"),
        ({**STATE, "step": 1.5}, r"`step` must be an integer .*step=1\.5"),
        ({name: value for name, value in STATE.items() if name != "labels_sha256"}, r"`state` must come from"),
        ({**STATE, "something": 1}, r"`state` must come from"),
    ],
)
def test_a_state_of_another_format_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        LongTailSampler.from_state(state, LABELS)


def test_steps_beyond_a_trillion_and_before_the_first_batch_are_refused():
    sampler = LongTailSampler(LABELS, 4, seed=0)
    with pytest.raises(ValueError, match="`step` must be below 1099511627776"):
        sampler.rows(2**40)
    with pytest.raises(IndexError, match="count from 0. Received: -1"):
        sampler.py_dataset(LABELS)[-1]


def test_an_id_that_no_memory_could_count_up_to_is_refused():
    with pytest.raises(ValueError, match="must be class ids below 100,000,000. Received 100000000000"):
        LongTailSampler([0, 10**11], 2, seed=0)
