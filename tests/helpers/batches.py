"""Batches of a list as Keras's own kind of data set."""

import keras


class Batches(keras.utils.PyDataset):
    """A `PyDataset` of the batches given."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]
