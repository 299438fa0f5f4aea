"""The parser: a subcommand for each file of commands."""

import argparse

import keras_logit_adjust
from keras_logit_adjust.cli import adjust, compare, inspect, study


def make_parser():
    parser = argparse.ArgumentParser(prog="keras-logit-adjust", description=keras_logit_adjust.__doc__)
    parser.add_argument("--version", action="version", version=keras_logit_adjust.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in (compare, study, adjust, inspect):
        command.add_to(subparsers)
    return parser
