"""Calibration: the optimum against naive sums, the errors against loops, and what is refused."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import sigmoid, softmax

from keras_logit_adjust.held_out import calibrate, calibration, calibration_error, reliability
from keras_logit_adjust.layers import Calibration

METHODS = ["temperature", "bias_corrected_temperature"]
BIASED = "bias_corrected_temperature"
CALIBRATION = Calibration(1.7, [0.5, -0.75, 0.25])


def drawn(rng, scores):
    """Class ids drawn from the softmax of `scores`."""
    return (scores + rng.gumbel(size=scores.shape)).argmax(axis=-1)


def long_tailed(rng, num_examples=200, num_classes=4):
    logits = rng.normal(0, 2, (num_examples, num_classes)) - 1.5 * np.arange(num_classes)
    return logits, drawn(rng, logits / 2)


# --- calibrate -------------------------------------------------------------------------------------------------------


def naive_loss(point, logits, y_true, weight=None, kind="softmax", ridge=True):
    """The documented sum, one example at a time, at `point = (1/T, b_1, …)`."""
    total = 0.5 * sum(b**2 for b in point[1:]) if ridge else 0.0
    for i, row in enumerate(logits):
        scores = [point[0] * f + b for f, b in zip(row, point[1:], strict=True)]
        if kind == "softmax":
            w = 1.0 if weight is None else weight[y_true[i]]
            total += w * (np.log(sum(np.exp(s) for s in scores)) - scores[y_true[i]])
            continue
        for label, (score, is_on) in enumerate(zip(scores, y_true[i], strict=True)):
            w = 1.0 if weight is None else weight[label][int(is_on)]
            total += w * np.log(1 + np.exp(-score if is_on else score))
    return total


def assert_nothing_lowers(calibration, logits, *args, **kwargs):
    """A convex sum is least where its slope, by differences, is 0 in every direction that was free."""
    bias = np.zeros(len(logits[0])) if calibration.bias is None else calibration.bias
    best = np.array([1 / calibration.temperature, *bias])
    for i in range(1 if calibration.bias is None else best.size):
        step = 1e-4 * np.eye(best.size)[i]
        ends = [naive_loss(best + sign * step, logits, *args, **kwargs) for sign in (1, -1)]
        assert abs(ends[0] - ends[1]) / 2e-4 < 2e-3


@pytest.mark.parametrize("method", METHODS)
def test_nothing_lowers_the_loss_of_classes_also_where_one_has_no_examples(method, rng):
    logits, y_true = long_tailed(rng)
    logits, y_true = logits[y_true != 2], y_true[y_true != 2]
    found = calibrate(logits, y_true, method=method)
    assert_nothing_lowers(found, logits, y_true)
    if method == BIASED:
        assert abs(sum(found.bias)) < 1e-12 and len(found.bias) == 4
        assert found.bias[2] == min(found.bias) and -3 < found.bias[2] < -0.3


@pytest.mark.parametrize("method", METHODS)
def test_nothing_lowers_the_loss_of_labels_and_of_one_unit(method, rng):
    logits = rng.normal(-1, 2, (150, 3))
    labels = rng.random((150, 3)) < sigmoid(logits / 2 + [0.5, -1, 0])
    assert_nothing_lowers(calibrate(logits, labels, method=method, independent=True), logits, labels, kind="sigmoid")
    unit = calibrate(logits[:, 0], labels[:, 0], method=method)
    assert_nothing_lowers(unit, logits[:, :1], labels[:, :1], kind="sigmoid")
    assert unit == calibrate(logits[:, :1], labels[:, :1].astype(int), method=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_prior_weighs_examples_by_prior_over_share(method, rng):
    logits, y_true = long_tailed(rng)
    share = np.bincount(y_true) / y_true.size
    found = calibrate(logits, y_true, method=method, class_prior=[1, 2, 3, 4])
    assert_nothing_lowers(found, logits, y_true, weight=np.array([0.1, 0.2, 0.3, 0.4]) / share)
    assert calibrate(logits, y_true, method=method, class_prior=np.bincount(y_true)).temperature == pytest.approx(
        calibrate(logits, y_true, method=method).temperature, rel=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_prior_of_labels_weighs_both_sides_of_each(method, rng):
    logits = rng.normal(-1, 2, (150, 2))
    labels = rng.random((150, 2)) < sigmoid(logits / 2)
    weight = [((1 - p) / (1 - s), p / s) for p, s in zip([0.5, 0.2], labels.mean(axis=0), strict=True)]
    found = calibrate(logits, labels, method=method, class_prior=[0.5, 0.2], independent=True)
    assert_nothing_lowers(found, logits, labels, weight=weight, kind="sigmoid")
    unit = calibrate(logits[:, 0], labels[:, 0], method=method, class_prior=[30, 30])  # [negatives, positives]
    assert_nothing_lowers(unit, logits[:, :1], labels[:, :1], weight=weight[:1], kind="sigmoid")


def test_weights_equal_repeated_examples(rng):
    logits = rng.normal(0, 2, (90, 3))
    y_true = np.repeat([0, 1, 2], [60, 20, 10])
    repeated = np.concatenate([np.flatnonzero(y_true == c).repeat(times) for c, times in enumerate([1, 3, 6])])
    logits[np.arange(90), y_true] += 1.0
    weighted = calibrate(logits, y_true, class_prior=[1, 1, 1])
    assert weighted.temperature == pytest.approx(calibrate(logits[repeated], y_true[repeated]).temperature, rel=1e-9)


def test_planted_temperatures_and_biases_are_found(rng):
    logits = rng.normal(0, 3, (20_000, 4)) + [2, 1, 0, -2]
    bias = np.array([0.5, 0.0, -0.75, 0.25])
    plain, biased = (
        calibrate(logits, drawn(rng, logits / 1.6 + b), method=m) for b, m in zip((0, bias), METHODS, strict=True)
    )
    assert plain.temperature == pytest.approx(1.6, abs=0.04) and plain.bias is None
    assert biased.temperature == pytest.approx(1.6, abs=0.04)
    np.testing.assert_allclose(biased.bias, bias, atol=0.08)


@pytest.mark.parametrize("is_misleading", [False, True])
def test_a_part_of_examples_only_leads_to_the_temperature_of_all(is_misleading, monkeypatch, rng):
    logits, y_true = long_tailed(rng, num_examples=1000)
    if is_misleading:  # the model is right for every example of the part, which has no temperature then
        y_true[::40] = logits[::40].argmax(axis=1)
    whole, sizes, slopes = calibrate(logits, y_true), [], calibration._Loss.slopes
    monkeypatch.setattr(calibration, "_ENOUGH_NUMBERS", 100)  # every 40th example
    monkeypatch.setattr(
        calibration._Loss, "slopes", lambda self, *at: sizes.append(len(self.labels)) or slopes(self, *at)
    )
    assert calibrate(logits, y_true).temperature == pytest.approx(whole.temperature, rel=1e-12)
    assert set(sizes) == {25, 1000} and (sizes.count(1000) < 10) is not is_misleading


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.3, 4), order=st.permutations(range(4)))
def test_what_softmax_does_not_see_calibration_does_not_see(method, seed, scale, order):
    logits, y_true = long_tailed(np.random.default_rng(seed), 60)
    found = calibrate(logits, y_true, method=method)
    probabilities = softmax(found.apply(logits))
    inverse = np.argsort(order)
    twins = {
        "log-probabilities": calibrate(np.log(softmax(logits)), y_true, method=method).apply(np.log(softmax(logits))),
        "scaled": calibrate(scale * logits, y_true, method=method).apply(scale * logits),
        "permuted": calibrate(logits[:, order], inverse[y_true], method=method).apply(logits[:, order])[:, inverse],
    }
    for name, scores in twins.items():
        np.testing.assert_allclose(softmax(scores), probabilities, atol=1e-4, err_msg=name)
    if method == "temperature":
        np.testing.assert_array_equal(found.apply(logits).argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("method", METHODS)
def test_labels_logits_and_leading_axes_come_in_every_form(method, rng):
    logits, y_true = long_tailed(rng, 60)
    expected = calibrate(logits, y_true, method=method)
    assert calibrate(logits, np.eye(4)[y_true], method=method) == expected
    assert calibrate(logits.reshape(6, 10, 4), y_true.reshape(6, 10), method=method) == expected
    assert calibrate(keras.ops.convert_to_tensor(logits.astype("float32")), y_true, method=method).temperature == (
        pytest.approx(expected.temperature, rel=1e-4)
    )
    labels = rng.random((60, 4)) < 0.4
    expected = calibrate(logits, labels, method=method, independent=True)
    assert calibrate(logits.reshape(6, 10, 4), labels.reshape(6, 10, 4), method=method, independent=True) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("sign", "bound", "why"), [(1, 0.01, "examples are classified right"), (-1, 100, "say nothing about")]
)
def test_a_temperature_without_an_optimum_stops_at_its_bound_and_says_so(method, sign, bound, why):
    y_true = np.array([0, 1, 2] * 4)
    with pytest.warns(UserWarning, match=f"at its bound {bound}: .*{why}") as seen:
        found = calibrate(sign * 3.0 * np.eye(3)[y_true], y_true, method=method)
    assert found.temperature == pytest.approx(bound, rel=1e-6)
    assert seen[0].filename == __file__


GOOD = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [1.0, 0.0, 2.0], [2.0, 1.0, -2.0]])
IDS = [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("logits", "y_true", "options", "message"),
    [
        (np.where(GOOD == 3, np.nan, GOOD), IDS, {}, "`logits` must be finite. NaN or infinity in 1 of 4 .*row 1"),
        (np.where(GOOD == 3, np.inf, GOOD), IDS, {}, "`logits` must be finite.*find out why"),
        (np.where(GOOD == 3, -np.inf, GOOD), IDS, {}, "`logits` must be finite.*find out why"),
        (
            [[0.0, -np.inf, -np.inf], np.log([0.5, 0.2, 0.3])],
            [0, 1],
            {},
            r"1 of 2 rows.*row 0: .*np.log\(np.maximum\(p, 1e-12\)\)",
        ),
        (softmax(GOOD), IDS, {}, "must be logits. Received probabilities.*before the softmax"),
        (sigmoid(GOOD), GOOD > 1, {"independent": True}, r"must be logits.*\[0, 1\].*before the sigmoid"),
        (sigmoid(GOOD[:, 0]), [0, 1, 0, 1], {}, "must be logits.*sigmoid probabilities"),
        (GOOD[:0], [], {}, r"`logits` must have shape \[N, 3\], N ≥ 1"),
        (3.0, [0], {}, "`logits` must have shape"),
        (GOOD, IDS[:3], {}, r"one class id for each of the 4 rows.*\(3,\)"),
        (GOOD, [0, 1, 3, 2], {}, "must be class ids 0 … 2.*Received 3 at row 2"),
        (GOOD, [0, 1, 0.5, 2], {}, "must be whole numbers"),
        (GOOD, IDS, {"independent": True}, r"0 or 1 for each label, shape \(4, 3\). Received shape \(4,\)"),
        (GOOD, GOOD, {"independent": True}, "must be 0 or 1"),
        (GOOD[:, 0], IDS, {}, "must be class ids 0 … 1.*Received 2 at row"),
        (GOOD, IDS, {"method": "platt"}, "`method` must be one of 'temperature'.*'platt'"),
        (GOOD, IDS, {"class_prior": [1, 1]}, "held-out logits has 3 classes, `class_prior` has 2"),
        (GOOD, IDS, {"class_prior": [1, 0, 1]}, "`class_prior` must be greater than zero.*class 1"),
        (
            GOOD,
            [0, 1, 0, 1],
            {"class_prior": [1, 1, 1]},
            "every class needs a held-out example. Missing for class 2: hold",
        ),
        (GOOD, GOOD > 1, {"class_prior": [1, 0.5, 0.5], "independent": True}, r"strictly between.*\[1\.0\] at class 0"),
        (
            GOOD,
            GOOD > -9,
            {"class_prior": [0.5] * 3, "independent": True},
            "example with and one without it. .*classes 0, 1",
        ),
        (GOOD[:, 0], [0, 1, 0, 1], {"class_prior": [1, 1, 1]}, "has 2 classes, `class_prior` has 3"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, y_true, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(logits, y_true, **options)


# --- the value -------------------------------------------------------------------------------------------------------


def test_a_calibration_is_a_plain_value():
    assert Calibration(1.7, np.array([0.5, -0.75, 0.25])) == CALIBRATION and hash(CALIBRATION)
    assert Calibration() == Calibration(1, None) != CALIBRATION
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(CALIBRATION)))
    assert keras.saving.deserialize_keras_object(config) == CALIBRATION
    with pytest.raises(AttributeError):
        CALIBRATION.temperature = 2.0


def test_it_divides_by_the_temperature_and_adds_the_bias():
    np.testing.assert_allclose(CALIBRATION.apply(GOOD), GOOD / 1.7 + [0.5, -0.75, 0.25], rtol=1e-15)
    np.testing.assert_array_equal(Calibration(2.0).apply(GOOD), GOOD / 2)
    maps = np.stack([GOOD, -GOOD], axis=1)  # more axes before that of the classes
    np.testing.assert_allclose(CALIBRATION.apply(maps), maps / 1.7 + [0.5, -0.75, 0.25], rtol=1e-15)
    for logits in ([3.0, -1.0], [[3.0], [-1.0]], 3.0):  # of one unit in every form
        np.testing.assert_array_equal(Calibration(2.0, [1.0]).apply(logits), np.divide(logits, 2) + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Calibration(0.0), "`temperature` must be a positive number.*0.0"),
        (lambda: Calibration(np.inf), "`temperature` must be a positive number"),
        (lambda: Calibration("warm"), "`temperature` must be a positive number.*'warm'"),
        (lambda: Calibration(1.0, [0.0, np.nan]), "`bias` must be finite.*class 1"),
        (lambda: Calibration(1.0, 0.5), "`bias` must be a non-empty vector"),
        (lambda: CALIBRATION.apply(np.zeros((2, 4))), r"`logits` must have 3 columns.*\(2, 4\)"),
    ],
)
def test_what_is_no_calibration_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- errors ----------------------------------------------------------------------------------------------------------


def bin_index(p, num_bins):
    edges = np.linspace(0, 1, num_bins + 1)
    return next(b for b in range(num_bins) if p <= edges[b + 1])


def naive_error(values, hits, weights, num_bins):
    """Σ over bins of |weight of the hits − weight of what was promised|."""
    gaps = [0.0] * num_bins
    for value, hit, weight in zip(values, hits, weights, strict=True):
        gaps[bin_index(value, num_bins)] += weight * (hit - value)
    return sum(map(abs, gaps))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), num_bins=st.integers(1, 20), on_edges=st.booleans())
def test_errors_equal_the_loops_of_their_definitions(seed, num_bins, on_edges):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.5, 0.3, 0.2, 0.1], 30)
    if on_edges:
        probabilities = rng.multinomial(num_bins, [0.4, 0.3, 0.2, 0.1], 30) / num_bins
    y_true = rng.integers(0, 3, 30)  # nothing of class 3
    counts = np.bincount(y_true, minlength=4)
    top = probabilities.max(axis=1), probabilities.argmax(axis=1) == y_true
    balanced = [1 / (np.count_nonzero(counts) * counts[y]) for y in y_true]
    expected = {
        "plain": naive_error(*top, [1 / 30] * 30, num_bins),
        "balanced": naive_error(*top, balanced, num_bins),
        "classwise": np.mean(
            [naive_error(probabilities[:, c], y_true == c, [1 / 30] * 30, num_bins) for c in range(4)]
        ),
    }
    for kind, value in expected.items():
        assert calibration_error(probabilities, y_true, kind=kind, num_bins=num_bins) == pytest.approx(value, abs=1e-12)
    for is_balanced in (False, True):
        bins = reliability(probabilities, y_true, num_bins=num_bins, balanced=is_balanced)
        assert bins["weight"].sum() == pytest.approx(1) and bins["count"].sum() == 30
        np.testing.assert_array_equal(np.isnan(bins["accuracy"]), bins["count"] == 0)
        np.testing.assert_array_equal(bins["edges"], np.linspace(0, 1, num_bins + 1))
        for b in np.flatnonzero(bins["count"]):
            members = [i for i in range(30) if bin_index(top[0][i], num_bins) == b]
            weights = np.array(balanced)[members] if is_balanced else None
            assert bins["count"][b] == len(members)
            assert bins["confidence"][b] == pytest.approx(np.average(top[0][members], weights=weights))
            assert bins["accuracy"][b] == pytest.approx(np.average(top[1][members], weights=weights))


def test_a_unit_is_two_classes(rng):
    p, y_true = rng.random(50), rng.integers(0, 2, 50)
    for kind in ("plain", "classwise", "balanced"):
        expected = calibration_error(np.stack([1 - p, p], axis=-1), y_true, kind=kind)
        assert (
            calibration_error(p, y_true, kind=kind)
            == calibration_error(p[:, None], y_true[:, None], kind=kind)
            == expected
        )


def test_true_posteriors_are_calibrated_under_their_own_prior_only(rng):
    counts = np.array([9000, 900, 100])
    y_true = np.repeat(np.arange(3), counts)
    x = rng.normal(size=(y_true.size, 3)) + 1.5 * np.eye(3)[y_true]
    logits = 1.5 * x + np.log(counts)  # log P(y|x) up to a constant
    as_trained, balanced = softmax(logits), softmax(logits - np.log(counts / counts.sum()))
    assert calibration_error(as_trained, y_true) < 0.01
    assert calibration_error(as_trained, y_true, kind="classwise") < 0.01
    assert calibration_error(balanced, y_true, kind="balanced") < 0.05
    assert calibration_error(balanced, y_true, kind="classwise") > 0.05
    assert calibration_error(as_trained, y_true, kind="balanced") > 0.2
    assert calibrate(logits, y_true).temperature == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("function", [calibration_error, reliability])
@pytest.mark.parametrize(
    ("probabilities", "y_true", "options", "message"),
    [
        (GOOD, IDS, {}, "must be distributions.*4 of 4 rows are not, first row 0.*If these are logits"),
        ([[0.5, 0.4], [1.0, 0.0]], [0, 1], {}, r"1 of 2 rows.*row 0: \[0.5, 0.4\]"),
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 1], {}, "1 of 2 rows are not, first row 1"),
        ([[1.5, -0.5]], [0], {}, "must be distributions"),
        ([0.5, 1.2], [0, 1], {}, "must be distributions.*one sigmoid unit"),
        (np.zeros((0, 3)), [], {}, r"shape \[N, L\], N ≥ 1"),
        (0.5, [0], {}, r"shape \[N, L\]"),
        ([["a", "b"]], [0], {}, "must be real numbers"),
        ([[0.5, 0.5]], [0, 1], {}, "one class id for each of the 1 rows"),
        ([[0.5, 0.5]], [2], {}, "must be class ids 0 … 1"),
        ([[0.5, 0.5]], [0], {"num_bins": 0}, "`num_bins` must be an integer of at least 1"),
    ],
)
def test_what_has_no_calibration_error_is_refused(function, probabilities, y_true, options, message):
    with pytest.raises(ValueError, match=message):
        function(probabilities, y_true, **options)


def test_kinds_have_names():
    with pytest.raises(ValueError, match="`kind` must be one of 'plain', 'classwise', 'balanced'.*'max'"):
        calibration_error([[1.0, 0.0]], [0], kind="max")
    with pytest.raises(ValueError, match="`num_bins` must be an integer"):
        calibration_error([[1.0, 0.0]], [0], kind="classwise", num_bins=1.5)


def test_examples_of_a_class_that_was_not_trained_are_noticed(rng):
    labels = rng.choice(3, 1000, p=[0.6, 0.27, 0.13])
    x = rng.normal(size=1000) + np.array([0.0, 2.0, 1.0])[labels]
    seen = np.log([0.7, 0.3]) - (x[:, None] - [0.0, 2.0]) ** 2 / 2
    logits = np.column_stack([seen, np.full(1000, -12.0)])
    with pytest.warns(UserWarning, match="examples of class 2 are .* of 1000, and the model expects 0.0.*leave their"):
        assert calibrate(logits, labels).temperature > 3
    few = np.flatnonzero((labels < 2) | (np.cumsum(labels == 2) <= 4))  # four examples prove nothing
    assert calibrate(logits[few], labels[few]).temperature < 1.5
    assert calibrate(logits[labels < 2], labels[labels < 2]).temperature < 1.2


def test_one_hot_labels_beside_one_unit_are_those_of_its_two_classes(rng):
    y = rng.integers(0, 2, 60)
    logits = rng.normal(size=60) + 2 * y - 1
    expected = calibrate(logits, y)
    for labels in (np.eye(2)[y], np.eye(2, dtype=bool)[y], y[:, None]):
        found = calibrate(logits[:, None], labels)
        np.testing.assert_allclose(found.temperature, expected.temperature, rtol=1e-12)
