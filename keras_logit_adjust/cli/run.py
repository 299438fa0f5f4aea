"""Running a command: what it prints, its exit status, and errors of the package in words of the command line."""

import dataclasses
import logging
import re
import sys

from keras_logit_adjust import tf_distribute
from keras_logit_adjust._checks import ArgumentError
from keras_logit_adjust.cli.parser import make_parser
from keras_logit_adjust.compare import Config
from keras_logit_adjust.compare.config import flag_of


def main(arguments=None):
    """Run the command line; returns its exit status: 0, 1 without a worker, 2 for bad input, 130 when interrupted."""
    options = make_parser().parse_args(arguments)
    # Every run is a new model: TensorFlow's advice on retracing would cut through the progress bar.
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        text, files = options.run(options)
    except (ValueError, OSError, tf_distribute.WorkerLostError) as error:
        message = in_options(error, options.parser) if isinstance(error, ArgumentError) else error
        print(f"keras-logit-adjust: {message}", file=sys.stderr)
        return 1 if isinstance(error, tf_distribute.WorkerLostError) else 2
    except KeyboardInterrupt:
        return 130
    if text is None:  # said by the chief of several workers
        return 0
    print(text)
    if files and options.output:
        print(f"\nWritten to {options.output}: {files}")
    return 0


def in_options(error, parser):
    """The message of an `ArgumentError`, where arguments have the names of their options in `parser`."""
    flags = re.findall(r"--[\w-]+", parser.format_usage())
    names = {flag[2:].replace("-", "_"): flag for flag in flags}
    names |= {field.name: flag_of(field) for field in dataclasses.fields(Config) if flag_of(field) in flags}
    names |= parser.get_default("renamed")

    def option(found):
        name = found[1] or found[2]
        return found[0] if name not in names else names[name] + " " * (found[2] is not None)

    return re.sub(r"`(\w+)`|\b(\w+)=(?=\S)", option, str(error))
