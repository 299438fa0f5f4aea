"""The command line: `python -m keras_logit_adjust` and `keras-logit-adjust`. Argument parsing only."""

import argparse
import logging
import sys

import keras_logit_adjust
from keras_logit_adjust.compare import METHODS, Config, compare, report
from keras_logit_adjust.compare.recipes import MODELS, RECIPES
from keras_logit_adjust.compare.run import DEFAULT_METHODS, PRECISIONS
from keras_logit_adjust.data.datasets import VALIDATIONS
from keras_logit_adjust.data.profiles import PROFILES


def main(arguments=None):
    """Run the command line; returns its exit status: 0, 2 for bad input, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    options.pop("command")
    # Every run is a new model: TensorFlow's advice on retracing would cut through the progress bar.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    methods, seeds, output = options.pop("methods"), options.pop("seeds"), options.pop("output")
    try:
        results = compare(Config(**options), [name.strip() for name in methods.split(",")], seeds, output)
    except (ValueError, OSError) as error:
        print(f"keras-logit-adjust: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.to_markdown(results))
    if output:
        print(f"\nWritten to {output}: report.md, results.json, predictions.npz")
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="keras-logit-adjust", description=keras_logit_adjust.__doc__)
    parser.add_argument("--version", action="version", version=keras_logit_adjust.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_compare(commands.add_parser("compare", help="train methods on a long tail and compare them"))
    return parser


def _add_compare(parser):
    defaults = Config()
    where = parser.add_argument_group("data")
    where.add_argument("--dataset", default=defaults.dataset, help="%(default)s, cifar10_lt, cifar100_lt, a TFDS name")
    where.add_argument("--train", metavar="FILE.npz", help="your own training set, arrays x and y")
    where.add_argument("--test", metavar="FILE.npz", help="your own test set, arrays x and y")
    where.add_argument("--data-dir", help="folder of TensorFlow Datasets' data")
    where.add_argument(
        "--ratio", dest="imbalance_ratio", type=float, default=defaults.imbalance_ratio, help="imbalance ratio (100)"
    )
    where.add_argument("--profile", choices=["auto", "none", *PROFILES], default=defaults.profile)
    where.add_argument("--max-count", type=int, help="examples of the largest class; by default as many as there are")
    where.add_argument("--validation", choices=VALIDATIONS, default=defaults.validation)
    how = parser.add_argument_group("training")
    how.add_argument("--methods", default=",".join(DEFAULT_METHODS), help=f"comma-separated, of {', '.join(METHODS)}")
    how.add_argument("--seeds", type=int, default=3, help="how many; each redraws subset and initialization (3)")
    how.add_argument("--recipe", choices=RECIPES, default=defaults.recipe)
    how.add_argument("--epochs", type=int, help="instead of the recipe's; its schedule is stretched")
    how.add_argument("--batch-size", type=int, help="instead of the recipe's")
    how.add_argument("--model", choices=MODELS, default=defaults.model)
    how.add_argument("--precision", choices=PRECISIONS, default=defaults.precision)
    parser.add_argument(
        "--output", metavar="DIR", help="keep results.json, predictions.npz, report.md and figures here"
    )


if __name__ == "__main__":
    sys.exit(main())
