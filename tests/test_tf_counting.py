"""Counting the labels of TFRecord files: which files, what is parsed, and what is refused."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_logit_adjust.data import LongTailSampler
from keras_logit_adjust.priors import count_classes

LABELS = np.random.default_rng(0).choice(5, 400, p=[0.5, 0.3, 0.1, 0.06, 0.04])
COUNTS = np.bincount(LABELS).tolist()
NAMES = ["train-0.tfrecord", "train-1.tfrecord", "train-2.tfrecord", "train-3.tfrecord.gz"]


def ints(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def text(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))


def write(path, labels, **features):
    """A file of records with the labels in many forms, and `features` in each of them."""
    compression = "GZIP" if str(path).endswith(".gz") else ""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for label in labels:
            one_hot = ints(*np.eye(5, dtype=int)[label])
            forms = {"label": ints(label), "name": text(f"class {label}"), "one_hot": one_hot, **features}
            writer.write(tf.train.Example(features=tf.train.Features(feature=forms)).SerializeToString())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four shards of 400 examples, the last compressed, and a file that is none of them."""
    folder = tmp_path_factory.mktemp("records")
    for name, labels in zip(NAMES, np.array_split(LABELS, 4), strict=True):
        write(folder / name, labels)
    write(folder / "validation-0.tfrecord", [0] * 7)
    return folder


def one_hot(serialized):
    return tf.io.parse_example(serialized, {"one_hot": tf.io.FixedLenFeature([5], tf.int64)})["one_hot"]


def from_text(serialized):
    names = tf.io.parse_example(serialized, {"name": tf.io.FixedLenFeature([], tf.string)})["name"]
    return tf.strings.to_number(tf.strings.regex_replace(names, "class ", ""), tf.int64)


SOURCES = {
    "a pattern": lambda folder: str(folder / "train-*"),
    "a Path with a pattern": lambda folder: folder / "train-?.tfrecord*",
    "a list of paths": lambda folder: [str(folder / name) for name in NAMES],
    "a tuple of Paths": lambda folder: tuple(folder / name for name in NAMES),
    "patterns and paths": lambda folder: [folder / "train-*.gz", str(folder / "train-*.tfrecord")],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_labels_of_all_files_are_counted(folder, source):
    counts = count_classes(source(folder), record_label="label")
    assert counts.dtype == np.int64
    assert counts.tolist() == COUNTS


@pytest.mark.parametrize("record_label", ["label", one_hot, from_text], ids=["label", "one-hot", "text"])
def test_labels_of_any_form_are_counted(folder, record_label):
    options = {"num_classes": 5, "label_form": "rows" if record_label is one_hot else None}
    assert count_classes(folder / "train-*", record_label=record_label, **options).tolist() == COUNTS


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_a_single_file_is_counted_for_itself(folder, name):
    expected = np.bincount(np.array_split(LABELS, 4)[NAMES.index(name)], minlength=7)
    assert count_classes(str(folder / name), num_classes=7, record_label="label").tolist() == expected.tolist()


def test_a_function_gets_batches_of_serialized_records(folder):
    specs = []

    def remember(serialized):
        specs.append((serialized.dtype, serialized.shape.rank))
        return one_hot(serialized)

    count_classes(folder / "train-*", record_label=remember, label_form="rows")
    assert set(specs) == {(tf.string, 1)}


def test_the_label_alone_is_parsed(tmp_path):
    write(tmp_path / "a.tfrecord", [0, 1, 1], image=text("what no decoder reads"), size=ints(1))
    write(tmp_path / "b.tfrecord", [1, 0, 1], image=ints(3, 4), size=text("of another type"))
    write(tmp_path / "c.tfrecord", [2])
    assert count_classes(tmp_path / "*.tfrecord", record_label="label").tolist() == [2, 4, 1]


def test_more_labels_than_a_batch_holds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_logit_adjust.priors.counting._REBATCH", 7)
    write(tmp_path / "a.tfrecord", LABELS[:50])
    assert (
        count_classes(tmp_path / "a.tfrecord", num_classes=5, record_label="label").tolist()
        == np.bincount(LABELS[:50]).tolist()
    )


def test_a_name_that_looks_like_a_pattern_stands_for_itself(tmp_path):
    write(tmp_path / "run[1].tfrecord", [0, 0, 1])
    write(tmp_path / "run1.tfrecord", [1] * 9)  # what the pattern would match
    assert count_classes(tmp_path / "run[1].tfrecord", record_label="label").tolist() == [2, 1]


def test_a_label_out_of_range_is_found(tmp_path):
    write(tmp_path / "a.tfrecord", [0, 1, 4, 2])
    with pytest.raises(ValueError, match="below num_classes=4. Received 4 at position 2 of batch 0"):
        count_classes(tmp_path / "a.tfrecord", num_classes=4, record_label="label")


def test_records_without_the_label_are_an_error_that_names_it(folder):
    with pytest.raises(ValueError, match=r"Received 'target'; the features of '.*' are \['label', 'name'"):
        count_classes(folder / "train-*", record_label="target")
    with pytest.raises(
        ValueError, match="'name' must be one int64, the class id. Received a bytes_list: .*StringLookup"
    ):
        count_classes(folder / "train-*", record_label="name")
    (folder / "table.csv").write_text("label\n" + "1\n" * 100)
    with pytest.raises(ValueError, match="must be TFRecord files of tf.train.Example. Received '.*table.csv'"):
        count_classes(folder / "table.csv", record_label="label")


BAD = {
    "no such file": ("{}/test-*", "label", "must match files that exist. Received: '.*test-\\*'"),
    "one of two missing": (["{}/train-*", "{}/test-0"], "label", "must match files that exist. Received: '.*test-0'"),
    "no label": (
        "{}/train-*",
        None,
        "Labels must be numbers. Received text, .*train-\\*.*give `record_label`: the name",
    ),
    "no label of a list": (["{}/train-*"], None, "Labels must be numbers. .*train-\\*.*give `record_label`: the name"),
    "an empty list": ([], "label", "`record_label` goes with TFRecord files.*Received: list"),
    "an array": (LABELS, "label", "`record_label` goes with TFRecord files.*Received: ndarray"),
    "a dataset": (tf.data.Dataset.range(3), "label", "`record_label` goes with TFRecord files"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_what_is_not_files_with_a_label_is_refused(folder, case):
    source, record_label, message = case
    if isinstance(source, str):
        source = source.format(folder)
    elif isinstance(source, list):
        source = [pathlib.Path(path.format(folder)) for path in source]
    with pytest.raises(ValueError, match=message):
        count_classes(source, record_label=record_label)


def test_names_in_place_of_labels_are_told_how_they_become_ids():
    with pytest.raises(
        ValueError, match="must be numbers. Received text, 'ant', …: make ids of names by one list of names"
    ):
        count_classes(["ant", "bee"])


def test_files_without_records_are_refused(tmp_path):
    write(tmp_path / "a.tfrecord", [])
    with pytest.raises(ValueError, match="found no labels"):
        count_classes(tmp_path / "a.tfrecord", record_label="label")


def test_the_endless_batches_of_a_sampler_are_not_counted():
    dataset = LongTailSampler(LABELS, batch_size=8, seed=0).dataset((np.zeros((400, 2)), LABELS))
    with pytest.raises(ValueError, match=r"endless dataset: count before `\.repeat\(\)`, or `\.take\(n\)`"):
        count_classes(dataset)
    assert count_classes(dataset.take(3)).sum() == 24
