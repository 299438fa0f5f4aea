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
    methods = results["methods"]
    has_published = any(method.get("published_error") is not None for method in methods.values())
    header = ["method", *COLUMNS.values(), "difference to ERM (points)", *["published error %"] * has_published]
    lines = []
    for name, method in methods.items():
        cells = [_cell(method["summary"][key]) for key in COLUMNS]
        published = [_published(name, methods)] if has_published else []
        lines.append([f"`{name}` {method['title']}", *cells, _difference(method["versus_erm"]), *published])
    return "\n".join([_caption(results), "", to_table(header, lines), "", _legend(results, has_published)])


def in_seeds(number):
    """`number` of seeds in words."""
    return f"{number} seed{'s' if number > 1 else ''}"


def to_table(header, rows):
    """A Markdown table of texts, the first column to the left and the others to the right."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


_TAU_NOTE = "τ for each seed: {}."
_PUBLISHED_NOTE = """\
Published: Menon et al. (2021), mean of 5 trials, in brackets the difference to its ERM; its recipe is ResNet-32 for 200
epochs on all training images, its tuned τ an oracle's, chosen on the test set."""


def _taus(results):
    chosen = {name: method["tau"] for name, method in results["methods"].items() if "tau" in method}
    return "; ".join(f"`{name}` {', '.join(f'{tau:.2f}' for tau in taus)}" for name, taus in chosen.items())


def _published(name, methods):
    error, baseline = methods[name].get("published_error"), methods["erm"]["published_error"]
    if error is None:
        return "-"
    return f"{error:.2f}" if name == "erm" else f"{error:.2f} ({error - baseline:+.2f})"


def _devices(config):
    """What trained, where it was more than one device at full precision; older results know neither."""
    precision, strategy = config.get("precision", "float32"), config.get("strategy")
    number = f" over {config['devices']}" if strategy and config["devices"] else ""
    return (f", {precision}" if precision != "float32" else "") + (f", {strategy}{number}" if strategy else "")


def _caption(results):
    data, versions, seeds = results["data"], results["versions"], in_seeds(len(results["split_hashes"]))
    counts = results["class_counts"]
    noise = results["config"].get("label_noise", 0.0)
    return (
        f"{data['name']}, {data['profile']} profile, {len(counts)} classes, {sum(counts):,} training examples "
        f"({max(counts):,} to {min(counts):,} a class), "
        + f"{100 * noise:g} % of the largest labeled as the smallest, " * bool(noise)
        + f"validation {data['validation']}, {seeds}, {versions['backend']} backend{_devices(results['config'])}"
    )


def _legend(results, has_published):
    notes = [_TAU_NOTE.format(_taus(results))] * bool(_taus(results)) + [_PUBLISHED_NOTE] * has_published
    notes = "".join("\n" + note for note in notes)
    return f"""\
Mean ± standard deviation over seeds, each of which redraws subset and initialization. Balanced error: mean of the
per-class error rates. Many: at least 100 training examples; few: at most 20; medium between. Macro-F1 at the training
prior. Difference: balanced error less ERM's, with a {statistics.CONFIDENCE:.0%} paired bootstrap interval over test
examples and seeds; "none" where it holds zero.{notes}

Repeat: `{results["command"]}`"""


def _cell(figure):
    if figure is None:
        return "-"
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.1f}"
    return f"{figure['mean']:.1f}{deviation}"


def _difference(versus):
    return "" if versus is None else show_difference(versus)


def show_difference(versus):
    """A difference in points with its interval; "none" where that holds zero."""
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
