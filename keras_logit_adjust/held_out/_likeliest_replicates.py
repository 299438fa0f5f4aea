"""The likeliest mixes of bootstrap replicates: Newton's steps that share the curvature of all examples.

Replicates differ little from all examples and from each other. All share one inverse of the correlations of classes.
Each replicate has its own diagonal in each iteration. An iteration is three matrix products for all replicates. The
few that remain after some iterations get a curvature of their own. The products are in float32 and the sums in float64:
each mix is exact up to a small part of a standard error.
"""

import numpy as np

from keras_logit_adjust.held_out._likeliest_mix import Curvature, maximize

_FLOOR = 1e-12  # smallest share: its square is far above float32's smallest number
_NEGLIGIBLE = 1e-30  # a likelihood relative to the likeliest class; float32 is slow with numbers below 1e-38
_BLOCK = 2**20  # numbers of the likelihood in one part: they stay in the CPU cache
_SHORTEST = 0.01  # smallest part of a step
_SEARCHES = 4
_PATIENCE = 16  # iterations before a replicate gets a curvature of its own
_PATIENCE_EACH = 4  # more iterations for each replicate that remains: a curvature costs as much as some iterations


def as_likelihood(likelihood):
    """`[N, L]` in float32; negligible numbers, with which float32 is slow, become 0."""
    likelihood = likelihood.astype("float32")
    likelihood[likelihood < _NEGLIGIBLE] = 0.0
    return likelihood


def maximize_replicates(likelihood, counts, start, curvature, *, tol, max_iterations):
    """`(mixes [R, L], iterations, whether all converged)`: for each row of `counts` the likeliest mix.

    Args:
        likelihood: `[N, L]` of `as_likelihood`.
        counts: `[R, N]`, how often each example was drawn, rows that sum to N.
        start: `[L]`, positive, near all optima.
        curvature: a `Curvature` there.
        tol: a row ends when its mean log-likelihood is within `tol` of the largest, or the quadratic model says so and
            no single class gains more.
        max_iterations: the largest number of iterations.
    """
    found = np.tile(start, (len(counts), 1))
    active, q, weights = np.arange(len(counts)), found.copy(), (counts / len(likelihood)).astype("float32")
    mixture = np.tile(_mixture(likelihood, q[:1]), (len(counts), 1))
    iterations, misfits = 0, []
    while active.size and iterations < min(max_iterations, max(_PATIENCE, _PATIENCE_EACH * active.size)):
        iterations += 1
        gradient, diagonal = _slopes(likelihood, weights, mixture)
        found[active] = q * gradient  # a step of EM
        # At the common start the shared diagonal fits.
        trial, gain = curvature.step(q, gradient, diagonal if iterations > 1 else None)
        # The likelihood is concave and Σ q·gradient = 1: it can rise by no more than max gradient − 1.
        can_rise = gradient.max(axis=1) > 1 + tol
        left = can_rise & (gain > tol)
        # The model says that nothing is gained, and a single class gains: the shared curvature does not fit.
        misfits.extend(active[can_rise & ~left & (_gain_of_a_class(gradient, diagonal) > tol)])
        active, q, weights, mixture, trial = (array[left] for array in (active, q, weights, mixture, trial))
        if not active.size:
            break
        trial = np.maximum(trial, _FLOOR)
        reached = _mixture(likelihood, trial)
        part = _part_of_step(weights, mixture, reached)[:, None]
        q += part * (trial - q)
        mixture += part.astype("float32") * (reached - mixture)
        found[active] = q
    rest = {"tol": tol, "max_iterations": max_iterations - iterations}
    ends = [_with_own_curvature(likelihood, counts[row], found[row], **rest) for row in active]
    ends += [_exactly(likelihood, counts[row], found[row], **rest) for row in misfits]
    if not ends:
        return found, iterations, True
    found[[*active, *misfits]], more, done = zip(*ends, strict=True)
    return found, iterations + max(more), all(done)


def _gain_of_a_class(gradient, diagonal):
    """`[R]` what Newton's step towards a single class gains, for the best class."""
    slope = np.maximum(gradient - 1, 0.0)
    # Towards class y the mixture changes by P_y − m: the bend is Σ w·(P_y/m − 1)² = diagonal − 2·gradient + 1.
    bend = np.maximum(diagonal - 2 * gradient + 1, slope)  # a longer step than the whole way is not taken
    return (slope**2 / (2 * np.maximum(bend, _FLOOR))).max(axis=1)


def _exactly(likelihood, counts, q, **options):
    """The mix of one replicate in float64, from `q` on, the iterations, and whether it converged."""
    weights = counts[None] / len(likelihood)
    (q,), iterations, done = maximize(likelihood.astype("float64"), weights, q, newton=True, **options)
    return q, iterations, done


def _with_own_curvature(likelihood, counts, q, *, tol, max_iterations):
    """`maximize_replicates` of one replicate from its mix `q` on, with its own curvature, made anew at times."""
    weights, iterations, done = (counts / len(likelihood)).astype("float32"), 0, False
    while not done and iterations < max_iterations:
        curvature = Curvature(likelihood, weights, q, (weights / _mixture(likelihood, q)) @ likelihood)
        most = min(_PATIENCE, max_iterations - iterations)
        (q,), more, done = maximize_replicates(likelihood, counts[None], q, curvature, tol=tol, max_iterations=most)
        iterations += more
    return q, iterations, done


def _mixture(likelihood, q):
    return q.astype("float32") @ likelihood.T


def _slopes(likelihood, weights, mixture):
    """The gradient `[R, L]` of the mean log-likelihood, and the diagonal of its curvature."""
    sums = np.zeros((2, len(weights), likelihood.shape[1]))
    size = max(1, _BLOCK // likelihood.shape[1])
    for first in range(0, len(likelihood), size):
        part = slice(first, first + size)
        ratio = weights[:, part] / mixture[:, part]
        sums[0] += ratio @ likelihood[part]
        ratio /= mixture[:, part]
        sums[1] += ratio @ np.square(likelihood[part])
    return sums[0], sums[1]


def _part_of_step(weights, mixture, reached):
    """`[R]` the part of a step at which the likelihood is highest on the way: in most cases all of it."""
    part = np.ones(len(weights))
    # The slope at the end is Σ w·(reached − mixture)/reached.
    long = np.flatnonzero(np.einsum("rn,rn->r", weights, mixture / reached, dtype="float64") > 1.0)
    if long.size:
        weights, mixture, change = weights[long], mixture[long], reached[long] - mixture[long]
        for _ in range(_SEARCHES):
            ratio = change / (mixture + part[long, None].astype("float32") * change)
            slope = np.einsum("rn,rn->r", weights, ratio, dtype="float64")
            bend = np.einsum("rn,rn,rn->r", weights, ratio, ratio, dtype="float64")
            part[long] = np.clip(part[long] + slope / bend, _SHORTEST, 1.0)
    return part
