"""Float64 NumPy oracles, written from the papers' formulas as loops; they never import the package."""

import decimal

import numpy as np


def log_prior(counts, smoothing=0):
    """log π_y = log(n_y + s) − log Σ (n + s)."""
    counts = [float(n) + smoothing for n in counts]
    return np.array([np.log(n) - np.log(sum(counts)) for n in counts])


def log_odds(positive_counts, num_examples):
    """log(π_l / (1 − π_l)) with π_l = n_l / N, as log n_l − log(N − n_l)."""
    return np.array([np.log(n) - np.log(num_examples - n) for n in positive_counts])


def adjusted_crossentropy(label, logits, counts, tau):
    """Menon et al. (2021), equation 10, the right-hand form: log[1 + Σ_{y'≠y} (π_y'/π_y)^τ e^{f_y' − f_y}]."""
    total = 1.0
    for other in range(len(counts)):
        if other != label:
            total += (counts[other] / counts[label]) ** tau * np.exp(logits[other] - logits[label])
    return np.log(total)


def softmax(scores):
    """e^{g_y − max g} / Σ e^{g_y' − max g} over the last axis."""
    exponentials = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(scores):
    """1 / (1 + e^{−g})."""
    return 1 / (1 + np.exp(-np.asarray(scores)))


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


def pairwise_crossentropy(targets, logits, class_weight, margin, scale):
    """Menon et al. (2021), equation 11, Σ_y t_y·α_y·log[1 + Σ_{y'≠y} e^{Δ_yy' + s_y'·f_y' − s_y·f_y}] and gradient.

    `margin` is the whole table Δ, row y for the label and column y' for the rival.
    """
    value, gradient = 0.0, np.zeros(len(logits))
    for label, target in enumerate(targets):
        if target == 0:
            continue
        rivals = [k for k in range(len(logits)) if k != label]
        own = scale[label] * logits[label]
        error_log_odds, shares = log_sum_exp([margin[label][k] + (scale[k] * logits[k] - own) for k in rivals])
        value += target * class_weight[label] * np.logaddexp(0.0, error_log_odds)
        error = target * class_weight[label] * np.exp(-np.logaddexp(0.0, -error_log_odds))
        gradient[label] -= error * scale[label]
        for rival, share in zip(rivals, shares, strict=True):
            gradient[rival] += error * share * scale[rival]
    return value, gradient


def log_sum_exp(exponents):
    """log Σ e^x, and the share that each term has of the sum."""
    if max(exponents) == -np.inf:
        return -np.inf, [0.0] * len(exponents)
    terms = [np.exp(x - max(exponents)) for x in exponents]
    return max(exponents) + np.log(sum(terms)), [term / sum(terms) for term in terms]


def softmax_form(targets, logits, scores_of_label):
    """Σ_y t_y·(−log softmax(g)_y) and its gradient; `scores_of_label(y, f)` gives g for label y, and ∂g_k/∂f_k."""
    value, gradient = 0.0, np.zeros(len(logits))
    for label, target in enumerate(targets):
        if target != 0:
            scores, slopes = scores_of_label(label, np.asarray(logits, "float64"))
            cost, by_scores = crossentropy(np.eye(len(logits))[label], scores)
            value, gradient = value + target * cost, gradient + target * slopes * by_scores
    return value, gradient


def ldam_scores(label, cosines, counts, scale, largest_margin):
    """Cao et al. (2019), equations 12 and 13: s·(x_y − Δ_y) against s·x_j, with Δ_j = C/n_j^¼ and C from max Δ."""
    constant = largest_margin * min(counts) ** 0.25
    scores = [scale * (x - (constant / counts[k] ** 0.25 if k == label else 0.0)) for k, x in enumerate(cosines)]
    return np.array(scores), np.full(len(counts), scale)


def equalized_scores(label, logits, counts, rival_weight):
    """Tan et al. (2020), softmax form: e^{z_y} / Σ_k w̃_k·e^{z_k}, with w̃_y = 1 and w̃_k = F(π_k) for a rival."""
    weights = [1.0 if k == label else rival_weight(n / sum(counts)) for k, n in enumerate(counts)]
    return logits + np.log(weights), np.ones(len(counts))


def vector_scaling_scores(label, logits, counts, gamma, tau):
    """Kini et al. (2021), equation 2: Δ_k·f_k + ι_k for whatever label, Δ_k = (n_k/n_max)^γ and ι_k = τ·log π_k."""
    slopes = np.array([(n / max(counts)) ** gamma for n in counts])
    return slopes * logits + tau * log_prior(counts), slopes


def class_dependent_temperature_scores(label, logits, counts, gamma):
    """Ye et al. (2020), CDT: f_k / a_k for whatever label, with a_k = (n_max/n_k)^γ."""
    temperatures = np.array([(max(counts) / n) ** gamma for n in counts])
    return logits / temperatures, 1.0 / temperatures


def adjusted_adaptive_margin(counts, tau=1.0):
    """Menon et al. (2021), §6.2: Δ_yy' = τ·log(π_y'/π_y) + π_y^{−¼}, as a table."""
    prior = [n / sum(counts) for n in counts]
    return [[tau * np.log(rival / own) + own**-0.25 for rival in prior] for own in prior]


def focal_crossentropy(targets, logits, gamma, class_weight):
    """Lin et al. (2017), equation 5: −Σ_y t_y·α_y·(1 − p_y)^γ·log p_y, of slope (1 − p)^γ·(γ·p·log p − (1 − p)) by f_y.

    Both p and 1 − p come from the log-odds of an error, so that neither is a difference.
    """
    value, gradient = 0.0, np.zeros(len(logits))
    for label, target in enumerate(targets):
        if target == 0:
            continue
        rivals = [k for k in range(len(logits)) if k != label]
        error_log_odds, shares = log_sum_exp([logits[k] - logits[label] for k in rivals])
        log_p, log_error = -np.logaddexp(0.0, error_log_odds), -np.logaddexp(0.0, -error_log_odds)
        factor = target * class_weight[label] * np.exp(gamma * log_error if gamma else 0.0)
        slope = factor * (gamma * np.exp(log_p) * log_p - np.exp(log_error))
        value -= factor * log_p
        gradient[label] += slope
        for rival, share in zip(rivals, shares, strict=True):
            gradient[rival] -= slope * share
    return value, gradient


def class_balanced_weights(counts, beta):
    """Cui et al. (2019), (1 − β)/(1 − β^n) times what makes them sum to L, as written, in 60 digits."""
    with decimal.localcontext() as context:
        context.prec = 60
        beta = decimal.Decimal(beta)
        weights = [(1 - beta) / (1 - beta ** int(n)) for n in counts]
        scale = len(counts) / sum(weights)
        return np.array([float(w * scale) for w in weights])
