"""The likeliest class mix of weighted examples, by EM with extrapolation and by Newton's method.

    max over q of Σ_i w_i·log Σ_y P_iy·q_y,   q_y ≥ 0 and Σ_y q_y = 1

The problem is concave. A step of EM multiplies q by the gradient g, and `max g − 1` bounds what can still be gained.
EM alone takes thousands of steps where classes look alike. Extrapolation ("jumps": SQUAREM, Varadhan and Roland, 2008)
takes hundreds, Newton's method about ten. With the mixture `m = P·q` the curvature is `Σ_i w_i·P_iy·P_iz/m_i²`. It
costs as much as some tens of evaluations, so Newton's steps start only after `_PATIENCE` iterations.
`_likeliest_replicates` uses one curvature for all replicates.
"""

import numpy as np

_FLOOR = 1e-290  # a share of 0 would stay 0 in every step of EM, and the likelihood of an example must not be 0
_ROUNDING = 1e-14
_LONGEST_JUMP = 1e4
_LEAST_LEFT = 0.1  # smallest factor by which one step reduces a share
_PATIENCE = 16  # iterations before a curvature is computed
_FRESH = 0.2  # a step must reduce the bound to this part of it; otherwise the curvature is computed again
_SMALLEST_SCALE = 0.1  # in examples: a class with fewer gets the curvature of this many
_RIDGE = 1e-9  # added to the diagonal, where the scaled curvature is 1: classes that look alike make it singular
_HOPELESS = 0.5  # a class with a lower gradient goes to 0 by EM alone
_PASSES = 20  # rounds that find which shares are 0


def maximize(likelihood, weights, start, *, tol, max_iterations, newton=False):
    """`(priors [R, L], iterations, whether all converged)` for rows of example weights at once.

    Args:
        likelihood: `[N, L]` P, up to a factor for each example.
        weights: `[R, N]`, rows that sum to one.
        start: `[L]`, positive.
        tol: a row ends when its mean log-likelihood is proven to be within `tol` of the largest.
        max_iterations: the largest number of iterations.
        newton: whether to use a `Curvature` after `_PATIENCE` iterations; for one row only.
    """
    q = np.tile(start, (weights.shape[0], 1))
    point, active, iterations = q.copy(), np.arange(weights.shape[0]), 0
    bound, made, resume, curvature = np.inf, 0, _PATIENCE if newton else np.inf, None
    height, gradient = _evaluate(likelihood, weights, point)
    while active.size and iterations < max_iterations:
        iterations += 1
        once = q[active] = np.maximum(point * gradient, _FLOOR)
        # The likelihood is concave and Σ q·gradient = 1: it can rise by no more than max gradient − 1.
        highest = gradient.max(axis=1)
        left = highest > 1 + tol
        if iterations >= resume and highest[0] - 1 > _FRESH * bound and left.any():
            # A step with a fresh curvature did not help: jump for a while. With an old curvature: make a fresh one.
            is_fresh = curvature is None or made < iterations - 1
            curvature = Curvature(likelihood, weights[0], point[0], gradient[0]) if is_fresh else None
            made, resume = (iterations, resume) if is_fresh else (made, iterations + _PATIENCE)
        bound = highest[0] - 1
        kept = (array[left] for array in (active, weights, point, once, height, gradient))
        active, weights, point, once, height, gradient = kept
        if not active.size:
            break
        if curvature is None:
            point, height, gradient = _jump(likelihood, weights, point, once)
        else:
            before, (point, _) = (point, height), curvature.step(point, gradient)
            height, gradient = _evaluate(likelihood, weights, point)
            if (lower := height < before[1] - _ROUNDING).any():
                point[lower], height[lower], gradient[lower] = _jump(
                    likelihood, weights[lower], before[0][lower], once[lower]
                )
        q[active] = point
    return q, iterations, not active.size


def _evaluate(likelihood, weights, q):
    """The mean log-likelihood `[R]` and its gradient `[R, L]`; q times the gradient is a step of EM."""
    mixture = q @ likelihood.T
    height = np.einsum("rn,rn->r", weights, np.log(mixture))
    return height, np.divide(weights, mixture, out=mixture) @ likelihood


def _jump(likelihood, weights, point, once):
    """Two steps of EM, and a jump in their direction if it is likelier: the point, its height and its gradient."""
    height, gradient = _evaluate(likelihood, weights, once)
    twice = np.maximum(once * gradient, _FLOOR)
    point = _extrapolate(point, once, twice)
    reached, gradient = _evaluate(likelihood, weights, point)
    if (lower := reached < height - _ROUNDING).any():
        point[lower] = twice[lower]
        reached[lower], gradient[lower] = _evaluate(likelihood, weights[lower], twice[lower])
    return point, reached, gradient


def _extrapolate(start, once, twice):
    """The limit of the steps of EM, if each step is shorter than the one before by the same factor."""
    step, bend = once - start, twice - 2 * once + start
    length, bent = (np.linalg.norm(v, axis=1, keepdims=True) for v in (step, bend))
    times = np.clip(length / np.maximum(bent, _FLOOR), 1.0, _LONGEST_JUMP)
    point = start + 2 * times * step + times**2 * bend
    point = np.where(point > 0, point, _LEAST_LEFT * twice)
    return np.maximum(point / point.sum(axis=1, keepdims=True), _FLOOR)


class Curvature:
    """The quadratic model of the likelihood at a mix, and its inverse, for the classes that are not hopeless.

    It is stored as correlations of classes and a diagonal: another mix or other weights change the diagonal only.
    """

    def __init__(self, likelihood, weights, q, gradient):
        self.free = np.flatnonzero(gradient > _HOPELESS)
        self._least = _SMALLEST_SCALE / len(likelihood)
        scale = np.sqrt(np.maximum(q[self.free], self._least))
        size, matrix = max(1, 2**22 // likelihood.shape[1]), np.zeros((scale.size, scale.size))
        roots = np.sqrt(weights) / (likelihood @ q)
        for start in range(0, len(likelihood), size):  # in parts: no second matrix as large as `likelihood` is made
            part = slice(start, start + size)
            rows = likelihood[part][:, self.free] * (roots[part, None] * scale).astype(likelihood.dtype)
            matrix += rows.T @ rows
        self._in_shares = np.diag(matrix).copy()
        matrix /= np.sqrt(np.outer(self._in_shares, self._in_shares))
        matrix[np.diag_indices_from(matrix)] += _RIDGE
        self.inverse = np.linalg.inv(matrix)

    def step(self, q, gradient, diagonal=None):
        """The maximum of the model with no share below 0, `[R, L]`, and the gain by its slope, `[R]`.

        Hopeless classes take a step of EM. Without a `diagonal` `[R, L]`, `Σ w·(P/m)²`, the diagonal is taken as
        inversely proportional to the share of each class.
        """
        slope = gradient - 1.0  # the slope of Σ w·log(P·q) − Σ q, whose maximum has Σ q = 1
        point = np.maximum(q * gradient, 0.0)
        if diagonal is None:
            scale = np.sqrt(np.maximum(q[:, self.free], self._least) / self._in_shares)
        else:
            # By Jensen's inequality the diagonal is at least the gradient squared, which is above _HOPELESS² here.
            scale = 1.0 / np.sqrt(np.maximum(diagonal[:, self.free], _HOPELESS**2))
        best = q[:, self.free] / scale + (slope[:, self.free] * scale) @ self.inverse
        point[:, self.free] = scale * [self._without_negatives(row) for row in best]
        gain = (slope * (point - q)).sum(axis=1)
        point = np.maximum(point, _LEAST_LEFT**2 * q)  # above 0: a step of EM cannot leave 0
        return np.maximum(point / point.sum(axis=1, keepdims=True), _FLOOR), gain

    def _without_negatives(self, best):
        """`best`, or the maximum of the model with those shares at 0 that become negative."""
        point, at_zero = best, best < 0
        for _ in range(_PASSES):
            if not (point < 0).any():
                break
            at_zero |= point < 0
            zeros = np.flatnonzero(at_zero)
            columns = self.inverse[:, zeros]
            point = best - columns @ np.linalg.solve(columns[zeros], best[zeros])
            point[zeros] = 0.0
        return np.maximum(point, 0.0)
