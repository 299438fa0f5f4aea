"""`study`: run one of the paper's findings."""

from keras_logit_adjust import studies
from keras_logit_adjust.cli import options as shared


def add_to(subparsers):
    parser = subparsers.add_parser("study", help="run one of the paper's findings")
    subparsers = parser.add_subparsers(dest="study", required=True)
    for name, study in studies.STUDIES.items():
        text = study.__doc__.split("\n", 1)[0]
        parser = shared.add_command(subparsers, name, run, help=text, description=text, renamed=shared.DATASET)
        if name == "consistency":
            parser.add_argument("--sizes", type=int, nargs="+", default=study.SIZES, help="training examples")
            parser.add_argument("--trials", type=int, default=100, help="samples of each size (100)")
            parser.add_argument("--seed", type=int, default=0)
        else:
            if hasattr(study, "DEFAULT_METHODS"):
                shared.add_methods(parser, study.DEFAULT_METHODS)
            shared.add_seeds(parser)
            # The study of norms compares the optimizers itself.
            shared.add_config(parser, ("data", "training"), without=["optimizer"] * (name == "weight-norms"))
        if name == "label-noise":
            parser.set_defaults(label_noise=study.SHARE)
        shared.add_output(parser, "results.json, report.md, report.html and the figure")


def run(options):
    """What to print, and the names of the files."""
    own = {key: vars(options)[key] for key in ("methods", "seeds", "sizes", "trials", "seed") if key in options}
    if options.study != "consistency":
        own["config"] = shared.config_of(options)
    results = studies.run_study(options.study, output=options.output, **own)
    return studies.to_markdown(results), "report.html, report.md, results.json, figure.png"
