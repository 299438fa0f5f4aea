"""Labels and predictions as arrays and tensors: of their own dtype, exact, and refused where they are no numbers."""

import keras
import numpy as np
from keras import ops

from keras_logit_adjust import _arrays, _checks

_OF_NAMES = f"map class names to them, {_arrays.IDS_OF_NAMES}"


def ids_to_tensor(y_true, name="y_true", *, ignore_class=None):
    """Labels or ids as a tensor, in which an id that no int32 holds is another that is no class, and not ignored.

    JAX would cut its upper bits off: 2³² + 1 would be class 1.
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
    """`labels` as a NumPy array of real numbers (bfloat16 as float32), none of them masked."""
    return _as_numbers(labels, name, f"integer class ids or one-hot rows ({_OF_NAMES})")


def as_targets(targets, name="targets"):
    """Targets of independent labels as a NumPy array of real numbers, none of them masked."""
    return _as_numbers(targets, name, "rows of 0 and 1, one column for each label")


def _as_numbers(values, name, rule):
    array = _arrays.as_array(values, name, rule, kinds="biuf")
    return array.astype("float32") if array.dtype.kind == "V" else array  # bfloat16


def check_num_classes(value, *, minimum=2):
    """`num_classes` as an int of at least `minimum`."""
    if isinstance(value, int) and not isinstance(value, bool) and value == 1 < minimum:
        raise _checks.ArgumentError(
            "num_classes",
            f"`num_classes` must be an integer of at least {minimum}. Received: num_classes={value}: one sigmoid unit "
            "has two classes, the negatives and the positives.",
        )
    return _checks.check_integer(value, "num_classes", minimum)


def to_tensor(values, name="y_pred"):
    """`values` as a tensor of their own dtype: ids stay exact whatever `floatx` is."""
    if ops.is_tensor(values) or isinstance(values, (keras.Variable, keras.KerasTensor)):
        return values if ops.is_tensor(values) else ops.convert_to_tensor(values)
    array = _as_numbers(values, name, "an array or tensor of numbers")
    return ops.convert_to_tensor(array.astype("float64") if array.dtype == "uint64" else array)  # torch has none


def to_tensor_of_gradients(values, name="y_pred"):
    """`to_tensor` for a loss: a tensor of torch's that wants gradients is none of another backend's."""
    is_foreign = type(values).__module__.partition(".")[0] == "torch" and not ops.is_tensor(values)
    if is_foreign and getattr(values, "requires_grad", False):
        raise ValueError(
            f"`{name}` must be of Keras's backend, {keras.backend.backend()!r}, for its gradient to be known. Received "
            "a torch tensor with requires_grad=True. Set the environment variable KERAS_BACKEND=torch before `import "
            "keras`; where no gradient is wanted, give it detached."
        )
    return to_tensor(values, name)


def at_least_float32(tensor):
    """`tensor` in float32, or as it is where it is float64: half precision never enters a log-sum-exp."""
    return ops.cast(tensor, float_dtype(tensor))


def float_dtype(tensor):
    """The dtype that `at_least_float32` gives, of a symbolic tensor too."""
    # Not by `result_type`, which is float32 for float64 on torch.
    return "float64" if keras.backend.standardize_dtype(tensor.dtype) == "float64" else "float32"
