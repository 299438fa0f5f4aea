"""Labels and predictions as arrays and tensors. They keep their dtype, and values that are not numbers are refused."""

import math

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks

_EXACT_TO = {"bfloat16": 2**8, "float16": 2**11}  # larger whole numbers are rounded
_OF_NAMES = f"map class names to them, {_arrays.IDS_OF_NAMES}"


def ids_to_tensor(y_true, name="y_true", *, ignore_class=None):
    """Labels or ids as a tensor. An id too large for int32 becomes an id that is not a class and is not ignored.

    JAX would drop the upper bits: 2³² + 1 would be class 1.
    """
    if ops.is_tensor(y_true) or isinstance(y_true, (keras.Variable, keras.KerasTensor)):
        return y_true if ops.is_tensor(y_true) else ops.convert_to_tensor(y_true)
    array, bounds = as_labels(y_true, name), np.iinfo("int32")
    if array.dtype not in ("int64", "uint32", "uint64"):
        return ops.convert_to_tensor(array)
    beyond = (array < bounds.min) | (array > bounds.max)
    ids = np.where(beyond, 0, array).astype("int32")
    ids[beyond] = bounds.max if ignore_class == bounds.min else bounds.min
    return ops.convert_to_tensor(ids)


def as_labels(labels, name="y_true"):
    """`labels` as a NumPy array of real numbers (bfloat16 as float32). Masked values are refused.

    Ids in half precision that may be rounded are refused too.
    """
    array = _as_numbers(labels, name, f"integer class ids or one-hot rows ({_OF_NAMES})")
    dtype = str(getattr(labels, "dtype", array.dtype)).rpartition(".")[2]  # torch writes "torch.bfloat16"
    if dtype in _EXACT_TO:
        large = array[np.isfinite(array) & (array >= _EXACT_TO[dtype])]
        if large.size:
            raise _rounded(dtype, name, f"{large[0]:g}")
    return array


def check_holds_ids(dtype, num_classes, name="y_true"):
    """Raise if ids of `num_classes` classes are rounded in a floating `dtype`."""
    if num_classes - 1 > _EXACT_TO.get(dtype, math.inf):
        raise _rounded(dtype, name, f"{num_classes} classes")


def _rounded(dtype, name, received):
    return _checks.ArgumentError(
        name,
        f"Class ids in `{name}` must be integers: {dtype} holds whole numbers to {_EXACT_TO[dtype]} alone, and rounds "
        f"larger ids. Received {dtype} and {received}: give the ids as int32.",
    )


def as_targets(targets, name="targets"):
    """Targets of independent labels as a NumPy array of real numbers. Masked values are refused."""
    return _as_numbers(targets, name, "rows of 0 and 1, one column for each label")


def _as_numbers(values, name, rule):
    array = _arrays.as_array(values, name, rule, kinds="biuf")
    return array.astype("float32") if array.dtype.kind == "V" else array  # kind "V" is bfloat16


def check_num_classes(value):
    """`num_classes` as an int of at least 2."""
    if isinstance(value, int) and not isinstance(value, bool) and value == 1:
        raise _checks.ArgumentError(
            "num_classes",
            f"`num_classes` must be an integer of at least 2. Received: num_classes={value}: one sigmoid unit "
            "has two classes, the negatives and the positives.",
        )
    return _checks.check_integer(value, "num_classes", minimum=2)


def to_tensor(values, name="y_pred"):
    """`values` as a tensor of their own dtype, so ids stay exact under every `floatx`."""
    if ops.is_tensor(values) or isinstance(values, (keras.Variable, keras.KerasTensor)):
        return values if ops.is_tensor(values) else ops.convert_to_tensor(values)
    array = _as_numbers(values, name, "an array or tensor of numbers")
    return ops.convert_to_tensor(array.astype("float64") if array.dtype == "uint64" else array)  # torch has no uint64


def to_tensor_of_gradients(values, name="y_pred"):
    """`to_tensor` for a loss. It refuses a torch tensor that requires gradients if Keras's backend is not torch."""
    is_foreign = type(values).__module__.partition(".")[0] == "torch" and not ops.is_tensor(values)
    if is_foreign and getattr(values, "requires_grad", False):
        raise ValueError(
            f"`{name}` must be of Keras's backend, {keras.backend.backend()!r}, for its gradient to be known. Received "
            "a torch tensor with requires_grad=True. Set the environment variable KERAS_BACKEND=torch before `import "
            "keras`; where no gradient is wanted, give it detached."
        )
    return to_tensor(values, name)


def at_least_float32(tensor):
    """`tensor` in float32, or unchanged if it is float64. So no log-sum-exp is computed in half precision."""
    return ops.cast(tensor, float_dtype(tensor))


def float_dtype(tensor):
    """The dtype of the result of `at_least_float32`, for a symbolic tensor too."""
    # On torch `result_type` of float64 is float32.
    return "float64" if keras.backend.standardize_dtype(tensor.dtype) == "float64" else "float32"
