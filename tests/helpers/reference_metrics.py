"""Float64 NumPy oracles of the metrics, as loops over examples; they never import the package."""

import numpy as np


def ranking(scores):
    """Classes from the best to the worst score; of equal scores the first class wins."""
    return sorted(range(len(scores)), key=lambda c: -scores[c])  # `sorted` is stable


def tally(ids, scores, weight=None, prior=None, k=1):
    """For each class: weights of hits, of examples and of predictions, the last two in the mix `prior`."""
    ids, scores = np.ravel(ids), np.reshape(np.asarray(scores, "float64"), (-1, np.shape(scores)[-1]))
    num_classes = scores.shape[1]
    weight = np.ones(ids.size) if weight is None else np.ravel(weight)
    prior = np.full(num_classes, 1 / num_classes) if prior is None else np.asarray(prior) / np.sum(prior)
    hits, total, predicted = np.zeros((3, num_classes))
    for label, row, w in zip(ids, scores, weight, strict=True):
        w = w * prior[label] * num_classes
        best = ranking(row)
        hits[label] += w * (label in best[:k])
        total[label] += w
        predicted[best[0]] += w
    return hits, total, predicted


def per_class_accuracy(ids, scores, weight=None, prior=None, k=1):
    hits, total, _ = tally(ids, scores, weight, prior, k)
    return np.array([h / t if t else np.nan for h, t in zip(hits, total, strict=True)])


def balanced_accuracy(ids, scores, weight=None, prior=None, k=1):
    recall = per_class_accuracy(ids, scores, weight, prior, k)
    prior = np.ones(recall.size) if prior is None else np.asarray(prior, "float64")
    seen = ~np.isnan(recall)
    return (recall[seen] * prior[seen]).sum() / prior[seen].sum()


def worst_class_accuracy(ids, scores, weight=None, prior=None):
    return np.nanmin(per_class_accuracy(ids, scores, weight, prior))


def per_class_precision(ids, scores, weight=None, prior=None):
    hits, total, predicted = tally(ids, scores, weight, prior)
    return np.array(
        [np.nan if not t else h / max(p, h, 1e-300) for h, t, p in zip(hits, total, predicted, strict=True)]
    )


def macro_f1(ids, scores, weight=None, prior=None):
    hits, total, predicted = tally(ids, scores, weight, prior)
    return np.mean([2 * h / (t + p) for h, t, p in zip(hits, total, predicted, strict=True) if t])


def group_accuracy(ids, scores, names, weight=None, prior=None, k=1):
    """{group: prior-weighted mean recall of its classes}; NaN where none was seen."""
    recall = per_class_accuracy(ids, scores, weight, prior, k)
    prior = np.ones(recall.size) if prior is None else np.asarray(prior, "float64")
    result = {}
    for group in dict.fromkeys(name for name in names if name is not None):
        own = [c for c, name in enumerate(names) if name == group and not np.isnan(recall[c])]
        mean = sum(recall[c] * prior[c] for c in own) / sum(prior[c] for c in own) if own else np.nan
        result[f"{group}_accuracy"] = mean
    return result


def propensity_scored_precision(rows, best, counts, num_examples, *, k, a=0.55, b=1.5, weight=None):
    """PSP@k over the best reachable, of the sets of labels `rows` and ranked ids `best`."""
    scale = (np.log(num_examples) - 1) * (b + 1) ** a
    inverse = [1 + scale * np.exp(-a * np.log(n + b)) for n in counts]
    weight = np.ones(len(rows)) if weight is None else weight
    reached = reachable = 0.0
    for row, ids, w in zip(rows, best, weight, strict=True):
        reached += w * sum(inverse[c] for c in ids[:k] if c in row) / k
        reachable += w * sum(sorted((inverse[c] for c in row), reverse=True)[:k]) / k
    return reached / reachable
