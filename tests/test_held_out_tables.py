"""Tables of held-out logits: what their columns and rows are called decides, or the table is refused."""

import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust._checks import ArgumentError

pd = pytest.importorskip("pandas", reason="the tables are of pandas")

COUNTS = [900, 90, 10]
NAMES = ["ant", "bee", "cat"]
MIXED = ["cat", "ant", "bee"]
BY_NAME = dict(zip(MIXED, [10, 900, 90], strict=True))
DRAWN = np.random.default_rng(0)
Y = np.repeat([0, 1, 2], [30, 20, 10])
LOGITS = 2 * DRAWN.normal(size=(60, 3)) + 3 * np.eye(3)[Y] + np.log(COUNTS)
ON = np.eye(3, dtype=int)[Y]

# (labels, logits, counts) → the numbers of the result
OF_COUNTS = {
    "TauPath": lambda y, z, counts: kla.TauPath(y, z, counts).high,
    "tune_tau": lambda y, z, counts: kla.tune_tau(z, y, counts, folds=2).tau,
    "tune_offsets": lambda y, z, counts: kla.tune_offsets(z, y, counts, bags=1).offsets,
    "target prior": lambda y, z, counts: kla.estimate_target_prior(z, counts, replicates=2).prior,
    "sets": lambda y, z, counts: kla.held_out.PredictionSets(z, y, counts).sets(z),
}
OF_PRIOR = {
    "calibrate": lambda y, z, counts: kla.calibrate(z, y, class_prior=counts).temperature,
    "source prior": lambda y, z, counts: kla.held_out.estimate_source_prior(z, y, class_prior=counts).prior,
}
OF_LABELS = {
    "bbse": lambda y, z: kla.estimate_target_prior(LOGITS, COUNTS, method="bbse", validation=(z, y), replicates=2),
    "evaluate": lambda y, z: kla.held_out.PredictionSets(LOGITS, Y, COUNTS).evaluate(z, y, replicates=2),
    "batches": lambda y, z: kla.TauPath.from_batches([(y, z)], COUNTS),
    "features": lambda y, z: kla.TauPath.from_features([(y, z)], COUNTS, kernel=np.eye(3)),
    "probe": lambda y, z: kla.held_out.fit_linear_probe(z, y, folds=2, penalties=[1.0], scalings=["none"]),
    "error": lambda y, z: kla.held_out.calibration_error(np.exp(z).div(np.exp(z).sum(axis=1), axis=0), y),
    "loss": lambda y, z: kla.losses.LogitAdjustedCrossentropy(COUNTS)(y, z),
    "metric": lambda y, z: kla.metrics.BalancedAccuracy(3)(y, z),
    "labels": lambda y, z: kla.metrics.MultiLabelBalancedAccuracy(3, threshold=0)(pd.get_dummies(y), z),
}


@pytest.mark.parametrize("taker", [*OF_COUNTS, *OF_PRIOR])
def test_counts_by_name_go_to_the_columns_of_that_name(taker):
    take = {**OF_COUNTS, **OF_PRIOR}[taker]
    expected = take(Y, LOGITS, COUNTS)
    table = pd.DataFrame(LOGITS, columns=NAMES)
    for counts in (BY_NAME, pd.Series(BY_NAME)):
        np.testing.assert_allclose(take(Y, table, counts), expected, rtol=1e-12)
    for columns in (range(3), ["0", "1", "2"]):
        np.testing.assert_allclose(take(Y, pd.DataFrame(LOGITS, columns=columns), COUNTS), expected, rtol=1e-12)


@pytest.mark.parametrize("taker", [*OF_COUNTS, *OF_PRIOR])
def test_numbers_without_names_beside_named_columns_are_refused(taker):
    take = {**OF_COUNTS, **OF_PRIOR}[taker]
    with pytest.raises(ArgumentError, match=r"must name its classes if the columns of `logits`.*dict\(zip\(names"):
        take(Y, pd.DataFrame(LOGITS, columns=NAMES), COUNTS)


@pytest.mark.parametrize("taker", [*OF_COUNTS, *OF_PRIOR])
def test_columns_that_are_ids_in_another_order_are_refused(taker):
    take = {**OF_COUNTS, **OF_PRIOR}[taker]
    for columns in ([0, 2, 1], ["0", "2", "1"]):
        logits = pd.DataFrame(LOGITS[:, [0, 2, 1]], columns=columns)
        with pytest.raises(ArgumentError, match="that are class ids must be in order") as refused:
            take(Y, logits, COUNTS)
        remedy = str(refused.value).split("give ")[1].rstrip(".")
        found = take(Y, eval(remedy, {"logits": logits}), COUNTS)
        np.testing.assert_allclose(found, take(Y, LOGITS, COUNTS), rtol=1e-12)


def test_later_tables_must_have_the_columns_of_the_first():
    table = pd.DataFrame(LOGITS, columns=NAMES)
    sets = kla.held_out.PredictionSets(table, Y, BY_NAME)
    np.testing.assert_array_equal(sets.sets(table), sets.sets(LOGITS))
    for take in (
        sets.sets,
        lambda z: sets.evaluate(z, Y),
        lambda z: kla.TauPath.from_batches([(Y, z)], COUNTS),
        lambda z: kla.estimate_target_prior(table, BY_NAME, method="bbse", validation=(z, Y)),
    ):
        with pytest.raises(ArgumentError, match=r"in order of the classes.*\[class_names\]\.to_numpy"):
            take(table[MIXED])


def test_named_labels_are_led_to_ids_in_the_order_of_the_columns():
    table, named = pd.DataFrame(LOGITS, columns=NAMES), np.array(NAMES)[Y]
    for take in OF_COUNTS.values():
        if take is not OF_COUNTS["target prior"]:
            with pytest.raises(ArgumentError, match=r"ids = {name: i[\s\S]*class_names = list\(logits.columns\)\."):
                take(named, table, BY_NAME)


@pytest.mark.filterwarnings("ignore:The confusion matrix")
@pytest.mark.parametrize("taker", [*sorted(OF_COUNTS.keys() - {"target prior"}), *OF_PRIOR, *OF_LABELS])
def test_rows_with_the_same_labels_in_another_order_are_refused(taker):
    takers = {name: lambda y, z, take=take: take(y, z, COUNTS) for name, take in {**OF_COUNTS, **OF_PRIOR}.items()}
    take = {**takers, **OF_LABELS}[taker]
    logits, y = pd.DataFrame(LOGITS), pd.Series(Y).sample(frac=1, random_state=0)
    with pytest.raises(ArgumentError, match=r"same order, because they go together by place.*\.loc\[.*\.index\]"):
        take(y, logits)
    take(y.loc[logits.index], logits)
    take(y.loc[logits.index].set_axis(range(100, 160)), logits)  # other labels say nothing


def test_columns_of_labels_and_logits_in_two_orders_are_refused():
    logits, on = pd.DataFrame(LOGITS, columns=NAMES), pd.DataFrame(ON, columns=NAMES)
    path = kla.TauPath(on, logits, BY_NAME, num_examples=1000)
    np.testing.assert_array_equal(path.high, kla.TauPath(ON, LOGITS, COUNTS, num_examples=1000).high)
    with pytest.raises(ArgumentError, match=r"must have their columns in the same order.*y_true\[logits.columns\]"):
        kla.TauPath(on[MIXED], logits, BY_NAME, num_examples=1000)


def test_ids_in_a_dict_go_to_columns_that_are_ids_in_another_order():
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])
    table = pd.DataFrame(shares[:, [0, 2, 1]], columns=["0", "2", "1"])
    expected = kla.adjust_scores(shares, COUNTS)
    for counts in (dict(enumerate(COUNTS)), pd.Series(COUNTS)):
        np.testing.assert_array_equal(kla.adjust_scores(table, counts)[["0", "1", "2"]], expected)


ESTIMATES = {
    "source prior": lambda z: kla.held_out.estimate_source_prior(z, Y),
    "target prior": lambda z: kla.estimate_target_prior(z, BY_NAME, replicates=2),
}


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_an_estimate_knows_the_names_of_its_columns(estimate):
    table = pd.DataFrame(LOGITS, columns=NAMES)
    found = ESTIMATES[estimate](table)
    assert found.class_names == NAMES
    direct = kla.adjust_scores(table, found, kind="logits")
    np.testing.assert_allclose(direct, kla.adjust_scores(LOGITS, found.effective_prior, kind="logits"), rtol=1e-6)
    moved = table[MIXED]
    with pytest.raises(ArgumentError, match=r"`class_counts` must name its classes.*of \['ant', 'bee', 'cat'\] beside"):
        kla.adjust_scores(moved, found, kind="logits")
    by_name = dict(zip(found.class_names, found.effective_prior, strict=True))
    np.testing.assert_allclose(kla.adjust_scores(moved, by_name, kind="logits")[NAMES], direct, rtol=1e-6)


def test_estimates_and_samplers_without_names_are_refused_beside_names():
    table = pd.DataFrame(LOGITS, columns=NAMES)
    unnamed = kla.held_out.estimate_source_prior(LOGITS, Y)
    assert unnamed.class_names is None
    for given in (unnamed, kla.data.LongTailSampler(Y, 6, strategy="balanced", seed=0)):
        rule = r"names.*without names beside.*dict\(zip\(names, class_counts\.effective_prior\)\)"
        with pytest.raises(ArgumentError, match=rule):
            kla.adjust_scores(table, given, kind="logits")
        kla.adjust_scores(LOGITS, given, kind="logits")
