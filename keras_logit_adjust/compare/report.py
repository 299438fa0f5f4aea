"""The table, the page and the files of a comparison."""

import importlib.util
import math

import numpy as np

from keras_logit_adjust._printing import say
from keras_logit_adjust.compare import by_class, html, mixes, statistics, storage
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
    notes = [
        _legend(results),
        *[f"τ for each seed: {taus}."] * bool(taus),
        *[_PUBLISHED_NOTE] * _has_published(results),
    ]
    notes += filter(None, [results.get("left_out"), _probes(results)])
    blocks = [_caption(results), to_table(*_header_and_rows(results)), "\n".join(notes)]
    if found := results.get("test_mixes"):
        blocks += [to_table(*mixes.header_and_rows(found)), mixes.legend(found)]
    return "\n\n".join([*blocks, f"Repeat: `{results['command']}`"])


def to_html(results, figures, classes=None):
    """The comparison as a page of HTML, with the numbers of `to_markdown`.

    Args:
        results: the content of results.json.
        figures: the result of `_figures`; empty without matplotlib.
        classes: the result of `by_class.table`; None leaves this table out.
    """
    heading, lead, best = _headline(results)
    taus = [[f"`{method}`", chosen] for method, chosen in _taus(results).items()]
    chosen = [html.section("Chosen τ", html.table("τ of each seed", ["method", "τ for each seed"], taus))] * bool(taus)
    table, caption = _html_table(results, best), html.note(_caption(results) + ".")
    notes = [html.note(_PUBLISHED_NOTE)] * _has_published(results)
    notes += map(html.note, filter(None, [results.get("left_out"), _probes(results)]))
    notes.append(html.details("How to read the table", html.note(_legend(results))))
    blocks = [
        html.section("Methods", table, caption, *notes),
        *_html_mixes(results),
        *_html_classes(classes),
        html.section("Figures", _html_figures(results, figures)),
        *chosen,
        _html_conditions(results),
    ]
    words = {"kind": "keras-logit-adjust compare", "heading": heading, "lead": lead, "command": results["command"]}
    return html.page(blocks, title=f"{results['data']['name']}: comparison", **words)


def in_seeds(number):
    """`number` of seeds in words."""
    return f"{number} seed{'s' if number > 1 else ''}"


def in_versions(results):
    """The versions that gave the results, in a sentence."""
    return f"Versions: {', '.join(f'{key} {value}' for key, value in results['versions'].items())}."


def to_table(header, rows):
    """A Markdown table of texts, the first column to the left and the others to the right."""
    rule = "|---|" + "---:|" * (len(header) - 1)
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (header, *rows))  # a name may have a bar
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


# --- texts and cells, the same in every form -------------------------------------------------------------------------

_LEGEND = """\
{seeds}
The balanced error is the mean of the per-class error rates: lower is better. In the columns many, medium and few are
mean recalls: higher is better. A class of "many" has at least 100 training examples, a class of "few" at most 20.
Macro-F1 is computed for the class mix of training: higher is better. The difference is the balanced error minus that
of {baseline}, with a {confidence:.0%} paired bootstrap interval over test examples and seeds."""
_NONE_NOTE = """\
"None" means that the interval contains zero: no difference was found."""
_ONE_SEED = "The figures are those of one seed."
_DRAWN = "The figures are mean ± standard deviation over seeds. Each seed redraws subset and initialization."
_SAME_SET = """\
The figures are mean ± standard deviation over seeds. All seeds have the same training set, and each draws another
{drawn}. So no interval covers the noise of the training set."""
_T_NOTE = """\
The t-interval is over the seeds' differences, on the test set as it is."""
_ONE_SEED_NOTE = """\
There is one seed, so the interval covers test sampling only. It leaves out the noise of training and of the draw of the
tail."""
_PUBLISHED_NOTE = """\
Published: Menon et al. (2021), the mean of 5 trials. In brackets is the difference to its ERM. Its recipe is ResNet-32
for 200 epochs on all training images. Its tuned τ is an oracle: it was chosen on the test set."""


def _legend(results):
    seeds, sets = len(results["split_hashes"]), len(set(results["split_hashes"]))
    own = "split of its folds" if results.get("probes") else "initialization"
    said = _ONE_SEED if seeds == 1 else _DRAWN if sets == seeds else _SAME_SET.format(drawn=own)
    legend = _LEGEND.format(seeds=said, baseline=_short(results), confidence=statistics.CONFIDENCE)
    has_none = any(found is not None and found["verdict"] == "none" for found in versus(results).values())
    notes = {_NONE_NOTE: has_none, _T_NOTE: _has_t(results), _ONE_SEED_NOTE: seeds == 1}
    return "\n".join([legend, *(note for note, applies in notes.items() if applies)])


def _baseline(results):
    return results.get("baseline", "erm")


def _short(results):
    """The name in headings of the row to which differences are taken."""
    name = _baseline(results)
    return "ERM" if name == "erm" else f"`{name}`"


def versus(results):
    """`{row: difference to the baseline}`, None for the baseline."""
    return {name: method[f"versus_{_baseline(results)}"] for name, method in results["methods"].items()}


def _has_t(results):
    return any(found is not None and "t_low" in found for found in versus(results).values())


def _header_and_rows(results):
    """The texts of the table."""
    methods, has_published, has_t, found = results["methods"], _has_published(results), _has_t(results), versus(results)
    header = ["method", *COLUMNS.values(), f"difference to {_short(results)} (points)"]
    header += [*["t-interval over seeds"] * has_t, *["published error %"] * has_published]
    return header, [
        [
            f"`{name}` {method['title']}",
            *(statistics.show(method["summary"][key]) for key in COLUMNS),
            "" if found[name] is None else show_difference(found[name]),
            *([_ends(found[name], "t_low", "t_high") if found[name] else ""] if has_t else []),
            *([_published(name, methods)] if has_published else []),
        ]
        for name, method in methods.items()
    ]


def _taus(results):
    """The τ of every seed as a text, for the methods that choose it."""
    methods = results["methods"].items()
    return {name: ", ".join(f"{tau:.2f}" for tau in method["tau"]) for name, method in methods if "tau" in method}


def _probes(results):
    """The choices of the recipe "linear_probe" in a sentence; None for other recipes."""
    if not (found := results.get("probes")):
        return None
    chosen = [
        f"`{name}` " + ", ".join(f"{p:g}{' standardized' * (s != 'none')}" for p, s in zip(*of.values(), strict=True))
        for name, of in found.items()
    ]
    return (
        "Each row is the optimum of a penalized linear classifier. At the optimum `la_loss` and `la_posthoc` are one "
        f"result. Penalty for each seed: {'; '.join(chosen)}."
        + ' "Standardized" means that every feature was scaled to a deviation of 1.'
        * any("standardized" in said for said in chosen)
    )


def _has_published(results):
    return any(method.get("published_error") is not None for method in results["methods"].values())


def _published(name, methods):
    error, baseline = methods[name].get("published_error"), methods["erm"]["published_error"]
    if error is None or name == "erm":
        return "-" if error is None else f"{error:.2f}"
    return f"{error:.2f} ({error - baseline:+.2f})"


def _caption(results):
    data, counts, config = results["data"], results["class_counts"], results["config"]
    # Older results have no noise, precision and strategy.
    noise, precision, strategy = (config.get(name) for name in ("label_noise", "precision", "strategy"))
    return (
        f"{data['name']}, {'its own class mix' if data['profile'] == 'as it is' else data['profile'] + ' profile'}, "
        f"{len(counts)} classes, {sum(counts):,} training examples ({max(counts):,} to {min(counts):,} a class), "
        + (f"{100 * noise:g} % of the largest labeled as the smallest, " if noise else "")
        + f"validation {data['validation']}, {in_seeds(len(results['split_hashes']))}, "
        f"{results['versions']['backend']} backend"
        + (f", {precision}" if precision not in (None, "float32") else "")
        + (f", {strategy}" if strategy else "")
        + (f" over {config['devices']}" if strategy and config["devices"] else "")
    )


def show_difference(found):
    """A difference in points with its interval; "none" if the interval contains zero."""
    estimate = "none" if found["verdict"] == "none" else f"{found['difference']:+.1f}"
    return f"{estimate} {_interval(found)}"


def _interval(found):
    return _ends(found, "low", "high")


def _ends(found, low, high):
    return f"[{found[low]:+.1f}, {found[high]:+.1f}]"


# --- the page --------------------------------------------------------------------------------------------------------


def _headline(results):
    """The result in a line, in two sentences, and the name of the best method.

    A method that used the test set, to show the most that tuning could reach, is never the best.
    """
    methods, data = results["methods"], results["data"]["name"]
    errors = {name: statistics.show(method["summary"]["balanced_error"]) for name, method in methods.items()}
    fair = [name for name in methods if name not in METHODS or METHODS[name].tuned_on != "test"]
    best = min(fair, key=lambda name: methods[name]["summary"]["balanced_error"]["mean"])
    against = _baseline(results)
    title = methods[against]["title"]
    baseline = f"{title[:1].upper()}{title[1:]} has {errors[against]} %"
    heading = f"Lowest balanced error on {data}: {errors[best]} %, by `{best}`".replace(" ± ", "\u00a0±\u00a0")
    if best == against:
        others = f"None of the {len(fair) - 1} other methods has a lower one." if len(fair) > 1 else ""
        return heading, f"{baseline}. {others}".strip(), best
    found, confidence = versus(results)[best], f"{statistics.CONFIDENCE:.0%} interval"
    told = (
        f"the two cannot be told apart, {confidence} of the difference {_interval(found)} points"
        if found["verdict"] == "none"
        else f"a difference of {found['difference']:+.1f} points, {confidence} {_interval(found)}"
    )
    lead = f"`{best}` is {methods[best]['title']}. {baseline}: {told}."
    if len(fair) > 2:
        lead += f" The best of {len(fair)} was picked on the test set it is measured on, which flatters it a little."
    return heading, lead, best


def _html_table(results, best):
    """The table with its intervals drawn beside their numbers."""
    header, rows = _header_and_rows(results)
    found = list(versus(results).values())
    limits = [of[end] for of in found if of is not None for end in ("low", "high")]
    if limits:
        ends, place = (math.floor(min(0, *limits)), math.ceil(max(0, *limits))), len(COLUMNS) + 2
        low, high = (f"{end:+d}" if end else "0" for end in ends)
        header.insert(place, f"{statistics.CONFIDENCE:.0%} interval, {low} to {high} points")
        for row, of in zip(rows, found, strict=True):
            row.insert(place, "" if of is None else html.interval_bar(of, ends))
    return html.table("Methods and their errors", header, rows, marked=list(results["methods"]).index(best))


def _html_mixes(results):
    if not (found := results.get("test_mixes")):
        return []
    table = html.table("Accuracy under other class mixes", *mixes.header_and_rows(found))
    return [html.section("Other class mixes", table, html.note(mixes.legend(found)))]


def _html_classes(classes):
    if classes is None:
        return []
    header, rows, words = classes
    return [html.section("Classes", html.table("Recall of classes, in percent", header, rows), html.note(words))]


def _html_figures(results, figures):
    number = len(results["split_hashes"])
    mean = f"mean over {in_seeds(number)}" if number > 1 else "one seed"
    spread = "; whiskers: standard deviation" * (number > 1)
    captions = {
        "per_class_accuracy": f"Accuracy on each class against its number of training examples, {mean}.",
        "group_accuracy": f"Accuracy on classes with many, medium and few training examples, {mean}{spread}.",
        "tail": "Training examples of each class, the most frequent first.",
    }
    return (
        html.figures({name: (caption, figures[name]) for name, caption in captions.items()})
        if figures
        else html.note(f"No figures: {NO_FIGURES}")
    )


def _html_conditions(results):
    versions, counts = results["versions"], ", ".join(map(str, results["class_counts"]))
    config = {key: value for key, value in results["config"].items() if key not in versions and value is not None}
    return html.details(
        "Configuration, versions, split hashes",
        html.pairs("Configuration", {**config, "training examples of each class": counts}),
        html.pairs("Versions", versions),
        html.pairs("Split hashes", {f"seed {i}": hash for i, hash in enumerate(results["split_hashes"])}),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def write(folder, results, predictions):
    """Write report.md, report.html and, where matplotlib is installed, the figures they show."""
    has_figures = importlib.util.find_spec("matplotlib") is not None
    if not has_figures:
        say(f"No figures: {NO_FIGURES}")
    recalls = by_class.mean_recalls(predictions, len(results["class_counts"]))
    figures = _figures(results, recalls) if has_figures else {}
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    shown = [line for name in figures for line in (f"![{name.replace('_', ' ')}]({name}.png)", "")]
    last = f"{in_versions(results)} Split hashes: {', '.join(h[:12] for h in results['split_hashes'])}."
    *_, best = _headline(results)
    classes = by_class.table(results, recalls, _baseline(results), best) if best != _baseline(results) else None
    if classes is not None:
        header, rows, words = classes
        shown = ["## Classes", "", to_table(header, rows), "", words, "", *shown]
    page = ["# Comparison", "", to_markdown(results), "", *shown, last]
    storage.write_text(folder / "report.md", "\n".join(page) + "\n")
    storage.write_text(folder / "report.html", to_html(results, figures, classes))


def _figures(results, recalls):
    from keras_logit_adjust import plots

    counts, methods = np.array(results["class_counts"]), results["methods"]
    groups = {
        name: {group: figure for group in GROUPS if (figure := method["summary"][f"{group}_accuracy"]) is not None}
        for name, method in methods.items()
    }
    bars = plots.group_accuracy(groups)
    if len(methods) > 8:  # they need the room that `per_class_accuracy` makes by itself
        bars.set_size_inches(1.6 * bars.get_size_inches()[0], 0.12 * len(methods) + 2.2)
    return {
        "tail": plots.class_counts(counts),
        "per_class_accuracy": plots.per_class_accuracy(counts, recalls),
        "group_accuracy": bars,
    }
