"""The command line: `python -m keras_logit_adjust` and `keras-logit-adjust`."""

from keras_logit_adjust.cli.run import main

__all__ = ["main"]
