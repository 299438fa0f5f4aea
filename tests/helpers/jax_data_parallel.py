"""Run by `test_jax_distribution.py` in a process of its own: one device and `DataParallel` over two, as JSON.

The processor can be cut into devices only before JAX starts.
"""

import json

import keras
import numpy as np

from keras_logit_adjust.data import LongTailSampler
from keras_logit_adjust.layers import PriorAwareDense, StreamingPriorDense
from keras_logit_adjust.losses import (
    AdaptiveMarginCrossentropy,
    BinaryLogitAdjustedCrossentropy,
    ClassBalancedCrossentropy,
    FocalCrossentropy,
    LogitAdjustedCrossentropy,
    VectorScalingCrossentropy,
)
from keras_logit_adjust.metrics import BalancedAccuracy, GroupAccuracy, MacroF1
from keras_logit_adjust.priors import CountingModel, StreamingPrior

COUNTS = [50, 10, 5, 2]
BATCH = 64
# 130 = 64 + 64 + 2: the devices get 32 examples each, and one each of the last batch; 128 where batches are whole.
SIZE = 130
REDUCTIONS = {"sum": "sum", "mean": "sum_over_batch_size", "weighted_mean": "mean_with_sample_weight"}
ids = np.random.default_rng(0).integers(0, 4, SIZE)
x = (np.random.default_rng(1).normal(size=(SIZE, 5)) + np.eye(4, 5)[ids]).astype("float32")
weight = np.random.default_rng(2).uniform(0, 3, SIZE).astype("float32")
# Batches of 64: of the first, two of the first device's 32 examples count, and of the second none of the other's.
place = np.arange(SIZE)
ignored = np.where((place % 3 == 0) | (place < 30) | ((place >= 96) & (place < 128)), -1, ids)
lengths = 1 + np.arange(SIZE)[:, None] % 3
steps = (np.repeat(x[:, None], 3, axis=1) * (np.arange(3) < lengths)[..., None]).astype("float32")
of_steps = np.repeat(ids[:, None], 3, axis=1)
one_hot = np.eye(4, dtype="float32")[ids]


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def scaled():
    return VectorScalingCrossentropy(COUNTS, gamma=0.2, ignore_class=-1)


def focal():
    return FocalCrossentropy(class_weight=[1, 2, 3, 4], ignore_class=-1, reduction="mean_with_sample_weight")


def adjusted(reduction="sum_over_batch_size", **options):
    return lambda: LogitAdjustedCrossentropy(COUNTS, reduction=reduction, **options)


# Each loss trains a head of its own, named as here, on the same features: one model and few compilations.
UNWEIGHTED = {
    **{name: (adjusted(reduction), ids) for name, reduction in REDUCTIONS.items()},
    "one_hot": (adjusted(label_smoothing=0.1), one_hot),
    "adaptive_margins": (lambda: AdaptiveMarginCrossentropy(COUNTS), ids),
    "class_balanced": (lambda: ClassBalancedCrossentropy(COUNTS), ids),
    "multi_label": (lambda: BinaryLogitAdjustedCrossentropy(COUNTS, 100), one_hot),
    "prior_aware": (cross_entropy, ids),
}
WEIGHTED = {
    "weighted": (adjusted(), ids),
    **{f"{name}_ignored": (adjusted(r, ignore_class=-1), ignored) for name, r in REDUCTIONS.items()},
    "masked": (adjusted(), of_steps),
    "pairwise_margins": (scaled, ignored),
    "focal": (focal, ignored),
}


def metrics(**options):
    return [BalancedAccuracy(4, **options), GroupAccuracy(COUNTS, bounds=(6, 20), **options), MacroF1(4, **options)]


def heads(losses, **options):
    """A compiled model with a head for each loss."""
    inputs = {"rows": keras.Input((5,), name="rows"), "steps": keras.Input((3, 5), name="steps")}
    features = {"masked": keras.layers.Masking()(inputs["steps"])}
    kinds = {"prior_aware": lambda units, name: PriorAwareDense(units, COUNTS, name=name)}
    outputs = {
        name: kinds.get(name, keras.layers.Dense)(4, name=name)(features.get(name, inputs["rows"])) for name in losses
    }
    model = keras.Model(inputs, outputs)
    made = {name: make_loss() for name, (make_loss, _) in losses.items()}
    scale = {name: 1 / BATCH if loss.reduction == "sum" else 1.0 for name, loss in made.items()}
    model.compile(keras.optimizers.SGD(0.5), made, loss_weights=scale, **options)
    return model


def unweighted():
    model = heads(UNWEIGHTED, metrics={"mean": metrics(), "prior_aware": [BalancedAccuracy(4)]})
    return model, {"x": {"rows": x, "steps": steps}, "y": {name: y for name, (_, y) in UNWEIGHTED.items()}}


def weighted():
    model = heads(
        WEIGHTED, weighted_metrics={"weighted": [BalancedAccuracy(4)], "mean_ignored": metrics(ignore_class=-1)}
    )
    data = {"x": {"rows": x[:128], "steps": steps[:128]}, "y": {name: y[:128] for name, (_, y) in WEIGHTED.items()}}
    return model, {**data, "sample_weight": dict.fromkeys(WEIGHTED, weight[:128])}


def counting():
    """A head whose prior is counted in the step."""
    inputs = keras.Input((5,))
    model = CountingModel(inputs, StreamingPriorDense(4, StreamingPrior(4), name="head")(inputs))
    model.compile(keras.optimizers.SGD(0.5), cross_entropy(), metrics=metrics())
    return model, {"x": x[:128], "y": ids[:128]}


CASES = {"unweighted": unweighted, "weighted": weighted, "counting": counting}


def trained(make):
    """What `fit`, `evaluate` and `predict` say, and the variables at the end."""
    keras.utils.set_random_seed(0)
    model, data = make()
    history = model.fit(**data, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history
    scores = model.evaluate(**data, batch_size=BATCH, verbose=0, return_dict=True)
    predicted = model.predict(data["x"], batch_size=BATCH, verbose=0)
    return {
        **{f"fit {name}": values for name, values in history.items()},
        **{f"evaluate {name}": value for name, value in scores.items()},
        **{f"predict {name}": rows.tolist() for name, rows in named(predicted).items()},
        **weights(model),
    }


def named(outputs):
    return outputs if isinstance(outputs, dict) else {"output": outputs}


def array(variable):
    return keras.ops.convert_to_numpy(variable).tolist()


def weights(model):
    """The variables of the layers that have any: the heads."""
    return {f"weight {layer.name} {v.name}": array(v) for layer in model.layers for v in layer.variables}


def sampled():
    """Batches that a sampler draws, through Keras's `PyDataset`."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="head")])
    sampler = LongTailSampler(ids, BATCH, strategy="balanced", seed=0)
    model.compile(keras.optimizers.SGD(0.5), LogitAdjustedCrossentropy(sampler), metrics=[BalancedAccuracy(4)])
    options = {"steps_per_epoch": sampler.steps_per_epoch, "shuffle": False, "verbose": 0}
    history = model.fit(sampler.py_dataset((x, ids)), epochs=2, **options).history
    return {**{f"fit {name}": values for name, values in history.items()}, **weights(model)}


def refusals(size):
    """What each way to run a model says to examples whose last batch does not divide, and how far it came."""
    sampler = LongTailSampler(ids, size, seed=0)
    options = {"batch_size": BATCH, "verbose": 0}
    steps = {"steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    ways = {
        "fit": lambda model, callbacks: model.fit(x[:size], ids[:size], shuffle=False, callbacks=callbacks, **options),
        "fit a sampler": lambda model, callbacks: model.fit(sampler.py_dataset((x, ids)), callbacks=callbacks, **steps),
        "evaluate": lambda model, callbacks: model.evaluate(x[:size], ids[:size], callbacks=callbacks, **options),
        "predict": lambda model, callbacks: model.predict(x[:size], callbacks=callbacks, **options),
    }
    return {name: refusal(way) for name, way in ways.items()}


def refusal(way):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.compile("sgd", LogitAdjustedCrossentropy(COUNTS))
    finished = []
    counter = keras.callbacks.Callback()
    for kind in ("train", "test", "predict"):
        setattr(counter, f"on_{kind}_batch_end", lambda batch, logs: finished.append(batch))
    try:
        way(model, [counter])
    except Exception as error:  # what is raised is what is asked
        return {"type": type(error).__name__, "message": str(error), "batches": len(finished)}
    return None


def main():
    import jax  # not where scripts are collected for their doctests, without JAX

    jax.config.update("jax_num_cpu_devices", 2)
    devices = keras.distribution.list_devices()
    assert len(devices) == 2, devices
    found = {}
    for distribution in (None, keras.distribution.DataParallel(devices=devices)):
        keras.distribution.set_distribution(distribution)
        for name, make in CASES.items():
            found.setdefault(name, []).append(trained(make))
        found.setdefault("sampled", []).append(sampled())
    print(json.dumps({"cases": found, "refused": refusals(67)}))


if __name__ == "__main__":
    main()
