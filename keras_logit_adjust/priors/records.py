"""Read the labels of TFRecord files in batches. Several files are read at once, and only the label is parsed."""

import os

from keras_logit_adjust import _arrays

_RECORDS = 64  # so many records are parsed at once


def as_files(source, record_label):
    """`source` as a list of paths or patterns. None if it is something else."""
    paths = source if isinstance(source, (list, tuple)) else [source]
    if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        if record_label is not None:
            raise ValueError(
                "`record_label` goes with TFRecord files, a path, a pattern or a list of them. "
                f"Received: {type(source).__name__}"
            )
        return None
    if record_label is None:
        raise ValueError(
            f"Labels must be numbers. Received text, {paths[0]!r}, …: make ids of names {_arrays.IDS_OF_NAMES}. "
            "If these are TFRecord files, give `record_label`: the name of the feature that is the label, or a "
            "function of a batch of serialized records."
        )
    return [os.fspath(path) for path in paths]


def label_batches(files, record_label, batch_size):
    """A `tf.data.Dataset` of label batches from all files that match the patterns, in any order."""
    import tensorflow as tf

    paths = list(dict.fromkeys(path for pattern in files for path in _matches(pattern)))
    if not callable(record_label):
        _check_first_record(paths[0], record_label)
    named = {} if callable(record_label) else {record_label: tf.io.FixedLenFeature([], tf.int64)}
    parse = (lambda batch: tf.io.parse_example(batch, named)[record_label]) if named else record_label

    def read(path):
        compression = tf.where(tf.strings.regex_full_match(path, r".*\.gz"), "GZIP", "")
        # Small batches, because a record contains its image until it is parsed.
        return tf.data.TFRecordDataset(path, compression).batch(_RECORDS).map(parse)

    files = tf.data.Dataset.from_tensor_slices(paths)
    return files.interleave(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).rebatch(batch_size)


def _check_first_record(path, record_label):
    """Raise if the first record has no such feature, or one that is no whole number."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    records = tf.data.TFRecordDataset(path, "GZIP" if path.endswith(".gz") else "")
    try:
        first = next(records.as_numpy_iterator(), None)
        features = {} if first is None else tf.train.Example.FromString(first).features.feature
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ValueError(
            f"Files of labels must be TFRecord files of tf.train.Example. Received {path!r}, which is none: read the "
            "labels of other files yourself, and give an array."
        ) from error
    if first is not None and record_label not in features:
        raise ValueError(
            f"`record_label` must be a feature of the records. Received {record_label!r}; the features of {path!r} are "
            f"{sorted(features)}."
        )
    kind = "int64_list" if first is None else features[record_label].WhichOneof("kind")
    if kind != "int64_list":
        raise ValueError(
            f"The feature {record_label!r} must be one int64, the class id. Received a {kind}: give a function that "
            "makes ids of a batch of records, with tf.io.parse_example and keras.layers.StringLookup for names."
        )


def _matches(pattern):
    """The files that match a pattern. The name of an existing file matches itself, also with characters like `*`."""
    import tensorflow as tf

    paths = [pattern] if tf.io.gfile.exists(pattern) else sorted(tf.io.gfile.glob(pattern))
    if not paths:
        raise ValueError(f"A file or pattern must match files that exist. Received: {pattern!r}")
    return paths
