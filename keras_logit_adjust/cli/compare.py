"""`compare`: train methods on a long tail and compare them."""

from keras_logit_adjust.cli import options as shared
from keras_logit_adjust.cli import printing
from keras_logit_adjust.compare import report
from keras_logit_adjust.compare.run import DEFAULT_METHODS, compared

_OWN = ("methods", "seeds", "output", "baseline", "test_mixes")


def add_to(subparsers):
    parser = shared.add_command(
        subparsers, "compare", run, help="train methods on a long tail and compare them", renamed=shared.DATASET
    )
    shared.add_methods(parser, DEFAULT_METHODS)
    shared.add_seeds(parser)
    shared.add_config(parser, ("data", "training", "devices"))
    parser.add_argument("--baseline", default="erm", metavar="NAME", help="method that differences are to (erm)")
    parser.add_argument(
        "--test-mixes", action="store_true", help="judge the test logits under other class mixes of the test set, too"
    )
    shared.add_output(parser, "results.json, predictions.npz, report.md, report.html and figures")


def run(options):
    """Compare, and show the table; of several workers the chief does."""
    printing.check_shown(options.output)
    config, own = shared.config_of(options), {key: getattr(options, key) for key in _OWN}
    with compared(config, **own) as found:
        if found.results is not None:
            files = "report.html, report.md, results.json, predictions.npz"
            text = report.to_markdown(found.results)
            printing.show(text, output=options.output, files=files, kept=found.folder)
