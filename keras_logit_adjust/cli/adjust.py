"""`adjust`: adjusts a trained model, or its scores, from file to file."""

import argparse
import dataclasses
import math
import sys
import warnings

import numpy as np

from keras_logit_adjust import _checks, held_out, posthoc, serving
from keras_logit_adjust._printing import say
from keras_logit_adjust.cli import counts, files, printing, scores
from keras_logit_adjust.cli.options import add_command, real, whole
from keras_logit_adjust.posthoc import _guard
from keras_logit_adjust.posthoc.adjust import OUTPUTS
from keras_logit_adjust.posthoc.scores import KINDS
from keras_logit_adjust.serving import _files
from keras_logit_adjust.serving.export import check_writable

WRITTEN = {"keras": "a Keras model", "savedmodel": "a SavedModel", "tflite": "a TFLite model", "onnx": "an ONNX model"}
TAU = "a number (1), or auto: the τ nearest to 1 within one standard error of the best, found on --validation"


def add_to(subparsers):
    parser = add_command(
        subparsers,
        "adjust",
        run,
        help="adjust a trained model, or its scores, and write it in the format for serving",
        renamed={
            "output": "--gives",  # in Python, `output` is the kind of output of a model
            "path": "--output",
            "overwrite": "--force",
            "class_counts": "--counts",
            "positive_counts": "--counts",
        },
    )
    parser.add_argument(
        "model", metavar="MODEL.keras", help="model trained with cross-entropy; or its scores, SCORES.csv or SCORES.npy"
    )
    parser.add_argument(
        "--counts",
        "--prior",
        required=True,
        metavar="FILE.csv",
        help="class_id,count of the training set, or class_id,prior; by name: class,…",
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="….keras, ….tflite, ….onnx or a folder; scores keep the format"
    )
    parser.add_argument(
        "--to", choices=serving.FORMATS, help="by default from the name of --output; a folder is a SavedModel"
    )
    parser.add_argument("--force", action="store_true", help="overwrite --output")
    how = parser.add_argument_group("adjustment")
    how.add_argument("--tau", type=_tau, default=1.0, help=TAU)
    how.add_argument(
        "--calibrate", action="store_true", help="calibrate on --validation, with a temperature and biases, before tau"
    )
    how.add_argument("--validation", metavar="FILE.npz", help="held-out arrays x and y")
    how.add_argument("--target-prior", metavar="FILE.csv", help="class mix of the deployment, as --counts (uniform)")
    how.add_argument(
        "--class-weight",
        metavar="WEIGHTS",
        help="weights of the training, which are undone: balanced, or FILE.csv, class_id,weight (class,weight)",
    )
    how.add_argument("--resampled-counts", metavar="FILE.csv", help="counts after resampling, which is undone")
    how.add_argument("--kind", choices=KINDS, help="the kind of the scores (probabilities)")
    how.add_argument(
        "--num-examples", type=whole, help="training examples, for independent labels: --counts has positives"
    )
    how.add_argument("--gives", choices=OUTPUTS, default="auto", help="the model's output, if it cannot be read (auto)")
    how.add_argument("--fold", action="store_true", help="put it into the bias of the head; costs nothing in serving")
    how.add_argument("--allow-double-correction", action="store_true", help="adjust a model that is adjusted already")
    how.add_argument(
        "--class-names",
        metavar="FILE.txt",
        help="one name a line, in order of class id: for a SavedModel, and for counts by name",
    )


def _tau(text):
    try:
        tau = text if text == "auto" else real(text)
    except ValueError:
        tau = math.nan
    if tau != "auto" and not math.isfinite(tau):
        raise argparse.ArgumentTypeError(f"must be a number, or auto. Received: {text!r}")
    return tau


def run(options):
    """Adjust the model in a file, write it to another, and show what was done in a few lines.

    Raises:
        ValueError: for a file that is not what it should be, or options that do not go together.
        OSError: for a file that cannot be read or written.
    """
    if options.model.endswith(scores.SUFFIXES):
        scores.run(options, counts.read(options))
        return
    # Check first whether it may be written there, before anything that takes time.
    path, to = _files.as_destination(options.output, options.to, overwrite=options.force)
    check_writable(to)
    _check_together(options)
    names = files.read_lines(options.class_names) if options.class_names is not None else None
    given = counts.read(options)
    # Only a SavedModel stores names. In every format they put counts by name in order.
    needs_place = names is not None and (to == "savedmodel" or not counts.name_classes(given))
    served = {"class_names": names} if needs_place else {}
    settings = {
        **counts.settings(given, options, names=names),
        "num_examples": options.num_examples,
        "allow_double_correction": options.allow_double_correction,
    }
    examples = None if options.validation is None else files.read_held_out(options.validation)
    trained, tau, lines = files.read_model(options.model), options.tau, []
    files.check_no_nan(trained)
    _check_not_adjusted(trained, options)
    if examples is not None:
        # Refuse a model that cannot be adjusted before it predicts.
        _adjusted(trained, options, tau=1.0 if tau == "auto" else tau, settings=settings)
        tau, settings["calibration"], lines = _choose(trained, examples, options=options, settings=settings)
    adjusted, description = _adjusted(trained, options, tau=tau, settings=settings)
    if to == "savedmodel":  # a folded model has neither
        served.update(prior_name=description.prior, output=description.served_output)
    serving.export(adjusted, path, to=to, overwrite=options.force, **served)
    pairs = counts.pairing(given, options, names)
    printing.show("\n".join([*lines, str(description), *pairs]), output=options.output, files=WRITTEN[to])


def _check_together(options):
    """Raise for options that exclude each other."""
    if options.kind is not None:
        raise ValueError("--kind is for scores. The output of a model is read from it, or given by --gives.")
    calibrate, validation = options.calibrate, options.validation
    if (options.tau == "auto" or calibrate) != (validation is not None):
        raise ValueError(
            "--tau auto and --calibrate need held-out data, and no other option uses them: give one of them and "
            f"--validation FILE.npz, or neither. Received --tau {options.tau}{' --calibrate' if calibrate else ''} "
            f"{'without' if validation is None else 'with'} --validation."
        )
    if options.tau == "auto" and options.target_prior is not None:
        raise ValueError("--tau auto is for balanced accuracy. For the class mix of --target-prior give --tau 1.")


def _check_not_adjusted(model, options):
    reason, _ = next(_guard.corrections(model), (None, None))
    if reason is not None and options.validation is not None:
        raise ValueError(
            f"--tau auto and --calibrate need a model whose prior was not corrected. The model in {options.model} "
            f"{reason}: give a number as --tau, without --calibrate."
        )
    if reason is not None and not options.allow_double_correction:
        raise ValueError(
            f"The prior would be corrected twice: the model in {options.model} {reason}. Its plain argmax is balanced "
            "already. Give --allow-double-correction if that is what you want."
        )


def _adjusted(trained, options, *, tau, settings):
    """The adjusted model and its description, which includes a folded adjustment."""
    adjusted = posthoc.adjust(trained, tau=tau, output=options.gives, **settings)
    description = serving.describe(adjusted)
    if not options.fold:
        return adjusted, description
    *others, last = description.corrections
    last = dataclasses.replace(last, means=f"the bias of {description.head!r}")
    try:
        folded = posthoc.fold_into_bias(trained, tau=tau, **settings)
    except ValueError as error:
        raise ValueError(f"{error} On the command line: leave out --fold.") from error
    return folded, dataclasses.replace(description, model=folded.name, corrections=(*others, last))


def _check_every_class(labels, num_classes, options):
    """Raise if a class has no held-out example, so that its examples cannot be weighted."""
    ids = labels if labels.ndim == 1 else labels[:, 0] if labels.shape[1:] == (1,) else None
    rows = labels if ids is None else ids[:, None] == np.arange(num_classes)
    if labels.dtype.kind not in "biuf" or rows.shape[1:] != (num_classes,):
        return  # refused where the labels are read
    independent = options.num_examples is not None
    missing = ~rows.any(axis=0) | (rows.all(axis=0) & independent)
    if missing.any():
        raise ValueError(
            f"--calibrate weights the examples in {options.validation} to the class mix in {options.counts}, so every "
            f"class needs an example there{', and one without it' if independent else ''}. Missing for "
            f"{_checks.name_classes(missing)}: hold out more examples, or leave --calibrate out."
        )


def _choose(model, examples, *, options, settings):
    """τ and the calibration (or None) from held-out data, and lines that describe them."""
    (x, labels), class_counts, calibration, lines = examples, settings["class_counts"], None, []
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        # Warnings become lines of the command, without their place in the code.
        warnings.showwarning = lambda message, *place: say(f"keras-logit-adjust: {message}", file=sys.stderr)
        if options.calibrate:
            _check_every_class(labels, class_counts.size, options)
            logits = held_out.predict_logits(model, x, output=options.gives)
            calibration = held_out.calibrate(
                logits,
                labels,
                method="bias_corrected_temperature",
                class_prior=class_counts / (1 if options.num_examples is None else options.num_examples),
                independent=options.num_examples is not None,
            )
            lines.append(
                f"logits    calibrated on {len(labels)} validation examples; temperature "
                f"{calibration.temperature:.4g}, biases {min(calibration.bias):.4g} to {max(calibration.bias):.4g}"
            )
        if options.tau != "auto":
            return options.tau, calibration, lines
        tuned_on = (model, examples) if calibration is None else (calibration.apply(logits), labels)
        best = held_out.tune_tau(*tuned_on, class_counts, num_examples=options.num_examples, output=options.gives)
    lines.append(
        f"tau       {best.tau:.4g}, chosen on {len(labels)} validation examples; interval "
        f"{best.interval[0]:.4g} to {best.interval[1]:.4g}, balanced accuracy {best.balanced_accuracy:.4f}"
    )
    return best.tau, calibration, lines
