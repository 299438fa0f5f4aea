"""The intervals of τ of a linear head with very many classes: scores are computed in chunks of classes."""

import numpy as np

from keras_logit_adjust import _checks, _labels, _scores
from keras_logit_adjust.held_out import _reading


class Scorer:
    """A linear head in NumPy: features `[D, L]`, a bias, and the log-prior of its classes.

    Args:
        kernel: `[D, L]`, or `[L, D]` with `class_axis=0`.
        bias: `[L]`, or None.
        prior: a `Prior` of exclusive classes.
        class_axis: the axis of the classes in `kernel`, 0 or −1.
        chunk_size: classes computed at once.
    """

    def __init__(self, kernel, bias, prior, *, class_axis=-1, chunk_size=2048):
        _checks.check_choice(class_axis, "class_axis", (0, 1, -1))
        kernel = _reading.as_numbers(kernel, "kernel")
        if kernel.ndim != 2 or kernel.shape[class_axis % 2] != prior.size or prior.are_labels:
            raise _checks.ArgumentError(
                "kernel",
                f"`kernel` must be {('[L, D]', '[D, L]')[class_axis % 2]} with class_axis={class_axis}, where L is the "
                f"number of exclusive classes of `class_counts`, {prior.size}. Received shape {kernel.shape}"
                f"{', and the prior of independent labels' if prior.are_labels else ''}.",
            )
        if not np.isfinite(kernel.sum()) and not np.isfinite(kernel).all():
            raise _checks.ArgumentError("kernel", "`kernel` must be finite. Received NaN or infinite numbers.")
        if kernel.dtype not in ("float32", "float64"):
            kernel = kernel.astype("float32" if kernel.dtype.itemsize < 4 else "float64")
        self.kernel = kernel if class_axis == 0 else kernel.T
        self.bias = None if bias is None else _checks.as_class_vector(bias, "bias", prior.size)
        self.log_prior, self.chunk_size = prior.logits, _checks.check_integer(chunk_size, "chunk_size", minimum=1)

    def intervals(self, y_true, features):
        """The ends of the intervals of a batch, and its class ids: those of `_intervals.of_examples` of all scores.

        Two classes with the same kernel tie only up to rounding, here and in a matrix product of all scores.
        """
        _scores.check_rows(y_true, features, ("y_true", "features"))
        features = _reading.as_numbers(features, "features")
        if features.ndim < 2 or features.shape[-1] != self.kernel.shape[1] or not features.size:
            raise _checks.ArgumentError(
                "features",
                f"`features` must be [N, {self.kernel.shape[1]}], N ≥ 1, as the head reads them. Received shape "
                f"{features.shape}.",
            )
        y_true = _labels.as_labels(y_true)
        _reading.check_order(y_true, features, "features")
        features = features.reshape(-1, features.shape[-1]).astype(self.kernel.dtype, copy=False)
        ids = _reading.as_ids(y_true, len(features), self.log_prior.size)
        own = np.einsum("nd,nd->n", features, self.kernel[ids]).astype("float64")
        own += 0.0 if self.bias is None else self.bias[ids]
        if not np.isfinite(own).all():
            raise _checks.ArgumentError("features", "`features` must be finite. Received NaN or infinite numbers.")
        low, high = np.full(ids.size, -np.inf), np.full(ids.size, np.inf)
        for start in range(0, self.log_prior.size, self.chunk_size):
            chunk = slice(start, start + self.chunk_size)
            self._narrow(low, high, chunk=chunk, ids=ids, own=own, features=features)
        return low, high, ids

    def _narrow(self, low, high, *, chunk, ids, own, features):
        """Narrow the intervals to the τ at which no class of a chunk wins; the lower class id wins a tie."""
        ahead = (features @ self.kernel[chunk].T).astype("float64")
        ahead += (0.0 if self.bias is None else self.bias[chunk]) - own[:, None]
        slopes = self.log_prior[chunk] - self.log_prior[ids, None]
        before = ids[:, None] > np.arange(chunk.start, chunk.start + ahead.shape[1])
        level = slopes == 0
        level[(rows := np.flatnonzero((ids >= chunk.start) & (ids < chunk.stop))), ids[rows] - chunk.start] = False
        loses = np.flatnonzero(level.any(axis=1))
        loses = loses[(level[loses] & np.where(before[loses], ahead[loses] >= 0, ahead[loses] > 0)).any(axis=1)]
        # Classes as frequent as the true class are excluded by `steeper`. Overflow: the lines cross at infinity.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            crossings = np.divide(ahead, slopes, out=ahead)
        for ends, steeper, pick, inside in ((low, slopes > 0, np.max, np.inf), (high, slopes < 0, np.min, -np.inf)):
            found = pick(crossings, axis=1, where=steeper, initial=-inside)
            rows = np.flatnonzero(found >= ends if inside > 0 else found <= ends)
            tied = steeper[rows] & before[rows] & (crossings[rows] == found[rows, None])
            moved = np.where(tied.any(axis=1), np.nextafter(found[rows], inside), found[rows])
            ends[rows] = pick([ends[rows], moved], axis=0)
        low[loses], high[loses] = np.inf, -np.inf
