"""The output of a command. Its streams may have few characters, or be closed or full."""

import contextlib
import os
import sys

from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust._printing import SPELLED_OUT, say


def prepare_streams():
    """Make the streams accept all text: help, progress bars, messages."""
    if sys.stderr is None:  # closed before Python started
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=SPELLED_OUT)


def check_shown(output):
    """Raise before training if a table would be lost."""
    if sys.stdout is None and output is None:
        raise ArgumentError("output", "Standard output is closed, so the table would be lost. Give `output`.")


def show(text, *, output=None, files=None, kept=None):
    """Print the text of a command and the names of the written files.

    Args:
        text: the text of the command.
        output: where files were written, or None.
        files: their names.
        kept: the folder of what is finished, from which the same command can go on.

    Raises:
        ValueError: where it cannot be printed, with what is lost and what is not.
    """
    written = "" if output is None else f"\n\nWritten to {output}: {files}"
    try:
        say(f"{text}{written}")
    except OSError as error:
        _give_up_output()
        there = f"The written files are in {output}." if output is not None else "Give the same command again."
        if output is None and kept is not None:
            there = f"Finished work is kept in {kept}: give the same command again, or add --output."
        raise ValueError(f"Standard output cannot be written ({error.strerror}). {there}") from error


def _give_up_output():
    """Send unprinted text nowhere; otherwise Python would try again when it ends."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
