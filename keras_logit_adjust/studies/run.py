"""Running a study: a folder for what is finished, then its table, its figure and its numbers."""

import importlib.util
import json
import pathlib
import shlex
import shutil

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust.compare import Config, html, storage
from keras_logit_adjust.compare.config import options_of
from keras_logit_adjust.compare.report import NO_FIGURES, in_versions, to_table
from keras_logit_adjust.studies import consistency, groups, label_noise, label_shift, weight_norms

# Each has run(folder, **options) → results, table(results) → Table and figure(results).
STUDIES = {
    "weight-norms": weight_norms,
    "consistency": consistency,
    "groups": groups,
    "label-noise": label_noise,
    "label-shift": label_shift,
}


def run_study(name, *, output=None, **options):
    """Run one of the paper's findings and return its results.

    What is finished is written to disk at once: after an interruption the same call goes on from there.

    Args:
        name: "weight-norms" (§3, Figure 1), "consistency" (§6.1), "groups" (appendix E.4), "label-noise" or
            "label-shift".
        output: folder for report.md, report.html, results.json and the figure; none are kept by default.
        **options: of the study: `config` (a `keras_logit_adjust.compare.Config`), `methods` (not of "weight-norms"
            and "label-shift") and `seeds`; of "consistency" `sizes`, `trials`, `steps` and `seed`.

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
    study = STUDIES[_checks.check_choice(name, "study", tuple(STUDIES))]
    command = ("study", name, keras.backend.backend(), str(options))
    folder = pathlib.Path(output) if output else storage.cache_folder(*command)
    storage.check_is_folder(folder)
    stored = storage.read_results(folder)
    if stored is not None and stored.get("study") != name:
        raise _checks.ArgumentError(
            "output",
            f"{folder} holds results of another command, {stored.get('study', 'of compare')}. Choose another `output`.",
        )
    about = {"study": name, "versions": storage.versions(), "command": _command(name, **options)}
    results = about | study.run(folder, **options)
    if output:
        _write(study, folder, results)
    else:
        shutil.rmtree(folder)
    return results


def _command(name, *, config=None, methods=None, seeds=None, **own):
    """The command that repeats a study (`steps` is no option of it)."""
    words = ["keras-logit-adjust", "study", name, *options_of(config or Config(), methods, seeds)]
    for key, value in own.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{key}", *map(str, values)] * (key != "steps")
    return shlex.join(words)


def to_markdown(results):
    """The table of a study's results."""
    table = STUDIES[results["study"]].table(results)
    return f"{table.caption}\n\n{to_table(table.header, table.rows)}\n\n{table.notes}"


def to_html(results, figure=None):
    """A study's table and its figure, where there is one, as a page of HTML."""
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
        print(f"No figure: {NO_FIGURES}")
    else:
        figure = study.figure(results)
        figure.savefig(folder / "figure.png", dpi=150)
        text += ["![figure](figure.png)", ""]
    text += [f"Repeat: `{results['command']}`", "", in_versions(results)]
    storage.write_text(folder / "report.md", "\n".join(text) + "\n")
    storage.write_text(folder / "report.html", to_html(results, figure))
