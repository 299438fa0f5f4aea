"""Made-up logits in the place of training, for what `compare` and the studies do with them."""

import zlib

import numpy as np

from keras_logit_adjust.compare import report, training
from keras_logit_adjust.compare.records import Run


def random_logits(rng, y, num_classes):
    return rng.normal(size=(y.size, num_classes))


def fake_training(monkeypatch, *, mark, logits=random_logits):
    """Trains nothing and draws no figures from now on; a run gets the same numbers whenever it is made again.

    Args:
        mark: of `(name, dataset, config)`, what the returned list shall hold of each run.
        logits: of `(rng, y, num_classes)`, those of a split with the labels `y`.

    Returns:
        The list of marks, one for each run that was asked for.
    """
    marks = []

    def train(name, dataset, *, config, **_):
        marks.append(mark(name, dataset, config))
        run = (name, dataset.seed, config.optimizer, config.label_noise)
        rng, size = np.random.default_rng(zlib.crc32(repr(run).encode())), dataset.num_classes
        splits = {key: getattr(dataset, key) for key in ("test", "validation")}
        kept = {
            f"{key}_logits": logits(rng, split[1], size).astype("float32")
            for key, split in splits.items()
            if split is not None
        }
        head = {"class_norms": rng.uniform(0.5, 2, size), "bias": rng.normal(size=size)}
        about = {"method": name, "seed": dataset.seed, "split_hash": dataset.split_hash}
        return Run(**about, loss=np.array([1.0]), seconds=0.5, **kept, **head)

    monkeypatch.setattr(report, "_figures", lambda results, predictions: {})
    monkeypatch.setattr(training, "train", train)
    return marks
