"""TensorFlow Datasets on disk: read as arrays or as streams, found without ever touching the network."""

import pathlib
import socket
import time

import keras
import numpy as np
import pytest

from keras_logit_adjust import compare, data
from keras_logit_adjust.data import _sources, long_tail_counts

CIFAR = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"
CLASSES = ["ant", "bee", "cat"]
SIZES = {"train": 60, "test": 9, "validation": 6}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"a connection to {address} was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: refuse(None, args))


def store(folder, name, splits, varied=False, labels=CLASSES, label_of=lambda i: i % 3):
    """Write a TFDS data set of which every image holds its own number in its first pixel."""
    import tensorflow_datasets as tfds

    def examples(size):
        for i in range(size):
            image = np.full((4 + i % 3 if varied else 4, 5, 3), 7, "uint8")
            image[0, 0, 0] = i
            yield i, {"image": image, "label": label_of(i)}

    shape = (None, None, 3) if varied else (4, 5, 3)
    label = tfds.features.ClassLabel(names=labels) if labels else tfds.features.Scalar(np.int64)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": label}),
        split_datasets={split: list(examples(SIZES[split])) for split in splits},
        data_dir=folder,
        disable_shuffling=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets of images of one size, of varied sizes, and with a validation split of its own."""
    path = tmp_path_factory.mktemp("tfds")
    store(path, "fixed", ["train", "test"])
    store(path, "varied", ["train", "test"], varied=True)
    store(path, "split", ["train", "validation", "test"])
    store(path, "untested", ["train"])
    store(path, "numbers", ["train", "test"], labels=None)
    store(path, "gap", ["train", "test"], labels=[*CLASSES, "dog"])
    return path


def numbers(split):
    """(number in the first pixel, label) of every example of arrays or of a stream."""
    pairs = zip(*split, strict=True) if isinstance(split, tuple) else split.as_numpy_iterator()
    return [(int(image[0, 0, 0]), int(label)) for image, label in pairs]


@pytest.mark.parametrize("validation", ["stratified", "outside", "none"])
@pytest.mark.parametrize("name", ["fixed", "varied"])
def test_images_keep_their_labels_and_the_splits_their_profile(folder, name, validation):
    loaded = data.load(name, imbalance_ratio=4, validation=validation, data_dir=folder, max_count=16)
    subset = long_tail_counts(3, max_count=16, imbalance_ratio=4)
    cut = {"stratified": [2, 1, 1], "outside": [1, 1, 1], "none": [0, 0, 0]}[validation]
    train, test = numbers(loaded.train), numbers(loaded.test)
    held = [] if loaded.validation is None else numbers(loaded.validation)
    assert all(label == number % 3 for number, label in train + held + test)
    assert sorted(test) == [(i, i % 3) for i in range(9)]
    assert len(set(train) | set(held)) == len(train) + len(held)  # nothing twice, nothing in both
    assert np.bincount([label for _, label in held], minlength=3).tolist() == cut
    expected = subset - cut if validation == "stratified" else subset
    assert np.bincount([label for _, label in train]).tolist() == loaded.class_counts.tolist() == expected.tolist()
    assert loaded.class_names == CLASSES


def test_images_of_varied_size_stream_with_a_known_length(folder):
    import tensorflow as tf

    loaded = data.load("varied", imbalance_ratio=4, data_dir=folder)
    assert all(isinstance(split, tf.data.Dataset) for split in (loaded.train, loaded.validation, loaded.test))
    assert int(loaded.train.cardinality()) == loaded.class_counts.sum() == len(list(loaded.train))
    assert int(loaded.validation.cardinality()) == len(list(loaded.validation)) == 4
    assert int(loaded.test.cardinality()) == 9
    assert loaded.train.element_spec[0].shape.as_list() == [None, None, 3]
    heights = {image.shape[0] for image, _ in loaded.train.as_numpy_iterator()}
    assert heights == {4, 5, 6}
    assert "31 train, 4 validation (stratified), 9 test" in repr(loaded)


def test_the_same_draw_streams_and_loads_the_same_examples(folder, monkeypatch):
    arrays = data.load("fixed", imbalance_ratio=4, data_dir=folder)
    _sources.read_tfds.cache_clear()
    monkeypatch.setattr(_sources, "MAX_ARRAY_BYTES", 1)
    streams = data.load("fixed", imbalance_ratio=4, data_dir=folder)
    _sources.read_tfds.cache_clear()
    assert isinstance(arrays.train, tuple) and not isinstance(streams.train, tuple)
    for split in ("train", "validation", "test"):
        assert numbers(getattr(arrays, split)) == numbers(getattr(streams, split))


def test_a_small_test_set_stays_an_array_where_the_training_set_streams(folder, monkeypatch):
    _sources.read_tfds.cache_clear()
    monkeypatch.setattr(_sources, "MAX_ARRAY_BYTES", 30 * 4 * 5 * 3)  # 60 images are too many, 9 are not
    loaded = data.load("fixed", imbalance_ratio=4, data_dir=folder)
    _sources.read_tfds.cache_clear()
    assert not isinstance(loaded.train, tuple)
    x, y = loaded.test
    assert x.shape == (9, 4, 5, 3) and y.tolist() == [i % 3 for i in range(9)]


def test_two_draws_of_a_stream_differ_by_seed_and_agree_by_seed(folder):
    first, second = (data.load("varied", imbalance_ratio=4, data_dir=folder, seed=seed) for seed in (0, 1))
    assert (
        first.split_hash
        == data.load("varied", imbalance_ratio=4, data_dir=folder, seed=0).split_hash
        != second.split_hash
    )
    assert set(numbers(first.train)) != set(numbers(second.train))


def test_a_validation_split_of_the_source_is_the_outside_one(folder):
    loaded = data.load("split", imbalance_ratio=4, validation="outside", data_dir=folder)
    assert sorted(numbers(loaded.validation)) == [(i, i % 3) for i in range(6)]
    assert loaded.class_counts.tolist() == long_tail_counts(3, max_count=20, imbalance_ratio=4).tolist()


def test_the_folder_may_come_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert data.load("split", profile="none", validation="none").class_counts.tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("untested", r"'untested' must have a labeled train and test split\. It has \['train'\]"),
        ("numbers", r"'numbers' is no classification set: it needs an image and a class label"),
        ("gap", r"Every class needs a training example\. None at class 3"),
    ],
)
def test_a_data_set_without_what_classification_needs_is_refused(folder, name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, profile="none", data_dir=folder)


@pytest.mark.parametrize(
    ("name", "near"),
    [("cifar_10", "cifar10"), ("cifar100lt", "cifar100_lt"), ("fashion_mnist_l", "fashion_mnist_lt")],
)
def test_an_unknown_name_suggests_near_ones(name, near):
    with pytest.raises(ValueError, match=rf"Unknown data set '{name}'.*Did you mean .*\b{near}\b"):
        data.load(name)


@pytest.mark.parametrize("name", ["", "*", "/", "../tfds", "cifar100:3.0.2", "zzzzzz"])
def test_a_name_is_neither_a_pattern_nor_a_path(folder, name):
    with pytest.raises(ValueError, match=r"Unknown data set .*: no name of this package, nor of TensorFlow Datasets"):
        data.load(name, data_dir=folder)


@pytest.mark.parametrize(("name", "source"), [("cifar10_lt", "cifar10"), ("i_naturalist2018", "i_naturalist2018")])
def test_data_that_is_not_on_disk_names_the_download_at_once_and_offline(tmp_path, name, source):
    start = time.monotonic()
    command = rf"tfds\.builder\('{source}', data_dir='{tmp_path}'\)\.download_and_prepare\(\)"
    with pytest.raises(FileNotFoundError, match=rf"(?s)not on disk under {tmp_path}\. Download it once .*{command}"):
        data.load(name, data_dir=tmp_path)
    assert time.monotonic() - start < 5


def test_compare_does_not_train_on_streams(folder, tmp_path):
    config = compare.Config(dataset="varied", imbalance_ratio=4, data_dir=str(folder))
    with pytest.raises(ValueError, match=r"`dataset` must have images of one size .*'varied' streams\. Resize it"):
        compare.compare(config, methods=["erm"], seeds=1, output=tmp_path / "out")


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"CIFAR-100 in TFDS's format is not at {CIFAR}")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads with TensorFlow whatever the backend: once")
def test_cifar100_lt_has_the_published_number_of_real_images():
    loaded = data.load("cifar100_lt", validation="none", data_dir=CIFAR)
    assert loaded.class_counts.sum() == len(loaded.train[0]) == 10847
    assert loaded.class_counts.tolist() == long_tail_counts(100, max_count=500, imbalance_ratio=100).tolist()
    assert loaded.train[0].shape[1:] == (32, 32, 3) and loaded.test[0].shape == (10000, 32, 32, 3)
    assert np.bincount(loaded.test[1]).tolist() == [100] * 100
    # Krizhevsky's images: the published mean of the red channel is 129.3 of 255.
    assert abs(loaded.test[0][..., 0].mean() - 129.3) < 2
    assert loaded.class_names[0] == "apple"
