"""Build `keras_logit_adjust/data/banking77_lt.npz` from sentence features of BANKING77, or check the existing file.

    python tools/build_banking77_lt.py minilm_features.npz [--check]

The source has unit-length float16 features `x_train`, `x_test` [N, 384] of all-MiniLM-L6-v2, ids `y_train`, `y_test`
and the 77 `names`. The file keeps the whole test set. It keeps the first 110 training rows of each class in the order
of the source, or all rows if there are fewer. A draw takes at most 100 of a class, and `validation="outside"` ten more.
So each seed also has different rows of the rare classes. Features are int8 with a scale for each column; sentences are
not stored.
"""

import argparse
import pathlib

import numpy as np

POOL = 110  # rows of each class
TARGET = pathlib.Path(__file__).parents[1] / "keras_logit_adjust" / "data" / "banking77_lt.npz"


def quantize(x, scale):
    """`x / scale` rounded to int8; a column whose scale is 0 is 0."""
    return np.rint(np.divide(x, scale, out=np.zeros(x.shape), where=scale > 0)).clip(-127, 127).astype("int8")


def build(source):
    """The arrays of the file from the arrays of the source.

    The scale of a column is its largest absolute number in the kept rows, over 127: the error is at most half of it.
    """
    x_train, x_test = (np.asarray(source[name], "float64") for name in ("x_train", "x_test"))
    labels = np.asarray(source["y_train"])
    pool = np.sort(np.concatenate([np.flatnonzero(labels == c)[:POOL] for c in range(len(source["names"]))]))
    scale = (np.abs(np.concatenate([x_train[pool], x_test])).max(axis=0) / 127).astype("float32")
    return {
        "x_train": quantize(x_train[pool], scale.astype("float64")),
        "y_train": labels[pool].astype("uint8"),
        "x_test": quantize(x_test, scale.astype("float64")),
        "y_test": np.asarray(source["y_test"]).astype("uint8"),
        "scale": scale,
        "names": np.asarray(source["names"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="minilm_features.npz")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = parser.parse_args()
    with np.load(options.source) as source:
        arrays = build(source)
    if options.check:
        with np.load(TARGET) as stored:
            other = [name for name in arrays if name not in stored or not np.array_equal(arrays[name], stored[name])]
        raise SystemExit(f"{TARGET.name} differs: {', '.join(other)}" if other else 0)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {arrays['y_train'].size} training rows, {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
