"""Adjustment and folding of models with several outputs, each by counts of its own."""

import collections

import keras
import numpy as np
import pytest
from helpers.arrays import as_float64 as numpy
from helpers.posthoc_models import adjusted_by_hand, randomize
from keras import layers, ops

import keras_logit_adjust as kla

COUNTS = {"species": [90, 9, 1], "genus": [70, 30], "traits": [20, 5], "sick": [80, 20]}
KINDS = {"species": "softmax", "genus": "logits", "traits": "sigmoid", "sick": "sigmoid"}
NUM_EXAMPLES = {"traits": 100}
X = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")
FORMS = {"dict": dict, "list": lambda heads: [*heads.values()], "tuple": lambda heads: (*heads.values(),)}
SHIFTS = {
    "species": np.log([0.9, 0.09, 0.01]),
    "genus": np.log([0.7, 0.3]),
    "traits": np.log([0.2 / 0.8, 0.05 / 0.95]),
    "sick": np.log([0.2 / 0.8]),
}


def heads_on(features):
    return {
        "species": layers.Dense(3, "softmax", name="species")(features),
        "genus": layers.Dense(2, name="genus")(features),
        "traits": layers.Activation("sigmoid", name="traits")(layers.Dense(2, name="before")(features)),
        "sick": layers.Dense(1, "sigmoid", name="sick")(features),
    }


def network(form="dict", **options):
    inputs = keras.Input((6,))
    features = layers.Dropout(0.1)(layers.Dense(5, "tanh", name="body")(inputs))
    model = keras.Model(inputs, FORMS[form](heads_on(features)), name="network")
    randomize(model, np.random.default_rng(1))
    if options:
        model.compile("sgd", **options)
    return model


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, form="dict", **options):
        super().__init__(**options)
        self.form, self.body = form, layers.Dense(5, "tanh")
        self.heads = [
            layers.Dense(3, "softmax"),
            layers.Dense(2),
            layers.Dense(2, "sigmoid"),
            layers.Dense(1, "sigmoid"),
        ]

    def call(self, inputs):
        features = self.body(inputs)
        return FORMS[self.form](dict(zip(COUNTS, (head(features) for head in self.heads), strict=True)))

    def build(self, input_shape):
        self.body.build(input_shape)
        for head in self.heads:
            head.build((None, 5))
        self.built = True

    def get_config(self):
        return {**super().get_config(), "form": self.form}


def given(model):
    """What a model gives for `X`: called, for `predict` takes half a second to compile."""
    return keras.tree.map_structure(ops.convert_to_numpy, model(X))


def of_names(outputs):
    """Whatever the form, `{name: float64 array}`."""
    parts = outputs if isinstance(outputs, dict) else dict(zip(COUNTS, outputs, strict=True))
    return {name: numpy(parts[name]) for name in COUNTS}


def check(model, adjusted, names=COUNTS, shifts=SHIFTS, give=given):
    """Outputs in `names` are adjusted to 1e-5, and the others have the same bits."""
    before, after = give(model), give(adjusted)
    assert type(before) is type(after) and len(before) == len(after)
    before, after = of_names(before), of_names(after)
    for name, kind in KINDS.items():
        if name in names:
            wanted = adjusted_by_hand(before[name], kind, shifts[name])
            np.testing.assert_allclose(after[name], wanted, rtol=1e-5, atol=1e-5, err_msg=name)
            assert np.abs(after[name] - before[name]).max() > 0.01
        else:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def counts_for(form, names):
    named = {name: COUNTS[name] for name in names}
    return named if form == "dict" else FORMS[form]({name: named.get(name) for name in COUNTS})


@pytest.mark.parametrize("names", [("species",), ("genus", "sick"), tuple(COUNTS)], ids=len)
@pytest.mark.parametrize("form", FORMS)
def test_the_outputs_named_are_adjusted_and_the_others_stay(form, names):
    model = network(form)
    options = {"num_examples": {"traits": 100}} if "traits" in names else {}
    for change in (kla.adjust, kla.fold_into_bias):
        changed = change(model, counts_for(form, names), **options)
        check(model, changed, names)
    assert len(changed.layers) == len(model.layers)  # folding adds nothing


def test_outputs_of_a_list_may_be_named_by_layer_or_position():
    model = network("list")
    check(model, kla.adjust(model, {"species": COUNTS["species"]}), ["species"])
    check(model, kla.adjust(model, {1: COUNTS["genus"]}), ["genus"], give=lambda model: model.predict(X, verbose=0))


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_a_subclassed_model_are_adjusted(form, tmp_path):
    model = Subclassed(form)
    model.build((None, 6))
    names = ("species", "genus", "traits", "sick")[:3]
    key = {name: name if form == "dict" else place for place, name in enumerate(COUNTS)}
    adjusted = kla.adjust(
        model,
        {key[name]: COUNTS[name] for name in names},
        output={key[name]: KINDS[name] for name in names},
        num_examples={key["traits"]: 100},
    )
    check(model, adjusted, names)
    adjusted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    keras.tree.map_structure(np.testing.assert_array_equal, given(loaded), given(adjusted))
    wrong = kla.adjust(model, {"order": [1, 2]}, output="logits")
    with pytest.raises(ValueError, match=r"must name outputs of model '.*', \[.*\]\. Received: 'order'"):
        wrong(X)
    with pytest.raises(ValueError, match="subclassed model"):
        kla.fold_into_bias(model, {key["genus"]: COUNTS["genus"]})


def test_each_argument_is_one_for_all_or_a_dict_by_output():
    model, targets = network(), {"species": [1, 2, 3], "genus": [3, 1]}
    counts = {name: COUNTS[name] for name in targets}
    half = {name: 0.5 * SHIFTS[name] for name in targets}
    check(model, kla.adjust(model, counts, tau=0.5), targets, half)
    for change in (kla.adjust, kla.fold_into_bias):
        some = change(model, counts, tau={"genus": 0.5})
        check(model, some, targets, {"species": SHIFTS["species"], "genus": half["genus"]})
        towards = {name: SHIFTS[name] - np.log(np.array(targets[name]) / np.sum(targets[name])) for name in targets}
        check(model, change(model, counts, target_prior=targets), targets, towards)
        calibration = {"genus": kla.Calibration(2.0, [0.5, -0.5])}
        before = of_names(given(model))
        after = of_names(given(change(model, counts, calibration=calibration)))
        wanted = before["genus"] / 2 + [0.5, -0.5] - SHIFTS["genus"]
        np.testing.assert_allclose(after["genus"], wanted, atol=1e-5)
    logits = kla.adjust(model, counts, output={"genus": "logits"}, axis={"species": -1})
    check(model, logits, targets)


def test_an_adjusted_output_can_be_set_while_the_model_serves():
    model = network()
    adjusted = kla.adjust(model, {name: COUNTS[name] for name in ("species", "genus")})
    adjusted.get_layer("logit_adjustment_species").set(tau=2.0)
    check(model, adjusted, ("species", "genus"), {**SHIFTS, "species": 2 * SHIFTS["species"]})


def test_an_adjusted_model_shares_weights_and_leaves_the_given_one_alone():
    model = network()
    before = of_names(given(model))
    adjusted, folded = (change(model, {"genus": COUNTS["genus"]}) for change in (kla.adjust, kla.fold_into_bias))
    assert {id(weight) for weight in model.weights} <= {id(weight) for weight in adjusted.weights}
    folded.get_layer("genus").kernel.assign(np.zeros((5, 2)))
    keras.tree.map_structure(np.testing.assert_array_equal, of_names(given(model)), before)
    calls = [len(layer._outbound_nodes) for layer in model.layers]
    kla.adjust(model, {"species": COUNTS["species"], "genus": COUNTS["genus"]})
    assert [len(layer._outbound_nodes) for layer in model.layers] == calls  # nothing keeps the new model alive


@pytest.mark.parametrize("form", ["dict", "list"])
def test_an_adjusted_model_of_several_outputs_is_saved_and_loaded(form, tmp_path):
    adjusted = kla.adjust(network(form), counts_for(form, ("species", "genus")))
    adjusted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    keras.tree.map_structure(np.testing.assert_array_equal, given(loaded), given(adjusted))
    with pytest.raises(ValueError, match="twice.*by layer 'logit_adjustment_species'"):
        kla.adjust(loaded, counts_for(form, ("species",)))
    again = kla.adjust(loaded, counts_for(form, ("traits",)), num_examples=100)
    assert {"logit_adjustment_species", "logit_adjustment_genus"} < {layer.name for layer in again.layers}


def test_several_heads_in_nested_models_and_of_one_another_are_adjusted():
    inputs = keras.Input((6,))
    body = keras.Sequential([keras.Input((6,)), layers.Dense(4, "tanh"), layers.Dense(3, "softmax", name="inner")])
    species = body(inputs)
    genus = layers.Dense(2, "softmax", name="genus")(species)  # made of the probabilities of the other
    sick = keras.Sequential([keras.Input((3,)), layers.Dense(1, "sigmoid", name="inner")])(species)
    model = keras.Model(inputs, {"species": species, "genus": genus, "sick": sick})
    randomize(model, np.random.default_rng(2))
    adjusted = kla.adjust(model, {name: COUNTS[name] for name in ("species", "genus", "sick")})
    before, after = given(model), given(adjusted)
    for name, kind in {"species": "softmax", "genus": "softmax", "sick": "sigmoid"}.items():
        wanted = adjusted_by_hand(before[name], kind, SHIFTS[name])
        np.testing.assert_allclose(numpy(after[name]), wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="is used more than once"):
        shared = layers.Dense(2, name="twin")
        kla.fold_into_bias(keras.Model(inputs, {"a": shared(inputs), "b": shared(2.0 * inputs)}), {"a": [2, 1]})


def test_an_output_behind_an_unknown_layer_is_adjusted_as_it_is_said_to_be():
    inputs = keras.Input((6,))
    features = layers.Dense(5, "tanh")(inputs)
    scores = layers.Dense(2, name="head")(features)
    outputs = {"genus": ops.softmax(ops.cumsum(scores, axis=-1)) * 1.0, "species": layers.Dense(3, "softmax")(features)}
    model = keras.Model(inputs, outputs)
    adjusted = kla.adjust(model, {"genus": COUNTS["genus"]}, output="softmax")
    before, after = given(model), given(adjusted)
    wanted = adjusted_by_hand(before["genus"], "softmax", SHIFTS["genus"])
    np.testing.assert_allclose(numpy(after["genus"]), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after["species"], before["species"])
    assert len(adjusted.layers) < 2 * len(model.layers)  # the model is not called a second time


def test_a_prior_corrected_in_one_output_does_not_stop_another():
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {"species": "sparse_categorical_crossentropy", "sick": "bce", "traits": "bce"}
    losses["genus"] = kla.losses.LogitAdjustedCrossentropy(COUNTS["genus"])
    model = network(loss=losses)
    check(model, kla.adjust(model, {"species": COUNTS["species"]}), ["species"])
    for change in (kla.adjust, kla.fold_into_bias):
        with pytest.raises(
            ValueError, match=r"corrected twice.*network_genus.*adjusted loss LogitAdjustedCrossentropy"
        ):
            change(model, {name: COUNTS[name] for name in ("species", "genus")})
    twice = kla.adjust(model, {"genus": COUNTS["genus"]}, allow_double_correction=True)
    check(model, twice, ["genus"])
    assert kla.adjust(network(loss={**losses, "genus": plain}), {"genus": COUNTS["genus"]}) is not None


REFUSED = {
    "name": (
        lambda m: kla.adjust(m, {"order": [1, 2]}),
        r"outputs of model 'network', \['species', .*\]\. Received: 'order'",
    ),
    "fold": (lambda m: kla.fold_into_bias(m, {"order": [1, 2]}), r"must name outputs of model 'network'"),
    "tau": (lambda m: kla.adjust(m, {"genus": [1, 2]}, tau={"order": 1}), "`tau` must name outputs.*Received: 'order'"),
    "other": (
        lambda m: kla.adjust(m, {"genus": [1, 2]}, tau={"species": 1}),
        r"`tau` must be for outputs that `class_counts` has, \['genus'\]\. Received: 'species'",
    ),
    "none": (lambda m: kla.adjust(m, {"genus": None}), "must have counts for at least one output"),
    "counts": (lambda m: kla.adjust(m, {"genus": [1, 2, 3]}), "the head has 2 classes, `class_counts` has 3"),
    "sigmoid": (lambda m: kla.adjust(m, {"traits": [1, 2]}), "needs `num_examples`"),
    "numbers": (lambda m: kla.adjust(m, {"genus": 1, "species": 2}), "adjust each by its own counts"),
    "one vector": (lambda m: kla.adjust(m, [90, 9, 1]), "must have one output.*adjust each by its own counts"),
    "logits": (
        lambda m: kla.held_out.predict_logits(m, np.zeros((2, 6))),
        r"take one, `keras\.Model\(model\.input, model\.output\['species'\]\)`",
    ),
    "tuned": (
        lambda m: kla.tune_tau(m, (np.zeros((2, 6)), np.zeros(2, "int32")), COUNTS["species"]),
        r"take one, `keras\.Model\(model\.input, model\.output\['species'\]\)`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_names_no_output_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call(network())


def test_a_list_of_another_length_or_a_name_twice_is_refused():
    model = network("list")
    with pytest.raises(ValueError, match=r"must name outputs.*Received: 4"):
        kla.adjust(model, [None, COUNTS["genus"], None, None, [1, 2]])
    with pytest.raises(ValueError, match="once. Received twice"):
        kla.adjust(model, {"genus": [1, 2], 1: [1, 2]})
    for change in (kla.adjust, kla.fold_into_bias, lambda model, counts: kla.serving.describe(model, output_name="a")):
        with pytest.raises(ValueError, match="is not built"):
            change(keras.Sequential([layers.Dense(2)]), {"a": [1, 2]})
    inputs = keras.Input((6,))
    nested = keras.Model(inputs, {"a": [layers.Dense(2)(inputs), layers.Dense(2)(inputs)]})
    with pytest.raises(ValueError, match="must be one dict, or one list, of tensors"):
        kla.adjust(nested, {"a": [1, 2]})


def test_counts_by_output_may_be_priors():
    model = network()
    counts = {name: kla.priors.as_prior(COUNTS[name], NUM_EXAMPLES.get(name)) for name in ("genus", "traits")}
    check(model, kla.adjust(model, counts), counts)


def same_head_twice(features):
    logits = layers.Dense(3, name="species")(features)
    return {"species": logits, "genus": layers.Softmax(name="genus")(logits)}


def head_on_a_head(features):
    coarse = layers.Dense(3, name="species")(features)
    return {"species": coarse, "genus": layers.Dense(2, name="genus")(layers.Concatenate()([features, coarse]))}


def confidence(features):
    coarse = layers.Dense(3, name="species")(features)
    return {"species": coarse, "genus": ops.max(ops.softmax(coarse), axis=-1)}


@pytest.mark.parametrize("named", [("species",), ("species", "genus")])
@pytest.mark.parametrize("heads", [same_head_twice, head_on_a_head, confidence])
def test_a_head_that_serves_another_output_is_not_folded(heads, named):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, heads(layers.Dense(5, "tanh")(inputs)), name="network")
    with pytest.raises(ValueError, match=r"'species' serves 2 outputs of 'network'.*Use `kla.adjust`"):
        kla.fold_into_bias(model, {name: COUNTS[name][: 3 if name == "species" else 2] for name in named})


Pair = collections.namedtuple("Pair", ["species", "genus"])


@pytest.mark.parametrize("is_graph", [True, False])
def test_named_tuples_stay_named_tuples(is_graph):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(3), layers.Dense(2)

        def call(self, inputs):
            return Pair(self.first(inputs), self.second(inputs))

    model = Two()
    if is_graph:
        inputs = keras.Input((6,))
        model = keras.Model(inputs, model(inputs))
    before = given(model)
    counts = Pair(COUNTS["species"], None) if is_graph else {0: COUNTS["species"]}
    adjusted = given(kla.adjust(model, counts, output="logits"))
    assert type(adjusted) is type(before)
    np.testing.assert_allclose(adjusted[0], before[0] - SHIFTS["species"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(adjusted[1], before[1])


def test_a_config_is_read_without_a_change():
    adjusted = kla.adjust(Subclassed(), {"species": COUNTS["species"]}, output="softmax")
    given(adjusted)
    config = adjusted.get_config()
    for _ in range(2):
        assert type(adjusted).from_config(config).places == adjusted.places


@pytest.mark.parametrize(
    ("units", "counts", "output", "message"),
    [
        (1, [90, 9, 1], "logits", r"gives 1 value for each example.*for 3 classes\. For one unit give two counts"),
        (3, [90, 10], "sigmoid", r"gives 3 values for each example.*for one sigmoid unit"),
    ],
)
def test_the_first_call_tells_counts_that_do_not_fit(units, counts, output, message):
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    adjusted = kla.adjust(Late(), counts, output=output)
    with pytest.raises(ValueError, match=message):
        adjusted(X)
