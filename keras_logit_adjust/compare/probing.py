"""The recipe "linear_probe": every row is the optimum of a convex problem on frozen features, without epochs."""

import time

import numpy as np

from keras_logit_adjust import losses, priors
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.compare.methods import PROBED
from keras_logit_adjust.compare.records import Run
from keras_logit_adjust.held_out import fit_linear_probe

# The trained rows, with their arguments of `fit_linear_probe`.
_PROBLEMS = {
    "erm": {"criterion": "expected_error"},  # its logits keep the training prior
    "class_weight": {"class_weight": "balanced"},
    "class_balanced": {"class_weight": lambda counts: losses.class_balanced_weights(counts, mean_over="examples")},
    # The expected weights of such batches; the loss is adjusted by the prior of these weights.
    "square_root_sampler_la": {"class_weight": lambda counts: np.sqrt(counts.mean() / counts), "tau": 1.0},
    "la_posthoc": {"tau": 1.0},
}


def check_data(dataset):
    """Raise if a data set does not have rows of features."""
    if dataset.train[0].ndim != 2:
        raise ArgumentError(
            "recipe",
            "`recipe` 'linear_probe' is for rows of features of a frozen model. Received images of shape "
            f"{dataset.train[0].shape[1:]}: extract features, or choose another recipe.",
        )


def train(name, dataset, *, on_epoch):
    """Fit the row `name`, and call `on_epoch` at the end; returns a `Run`.

    Its loss is the balanced loss that penalty and scaling were chosen by.
    """
    start, (x, y) = time.perf_counter(), dataset.train
    probe = fit_linear_probe(x, y, seed=dataset.seed, **_PROBLEMS[name])
    # At its optimum, the adjusted loss equals post-hoc adjustment: this row keeps the logits before the adjustment.
    before = priors.log_prior(dataset.class_counts) if name == "la_posthoc" else 0.0
    held_out = {"test": dataset.test, "validation": dataset.validation}
    logits = {
        f"{part}_logits": (probe.logits(split[0]) + before).astype("float32")
        for part, split in held_out.items()
        if split is not None
    }
    loss = probe.balanced_loss[probe.scaling, probe.penalty]
    on_epoch(float(loss))
    return Run(
        method=name,
        seed=dataset.seed,
        split_hash=dataset.split_hash,
        loss=np.array([loss]),
        seconds=time.perf_counter() - start,
        class_norms=np.linalg.norm(probe.kernel, axis=0),
        bias=probe.bias + before,
        penalty=probe.penalty,
        scaling=probe.scaling,
        out_of_fold_logits=(probe.out_of_fold_logits + before).astype("float32"),
        out_of_fold_labels=y[probe.out_of_fold_rows],
        **logits,
    )


def check_methods(methods):
    """Raise for rows that are not the optimum of such a problem."""
    if other := [name for name in methods if name not in PROBED]:
        raise ArgumentError(
            "methods",
            f"`recipe` 'linear_probe' has the methods that are weights and margins of cross-entropy: "
            f"{', '.join(PROBED)}. Received {', '.join(map(repr, other))}: leave it out, or choose the recipe 'quick'.",
        )
