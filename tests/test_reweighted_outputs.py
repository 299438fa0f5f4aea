"""`DeferredReweighting` of models with several outputs, and weights with a mean of one over the training examples."""

import keras
import numpy as np
import pytest
import reference

import keras_logit_adjust as kla

COUNTS = [80, 15, 5]
WEIGHTS = np.array([0.5, 2.0, 4.0])
IDS, OTHER = np.array([0, 1, 2, 0]), np.array([1, 0, 1, 1])
GRAPH = {"jit_compile": keras.backend.backend() == "jax"}


def two_heads(first, second, names=("kind", "color"), **compiled):
    """Two biases, of three and of two classes, that see no input."""
    inputs = keras.Input((1,))
    heads = [keras.layers.Dense(units, name=name)(inputs) for units, name in zip((3, 2), names, strict=True)]
    model = keras.Model(inputs, dict(zip(names, heads, strict=True)) if compiled.pop("as_dict", False) else heads)
    model.compile(keras.optimizers.SGD(1.0), [first, second] if second is not None else first, **GRAPH, **compiled)
    return model


def train(model, stages, epochs=1, **options):
    y = {"kind": IDS, "color": OTHER} if isinstance(model.output, dict) else [IDS, OTHER]
    callback = kla.callbacks.DeferredReweighting(stages, **options)
    model.fit(np.zeros((4, 1)), y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])
    return [keras.ops.convert_to_numpy(model.get_layer(name).bias) for name in ("kind", "color")]


def gradients(ids, weights):
    """The slope of each example's weighted cross-entropy by a bias of 0."""
    rows, bias = np.eye(len(weights))[ids], np.zeros(len(weights))
    return np.array([reference.focal_crossentropy(row, bias, 0.0, weights)[1] for row in rows])


def step(ids, weights):
    """The bias after one step of SGD from 0 on the weighted cross-entropy, divided by the number of examples."""
    return -gradients(ids, weights).mean(axis=0)


def focal():
    return kla.losses.FocalCrossentropy(gamma=0.0)


@pytest.mark.parametrize(
    "form", ["dict", *(pytest.param(form, marks=pytest.mark.slow) for form in ("list", "outputs in a dict"))]
)
def test_weights_named_for_an_output_are_its_own_alone(form):
    losses = {"list": (focal(), focal()), "dict": ({"kind": focal(), "color": focal()}, None)}
    model = two_heads(*losses.get(form, losses["dict"]), as_dict=form == "outputs in a dict")
    kind, color = train(model, {0: {"kind": WEIGHTS}})
    np.testing.assert_allclose(kind, step(IDS, WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(color, step(OTHER, np.ones(2)), rtol=1e-5)


def test_every_output_may_have_weights_of_its_own_and_stages_change_them():
    model = two_heads(focal(), focal())
    kind, color = train(model, {0: None, 1: {"kind": WEIGHTS, "color": [3.0, 1.0]}, 2: {"color": [1.0, 1.0]}}, epochs=1)
    np.testing.assert_allclose(kind, step(IDS, np.ones(3)), rtol=1e-5)
    np.testing.assert_allclose(color, step(OTHER, np.ones(2)), rtol=1e-5)
    kind, color = train(two_heads(focal(), focal()), {0: {"kind": WEIGHTS, "color": [3.0, 1.0]}})
    np.testing.assert_allclose(kind, step(IDS, WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(color, step(OTHER, np.array([3.0, 1.0])), rtol=1e-5)


LATE = 9  # an epoch that the training does not reach: what is wrong must show before
FAULTS = {
    "of another width": (
        lambda: two_heads(focal(), focal()),
        {LATE: WEIGHTS},
        r"output 'color' has 2 classes, `weights` has 3. Name the outputs of the weights: \{epoch: \{'color'",
    ),
    "of a loss that knows its classes": (
        lambda: two_heads(kla.losses.AdaptiveMarginCrossentropy(COUNTS), focal()),
        {LATE: [1.0, 2.0]},
        "loss 'adaptive_margin_crossentropy' has 3 classes, `weights` has 2. Name the outputs",
    ),
    "one loss for all outputs": (
        lambda: two_heads(focal(), None),
        {LATE: WEIGHTS},
        "output 'color' has 2 classes, `weights` has 3. Name the outputs",
    ),
    "named, of another width": (
        lambda: two_heads(focal(), focal()),
        {LATE: {"color": WEIGHTS}},
        r"output 'color' has 2 classes, `weights` has 3\.$",
    ),
    "of no output": (
        lambda: two_heads(focal(), focal()),
        {LATE: {"colour": [1.0, 2.0]}},
        "compiled with a loss of `kla.losses`: 'kind', 'color'. Received weights for 'colour'",
    ),
    "of an output of Keras's loss": (
        lambda: two_heads(focal(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        {LATE: {"color": [1.0, 2.0]}},
        "compiled with a loss of `kla.losses`: 'kind'. Received weights for 'color'",
    ),
    "of a shared loss": (
        lambda: two_heads(focal(), None),
        {LATE: {"kind": WEIGHTS}},
        "Outputs 'kind' and 'color' share one: compile the model with a new loss for each",
    ),
}


@pytest.mark.parametrize("case", FAULTS.values(), ids=FAULTS.keys())
def test_weights_that_fit_no_output_are_refused_as_fit_begins(case):
    make, stages, message = case
    callback = kla.callbacks.DeferredReweighting(stages)
    callback.set_model(make())
    with pytest.raises(ValueError, match=message):
        callback.on_train_begin()


@pytest.mark.parametrize("weights", [{}, {0: 1.0, 1: 2.0}, {"kind": [1.0, -1.0]}, {"kind": 2.0}], ids=str)
def test_weights_by_output_are_named_vectors(weights):
    with pytest.raises(ValueError, match="names of outputs|`weights` must be "):
        kla.callbacks.DeferredReweighting({1: weights})


def test_with_class_counts_weights_have_a_training_mean_of_one():
    stages = {1: None, 2: {"kind": WEIGHTS, "color": [3.0, 1.0]}}
    named = kla.callbacks.DeferredReweighting(stages, class_counts={"kind": COUNTS, "color": [1, 3]}).weights_at(2)
    np.testing.assert_allclose(named["kind"], WEIGHTS / (0.8 * 0.5 + 0.15 * 2.0 + 0.05 * 4.0), rtol=1e-14)
    np.testing.assert_allclose(named["color"], np.array([3.0, 1.0]) / (0.25 * 3 + 0.75), rtol=1e-14)
    callback = kla.callbacks.DeferredReweighting({0: WEIGHTS, 1: None}, class_counts=COUNTS)
    np.testing.assert_allclose(callback.weights_at(0), WEIGHTS / 0.9, rtol=1e-14)
    assert callback.weights_at(1) is None
    with pytest.raises(ValueError, match="the weights has 3 classes, `class_counts` has 2"):
        kla.callbacks.DeferredReweighting({0: WEIGHTS}, class_counts=[1, 3])
    with pytest.raises(ValueError, match="must name every output that has weights.*without 'color'"):
        kla.callbacks.DeferredReweighting(stages, class_counts={"kind": COUNTS})
    with pytest.raises(ValueError, match="`class_counts` must be in order of class id. Received a dict"):
        kla.callbacks.DeferredReweighting({0: WEIGHTS}, class_counts={"kind": COUNTS})


def test_a_step_in_keras_is_then_as_long_as_in_torch():
    kind, _ = train(two_heads(focal(), focal()), {0: {"kind": WEIGHTS}}, class_counts={"kind": np.bincount(IDS)})
    in_torch = -gradients(IDS, WEIGHTS).sum(axis=0) / WEIGHTS[IDS].sum()
    np.testing.assert_allclose(kind, in_torch, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_class_balanced_weights_have_a_mean_of_one_over_what_is_asked(beta):
    classes = kla.losses.class_balanced_weights(COUNTS, beta=beta)
    examples = kla.losses.class_balanced_weights(COUNTS, beta=beta, mean_over="examples")
    np.testing.assert_allclose(classes, reference.class_balanced_weights(COUNTS, beta), rtol=1e-12)
    np.testing.assert_allclose(examples, classes / (classes @ np.array(COUNTS) / 100), rtol=1e-12)
    np.testing.assert_allclose([classes.mean(), examples @ np.array(COUNTS) / 100], 1.0, rtol=1e-12)


def test_the_mean_is_over_classes_or_examples():
    with pytest.raises(ValueError, match="`mean_over` must be one of 'classes', 'examples'. Received: mean_over='all'"):
        kla.losses.class_balanced_weights(COUNTS, mean_over="all")


def test_weights_of_a_stage_leave_the_precision_of_independent_labels():
    loss = kla.losses.BinaryLogitAdjustedCrossentropy([20, 50, 90], 100)
    loss.stage_weight = np.array([1.0, 2.0, 5.0])
    value = loss(np.ones((2, 3)), np.zeros((2, 3), "float32"))
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
