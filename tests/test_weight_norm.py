"""Weight normalization: `normalize_weights` against `w_yᵀΦ(x) / ν_y^τ (+ b_y)`, and the heads that it refuses."""

import keras
import numpy as np
import pytest
from helpers.corrected_models import CORRECTED, compiled_with
from helpers.posthoc_models import (
    COUNTS,
    GRAPHS,
    WIDTH,
    Subclassed,
    build,
    half,
    nested,
    numpy,
    randomize,
    reload,
    rows,
    sequential,
)
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
from keras import layers, ops
from reference import log_prior, softmax

import keras_logit_adjust as kla

HEADS = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
MILD_COUNTS = [5, 3, 2]  # a prior whose division float32 logits survive
WITHOUT_BIAS = {"softmax without bias", "softmax layer", "nested softmax", "branching", "conv3d without bias"}
TAU = np.array([0.5, 2.0, -1.0])
SOME_GRAPHS = ["sequential logits", "nested twice", "softmax layer", "branching", "low-rank head", "conv1d"]


def head_of(model):
    """The one layer of three classes."""
    (head,) = [layer for layer in model._flatten_layers() if isinstance(layer, HEADS) and layer.kernel.shape[-1] == 3]
    return head


def norms(layer):
    """`‖w_y‖₂`, class by class."""
    kernel = numpy(layer.kernel)
    return np.array([np.sqrt(sum(w * w for w in kernel[..., y].ravel())) for y in range(kernel.shape[-1])])


def logits_of(model, data, monkeypatch):
    """What the head computes before any activation, recorded while the model runs."""
    head, seen = head_of(model), []
    call = head.call

    def record(inputs, **options):
        seen.append(numpy(call(inputs, **options)))
        return ops.convert_to_tensor(seen[-1], dtype="float32")

    with monkeypatch.context() as patch:
        patch.setattr(head, "activation", keras.activations.linear)
        patch.setattr(head, "call", record)
        model(data)
    (logits,) = seen
    return logits


def by_hand(model, data, divisor, bias, monkeypatch):
    """`(f_y − b_y)/divisor_y (+ b_y)` of the model's logits f."""
    head = head_of(model)
    offset = numpy(head.bias) if head.use_bias else 0.0
    return (logits_of(model, data, monkeypatch) - offset) / divisor + (offset if bias == "keep" else 0.0)


def activated(logits, kind):
    return softmax(logits) if kind == "softmax" else logits


@pytest.mark.parametrize("bias", ["keep", "drop"])
@pytest.mark.parametrize("name", GRAPHS)
def test_logits_are_divided_by_a_power_of_the_norm_of_class_weights(name, bias, rng, monkeypatch):
    model, kind, data = build(name, rng)
    for tau in (1.0, TAU):
        expected = by_hand(model, data, norms(head_of(model)) ** tau, bias, monkeypatch)
        result = kla.normalize_weights(model, tau=tau, bias=bias)(data)
        np.testing.assert_allclose(numpy(result), activated(expected, kind), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("bias", ["keep", "drop"])
@pytest.mark.parametrize("name", SOME_GRAPHS)
def test_logits_are_divided_by_a_power_of_their_class_s_prior(name, bias, rng, monkeypatch):
    model, kind, data = build(name, rng)
    for tau in (1.0, TAU):
        expected = by_hand(model, data, (np.array(MILD_COUNTS) / 10) ** tau, bias, monkeypatch)
        result = kla.normalize_weights(model, tau=tau, by="prior", class_counts=MILD_COUNTS, bias=bias)(data)
        np.testing.assert_allclose(numpy(result), activated(expected, kind), rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_tau_of_one_makes_all_norms_one(name, rng):
    model, _, _ = build(name, rng)
    np.testing.assert_allclose(norms(head_of(kla.normalize_weights(model))), np.ones(3), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"by": "prior", "class_counts": COUNTS}], ids=["norm", "prior"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_tau_of_zero_with_the_bias_kept_is_the_model_itself(name, options, rng):
    model, _, data = build(name, rng)
    same = kla.normalize_weights(model, tau=0.0, **options)
    for weight, twin in zip(model.weights, same.weights, strict=True):
        np.testing.assert_array_equal(numpy(twin), numpy(weight))
    np.testing.assert_allclose(numpy(same(data)), numpy(model(data)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", ["keep", "drop"])
@pytest.mark.parametrize("name", GRAPHS)
def test_all_but_the_head_s_kernel_is_copied_and_a_dropped_bias_is_gone(name, bias, rng):
    model, _, data = build(name, rng)
    before = numpy(model(data)), [numpy(variable) for variable in model.variables]
    copy = kla.normalize_weights(model, bias=bias)
    assert head_of(copy).use_bias == (bias == "keep" and name not in WITHOUT_BIAS)
    assert len(copy.weights) == len(model.weights) - (bias == "drop" and name not in WITHOUT_BIAS)
    assert [(type(part), part.name) for part in copy._flatten_layers()] == [
        (type(part), part.name) for part in model._flatten_layers()
    ]
    twins = {weight.path: numpy(weight) for weight in copy.weights}
    changed = {head_of(model)._kernel.path, head_of(model).path + "/lora_kernel_b"}
    for weight in model.weights:
        if weight.path in twins and weight.path not in changed:
            np.testing.assert_array_equal(twins[weight.path], numpy(weight))
    assert not {id(variable) for variable in copy.variables} & {id(variable) for variable in model.variables}
    for weight in copy.weights:
        weight.assign(ops.zeros_like(ops.convert_to_tensor(weight)))
    np.testing.assert_array_equal(numpy(model(data)), before[0])
    for variable, value in zip(model.variables, before[1], strict=True):
        np.testing.assert_array_equal(numpy(variable), value)


@pytest.mark.parametrize("name", SOME_GRAPHS)
def test_a_saved_copy_predicts_bit_for_bit_what_it_did(name, rng, tmp_path):
    model, _, data = build(name, rng)
    copy = kla.normalize_weights(model, tau=TAU, bias="drop")
    loaded = reload(copy, tmp_path)
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), copy.predict(data, verbose=0))


@pytest.mark.parametrize("inside", [False, True])
def test_the_copy_of_a_compiled_model_is_not_compiled_and_of_its_kind(inside, rng, monkeypatch):
    model = compiled_with(lambda y_true, y_pred: ops.mean(y_pred - y_true, axis=-1), layers.Softmax())
    randomize(model, rng)
    data, outer = rows(rng, 5, WIDTH), sequential(model) if inside else model
    copy = kla.normalize_weights(outer)
    assert model.compiled
    assert not copy.compiled
    assert type(copy) is keras.Sequential
    expected = by_hand(outer, data, norms(head_of(model)), "keep", monkeypatch)
    np.testing.assert_allclose(numpy(copy(data)), softmax(expected), rtol=1e-5)


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "mixed_bfloat16"])
def test_a_head_in_half_precision_is_divided_in_float64_and_rounded_once(policy):
    model = half(policy, layers.Dense(2, dtype=policy))
    head = model.layers[-1]
    head.kernel.assign(np.array([[3.0, 1.0]] + [[4.0, 1.0]] + 3 * [[0.0, 1.0]]))
    result = kla.normalize_weights(model).layers[-1].kernel
    expected = np.array([[3 / 5, 1 / np.sqrt(5)]] + [[4 / 5, 1 / np.sqrt(5)]] + 3 * [[0.0, 1 / np.sqrt(5)]])
    rounded = keras.Variable(expected, dtype=head.kernel.dtype)
    np.testing.assert_array_equal(numpy(result), numpy(rounded))


def test_a_prior_is_also_taken_from_a_sampler_and_from_probabilities(rng):
    class Sampler:
        effective_prior = np.array([0.5, 0.3, 0.2])

    model, data = sequential(layers.Dense(3)), rows(rng, 5, WIDTH)
    expected = numpy(model(data)) / [0.5, 0.3, 0.2]
    for counts in (Sampler(), [0.5, 0.3, 0.2]):
        result = kla.normalize_weights(model, tau=1.0, by="prior", class_counts=counts)(data)
        np.testing.assert_allclose(numpy(result), expected, rtol=1e-5)


BAD = {
    "subclassed": (lambda: Subclassed(name="mine"), "Only the head of a Functional or Seq.*; 'mine' is subclassed"),
    "cosine head": (
        lambda: sequential(kla.layers.CosineDense(3), width=WIDTH),
        "divides the weights of a Dense or convolution head. .*a cosine head is normalized already",
    ),
    "no head": (
        lambda: keras.Sequential([keras.Input((3,)), layers.LayerNormalization()], name="mine"),
        "divides the weights of a Dense or convolution head. .*'mine'",
    ),
    "hidden head": (one_of_two_nested_outputs, "divides the weights of a Dense or convolution head"),
    "one unit": (lambda: plain("sigmoid", 1), "'head' has one unit: there are no class weights to compare"),
    "used twice": (used_twice, "'head' is used more than once.*Give `normalize_weights` a model whose head is its own"),
    "nested and used twice": (nested_used_twice, "'head' is used more than once.*a model whose head is its own"),
    "used inside and outside": (used_inside_and_outside, "'head' is used more than once.*whose head is its own"),
    "tied kernel": (lambda: tied("_kernel"), "'head' is tied: .*with layer 'first'.*whose head is its own"),
    "tied bias": (lambda: tied("bias"), "'head' is tied: .*with layer 'first'.*whose head is its own"),
    "quantized": (lambda: quantized(None), "'head' is quantized. Do this before quantizing"),
    "quantized softmax": (lambda: quantized("softmax"), "'head' is quantized. Do this before quantizing"),
    "several outputs": (lambda: with_outputs(2), "`model` must have one output. Model '.*' has 2"),
    "not built": (lambda: keras.Sequential([layers.Dense(3)]), "is not built.*`keras.Input`, or call it once"),
    "a layer": (lambda: layers.Dense(3), "`model` must be a `keras.Model`. Received: Dense"),
}


@pytest.mark.parametrize("options", [{}, {"by": "prior", "class_counts": COUNTS}], ids=["norm", "prior"])
@pytest.mark.parametrize("name", BAD)
def test_a_head_that_cannot_be_normalized_is_refused(name, options):
    create, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        kla.normalize_weights(create(), **options)


@pytest.mark.parametrize(
    ("zero", "named"), [([1], "class 1: train it first"), ([0, 2], "classes 0, 2: train it first")]
)
@pytest.mark.parametrize("make", [plain, lambda: nested(layers.Dense(3, name="head"))], ids=["plain", "nested"])
def test_class_weights_that_are_all_zero_are_named(make, zero, named):
    model = make()
    kernel = np.ones(head_of(model).kernel.shape)
    kernel[:, zero] = 0.0
    head_of(model).kernel.assign(kernel)
    with pytest.raises(ValueError, match=f"norm 0 cannot be normalized. Head 'head' has them at {named}"):
        kla.normalize_weights(model)
    kla.normalize_weights(model, by="prior", class_counts=COUNTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "prior"}, '`by="prior"` divides by the class prior: give `class_counts` too'),
        ({"by": "prior", "class_counts": [1, 2]}, "the head has 3 classes, `class_counts` has 2"),
        ({"by": "prior", "class_counts": [1, 2, 3, 4]}, "the head has 3 classes, `class_counts` has 4"),
        ({"by": "prior", "class_counts": [1, 0, 3]}, r"greater than zero.*\[0\.0\] at class 1.*smoothing=1"),
        ({"by": "prior", "class_counts": [1, np.nan, 3]}, r"must be finite. Received \[nan\] at class 1"),
        ({"by": "length"}, "`by` must be one of 'norm', 'prior'. Received: by='length'"),
        ({"bias": False}, "`bias` must be one of 'keep', 'drop'. Received: bias=False"),
        ({"bias": "zero"}, "`bias` must be one of 'keep', 'drop'. Received: bias='zero'"),
        ({"tau": np.nan}, "`tau` must be finite. Received: tau=nan"),
        ({"tau": [1.0, 2.0]}, r"`tau` must be a number or a vector of 3 numbers.*shape \(2,\)"),
        ({"tau": "high"}, "`tau` must be a number or one number for each class. Received: tau='high'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kla.normalize_weights(plain(), **options)


@pytest.mark.parametrize("name", CORRECTED)
def test_a_model_whose_prior_was_corrected_is_not_normalized_unless_asked(name, rng, monkeypatch):
    create, reason = CORRECTED[name]
    model, data = create(), rows(rng, 7, WIDTH)
    with pytest.raises(ValueError, match=f"corrected twice: .*{reason}.*allow_double_correction=True"):
        kla.normalize_weights(model)
    made = kla.normalize_weights(model, allow_double_correction=True)
    shift = log_prior(COUNTS) if name in ("layer", "adjusted") else 0.0
    expected = by_hand(model, data, norms(head_of(model)), "keep", monkeypatch) - shift
    (result,) = keras.tree.flatten(made(data))
    expected = activated(expected, "softmax" if name == "adjusted" else "logits")
    np.testing.assert_allclose(numpy(result), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.0),
        kla.losses.AdaptiveMarginCrossentropy(COUNTS),
        kla.losses.FocalCrossentropy(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
    ids=["tau is 0", "adaptive margin", "focal", "plain"],
)
def test_a_model_trained_with_a_loss_that_corrects_nothing_is_normalized(loss, rng, monkeypatch):
    model, data = compiled_with(loss), rows(rng, 7, WIDTH)
    expected = by_hand(model, data, norms(head_of(model)), "keep", monkeypatch)
    np.testing.assert_allclose(numpy(kla.normalize_weights(model)(data)), expected, rtol=1e-5, atol=1e-6)


def test_weights_that_are_not_finite_are_refused_naming_the_class():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False, name="head")])
    model.layers[0].set_weights([np.array([[1.0, np.nan, 2.0], [1.0, 1.0, 1.0]])])
    with pytest.raises(ValueError, match=r"Class weights that are not finite .*'head' has them at class 1: train it"):
        kla.normalize_weights(model)


def test_counts_that_the_norm_has_no_use_for_are_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r'`class_counts` go with `by="prior"`'):
        kla.normalize_weights(model, class_counts=[3, 2, 1])


@pytest.mark.parametrize("tau", [1e5, -1e5])
def test_a_tau_whose_power_leaves_float32_is_refused(tau):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"`tau` must leave prior \*\* tau within float32. Received: tau="):
        kla.normalize_weights(model, tau=tau, by="prior", class_counts=[3, 2, 1])
