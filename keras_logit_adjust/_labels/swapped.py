"""Labels and predictions in the wrong order, as far as they show it: torch's losses take predictions first."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust._labels.tensors import as_labels

ORDER = "The order is (y_true, y_pred); torch has it the other way round."

_ROWS = 8  # of logits hardly any have no negative number


def refuse_gradient_of_labels(y_true, y_pred):
    """Raise where labels of torch's want gradients and predictions do not: they are the other way round."""
    if getattr(y_true, "requires_grad", False) and not getattr(y_pred, "requires_grad", False):
        raise ValueError(f"`y_true` must be labels. Received a tensor with requires_grad=True. {ORDER}")


def refuse_negative_rows(rows):
    """Raise for rows of labels that are logits: for all numbers of arrays and lists, the first rows of tensors."""
    array = _first_rows(rows) if ops.is_tensor(rows) else as_labels(rows)
    if (bad := array < 0).any():
        rule = "Rows of `y_true` must be one-hot or soft, without negative numbers"
        raise ValueError(f"{rule}. Received {float(array[bad][0]):g}. {ORDER}")


def _first_rows(rows):
    """The first rows of an eager tensor in the memory of the CPU; no rows of others, which cost a step to read."""
    nothing = np.zeros(0)
    try:
        if "cpu" not in str(rows.device).lower() or _is_compiling():
            return nothing
        return np.asarray(ops.convert_to_numpy(ops.reshape(rows, (-1, rows.shape[-1]))[:_ROWS]))
    except Exception:  # each backend has its own for a tensor that is being traced
        return nothing


def _is_compiling():
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()
