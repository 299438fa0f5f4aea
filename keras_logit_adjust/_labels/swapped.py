"""Find labels and predictions in the wrong order, where possible. torch's losses take predictions first."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust._labels.tensors import as_labels

ORDER = "The order is (y_true, y_pred); torch has it the other way round."

_ROWS = 8  # so many rows of logits almost always contain a negative number


def refuse_gradient_of_labels(y_true, y_pred):
    """Raise if torch labels require gradients and predictions do not: their order is wrong."""
    if getattr(y_true, "requires_grad", False) and not getattr(y_pred, "requires_grad", False):
        raise ValueError(f"`y_true` must be labels. Received a tensor with requires_grad=True. {ORDER}")


def refuse_negative_rows(rows):
    """Raise for rows of labels that are logits. Arrays and lists are read whole, tensors in their first rows."""
    array = _first_rows(rows) if ops.is_tensor(rows) else as_labels(rows)
    bad = array < 0
    if bad.any():
        rule = "Rows of `y_true` must be one-hot or soft, without negative numbers"
        raise ValueError(f"{rule}. Received {float(array[bad][0]):g}. {ORDER}")


def _first_rows(rows):
    """The first rows of an eager tensor on the CPU. No rows of other tensors: to read them takes too long."""
    nothing = np.zeros(0)
    try:
        if "cpu" not in str(rows.device).lower() or _is_compiling():
            return nothing
        return np.asarray(ops.convert_to_numpy(ops.reshape(rows, (-1, rows.shape[-1]))[:_ROWS]))
    except Exception:  # each backend has its own error for a traced tensor
        return nothing


def _is_compiling():
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()
