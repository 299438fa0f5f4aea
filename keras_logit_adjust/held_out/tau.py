"""The choice of τ on held-out data, which moves τ away from 1 only as far as the data support.

With few examples of each rare class, the τ of the highest balanced accuracy follows noise. With five examples a class
it is worse than τ = 1 in most draws. `tune_tau` therefore moves away from 1 only as far as the held-out examples
require. The recall of a class is unknown if no held-out example has a similar frequency. It may take any value, so only
a gain that is larger than this uncertainty counts.
"""

import dataclasses
import warnings

import keras
import numpy as np

from keras_logit_adjust import _checks, _labels, _scores, layers, priors
from keras_logit_adjust.held_out import _reading, predict
from keras_logit_adjust.held_out._intervals import Steps
from keras_logit_adjust.held_out.tau_path import BestTau, TauPath, robust_point
from keras_logit_adjust.posthoc import _guard
from keras_logit_adjust.priors.formulas import as_prior

NEAR = 2.0  # a class is known only near examples: of classes at most this many times as frequent or as rare
_FAR = np.log(NEAR) + 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class TunedTau:
    """The result of `kla.tune_tau`. `float(tuned)` is its τ, and functions take the result in place of a τ.

    Attributes:
        tau: the τ chosen.
        interval: the least and the largest τ that the held-out examples cannot tell from the best. Some τ between them
            may be worse, even 1.
        balanced_accuracy: the cross-validated accuracy: every example is judged at the τ that the other folds choose.
            It estimates the procedure and does not choose τ. If it is not above `balanced_accuracy_at_one`, 1 is as
            good.
        balanced_accuracy_at_one: the balanced accuracy of the same examples at τ = 1.
        best: where the mean of pooled recalls is highest, a `BestTau`, before shrinkage.
        coverage: `{"classes": L, "pooled": …, "empty": …, "buckets": …}`: how many recalls were pooled, how many of
            these had no example, and how many means of recalls remained.
        unknown: the share of recalls without information from held-out examples, 0 … 1. The accuracies leave them out.
        path: the `kla.TauPath`, of plain recalls. Where classes are pooled, `path.best()` is not `best`.
        weight: `[N]` what each example adds to the mean of pooled recalls. `path.steps(weight)` is the function of τ
            that was maximized; `weight.max()` is the largest share that depends on one example.
    """

    tau: float
    interval: tuple
    balanced_accuracy: float
    balanced_accuracy_at_one: float
    best: BestTau
    coverage: dict
    unknown: float
    path: TauPath = dataclasses.field(repr=False)
    weight: np.ndarray = dataclasses.field(repr=False)

    def __float__(self):
        return self.tau


def tune_tau(
    model_or_logits,
    validation_data,
    class_counts,
    *,
    cross_fit=None,
    num_examples=None,
    ignore_class=None,
    output="auto",
    standard_errors=1.0,
    min_examples=5,
    folds=5,
    seed=0,
    batch_size=256,
):
    """The τ for `kla.adjust` from held-out data: the nearest to 1 that is within one standard error of the best.

    The exact path of balanced accuracy over τ (`kla.TauPath`) has its best value at some τ*. The result is 1 if
    `v(τ*) − v(1) ≤ SE`, the standard error of this difference on the same examples. Otherwise it is the middle of the
    piece of the path nearest to 1, between 1 and τ*, on which `v(τ*) − v(τ) ≤ SE`. Classes with too few examples for a
    recall of their own share one with classes of similar training frequency.

    A class without examples takes part in such a pool under two conditions. A class with examples must be at most twice
    as frequent or as rare. The pool must have at least as many examples as classes. Nothing is known about the other
    classes, a share `u`: their recall may change by anything from −1 to 1. So the condition becomes
    `v(τ*) − v(τ) ≤ SE + u/(1 − u)`, with `v` the mean over the known classes. If every class has held-out examples, `u`
    is 0. If `u` is at least 1/2, τ stays 1.

    Args:
        model_or_logits: a trained, unadjusted `keras.Model` (a `kla.layers.ManyClassModel` needs a head with `tau=0`);
            or its logits `[N, L]` on the held-out examples; or with `cross_fit` a function `train(x, y)` that returns a
            model trained on those examples.
        validation_data: `(x, y)` arrays, or a dataset of batches `(x, y)`; with logits the labels `[N]` alone; with
            `cross_fit` the training data `(x, y)`, arrays.
        class_counts: `[L]` training examples of each class, as in `kla.adjust`.
        cross_fit: number of folds K, if you have no validation set. `train` is called K times, each time without one
            fold. The logits of this fold are used, with the prior of the other folds.
        num_examples: as in `kla.adjust`, for independent labels.
        ignore_class: an id whose rows are left out, such as 255 for unlabeled pixels. Keras masks are not seen: give
            padded positions such a label. For independent labels the mark of an unknown target, such as −1: each label
            is judged on the examples where it is known.
        output: what the model gives, as in `kla.adjust`.
        standard_errors: the least difference that counts, in standard errors. 0 gives the τ of the highest accuracy if
            every class is known.
        min_examples: held-out examples that a class needs to have a recall of its own.
        folds: the number of folds of the cross-validated accuracy that is reported.
        seed: the seed of the folds.
        batch_size: the batch size of prediction.

    Returns:
        A `TunedTau`.

    Raises:
        ValueError: for a model that is adjusted already, logits that are NaN or probabilities, labels that do not fit,
            examples of one class alone, fewer examples than folds.

    Warns:
        UserWarning: if classes have too few examples for a recall of their own, with their number and the number of
            classes without examples; and if the recall of some classes is unknown, with their number and the gain that
            is needed. And if the whole interval lies below 0, as it does where the classes of logits and counts are
            in different orders.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 500)
    >>> x = rng.normal(size=1000) + 2 * labels - 1
    >>> log_odds = np.log(0.95 / 0.05) - 2 * x  # of class 0, at a prior of 95 %
    >>> logits = 2 * np.stack([log_odds, 0 * x], axis=-1)  # of an overconfident model: τ = 2 is right
    >>> tuned = tune_tau(logits, labels, class_counts=[950, 50])
    >>> round(tuned.tau, 2), [round(tau, 2) for tau in tuned.interval]
    (1.68, [1.68, 2.43])
    >>> round(tuned.balanced_accuracy_at_one, 3), round(tuned.balanced_accuracy, 3)
    (0.769, 0.839)

    Reference: Menon et al. (2021), §4.2 (τ by cross-validation); Breiman et al. (1984), the one-standard-error rule;
    Manski (1989), bounds where what is not observed may be anything.
    """
    _checks.check_integer(min_examples, "min_examples", minimum=1)
    _checks.check_integer(folds, "folds", minimum=2)
    standard_errors = _checks.check_number(standard_errors, "standard_errors", minimum=0)
    seed, batch_size = _checks.check_seed(seed), _checks.check_integer(batch_size, "batch_size", minimum=1)
    prior, path = _read(
        model_or_logits,
        validation_data,
        class_counts,
        num_examples,
        cross_fit=cross_fit,
        seed=seed,
        ignore_class=ignore_class,
        prediction={"output": output, "batch_size": batch_size},
    )
    size = path.recall_ids.size
    if size < folds:
        raise ValueError(
            f"There must be at least as many held-out examples as folds. Received {size} for folds={folds}: lower "
            "`folds` to at most that, or give more examples."
        )
    if np.count_nonzero(path.examples) < 2:
        raise ValueError(
            "There must be held-out examples of at least two classes. Received examples of "
            f"{_checks.name_classes(path.examples)} alone: a τ that favors this class would look best."
        )
    # Independent labels: how often each label is off, and how often it is on.
    tallies = [prior.num_examples - prior.counts, prior.counts] if prior.are_labels else [prior.counts]
    frequencies = np.stack(tallies, axis=-1).ravel()
    bucket = pool(path.examples, frequencies, min_examples)
    known = known_classes(path.examples, frequencies, bucket)
    unknown = 1.0 - known.sum() / path.examples.size
    options = {"standard_errors": standard_errors, "unknown": unknown}
    weight = _weights(path.recall_ids, bucket, known)
    tau, best, interval = _choose(path.low, path.high, weight, **options)
    few, empty = int((path.examples < min_examples).sum()), int((path.examples == 0).sum())
    coverage = {"classes": path.examples.size, "pooled": few, "empty": empty, "buckets": np.unique(bucket).size}
    if interval[1] < 0:
        warnings.warn(
            f"Every good τ is negative, such as {tau:.2g}: it makes rare classes rarer. Check that logits, labels "
            "and `class_counts` have their classes in the same order, and that the logits were not adjusted before.",
            stacklevel=2,
        )
    if few:
        warnings.warn(
            f"{few} of {path.examples.size} classes have fewer than {min_examples} held-out examples ({empty} have "
            "none): their recall is pooled with the recall of classes of similar frequency, "
            f"{coverage['buckets']} means in all." + _told(path.examples, frequencies, unknown, tau),
            stacklevel=2,
        )
    fold = _stratified_folds(bucket[path.recall_ids], folds, seed)
    right = _right_by_others(path, fold, bucket, known, **options)
    accuracies = (float(weight[is_right].sum()) for is_right in (right, path.is_right(1.0)))
    return TunedTau(tau, interval, *accuracies, best, coverage, unknown, path, weight)


def _read(model_or_logits, validation_data, class_counts, num_examples, *, cross_fit, seed, ignore_class, prediction):
    """The prior, and the `TauPath` of the held-out examples."""
    is_model = cross_fit is not None or isinstance(model_or_logits, keras.Model)
    names = None if is_model else _reading.names_of(model_or_logits, class_counts=class_counts)
    prior = as_prior(class_counts, num_examples, class_names=names)
    if cross_fit is not None:
        options = {"folds": cross_fit, "seed": seed, "ignore_class": ignore_class, **prediction}
        return prior, _cross_fit(model_or_logits, validation_data, prior, **options)
    if isinstance(model_or_logits, layers.ManyClassModel):
        _checks.check_choice(prediction["output"], "output", ("auto", "logits"))
        given = (model_or_logits, validation_data, prior, ignore_class, prediction["batch_size"])
        return prior, _path_of_many_classes(*given)
    if isinstance(model_or_logits, keras.Model):
        batches = predict.labels_and_logits(model_or_logits, validation_data, **prediction)
        return prior, TauPath.from_batches(batches, prior, ignore_class=ignore_class)
    if isinstance(validation_data, tuple):
        raise _checks.ArgumentError(
            "validation_data",
            "With logits, `validation_data` are the labels alone, [N]. Received a tuple: give its last part, or the "
            "model in place of the logits.",
        )
    options = {"num_examples": num_examples, "ignore_class": ignore_class}
    return prior, TauPath(validation_data, model_or_logits, class_counts, **options)


def _right_by_others(path, fold, bucket, known, **options):
    """Whether each example is right at the τ that the examples of the other folds choose."""
    right = np.zeros(fold.size, bool)
    for k in np.unique(fold):
        kept = fold != k
        weight = _weights(path.recall_ids[kept], bucket, known)
        tau = _choose(path.low[kept], path.high[kept], weight, **options)[0]
        right[~kept] = path.is_right(tau)[~kept]
    return right


def _told(examples, frequencies, unknown, tau):
    """The part of the warning about classes whose recall is unknown."""
    if not unknown:
        return ""
    logs, empty = np.log(frequencies), examples == 0
    kind = "rare" if logs[empty].mean() < logs[~empty].mean() else "frequent"
    gain = f"tau leaves 1 only for a gain of more than {unknown / (1 - unknown):.2g} on the other classes."
    return (
        f" {round(unknown * examples.size)} of {examples.size} classes, mostly the {kind} ones, have no held-out "
        f"example, and classes near them in frequency (within a factor of {NEAR:g}) have too few for them. Their "
        f"recall is unknown: {'tau stays 1.' if tau == 1 else gain} Give held-out examples of these classes; "
        "`cross_fit` has some of every class that has two training examples."
    )


def _path_of_many_classes(model, data, prior, ignore_class, batch_size):
    """The path of a `ManyClassModel`; the scores of its head are computed in chunks."""
    head = model.head
    if not head.is_plain:
        raise ValueError(
            f"Choosing τ needs a model whose prior was not corrected. Received the head {head.name!r}, which trains "
            f"the adjusted loss with tau={_checks.shown(np.asarray(head.tau).tolist())}: train the head with tau=0."
        )
    _guard.check_plain(model, "Choosing τ")
    _checks.check_length(prior.counts, head.units, "class_counts", f"head {head.name!r}")
    batches = predict.labels_and_features(model, data, batch_size=batch_size)
    weights = [None if w is None else keras.ops.convert_to_numpy(w)[: head.units] for w in (head.kernel, head.bias)]
    options = {"class_axis": 0, "chunk_size": head.chunk_size, "ignore_class": ignore_class}
    return TauPath.from_features(batches, prior, kernel=weights[0], bias=weights[1], **options)


def pool(examples, frequencies, min_examples):
    """`[L]` a bucket for every class: its own, or one shared with its neighbors by frequency until it is filled."""
    bucket = np.arange(examples.size)
    by_frequency = np.argsort(-frequencies, kind="stable")
    few = by_frequency[examples[by_frequency] < min_examples]
    pooled, gathered = [], min_examples
    for c in few:
        if gathered >= min_examples:
            pooled.append([])
            gathered = 0
        pooled[-1].append(c)
        gathered += examples[c]
    if len(pooled) > 1 and gathered < min_examples:
        pooled[-2:] = [pooled[-2] + pooled[-1]]
    for members in pooled:
        bucket[members] = members[0]
    # A class whose pool has no example near it in frequency joins the pool of the nearest class with examples.
    is_stray = _nearest(examples, frequencies, bucket)[1] > _FAR
    bucket[is_stray] = bucket[_nearest(examples, frequencies, np.zeros_like(bucket))[0][is_stray]]
    return bucket


def known_classes(examples, frequencies, bucket):
    """The number of classes whose recall each bucket knows: those near its examples, and no more than it has
    examples."""
    is_near = _nearest(examples, frequencies, bucket)[1] <= _FAR
    return np.minimum(np.bincount(bucket, is_near), np.bincount(bucket, examples))


def _nearest(examples, frequencies, bucket):
    """For every class the nearest class in frequency with examples, in the same bucket, and its distance in logs."""
    order = np.lexsort((frequencies, bucket))
    place, has_some = np.arange(order.size), examples[order] > 0
    before = np.maximum.accumulate(np.where(has_some, place, 0))
    after = np.minimum.accumulate(np.where(has_some, place, order.size - 1)[::-1])[::-1]
    sides, logs = np.stack([before, after]), np.log(frequencies[order])
    is_one = has_some[sides] & (bucket[order][sides] == bucket[order])
    far = np.where(is_one, np.abs(logs[sides] - logs), np.inf)
    nearest, distance = np.empty_like(order), np.empty(order.size)
    nearest[order] = order[sides[far.argmin(axis=0), place]]
    distance[order] = far.min(axis=0)
    return nearest, distance


def _weights(recall_ids, bucket, known):
    """Each example's weight in balanced accuracy: a bucket counts for its known classes; its examples count equally."""
    examples = np.bincount(bucket[recall_ids], minlength=known.size)
    share = np.divide(known, examples, out=np.zeros(known.size), where=examples > 0)
    return share[bucket[recall_ids]] / known[examples > 0].sum()


def _choose(low, high, weight, *, standard_errors, unknown):
    """The τ nearest to 1 within `standard_errors` of the best, the best, and the range of all such τ."""
    steps = Steps(low, high, weight)
    best = BestTau.of(*steps.highest())
    right = (low <= best.tau) & (best.tau <= high)
    # The squared weights of examples that change: Σ w²·(right at τ* − right at τ)² is a step function too.
    lost, gained = (Steps(low[some], high[some], weight[some] ** 2) for some in (right, ~right))
    left, right_end, _ = steps.pieces()
    taus = np.array([*map(robust_point, left, right_end), 1.0, best.tau])
    changed = np.square(weight[right]).sum() - lost.at(taus) + gained.at(taus)
    margin = standard_errors * np.sqrt(np.maximum(changed, 0.0)) + unknown / (1.0 - unknown)
    is_close = best.value - steps.at(taus) <= margin + 1e-12
    interval = (
        float(np.append(left, [1.0, best.low])[is_close].min()),
        float(np.append(right_end, [1.0, best.high])[is_close].max()),
    )
    between = taus[is_close & ((taus - 1.0) * (taus - best.tau) <= 0)]
    return float(between[np.abs(between - 1.0).argmin()]), best, interval


def _stratified_folds(strata, folds, seed):
    """`[N]` a fold for every example; each stratum is spread over the folds as evenly as possible."""
    shuffled = np.random.default_rng(seed).permutation(strata.size)
    fold = np.empty(strata.size, "int64")
    fold[shuffled[np.argsort(strata[shuffled], kind="stable")]] = np.arange(strata.size) % folds
    return fold


def _cross_fit(train, data, prior, *, folds, seed, ignore_class, output, batch_size):
    """The path of out-of-fold logits, each fold adjusted by the prior that its own model saw."""
    _checks.check_integer(folds, "cross_fit", minimum=2)
    if prior.are_labels:
        raise _checks.ArgumentError(
            "cross_fit", "`cross_fit` is for classes that exclude each other; for independent labels give logits."
        )
    if isinstance(train, keras.Model) or not callable(train) or not isinstance(data, tuple) or len(data) != 2:
        raise _checks.ArgumentError(
            "cross_fit",
            "With `cross_fit` the model is trained again for each fold: give a function train(x, y) that returns a "
            f"trained model, and the training data (x, y). Received: {type(train).__name__}, {type(data).__name__}.",
        )
    _scores.check_rows(data[1], data[0], ("y", "x"))
    x, y = predict.as_arrays(data[0]), data[1]
    if _checks.check_ignore_class(ignore_class) is not None:
        y = _labels.as_labels(y, "y")
        y, rows = _reading.without_ignored(y, np.arange(len(y))[:, None], ignore_class, name="x")
        x = predict.take(x, rows[:, 0])
    y = _reading.as_ids(y, len(y), prior.size)
    if y.size < folds:
        raise ValueError(f"There must be at least as many examples as folds. Received {y.size} for cross_fit={folds}.")
    fold, paths = _stratified_folds(y, folds, seed), []
    for k in range(folds):
        others = fold != k
        seen = priors.count_classes(y[others], num_classes=prior.size)
        classes, rows = np.flatnonzero(seen), np.flatnonzero(~others & (seen[y] > 0))
        if not rows.size or classes.size < 2:  # a model of one class has no τ
            continue
        model = train(predict.take(x, others), y[others])
        batches = predict.labels_and_logits(
            model, (predict.take(x, rows), y[rows]), output=output, batch_size=batch_size
        )
        logits = np.concatenate([_reading.Reader(prior.size).examples(*batch)[1] for batch in batches])
        paths.append(TauPath(np.searchsorted(classes, y[rows]), logits[:, classes], seen[classes]))
        paths[-1].recall_ids = classes[paths[-1].recall_ids]
    if not paths:
        raise ValueError(
            "`cross_fit` needs two examples of two classes: a model cannot predict a class it never saw. Received "
            f"{_checks.shown(np.bincount(y, minlength=prior.size).tolist())} examples of the classes."
        )
    return TauPath.join(paths, prior)
