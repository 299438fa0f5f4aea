"""What pandas shows of its tables, for tests that must not need it."""

import numpy as np


class Series:
    """A column of numbers with an index."""

    def __init__(self, values, index, name=None):
        self.values, self.index, self.name = np.asarray(values), np.asarray(index), name

    @property
    def shape(self):
        return self.values.shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, name):
        return self.values[self.index.tolist().index(name)]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def sort_index(self):
        order = np.argsort(self.index, kind="stable")
        return type(self)(self.values[order], self.index[order])


class DataFrame(Series):
    """Columns of numbers `[N, C]` with an index."""

    def __init__(self, values, index, columns=None):
        super().__init__(values, index)
        self.columns = np.arange(self.values.shape[1]) if columns is None else np.asarray(columns)
