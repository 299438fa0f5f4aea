"""`compare`: train methods on a long tail and compare them."""

from keras_logit_adjust.cli import options as shared
from keras_logit_adjust.compare import compare, report
from keras_logit_adjust.compare.run import DEFAULT_METHODS


def add_to(subparsers):
    parser = shared.add_command(
        subparsers, "compare", run, help="train methods on a long tail and compare them", renamed=shared.DATASET
    )
    shared.add_methods(parser, DEFAULT_METHODS)
    shared.add_seeds(parser)
    shared.add_config(parser, ("data", "training", "devices"))
    shared.add_output(parser, "results.json, predictions.npz, report.md, report.html and figures")


def run(options):
    """What to print, and the names of the files; None from all workers but the chief."""
    results = compare(shared.config_of(options), methods=options.methods, seeds=options.seeds, output=options.output)
    if results is None:
        return None, None
    return report.to_markdown(results), "report.html, report.md, results.json, predictions.npz"
