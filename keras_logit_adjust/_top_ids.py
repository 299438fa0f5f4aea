"""Predictions as ids of the best classes, in place of one score for each class."""

import collections.abc
import dataclasses
import math
import typing

import keras
from keras import ops

from keras_logit_adjust import _checks, _labels

_OF_SCORES = (
    "The metrics of a `ManyClassPredictor` must take `y_pred.ids`, as `kla.metrics.BalancedAccuracy(num_classes, k=5)` "
    "and the others of `kla.metrics` do."
)


@dataclasses.dataclass(frozen=True, eq=False)
class TopIds:
    """The ids `[..., k]` of the best classes of each position, the best first. Their scores may be unknown.

    Keras gives a metric the tensors of a dict one by one. For Keras this object is one value.
    """

    ids: typing.Any
    scores: typing.Any = None

    def __getattr__(self, name):  # metrics of scores read attributes such as `shape`
        raise AttributeError(f"Ids of the best classes have no {name!r}. {_OF_SCORES}")

    def __array__(self, dtype=None, copy=None):  # Keras's metrics convert their predictions to a tensor
        raise TypeError(f"Ids of the best classes are no array of scores. {_OF_SCORES}")

    def best(self, k):
        """The first `k` of the ids. The id is −1 (no class) if its score is −inf, or one of the row's scores is NaN."""
        if self.ids.shape[-1] < k:
            raise _checks.ArgumentError(
                "k",
                f"`k` must be at most the number of ids of each position, {self.ids.shape[-1]}. Received: k={k}: give "
                f"more of the best classes, `model.predictor(k={k})`.",
            )
        ids = self.ids[..., :k]
        if self.scores is None:
            return ids
        # TensorFlow ranks NaN below all numbers. In its place it finds id 0 with the score −inf.
        is_score = ops.greater(_labels.at_least_float32(self.scores[..., :k]), -math.inf)
        is_score = ops.logical_and(is_score, ops.expand_dims(are_numbers(self.scores), -1))
        return ops.where(is_score, ids, ops.full_like(ids, -1))

    def have(self, labels, k):
        """Whether each of the labels `[..., m]` is among the first `k` ids: bool `[..., m]`."""
        pairs = ops.equal(ops.expand_dims(labels, -1), ops.expand_dims(self.best(k), -2))
        return ops.any(pairs, axis=-1)


def are_numbers(scores):
    """Whether none of the scores `[..., k]` of a position is NaN: bool `[...]`."""
    return ops.all(ops.equal(scores, scores), axis=-1)


def read(y_pred):
    """`y_pred` as `TopIds` if it is a dict of ids (and scores), the output of a predictor. None for scores alone.

    An array of ids is not accepted: it looks like scores if it has as many ids as there are classes.
    """
    if isinstance(y_pred, collections.abc.Mapping):
        if "ids" not in y_pred or not {*y_pred} <= {"ids", "scores"}:
            raise ValueError(
                "Predictions that are a dict must hold the `ids` of the best classes, and may hold their `scores`. "
                f"Received the keys {list(y_pred)}."
            )
        return as_top_ids(y_pred["ids"], y_pred.get("scores"))
    return y_pred if isinstance(y_pred, TopIds) else None


def as_top_ids(ids, scores=None):
    """Checked `TopIds`, from ids `[..., k]` with static k, and scores of the same shape or None."""
    ids = _labels.ids_to_tensor(ids, "ids")
    shape = tuple(ids.shape)
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if "int" not in dtype or len(shape) < 2 or shape[-1] is None:
        raise _checks.ArgumentError(
            "ids",
            "The `ids` of the best classes must be integers [..., k], the best of each position first, k static. "
            f"Received shape {shape} of {dtype}: of scores give `keras.ops.top_k(scores, k)[1]`, of the best class "
            "alone `ids[:, None]`.",
        )
    if dtype not in ("int32", "int64"):  # uint8 cannot hold −1, the id of no class
        ids = ops.cast(ids, "int32")
    if scores is None:
        return TopIds(ids)
    scores = _labels.to_tensor(scores, "scores")
    pairs = zip(tuple(scores.shape), shape, strict=False)
    if len(scores.shape) != len(shape) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise _checks.ArgumentError(
            "scores",
            f"`scores` must have the shape of `ids`, {shape}. Received shape {tuple(scores.shape)}.",
        )
    return TopIds(ids, scores)
