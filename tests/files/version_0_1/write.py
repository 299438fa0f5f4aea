"""Wrote the `.keras` files beside it, with version 0.1.0 of the package, and what their models predict.

Run by that version, as in `PYTHONPATH=<its checkout> python tests/files/version_0_1/write.py`. Later versions must load
these files; do not write them again.
"""

import json
import pathlib

import keras
import numpy as np

HERE = pathlib.Path(__file__).parent
COUNTS = [90, 9, 1]
X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.array([0, 1, 2, 0, 0, 1])


@keras.saving.register_keras_serializable(package="version_0_1")
class Subclassed(keras.Model):
    """A model of a user's class."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def plain(*behind, head=None):
    inputs = keras.Input((3,))
    outputs = (head or keras.layers.Dense(3, bias_initializer="ones", name="head"))(inputs)
    for layer in behind:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="small")


def models(kla):
    """Every model by the name of its file."""
    made = {
        "adjusted": kla.adjust(plain(), COUNTS, tau=0.5, target_prior=[1, 1, 2]),
        "adjusted_labels": kla.adjust(plain(keras.layers.Activation("sigmoid")), COUNTS, num_examples=100),
        "calibrated": kla.adjust(plain(), COUNTS, calibration=kla.Calibration(1.5, [0.5, 0.0, -0.5])),
        "adjusted_twice": kla.adjust(
            kla.adjust(plain(), COUNTS, tau=0.5), COUNTS, tau=0.5, allow_double_correction=True
        ),
        "adjusted_subclass": kla.adjust(Subclassed(), COUNTS, output="logits"),
        "folded": kla.fold_into_bias(plain(keras.layers.Softmax()), COUNTS),
        "prior_aware": plain(head=kla.layers.PriorAwareDense(3, COUNTS, tau=[1, 2, 3], target_prior=[1, 1, 2])),
        "decision": plain(kla.layers.LogitAdjustment(COUNTS), kla.layers.MinimumRiskDecision([[0, 1], [9, 0], [1, 1]])),
        "experts": kla.product_of_experts([plain(), plain(keras.layers.Softmax())], COUNTS, target_prior=[1, 1, 2]),
    }
    made["adjusted_subclass"](X)
    streaming = kla.priors.StreamingPrior(3, half_life=50, name="streaming")
    streaming.update(Y)
    made["streaming"] = kla.models.CountingModel.from_config(
        plain(head=kla.layers.PriorAwareDense(3, streaming, name="head")).get_config()
    )
    for loss in losses(kla.losses):
        made[f"loss_{loss.name}"] = plain(head=kla.layers.CosineDense(3, scale=7.0))
        made[f"loss_{loss.name}"].compile("sgd", loss, metrics=metrics(kla.metrics))
    return made


def losses(room):
    return [
        room.LogitAdjustedCrossentropy(COUNTS, tau=[1, 2, 3], label_smoothing=0.1, name="logit_adjusted"),
        room.PairwiseMarginCrossentropy(
            COUNTS, label_margin=[1, 2, 3], rival_margin=[0, 1, 2], class_weight=[2, 1, 0.5], name="pairwise_margin"
        ),
        room.AdaptiveMarginCrossentropy(COUNTS, max_margin=2, name="adaptive_margin"),
        room.EqualizedCrossentropy(COUNTS, threshold=0.2, name="equalized"),
        room.VectorScalingCrossentropy(COUNTS, gamma=0.3, tau=0.5, name="vector_scaling"),
        room.ClassBalancedCrossentropy(COUNTS, beta=0.9, name="class_balanced"),
        room.FocalCrossentropy(gamma=1, class_weight=[1, 2, 3], name="focal"),
        room.BinaryLogitAdjustedCrossentropy(COUNTS, 100, tau=2, name="binary"),
    ]


def metrics(room):
    return [
        room.BalancedAccuracy(3, class_prior=[5, 3, 1]),
        room.PerClassAccuracy(3),
        room.PerClassPrecision(3, class_prior=[5, 3, 1]),
        room.MacroF1(3),
        room.WorstClassAccuracy(3),
        room.GroupAccuracy(COUNTS, bounds=(5, 50)),
    ]


def labels_of(name):
    return np.eye(3, dtype="float32")[Y] if name == "loss_binary" else Y


def main():
    import keras_logit_adjust as kla

    assert kla.__version__ == "0.1.0"
    keras.utils.set_random_seed(0)
    known = {}
    for name, model in models(kla).items():
        model.save(HERE / f"{name}.keras")
        known[name] = {"predictions": model.predict(X, verbose=0).tolist()}
        if model.compiled:
            logs = model.evaluate(X, labels_of(name), verbose=0, return_dict=True)
            known[name]["logs"] = {key: np.asarray(value).tolist() for key, value in logs.items()}
    (HERE / "predictions.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
