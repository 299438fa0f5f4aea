"""What TensorBoard reads, written as plain protocol buffers.

An op of `tf.summary` needs the package `tensorboard`, which TensorFlow does not bring, and would take the memory of the
GPU that JAX or torch trains on. A file of records takes neither.
"""

import importlib.util
import io
import os
import platform
import time

import numpy as np

_BINS = 20


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


class EventFile:
    """A new file of events in a folder, beside those of earlier runs: TensorBoard reads them as one.

    Args:
        folder: made where it is missing; wherever TensorFlow writes to.
    """

    def __init__(self, folder):
        import tensorflow as tf

        self._protos = tf.compat.v1
        tf.io.gfile.makedirs(folder)
        name = f"events.out.tfevents.{time.time_ns()}.{platform.node()}.{os.getpid()}"
        self._writer = tf.io.TFRecordWriter(os.path.join(folder, name))
        self._write(file_version="brain.Event:2")

    def write(self, step, scalars, fractions, text, figure=None):
        """Write the events of a step.

        Args:
            step: its number.
            scalars: `{tag: number}`.
            fractions: `{tag: numbers in [0, 1]}`, for histograms.
            text: `{tag: text}`.
            figure: `(tag, a matplotlib figure)`, or None.
        """
        values = [self._value(tag, simple_value=value) for tag, value in scalars.items()]
        values += [self._value(tag, histo=self._histogram(numbers)) for tag, numbers in fractions.items()]
        values += [self._text(tag, line) for tag, line in text.items()]
        if figure is not None:
            values.append(self._image(*figure))
        self._write(step=step, summary=self._protos.Summary(value=values))

    def close(self):
        self._writer.close()

    def _write(self, **content):
        self._writer.write(self._protos.Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()

    def _value(self, tag, **content):
        return self._protos.Summary.Value(tag=tag, **content)

    def _histogram(self, numbers):
        heights, edges = np.histogram(numbers, bins=_BINS, range=(0, 1))
        return self._protos.HistogramProto(
            min=0,
            max=1,
            num=len(numbers),
            sum=np.sum(numbers),
            sum_squares=np.sum(np.square(numbers)),
            bucket_limit=edges[1:],
            bucket=heights,
        )

    def _text(self, tag, line):
        import tensorflow as tf

        plugin = self._protos.SummaryMetadata.PluginData(plugin_name="text")
        return self._value(
            tag, tensor=tf.make_tensor_proto([line]), metadata=self._protos.SummaryMetadata(plugin_data=plugin)
        )

    def _image(self, tag, figure):
        png = io.BytesIO()
        figure.savefig(png, format="png")
        width, height = map(int, figure.canvas.get_width_height())
        image = self._protos.Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=png.getvalue()
        )
        return self._value(tag, image=image)
