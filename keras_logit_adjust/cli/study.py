"""`study`: runs one of the paper's findings."""

from keras_logit_adjust import studies
from keras_logit_adjust.cli import options as shared
from keras_logit_adjust.cli import printing


def add_to(subparsers):
    parser = subparsers.add_parser("study", help="run one of the paper's findings")
    subparsers = parser.add_subparsers(dest="study", required=True)
    for name, study in studies.STUDIES.items():
        text = study.__doc__.split("\n", 1)[0]
        parser = shared.add_command(subparsers, name, run, help=text, description=text, renamed=shared.DATASET)
        if name == "consistency":
            parser.add_argument("--sizes", type=shared.whole, nargs="+", default=study.SIZES, help="training examples")
            parser.add_argument("--trials", type=shared.whole, default=100, help="samples of each size (100)")
            parser.add_argument("--steps", type=shared.whole, default=400, help="steps of the optimizer (400)")
            parser.add_argument("--seed", type=shared.whole, default=0)
        elif name == "many-classes":
            parser.add_argument("--num-classes", type=shared.whole, default=study.NUM_CLASSES, help="(100,000)")
            parser.add_argument(
                "--rivals", type=shared.whole, nargs="+", default=study.RIVALS, help="numbers of drawn rivals"
            )
            parser.add_argument("--epochs", type=shared.whole, default=study.EPOCHS, help="(5)")
            shared.add_seeds(parser)
        else:
            if hasattr(study, "DEFAULT_METHODS"):
                shared.add_methods(parser, study.DEFAULT_METHODS)
            shared.add_seeds(parser)
            # The study of norms compares the optimizers itself.
            shared.add_config(parser, ("data", "training", "devices"), without=["optimizer"] * (name == "weight-norms"))
        if name == "label-noise":
            parser.set_defaults(label_noise=study.SHARE)
        shared.add_output(parser, "results.json, report.md, report.html and the figure")


def run(options):
    """Run the study, and show its table."""
    printing.check_shown(options.output)
    names = studies.OWN_OPTIONS.get(options.study, ("methods", "seeds"))
    own = {key: vars(options)[key] for key in names if key in options}
    if options.study not in studies.OWN_OPTIONS:
        own["config"] = shared.config_of(options)
    with studies.studied(options.study, output=options.output, **own) as (results, folder):
        text, files = studies.to_markdown(results), "report.html, report.md, results.json, figure.png"
        printing.show(text, output=options.output, files=files, kept=folder)
