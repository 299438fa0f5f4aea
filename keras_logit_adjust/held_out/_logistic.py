"""Penalized multinomial logistic regression at its optimum; several penalties are solved one after the other.

    Σ_i w_i·CE(W·z_i + b + m, y_i) + λ/2·‖W‖²,   the bias b is free and has no penalty

The problem is convex: L-BFGS finds its one optimum, from zero or from the optimum of the previous penalty. Features are
rotated to their principal directions, which changes neither ‖W‖ nor the optimum. There the Hessian is nearly diagonal.
Steps are in units of the root of its diagonal at the start. At zero, class k and direction j have
`q_k·(1 − q_k)·s_j² + λ`, with class shares q and singular values s.

With a weaker penalty the optimum has nearly the same direction and is longer. So a start is first scaled to the best
length. Both together save a fifth to two thirds of the iterations, and the weak penalties end nearer to their optimum.
"""

import numpy as np
from scipy import linalg, optimize

_LEAST_SHARE = 1e-3  # smallest share of a class, in units of 1/L: keeps a scale finite
_MEMORY = 10  # steps that L-BFGS remembers
_MOST = 5000  # largest number of iterations
_LOG_LENGTHS = (-1.0, 3.0)  # a tenth of the penalty makes an optimum about twice as long
_LENGTH_TOLERANCE = 0.05


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
        start, curvature = self._at_zero() if start is None else self._lengthened(start, penalty)
        curvature[:-1] += penalty
        unit = 1 / np.sqrt(curvature)

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

    def _at_zero(self):
        """The best constant logits, and the diagonal of the Hessian there without the penalty."""
        curvature = np.empty((self.squares.size + 1, self.weight.size))
        curvature[:-1] = self._curvature_of_bias() / self.y.size * self.squares[:, None]
        curvature[-1] = self._curvature_of_bias()
        start = np.zeros_like(curvature)
        start[-1] = np.log(self.shares) - self.margin
        return start, curvature

    def _lengthened(self, weights, penalty):
        """The best multiple of weights, and the diagonal of the Hessian there without the penalty."""
        kernel, bias = weights[:-1], weights[-1]
        scores = self.z @ kernel.astype(self.z.dtype, copy=False) + bias.astype(self.z.dtype, copy=False)
        margin, square = self.margin.astype(self.z.dtype), np.vdot(kernel, kernel)

        def objective(log_length):
            length = np.exp(log_length)
            return self._loss_of(self.z.dtype.type(length) * scores + margin)[0] + penalty / 2 * length**2 * square

        found = optimize.minimize_scalar(
            objective, bounds=_LOG_LENGTHS, method="bounded", options={"xatol": _LENGTH_TOLERANCE}
        )
        length = np.exp(found.x)
        exponentials = self.z.dtype.type(length) * scores + margin
        _, sums = self._loss_of(exponentials)  # in place
        probability = exponentials / sums[:, None]
        slopes = probability * (1 - probability) * self.weights[:, None]
        curvature = np.empty_like(weights)
        curvature[:-1] = np.square(self.z).T @ slopes
        curvature[-1] = slopes.sum(axis=0, dtype="float64")
        curvature[-1] = np.maximum(curvature[-1], _LEAST_SHARE * self._curvature_of_bias())
        return length * weights, curvature

    def _curvature_of_bias(self):
        """The curvature of each class in the direction of its bias at zero, `[L]`."""
        return self.total * np.maximum(self.shares * (1 - self.shares), _LEAST_SHARE / self.weight.size)

    def _evaluate(self, weights, penalty):
        """The objective and its gradient `[R + 1, L]`."""
        kernel, bias = weights[:-1], weights[-1]
        scores = self.z @ kernel.astype(self.z.dtype, copy=False)
        scores += (bias + self.margin).astype(self.z.dtype, copy=False)
        loss, sums = self._loss_of(scores)
        value = loss + penalty / 2 * np.vdot(kernel, kernel)
        # From here on, `scores` holds the derivatives by the logits.
        scores *= (self.weights / sums)[:, None]
        scores[self.rows, self.y] -= self.weights
        gradient = np.empty_like(weights)
        gradient[:-1] = self.z.T @ scores
        gradient[:-1] += penalty * kernel
        gradient[-1] = scores.sum(axis=0, dtype="float64")
        return value, gradient

    def _loss_of(self, scores):
        """The weighted loss of scores `[N, L]`. They become exponentials, and the sums of these are given too."""
        scores -= scores.max(axis=1, keepdims=True)
        own = scores[self.rows, self.y].astype("float64")
        np.exp(scores, out=scores)
        sums = scores.sum(axis=1)
        return self.weights @ (np.log(sums, dtype="float64") - own), sums
