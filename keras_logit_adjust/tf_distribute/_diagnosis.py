"""The description of a batch whose loss is not finite."""

import math

import keras
import numpy as np

from keras_logit_adjust.tf_distribute import _cluster

_MOST_SHOWN = 20


def describe_batch(labels, *, output_shapes, strategy):
    """The number of examples of each class in a (distributed) batch, and the ids outside the classes, as text.

    Args:
        labels: the `y` of the batch, or None.
        output_shapes: the shapes of the model's outputs, in the same order; None if they are not known.
        strategy: the strategy whose replicas hold the batch.
    """
    leaves = [leaf for leaf in keras.tree.flatten(labels) if leaf is not None]
    if not leaves:
        return "unknown, because it has no labels"
    widths = [None] * len(leaves) if output_shapes is None else [shape[-1] for shape in output_shapes]
    if len(leaves) != len(widths):
        return f"unknown, with {len(leaves)} labels for {len(widths)} outputs"
    return "; ".join(
        _describe(_cluster.gather(strategy, leaf).numpy(), width) for leaf, width in zip(leaves, widths, strict=True)
    )


def _describe(labels, width):
    if labels.ndim > 1 and labels.shape[-1] > 1 and width in (None, labels.shape[-1]):
        counts = (labels > 0).sum(axis=tuple(range(labels.ndim - 1)))
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(labels.astype("float64"), return_counts=True)
    pairs = [f"{class_id:.15g}: {count}" for class_id, count in zip(ids, counts, strict=True)]
    limit = math.inf if width is None else width
    outside = [f"{class_id:.15g}" for class_id in ids if not (0 <= class_id < limit and class_id == int(class_id))]
    note = f" (not among the ids of {width or 'the'} classes: {_shorten(outside)})" if outside and limit > 1 else ""
    return f"{{{_shorten(pairs)}}}{note}"


def _shorten(texts):
    return ", ".join(texts[:_MOST_SHOWN]) + ", …" * (len(texts) > _MOST_SHOWN)
