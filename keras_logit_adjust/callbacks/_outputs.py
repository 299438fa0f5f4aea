"""One output of a model with several outputs, in its predictions and in validation data: a part of a dict or list."""

from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks


def check_output_name(output_name):
    """`output_name` as a name, a position of at least 0, or None."""
    if output_name is None or (isinstance(output_name, str) and output_name):
        return output_name
    return _checks.check_integer(output_name, "output_name", minimum=0)


def names_in(parts):
    """The names of the parts, or their positions."""
    return sorted(parts) if isinstance(parts, Mapping) else list(range(len(parts)))


def part(parts, output_name, owner, names=None):
    """The part called `output_name`, a name or a position; `names` are the names of a list's parts."""
    if isinstance(parts, Mapping) and output_name in parts:
        return parts[output_name]
    if isinstance(parts, (list, tuple)):
        if isinstance(output_name, int) and output_name < len(parts):
            return parts[output_name]
        if names is not None and len(names) == len(parts) and output_name in names:
            return parts[names.index(output_name)]
    if not isinstance(parts, (Mapping, list, tuple)):
        raise _checks.ArgumentError(
            "output_name",
            f"`output_name` is for several outputs. Received: output_name={output_name!r}, and one in {owner}: "
            "leave it out.",
        )
    raise _checks.ArgumentError(
        "output_name",
        f"`output_name` must be one of {names_in(parts)} in {owner}. Received: output_name={output_name!r}",
    )


def of_batch(batch, output_name):
    """`(x, y)` or `(x, y, sample_weight)` with the labels and weights of one output; a single array stays as it is."""
    x, *rest = batch
    names = ("labels", "sample weights")
    return (x, *(_of_one(part_of, output_name, name) for part_of, name in zip(rest, names, strict=False)))


def _of_one(values, output_name, name):
    are_parts = isinstance(values, Mapping) or (
        isinstance(values, (list, tuple)) and any(hasattr(value, "shape") for value in values)
    )
    return part(values, output_name, f"the {name} of `validation_data`") if are_parts else values


def of_data(data, output_name):
    """A dataset, `PyDataset` or other iterable of batches, with the labels of one output."""
    if hasattr(data, "element_spec"):
        return data.map(lambda *batch: of_batch(batch, output_name))
    return _PyData(data, output_name) if isinstance(data, keras.utils.PyDataset) else _Batches(data, output_name)


class _PyData(keras.utils.PyDataset):
    def __init__(self, data, output_name):
        options = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(data, name) for name in options})
        self.data, self.output_name = data, output_name

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return of_batch(self.data[index], self.output_name)

    def on_epoch_end(self):
        self.data.on_epoch_end()


class _Batches:
    def __init__(self, data, output_name):
        self.data, self.output_name = data, output_name

    def __iter__(self):
        for batch in self.data:
            yield of_batch(batch, self.output_name) if isinstance(batch, (list, tuple)) else batch
