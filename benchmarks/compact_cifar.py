"""CIFAR-100-LT in small files: the subsets that `compare` trains on for some seeds, and the test set, each once.

    python benchmarks/compact_cifar.py --data-dir ../shared/data/tfds --output DIR [--seeds 0 1 2]

Written are DIR/cifar100_lt_seed0.npz, … with arrays x and y, and DIR/cifar100_test.npz. Each training file holds what
`compare --dataset cifar100_lt` trains on for that seed, its stratified validation images left out, in the same order:

    keras-logit-adjust compare --train DIR/cifar100_lt_seed0.npz --test DIR/cifar100_test.npz --validation none

gives the figures of that seed where it is 0, for `compare` initializes its first seed from 0, whatever the file;
`benchmarks/gpu.py` initializes from the seed of the file. A training file has 22 MiB, the test set too: one seed at a
time goes where 64 MiB go. The archives are compressed by LZMA, which NumPy reads as it reads any other. Nothing is
downloaded. Reading CIFAR-100 takes tensorflow-datasets; reading the files, NumPy alone.
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
    """An `.npz` file a tenth smaller than NumPy's own; all or nothing."""
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", stream.getvalue())
    os.replace(partial, path)


def check_npz(path, x, y):
    """Raise unless NumPy reads back what was written."""
    with np.load(path, allow_pickle=False) as stored:
        if not (np.array_equal(stored["x"], x) and np.array_equal(stored["y"], y)):
            raise OSError(f"{path} does not hold what was written: is the disk full?")


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
