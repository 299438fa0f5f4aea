"""The logit-adjusted loss of a linear head with many classes. Its memory for logits does not grow with their number.

The logits `[B, L]` of a million classes are a gigabyte for a batch of 256. Here only the logits of one chunk of classes
exist at a time. The forward pass keeps a running maximum and a running sum of exponentials, which give the log-sum-exp
of all classes. The backward pass computes each chunk again, from features, kernel and two numbers for each example.
"""

import dataclasses
import functools
import typing

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _checks, _keras, _labels, _precision
from keras_logit_adjust.losses import _base, _chunks, _shards

LOWEST = float(np.finfo("float32").min)  # not −inf: the exponential of (−inf) − (−inf) is NaN
_OF_ROWS = (
    "One-hot and soft rows are tensors of the size that this loss avoids. Where two labels are mixed, mix the losses: "
    "weight · loss(first ids) + (1 − weight) · loss(second ids)."
)


def linear_logit_adjusted_crossentropy(
    y_true,
    features,
    kernel,
    bias,
    log_prior,
    *,
    tau=1.0,
    class_axis=-1,
    chunk_size=2048,
    label_smoothing=0.0,
    ignore_class=None,
    kernel_layout=None,
):
    """Per-example logit-adjusted cross-entropy of a linear head, without a tensor of all logits.

    `−log softmax(f + τ·log π)_y` with `f = features @ kernel + bias`. Value and gradient equal those of
    `logit_adjusted_crossentropy(y_true, features @ kernel + bias, log_prior, tau=tau)`. Memory beyond the gradients is
    O(examples × chunk_size); the backward pass computes the logits a second time.

    All arithmetic is float32 (float64 for float64 tensors). Half-precision features and kernels are cast to float32
    chunk by chunk. Features, kernel and bias have gradients. `log_prior` and `tau` are constants. Second derivatives
    are not supported and raise.

    Args:
        y_true: class ids `[...]` or `[..., 1]`.
        features: the input of the head, `[..., D]`. Positions that their Keras mask leaves out give 0.
        kernel: `[D, L]`, as in `keras.layers.Dense`; or `[L, D]` with `class_axis=0`, as in an embedding table.
        bias: `[L]`, or None.
        log_prior: `[L]` finite natural logarithms, from `kla.priors.log_prior`; none above 0.
        tau: strength of the adjustment, a number or a vector `[L]`; 0 is plain cross-entropy.
        class_axis: the axis of the classes in `kernel`, 0 or −1. With 0 a chunk is one block of memory, which is
            faster on TensorFlow.
        chunk_size: classes computed at once, at least 1; it need not divide `L`. It changes memory and time, not the
            result.
        label_smoothing: share ε in [0, 1) of the target spread evenly over all classes.
        ignore_class: a class id whose positions give 0.
        kernel_layout: `keras.distribution.TensorLayout` of a kernel whose classes are on several devices (JAX only).
            Each device then computes the chunks of its own classes. `L` must be a multiple of their number.

    Returns:
        Tensor `[...]` of losses in nats; NaN where an id is fractional or out of range.

    Raises:
        ValueError: for shapes that do not fit, rows in place of ids, a chunk size below 1, a prior or τ that is not
            finite or of another length.

    Example:

    >>> import numpy as np
    >>> features, kernel = np.zeros((2, 3), "float32"), np.zeros((3, 2), "float32")
    >>> losses = linear_logit_adjusted_crossentropy(np.array([0, 1]), features, kernel, None, np.log([0.75, 0.25]))
    >>> [round(float(x), 4) for x in losses]  # −log ¾ and −log ¼
    [0.2877, 1.3863]

    Reference: Menon et al. (2021), §5, equation 10; the running sum after Milakov and Gimelshein (2018).
    """
    log_prior = _checks.as_log_prior(log_prior)
    head = as_head(features, kernel, bias, log_prior.size, class_axis=class_axis)
    adjustment = _checks.as_tau(tau, log_prior.size) * log_prior
    chunk_size = _checks.check_integer(chunk_size, "chunk_size", 1)
    options = _base.checked_options(label_smoothing=label_smoothing, ignore_class=ignore_class)
    options |= {"chunk_size": chunk_size, "spread": _shards.as_spread(kernel_layout, class_axis, log_prior.size)}
    return _labels.zero_masked(*linear_values(y_true, head, adjustment, **options))


class Head(typing.NamedTuple):
    """Features `[..., D]`, kernel and bias as tensors. `axis` is the axis of the classes in the kernel, 0 or 1."""

    features: typing.Any
    kernel: typing.Any
    bias: typing.Any
    axis: int


def as_head(features, kernel, bias, num_classes, *, class_axis=-1):
    """The parts of a linear head as a `Head`, checked against each other."""
    _checks.check_choice(class_axis, "class_axis", (0, 1, -1))
    axis = class_axis % 2
    features, kernel = _as_floats(features, "features"), _as_floats(kernel, "kernel")
    if len(kernel.shape) != 2 or kernel.shape[axis] != num_classes:
        layout = ("[L, D]", "[D, L]")[axis]
        raise _checks.ArgumentError(
            "kernel",
            f"`kernel` must be {layout} with class_axis={class_axis} and L={num_classes}, the classes of `log_prior`. "
            f"Received shape {tuple(kernel.shape)}: the other layout goes with class_axis={(-1, 0)[axis]}.",
        )
    if tuple(features.shape)[-1:] != (kernel.shape[1 - axis],):
        raise _checks.ArgumentError(
            "features",
            f"`features` must be [..., D] with D={kernel.shape[1 - axis]}, as the kernel has it. Received shape "
            f"{tuple(features.shape)}.",
        )
    bias = None if bias is None else _as_floats(bias, "bias")
    if bias is not None and tuple(bias.shape) != (num_classes,):
        raise _checks.ArgumentError(
            "bias",
            f"`bias` must be a vector with one number for each of the {num_classes} classes, or None. Received shape "
            f"{tuple(bias.shape)}.",
        )
    return Head(features, kernel, bias, axis)


def _as_floats(values, name):
    """`values` as a tensor of floats. JAX has no gradient for integers."""
    tensor = _labels.to_tensor_of_gradients(values, name)
    return tensor if "float" in _name(tensor.dtype) else ops.cast(tensor, "float32")


def linear_values(
    y_true, head, adjustment, *, chunk_size, label_smoothing, ignore_class, num_classes=None, spread=None
):
    """Values `[...]` of a head from `as_head`, and the mask of positions that count (None: all count).

    Rows of the kernel from `num_classes` on do not belong to classes. `adjustment` gives them the lowest scores.
    """
    features, kernel, bias, axis = head
    num_classes = num_classes or adjustment.shape[0]
    labels, kept, flat = read_examples(y_true, features, num_classes, ignore_class=ignore_class)
    dtype = widest(flat, kernel, bias)
    # The bias is added once, before the loop. Autodiff gives its gradient.
    offset = ops.convert_to_tensor(adjustment, dtype=dtype)
    offset = offset if bias is None else offset + ops.cast(bias, dtype)
    chunked = _Chunked(
        num_classes=num_classes,
        is_padded=offset.shape[0] > num_classes,
        axis=axis,
        chunk_size=chunk_size,
        smoothing=label_smoothing,
        dtype=dtype,
        spread=spread,
    )
    values = _crossentropy(flat, kernel, offset, ids=ops.reshape(labels.ids, (-1,)), chunked=chunked)
    return labels.spoil(ops.reshape(values, ops.shape(labels.ids))), kept


def read_examples(y_true, features, num_classes, *, ignore_class):
    """`Labels` of ids, the mask of positions that count, and the features `[N, D]` (0 at the other positions)."""
    leading = tuple(features.shape)[:-1]
    labels = _labels.read_ids(y_true, leading, num_classes, ignore_class=ignore_class, remedy=_OF_ROWS)
    kept = _labels.combine_masks(len(leading), _keras.mask_of(features), labels.kept)
    if kept is not None and labels.proper is not None:
        # A label that does not count must not make its value NaN: the gradient of the kernel would be 0·NaN.
        labels = dataclasses.replace(labels, proper=ops.logical_or(labels.proper, ops.logical_not(kept)))
    return labels, kept, ops.reshape(_labels.zero_masked(features, kept), (-1, features.shape[-1]))


def widest(*tensors):
    """The dtype to compute in: float64 if any of the tensors is float64, else float32. A None is skipped."""
    dtypes = {_labels.float_dtype(tensor) for tensor in tensors if tensor is not None}
    return "float64" if "float64" in dtypes else "float32"


def scores(features, kernel, offset, *, axis, start, size):
    """One chunk of the kernel, in the dtype of the features, and the scores `[N, size]` of its classes."""
    piece = ops.cast(_slice(kernel, start, size, axis), features.dtype)
    product = _precision.matmul(features, ops.transpose(piece) if axis == 0 else piece)
    return piece, product if offset is None else product + _slice(offset, start, size, 0)


def _crossentropy(features, kernel, offset, *, ids, chunked):
    """`Σ_y t_y·(lse(g) − g_y)` of each row, with `g = features·kernel + offset` and `t` the smoothed label."""

    @ops.custom_gradient
    def values(features, kernel, offset):
        losses, sums = chunked.losses(ids, features, (kernel, offset))

        def gradients(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            made = chunked.gradients(upstream, ids, features, (kernel, offset), sums)
            return tuple(_refuse_second(gradient, upstream, features, kernel, offset) for gradient in made)

        return losses, gradients

    # Reshape makes a tensor: TensorFlow's custom gradients do not accept variables that are read inside.
    return values(features, ops.reshape(kernel, kernel.shape), offset)


class _Chunked(typing.NamedTuple):
    """How the loss and its gradients are computed: chunk by chunk, on each device for its own part of the classes.

    The parts of kernel and offset begin with class `first`. All devices share the tensors in `shared`. Both together
    are the `inputs` of a step.
    """

    num_classes: int
    is_padded: bool  # whether the kernel has more rows, which do not belong to classes
    axis: int  # the axis of the classes in the kernel
    chunk_size: int
    smoothing: float
    dtype: str  # the dtype to compute in
    spread: typing.Any  # `Spread`, or None

    def losses(self, ids, features, parts):
        """The losses `log Σ_j exp(g_j) − Σ_y t_y·g_y`, and the two numbers of each row that the gradients need."""
        shared = ids, ops.cast(features, self.dtype)
        top, total, own, mean = _shards.on_each(self.spread, self._sums, shared, parts, axes=(self.axis, 0))
        if self.spread is not None:
            tops, top = top, ops.max(top, axis=0)
            total, own, mean = ops.sum(ops.stack([total * ops.exp(tops - top), own, mean], axis=1), axis=0)
        target = own - top
        if self.smoothing:
            target = (1.0 - self.smoothing) * target + self.smoothing * (mean - top)
        return ops.log(total) - target, (top, total)

    def gradients(self, upstream, ids, features, parts, sums):
        """The gradients by features, kernel and offset: sums of `upstream·(exp(g_j) / Σ_k exp(g_k) − t_j)`."""
        wide, (top, total) = ops.cast(features, self.dtype), sums
        of_own, of_each = (1.0 - self.smoothing) * upstream, upstream * (self.smoothing / self.num_classes)
        shared = ids, wide, top, upstream / total, of_own, of_each
        axes = (self.axis, 0)
        into_features, *others = _shards.on_each(self.spread, self._slopes, shared, parts, axes=axes, kept=axes)
        into_features = into_features if self.spread is None else ops.sum(into_features, axis=0)
        return ops.cast(into_features, features.dtype), *others

    def _sums(self, first, shared, parts):
        """For some classes: the maximum of `g`, the sum of exponentials relative to it, the label's `g`, the mean."""
        zero = ops.zeros_like(shared[1][:, 0])
        return self._fold(self._more_sums, first, (shared, parts), (zero + LOWEST, zero, zero, zero))[0]

    def _more_sums(self, first, inputs, state, start, size):
        """`_sums` with one more chunk."""
        ((ids, wide), (kernel, offset)), (top, total, own, mean) = inputs, state
        _, chunk = scores(wide, kernel, offset, axis=self.axis, start=start, size=size)
        new_top = ops.max(chunk, axis=-1, initial=LOWEST)  # an empty batch needs `initial`
        new_top = ops.where(top > new_top, top, new_top)  # `ops.maximum` is float32 on torch
        total = total * ops.exp(top - new_top) + ops.sum(ops.exp(chunk - new_top[:, None]), axis=-1)
        if self.smoothing:
            mean = mean + ops.sum(self._of_classes(chunk, first + start, size), axis=-1) / self.num_classes
        return (new_top, total, own + _chosen(chunk, ids - first - start), mean), ()

    def _slopes(self, first, shared, parts):
        """The parts of some classes of the gradients by features, kernel and offset."""
        kernel, offset = parts
        wholes = (
            _chunks.Whole(tuple(kernel.shape), self.axis, _name(kernel.dtype)),
            _chunks.Whole(tuple(offset.shape), 0, self.dtype),
        )
        state = (ops.zeros_like(shared[1]),)
        (into_features,), others = self._fold(self._more_slopes, first, (shared, parts), state, wholes)
        return into_features, *others

    def _more_slopes(self, first, inputs, state, start, size):
        """`_slopes` with one more chunk."""
        (ids, wide, top, of_all, of_own, of_each), (kernel, offset) = inputs
        piece, chunk = scores(wide, kernel, offset, axis=self.axis, start=start, size=size)
        gradient = ops.exp(chunk - top[:, None]) * of_all[:, None]
        if self.smoothing:
            gradient = gradient - self._of_classes(of_each[:, None], first + start, size)
        gradient = _less_own(gradient, ids - first - start, of_own)
        if self.axis == 0:
            into_kernel = _precision.matmul(ops.transpose(gradient), wide)
        else:
            into_kernel, piece = _precision.matmul(ops.transpose(wide), gradient), ops.transpose(piece)
        into_features = state[0] + _precision.matmul(gradient, piece)
        return (into_features,), (ops.cast(into_kernel, kernel.dtype), ops.sum(gradient, axis=0))

    def _fold(self, step, first, inputs, state, wholes=()):
        """`_chunks.fold` over the classes of a part. A step gets `first, inputs` before its own arguments."""
        number = inputs[1][1].shape[0]  # the length of the offset
        step = functools.partial(step, first, inputs)
        return _chunks.fold(step, state, number, min(self.chunk_size, number), wholes)

    def _of_classes(self, values, start, size):
        """`values [N, size]`, with 0 for rows of the kernel that do not belong to classes."""
        if not self.is_padded:
            return values
        return ops.where(start + ops.arange(size) < self.num_classes, values, 0.0)


@ops.custom_gradient
def _refuse_second(gradient, *sources):
    """`gradient`, unchanged. A gradient of it by its `sources` raises."""

    def refuse(*args, upstream=None):
        raise NotImplementedError(
            "`linear_logit_adjusted_crossentropy` has no second derivatives: its backward pass is its own. Remedy: "
            "`logit_adjusted_crossentropy` of the logits, on a batch whose logits fit in memory."
        )

    return gradient, refuse


def _chosen(scores, columns):
    """The score `[N]` of each row in its column. 0 if the column is outside of the chunk."""
    inside = ops.logical_and(columns >= 0, columns < scores.shape[1])
    columns = ops.where(inside, columns, 0)
    found = ops.take_along_axis(scores, ops.expand_dims(columns, -1), axis=1)[:, 0]
    return ops.where(inside, found, ops.zeros_like(found))


def _less_own(gradient, columns, amount):
    """`gradient` minus the `amount` of each row in its column. Columns outside of the chunk change nothing."""
    if keras.backend.backend() == "torch":
        inside = ops.logical_and(columns >= 0, columns < gradient.shape[1])
        index = ops.cast(ops.where(inside, columns, 0), "int64")
        return gradient.scatter_add_(1, index[:, None], ops.where(inside, -amount, 0.0)[:, None])
    is_own = ops.equal(columns[:, None], ops.arange(gradient.shape[1], dtype=columns.dtype))
    return ops.where(is_own, gradient - amount[:, None], gradient)


def _slice(array, start, size, axis):
    starts, sizes = [0] * len(array.shape), list(array.shape)
    starts[axis], sizes[axis] = start, size
    return ops.slice(array, starts, sizes)


def _name(dtype):
    return keras.backend.standardize_dtype(dtype)
