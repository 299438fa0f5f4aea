"""Independent labels of which some are unknown: each label is tuned on the examples where it is known."""

import numpy as np
import pytest

import keras_logit_adjust as kla

POSITIVES, EXAMPLES = [400, 60, 20], 1000
DRAWN = np.random.default_rng(0)
ON = (DRAWN.random((80, 3)) < [0.5, 0.3, 0.3]).astype(int)
LOGITS = 2 * DRAWN.normal(size=(80, 3)) + 2 * ON - 1 + kla.priors.log_odds(POSITIVES, EXAMPLES)
UNKNOWN = DRAWN.random((80, 3)) < 0.3
MARKED = np.where(UNKNOWN, -1, ON)
OPTIONS = {"num_examples": EXAMPLES, "ignore_class": -1}


def known_path(label):
    """The path of one label, on the examples where it is known."""
    known = ~UNKNOWN[:, label]
    one = ON[known, label, None], LOGITS[known, label, None]
    return kla.TauPath(*one, POSITIVES[label : label + 1], num_examples=EXAMPLES)


def test_a_path_leaves_unknown_targets_out_and_nothing_else():
    path, taus = kla.TauPath(MARKED, LOGITS, POSITIVES, **OPTIONS), np.linspace(-1, 3, 9)
    for label in range(3):
        np.testing.assert_allclose(path.at(taus, label), known_path(label).at(taus), atol=1e-12)
    np.testing.assert_array_equal(path.examples, np.ravel([known_path(label).examples for label in range(3)]))
    whole = kla.TauPath(ON, LOGITS, POSITIVES, **OPTIONS)
    np.testing.assert_array_equal(whole.high, kla.TauPath(ON, LOGITS, POSITIVES, num_examples=EXAMPLES).high)


def test_tau_is_that_of_the_path_of_known_targets():
    tuned = kla.tune_tau(LOGITS, MARKED, POSITIVES, standard_errors=0, **OPTIONS)
    assert tuned.tau == kla.TauPath(MARKED, LOGITS, POSITIVES, **OPTIONS).best().tau
    batches = kla.TauPath.from_batches([(MARKED[:9], LOGITS[:9]), (MARKED[9:], LOGITS[9:])], POSITIVES, **OPTIONS)
    np.testing.assert_array_equal(np.sort(batches.high), np.sort(tuned.path.high))


@pytest.mark.parametrize("objective", ["macro_f1", "balanced"])
def test_an_offset_is_that_of_the_label_alone_on_known_examples(objective):
    tuned = kla.tune_offsets(LOGITS, MARKED, POSITIVES, objective=objective, bags=2, **OPTIONS)
    for label in range(3):
        known, own = ~UNKNOWN[:, label], slice(label, label + 1)
        alone = kla.tune_offsets(
            *(LOGITS[known, own], ON[known, own], POSITIVES[own]), objective=objective, bags=2, num_examples=EXAMPLES
        )
        np.testing.assert_allclose(tuned.offsets[label], alone.offsets[0], atol=1e-12)


def test_offsets_of_classes_leave_ignored_rows_out():
    y = np.array([0, 1, 255, 1, 0, 255])
    logits = np.array([[2.0, 0.0], [1.0, 0.0], [9.0, 9.0], [0.0, 1.0], [3.0, 0.0], [np.nan, 0.0]])
    tuned = kla.tune_offsets(logits, y, [3, 1], bags=0, ignore_class=255)
    alone = kla.tune_offsets(logits[y < 255], y[y < 255], [3, 1], bags=0)
    np.testing.assert_array_equal(tuned.offsets, alone.offsets)
    with pytest.raises(ValueError, match="ids that are not ignored. Received only 255"):
        kla.tune_offsets(logits, np.full(6, 255), [3, 1], ignore_class=255)


def test_marks_that_nobody_named_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"must be 0 or 1\. Received -1 at row.*ignore_class=-1, which `kla.tune_tau`"):
        kla.tune_offsets(LOGITS, MARKED, POSITIVES, num_examples=EXAMPLES)
    with pytest.raises(ValueError, match=r"must be 0 or 1, or -1\. Received 7"):
        kla.tune_tau(LOGITS, np.full((80, 3), 7), POSITIVES, **OPTIONS)
    with pytest.raises(ValueError, match="at least one held-out example"):
        kla.TauPath(np.full((80, 3), -1), LOGITS, POSITIVES, **OPTIONS)
