"""Build `keras_logit_adjust/data/fashion_mnist_lt.npz` from the four files of Fashion-MNIST.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    python tools/build_fashion_mnist_lt.py fashion/usr/share/datasets/fashion-mnist

The file holds the whole test set and a *pool* of training images. The pool is twice an exponential tail of ratio 100
with 1,000 in the largest class: the first images of each class in the order of the source. `kla.data.load` draws the
long-tail subset from the pool, so each seed also has different images of the rare classes.
"""

import argparse
import gzip
import pathlib

import numpy as np

from keras_logit_adjust.data import long_tail_counts

POOL_FACTOR = 2  # 4,956 training images; the file stays under 7 MB


def read_idx(path):
    """The array in a gzipped IDX file of unsigned bytes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * rank).reshape(shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="folder with the four *-ubyte.gz files")
    source = parser.parse_args().source
    images = read_idx(source / "train-images-idx3-ubyte.gz")
    labels = read_idx(source / "train-labels-idx1-ubyte.gz")
    counts = POOL_FACTOR * long_tail_counts(10, max_count=1000, imbalance_ratio=100)
    pool = np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)]))
    target = pathlib.Path(__file__).parents[1] / "keras_logit_adjust" / "data" / "fashion_mnist_lt.npz"
    np.savez_compressed(
        target,
        x_train=images[pool],
        y_train=labels[pool],
        x_test=read_idx(source / "t10k-images-idx3-ubyte.gz"),
        y_test=read_idx(source / "t10k-labels-idx1-ubyte.gz"),
    )
    print(f"{target.name}: {pool.size} training images {counts.tolist()}, {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
