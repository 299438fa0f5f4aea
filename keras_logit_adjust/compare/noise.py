"""Label noise of the kind that adjustment amplifies: examples of a frequent class have the label of a rare one."""

import dataclasses
import hashlib

import numpy as np

from keras_logit_adjust._checks import ArgumentError


def mislabel(dataset, share):
    """The data set with a share of its largest class, in training, labeled as its smallest class.

    Args:
        dataset: a `LongTailDataset` of arrays.
        share: in [0, 1); at least one example moves where it is above 0, and one stays.

    Returns:
        A `LongTailDataset` with other training labels, counts as a user would count them, and a hash of its own.

    Raises:
        ValueError: where all classes are equally large.

    Example:

    >>> from keras_logit_adjust import data
    >>> clean = data.load("fashion_mnist_lt", seed=0)
    >>> mislabel(clean, 0.01).class_counts.tolist()
    [891, 539, 323, 193, 116, 69, 41, 24, 14, 18]
    """
    if share == 0:
        return dataset
    x, y = dataset.train
    head, tail = int(dataset.class_counts.argmax()), int(dataset.class_counts.argmin())
    if head == tail:
        raise ArgumentError(
            "label_noise",
            f"`label_noise` needs a largest and a smallest class. Received {dataset.class_counts[0]} of each.",
        )
    members = np.flatnonzero(y == head)
    number = min(max(1, round(share * members.size)), members.size - 1)
    moved = np.random.default_rng([dataset.seed, members.size]).choice(members, number, replace=False)
    noisy = y.copy()
    noisy[moved] = tail
    digest = hashlib.sha256(dataset.split_hash.encode() + np.sort(moved).astype("<i8").tobytes())
    return dataclasses.replace(
        dataset,
        train=(x, noisy),
        class_counts=np.bincount(noisy, minlength=dataset.num_classes),
        split_hash=digest.hexdigest(),
    )
