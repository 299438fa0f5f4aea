"""What is said of a batch whose loss is not finite."""

import keras
import numpy as np

_MOST_SHOWN = 20


def describe_batch(labels, output_shapes, strategy):
    """How many examples of each class a (distributed) batch holds, and which labels are no class; one text an output.

    Args:
        labels: the `y` of the batch.
        output_shapes: of the model, in the same order.
        strategy: the strategy whose replicas hold the batch.
    """
    leaves = keras.tree.flatten(labels)
    widths = [shape[-1] for shape in output_shapes]
    if len(leaves) != len(widths):
        return f"unknown, with {len(leaves)} labels for {len(widths)} outputs"
    wholes = [strategy.gather(leaf, axis=0).numpy() for leaf in leaves]
    return "; ".join(_describe(whole, width) for whole, width in zip(wholes, widths, strict=True))


def _describe(labels, width):
    if labels.ndim > 1 and labels.shape[-1] == width > 1:
        counts = (labels > 0).sum(axis=tuple(range(labels.ndim - 1)))
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(labels, return_counts=True)
    pairs = [f"{class_id:g}: {count}" for class_id, count in zip(ids, counts, strict=True)]
    outside = [f"{class_id:g}" for class_id in ids if not (0 <= class_id < width and class_id == int(class_id))]
    note = f" (not among the ids of {width} classes: {_shorten(outside)})" if outside and width > 1 else ""
    return f"{{{_shorten(pairs)}}}{note}"


def _shorten(texts):
    return ", ".join(texts[:_MOST_SHOWN]) + ", …" * (len(texts) > _MOST_SHOWN)
