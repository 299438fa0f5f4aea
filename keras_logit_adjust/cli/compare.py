"""`compare`: trains methods on a long tail and compares them."""

import contextlib
import importlib

from keras_logit_adjust import _process
from keras_logit_adjust._interrupts import is_command
from keras_logit_adjust.cli import options as shared
from keras_logit_adjust.cli import printing
from keras_logit_adjust.compare import report
from keras_logit_adjust.compare.jobs import default_jobs
from keras_logit_adjust.compare.run import DEFAULT_METHODS, compared

_OWN = ("methods", "seeds", "output", "baseline", "test_mixes")


def add_to(subparsers):
    parser = shared.add_command(
        subparsers, "compare", run, help="train methods on a long tail and compare them", renamed=shared.DATASET
    )
    shared.add_methods(parser, DEFAULT_METHODS)
    shared.add_seeds(parser)
    parser.add_argument("--jobs", type=shared.whole, help="trainings at once; by default as many as the cores allow")
    shared.add_config(parser, ("data", "training", "devices"))
    parser.add_argument("--baseline", default="erm", metavar="NAME", help="method of the differences (erm)")
    parser.add_argument(
        "--test-mixes", action="store_true", help="also evaluate the test logits under other class mixes"
    )
    shared.add_output(parser, "results.json, predictions.npz, report.md, report.html and figures")


def run(options):
    """Compare, and show the table; with several workers only the chief shows it."""
    printing.check_shown(options.output)
    config, own = shared.config_of(options), {key: getattr(options, key) for key in _OWN}
    with _process.silent():  # a backend prints lines when it first looks at the devices
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorflow")  # on every backend, Keras's `fit` looks for TensorFlow's data sets
        most = default_jobs(config)
    # `main` may be called from another program, which must not be started again for each process.
    jobs = (most if is_command() else 1) if options.jobs is None else options.jobs
    with compared(config, jobs=jobs, **own) as found:
        if found.results is not None:
            files = "report.html, report.md, results.json, predictions.npz"
            text = report.to_markdown(found.results)
            printing.show(text, output=options.output, files=files, kept=found.folder)
