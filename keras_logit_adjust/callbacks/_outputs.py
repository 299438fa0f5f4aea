"""One output of a model with several outputs, in its predictions and in validation data: a part of a dict or list."""

from collections.abc import Mapping

import keras

from keras_logit_adjust import _checks


def check_output(output):
    """`output` as a name, a position of at least 0, or None."""
    if output is None or (isinstance(output, str) and output):
        return output
    return _checks.check_integer(output, "output", minimum=0)


def names_in(parts):
    """The names of the parts, or their positions."""
    return sorted(parts) if isinstance(parts, Mapping) else list(range(len(parts)))


def part(parts, output, owner, names=None):
    """The part called `output`, a name or a position; `names` are the names of a list's parts."""
    if isinstance(parts, Mapping) and output in parts:
        return parts[output]
    if isinstance(parts, (list, tuple)):
        if isinstance(output, int) and output < len(parts):
            return parts[output]
        if names is not None and len(names) == len(parts) and output in names:
            return parts[names.index(output)]
    if not isinstance(parts, (Mapping, list, tuple)):
        raise _checks.ArgumentError(
            "output", f"`output` is for several outputs. Received: output={output!r}, and one in {owner}: leave it out."
        )
    raise _checks.ArgumentError(
        "output", f"`output` must be one of {names_in(parts)} in {owner}. Received: output={output!r}"
    )


def of_batch(batch, output):
    """`(x, y)` or `(x, y, sample_weight)` with the labels and weights of one output; a single array stays as it is."""
    x, *rest = batch
    names = ("labels", "sample weights")
    return (x, *(_of_one(part_of, output, name) for part_of, name in zip(rest, names, strict=False)))


def _of_one(values, output, name):
    are_parts = isinstance(values, Mapping) or (
        isinstance(values, (list, tuple)) and any(hasattr(value, "shape") for value in values)
    )
    return part(values, output, f"the {name} of `validation_data`") if are_parts else values


def of_data(data, output):
    """A dataset, `PyDataset` or other iterable of batches, with the labels of one output."""
    if hasattr(data, "element_spec"):
        return data.map(lambda *batch: of_batch(batch, output))
    return _PyData(data, output) if isinstance(data, keras.utils.PyDataset) else _Batches(data, output)


class _PyData(keras.utils.PyDataset):
    def __init__(self, data, output):
        options = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(data, name) for name in options})
        self.data, self.output = data, output

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return of_batch(self.data[index], self.output)

    def on_epoch_end(self):
        self.data.on_epoch_end()


class _Batches:
    def __init__(self, data, output):
        self.data, self.output = data, output

    def __iter__(self):
        for batch in self.data:
            yield of_batch(batch, self.output) if isinstance(batch, (list, tuple)) else batch
