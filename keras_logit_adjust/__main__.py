"""The command line: `python -m keras_logit_adjust` and `keras-logit-adjust`. Argument parsing only."""

import argparse
import logging
import math
import sys

import keras_logit_adjust
from keras_logit_adjust import commands, studies, tf_distribute
from keras_logit_adjust.compare import GROUPS, METHODS, Config, compare, report
from keras_logit_adjust.compare.devices import STRATEGIES
from keras_logit_adjust.compare.recipes import MODELS, OPTIMIZERS, RECIPES
from keras_logit_adjust.compare.run import DEFAULT_METHODS, PRECISIONS
from keras_logit_adjust.compare.workers import compare_on_workers, workers_to_start
from keras_logit_adjust.data.datasets import VALIDATIONS
from keras_logit_adjust.data.profiles import PROFILES
from keras_logit_adjust.posthoc.adjust import OUTPUTS
from keras_logit_adjust.serving import FORMATS
from keras_logit_adjust.tf_distribute import launch

TAU = "a number (1), or auto: of --validation, the nearest to 1 within one standard error of the best"


def main(arguments=None):
    """Run the command line; returns its exit status: 0, 1 without a worker, 2 for bad input, 130 when interrupted."""
    options = vars(_parser().parse_args(arguments))
    command = {"compare": _compare, "study": _study, "adjust": _adjust, "inspect": _inspect}[options.pop("command")]
    # Every run is a new model: TensorFlow's advice on retracing would cut through the progress bar.
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    output = options.pop("output", None)
    try:
        text, files = command(options, output)
    except (ValueError, OSError) as error:
        print(f"keras-logit-adjust: {error}", file=sys.stderr)
        return 2
    except tf_distribute.WorkerLostError as error:
        print(f"keras-logit-adjust: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if text is None:  # said by the chief of several workers
        return 0
    print(text)
    if output:
        print(f"\nWritten to {output}: {files}")
    return 0


def _compare(options, output):
    methods, seeds, workers = options.pop("methods"), options.pop("seeds"), options.pop("workers")
    config = Config(**options)
    workers = workers_to_start(config, workers)
    if workers is not None:
        return compare_on_workers(config, methods, seeds, output, workers), None
    launch.end_with_launcher()
    results = compare(config, methods, seeds, output)
    if results is None:
        return None, None
    return report.to_markdown(results), "report.html, report.md, results.json, predictions.npz"


def _study(options, output):
    name = options.pop("study")
    own = {key: options.pop(key) for key in ("methods", "seeds", "sizes", "trials", "seed") if key in options}
    if options:
        own["config"] = Config(**options)
    files = "report.html, report.md, results.json, figure.png"
    return studies.to_markdown(studies.run_study(name, output, **own)), files


def _adjust(options, output):
    return commands.adjust(output=output, **options)


def _inspect(options, _):
    return commands.inspect(**options), None


def _parser():
    parser = argparse.ArgumentParser(prog="keras-logit-adjust", description=keras_logit_adjust.__doc__)
    parser.add_argument("--version", action="version", version=keras_logit_adjust.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    comparison = subparsers.add_parser("compare", help="train methods on a long tail and compare them")
    _add_data(comparison)
    _add_training(comparison, DEFAULT_METHODS)
    _add_devices(comparison)
    _add_output(comparison, "results.json, predictions.npz, report.md, report.html and figures")
    _add_studies(subparsers.add_parser("study", help="run one of the paper's findings").add_subparsers(dest="study"))
    _add_adjust(
        subparsers.add_parser("adjust", help="adjust a trained model, and write it in the format it is served in")
    )
    described = subparsers.add_parser("inspect", help="say what head a model has, and whether and how it is adjusted")
    described.add_argument("model", metavar="MODEL.keras")
    return parser


def _add_adjust(parser):
    parser.add_argument("model", metavar="MODEL.keras", help="trained with plain cross-entropy")
    parser.add_argument("--counts", required=True, metavar="FILE.csv", help="training examples: class_id,count")
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="….keras, ….tflite, ….onnx; without suffix a folder"
    )
    parser.add_argument("--to", choices=FORMATS, help="by default as --output is named; a folder is a SavedModel")
    parser.add_argument("--force", action="store_true", help="overwrite --output")
    how = parser.add_argument_group("adjustment")
    how.add_argument("--tau", type=_tau, default=1.0, help=TAU)
    how.add_argument(
        "--calibrate", action="store_true", help="on --validation, by a temperature and biases, before tau"
    )
    how.add_argument("--validation", metavar="FILE.npz", help="held-out arrays x and y")
    how.add_argument("--target-prior", metavar="FILE.csv", help="class mix to be right for, as --counts (uniform)")
    how.add_argument(
        "--num-examples", type=int, help="training examples, for independent labels: --counts has positives"
    )
    how.add_argument("--gives", choices=OUTPUTS, default="auto", help="what a model gives that cannot be read (auto)")
    how.add_argument("--fold", action="store_true", help="into the bias of the head, which costs nothing when served")
    how.add_argument("--allow-double-correction", action="store_true", help="adjust what is adjusted already")
    how.add_argument("--class-names", metavar="FILE.txt", help="a name a line, for the signature of a SavedModel")


def _add_studies(subparsers):
    subparsers.required = True
    for name, study in studies.STUDIES.items():
        text = study.__doc__.split("\n", 1)[0]
        parser = subparsers.add_parser(name, help=text, description=text)
        if name == "consistency":
            parser.add_argument("--sizes", type=int, nargs="+", default=study.SIZES, help="training examples")
            parser.add_argument("--trials", type=int, default=100, help="samples of each size (100)")
            parser.add_argument("--seed", type=int, default=0)
        else:
            _add_data(parser)
            _add_training(parser, getattr(study, "DEFAULT_METHODS", None), name != "weight-norms")
        if name == "label-noise":
            parser.set_defaults(label_noise=study.SHARE)
        _add_output(parser, "results.json, report.md, report.html and the figure")


def _add_data(parser):
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
    noise = "of the largest class, labeled as the smallest in training (%(default)s)"
    where.add_argument("--label-noise", type=float, default=defaults.label_noise, metavar="SHARE", help=noise)


def _add_training(parser, methods, has_optimizer=True):
    defaults = Config()
    how = parser.add_argument_group("training")
    if methods is not None:
        names = f"comma-separated, of {', '.join(METHODS)}; paper is table 3: {', '.join(GROUPS['paper'])}"
        how.add_argument("--methods", type=_names, default=methods, help=names)
    how.add_argument("--seeds", type=int, default=3, help="how many; each redraws subset and initialization (3)")
    how.add_argument("--recipe", choices=RECIPES, default=defaults.recipe)
    if has_optimizer:
        how.add_argument("--optimizer", choices=OPTIMIZERS, default=defaults.optimizer, help="instead of the recipe's")
    how.add_argument("--epochs", type=int, help="instead of the recipe's; its schedule is stretched")
    how.add_argument("--batch-size", type=int, help="instead of the recipe's")
    how.add_argument("--model", choices=MODELS, default=defaults.model)
    how.add_argument("--precision", choices=PRECISIONS, default=defaults.precision)


def _add_devices(parser):
    where = parser.add_argument_group("devices")
    where.add_argument("--strategy", choices=STRATEGIES, help="share every batch; multi_worker reads TF_CONFIG")
    where.add_argument(
        "--devices", type=int, help="how many devices (parts of the processor) or workers; all by default"
    )
    where.add_argument(
        "--workers", type=int, help="start this many workers on this machine, with --strategy multi_worker"
    )


def _add_output(parser, files):
    parser.add_argument("--output", metavar="DIR", help=f"keep {files} here")


def _tau(text):
    try:
        tau = text if text == "auto" else float(text)
    except ValueError:
        tau = math.nan
    if tau != "auto" and not 0 <= tau < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, or auto. Received: {text!r}")
    return tau


def _names(text):
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
