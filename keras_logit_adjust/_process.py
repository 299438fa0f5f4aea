"""What the command line sets for its process, before its backend is imported; a library that is imported sets nothing.

A training of `compare` takes one thread, so that several can run side by side, and so that its last bits do not depend
on how many do. The environment variable `OMP_NUM_THREADS` says another number.
"""

import contextlib
import os
import sys

from keras_logit_adjust._interrupts import is_command

# TensorFlow's two pools, and JAX's; torch goes by `OMP_NUM_THREADS`.
_POOLS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
_loud = contextlib.ExitStack()


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(environment, words):
    """Set the threads of a command of these words in its environment, where that does not say them."""
    if "compare" not in words or any(word.split("=")[0] == "--strategy" for word in words):
        return
    number = environment.setdefault("OMP_NUM_THREADS", "1")
    for pool in _POOLS:
        environment.setdefault(pool, number)


@contextlib.contextmanager
def silent():
    """Drop what is written to standard error by code that is not Python, as TensorFlow's is when it is imported."""
    try:
        before = os.dup(2)
    except OSError:  # closed
        yield
        return
    shown, nowhere = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    if shown is not None:  # warnings and tracebacks come through
        sys.stderr = os.fdopen(before, "w", encoding=shown.encoding, errors=shown.errors, buffering=1, closefd=False)
        shown.flush()
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(before, 2)
        sys.stderr = shown
        os.close(before)


def prepare():
    """Set the process up for a command of the package, until `ready`."""
    if is_command():
        limit_threads(os.environ, sys.argv[1:])
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        _loud.enter_context(silent())


def ready():
    """All is imported."""
    _loud.close()


prepare()
