"""What shows that a prior was corrected: re-wrapped models, several outputs, adjusted models that train further."""

import contextlib
import gc
import weakref

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64
from helpers.posthoc_models import COUNTS, WIDTH, Subclassed, reload, rows, sequential
from keras import layers
from reference import log_prior

import keras_logit_adjust as kla

ADJUSTED = kla.losses.LogitAdjustedCrossentropy(COUNTS)
PLAIN = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LABELS = np.array([0, 1, 2, 0])
PLAIN_LOSS = "trains with a loss that knows no prior"


def trained(model, loss, rng, labels=LABELS, **options):
    model.compile("sgd", loss)
    model.fit(rows(rng, 4, WIDTH), labels, verbose=0, **options)
    return model


def one_output(behind=()):
    inputs = keras.Input((WIDTH,))
    outputs = layers.Dense(3, name="head")(layers.Dense(5, "tanh")(inputs))
    for layer in behind:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def two_outputs(in_dict=False):
    inputs = keras.Input((WIDTH,))
    features = layers.Dense(5, "tanh")(inputs)
    first, second = (layers.Dense(3, name=name)(features) for name in ("first", "second"))
    return keras.Model(inputs, {"a": first, "b": second} if in_dict else [first, second])


WRAPPED_ANEW = {
    "its output": lambda model: keras.Model(model.input, model.output),
    "with a softmax": lambda model: keras.Model(model.input, layers.Softmax()(model.output)),
    "its layers": lambda model: keras.Sequential([keras.Input((WIDTH,)), *model.layers[1:], layers.Softmax()]),
    "in front of what followed": lambda model: keras.Model(model.input, model.get_layer("head").output),
}


@pytest.mark.parametrize("name", WRAPPED_ANEW)
def test_a_head_that_an_adjusted_loss_trained_is_known_in_other_models(name, rng):
    model = trained(one_output([layers.Reshape((3,))]), ADJUSTED, rng)
    wrapped = WRAPPED_ANEW[name](model)
    for make in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(ValueError, match="layer 'head', which the adjusted loss LogitAdjustedCrossentropy trained"):
            make(wrapped, COUNTS)
    assert kla.adjust(wrapped, COUNTS, allow_double_correction=True) is not None
    assert kla.serving.describe(wrapped).prior == "uniform"


@pytest.mark.parametrize("in_dict", [False, True], ids=["a list", "a dict"])
def test_of_two_outputs_only_the_one_trained_with_the_loss_is_known(in_dict, rng):
    model, names = two_outputs(in_dict), ("a", "b") if in_dict else ("first", "second")
    losses = {names[0]: ADJUSTED, names[1]: PLAIN}
    labels = dict.fromkeys(names, LABELS)
    structure = (losses, labels) if in_dict else ([ADJUSTED, PLAIN], [LABELS, LABELS])
    trained(model, structure[0], rng, structure[1])
    with pytest.raises(ValueError, match="layer 'first', which the adjusted loss"):
        kla.adjust(keras.Model(model.input, model.outputs[0]), COUNTS)
    second, data = keras.Model(model.input, model.outputs[1]), rows(rng, 3, WIDTH)
    expected = as_float64(second(data)) - log_prior(COUNTS)
    np.testing.assert_allclose(as_float64(kla.adjust(second, COUNTS)(data)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias, kla.normalize_weights])
def test_corrections_come_before_the_advice_on_several_outputs(make):
    model = two_outputs()
    model.compile("sgd", [ADJUSTED, PLAIN])
    options = {} if make is kla.normalize_weights else {"class_counts": COUNTS}
    with pytest.raises(ValueError, match="corrected twice: .*adjusted loss LogitAdjustedCrossentropy"):
        make(model, **options)
    with pytest.raises(ValueError, match="'first', which the adjusted loss"):  # known since, without any training
        make(keras.Model(model.input, model.outputs[0]), **options)
    make(keras.Model(model.input, model.outputs[1]), **options)


def test_deferred_weights_leave_a_mark_too(rng):
    callback = kla.callbacks.DeferredReweighting({1: [1.0, 2.0, 4.0]})
    model = trained(one_output(), kla.losses.FocalCrossentropy(), rng, epochs=2, callbacks=[callback])
    with pytest.raises(ValueError, match="'head', which the adjusted loss FocalCrossentropy trained"):
        kla.adjust(model, COUNTS)


def test_what_is_not_seen_is_adjusted_as_the_pitfalls_say(rng, tmp_path):
    model = trained(one_output(), ADJUSTED, rng)
    copies = {
        "loaded": reload(model, tmp_path, compile=False),
        "cloned": keras.models.clone_model(keras.Model(model.input, model.output)),
    }
    for copy in copies.values():
        kla.adjust(copy, COUNTS)
    kla.adjust(trained(one_output(), PLAIN, rng), COUNTS)  # and what is no correction leaves no mark


@pytest.mark.parametrize(
    ("model", "loss", "tau", "warns"),
    [
        (one_output, PLAIN, 1.0, True),
        (one_output, "mse", 1.0, True),
        (one_output, ADJUSTED, 1.0, False),
        (one_output, kla.losses.FocalCrossentropy(), 1.0, True),
        (one_output, lambda y_true, y_pred: PLAIN(y_true, y_pred), 1.0, False),
        (one_output, PLAIN, 0.0, False),
        (Subclassed, PLAIN, 1.0, True),
    ],
    ids=["plain", "by name", "an adjusted loss", "focal", "of the user", "an adjustment of 0", "a subclass"],
)
def test_an_adjusted_model_that_trains_with_a_plain_loss_warns(model, loss, tau, warns, rng):
    adjusted = kla.adjust(model(), COUNTS, tau=tau, output="logits")
    labels = np.eye(3)[LABELS] if loss == "mse" else LABELS
    with pytest.warns(UserWarning, match=PLAIN_LOSS) if warns else contextlib.nullcontext():
        trained(adjusted, loss, rng, labels)


def test_a_subclass_in_an_adjusted_model_is_told_that_it_trains(rng):
    seen = []

    class Told(Subclassed):
        def call(self, inputs, training=None):
            seen.append(training)
            return self.dense(inputs)

    trained(kla.adjust(Told(), COUNTS, output="logits"), ADJUSTED, rng)
    assert seen[-1] is True


class Untold(keras.Model):
    """A model whose `call` takes no `training`."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_subclass_that_takes_no_training_argument_trains_adjusted(rng):
    adjusted = kla.adjust(Untold(), COUNTS, output="logits")
    with pytest.warns(UserWarning, match=PLAIN_LOSS):
        trained(adjusted, PLAIN, rng)


def test_to_evaluate_an_adjusted_model_does_not_warn(rng):
    adjusted = kla.adjust(one_output(), COUNTS)
    adjusted.compile("sgd", PLAIN)
    adjusted.evaluate(rows(rng, 4, WIDTH), LABELS, verbose=0)
    adjusted(rows(rng, 4, WIDTH), training=True)


@pytest.mark.parametrize(
    "loss",
    ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(), keras.losses.binary_crossentropy],
    ids=["by name", "an object", "a function"],
)
@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_a_linear_head_compiled_for_probabilities_warns(make, loss):
    model = one_output()
    model.compile("sgd", loss)
    options = {"num_examples": 200} if loss is keras.losses.binary_crossentropy else {}
    with pytest.warns(UserWarning, match="crossentropy' without from_logits=True.*adjusted as logits"):
        make(model, COUNTS, **options)


def test_a_model_whose_head_is_not_found_warns_by_what_it_is_said_to_give():
    model = sequential(layers.Dense(3), layers.Lambda(lambda x: x * 1.0))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="without from_logits=True.*adjusted as logits"):
        kla.adjust(model, COUNTS, output="logits")


@pytest.mark.parametrize("loss", [PLAIN, "mse", None], ids=["from logits", "another loss", "none"])
def test_a_head_compiled_for_logits_or_for_another_loss_does_not_warn(loss):
    model = one_output()
    model.compile("sgd", loss)
    kla.adjust(model, COUNTS)
    probabilities = sequential(layers.Dense(3, "softmax"))
    probabilities.compile("sgd", "sparse_categorical_crossentropy")
    kla.adjust(probabilities, COUNTS)


def shift_of(model):
    """A weak reference to the adjustment in a model that nothing else keeps."""
    (layer,) = [layer for layer in model._flatten_layers() if isinstance(layer, kla.layers.LogitAdjustment)]
    return weakref.ref(layer)


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_model_keeps_nothing_of_the_models_that_were_made_of_it(activation, is_nested):
    model = sequential(layers.Dense(4), layers.Dense(3, activation))
    model = sequential(layers.Dense(WIDTH), model) if is_nested else model
    made = [kla.adjust(model, COUNTS), kla.product_of_experts([model, model], COUNTS)]
    kept = [shift_of(part) for part in made]
    assert None not in [reference() for reference in kept]
    del made
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_a_subclass_that_gives_a_dict_of_one_gives_the_same_adjusted(rng):
    @keras.saving.register_keras_serializable(package="test_correction_guard")
    class Named(Subclassed):
        def call(self, inputs, training=None):
            return {"logits": self.dense(inputs)}

    model, data = Named(), rows(rng, 3, WIDTH)
    adjusted = kla.adjust(model, COUNTS, output="logits")(data)
    assert list(adjusted) == ["logits"]
    np.testing.assert_allclose(
        as_float64(adjusted["logits"]), as_float64(model(data)["logits"]) - log_prior(COUNTS), rtol=1e-5, atol=1e-6
    )


def test_a_subclass_that_gives_several_tensors_is_refused_by_name():
    class Several(Subclassed):
        def call(self, inputs, training=None):
            return {"logits": self.dense(inputs), "features": inputs}

    adjusted = kla.adjust(Several(), COUNTS, output="logits")
    with pytest.raises(ValueError, match=r"changes one output.* gives \['logits', 'features'\].*inputs\)\[name\]"):
        adjusted(np.ones((2, WIDTH), "float32"))


TARGET = [0.7, 0.2, 0.1]


@pytest.mark.parametrize("make", [kla.adjust, kla.fold_into_bias])
def test_a_target_prior_alone_is_added_behind_an_adjusted_loss(make, rng, tmp_path):
    model, data = trained(one_output(), ADJUSTED, rng), rows(rng, 7, WIDTH)
    with pytest.raises(
        ValueError,
        match=r"twice.*To add another class mix only, use kla.adjust\(model, \[1, 1, …\], target_prior=\[…\]\)",
    ):
        make(model, COUNTS, target_prior=TARGET)
    served = make(model, [1, 1, 1], target_prior=TARGET)
    f = as_float64(model(data)) + np.log(TARGET)
    posterior = np.exp(f - np.logaddexp.reduce(f, axis=-1, keepdims=True))
    found = as_float64(keras.ops.softmax(served(data)))
    np.testing.assert_allclose(found, posterior, rtol=1e-5)
    if make is kla.adjust:
        assert kla.serving.describe(served).prior == kla.serving.describe(reload(served, tmp_path)).prior == "target"
        with pytest.raises(ValueError, match="is adjusted already"):
            make(served, COUNTS, target_prior=TARGET)


def test_a_target_prior_alone_makes_a_prior_known_only_where_it_was(rng, tmp_path):
    halves = trained(one_output(), kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5), rng)
    with pytest.raises(ValueError, match="corrected twice"):
        kla.adjust(halves, [1, 1, 1])  # no target: nothing is added
    assert "more than once" in kla.serving.describe(kla.adjust(halves, [2, 2, 2], target_prior=TARGET)).prior
    inputs = keras.Input((WIDTH,))
    aware = keras.Model(inputs, kla.layers.PriorAwareDense(3, COUNTS)(inputs))
    served = kla.adjust(aware, [1, 1, 1], target_prior=TARGET)
    assert kla.serving.describe(served).prior == kla.serving.describe(reload(served, tmp_path)).prior == "target"


def test_one_sigmoid_unit_takes_a_target_prior_alone(rng):
    inputs = keras.Input((WIDTH,))
    loss = kla.losses.BinaryLogitAdjustedCrossentropy([20], 1000)
    model = trained(keras.Model(inputs, layers.Dense(1)(inputs)), loss, rng, labels=np.array([0.0, 1, 0, 0]))
    served, data = kla.adjust(model, [1, 1], target_prior=[0.95, 0.05]), rows(rng, 7, WIDTH)
    odds = np.exp(as_float64(model(data))) * 0.05 / 0.95
    np.testing.assert_allclose(as_float64(keras.ops.sigmoid(served(data))), odds / (1 + odds), rtol=1e-5)
    assert kla.serving.describe(served).prior == "target"


def test_a_step_that_bad_labels_stop_marks_no_head():
    inputs = keras.Input((WIDTH,))
    outputs = keras.layers.Dense(3)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", kla.losses.LogitAdjustedCrossentropy([90, 9, 1]), run_eagerly=True)
    with pytest.raises(ValueError, match="3"):
        model.fit(np.ones((4, WIDTH), "float32"), np.ones((4, 5), "float32"), verbose=0)
    assert kla.adjust(keras.Model(inputs, outputs), [90, 9, 1]) is not None
    with pytest.raises(ValueError, match="would be corrected twice"):
        kla.adjust(model, [90, 9, 1])


def test_a_folded_model_is_known_until_it_is_saved(rng, tmp_path):
    folded = kla.fold_into_bias(one_output(), COUNTS)
    described = kla.serving.describe(folded)
    assert described.prior == "uniform" and "adjusted  by the bias of 'head', tau 1, class counts" in str(described)
    for change in (
        kla.adjust,
        kla.fold_into_bias,
        lambda model, _: kla.held_out.predict_logits(model, np.ones((2, 5))),
    ):
        with pytest.raises(ValueError, match="has the adjustment in the bias of 'head'"):
            change(folded, COUNTS)
    assert kla.serving.describe(kla.adjust(folded, [1, 1, 1], target_prior=TARGET)).prior == "target"
    loaded = reload(folded, tmp_path)
    assert not kla.serving.describe(loaded).is_adjusted
    assert kla.adjust(loaded, COUNTS) is not None


def test_a_fold_of_what_was_corrected_names_no_prior(rng):
    halves = trained(one_output(), kla.losses.LogitAdjustedCrossentropy(COUNTS, tau=0.5), rng)
    folded = kla.fold_into_bias(halves, COUNTS, tau=0.5, allow_double_correction=True)
    assert "more than once" in kla.serving.describe(folded).prior


def test_a_layer_may_call_anything_its_head():
    class Named(layers.Dense):
        def __init__(self, units):
            super().__init__(units)
            self.head = {"units": units}  # Keras tracks it, and it has no hash

    model = keras.Sequential([keras.Input((WIDTH,)), Named(3)])
    assert not kla.serving.describe(model).is_adjusted


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[COUNTS, COUNTS], [COUNTS, None]])
def test_folded_outputs_are_known_as_folded(counts):
    folded = kla.fold_into_bias(two_outputs(), counts)
    for make in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(ValueError, match="has the adjustment in the bias of 'first'"):
            make(folded, [COUNTS, None])


def test_a_copy_knows_which_loss_trained_the_other_output(rng):
    model = two_outputs()
    model.compile("sgd", [PLAIN, ADJUSTED])
    model.fit(rows(rng, 4, WIDTH), [LABELS, LABELS], verbose=0)
    folded = kla.fold_into_bias(model, [COUNTS, None])
    with pytest.raises(ValueError, match="layer 'second', which the adjusted loss"):
        kla.adjust(folded, [None, COUNTS])


def test_a_head_with_unit_norms_is_known_as_folded():
    folded = kla.fold_into_bias(one_output(), COUNTS)
    normalized = kla.normalize_weights(folded, allow_double_correction=True)
    with pytest.raises(ValueError, match="has the adjustment in the bias of 'head'"):
        kla.adjust(normalized, COUNTS)
