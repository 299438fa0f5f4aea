"""Precision of the top k of several labels. A rare label weighs more, because more of its examples are not marked."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision, _scores, _top_ids, priors
from keras_logit_adjust.metrics._float32 import Float32Metric


@keras.saving.register_keras_serializable(package="keras_logit_adjust")
class PropensityScoredPrecision(Float32Metric):
    """Propensity-scored precision of the top k labels, PSP@k, divided by the best possible value.

    `Σ_i Σ_{l ∈ top k of i} y_il / p_l`, divided by the same sum where the top k are the labels of i of smallest `p_l`.
    `p_l = 1 / (1 + C·(n_l + b)^−a)` is the propensity: the share of the examples of label l that are known to have it;
    `C = (log N − 1)·(b + 1)^a`. Annotators miss rare labels more often, so a hit on a rare label counts for more.

    Args:
        positive_counts: `[L]` training examples of each label; 0 is allowed. Or a `Prior` of independent labels.
        num_examples: the number of training examples `N`, at least 3. A `Prior` knows it.
        k: how many labels of each example are judged.
        a: exponent of the propensity. Jain et al. took 0.5 for Wikipedia and 0.6 for Amazon's data.
        b: offset of the counts, above 0; 0.4 for Wikipedia, 2.6 for Amazon's data.
        ignore_class: the id that fills the rows of examples with fewer labels.
        name: name of the metric.

    Labels are ids `[..., M]`, each row filled up with `ignore_class` (or `[...]`, one label each). If an id is twice in
    a row, it counts once. Predictions are the ids `[..., K ≥ k]` of the best labels, the best first. They are an array
    of integers, or a dict of `ids` and `scores` from the predictor of a `kla.layers.ManyClassModel`. Rows that are `L`
    wide are refused, because they look like a 0 or 1 for each label.

    Result: a scalar in [0, 1]; NaN before any label was seen, and after an id outside [0, L).

    Raises:
        ValueError: for counts that are negative or above `num_examples`, `k` above L, fewer predictions than `k`,
            predictions that are scores, rows of 0 and 1.

    Example:

    >>> metric = PropensityScoredPrecision([50, 5, 0], num_examples=100, k=1)
    >>> metric.update_state(np.array([[0, 2], [1, -1]]), np.array([[0], [1]]))
    >>> p = metric.propensities
    >>> value = (1 / p[0] + 1 / p[1]) / (1 / p[2] + 1 / p[1])  # label 2 is rarer: 0 was not the best hit
    >>> bool(np.isclose(float(metric.result()), value)), p.round(2).tolist()
    (True, [0.59, 0.32, 0.17])

    Reference: Jain, Prabhu and Varma (2016), "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking &
    Other Missing Label Applications" (the propensities); divided by the best reachable as in the Extreme Classification
    Repository of Bhatia et al. (2016).
    """

    def __init__(self, positive_counts, num_examples=None, *, k=1, a=0.55, b=1.5, ignore_class=-1, name=None):
        self.k = _checks.check_integer(k, "k", minimum=1)
        default = "propensity_scored_precision" if self.k == 1 else f"top_{self.k}_propensity_scored_precision"
        super().__init__(name or default)
        if isinstance(positive_counts, priors.Prior):
            known = priors.as_prior(positive_counts, num_examples, independent=True, name="positive_counts")
            positive_counts, num_examples = known.counts, known.num_examples  # both with their pseudo-examples
        self.positive_counts = _checks.as_true_counts(positive_counts, "positive_counts", allow_zero=True)
        self.k = _checks.check_integer(k, "k", 1, self.positive_counts.size)
        self.num_examples = _checks.check_number(num_examples, "num_examples", 3)  # C is negative if N is below e
        _checks.refuse_numbers(
            self.positive_counts > self.num_examples,
            self.positive_counts,
            "positive_counts",
            f"Every number in `positive_counts` must be at most num_examples={self.num_examples:g}.",
        )
        self.a, self.b = _checks.check_number(a, "a", 0), _checks.check_positive(b, "b")
        self.ignore_class = _checks.check_ignore_class(ignore_class)
        scale = (np.log(self.num_examples) - 1) * (self.b + 1) ** self.a
        self.propensities = 1 / (1 + scale * (self.positive_counts + self.b) ** -self.a)
        self._weight = (1 / self.propensities).astype("float32")
        self.reached = self.add_variable((), "zeros", dtype="float32", name="reached")
        self.reachable = self.add_variable((), "zeros", dtype="float32", name="reachable")

    def update_state(self, y_true, y_pred, sample_weight=None):
        _scores.check_rows(y_true, y_pred, ("y_true", "y_pred"))
        top = _top_ids.read(y_pred) or _top_ids.as_top_ids(y_pred)
        leading = tuple(top.ids.shape)[:-1]
        y_true = y_true if ops.is_tensor(y_true) else _labels.as_labels(y_true)
        if len(y_true.shape) == len(leading):
            y_true = y_true[..., None]
        if y_true.shape[-1] == self.positive_counts.size:
            raise ValueError(
                "`y_true` must be rows of label ids, filled up with `ignore_class`. Received shape "
                f"{tuple(y_true.shape)}, as wide as there are labels: of rows of 0 and 1 give the ids, "
                "`np.flatnonzero(row)`; of ids that fill whole rows add a column of `ignore_class`."
            )
        labels = _labels.read_ids(
            y_true, (*leading, y_true.shape[-1]), self.positive_counts.size, ignore_class=self.ignore_class
        )
        counted = _first_of_each(labels.ids, labels.kept)
        own = _labels.zero_masked(ops.take(ops.convert_to_tensor(self._weight), labels.ids), counted)
        reached = ops.sum(ops.where(top.have(labels.ids, self.k), own, 0.0), axis=-1)
        reachable = ops.sum(-ops.sort(-own, axis=-1)[..., : self.k], axis=-1)
        # `where`, because XLA turns NaN times false into 0.
        reachable = ops.where(ops.all(labels.proper, axis=-1), reachable, np.nan)
        weight = ops.ones_like(reached)
        if sample_weight is not None:
            weight = weight * _labels.align_weight(sample_weight, weight)
        mask = _labels.combine_masks(len(leading), _keras.mask_of(top.ids))
        self.reached.assign_add(ops.sum(_labels.zero_masked(weight * reached, mask)))
        self.reachable.assign_add(ops.sum(_labels.zero_masked(weight * reachable, mask)))

    def result(self):
        reached, reachable = ops.convert_to_tensor(self.reached), ops.convert_to_tensor(self.reachable)
        return ops.where(ops.not_equal(reachable, 0.0), _precision.divide_no_nan(reached, reachable), np.nan)

    def get_config(self):
        names = ("num_examples", "k", "a", "b", "ignore_class", "name")
        own = {name: getattr(self, name) for name in names}
        return {"positive_counts": self.positive_counts.tolist(), **own}


def _first_of_each(ids, kept):
    """Whether each of the ids `[..., M]` is kept, and is not a repetition of an earlier id in its row."""
    width = ops.arange(ops.shape(ids)[-1])
    is_earlier = ops.less(ops.expand_dims(width, 0), ops.expand_dims(width, 1))
    same = ops.logical_and(ops.equal(ops.expand_dims(ids, -1), ops.expand_dims(ids, -2)), is_earlier)
    if kept is None:
        return ops.logical_not(ops.any(same, axis=-1))
    same = ops.logical_and(same, ops.expand_dims(kept, -2))
    return ops.logical_and(kept, ops.logical_not(ops.any(same, axis=-1)))
