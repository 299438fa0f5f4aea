"""Ctrl-C while the command line still imports its backend: the process ends at once, and shows no traceback."""

import pathlib
import signal
import sys
import threading


def is_command():
    """Whether this process was started for the command line of the package."""
    script = pathlib.Path(sys.argv[0]).stem if getattr(sys, "argv", None) else ""
    return script == "keras-logit-adjust" or (script == "-m" and __package__ in sys.orig_argv)


def end_at_once():
    """Let the system end the process, until `raise_again`."""
    is_main, handler = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
    if is_main and handler is signal.default_int_handler and is_command():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again():
    """Let Ctrl-C be a KeyboardInterrupt again, where `end_at_once` changed it."""
    if is_command() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


end_at_once()
