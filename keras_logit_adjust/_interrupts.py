"""Signals that end a command. While it imports its backend it ends at once, later it ends cleanly.

A shell makes the commands that it starts in the background ignore Ctrl-C. A command of the package can be stopped there
too, with `kill` or `kill -INT`. The end of a terminal (SIGHUP) stays ignored under `nohup`.
"""

import pathlib
import signal
import sys
import threading

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same as Ctrl-C, except for the exit status of the process."""


def is_command():
    """Whether this process was started for the command line of the package."""
    script = pathlib.Path(sys.argv[0] if getattr(sys, "argv", None) else "")
    # Python replaces -m by the path of `__main__.py` as soon as it has found this file.
    is_module = script.name == "-m" or script == pathlib.Path(__file__).with_name("__main__.py")
    return script.stem == "keras-logit-adjust" or (is_module and __package__ in sys.orig_argv)


def _can_be_set(number):
    """Whether this thread may set a handler, and the signal is ignored or has only Python's own handler."""
    mine = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)
    return threading.current_thread() is threading.main_thread() and signal.getsignal(number) in mine


def end_at_once():
    """Until `raise_again`, these signals end the process at once."""
    for number in _STOPPING:
        if is_command() and _can_be_set(number):
            signal.signal(number, signal.SIG_DFL)


def raise_again():
    """If `end_at_once` changed the signals, they raise a `KeyboardInterrupt` from now on."""
    for number, handler in zip(_STOPPING, (signal.default_int_handler, _terminate), strict=True):
        if is_command() and _can_be_set(number):
            signal.signal(number, handler)


def _terminate(number, frame):
    raise Terminated


end_at_once()
