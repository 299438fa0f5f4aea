"""Running a command: its output, its exit status, and errors of the package in words of the command line."""

import dataclasses
import errno
import logging
import re
import sys

from keras_logit_adjust import _interrupts, _process, tf_distribute
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust._printing import say
from keras_logit_adjust.cli import printing
from keras_logit_adjust.cli.parser import make_parser
from keras_logit_adjust.compare import Config
from keras_logit_adjust.compare.config import flag_of

_REMEDIES = {
    errno.ENOSPC: "Make room, and give the same command again",
    errno.EDQUOT: "Make room, and give the same command again",
    errno.EACCES: "Give a path where you may read and write",
    errno.EPERM: "Give a path where you may read and write",
    errno.EROFS: "Give a path where you may write",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path: a part of it is a file",
    errno.EISDIR: "Give a file, not a folder",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


def main(arguments=None):
    """Run the command line and return its status: 0, 1 without a worker, 2 for bad input, 130 or 143 when stopped."""
    _process.ready()
    _interrupts.raise_again()
    printing.prepare_streams()
    parser = make_parser()
    if any("\0" in word for word in arguments or ()):
        parser.error("an argument must not hold a null character")
    options = parser.parse_args(arguments)
    # Every run is a new model: TensorFlow's advice on retracing would break the progress bar.
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        options.run(options)
    except (ValueError, OSError, tf_distribute.WorkerLostError) as error:
        say(f"keras-logit-adjust: {in_words(error, options.parser)}", file=sys.stderr)
        return 1 if isinstance(error, tf_distribute.WorkerLostError) else 2
    except KeyboardInterrupt as stopped:
        return 143 if isinstance(stopped, _interrupts.Terminated) else 130
    return 0


def in_words(error, parser):
    """The text of an error: the package's in words of the command line, the system's with its place and remedy."""
    if isinstance(error, ArgumentError):
        return in_options(error, parser)
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    place = "" if error.filename is None else f"{error.filename or repr('')}: "
    remedy = _REMEDIES.get(error.errno)
    return f"{place}{error.strerror}." + (f" {remedy}." if remedy else "")


def in_options(error, parser):
    """The message of an `ArgumentError`; arguments get the names of their options in `parser`."""
    flags = re.findall(r"--[\w-]+", parser.format_usage())
    names = {flag[2:].replace("-", "_"): flag for flag in flags}
    names |= {field.name: flag_of(field) for field in dataclasses.fields(Config) if flag_of(field) in flags}
    names |= parser.get_default("renamed")

    def option(found):
        name = found[1] or found[2]
        return found[0] if name not in names else names[name] + " " * (found[2] is not None)

    return re.sub(r"`(\w+)`|\b(\w+)=(?=\S)", option, str(error))
