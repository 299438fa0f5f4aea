"""Post-hoc adjustment refuses what it cannot do right: each message has the rule, what arrived, and the way out."""

import decimal

import keras
import numpy as np
import pytest
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, sequential
from helpers.refused_models import (
    nested_used_twice,
    one_of_two_nested_outputs,
    plain,
    quantized,
    tied,
    used_inside_and_outside,
    used_twice,
    with_outputs,
)
from keras import layers

import keras_logit_adjust as kla

MAKERS = [kla.adjust, kla.fold_into_bias]


BAD_COUNTS = {
    "negative": ([5, -1, 2], r"class_counts` must be greater than zero.*\[-1\.0\] at class 1.*smoothing=1"),
    "zero": ([5, 0, 0], r"class_counts` must be greater than zero.*at classes 1, 2.*smoothing=1"),
    "NaN": ([5, np.nan, 2], r"class_counts` must be finite. Received \[nan\] at class 1"),
    "infinite": ([np.inf, 1, 2], r"class_counts` must be finite. Received \[inf\] at class 0"),
    "too few": ([1, 2], r"one number for each class: the head has 3 classes, `class_counts` has 2"),
    "too many": ([1, 2, 3, 4], r"one number for each class: the head has 3 classes, `class_counts` has 4"),
    "a table": ([[1, 2, 3]], r"non-empty vector.*shape \(1, 3\).*count_classes"),
    "empty": ([], r"non-empty vector.*shape \(0,\).*count_classes"),
    "a number": (3, r"non-empty vector.*shape \(\).*count_classes"),
    "text": ("many", r"list or vector of numbers.*class_counts='many'"),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", BAD_COUNTS)
def test_class_counts_that_are_no_counts_of_the_classes_are_refused(name, make):
    counts, message = BAD_COUNTS[name]
    with pytest.raises(ValueError, match=message):
        make(plain(), counts)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("tau", "message"),
    [
        (np.nan, r"`tau` must be finite. Received: tau=nan"),
        ([1.0, np.inf, 1.0], r"`tau` must be finite. Received: tau=\[1\.0, inf, 1\.0\]"),
        ([1.0, 2.0], r"`tau` must be a number or a vector of 3 numbers.*shape \(2,\)"),
        ("high", r"`tau` must be a number or one number for each class. Received: tau='high'"),
    ],
)
def test_a_tau_that_is_no_strength_is_refused(tau, message, make):
    with pytest.raises(ValueError, match=message):
        make(plain(), COUNTS, tau=tau)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("target_prior", "message"),
    [
        ([0.5, 0.5], r"`target_prior` must have one number for each class: class_counts has 3.*`target_prior` has 2"),
        ([0.5, 0.5, 0.0], r"must be greater than zero.*\[0\.0\] at class 2"),
        ([0.5, np.nan, 0.5], r"must be finite. Received \[nan\] at class 1"),
    ],
)
def test_a_target_prior_that_is_no_prior_of_the_classes_is_refused(target_prior, message, make):
    with pytest.raises(ValueError, match=message):
        make(plain(), COUNTS, target_prior=target_prior)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("model", "counts", "options", "message"),
    [
        (
            plain("softmax"),
            COUNTS,
            {"num_examples": 100},
            "`num_examples` is for independent sigmoid labels; .*softmax",
        ),
        (plain("sigmoid"), COUNTS, {}, r"several labels needs `num_examples`.*log\(π/\(1−π\)\).*sum to one"),
        (
            plain("sigmoid"),
            COUNTS,
            {"num_examples": 50},
            r"strictly between 0 and num_examples=50.*\[90\.0\] at class 0",
        ),
        (plain("sigmoid"), COUNTS, {"num_examples": 0}, "number of training examples.*num_examples=0"),
        (plain("sigmoid"), COUNTS, {"num_examples": "all"}, "number of training examples.*num_examples='all'"),
        (plain("sigmoid"), [1, 2], {"num_examples": 9}, "the head has 3 classes, `class_counts` has 2"),
        (plain("sigmoid", 1), COUNTS, {}, "a head of one sigmoid unit has 2 classes, `class_counts` has 3"),
        (plain("sigmoid", 1), [7], {}, r"at least two classes. Received \[7\.0\].*\[negatives, positives\]"),
        (
            plain("sigmoid", 1),
            [7, 3],
            {"target_prior": [1, 2, 3]},
            "a head of one sigmoid unit has 2 classes, `target_prior` has 3",
        ),
    ],
)
def test_counts_of_labels_go_with_a_head_of_labels(model, counts, options, message, make):
    with pytest.raises(ValueError, match=message):
        make(model, counts, **options)


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (plain(), "probabilities", "`output` must be one of 'auto', 'logits'.* Received: output='probabilities'"),
        (plain("softmax"), "logits", "`output` says 'logits', but head 'head' gives 'softmax'"),
        (plain(), "sigmoid", "`output` says 'sigmoid', but head 'head' gives 'logits'"),
    ],
)
def test_an_output_that_is_unknown_or_not_the_model_s_is_refused(model, output, message):
    with pytest.raises(ValueError, match=message):
        kla.adjust(model, COUNTS, output=output)


class Doubled(layers.Dense):
    """What it gives is not its pre-activation."""

    def call(self, inputs):
        return 2 * super().call(inputs)


class Halved(keras.Sequential):
    """What it gives is not what its last layer gives."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) / 2


HEADLESS = {
    "normalized": (
        lambda: sequential(layers.Dense(3), layers.BatchNormalization(name="norm")),
        r"No head was found: the output comes from 'norm' \(BatchNorm.*output=\"logits\"",
    ),
    "pooled": (
        lambda: keras.Sequential([keras.Input((4, 2)), layers.Dense(3), layers.GlobalMaxPooling1D(name="pool")]),
        r"No head was found: the output comes from 'pool' .*output=\"logits\"",
    ),
    "an input": (
        lambda: sequential(layers.Identity()),
        r"No head was found: the output comes from .*\(InputLayer\).*output=\"logits\"",
    ),
    "a head that does more": (
        lambda: sequential(Doubled(3, name="double")),
        r"No head was found: the output comes from 'double' \(Doubled\).*output=\"logits\"",
    ),
    "unknown activation": (
        lambda: plain("tanh"),
        "activation of 'head' must be one of linear, softmax, sigmoid.* Received: tanh. .*LogitAdjustment",
    ),
    "own activation": (
        lambda: plain(lambda x: x),
        "activation of 'head' must be one of linear, softmax, sigmoid.* Received: <lambda>. .*LogitAdjustment",
    ),
    "two axes": (
        lambda: keras.Sequential([keras.Input((4, 2)), layers.Dense(3), layers.Softmax(axis=(1, 2), name="all")]),
        r"activation of 'all' must be applied to one axis. Received: softmax over \(1, 2\)",
    ),
    "two activations": (
        lambda: sequential(layers.Dense(3, "sigmoid", name="head"), layers.Softmax()),
        "two activations, the first of them in 'head'",
    ),
    "several outputs": (
        lambda: with_outputs(2),
        r"must have one output. Model '.*' has 2: adjust each.*LogitAdjustment",
    ),
    "a nested model of several outputs": (
        one_of_two_nested_outputs,
        r"No head was found: the output comes from .*\(Functional\).*output=\"logits\"",
    ),
    "not built": (lambda: keras.Sequential([layers.Dense(3)]), "is not built.*`keras.Input`, or call it once"),
    "subclassed": (lambda: Subclassed(name="mine"), "'mine' is a subclassed model.*output=\"logits\""),
    "a Sequential with its own call": (
        lambda: Halved([keras.Input((WIDTH,)), layers.Dense(3)], name="mine"),
        "'mine' is a subclassed model.*output=\"logits\"",
    ),
    "a layer": (lambda: layers.Dense(3), "`model` must be a `keras.Model`. Received: Dense"),
    "nothing": (lambda: None, "`model` must be a `keras.Model`. Received: NoneType"),
    "a model of another Keras": (
        lambda: type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})(),
        r"Received: tf_keras.src.engine.sequential.Sequential: a model of another Keras.*`import keras`",
    ),
    "a model of another package": (
        lambda: decimal.Decimal(1),
        r"`model` must be a `keras.Model`. Received: decimal.Decimal$",
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", HEADLESS)
def test_a_model_whose_logits_are_not_found_is_refused(name, make):
    create, message = HEADLESS[name]
    with pytest.raises(ValueError, match=message):
        make(create(), COUNTS)


def test_a_network_of_many_branches_without_a_head_is_refused_at_once():
    inputs = outputs = keras.Input((WIDTH,))
    for _ in range(60):
        outputs = layers.Add()([outputs, layers.ReLU()(outputs)])
    with pytest.raises(ValueError, match="No head was found"):
        kla.adjust(keras.Model(inputs, layers.ReLU()(outputs)), COUNTS)
    with pytest.raises(ValueError, match="No head was found"):
        kla.adjust(keras.Model(inputs, outputs), COUNTS)


UNFOLDABLE = {
    "used twice": (used_twice, "'head' is used more than once.*Use `kla.adjust`"),
    "nested and used twice": (nested_used_twice, "'head' is used more than once.*Use `kla.adjust`"),
    "used inside and outside": (used_inside_and_outside, "'head' is used more than once.*Use `kla.adjust`"),
    "tied kernel": (lambda: tied("_kernel"), "'head' is tied: .*with layer 'first'.*Use `kla.adjust`"),
    "tied bias": (lambda: tied("bias"), "'head' is tied: .*with layer 'first'.*Use `kla.adjust`"),
    **{
        policy: (
            lambda policy=policy: sequential(layers.Dense(3, dtype=policy, name="head"), width=3),
            rf"'head' adds its bias in {half}, .*dtype=\"float32\".*Use `kla.adjust`",
        )
        for policy, half in [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16"), ("bfloat16", "bfloat16")]
    },
}


@pytest.mark.parametrize("name", UNFOLDABLE)
def test_a_head_that_cannot_be_folded_is_refused_and_the_way_out_works(name):
    create, message = UNFOLDABLE[name]
    model = create()
    with pytest.raises(ValueError, match=message):
        kla.fold_into_bias(model, COUNTS)
    data = np.ones((2, 3), "float32")
    expected = np.asarray(keras.ops.convert_to_numpy(model(data)), "float64") - np.log(np.array(COUNTS) / 100)
    result = keras.ops.convert_to_numpy(kla.adjust(model, COUNTS)(data))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_quantized_head_is_not_folded(activation):
    with pytest.raises(ValueError, match="'head' is quantized. Do this before quantizing"):
        kla.fold_into_bias(quantized(activation), COUNTS)


def half_averages():
    """An average of two softmaxes in half precision: their logits cannot be had."""
    inputs = keras.Input((WIDTH,))
    heads = [layers.Dense(3, "softmax", dtype="bfloat16")(inputs) for _ in range(2)]
    return keras.Model(inputs, layers.Average(dtype="bfloat16")(heads))


@pytest.mark.parametrize("output", ["auto", "softmax"])
def test_half_precision_probabilities_are_not_adjusted_by_logarithms(output):
    with pytest.raises(ValueError, match='must be float32 or float64. Received a softmax in bfloat16.*dtype="float32"'):
        kla.adjust(half_averages(), COUNTS, output=output)


def test_half_precision_probabilities_of_a_subclass_are_refused():
    keras.config.set_dtype_policy("bfloat16")
    model = Subclassed(3, "softmax")
    adjusted = kla.adjust(model, COUNTS, output="softmax")
    with pytest.raises(ValueError, match="Received a softmax in bfloat16"):
        adjusted(np.ones((2, WIDTH), "float32"))


def trained_with(loss):
    model = plain()
    model.compile("sgd", loss)
    return model


def normalize_by_prior(model, class_counts, **options):
    return kla.normalize_weights(model, by="prior", class_counts=class_counts, **options)


@pytest.mark.parametrize("make", [*MAKERS, normalize_by_prior])
@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.PairwiseMarginCrossentropy.balanced(COUNTS),
        kla.losses.PairwiseMarginCrossentropy.fisher_consistent(COUNTS, delta=[1, 2, 3]),
        kla.losses.PairwiseMarginCrossentropy.logit_adjusted_adaptive(COUNTS),
        kla.losses.VectorScalingCrossentropy(COUNTS),
        kla.losses.ClassBalancedCrossentropy(COUNTS),
        kla.losses.EqualizedCrossentropy(COUNTS),
        kla.losses.EqualizedCrossentropy(COUNTS, form="prior"),
        kla.losses.FocalCrossentropy(class_weight=[1, 2, 3]),
        kla.losses.FocalCrossentropy(class_weight=[1.0, 1.01, 0.99], name="little"),
        kla.losses.VectorScalingCrossentropy(COUNTS, gamma=0.01, tau=0.0, name="scale"),
    ],
    ids=lambda loss: loss.name,
)
def test_a_model_trained_with_a_loss_that_treats_classes_unlike_is_refused(loss, make):
    message = f"corrected twice: .*adjusted loss {type(loss).__name__}. .*allow_double_correction=True"
    with pytest.raises(ValueError, match=message):
        make(trained_with(loss), class_counts=COUNTS)
    make(trained_with(loss), class_counts=COUNTS, allow_double_correction=True)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.AdaptiveMarginCrossentropy(COUNTS),
        kla.losses.FocalCrossentropy(),
        kla.losses.FocalCrossentropy(class_weight=[2, 2, 2]),
        kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.0),
        kla.losses.ClassBalancedCrossentropy(COUNTS, beta=0.0),
        kla.losses.VectorScalingCrossentropy(COUNTS, gamma=0.0, tau=0.0),
        kla.losses.PairwiseMarginCrossentropy.balanced([7, 7, 7]),
    ],
    ids=lambda loss: loss.name,
)
def test_a_model_trained_with_a_loss_that_treats_classes_alike_is_adjusted(loss, make):
    model, data = trained_with(loss), np.ones((2, WIDTH), "float32")
    expected = keras.ops.convert_to_numpy(model(data)) - np.log(np.array(COUNTS) / 100)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(make(model, COUNTS)(data)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("output", ["auto", "tanh", None])
def test_a_wrapped_model_names_what_it_gives(output):
    with pytest.raises(ValueError, match="`output` must be one of 'logits', 'softmax', 'sigmoid'"):
        kla.posthoc.AdjustedModel(sequential(layers.Dense(3)), kla.layers.LogitAdjustment(COUNTS), output=output)
