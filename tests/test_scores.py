"""`kla.adjust_scores`: arrays, tables and tensors of any kind of score, equal to float64 arithmetic."""

import keras
import numpy as np
import pytest
from helpers.tables import DataFrame, Series
from reference import log_odds, log_prior, sigmoid, softmax

import keras_logit_adjust as kla
from keras_logit_adjust._checks import ArgumentError

COUNTS = [90, 9, 1]
TARGET = [0.2, 0.3, 0.5]
KINDS = ("probabilities", "logits", "log_probabilities")


def scores_of(logits, kind):
    """Scores of a kind that say the same as `logits` do."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return {"logits": logits, "probabilities": probabilities, "log_probabilities": np.log(probabilities)}[kind]


def expected(logits, shift, kind):
    """`logits − shift` as scores of a kind, row by row."""
    if kind == "logits":
        return logits - shift
    found = np.apply_along_axis(softmax, -1, logits - shift)
    return np.log(found) if kind == "log_probabilities" else found


@pytest.fixture
def logits(rng):
    return rng.normal(0, 3, (7, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, [1.0, 2.0, -1.0]])
@pytest.mark.parametrize("target", [None, TARGET])
def test_scores_of_every_kind_are_those_of_float64_arithmetic(kind, tau, target, logits):
    found = kla.adjust_scores(scores_of(logits, kind), COUNTS, kind=kind, tau=tau, target_prior=target)
    shift = np.array(tau) * log_prior(COUNTS) - (0 if target is None else log_prior(target))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(logits, shift, kind), rtol=1e-12, atol=1e-13)


def test_scores_are_probabilities_where_no_kind_is_named(logits):
    p = scores_of(logits, "probabilities")
    np.testing.assert_array_equal(
        kla.adjust_scores(p, COUNTS), kla.adjust_scores(p, COUNTS, kind="probabilities", tau=1)
    )


def test_scores_are_adjusted_as_a_model_that_gives_them(logits):
    """The array and the graph: one formula."""
    inputs = keras.Input((3,))
    model = kla.adjust(keras.Model(inputs, keras.layers.Softmax()(inputs)), COUNTS, tau=0.7, target_prior=TARGET)
    x = logits.astype("float32")
    p = scores_of(x.astype("float64"), "probabilities")
    found = kla.adjust_scores(p, COUNTS, tau=0.7, target_prior=TARGET)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), atol=1e-6)


def test_the_adjustment_is_undone_by_the_same_function(logits):
    p = scores_of(logits, "probabilities")
    balanced = kla.adjust_scores(p, COUNTS)
    back = kla.adjust_scores(balanced, [1, 1, 1], target_prior=COUNTS)
    np.testing.assert_allclose(back, p, rtol=1e-12)


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_a_probability_of_0_stays_0_and_one_of_1_stays_1(kind):
    p = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1e-320, 1.0, 0.0]])
    with np.errstate(divide="ignore"):
        found = kla.adjust_scores(p if kind == "probabilities" else np.log(p), COUNTS, kind=kind)
    found = found if kind == "probabilities" else np.exp(found)
    assert (found[:, 2] == 0).all() and found[1].tolist() == [1, 0, 0]
    np.testing.assert_allclose(found[0], [1 / 11, 10 / 11, 0], rtol=1e-12)
    assert found[2, 0] > 0


def test_a_logit_of_minus_infinity_stays():
    found = kla.adjust_scores([[0.0, 1.0, -np.inf]], COUNTS, kind="logits")
    np.testing.assert_allclose(found, [[-np.log(0.9), 1 - np.log(0.09), -np.inf]], rtol=1e-12)


def test_leading_axes_are_kept(logits):
    p = scores_of(logits[:6], "probabilities")
    found = kla.adjust_scores(p.reshape(2, 3, 3), COUNTS)
    assert found.shape == (2, 3, 3)
    np.testing.assert_array_equal(found.reshape(6, 3), kla.adjust_scores(p, COUNTS))


# --- The second of two classes, and independent labels ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_one_score_of_two_classes_is_that_of_the_second(kind, shape, logits):
    odds = logits[:, 0]
    pairs = np.stack([np.zeros(7), odds], axis=1)
    given = odds if kind == "logits" else scores_of(pairs, kind)[:, 1]
    found = kla.adjust_scores(given.reshape(shape), [90, 10], kind=kind, tau=0.5, target_prior=[1, 3])
    shift = 0.5 * log_prior([90, 10]) - log_prior([1, 3])
    both = expected(pairs, shift, kind)
    assert found.shape == shape
    np.testing.assert_allclose(found.ravel(), both[:, 1] - both[:, 0] if kind == "logits" else both[:, 1], rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_independent_labels_are_adjusted_by_their_log_odds(kind, logits):
    p = sigmoid(logits)
    given = {"logits": logits, "probabilities": p, "log_probabilities": np.log(p)}[kind]
    found = kla.adjust_scores(given, [50, 20, 99], kind=kind, tau=2, target_prior=[0.5, 0.1, 0.2], num_examples=100)
    moved = logits - 2 * log_odds([50, 20, 99], 100) + log_odds([0.5, 0.1, 0.2], 1)
    right = {"logits": moved, "probabilities": sigmoid(moved), "log_probabilities": np.log(sigmoid(moved))}[kind]
    np.testing.assert_allclose(found, right, rtol=1e-11)


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_a_label_that_is_certain_stays_certain(kind):
    with np.errstate(divide="ignore"):
        given = np.array([[0.0, 1.0]]) if kind == "probabilities" else np.log([[0.0, 1.0]])
    found = kla.adjust_scores(given, [5, 5], kind=kind, num_examples=100)
    np.testing.assert_array_equal(found if kind == "probabilities" else np.exp(found), [[0.0, 1.0]])


# --- What comes in comes back ----------------------------------------------------------------------------------------


def test_a_frame_comes_back_with_its_index_and_columns(logits):
    p = scores_of(logits, "probabilities")
    frame = DataFrame(p, [f"row {i}" for i in range(7)], ["ant", "bee", "cat"])
    found = kla.adjust_scores(frame, dict(zip(frame.columns, COUNTS, strict=True)))
    assert isinstance(found, DataFrame)
    assert found.index.tolist() == frame.index.tolist() and found.columns.tolist() == ["ant", "bee", "cat"]
    np.testing.assert_array_equal(found.values, kla.adjust_scores(p, COUNTS))
    np.testing.assert_array_equal(frame.values, p)  # the one given is as it was


@pytest.mark.parametrize("names", [["bee", "cat", "ant"], [2, 0, 1]])
@pytest.mark.parametrize("form", ["dict", "Series"])
def test_counts_by_name_are_put_in_order_of_the_columns(names, form, logits):
    p = scores_of(logits, "probabilities")
    frame = DataFrame(p, np.arange(7), names)

    def by_name(values):
        pairs = sorted(zip(names, values, strict=True))
        return dict(pairs) if form == "dict" else Series([value for _, value in pairs], [name for name, _ in pairs])

    found = kla.adjust_scores(frame, by_name(COUNTS), target_prior=by_name(TARGET))
    right = kla.adjust_scores(p, COUNTS, target_prior=TARGET)
    np.testing.assert_array_equal(found.values, right)
    found = kla.adjust_scores(p, by_name(COUNTS), target_prior=by_name(TARGET), class_names=names)
    np.testing.assert_array_equal(found, right)


def test_a_series_of_the_second_class_comes_back_as_one():
    found = kla.adjust_scores(Series([0.1, 0.5], ["a", "b"], "p"), [90, 10])
    assert isinstance(found, Series) and (found.index.tolist(), found.name) == (["a", "b"], "p")
    np.testing.assert_allclose(found.values, [0.5, 0.9], rtol=1e-12)
    frame = kla.adjust_scores(DataFrame([[0.1], [0.5]], ["a", "b"], ["p"]), [90, 10])
    np.testing.assert_allclose(frame.values, [[0.5], [0.9]], rtol=1e-12)


FRAMEWORKS = {"tensorflow": "convert_to_tensor", "jax.numpy": "asarray", "torch": "tensor"}


@pytest.mark.parametrize("library", FRAMEWORKS)
def test_a_tensor_of_any_library_comes_back_as_its_own(library, logits):
    p = scores_of(logits, "probabilities").astype("float32")
    module = pytest.importorskip(library, reason=f"{library} is not in every environment")
    tensor = getattr(module, FRAMEWORKS[library])(p)
    found = kla.adjust_scores(tensor, COUNTS)
    assert type(found) is type(tensor) and found.dtype == tensor.dtype
    np.testing.assert_allclose(np.asarray(found), kla.adjust_scores(p.astype("float64"), COUNTS), atol=1e-6)


def test_a_variable_gives_a_tensor_and_a_list_an_array():
    p = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    found = kla.adjust_scores(keras.Variable(p), COUNTS)
    assert keras.ops.is_tensor(found)
    right = kla.adjust_scores(p, COUNTS)
    assert isinstance(right, np.ndarray) and right.dtype == np.float64
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), right, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "comes_back"), [("float32", "float32"), ("int8", "float64"), (">f8", "float64")])
def test_the_precision_is_that_of_the_scores(dtype, comes_back):
    found = kla.adjust_scores(np.eye(3, dtype=dtype), COUNTS)
    assert found.dtype == comes_back and found.tolist() == np.eye(3).tolist()


def test_float32_scores_are_adjusted_in_float64(logits):
    """One rounding, at the end: as near as float32 can be."""
    given = logits.astype("float32")
    found = kla.adjust_scores(given, [10**9, 3, 1], kind="logits")
    right = given.astype("float64") - log_prior([10**9, 3, 1])
    np.testing.assert_array_equal(found, right.astype("float32"))


# --- Bad input -------------------------------------------------------------------------------------------------------

GOOD = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
BAD = {
    "halves": (np.array(GOOD, "float16"), {}, "`scores` must be float32 or float64. Received float16"),
    "bfloat16": (keras.ops.cast(GOOD, "bfloat16"), {"kind": "logits"}, "Received bfloat16"),
    "NaN": ([GOOD[0], [0.5, np.nan, 0.5]], {}, r"must not be NaN. Received nan in row 1 \(1 of 2 rows\)"),
    "negative": ([GOOD[0], [1.5, -0.25, -0.25]], {}, r"between 0 and 1. Received 1.5 in row 1.*kind=\"logits\""),
    "logits": ([[2.0, -1.0, 0.5]], {}, r'between 0 and 1. Received 2 in row 0 \(1 of 1 rows\): .*kind="logits"'),
    "rows that do not sum to 1": ([GOOD[0], [0.9, 0.9, 0.0]], {}, r"sum to 1.* Received 1.8 in row 1.*`num_examples`"),
    "a row of zeros": ([GOOD[0], [0, 0, 0]], {}, r"a class that is possible. Received only zeros in row 1 \(1 of 2"),
    "an impossible row": ([[-np.inf] * 3], {"kind": "logits"}, "Received only -inf in row 0"),
    "probabilities as logits": (GOOD, {"kind": "logits"}, 'must be logits where kind="logits". Received probabil'),
    "infinite logits": ([[np.inf, 0, 0]], {"kind": "logits"}, "No logit in `scores` may be infinite. Received inf"),
    "positive logarithms": ([[2.0, -1, -1]], {"kind": "log_probabilities"}, 'at most 0. Received 2 .*kind="logits"'),
    "logarithms of no distribution": ([[-1.0, -1, -1]], {"kind": "log_probabilities"}, "sum to 1.*Received 1.10364"),
    "another width": ([[0.5, 0.5]], {}, r"must have shape \[N, 3\], N ≥ 1: .*`class_counts`. Received shape \(1, 2\)"),
    "one column": ([0.5, 0.5], {}, r"Received shape \(2,\); a single column is the score of the second of two"),
    "nothing": (np.zeros((0, 3)), {}, r"must have shape \[N, 3\].*Received shape \(0, 3\)"),
    "a number": (0.5, {}, r"must have shape \[N, 3\].*Received shape \(\)"),
    "text": ([["a", "b", "c"]], {}, "`scores` must be an array, table or tensor of numbers"),
    "an unknown kind": (GOOD, {"kind": "softmax"}, "`kind` must be one of 'probabilities', 'logits', 'log_prob"),
    "no tau": (GOOD, {"tau": None}, "`tau` must be"),
    "another target": (GOOD, {"target_prior": [1, 1]}, "`target_prior` must have one number for each class"),
    "labels as logits": (GOOD, {"kind": "logits", "num_examples": 100}, "which look like probabilities"),
    "labels above 1": ([[2.0, 0, 0]], {"num_examples": 100}, "between 0 and 1. Received 2"),
    "names of others": (GOOD, {"class_names": ["a"]}, "`class_counts` must have one number for each class"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scores_are_refused_with_a_rule_and_a_remedy(name):
    scores, options, message = BAD[name]
    with pytest.raises(ArgumentError, match=message):
        kla.adjust_scores(scores, COUNTS, **options)


def test_one_row_of_logits_may_look_like_probabilities():
    found = kla.adjust_scores(GOOD[:1], COUNTS, kind="logits")
    np.testing.assert_allclose(found, np.array(GOOD[:1]) - log_prior(COUNTS), rtol=1e-12)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_frames_are_refused_where_counts_name_other_classes(kind):
    frame = DataFrame(GOOD, [0, 1], ["ant", "bee", "cat"])
    with pytest.raises(ArgumentError, match=r"must name every class.*missing: \['cat'\], of no class: \['dog'\]"):
        kla.adjust_scores(frame, {"ant": 5, "bee": 3, "dog": 1}, kind=kind)


@pytest.mark.parametrize("columns", [[2, 0, 1], ["2", "0", "1"]])
def test_ids_as_columns_in_another_order_need_counts_that_name_them(columns):
    frame, by_name = DataFrame(GOOD, [0, 1], columns), dict(zip(columns, [1, 90, 9], strict=True))
    right = kla.adjust_scores(GOOD, [1, 90, 9])
    np.testing.assert_array_equal(np.asarray(kla.adjust_scores(frame, by_name)), right)
    np.testing.assert_array_equal(np.asarray(kla.adjust_scores(frame, Series([1, 90, 9], columns))), right)
    for options in (
        {"class_counts": COUNTS},
        {"class_counts": np.array(COUNTS)},
        {"class_counts": by_name, "target_prior": COUNTS},
    ):
        with pytest.raises(ArgumentError, match=r"must name its classes.*beside columns \['2', '0', '1'\]"):
            kla.adjust_scores(frame, **options)


# --- Frames name their scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["cat", "ant", "bee"], np.array(["ant", "cat", "bee"])])
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_names_in_another_order_than_the_columns_are_refused(names, kind):
    frame, counts = DataFrame(GOOD, [0, 1], ["ant", "bee", "cat"]), dict(zip(names, COUNTS, strict=True))
    rule = r"`class_names` must be the columns of `scores`.*Received \[.*\] beside columns \['ant', 'bee', 'cat'\]"
    with pytest.raises(
        ArgumentError, match=rf"{rule}: leave `class_names` out. .*dict\(zip\(class_names, class_counts"
    ):
        kla.adjust_scores(frame, COUNTS if kind == "list" else counts, class_names=names)
    # Both remedies give what the counts say.
    right = kla.adjust_scores(GOOD, [counts[name] for name in ("ant", "bee", "cat")])
    np.testing.assert_array_equal(np.asarray(kla.adjust_scores(frame, counts)), right)


def test_names_of_other_classes_than_the_columns_are_refused():
    frame = DataFrame(GOOD, [0, 1], ["ant", "bee", "cat"])
    with pytest.raises(ArgumentError, match=r"must be the columns.*'Cat'.*scores.set_axis\(class_names, axis=1\)"):
        kla.adjust_scores(frame, COUNTS, class_names=["ant", "bee", "Cat"])
    # Columns of class ids in another order are names, too.
    with pytest.raises(ArgumentError, match=r"must be the columns.*beside columns \[2, 0, 1\]"):
        kla.adjust_scores(DataFrame(GOOD, [0, 1], [2, 0, 1]), COUNTS, class_names=["ant", "bee", "cat"])


@pytest.mark.parametrize("columns", [["ant", "bee", "cat"], [0, 1, 2], ["0", "1", "2"]])
def test_names_may_repeat_those_of_the_columns_or_name_numbered_ones(columns):
    frame, by_name = DataFrame(GOOD, [0, 1], columns), {"cat": 1, "ant": 90, "bee": 9}
    found = kla.adjust_scores(frame, by_name, class_names=["ant", "bee", "cat"])
    np.testing.assert_array_equal(np.asarray(found), kla.adjust_scores(GOOD, COUNTS))


@pytest.mark.parametrize("argument", ["class_counts", "target_prior", "tau"])
def test_a_column_of_counts_without_names_is_refused_for_named_columns(argument):
    frame, series = DataFrame(GOOD, [0, 1], ["ant", "bee", "cat"]), Series([0.2, 0.3, 0.5], [0, 1, 2])
    with pytest.raises(ArgumentError, match=rf"`{argument}` must name its classes in its index.*set_index\("):
        kla.adjust_scores(frame, **{"class_counts": {"ant": 90, "bee": 9, "cat": 1}, argument: series})


@pytest.mark.parametrize("argument", ["class_counts", "target_prior", "tau"])
@pytest.mark.parametrize("form", [tuple, np.array, keras.ops.convert_to_tensor, kla.priors.as_prior])
def test_numbers_without_names_are_refused_beside_named_columns(argument, form):
    frame, by_name = DataFrame(GOOD, [0, 1], ["cat", "ant", "bee"]), {"ant": 0.5, "bee": 0.3, "cat": 0.2}
    if argument == "tau" and form is kla.priors.as_prior:
        form = list  # no prior is a strength
    given = {"class_counts": by_name, argument: form(list(by_name.values()))}
    rule = rf"`{argument}` must name its classes.*beside columns \['cat', 'ant', 'bee'\]"
    numbers = rf"{argument}\.counts" if form is kla.priors.as_prior else argument  # a prior has no iterator
    with pytest.raises(ArgumentError, match=rf"{rule}: give dict\(zip\(names, {numbers}\)\)"):
        kla.adjust_scores(frame, **given)
    found = kla.adjust_scores(frame, **{"class_counts": by_name, argument: by_name})
    columns = [by_name[name] for name in frame.columns]
    right = kla.adjust_scores(GOOD, **{"class_counts": columns, argument: columns})
    np.testing.assert_array_equal(np.asarray(found), right)


def test_tau_by_name_is_put_in_order_of_the_columns():
    frame = DataFrame(GOOD, [0, 1], ["cat", "ant", "bee"])
    by_name = dict(zip(frame.columns, COUNTS, strict=True))
    found = kla.adjust_scores(frame, by_name, tau=Series([1.0, 2.0, 0.5], ["ant", "bee", "cat"]))
    np.testing.assert_array_equal(np.asarray(found), kla.adjust_scores(GOOD, COUNTS, tau=[0.5, 1.0, 2.0]))


def test_a_column_of_text_is_named():
    cells = np.array([["a", 0.5, 0.25, 0.25], ["b", 0.1, 0.2, 0.7]], object)
    frame = DataFrame(cells, [0, 1], ["image", "ant", "bee", "cat"])
    with pytest.raises(
        ArgumentError, match=r"Received text, 'a', in column 'image'.*set_index\('image'\).*index_col=0"
    ):
        kla.adjust_scores(frame, COUNTS)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_percentages_are_refused_with_their_remedy(kind):
    percentages = np.array([[30.0, 30.0, 40.0], [90.0, 5.0, 5.0]])
    with pytest.raises(ArgumentError, match="(?i)divide (percentages|them) by 100"):
        kla.adjust_scores(percentages, COUNTS, kind=kind)
    found, p = kla.adjust_scores(percentages / 100, COUNTS), percentages / COUNTS
    np.testing.assert_allclose(found, p / p.sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("num_examples", [None, 100])
def test_a_target_prior_of_the_other_kind_of_labels_is_refused(num_examples):
    other = kla.priors.as_prior([30, 5, 10], 100 if num_examples is None else None)
    with pytest.raises(ArgumentError, match="`target_prior` must be of .* here. Received a Prior of"):
        kla.adjust_scores([[0.2, 0.3, 0.5]], COUNTS, num_examples=num_examples, target_prior=other)
