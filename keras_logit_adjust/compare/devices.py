"""The devices that a comparison trains on: one, or several that share every batch."""

import contextlib
import os
import pathlib

import keras
import numpy as np

from keras_logit_adjust import _keras, _process, tf_distribute
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.tf_distribute import _cluster

STRATEGIES = ("mirrored", "multi_worker", "jax_data_parallel")
_PREDICTED_AT_ONCE = 512
_CPU, _BFLOAT16 = pathlib.Path("/proc/cpuinfo"), {"avx512_bf16", "amx_bf16"}


class OneDevice:
    """Keras as it is.

    Attributes:
        number: the number of devices.
        is_chief: whether this process writes files and shows progress.
        needs_full: whether every batch must be full.
        keeps_epochs: whether a training can go on after any of its epochs, with the weights of an undisturbed one.
    """

    number, is_chief, needs_full, keeps_epochs = 1, True, False, True

    def scope(self):
        """The scope in which a model is made and compiled."""
        return contextlib.nullcontext()

    def exact(self):
        """A context in which a repeated training ends with the same weights, bit by bit."""
        return _keras.deterministic_operations() if self.keeps_epochs else contextlib.nullcontext()

    def fit(self, model, training, *, initial_epoch=0, **options):
        """Train on a `feeding.Training`, from a given epoch on."""
        model.fit(**training.fit_arguments(full=self.needs_full, initial_epoch=initial_epoch), verbose=0, **options)

    def predict(self, model, x):
        """Logits of `x`."""
        at_once = _PREDICTED_AT_ONCE // self.number * self.number
        return model.predict(self._padded(x), batch_size=at_once, verbose=0)[: len(x)]

    def check_agreement(self, todo):
        """Raise if the processes that train together would train different runs."""

    def _padded(self, x):
        """`x` with its last row repeated, so that all devices get the same number of rows."""
        return np.concatenate([x, np.repeat(x[-1:], -len(x) % self.number, axis=0)])


class TensorFlowDevices(OneDevice):
    """The replicas of a `tf.distribute` strategy, in this process or in several."""

    keeps_epochs = False

    def __init__(self, strategy):
        self.strategy, self.number = strategy, strategy.num_replicas_in_sync
        self.is_chief = tf_distribute.is_chief(strategy)

    def scope(self):
        return self.strategy.scope()

    def fit(self, model, training, **options):
        tf_distribute.fit(model, training.dataset, sampler=training.full_batches(), verbose=0, **options)

    def predict(self, model, x):
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensor_slices(self._padded(x)).batch(_PREDICTED_AT_ONCE)
        return tf_distribute.predict(model, batches, verbose=0)[: len(x)]

    def check_agreement(self, todo):
        _cluster.check_same_everywhere(
            self.strategy,
            len(todo),
            rule="All workers must see the same finished runs: put the output folder on storage they share.",
        )


class JaxDevices(OneDevice):
    """Devices of JAX under `keras.distribution.DataParallel`, which needs batches that divide by their number."""

    keeps_epochs = False

    def __init__(self, devices):
        self.number, self.needs_full = len(devices), True
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


@contextlib.contextmanager
def opened(strategy=None, *, number=None):
    """The devices of a strategy, one of `STRATEGIES` or None, for as long as the context lasts.

    Raises:
        ValueError: for a strategy of another backend, devices that are not there or not enough of them.
    """
    if strategy is None:
        yield OneDevice()
        return
    backend, needed = keras.backend.backend(), "jax" if strategy == "jax_data_parallel" else "tensorflow"
    if backend != needed:
        raise ArgumentError(
            "strategy",
            f"`strategy` {strategy!r} is for Keras's {needed} backend. Received: backend {backend!r}. Set the "
            f"environment variable KERAS_BACKEND={needed}, or choose a strategy for {backend}.",
        )
    if strategy == "jax_data_parallel":
        before = keras.distribution.distribution()
        try:
            yield JaxDevices(_jax_devices(number))
        finally:
            keras.distribution.set_distribution(before)
    else:
        yield TensorFlowDevices(_mirrored(number) if strategy == "mirrored" else _workers(number))


def has_gpu():
    """Whether a training would use a GPU."""
    if (backend := keras.backend.backend()) == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def threads():
    """The number of threads of a training on the CPU. The last bits of the trained weights depend on it."""
    if (backend := keras.backend.backend()) == "torch":
        import torch

        return torch.get_num_threads()
    asked, pool = 0, "NPROC"
    if backend == "tensorflow":
        import tensorflow as tf

        asked, pool = tf.config.threading.get_intra_op_parallelism_threads(), "TF_NUM_INTRAOP_THREADS"
    given = os.environ.get(pool, "")
    return asked or (int(given) if given.isdecimal() and int(given) else _process.cores())


def multiplies_bfloat16():
    """Whether the CPU has instructions for bfloat16, as far as Linux shows it."""
    try:
        words = _CPU.read_text().split()
    except OSError:
        return False
    return not _BFLOAT16.isdisjoint(words)


def _workers(number):
    addresses, _ = _cluster.check_tf_config()
    if number is not None and len(addresses) != number:
        raise ArgumentError(
            "devices",
            f"`devices` must be the {len(addresses)} workers that TF_CONFIG names. Received: devices={number}.",
        )
    return tf_distribute.multi_worker_strategy()


def _mirrored(number):
    import tensorflow as tf

    gpus = [f"GPU:{index}" for index, _ in enumerate(tf.config.list_physical_devices("GPU"))]
    number = number or max(len(gpus), 2)
    if gpus:
        _check_enough(number, gpus, what="GPUs")
        return tf.distribute.MirroredStrategy(gpus[:number])
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError:  # TensorFlow has started: its devices can no longer be changed
        _check_enough(
            number, tf.config.list_logical_devices("CPU"), what="parts of the CPU that TensorFlow started with"
        )
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(number)])


def _jax_devices(number):
    import jax

    if number is not None:
        # Parts of the CPU, unless there is a GPU. Once JAX has started, its devices can no longer be changed.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", number)
    found = keras.distribution.list_devices()
    _check_enough(number or 1, found, what="devices")
    return found[:number]


def _check_enough(number, found, *, what):
    if number > len(found):
        raise ArgumentError("devices", f"`devices` must be at most {len(found)}, the {what} found. Received: {number}.")
