"""What a tensor of any backend holds, as NumPy's array."""

import numpy as np
from keras import ops


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def as_float64(tensor):
    return array(tensor).astype("float64")
