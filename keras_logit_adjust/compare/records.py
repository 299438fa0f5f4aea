"""The stored results of a comparison: the outputs of trained models, and the predictions of every row from them."""

import dataclasses

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The part of a seed's data that is kept after training.

    Attributes:
        name: the name by which it was loaded.
        profile: as a `LongTailDataset` has it.
        seed: the seed of the draw.
        split_hash: the hash of the data.
        class_counts: `[L]` training examples of each class.
        class_names: their `L` names.
        example_shape: the shape of `x` without the first axis.
        test_labels: `[N]`.
        validation_labels: `[V]`, or None.
    """

    name: str
    profile: str
    seed: int
    split_hash: str
    class_counts: np.ndarray
    class_names: list
    example_shape: tuple
    test_labels: np.ndarray
    validation_labels: np.ndarray | None

    @classmethod
    def of(cls, dataset):
        """The part of a `LongTailDataset` of arrays."""
        own = {
            key: getattr(dataset, key)
            for key in ("name", "profile", "seed", "split_hash", "class_counts", "class_names")
        }
        validation = None if dataset.validation is None else dataset.validation[1]
        own["example_shape"] = dataset.train[0].shape[1:]
        return cls(**own, test_labels=dataset.test[1], validation_labels=validation)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The part of one trained model that is kept.

    Attributes:
        method: the row that it was trained for.
        seed: the seed of its data and its initialization.
        split_hash: the hash of the data.
        test_logits: `[N, L]`.
        validation_logits: `[V, L]`, or None without validation examples.
        class_norms: `[L]` norms of the class weights of a dense head, or None.
        bias: `[L]` of a dense head, or None.
        penalty: chosen by the recipe "linear_probe", or None.
        scaling: the same.
        out_of_fold_logits: `[M, L]` of training examples in its cross-validation, or None.
        out_of_fold_labels: `[M]`, or None.
        loss: `[E]` training losses with the penalty on the weights, one for each epoch.
        seconds: the time of the training.
        weight_penalty: `[E]`, of the weights that each epoch ends with; 0 for a model without a penalty.
        train_logits: `[M, L]` of the training examples, not shifted, mirrored or mixed.
        train_labels: `[M]`.
    """

    method: str
    seed: int
    split_hash: str
    test_logits: np.ndarray
    loss: np.ndarray
    seconds: float
    validation_logits: np.ndarray | None = None
    class_norms: np.ndarray | None = None
    bias: np.ndarray | None = None
    penalty: float | None = None
    scaling: str | None = None
    out_of_fold_logits: np.ndarray | None = None
    out_of_fold_labels: np.ndarray | None = None
    weight_penalty: np.ndarray | None = None
    train_logits: np.ndarray | None = None
    train_labels: np.ndarray | None = None

    def belongs_to(self, split):
        """Whether it was trained on exactly this `Split` and has finite logits of all held-out examples."""
        if self.split_hash != split.split_hash or self.seed != split.seed:
            return False
        size, sets = split.class_counts.size, [(self.test_logits, split.test_labels)]
        if split.validation_labels is not None:
            sets.append((self.validation_logits, split.validation_labels))
        if self.out_of_fold_labels is not None:
            sets.append((self.out_of_fold_logits, self.out_of_fold_labels))
        if self.train_labels is not None:
            sets.append((self.train_logits, self.train_labels))
        has_logits = all(
            x is not None and x.shape == (y.size, size) and x.dtype.kind == "f" and np.isfinite(x).all()
            for x, y in sets
        )
        head = [part for part in (self.class_norms, self.bias) if part is not None]
        has_head = all(part.shape == (size,) and part.dtype.kind == "f" and np.isfinite(part).all() for part in head)
        return has_logits and has_head and isinstance(self.seconds, (int, float))


def combine(runs):
    """The run of one model, or the combined run of several: its logits are the means of their log-probabilities."""
    if len(runs) == 1:
        return runs[0]
    means = {}
    for name in ("test_logits", "validation_logits"):
        logits = [getattr(run, name) for run in runs]
        if logits[0] is not None:
            log_probabilities = [special.log_softmax(values.astype("float64"), axis=-1) for values in logits]
            means[name] = np.mean(log_probabilities, axis=0).astype("float32")
    return dataclasses.replace(runs[0], class_norms=None, bias=None, **means)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The test logits of every row, and the runs they come from.

    Attributes:
        labels: `[N]` test labels.
        class_counts: `[S, L]` training examples, for each seed.
        logits: `{row: [S arrays of N × L]}`.
        runs: `{trained row: [S runs]}`.
        splits: the `Split` of each seed.
    """

    labels: np.ndarray
    class_counts: np.ndarray
    logits: dict
    runs: dict
    splits: tuple = ()

    def predicted(self, name):
        """The classes `[S, N]` that a row predicts."""
        return np.stack([logits.argmax(axis=-1) for logits in self.logits[name]])

    def hits(self, name):
        """Whether a row is right, `[S, N]`."""
        return self.predicted(name) == self.labels

    def arrays(self):
        """The content of predictions.npz."""
        norms = {f"class_norms_{name}": [run.class_norms for run in runs] for name, runs in self.runs.items()}
        by_seed = {
            f"{name}_seed{seed}": values
            for name, per_seed in {**self.logits, **norms}.items()
            for seed, values in enumerate(per_seed)
            if values is not None
        }
        return {"labels": self.labels, "class_counts": self.class_counts, **by_seed}
