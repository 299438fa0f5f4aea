"""A study from start to end: a folder for finished runs, then its table, its figure and its numbers."""

import contextlib
import importlib.util
import json
import shlex

import keras
import numpy as np

from keras_logit_adjust import _checks
from keras_logit_adjust._printing import say
from keras_logit_adjust.compare import html, storage
from keras_logit_adjust.compare.config import as_config, options_of
from keras_logit_adjust.compare.methods import spell_out
from keras_logit_adjust.compare.report import NO_FIGURES, in_versions, to_table
from keras_logit_adjust.studies import consistency, groups, label_noise, label_shift, many_classes, weight_norms

# Each has run(folder, **options) → results, table(results) → Table and figure(results).
STUDIES = {
    "weight-norms": weight_norms,
    "consistency": consistency,
    "groups": groups,
    "label-noise": label_noise,
    "label-shift": label_shift,
    "many-classes": many_classes,
}
# The options of the studies that make their own data, without a `Config`.
OWN_OPTIONS = {
    "consistency": ("sizes", "trials", "steps", "seed"),
    "many-classes": ("num_classes", "rivals", "epochs", "seeds"),
}


def run_study(name, *, output=None, **options):
    """Run one of the paper's findings and return its results.

    Finished work is written to disk at once: after an interruption the same call continues from there.

    Args:
        name: "weight-norms" (§3, Figure 1), "consistency" (§6.1), "groups" (appendix E.4), "label-noise",
            "label-shift" or "many-classes".
        output: folder for report.md, report.html, results.json and the figure; none are kept by default.
        **options: the options of the study: `config` (a `keras_logit_adjust.compare.Config`), `methods` (not of
            "weight-norms" and "label-shift") and `seeds`; of "consistency" `sizes`, `trials`, `steps` and `seed`; of
            "many-classes" `num_classes`, `rivals`, `epochs` and `seeds`.

    Returns:
        A dict of plain values, as in results.json.

    Raises:
        ValueError: for an unknown study, a folder that holds something else, data that does not fit.

    Example:

    >>> results = run_study("consistency", sizes=[100], trials=2, steps=5)
    >>> list(results["balanced_error"])
    ['erm', 'adaptive', 'equalized', 'weight_norm', 'la']

    Reference: Menon et al. (2021), §3, §6.1 and appendix E.4.
    """
    with studied(name, output=output, **options) as (results, _):
        return results


@contextlib.contextmanager
def studied(name, *, output=None, **options):
    """The results of a study and their folder, which is deleted when the context ends, as in `compared`."""
    study = STUDIES[_checks.check_choice(name, "study", tuple(STUDIES))]
    if name in OWN_OPTIONS:
        for option in options.keys() - {*OWN_OPTIONS[name]}:
            raise _checks.ArgumentError(
                option, f"The study {name!r} has no option `{option}`. It has {', '.join(OWN_OPTIONS[name])}."
            )
    else:
        options["config"] = as_config(options.get("config"))
        _check_used(options["config"], name)
    if name == "label-noise":
        options["config"] = label_noise.with_share(options["config"])
    if options.get("methods") is not None:
        options["methods"] = spell_out(options["methods"], validation=options["config"].validation)
    folder = storage.as_folder(output)
    if output is None:
        folder = storage.cache_folder("study", name, keras.backend.backend(), *_told_apart(**options))
    about = {"study": name, "versions": storage.versions(), "command": _command(name, **options)}
    with storage.claimed(folder, goes=output is None):
        stored = storage.read_results(folder)
        if stored is not None and stored.get("study") != name:
            other = stored.get("study", "of compare")
            raise _checks.ArgumentError(
                "output", f"{folder} holds results of another command, {other}. Choose another `output`."
            )
        results = about | study.run(folder, **options)
        if output is not None:
            _write(study, folder, results)
        yield results, folder


def _check_used(config, name):
    """Raise for settings that a study cannot use, or would ignore."""
    if config.strategy == "multi_worker":
        raise _checks.ArgumentError(
            "strategy", "`strategy` 'multi_worker' is for `compare` only: a study is one process. Choose another."
        )
    if name == "weight-norms" and config.optimizer != "auto":
        raise _checks.ArgumentError(
            "optimizer",
            "`optimizer` would change nothing: the study of norms compares the optimizers itself. Received: "
            f"optimizer={config.optimizer!r}. Leave it out.",
        )


def _told_apart(*, config=None, **own):
    """The settings that unfinished work of a study depends on, with the data."""
    return (own,) if config is None else (own, storage.identity(config), config.load(0).split_hash)


def _command(name, *, config=None, methods=None, seeds=None, **own):
    """The command that repeats a study."""
    words = ["keras-logit-adjust", "study", name, *options_of(as_config(config), methods, seeds)]
    for key, value in own.items():
        words += [f"--{key.replace('_', '-')}", *map(str, np.ravel(value).tolist())]
    return shlex.join(words)


def to_markdown(results):
    """The table of a study's results."""
    table = STUDIES[results["study"]].table(results)
    return f"{table.caption}\n\n{to_table(table.header, table.rows)}\n\n{table.notes}"


def to_html(results, figure=None):
    """The table of a study, and its figure if there is one, as a page of HTML."""
    study, name = STUDIES[results["study"]], results["study"]
    table, title = study.table(results), study.__doc__.split("\n", 1)[0].removesuffix(".")
    drawn = (
        html.note(f"No figure: {NO_FIGURES}")
        if figure is None
        else html.figures({"figure": (study.figure.__doc__, figure)})
    )
    blocks = [
        html.section("Table", html.table(title, table.header, table.rows), html.note(table.notes)),
        html.section("Figure", drawn),
        html.details("Versions", html.pairs("Versions", results["versions"])),
    ]
    return html.page(
        blocks,
        title=f"{name}: study",
        kind=f"keras-logit-adjust study {name}",
        heading=title,
        lead=f"{table.caption}.",
        command=results["command"],
    )


def _write(study, folder, results):
    storage.write_text(folder / "results.json", json.dumps(results, indent=1, allow_nan=False))
    text, figure = [f"# Study: {results['study']}", "", to_markdown(results), ""], None
    if importlib.util.find_spec("matplotlib") is None:
        say(f"No figure: {NO_FIGURES}")
    else:
        figure = study.figure(results)
        figure.savefig(folder / "figure.png", dpi=150)
        text += ["![figure](figure.png)", ""]
    text += [f"Repeat: `{results['command']}`", "", in_versions(results)]
    storage.write_text(folder / "report.md", "\n".join(text) + "\n")
    storage.write_text(folder / "report.html", to_html(results, figure))
