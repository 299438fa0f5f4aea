"""CIFAR-100-LT in small files: the training subsets of `compare` for some seeds, and the test set once.

    python benchmarks/compact_cifar.py --data-dir ../shared/data/tfds --output DIR [--seeds 0 1 2]

It writes DIR/cifar100_lt_seed0.npz, … and DIR/cifar100_test.npz with arrays x and y. Each training file holds the
training images of `compare --dataset cifar100_lt` for that seed, without its stratified validation images, in the same
order. The figures of seed 0 are repeated by:

    keras-logit-adjust compare --train DIR/cifar100_lt_seed0.npz --test DIR/cifar100_test.npz --validation none

This holds for seed 0 only, because `compare` initializes its first seed from 0 for any file. `benchmarks/gpu.py`
initializes from the seed of the file. A training file has 22 MiB, and the test set too: 64 MiB have room for one seed.
The archives are compressed by LZMA, which NumPy reads as usual. Nothing is downloaded. Reading CIFAR-100 needs
tensorflow-datasets; reading the files needs only NumPy.
"""

import argparse
import io
import os
import pathlib
import zipfile

import numpy as np

import keras_logit_adjust as kla

SEEDS = (0, 1, 2)
IMBALANCE_RATIO = 100


def write_npz(path, **arrays):
    """An `.npz` file a tenth smaller than NumPy's own, written completely or not at all."""
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", stream.getvalue())
    os.replace(partial, path)


def check_npz(path, x, y):
    """Raise unless NumPy reads back the written arrays."""
    with np.load(path, allow_pickle=False) as stored:
        if not (np.array_equal(stored["x"], x) and np.array_equal(stored["y"], y)):
            raise OSError(f"{path} does not hold the written arrays: is the disk full?")


def write(folder, data_dir, seeds):
    """Write the files of `seeds` and the test set; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for seed in seeds:
        data = kla.data.load("cifar100_lt", imbalance_ratio=IMBALANCE_RATIO, seed=seed, data_dir=data_dir)
        print(data, flush=True)
        parts[f"cifar100_lt_seed{seed}.npz"] = data.train
        parts["cifar100_test.npz"] = data.test
    for name, (x, y) in parts.items():
        write_npz(folder / name, x=x, y=y.astype("uint8"))
        check_npz(folder / name, x, y)
        print(f"{name}: {len(y):,} images, {(folder / name).stat().st_size / 2**20:.1f} MiB", flush=True)
    return [folder / name for name in parts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of TFDS data that holds cifar100")
    parser.add_argument("--output", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    paths = write(options.output, options.data_dir, options.seeds)
    print(f"{sum(path.stat().st_size for path in paths) / 2**20:.1f} MiB in all")


if __name__ == "__main__":
    main()
