"""Penalized multinomial logistic regression at its optimum; several penalties are solved one after the other.

    Σ_i w_i·CE(W·z_i + b + m, y_i) + λ/2·‖W‖²,   the bias b is free and has no penalty

The problem is convex: L-BFGS finds its one optimum, from zero or from the optimum of the previous penalty. Features are
rotated to their principal directions, which changes neither ‖W‖ nor the optimum. There the Hessian is nearly diagonal.
At class k and direction j it is about `q_k·(1 − q_k)·s_j² + λ`, with class shares q and singular values s. Steps are in
units of its root: L-BFGS then needs a third of the iterations.
"""

import numpy as np
from scipy import linalg, optimize

_LEAST_SHARE = 1e-3  # smallest share of a class, in units of 1/L: keeps a scale finite
_MEMORY = 10  # steps that L-BFGS remembers
_MOST = 5000  # largest number of iterations


def rotate(x):
    """Centered features `[N, D]` in their principal directions: `z [N, R]`, the directions `[D, R]`, `s² [R]`."""
    basis = None
    if x.shape[1] > x.shape[0]:  # the optimum lies in the span of the examples
        basis = linalg.qr(x.T, mode="economic", check_finite=False)[0]
        x = x @ basis
    squares, directions = linalg.eigh(x.T @ x, check_finite=False)
    return x @ directions, directions if basis is None else basis @ directions, np.maximum(squares, 0.0)


class Problem:
    """A weighted multinomial problem on rotated features.

    Args:
        z: `[N, R]`, float32 or float64. Products are in this precision; sums over examples and the rest in float64.
        y: ids `[N]`, at least one of each class.
        squares: `[R]` squared singular values of `z`, exact or approximate: they change only the speed.
        weight: `[L]` the weight of an example of each class.
        margin: `[L]` added to the logits in the loss.
    """

    def __init__(self, z, y, squares, *, weight, margin):
        self.z, self.y, self.squares = z, y, squares
        self.weight, self.margin, self.weights = weight, margin, weight[y].astype(z.dtype)
        self.rows, self.total = np.arange(y.size), float(weight[y].sum())
        # At the optimum the mean probabilities are the weighted class shares, because the bias is free.
        self.shares = np.bincount(y, weight[y], minlength=weight.size) / self.total

    def solve(self, penalty, *, start=None, tolerance):
        """The optimum for `λ = penalty` as `[R + 1, L]`, kernel and bias.

        Args:
            penalty: λ.
            start: the optimum of another penalty.
            tolerance: largest derivative of the mean loss at the end, in units that make the Hessian about 1.
        """
        num_directions, num_classes = self.squares.size, self.weight.size
        share = np.maximum(self.shares * (1 - self.shares), _LEAST_SHARE / num_classes)
        unit = np.ones((num_directions + 1, num_classes))
        unit[:-1] = 1 / np.sqrt(self.total / self.y.size * share * self.squares[:, None] + penalty)
        unit[-1] = 1 / np.sqrt(self.total * share)
        if start is None:
            start = np.zeros_like(unit)
            start[-1] = np.log(self.shares) - self.margin

        def mean_loss(steps):
            value, gradient = self._evaluate(steps.reshape(unit.shape) * unit, penalty)
            return value / self.total, (gradient * unit).ravel() / self.total

        found = optimize.minimize(
            mean_loss,
            (start / unit).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxcor": _MEMORY, "maxiter": _MOST, "maxfun": 2 * _MOST, "ftol": 0.0, "gtol": tolerance},
        )
        return found.x.reshape(unit.shape) * unit

    def _evaluate(self, weights, penalty):
        """The objective and its gradient `[R + 1, L]`."""
        kernel, bias = weights[:-1], weights[-1]
        scores = self.z @ kernel.astype(self.z.dtype, copy=False)
        scores += (bias + self.margin).astype(self.z.dtype, copy=False)
        scores -= scores.max(axis=1, keepdims=True)
        own = scores[self.rows, self.y].astype("float64")
        np.exp(scores, out=scores)
        sums = scores.sum(axis=1)
        value = self.weights @ (np.log(sums, dtype="float64") - own) + penalty / 2 * np.vdot(kernel, kernel)
        # From here on, `scores` holds the derivatives by the logits.
        scores *= (self.weights / sums)[:, None]
        scores[self.rows, self.y] -= self.weights
        gradient = np.empty_like(weights)
        gradient[:-1] = self.z.T @ scores
        gradient[:-1] += penalty * kernel
        gradient[-1] = scores.sum(axis=0, dtype="float64")
        return value, gradient
