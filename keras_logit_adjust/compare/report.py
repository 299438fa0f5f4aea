"""The table, the page and the files of a comparison."""

import importlib.util
import math

import numpy as np

from keras_logit_adjust.compare import html, statistics, storage
from keras_logit_adjust.compare.methods import METHODS

COLUMNS = {
    "balanced_error": "balanced error %",
    "many_accuracy": "many %",
    "medium_accuracy": "medium %",
    "few_accuracy": "few %",
    "macro_f1": "macro-F1 %",
}
GROUPS = ("many", "medium", "few")
NO_FIGURES = 'matplotlib is missing. pip install "keras_logit_adjust[plots]" and repeat the command.'


def to_markdown(results):
    """The comparison as a Markdown table with its captions."""
    taus = "; ".join(f"`{name}` {chosen}" for name, chosen in _taus(results).items())
    notes = [_LEGEND, *[f"τ for each seed: {taus}."] * bool(taus), *[_PUBLISHED_NOTE] * _has_published(results)]
    repeat = f"Repeat: `{results['command']}`"
    return "\n\n".join([_caption(results), to_table(*_header_and_rows(results)), "\n".join(notes), repeat])


def to_html(results, figures):
    """The comparison as a page of HTML, its numbers those of `to_markdown`.

    Args:
        results: the content of results.json.
        figures: what `_figures` makes of it; empty without matplotlib.
    """
    heading, lead, best = _headline(results)
    taus, name = _taus(results), results["data"]["name"]
    blocks = [
        html.section("Methods", _html_table(results, best), html.note(_caption(results) + "."), *_html_notes(results)),
        html.section("Figures", *_html_figures(results, figures)),
    ]
    if taus:
        rows = [[f"`{method}`", chosen] for method, chosen in taus.items()]
        blocks.append(html.section("Chosen τ", html.table("τ of each seed", ["method", "τ for each seed"], rows)))
    blocks.append(_html_conditions(results))
    words = {"title": f"{name}: comparison", "kind": "keras-logit-adjust compare", "heading": heading, "lead": lead}
    return html.page(blocks, **words, command=results["command"])


def in_seeds(number):
    """`number` of seeds in words."""
    return f"{number} seed{'s' if number > 1 else ''}"


def to_table(header, rows):
    """A Markdown table of texts, the first column to the left and the others to the right."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


# --- texts and cells, the same in every form -------------------------------------------------------------------------

_LEGEND = f"""\
Mean ± standard deviation over seeds, each of which redraws subset and initialization. Balanced error: mean of the
per-class error rates. Many: at least 100 training examples; few: at most 20; medium between. Macro-F1 at the training
prior. Difference: balanced error less ERM's, with a {statistics.CONFIDENCE:.0%} paired bootstrap interval over test
examples and seeds; "none" where it holds zero."""
_PUBLISHED_NOTE = """\
Published: Menon et al. (2021), mean of 5 trials, in brackets the difference to its ERM; its recipe is ResNet-32 for 200
epochs on all training images, its tuned τ an oracle's, chosen on the test set."""


def _header_and_rows(results):
    """The texts of the table."""
    methods, has_published = results["methods"], _has_published(results)
    header = ["method", *COLUMNS.values(), "difference to ERM (points)", *["published error %"] * has_published]
    rows = []
    for name, method in methods.items():
        cells = [_cell(method["summary"][key]) for key in COLUMNS]
        published = [_published(name, methods)] if has_published else []
        rows.append([f"`{name}` {method['title']}", *cells, _difference(method["versus_erm"]), *published])
    return header, rows


def _taus(results):
    """The τ of every seed as a text, of the methods that choose it."""
    chosen = {name: method["tau"] for name, method in results["methods"].items() if "tau" in method}
    return {name: ", ".join(f"{tau:.2f}" for tau in taus) for name, taus in chosen.items()}


def _has_published(results):
    return any(method.get("published_error") is not None for method in results["methods"].values())


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
        f"{data['name']}, {_profile(data)}, {len(counts)} classes, {sum(counts):,} training examples "
        f"({max(counts):,} to {min(counts):,} a class), "
        + f"{100 * noise:g} % of the largest labeled as the smallest, " * bool(noise)
        + f"validation {data['validation']}, {seeds}, {versions['backend']} backend{_devices(results['config'])}"
    )


def _profile(data):
    return "its own class mix" if data["profile"] == "as it is" else f"{data['profile']} profile"


def _cell(figure):
    if figure is None:
        return "-"
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.1f}"
    return f"{figure['mean']:.1f}{deviation}"


def _difference(versus):
    return "" if versus is None else show_difference(versus)


def show_difference(versus):
    """A difference in points with its interval; "none" where that holds zero."""
    estimate = "none" if versus["verdict"] == "none" else f"{versus['difference']:+.1f}"
    return f"{estimate} {_interval(versus)}"


def _interval(versus):
    return f"[{versus['low']:+.1f}, {versus['high']:+.1f}]"


# --- the page --------------------------------------------------------------------------------------------------------


def _headline(results):
    """The result in a line, in two sentences, and the name of the best method.

    A method that saw the test set, to show what tuning could reach at most, is not called the best.
    """
    methods, data = results["methods"], results["data"]["name"]
    errors = {name: _cell(method["summary"]["balanced_error"]) for name, method in methods.items()}
    fair = [name for name in methods if name not in METHODS or METHODS[name].tuned_on != "test"]
    best = min(fair, key=lambda name: methods[name]["summary"]["balanced_error"]["mean"])
    title = methods["erm"]["title"]
    baseline = f"{title[:1].upper()}{title[1:]} has {errors['erm']} %"
    heading = f"Lowest balanced error on {data}: {errors[best]} %, by `{best}`".replace(" ± ", "\u00a0±\u00a0")
    if best == "erm":
        others = f"None of the {len(fair) - 1} other methods has a lower one." if len(fair) > 1 else ""
        return heading, f"{baseline}. {others}".strip(), best
    versus, confidence = methods[best]["versus_erm"], f"{statistics.CONFIDENCE:.0%} interval"
    if versus["verdict"] == "none":
        told = f"the two cannot be told apart, {confidence} of the difference {_interval(versus)} points"
    else:
        told = f"a difference of {versus['difference']:+.1f} points, {confidence} {_interval(versus)}"
    lead = f"`{best}` is {methods[best]['title']}. {baseline}: {told}."
    if len(fair) > 2:
        lead += f" The best of {len(fair)} was picked on the test set it is measured on, which flatters it a little."
    return heading, lead, best


def _html_table(results, best):
    """The table with its intervals drawn beside their numbers."""
    header, rows = _header_and_rows(results)
    found = [method["versus_erm"] for method in results["methods"].values()]
    limits = [versus[end] for versus in found if versus is not None for end in ("low", "high")]
    if limits:
        ends, place = (math.floor(min(0, *limits)), math.ceil(max(0, *limits))), len(COLUMNS) + 2
        low, high = (f"{end:+d}" if end else "0" for end in ends)
        header.insert(place, f"{statistics.CONFIDENCE:.0%} interval, {low} to {high} points")
        for row, versus in zip(rows, found, strict=True):
            row.insert(place, "" if versus is None else html.interval_bar(versus, ends))
    return html.table("Methods and their errors", header, rows, marked=list(results["methods"]).index(best))


def _html_notes(results):
    published = [html.note(_PUBLISHED_NOTE)] * _has_published(results)
    return *published, html.details("How to read the table", html.note(_LEGEND))


def _html_figures(results, figures):
    number = len(results["split_hashes"])
    mean = f"mean over {in_seeds(number)}" if number > 1 else "one seed"
    spread = "; whiskers: standard deviation" * (number > 1)
    captions = {
        "per_class_accuracy": f"Accuracy on each class against its number of training examples, {mean}.",
        "group_accuracy": f"Accuracy on classes with many, medium and few training examples, {mean}{spread}.",
        "tail": "Training examples of each class, the most frequent first.",
    }
    if not figures:
        return [html.note(f"No figures: {NO_FIGURES}")]
    return [html.figures({name: (captions[name], figures[name]) for name in captions})]


def _html_conditions(results):
    versions, hashes = results["versions"], results["split_hashes"]
    config = {key: value for key, value in results["config"].items() if key not in versions and value is not None}
    counts = ", ".join(map(str, results["class_counts"]))
    return html.details(
        "Configuration, versions, split hashes",
        html.pairs("Configuration", {**config, "training examples of each class": counts}),
        html.pairs("Versions", versions),
        html.pairs("Split hashes", {f"seed {seed}": hash for seed, hash in enumerate(hashes)}),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def write(folder, results, predictions):
    """Write report.md, report.html and, where matplotlib is installed, the figures they show."""
    figures = {}
    if importlib.util.find_spec("matplotlib") is None:
        print(f"No figures: {NO_FIGURES}")
    else:
        figures = _figures(results, predictions)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    shown = [line for name in figures for line in (f"![{name.replace('_', ' ')}]({name}.png)", "")]
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    last = f"Versions: {versions}. Split hashes: {', '.join(h[:12] for h in results['split_hashes'])}."
    storage.write_text(
        folder / "report.md", "\n".join(["# Comparison", "", to_markdown(results), "", *shown, last]) + "\n"
    )
    storage.write_text(folder / "report.html", to_html(results, figures))


def _figures(results, predictions):
    from keras_logit_adjust import plots

    counts, recalls, groups = np.array(results["class_counts"]), {}, {}
    for name, method in results["methods"].items():
        found = [statistics.recalls(predictions.labels, p, counts.size) for p in predictions.predicted(name)]
        recalls[name] = np.mean(found, axis=0)
        found = {group: method["summary"][f"{group}_accuracy"] for group in GROUPS}
        groups[name] = {group: figure for group, figure in found.items() if figure is not None}
    bars = plots.group_accuracy(groups)
    if len(groups) > 8:  # they need the room that `per_class_accuracy` takes by itself
        bars.set_size_inches(1.6 * bars.get_size_inches()[0], 0.12 * len(groups) + 2.2)
    return {
        "tail": plots.class_counts(counts),
        "per_class_accuracy": plots.per_class_accuracy(counts, recalls),
        "group_accuracy": bars,
    }
