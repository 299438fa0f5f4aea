"""Messages about a target prior, a prior of labels, predicted ids and decisions: what they propose works."""

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import COUNTS, WIDTH, rows, sequential, with_loss
from reference import log_prior, softmax

import keras_logit_adjust as kla

EVEN = np.full((1, 3), 1 / 3)
TAKE_A_MIX = {
    "adjust": lambda mix: kla.adjust(with_loss(None), COUNTS, target_prior=mix),
    "fold": lambda mix: kla.fold_into_bias(with_loss(None), COUNTS, target_prior=mix),
    "scores": lambda mix: kla.adjust_scores(EVEN, COUNTS, target_prior=mix),
    "layer": lambda mix: kla.layers.LogitAdjustment(COUNTS).set(target_prior=mix),
}


@pytest.mark.parametrize("name", TAKE_A_MIX)
def test_a_mix_without_a_class_gets_a_small_share_of_it(name):
    remedy = r"give them a small share in place of 0, such as 1e-6: the class is then hardly ever predicted\.$"
    with pytest.raises(ValueError, match=remedy):
        TAKE_A_MIX[name]([0.5, 0.5, 0.0])
    TAKE_A_MIX[name]([0.5, 0.5, 1e-6])
    with pytest.raises(ValueError, match=r"target_prior=kla\.priors\.prior\(target_prior, smoothing=1\)"):
        TAKE_A_MIX[name]([50, 50, 0])
    TAKE_A_MIX[name](kla.priors.prior([50, 50, 0], smoothing=1))


def test_a_class_of_a_small_share_needs_scores_that_are_almost_certain():
    scores = [[0.01, 0.01, 0.98], [1e-9, 1e-9, 1 - 2e-9]]
    found = kla.adjust_scores(scores, [1, 1, 1], target_prior=[0.5, 0.5, 1e-6])
    assert found.argmax(axis=-1).tolist() == [0, 2]
    with pytest.raises(ValueError, match="in place of 0 give a small number, such as 1e-6"):
        kla.adjust_scores(scores, COUNTS, num_examples=100, target_prior=[0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"or give them a small share in place of 0, such as 1e-6\.$"):
        kla.metrics.BalancedAccuracy(3, class_prior=[0.5, 0.5, 0.0])


POSITIVES, N = np.array([0, 30, 500]), 600
TAKE_LABELS = {
    "loss": kla.losses.BinaryLogitAdjustedCrossentropy,
    "log-odds": kla.priors.log_odds,
    "metric": kla.metrics.PropensityScoredPrecision,
    "report": lambda counts, num_examples=None: kla.callbacks.LongTailReport(
        counts, num_examples=num_examples, threshold=0, metric="per_label_balanced_accuracy"
    ),
}


def test_a_smoothed_prior_of_labels_knows_its_number_of_examples():
    prior = kla.priors.as_prior(POSITIVES, N, smoothing=1)
    logits, targets = np.zeros((1, 3), "float32"), np.array([[0, 1, 0]])
    loss = kla.losses.BinaryLogitAdjustedCrossentropy(prior)
    share = (POSITIVES + 1) / (N + 2)
    expected = -np.log(np.where(targets == 1, share, 1 - share)).mean()
    for made in (loss, type(loss).from_config(loss.get_config())):
        assert float(made(targets, logits)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(kla.priors.log_odds(prior), np.log(share / (1 - share)), rtol=1e-12)
    metric, given = (kla.metrics.PropensityScoredPrecision(*args) for args in ([prior], [POSITIVES + 1, N + 2]))
    np.testing.assert_allclose(metric.propensities, given.propensities, rtol=1e-12)


@pytest.mark.parametrize("name", TAKE_LABELS)
def test_a_prior_and_a_number_of_examples_do_not_lead_in_a_circle(name):
    make, prior = TAKE_LABELS[name], kla.priors.as_prior(POSITIVES, N, smoothing=1)
    make(prior)
    make(prior, N + 2)
    with pytest.raises(ValueError, match=r"must be that of the prior, 602\.0.*num_examples=600.*Leave it out"):
        make(prior, N)
    exclusive = kla.priors.as_prior(POSITIVES, smoothing=1)
    anew = r"ma[dk]e.*kla\.priors\.as_prior\(positive_counts, num_examples, …\)\.$"
    with pytest.raises(ValueError, match=anew):
        make(exclusive, N)
    if name != "report":  # which takes both kinds
        with pytest.raises(ValueError, match=anew):
            make(exclusive)
        with pytest.raises(ValueError, match="`num_examples` must be"):
            make(POSITIVES + 1)
    with pytest.raises(ValueError, match=r"Received a Prior of independent.*without.*as_prior\(class_counts, …\)\.$"):
        kla.losses.LogitAdjustedCrossentropy(prior)


METRICS = [
    kla.metrics.BalancedAccuracy(4),
    kla.metrics.PerClassAccuracy(4),
    kla.metrics.WorstClassAccuracy(4),
    kla.metrics.PerClassPrecision(4),
    kla.metrics.MacroF1(4),
    kla.metrics.GroupAccuracy([9, 3, 2, 1]),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_predicted_ids_are_told_to_be_scores(metric):
    ids = np.arange(6) % 4
    scores, rule = (
        np.eye(4)[ids],
        r"scores of shape \[\.\.\., 4\].*Received shape {}: give scores, not predicted ids\.{}$",
    )
    unit = " Scores of one sigmoid unit.* go with num_classes=2 and `threshold`.*"
    for y, y_pred, shape, more in (
        (ids, ids, r"\(6,\)", unit),
        (scores, ids.astype("float32"), r"\(6,\)", unit),
        (ids, ids[:, None], r"\(6, 1\)", unit),
        (ids.reshape(2, 3), ids.reshape(2, 3), r"\(2, 3\)", ""),
    ):
        with pytest.raises(ValueError, match=rule.format(shape, more)):
            metric.update_state(y, y_pred)
    metric.update_state(ids, scores)


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        (np.eye(3)[np.arange(9) % 3], {}),
        (np.where(np.eye(3)[np.arange(9) % 3], 0.0, -np.inf), {"kind": "log_probabilities"}),
        (np.eye(3)[np.arange(9) % 3], {"num_examples": 100}),
        (np.arange(9.0) % 2, {"class_counts": [9, 1]}),
    ],
    ids=["classes", "logarithms", "labels", "one column"],
)
def test_decisions_come_back_as_they_are_with_a_warning(scores, options):
    options = {"class_counts": COUNTS, **options}
    with pytest.warns(UserWarning, match="decisions, which no prior can adjust.*give the scores"):
        assert kla.adjust_scores(scores, **options).tolist() == scores.tolist()
    kla.adjust_scores(scores[:8], **options)  # so few may be certain by chance


@pytest.mark.parametrize("in_layer", [True, False], ids=["in the layer", "behind it"])
def test_the_output_of_a_log_softmax_is_adjusted_as_logits(in_layer, rng):
    if in_layer:
        model = sequential(keras.layers.Dense(3, "log_softmax"))
    else:
        inputs = keras.Input((WIDTH,))
        model = keras.Model(inputs, keras.ops.log_softmax(keras.layers.Dense(3)(inputs)))
    for correct in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(ValueError, match='No head was found.*probabilities, say so to kla.adjust: output="logits"'):
            correct(model, COUNTS)
    data = rows(rng, 4, WIDTH)
    ours = as_float64(kla.adjust(model, COUNTS, output="logits")(data))
    expected = softmax(as_float64(model(data)) - log_prior(COUNTS))
    np.testing.assert_allclose(softmax(ours), expected, rtol=1e-5)


def test_a_column_that_is_no_class_is_left_out(rng):
    pandas = pytest.importorskip("pandas", reason="the table is of pandas")
    scores = pandas.DataFrame(rng.dirichlet(np.ones(3), 4), columns=["a", "b", "c"])
    counts = dict(zip("abc", COUNTS, strict=True))
    with pytest.raises(ValueError, match=r"missing: \['id'\].*no classes, such as a column of ids, leave them out\."):
        kla.adjust_scores(scores.assign(id=range(4)), counts)
    assert kla.adjust_scores(scores, counts).shape == (4, 3)


def test_a_target_alone_is_added_to_adjusted_labels_as_the_message_says(rng):
    model, data = sequential(keras.layers.Dense(3, "sigmoid")), rows(rng, 4, WIDTH)
    adjusted = kla.adjust(model, COUNTS, num_examples=sum(COUNTS))
    with pytest.raises(
        ValueError, match=r"corrected twice.*kla.adjust\(model, \[1, 1, …\].*num_examples=2 for independent"
    ):
        kla.adjust(adjusted, COUNTS, num_examples=sum(COUNTS))
    target = np.array([0.1, 0.5, 0.7])
    served = as_float64(kla.adjust(adjusted, [1, 1, 1], num_examples=2, target_prior=target)(data))
    before = as_float64(adjusted(data))
    expected = np.log(before / (1 - before)) + np.log(target / (1 - target))
    np.testing.assert_allclose(np.log(served / (1 - served)), expected, rtol=1e-4)
