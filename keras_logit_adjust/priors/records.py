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
            "Text is taken for files of records, and these need `record_label`: the name of the feature that is the "
            f"label, or a function of a batch of serialized records. Received {paths[0]!r}, … without it. If these are "
            f"class names, map them to ids, {_arrays.IDS_OF_NAMES}."
        )
    return [os.fspath(path) for path in paths]


def label_batches(files, record_label, batch_size):
    """A `tf.data.Dataset` of label batches from all files that match the patterns, in any order."""
    import tensorflow as tf

    paths = list(dict.fromkeys(path for pattern in files for path in _matches(pattern)))
    named = {} if callable(record_label) else {record_label: tf.io.FixedLenFeature([], tf.int64)}
    parse = (lambda batch: tf.io.parse_example(batch, named)[record_label]) if named else record_label

    def read(path):
        compression = tf.where(tf.strings.regex_full_match(path, r".*\.gz"), "GZIP", "")
        # Small batches, because a record contains its image until it is parsed.
        return tf.data.TFRecordDataset(path, compression).batch(_RECORDS).map(parse)

    files = tf.data.Dataset.from_tensor_slices(paths)
    return files.interleave(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).rebatch(batch_size)


def _matches(pattern):
    """The files that match a pattern. The name of an existing file matches itself, also with characters like `*`."""
    import tensorflow as tf

    paths = [pattern] if tf.io.gfile.exists(pattern) else sorted(tf.io.gfile.glob(pattern))
    if not paths:
        raise ValueError(f"A file or pattern must match files that exist. Received: {pattern!r}")
    return paths
