"""The search for offsets: against loops over all of them, and what its scores and values are after changes."""

import numpy as np
import pytest
from helpers.offsets import COUNTS, WHOLE, between, draw, search_by_trying, value_by_loop
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import keras_logit_adjust as kla
from keras_logit_adjust.held_out import _coordinate_search
from keras_logit_adjust.held_out._coordinate_search import MacroF1, WeightedRecall, search

seeds = st.integers(0, 2**32 - 1)


def objectives(y, weight, num_classes):
    """(ours, the same as a function of predictions) of macro-F1 over the classes that occur, and of weighted recall."""
    labels = np.unique(y)
    options = {"labels": labels, "average": "macro", "sample_weight": weight, "zero_division": 0}
    yield MacroF1(y, weight, num_classes), lambda predicted: f1_score(y, predicted, **options)
    yield WeightedRecall(y, weight, num_classes), lambda predicted: np.average(predicted == y, weights=weight)


def scores_of(logits, offsets):
    logits = logits.astype("float64")
    return _coordinate_search._Scores(logits, offsets, np.ascontiguousarray(logits.T))


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(2, 5), st.sampled_from([1, 2, 1024]), seeds)
def test_the_values_along_an_offset_are_those_between_its_margins(size, num_classes, steps, seed):
    rng = np.random.default_rng(seed)
    logits = np.rint(steps * rng.normal(size=(size, num_classes))) / steps  # ties, and sums without rounding
    y, weight = rng.integers(0, num_classes, size), rng.integers(1, 4, size).astype("float64")
    scores, c = scores_of(logits, rng.integers(-2, 3, num_classes) / 4), rng.integers(num_classes)
    own, rivals, margins = scores.without(c)
    order = np.argsort(margins, kind="stable")
    for ours, expected in objectives(y, weight, num_classes):
        values = ours.line(c, ours.tallies(scores.first), own, rivals).values(order)
        for offset in between(margins):
            shifted = logits + np.where(np.arange(num_classes) == c, offset, scores.offsets)
            value = values[np.searchsorted(margins[order], offset)]
            assert value == pytest.approx(expected(shifted.argmax(-1)), abs=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(1, 8), seeds)
def test_no_value_in_a_cell_is_above_its_bound(size, num_classes, num_cells, seed):
    rng = np.random.default_rng(seed)
    logits, y = draw(rng, size, num_classes)
    scores, c = scores_of(logits, rng.normal(size=num_classes)), rng.integers(num_classes)
    own, rivals, margins = scores.without(c)
    order = np.argsort(margins, kind="stable")
    num_near = rng.integers(size + 1)
    cells = np.append(np.sort(rng.integers(0, num_cells, num_near)), np.full(size - num_near, num_cells))
    shuffled = rng.permutation(num_near)
    near = order[shuffled]
    for ours, _ in objectives(y, rng.uniform(0.1, 3, size), num_classes):
        line = ours.line(c, ours.tallies(scores.first), own, rivals)
        values, bounds = line.values(order), line.bounds(near, cells[shuffled], num_cells)
        assert values[0] == pytest.approx(line.start, abs=1e-12)
        assert (values[1:] <= bounds[cells] + 1e-12).all()
        # One example alone in each cell: the bound of recalls is the value after it or before it.
        if isinstance(ours, WeightedRecall):
            largest = np.maximum(values[1:], values[:-1])[:num_near]
            np.testing.assert_allclose(
                line.bounds(order[:num_near], np.arange(num_near), num_near)[:-1], largest, atol=1e-12
            )
            # Beyond all cells: what c can still gain, and no loss of others.
            of_c = ours.weight[y == c].sum() - ours.weight[near][y[near] == c].sum()
            assert bounds[-1] == pytest.approx(values[num_near] + of_c, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(2, 60), st.integers(2, 12), st.sampled_from([1, 4, 2**20]), st.integers(1, 20), seeds)
def test_a_search_by_bounds_takes_the_steps_of_one_without(size, num_classes, steps, num_cells, seed):
    """The bounds only spare work: what is found is what sorting all examples for each class finds."""
    rng = np.random.default_rng(seed)
    logits, y = draw(rng, size, num_classes, signal=rng.choice([0.0, 1.0, 3.0]))
    logits, base = np.rint(steps * logits) / steps, rng.normal(size=num_classes)
    weight = rng.choice([np.ones(size), rng.uniform(0.3, 3, size)])
    for make, expected in (
        (MacroF1, lambda predicted: value_by_loop("macro_f1", y, predicted, weight)),
        (WeightedRecall, lambda predicted: np.average(predicted == y, weights=weight)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_coordinate_search, "_CELLS", num_cells)
            patch.setattr(_coordinate_search._RecallLine, "first_size", 1 + size // 8)
            found, value = search(logits, make(y, weight, num_classes), base, sweeps=3)
        by_trying = search_by_trying(logits, y, expected, base, sweeps=3)
        np.testing.assert_allclose(found, by_trying, atol=1e-9)
        assert value == pytest.approx(expected((logits + found).argmax(-1)), abs=1e-12)


@settings(max_examples=15)
@given(st.integers(2, 30), st.integers(2, 6), st.sampled_from([None, 1, 2]), seeds)
def test_examples_drawn_several_times_count_as_often(size, num_classes, step, seed):
    rng = np.random.default_rng(seed)
    logits, y = draw(rng, size, num_classes)
    logits, base = logits if step is None else np.rint(step * logits) / step, rng.normal(size=num_classes)
    weight, times = rng.uniform(0.3, 3, size), rng.integers(1, 4, size)
    again = np.repeat(np.arange(size), times)
    for make in (MacroF1, WeightedRecall):
        once = search(logits, make(y, weight * times, num_classes), base, sweeps=3)
        repeated = search(logits[again], make(y[again], weight[again], num_classes), base, sweeps=3)
        np.testing.assert_allclose(once[0], repeated[0], atol=1e-9)
        assert once[1] == pytest.approx(repeated[1], abs=1e-12)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(2, 6), st.booleans(), seeds)
def test_changed_scores_have_the_best_two_classes_of_scores_made_anew(size, num_classes, whole, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (size, num_classes)) if whole else rng.normal(size=(size, num_classes))
    scores = scores_of(logits, np.zeros(num_classes))
    for c in rng.integers(0, num_classes, 8):
        scores.set(c, rng.integers(-2, 3) / 2)
        anew = scores_of(logits, scores.offsets)
        np.testing.assert_array_equal([scores.first, scores.second], [anew.first, anew.second])
        np.testing.assert_array_equal([scores.highest, scores.next], [anew.highest, anew.next])
        np.testing.assert_array_equal(scores.first, (logits + scores.offsets).argmax(-1))


def assert_no_single_offset_improves(logits, y, weight, base):
    num_classes = logits.shape[1]
    for ours, expected in objectives(y, weight, num_classes):
        found, value = search(logits, ours, base, sweeps=100)
        assert value == pytest.approx(expected((logits + found).argmax(-1)), abs=1e-12)
        assert value >= expected((logits + base).argmax(-1)) - 1e-12
        for c in np.unique(y):
            others = np.where(np.arange(num_classes) == c, -np.inf, logits + found)
            for offset in between(others.max(-1) - logits[:, c]):
                shifted = logits + np.where(np.arange(num_classes) == c, offset, found)
                assert expected(shifted.argmax(-1)) <= value + 1e-12


@settings(max_examples=15)
@given(st.integers(2, 10), st.integers(2, 4), seeds)
@example(5, 3, 229)  # the last round gains nothing, but moves offsets to where others gain again
def test_a_search_ends_not_below_its_start_where_no_single_offset_improves(size, num_classes, seed):
    rng = np.random.default_rng(seed)
    logits, y = draw(rng, size, num_classes)
    assert_no_single_offset_improves(logits, y, rng.uniform(0.5, 2, size), rng.normal(size=num_classes))


@settings(max_examples=15)
@given(st.integers(2, 10), st.integers(2, 3), seeds)
@example(3, 2, 30)
def test_margins_that_differ_by_rounding_alone_count_as_equal(size, num_classes, seed):
    """Coarse logits, as of half precision: (1 + b) − 0 and (2 + b) − 1 are one margin."""
    rng = np.random.default_rng(seed)
    logits, y = rng.integers(-3, 4, (size, num_classes)).astype("float64"), rng.integers(0, num_classes, size)
    base = -0.5 * np.log(rng.dirichlet(np.ones(num_classes)))
    assert_no_single_offset_improves(logits, y, np.ones(size), base)


@settings(max_examples=30)
@given(st.sampled_from(["macro_f1", "balanced"]), st.integers(2, 15), st.booleans(), seeds)
def test_two_classes_are_searched_as_by_trying_every_threshold(objective, size, whole, seed):
    rng = np.random.default_rng(seed)
    logits, y = draw(rng, size, 2)
    logits = 2 * np.rint(logits) if whole else logits  # even: no row sums to one, as probabilities do
    margins = logits[:, 0] - logits[:, 1]
    best = max(value_by_loop(objective, y, (margins < t).astype("int64")) for t in between(margins))
    tuned = kla.tune_offsets(logits, y, [90, 10], objective=objective, **WHOLE)
    assert tuned.value == pytest.approx(best, abs=1e-12)
    assert value_by_loop(objective, y, (logits + tuned.offsets).argmax(-1)) == pytest.approx(best, abs=1e-12)


def every_prediction(logits):
    """What offsets (0, a, b) can make three classes' predictions, once each: a in every strip, b between its lines."""
    a_lines, b_lines = logits[:, 0] - logits[:, 1], logits[:, 0] - logits[:, 2]
    slanted = logits[:, 2] - logits[:, 1]  # a − b there
    offsets = [
        (0.0, a, b)
        for a in between(np.append(a_lines, b_lines[:, None] + slanted))
        for b in between(np.append(b_lines, a - slanted))
    ]
    return np.unique((logits + np.array(offsets)[:, None]).argmax(-1), axis=0)


@pytest.mark.parametrize("objective", ["macro_f1", "balanced"])
def test_three_classes_are_searched_as_by_trying_every_pair_of_offsets(objective, rng):
    gaps = []
    for size in np.tile([6, 7, 8], 6):
        logits, y = draw(rng, size, 3)
        y[:3] = 0, 1, 2
        best = max(value_by_loop(objective, y, predicted) for predicted in every_prediction(logits))
        gaps.append(best - kla.tune_offsets(logits, y, COUNTS, objective=objective, **WHOLE).value)
    np.testing.assert_allclose(gaps, 0, atol=1e-12)
