"""Settings of the command line for its process, before its backend is imported. As a library the package sets nothing.

A training of `compare` takes one thread. So several trainings can run at once, and their number does not change the
last bits of the results. The environment variable `OMP_NUM_THREADS` sets another number.
"""

import contextlib
import os
import sys

from keras_logit_adjust._interrupts import is_command

# The two thread pools of TensorFlow and the pool of JAX. torch reads `OMP_NUM_THREADS`.
_POOLS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
_loud = contextlib.ExitStack()


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(environment, words):
    """Set the number of threads of a command (its `words`) in its environment, unless the environment has one."""
    if "compare" not in words or any(word.split("=")[0] == "--strategy" for word in words):
        return
    number = environment.setdefault("OMP_NUM_THREADS", "1")
    for pool in _POOLS:
        environment.setdefault(pool, number)


@contextlib.contextmanager
def silent():
    """Drop the standard error of code that is not Python. TensorFlow's C++ code writes there during its import."""
    try:
        before = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    shown, nowhere = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    if shown is not None:  # warnings and tracebacks of Python are still printed
        # `before` stays open: loggers that are made now keep this stream, and would later write into another file.
        sys.stderr = os.fdopen(before, "w", encoding=shown.encoding, errors=shown.errors, buffering=1, closefd=False)
        shown.flush()
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(before, 2)
        sys.stderr = shown


def prepare():
    """Prepare the process for a command of the package. `ready` ends the preparation."""
    if is_command():
        limit_threads(os.environ, sys.argv[1:])
        # Not even its errors: it logs them for datasets in which nothing is wrong. Real ones raise an exception too.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow has it on by itself only on some processors. On the others convolutions train three times as fast.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        _loud.enter_context(silent())


def ready():
    """Show standard error again, because all imports are done."""
    _loud.close()


prepare()
