"""Float64 NumPy oracles, written from the papers' formulas as loops; they never import the package."""

import numpy as np


def log_prior(counts):
    """log π_y = log(n_y / Σ n)."""
    total = sum(float(n) for n in counts)
    return np.array([np.log(float(n) / total) for n in counts])


def adjusted_crossentropy(label, logits, counts, tau):
    """Menon et al. (2021), equation 10, the right-hand form: log[1 + Σ_{y'≠y} (π_y'/π_y)^τ e^{f_y' − f_y}]."""
    total = 1.0
    for other in range(len(counts)):
        if other != label:
            total += (counts[other] / counts[label]) ** tau * np.exp(logits[other] - logits[label])
    return np.log(total)
