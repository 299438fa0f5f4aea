"""`inspect`: shows the head of a model, and whether and how it is adjusted."""

from keras_logit_adjust import serving
from keras_logit_adjust.cli import files, printing
from keras_logit_adjust.cli.options import add_command


def add_to(subparsers):
    parser = add_command(
        subparsers, "inspect", run, help="show the head of a model, and whether and how it is adjusted"
    )
    parser.add_argument("model", metavar="MODEL.keras")


def run(options):
    printing.show(str(serving.describe(files.read_model(options.model))))
