"""Float64 NumPy oracles, written from the papers' formulas as loops; they never import the package."""

import numpy as np


def log_prior(counts):
    """log π_y = log(n_y / Σ n)."""
    total = sum(float(n) for n in counts)
    return np.array([np.log(float(n) / total) for n in counts])


def log_odds(positive_counts, num_examples):
    """log(π_l / (1 − π_l)) with π_l = n_l / N."""
    return np.array([np.log(n / (num_examples - n)) for n in positive_counts])


def adjusted_crossentropy(label, logits, counts, tau):
    """Menon et al. (2021), equation 10, the right-hand form: log[1 + Σ_{y'≠y} (π_y'/π_y)^τ e^{f_y' − f_y}]."""
    total = 1.0
    for other in range(len(counts)):
        if other != label:
            total += (counts[other] / counts[label]) ** tau * np.exp(logits[other] - logits[label])
    return np.log(total)


def softmax(scores):
    """e^{g_y − max g} / Σ e^{g_y' − max g}."""
    exponentials = [np.exp(score - max(scores)) for score in scores]
    return np.array([value / sum(exponentials) for value in exponentials])


def crossentropy(targets, scores):
    """Σ_y t_y·(lse(g) − g_y), where a target of 0 costs 0, and its gradient softmax(g)_k·Σ_y t_y − t_k."""
    scores = [float(score) for score in scores]
    log_total = max(scores) + np.log(sum(np.exp(score - max(scores)) for score in scores))
    value = sum(t * (log_total - score) for t, score in zip(targets, scores, strict=True) if t != 0)
    return value, softmax(scores) * sum(targets) - np.asarray(targets, "float64")


def sigmoid_crossentropy(targets, scores):
    """The mean over labels of t·log(1 + e^{−g}) + (1 − t)·log(1 + e^g), and its gradient (σ(g) − t) / L."""
    value, gradient = 0.0, []
    for t, g in zip(targets, scores, strict=True):
        value += (t * np.logaddexp(0.0, -g) + (1 - t) * np.logaddexp(0.0, g)) / len(targets)
        gradient.append((np.exp(-np.logaddexp(0.0, -g)) - t) / len(targets))
    return value, np.array(gradient)


def over_rows(function, targets, scores):
    """Values `[...]` and gradients `[..., L]` of a per-row oracle."""
    targets, scores = np.broadcast_arrays(np.asarray(targets, "float64"), np.asarray(scores, "float64"))
    values, gradients = np.empty(scores.shape[:-1]), np.empty(scores.shape)
    for index in np.ndindex(*scores.shape[:-1]):
        values[index], gradients[index] = function(targets[index], scores[index])
    return values, gradients
