"""Read numbers from lists, from arrays and tensors of any framework, and from tables that name their classes.

All functions of the package read numbers here, so that one rule holds for all of them.
"""

import numbers
import reprlib
from collections.abc import Mapping, Set

import keras
import numpy as np

_SHOWN = 8  # a message shows at most so many names
_LONGEST = 400  # a message shows at most so many characters of a value
# All data sets share one list: `np.unique` of each data set alone could give the same class different ids.
IDS_OF_NAMES = (
    "by one list of names for all data sets: ids = {name: i for i, name in enumerate(class_names)}; "
    "y = np.array([ids[name] for name in y])"
)


class ArgumentError(ValueError):
    """A `ValueError` with the name of the argument and a message. The command line finds the option by the name.

    Attributes:
        argument: its name in the signature. Keras (in a layer) and TensorFlow (in a `tf.function`) make the error again
            from its message alone. Then `argument` is None.
    """

    # TensorFlow makes an error again only if its class has this `__init__`. Otherwise it raises a `StagingError`.
    __init__ = Exception.__init__

    def __str__(self):
        return self.args[0]

    @property
    def args(self):
        """The message alone. Keras makes an error again from its `args`."""
        return super().args[-1:]

    @property
    def argument(self):
        name, *message = super().args
        return name if message else None


def shown(value):
    """`value` as text for a message. A long value is cut."""
    if isinstance(value, int) and abs(value) >= 10**40:  # Python refuses to print more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    try:
        text = reprlib.repr(value) if isinstance(value, (list, tuple, Mapping, Set)) else repr(value)
    except ValueError:
        text = f"a {type(value).__name__} with an integer of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def to_numpy(values, name, rule="an array or tensor, or a list of numbers"):
    """`values`, a list or an array or tensor of any framework, as a NumPy array of the same type.

    A masked array is refused if any of its values is masked: NumPy would fill in a number there.
    """
    if isinstance(values, (list, tuple)) and any(map(_needs_help, values)):
        values = [to_numpy(value, name, rule) for value in values]
    hidden = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else np.zeros(0)
    if hidden.any():
        raise ArgumentError(
            name,
            f"`{name}` must have no masked values. Received a masked array with {hidden.sum()} of {hidden.size} "
            f"masked: leave them out, or fill them, {name}.filled(…).",
        )
    try:
        if hasattr(values, "detach"):  # a torch tensor, which may need gradients, be on a device or be bfloat16
            return _of_torch(values)
        return keras.ops.convert_to_numpy(values) if isinstance(values, keras.Variable) else np.asarray(values)
    except Exception as error:  # each framework has its own errors
        if "inhomogeneous" in str(error):
            reason = "rows of different lengths"
        else:
            said = str(error).strip() or type(error).__name__
            reason = f"a {type(values).__name__} without values: {said.splitlines()[0][:100]}"
        raise ArgumentError(name, f"`{name}` must be {rule}. Received {reason}") from error


def _needs_help(value):
    """Whether NumPy cannot read a list of such values: it drops masks and fails for some tensors."""
    if isinstance(value, (list, tuple)):
        return any(map(_needs_help, value))
    return hasattr(value, "detach") or np.ma.isMaskedArray(value) or isinstance(value, keras.Variable)


def _of_torch(tensor):
    tensor = tensor.detach().cpu()
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize > 2 or str(tensor.dtype) == "torch.float16":
        return tensor.numpy()
    array = tensor.float().numpy()  # NumPy cannot read bfloat16 from torch
    return array.astype("bfloat16") if str(tensor.dtype) == "torch.bfloat16" else array


def as_array(values, name, rule="real numbers", *, kinds="iuf"):
    """`values` as a NumPy array of real numbers. The type stays.

    Text, complex numbers, dates and `None` are refused, because NumPy would turn them into wrong numbers. Booleans are
    refused if `kinds` has no "b".
    """
    array = to_numpy(values, name, rule)
    if array.dtype.kind == "O" and all(_is_real(value) for value in array.flat):
        try:  # Decimal, Fraction, integers of more than 64 bits
            array = array.astype("float64")
        except OverflowError as error:
            raise ArgumentError(
                name, f"`{name}` must be {rule}, below 1.8e308. Received: {name}={shown(values)}"
            ) from error
    elif array.dtype.kind == "O" and array.size and all(isinstance(value, (bool, np.bool_)) for value in array.flat):
        array = array.astype(bool)  # from a pandas table of nullable booleans
    if kind_of(array.dtype) not in kinds:
        remedies = {"c": f": take their real part, {name}.real", "b": f": {name}.astype(int)"}
        dtype = "" if array.dtype.kind in "OUS" else f", dtype {array.dtype}{remedies.get(array.dtype.kind, '')}"
        raise ArgumentError(name, f"`{name}` must be {rule}. Received: {name}={shown(values)}{dtype}")
    return array


def kind_of(dtype):
    """NumPy's kind of a type. Small types for which NumPy has no kind (bfloat16, int4) are "f" or "i"."""
    if dtype.kind == "V" and dtype.names is None:
        return "f" if "float" in dtype.name else "i" if "int" in dtype.name else "V"
    return dtype.kind


def _is_real(value):
    # Decimal and the result of `kla.tune_tau` are not registered in `numbers`.
    return hasattr(type(value), "__float__") and not isinstance(value, (bool, np.bool_, np.ndarray))


def in_order(values, name, class_names, *, missing=None):
    """`values` in order of class id. If they name their classes, they are put in the order of `class_names`.

    A class that is not named gets the value `missing`. By default every class must be named.
    """
    is_mapping, is_table = isinstance(values, Mapping), hasattr(values, "columns")
    if not is_mapping and not (hasattr(values, "sort_index") and hasattr(values, "index")):  # no Series or DataFrame
        return values
    keys = list(values) if is_mapping else np.asarray(values.index).tolist()
    column = list(values.values()) if is_mapping else np.asarray(values)
    if is_table and column.shape[-1] != 1:
        raise ArgumentError(
            name,
            f"`{name}` must be one column of numbers, its index the class names. Received a {type(values).__name__} of "
            f"{column.shape[-1]} columns: {name}.set_index(…)[…], the column of names and that of numbers.",
        )
    column = column[:, 0] if is_table else column
    if class_names is not None:
        names = as_names(class_names)
        texts = {str(c): c for c in names}
        if keys == list(range(len(keys))) and texts.keys() == {str(key) for key in keys}:
            keys = [texts[str(key)] for key in keys]  # names "0", "2", "1" are ids too
        # Keys 0, 1, … are class ids, unless the class names are these numbers too.
        if keys != list(range(len(keys))) or sorted(names, key=str) == sorted(keys, key=str):
            return _by_name(keys, column, name, names, missing)
        if not is_mapping:
            _refuse_row_numbers(values, name, names)
    if class_names is None and (is_table or not _are_ids(keys, numbers.Integral if is_mapping else numbers.Real)):
        raise ArgumentError(
            name,
            f"`{name}` must be in order of class id. Received a {type(values).__name__} with the "
            f"{'keys' if is_mapping else 'index'} {keys[:_SHOWN]}{', …' if len(keys) > _SHOWN else ''}: "
            f"{_remedy(keys, name, is_mapping=is_mapping)}.",
        )
    return column


def _refuse_row_numbers(values, name, class_names):
    """Raise for a table with row numbers if classes have names: the table does not say which row is which class."""
    raise ArgumentError(
        name,
        f"`{name}` must name its classes in its index, as `class_names` does. Received a {type(values).__name__} with "
        f"the index 0 … {len(values) - 1}, beside the class names {shown(class_names)}: make the column of names the "
        f'index, table.set_index("class")["count"]. Where rows are in order of `class_names`, give {name}.to_numpy().',
    )


def _by_name(keys, column, name, class_names, missing):
    """The numbers of `column` in order of `class_names`. `keys` must name each class once."""
    found, asked = dict(zip(keys, column, strict=True)), set(class_names)
    absent, other = [c for c in class_names if c not in found], [key for key in found if key not in asked]
    if other or len(found) < len(keys) or len(asked) < len(class_names) or (absent and missing is None):
        remedy = ""
        if absent and not other and name == "class_counts":
            remedy = (
                f" If these have no examples: kla.priors.prior({name}, smoothing=1, class_names=class_names); if they "
                "are no classes, such as a column of ids, leave them out."
            )
        if other and not absent:
            remedy = f" Leave the others out: {{c: {name}[c] for c in class_names}}."
        seen = set()
        twice = [c for c in class_names if c in seen or seen.add(c)]
        raise ArgumentError(
            name,
            f"`{name}` must name every class of `class_names` once, and no other. Received {len(keys)} names for "
            f"{len(class_names)} classes; missing: {absent[:_SHOWN]}, of no class: {other[:_SHOWN]}"
            f"{f', twice in `class_names`: {twice[:_SHOWN]}' if twice else ''}.{remedy}",
        )
    return [found.get(c, missing) for c in class_names]


def as_names(class_names):
    """`class_names` as a list. A set or a dict is refused (it has no order), and so is a string."""
    if isinstance(class_names, (str, bytes, Mapping, Set)) or not hasattr(class_names, "__len__"):
        raise ArgumentError(
            "class_names",
            f"`class_names` must be a list of names, in order of class id. Received a {type(class_names).__name__}.",
        )
    names = np.asarray(class_names).tolist() if hasattr(class_names, "__array__") else list(class_names)
    return [name.item() if isinstance(name, np.generic) else name for name in names]


def _are_ids(keys, kind):
    """Whether keys are numbers of a kind, 0, 1, … in this order. True is not an id."""
    return keys == list(range(len(keys))) and all(isinstance(key, kind) and not isinstance(key, bool) for key in keys)


def _remedy(keys, name, *, is_mapping):
    """Code that puts the numbers in order of class id."""
    if not all(isinstance(key, numbers.Integral) and not isinstance(key, bool) for key in keys):
        anew = f", or kla.priors.as_prior({name}, class_names=class_names)" if name == "class_counts" else ""
        return f"give [{name}[c] for c in class_names]{anew}"
    if is_mapping:
        return f"give [{name}.get(c, 0) for c in range(num_classes)]"
    if sorted(keys) == list(range(len(keys))):
        return "add .sort_index()"
    return "add .reindex(range(num_classes), fill_value=0), which leaves out ids below 0"
