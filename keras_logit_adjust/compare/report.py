"""The table and the files of a comparison."""

import importlib.util

import numpy as np

from keras_logit_adjust.compare import statistics

COLUMNS = {
    "balanced_error": "balanced error %",
    "many_accuracy": "many %",
    "medium_accuracy": "medium %",
    "few_accuracy": "few %",
    "macro_f1": "macro-F1 %",
}


def to_markdown(results):
    """The comparison as a Markdown table with its captions."""
    header = ["method", *COLUMNS.values(), "difference to ERM (points)"]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for name, method in results["methods"].items():
        cells = [_cell(method["summary"][key]) for key in COLUMNS]
        lines.append("| " + " | ".join([f"`{name}` {method['title']}", *cells, _difference(method)]) + " |")
    return "\n".join([_caption(results), "", *lines, "", _legend(results)])


def _caption(results):
    data, versions, seeds = results["data"], results["versions"], len(results["split_hashes"])
    counts = results["class_counts"]
    return (
        f"{data['name']}, {data['profile']} profile, {len(counts)} classes, {sum(counts):,} training examples "
        f"({max(counts):,} to {min(counts):,} a class), validation {data['validation']}, {seeds} seed"
        f"{'s' if seeds > 1 else ''}, {versions['backend']} backend"
    )


def _legend(results):
    return f"""\
Mean ± standard deviation over seeds, each of which redraws subset and initialization. Balanced error: mean of the
per-class error rates. Many: at least 100 training examples; few: at most 20; medium between. Macro-F1 at the training
prior. Difference: balanced error less ERM's, with a {statistics.CONFIDENCE:.0%} paired bootstrap interval over test
examples and seeds; "none" where it holds zero.

Repeat: `{results["command"]}`"""


def _cell(figure):
    if figure is None:
        return "-"
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.1f}"
    return f"{figure['mean']:.1f}{deviation}"


def _difference(method):
    versus = method["versus_erm"]
    if versus is None:
        return ""
    interval = f"[{versus['low']:+.1f}, {versus['high']:+.1f}]"
    return f"none {interval}" if versus["verdict"] == "none" else f"{versus['difference']:+.1f} {interval}"


def write(folder, results, predictions):
    """Write report.md and, where matplotlib is installed, the figures it shows."""
    text = ["# Comparison", "", to_markdown(results), ""]
    if importlib.util.find_spec("matplotlib") is None:
        print('No figures: matplotlib is missing. pip install "keras_logit_adjust[plots]" and repeat the command.')
    else:
        for name, figure in _figures(results, predictions).items():
            figure.savefig(folder / f"{name}.png", dpi=150)
            text += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    text += [f"Versions: {versions}. Split hashes: {', '.join(h[:12] for h in results['split_hashes'])}."]
    (folder / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _figures(results, predictions):
    from keras_logit_adjust import plots

    counts = np.array(results["class_counts"])
    labels = predictions["labels"]
    recalls = {}
    for name in results["methods"]:
        runs = [key for key in predictions if key.rpartition("_seed")[0] == name]
        predicted = [predictions[key].argmax(axis=-1) for key in runs]
        recalls[name] = np.mean([statistics.recalls(labels, p, counts.size) for p in predicted], axis=0)
    return {"tail": plots.class_counts(counts), "per_class_accuracy": plots.per_class_accuracy(counts, recalls)}
