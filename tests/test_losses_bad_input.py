"""Bad input to the losses: every public argument, each with a message of rule, value and remedy."""

import keras
import numpy as np
import pytest

from keras_logit_adjust.layers import LogitAdjustment
from keras_logit_adjust.losses import (
    AdaptiveMarginCrossentropy,
    BinaryLogitAdjustedCrossentropy,
    ClassBalancedCrossentropy,
    EqualizedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    PairwiseMarginCrossentropy,
    VectorScalingCrossentropy,
    class_balanced_weights,
    logit_adjusted_crossentropy,
)
from keras_logit_adjust.priors import as_prior

COUNTS = [5, 3, 2]

# The second is for losses that need true counts, and so take no prior.
PSEUDO = r"class_counts=(kla\.priors\.prior\(class_counts, smoothing=1\)|np\.maximum\(class_counts, 1\))\.$"
BAD_COUNTS = {
    "negative": ([5, -3, 2], rf"greater than zero.*\[-3\.0\] at class 1\. Remedy: .*{PSEUDO}"),
    "zero": ([5, 0, 0], rf"greater than zero.*\[0\.0\] at classes 1, 2\. Remedy: .*{PSEUDO}"),
    "nan": ([5, np.nan, 2], r"must be finite.*\[nan\] at class 1"),
    "infinite": ([np.inf, 3, 2], r"must be finite.*\[inf\] at class 0"),
    "2-D": ([[5, 3], [2, 1]], r"vector.*shape \(2, 2\): count labels with `kla.priors.count_classes"),
    "scalar": (5, r"vector.*shape \(\)"),
    "empty": ([], r"non-empty vector.*shape \(0,\)"),
    "single": ([5], r"at least two classes.*\[5\.0\]: .*\[negatives, positives\]"),
    "dict": ({1: 5, 0: 3}, r"in order of class id. Received a dict with the keys \[1, 0\]: give \["),
    "words": (["cat", "dog"], r"list or vector of numbers.*\['cat', 'dog'\]"),
    "digits in strings": (["5", "3"], r"list or vector of numbers.*\['5', '3'\]"),
    "ragged": ([[5], [3, 2]], r"list or vector of numbers"),
    "none": (None, r"`class_counts`"),
}
BAD_TAU = {
    "nan": (np.nan, "`tau` must be finite.*nan"),
    "infinite": ([1, np.inf, 1], r"`tau` must be finite.*\[1\.0, inf, 1\.0\]"),
    "short": ([1, 2], r"`tau`.*vector of 3 numbers.*\(2,\)"),
    "2-D": ([[1, 2, 3]], r"`tau`.*vector of 3 numbers.*\(1, 3\)"),
    "string": ("1.0", "`tau` must be a number.*'1.0'"),
    "none": (None, "`tau`"),
}
BAD_OPTIONS = {
    "smoothing of one": ({"label_smoothing": 1.0}, r"`label_smoothing`.*\[0, 1\).*1\.0"),
    "smoothing below": ({"label_smoothing": -0.1}, r"`label_smoothing`.*\[0, 1\).*-0\.1"),
    "smoothing nan": ({"label_smoothing": np.nan}, r"`label_smoothing`.*\[0, 1\).*nan"),
    "smoothing string": ({"label_smoothing": "0.1"}, r"`label_smoothing`.*\[0, 1\).*'0\.1'"),
    "ignored float": ({"ignore_class": 1.5}, "`ignore_class` must be an integer class id or None.*1.5"),
    "ignored bool": ({"ignore_class": True}, "`ignore_class` must be an integer class id or None.*True"),
    "ignored string": ({"ignore_class": "1"}, "`ignore_class` must be an integer class id or None.*'1'"),
    "ignored too large": ({"ignore_class": 2**31}, "`ignore_class` must be an id that an int32 holds.*2147483648"),
    "dtype": ({"dtype": "float32"}, r"takes no `dtype`: it computes in float32.*dtype='float32'\. Leave it out"),
    "reduction": ({"reduction": "average"}, "(?s)`reduction`.*sum_over_batch_size.*average"),
}
BAD_POSITIVES = {
    "all positive": ([5, 10], 10, r"strictly between 0 and num_examples=10.*\[10\.0\] at class 1\. Remedy"),
    "never positive": ([5, 0], 10, r"strictly between 0 and num_examples=10.*\[0\.0\] at class 1\. Remedy"),
    "negative": ([-5, 3], 10, r"strictly between 0 and num_examples=10.*\[-5\.0\] at class 0"),
    "nan": ([np.nan, 3], 10, r"`positive_counts` must be finite.*class 0"),
    "2-D": ([[5, 3]], 10, r"`positive_counts`.*vector.*\(1, 2\)"),
    "probabilities": ([0.3, 0.7], 10, "numbers of examples, not probabilities.*multiply them by num_examples=10"),
    "no examples": ([5, 3], 0, "`num_examples` must be the number of training examples.*0"),
    "nan examples": ([5, 3], np.nan, "`num_examples` must be.*nan"),
    "infinite examples": ([5, 3], np.inf, "`num_examples` must be.*inf"),
    "string examples": ([5, 3], "10", "`num_examples` must be.*'10'"),
}


def cases(table):
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


@cases(BAD_COUNTS)
def test_bad_class_counts_are_refused(case):
    counts, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(counts)


@cases(BAD_TAU)
def test_a_bad_tau_is_refused(case):
    tau, match = case
    for build in (
        lambda: LogitAdjustedCrossentropy(COUNTS, tau=tau),
        lambda: BinaryLogitAdjustedCrossentropy(COUNTS, 10, tau=tau),
        lambda: logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 3)), [-1.0, -1.0, -1.0], tau=tau),
    ):
        with pytest.raises(ValueError, match=match):
            build()


@cases(BAD_OPTIONS)
def test_bad_options_are_refused(case):
    options, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(COUNTS, **options)
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(COUNTS, 10, **options)
    if not {"reduction", "dtype"} & set(options):
        with pytest.raises(ValueError, match=match):
            logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 3)), [-1.0, -1.0, -1.0], **options)


@cases(BAD_POSITIVES)
def test_bad_positive_counts_are_refused(case):
    positives, num_examples, match = case
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(positives, num_examples)


@pytest.mark.parametrize("log_prior", [[-np.inf, 0.0], [np.nan, -1.0], [[-1.0, -1.0]], [], "a", ["-1", "-1"]], ids=str)
def test_a_bad_log_prior_is_refused(log_prior):
    with pytest.raises(ValueError, match="`log_prior` must be"):
        logit_adjusted_crossentropy(np.array([0]), np.zeros((1, 2)), log_prior)


BAD_SHAPES = {
    "rank too low": ((4,), (4, 2, 3), r"`y_true` must be class ids of shape \(4, 2\).*Received shape \(4,\)"),
    "rank too high": ((4, 3, 1), (4, 3), r"`y_true` must be class ids of shape \(4,\).*Received shape \(4, 3, 1\)"),
    "one-hot too wide": ((4, 5), (4, 3), r"one-hot rows of shape \(4, 3\).*Received shape \(4, 5\)"),
    "ids of other batch": ((5,), (4, 3), r"must agree in every dimension but the last.*\(5,\).*\(4,\)"),
    "ids that would broadcast": ((1,), (4, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
    "rows of other batch": ((1, 3), (4, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
    "maps of other size": ((4, 3, 2, 1), (4, 2, 3, 3), "must agree in every dimension but the last"),
    "too few logits": ((4,), (4, 2), r"`y_pred` must have one column for each class.*3 classes.*\(4, 2\)"),
    "channels first": ((4, 2, 5), (4, 3, 2, 5), r"classes in its last axis.*\(4, 3, 2, 5\) .* in axis 1: .*moveaxis"),
    "no logits": ((), (), r"`y_pred` must have a last dimension of 3.*\(\)"),
}


@cases(BAD_SHAPES)
def test_labels_and_logits_of_shapes_that_do_not_fit_are_refused(case):
    labels, logits, match = case
    for loss in (LogitAdjustedCrossentropy(COUNTS), LogitAdjustedCrossentropy(COUNTS, reduction=None)):
        with pytest.raises(ValueError, match=match):
            loss(np.zeros(labels, "int32"), np.zeros(logits, "float32"))


BINARY_SHAPES = {
    "ids": ((4,), r"`y_true` must have the shape of `y_pred`, \(4, 3\).*\(4,\)\. For class ids use `Logit"),
    "other width": ((4, 2), r"`y_true` must have the shape of `y_pred`, \(4, 3\).*\(4, 2\)"),
    "other batch": ((5, 3), r"must agree in every dimension but the last.*\(5,\).*\(4,\)"),
    "batch that would broadcast": ((1, 3), r"must agree in every dimension but the last.*\(1,\).*\(4,\)"),
}


@cases(BINARY_SHAPES)
def test_binary_targets_of_shapes_that_do_not_fit_are_refused(case):
    labels, match = case
    with pytest.raises(ValueError, match=match):
        BinaryLogitAdjustedCrossentropy(COUNTS, 10)(np.zeros(labels), np.zeros((4, 3), "float32"))


def test_an_ignored_class_among_one_hot_labels_is_refused():
    with pytest.raises(ValueError, match="`ignore_class` goes with class ids.*one-hot.*weight of 0"):
        LogitAdjustedCrossentropy(COUNTS, ignore_class=0)(np.eye(3), np.zeros((3, 3)))


WEIGHTS = {
    "other batch": ((3,), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(3, 1\)"),
    "aligned to the right": ((2,), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(2, 1\)"),
    "other steps": ((4, 3), r"`sample_weight` must have the leading shape of the labels, \(4, 2\).*\(4, 3\)"),
    "a weight a class": ((4, 2, 3), r"`sample_weight` must not have more axes.*which have 2.*\(4, 2, 3\)"),
}


@cases(WEIGHTS)
def test_weights_that_do_not_fit_are_refused(case):
    shape, match = case
    with pytest.raises(ValueError, match=match):
        LogitAdjustedCrossentropy(COUNTS)(np.zeros((4, 2), "int32"), np.zeros((4, 2, 3)), np.ones(shape))


def test_a_name_alone_does_not_make_a_loss_that_needs_counts():
    config = {"class_name": "keras_logit_adjust>LogitAdjustedCrossentropy", "config": {"class_counts": COUNTS}}
    assert keras.losses.get(config).get_config()["class_counts"] == COUNTS
    with pytest.raises(ValueError, match="logit_adjusted_crossentropy"):
        keras.losses.get("logit_adjusted_crossentropy")


FAMILY = {
    "pairwise": PairwiseMarginCrossentropy,
    "balanced": PairwiseMarginCrossentropy.balanced,
    "consistent": lambda counts, **options: PairwiseMarginCrossentropy.fisher_consistent(
        counts, delta=[1, 1, 1], **options
    ),
    "adjusted and adaptive": PairwiseMarginCrossentropy.logit_adjusted_adaptive,
    "adaptive": AdaptiveMarginCrossentropy,
    "equalized": EqualizedCrossentropy,
    "vector-scaling": VectorScalingCrossentropy,
    "class-balanced": ClassBalancedCrossentropy,
}
each_member = pytest.mark.parametrize("build", FAMILY.values(), ids=FAMILY.keys())


@cases(BAD_COUNTS)
@each_member
def test_bad_class_counts_are_refused_by_the_whole_family(build, case):
    counts, match = case
    with pytest.raises(ValueError, match=match):
        build(counts)


@cases(BAD_OPTIONS)
@pytest.mark.parametrize("build", [*FAMILY.values(), lambda counts, **options: FocalCrossentropy(**options)])
def test_bad_options_are_refused_by_the_whole_family(build, case):
    options, match = case
    with pytest.raises(ValueError, match=match):
        build(COUNTS, **options)


@cases(BAD_TAU)
@pytest.mark.parametrize("build", [FAMILY["vector-scaling"], FAMILY["adjusted and adaptive"]])
def test_a_bad_tau_is_refused_by_the_family(build, case):
    tau, match = case
    with pytest.raises(ValueError, match=match):
        build(COUNTS, tau=tau)


BAD_VECTORS = {
    "short": ([1, 2], r"`{0}` must have one number for each class: class_counts has 3 classes, `{0}` has 2"),
    "scalar": (2.0, r"`{0}`.*one number for each class.*shape \(\)"),
    "table": ([[1, 2, 3]], r"`{0}`.*one number for each class.*shape \(1, 3\)"),
    "nan": ([1, np.nan, 3], r"`{0}` must be finite.*\[nan\] at class 1"),
    "infinite": ([1, 2, np.inf], r"`{0}` must be finite.*\[inf\] at class 2"),
    "strings": (["1", "2", "3"], r"`{0}` must be a list or vector of numbers.*'1'"),
}
NOT_POSITIVE = {
    "zero": ([1, 0, 0], r"`{0}` must be greater than zero.*\[0\.0\] at classes 1, 2"),
    "negative": ([1, 2, -3], r"`{0}` must be greater than zero.*\[-3\.0\] at class 2"),
}


@cases(BAD_VECTORS)
@pytest.mark.parametrize("name", ["class_weight", "label_margin", "rival_margin", "logit_scale"])
def test_bad_vectors_of_the_family_are_refused(name, case):
    vector, match = case
    with pytest.raises(ValueError, match=match.format(name)):
        PairwiseMarginCrossentropy(COUNTS, **{name: vector})


@cases(NOT_POSITIVE)
@pytest.mark.parametrize("name", ["class_weight", "logit_scale"])
def test_weights_and_scales_that_are_not_positive_are_refused(name, case):
    vector, match = case
    with pytest.raises(ValueError, match=match.format(name)):
        PairwiseMarginCrossentropy(COUNTS, **{name: vector})


@cases({**BAD_VECTORS, **NOT_POSITIVE})
def test_a_bad_delta_is_refused(case):
    delta, match = case
    with pytest.raises(ValueError, match=match.format("delta")):
        PairwiseMarginCrossentropy.fisher_consistent(COUNTS, delta=delta)


@cases({key: case for key, case in {**BAD_VECTORS, **NOT_POSITIVE}.items() if key != "short"})
def test_bad_weights_of_focal_loss_are_refused(case):
    weight, match = case
    with pytest.raises(ValueError, match=match.format("class_weight")):
        FocalCrossentropy(class_weight=weight)


NO_NUMBER = [np.nan, np.inf, "1", True, None, [1.0]]


@pytest.mark.parametrize("gamma", [-0.5, *NO_NUMBER], ids=str)
def test_a_bad_gamma_is_refused(gamma):
    for build in (FocalCrossentropy, FAMILY["vector-scaling"]):
        with pytest.raises(ValueError, match="`gamma` must be a number of at least 0.*Received: gamma="):
            build(**({} if build is FocalCrossentropy else {"class_counts": COUNTS}), gamma=gamma)


@pytest.mark.parametrize("max_margin", [-1.0, *NO_NUMBER], ids=str)
def test_a_bad_margin_is_refused(max_margin):
    builds = [FAMILY["adaptive"], FAMILY["adjusted and adaptive"]]
    for build in builds[:1] if max_margin is None else builds:  # None is the paper's margin in the second
        with pytest.raises(ValueError, match="`max_margin` must be a number of at least 0.*Received: max_margin="):
            build(COUNTS, max_margin=max_margin)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, np.nan, "0.9", True, None], ids=str)
def test_a_beta_outside_0_and_1_is_refused(beta):
    for build in (class_balanced_weights, ClassBalancedCrossentropy):
        with pytest.raises(ValueError, match=r"`beta` must be a number in \[0, 1\)\. Received: beta="):
            build(COUNTS, beta=beta)


@pytest.mark.parametrize("build", [class_balanced_weights, ClassBalancedCrossentropy])
def test_probabilities_have_no_effective_number_of_examples(build):
    with pytest.raises(ValueError, match="numbers of examples here, not probabilities.*sum to 1: multiply them by"):
        build([0.5, 0.3, 0.2])


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan, "0.1", True], ids=str)
def test_a_threshold_that_is_no_prior_is_refused(threshold):
    with pytest.raises(ValueError, match="`threshold` must be.*at most 1.*Received: threshold="):
        EqualizedCrossentropy(COUNTS, threshold=threshold)


@pytest.mark.parametrize("gamma", [-0.1, 1.0, np.nan, "0.5"], ids=str)
def test_a_share_of_rivals_left_out_must_leave_some(gamma):
    with pytest.raises(ValueError, match=r"`gamma` must be a number in \[0, 1\)\. Received: gamma="):
        EqualizedCrossentropy(COUNTS, gamma=gamma)


@pytest.mark.parametrize("form", ["Threshold", "", None, 3], ids=str)
def test_an_unknown_form_is_refused_with_those_that_exist(form):
    with pytest.raises(ValueError, match="`form` must be one of 'threshold', 'prior'. Received: form="):
        EqualizedCrossentropy(COUNTS, form=form)


@cases(BAD_SHAPES)
@each_member
def test_labels_and_logits_that_do_not_fit_are_refused_by_the_family(build, case):
    labels, logits, match = case
    with pytest.raises(ValueError, match=match):
        build(COUNTS)(np.zeros(labels, "int32"), np.zeros(logits, "float32"))


def test_an_ignored_class_among_one_hot_labels_is_refused_by_the_family():
    for loss in (PairwiseMarginCrossentropy(COUNTS, ignore_class=0), FocalCrossentropy(ignore_class=0)):
        with pytest.raises(ValueError, match="`ignore_class` goes with class ids.*one-hot.*weight of 0"):
            loss(np.eye(3), np.zeros((3, 3)))


def test_focal_loss_says_what_it_has_weights_for():
    with pytest.raises(ValueError, match=r"`y_pred` of shape \(4, 2\) has 2 classes, `class_weight` has 3"):
        FocalCrossentropy(class_weight=[1, 2, 3])(np.zeros(4, "int32"), np.zeros((4, 2), "float32"))


@pytest.mark.parametrize("shape", [(4, 1), ()], ids=str)
def test_focal_loss_refuses_logits_of_fewer_than_two_classes(shape):
    with pytest.raises(ValueError, match=r"`y_pred` must be logits \[..., L\] of at least two classes.*Received shape"):
        FocalCrossentropy()(np.zeros(shape[:1], "int32"), np.zeros(shape, "float32"))


@pytest.mark.parametrize("argument", ["class_weight", "label_margin", "rival_margin", "logit_scale"])
@pytest.mark.parametrize("member", [AdaptiveMarginCrossentropy, EqualizedCrossentropy, VectorScalingCrossentropy])
def test_a_named_member_takes_no_vector_that_its_config_would_lose(member, argument):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
        member(COUNTS, **{argument: [1, 2, 3]})


@pytest.mark.parametrize("member", [AdaptiveMarginCrossentropy, EqualizedCrossentropy, VectorScalingCrossentropy])
def test_a_consistent_member_is_the_same_whichever_class_it_is_asked_of(member):
    expected = PairwiseMarginCrossentropy.balanced(COUNTS).get_config()
    assert member.balanced(COUNTS).get_config() == expected


LOSSES = [
    LogitAdjustedCrossentropy(COUNTS),
    PairwiseMarginCrossentropy(COUNTS),
    FocalCrossentropy(),
    BinaryLogitAdjustedCrossentropy(COUNTS, 20),
]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX's tensors do not tell where they come from")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_probabilities_are_refused_where_keras_made_them(loss, activation):
    message = (
        f"'{loss.name}' takes logits. Received the output of a softmax or sigmoid.*no activation on the last layer"
    )
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation)])
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((3, 4)), np.eye(3), verbose=0)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX's tensors do not tell where they come from")
def test_the_layer_refuses_probabilities_too():
    layers = [keras.layers.Dense(3, "softmax"), LogitAdjustment(COUNTS, name="mine")]
    with pytest.raises(ValueError, match="Layer 'mine' takes logits"):
        keras.Sequential([keras.Input((4,)), *layers]).predict(np.ones((3, 4)), verbose=0)


@pytest.mark.parametrize(
    "make",
    [
        AdaptiveMarginCrossentropy,
        EqualizedCrossentropy,
        PairwiseMarginCrossentropy,
        PairwiseMarginCrossentropy.logit_adjusted_adaptive,
        VectorScalingCrossentropy,
        LogitAdjustedCrossentropy,
    ],
)
def test_a_prior_of_independent_labels_is_refused_by_losses_of_classes(make):
    labels = as_prior(COUNTS, num_examples=20)
    with pytest.raises(ValueError, match="`class_counts` must be of exclusive classes here.*independent labels"):
        make(labels)
