"""Figures: each consumes results, computes none, and returns a `matplotlib.figure.Figure`. Needs the extra `plots`."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette is safe for color-blind readers; markers and dashes tell the series apart in gray.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
_MARKERS = "osD^vPX*"
_SIZE = (5.5, 3.5)
_LEVEL_LABELS = 5  # names on an axis that fit side by side


def class_counts(counts):
    """The tail: training examples of each class, largest first, on a log axis.

    Args:
        counts: `[L]` training examples of each class.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> class_counts([100, 10, 1]).axes[0].get_ylabel()
    'training examples'
    """
    figure, (axes,) = _new_figure()
    ordered = np.sort(np.asarray(counts))[::-1]
    axes.bar(np.arange(1, ordered.size + 1), ordered, width=0.8 if ordered.size < 50 else 1.0, color=_COLORS[5])
    axes.set(yscale="log", xlabel="class, by frequency", ylabel="training examples")
    if ordered.size <= 20:
        axes.set_xticks(np.arange(1, ordered.size + 1))
    return figure


def class_shares(counts, shares):
    """What a sampling strategy makes of a tail: the share of the draws that each class gets, on log axes.

    Args:
        counts: `[L]` training examples of each class.
        shares: `{strategy: [L] shares}`, as `LongTailSampler.effective_prior` gives them.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = class_shares([90, 10], {"instance": [0.9, 0.1], "balanced": [0.5, 0.5]})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['instance', 'balanced']
    """
    figure, (axes,) = _new_figure()
    order = np.argsort(counts)[::-1]
    rank = np.arange(1, order.size + 1)
    for i, (name, values) in enumerate(shares.items()):
        style = {**_style(i), "markevery": max(1, order.size // 10)}
        axes.plot(rank, np.asarray(values)[order], label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="class, by frequency", ylabel="share of the draws")
    axes.legend(frameon=False)
    return figure


def per_class_accuracy(counts, recalls):
    """Per-class accuracy against frequency, a series for each method.

    Args:
        counts: `[L]` training examples of each class.
        recalls: `{method: [L] recalls in [0, 1]}`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = per_class_accuracy([100, 10], {"erm": [0.9, 0.1]})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['erm']
    """
    figure, (axes,) = _new_figure()
    order = np.argsort(counts)[::-1]
    for i, (name, values) in enumerate(recalls.items()):
        axes.plot(np.asarray(counts)[order], 100 * np.asarray(values)[order], label=name, **_style(i))
    axes.set(xscale="log", xlabel="training examples of the class", ylabel="accuracy on the class (%)", ylim=(0, 100))
    if len(recalls) <= len(_MARKERS):
        axes.legend(frameon=False)
    else:  # it would cover the lines
        figure.set_size_inches(1.6 * _SIZE[0], max(_SIZE[1], 0.25 * len(recalls)))
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def class_norms(counts, norms):
    """Norms of class weights against class frequency, an axis for each way of training.

    Args:
        counts: `[L]` training examples of each class.
        norms: `{title: [seeds, L] norms}`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = class_norms([100, 10], {"SGD": [[2.0, 1.0]], "Adam": [[1.0, 1.5]]})
    >>> [axes.get_title() for axes in figure.axes]
    ['SGD', 'Adam']

    Reference: Menon et al. (2021), Figure 1.
    """
    figure, axes = _new_figure(len(norms))
    order = np.argsort(counts)[::-1]
    for i, (title, values) in enumerate(norms.items()):
        values = np.asarray(values)[:, order]
        for row in values:
            axes[i].plot(np.asarray(counts)[order], row, color="#999999", linewidth=0.8)
        mean = values.mean(axis=0)
        axes[i].plot(np.asarray(counts)[order], mean, color=_COLORS[5], marker=_MARKERS[0], markersize=4)
        axes[i].set(xscale="log", title=title, xlabel="training examples of the class")
    axes[0].set_ylabel("norm of the class weights")
    return figure


def error_by_sample_size(sizes, errors, lines):
    """Balanced error against the number of training examples, with deviations over trials.

    Args:
        sizes: `[S]` numbers of training examples.
        errors: `{title: {"mean": [S], "std": [S]}}` in percent.
        lines: `{title: percent}`, limits drawn as lines across.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = error_by_sample_size([10, 100], {"ERM": {"mean": [30, 20], "std": [2, 1]}}, {"Bayes": 8})
    >>> figure.axes[0].get_xscale()
    'log'

    Reference: Menon et al. (2021), §6.1.
    """
    figure, (axes,) = _new_figure()
    for i, (title, found) in enumerate(errors.items()):
        style = _style(i)
        mean, deviation = np.asarray(found["mean"]), np.asarray(found["std"])
        axes.plot(sizes, mean, label=title, **style)
        axes.fill_between(sizes, mean - deviation, mean + deviation, color=style["color"], alpha=0.12, linewidth=0)
    for title, value in lines.items():
        axes.axhline(value, color="#666666", linewidth=0.8, linestyle=(0, (1, 1)))
        beside = axes.get_yaxis_transform()
        axes.text(1.02, value, title.replace(", ", "\n"), transform=beside, va="center", fontsize="small")
    axes.set(xscale="log", xlabel="training examples", ylabel="balanced error (%)", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    return figure


def group_accuracy(groups, buckets):
    """Bars of the accuracy of groups of classes beside lines over buckets of classes by frequency.

    Args:
        groups: `{method: {group: {"mean": …, "std": … or None}}}` in percent.
        buckets: `{method: [B]}` in percent, the most frequent bucket first.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> groups = {"erm": {"many": {"mean": 80, "std": 1}, "few": {"mean": 20, "std": None}}}
    >>> figure = group_accuracy(groups, {"erm": [80, 20]})
    >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    ['many', 'few']

    Reference: Menon et al. (2021), §6.2 and appendix E.4.
    """
    figure, (bars, curves) = _new_figure(2)
    width = 0.8 / len(groups)
    for i, (method, found) in enumerate(groups.items()):
        style = _style(i)
        place = np.arange(len(found)) + (i - (len(groups) - 1) / 2) * width
        deviation = [0.0 if value["std"] is None else value["std"] for value in found.values()]
        means = [value["mean"] for value in found.values()]
        bars.bar(
            place, means, width, yerr=deviation, color=style["color"], edgecolor="white", error_kw={"linewidth": 0.8}
        )
        curves.plot(np.arange(1, len(buckets[method]) + 1), buckets[method], label=method, **style)
    names = list(next(iter(groups.values())))
    bars.set_xticks(np.arange(len(names)), names)
    bars.set(xlabel="classes by training examples", ylabel="accuracy (%)", ylim=(0, 100))
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.set(xlabel="bucket of classes, most frequent first", ylim=(0, 100))
    figure.legend(
        *curves.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize="small"
    )
    return figure


def label_noise(head_as_tail):
    """The share of a frequent class that is taken for a rare one, trained on clean and on noisy labels.

    Args:
        head_as_tail: `{method: (clean, noisy)}` in percent.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = label_noise({"erm": (0.1, 0.5), "la_loss": (1.0, 6.0)})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['clean labels', 'noisy labels']
    """
    figure, (axes,) = _new_figure()
    place = np.arange(len(head_as_tail))
    for i, (title, hatch) in enumerate((("clean labels", ""), ("noisy labels", "//"))):
        values = [pair[i] for pair in head_as_tail.values()]
        axes.bar(
            place + (i - 0.5) * 0.4, values, 0.4, label=title, color=_COLORS[(2, 4)[i]], hatch=hatch, edgecolor="white"
        )
    axes.set_xticks(place, list(head_as_tail), rotation=90 if place.size > _LEVEL_LABELS else 0)
    axes.set(xlabel="method", ylabel="frequent class taken for the rare one (%)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def reliability(bins):
    """Reliability diagrams side by side: how often the model was right against how sure it was, and how many examples.

    Points on the diagonal are calibrated, below it too sure. A line joins each point to the diagonal; the bars are the
    share of the examples in each bin.

    Args:
        bins: `{title: what kla.posthoc.reliability returns}`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> bins = {"edges": [0, 0.5, 1], "confidence": [np.nan, 0.9], "accuracy": [np.nan, 0.6], "weight": [0, 1]}
    >>> [axes.get_title() for axes in reliability({"as trained": bins}).axes]
    ['as trained']

    Reference: Guo et al. (2017), Figure 1.
    """
    figure, axes = _new_figure(len(bins))
    for panel, (title, found) in zip(axes, bins.items(), strict=True):
        edges, confidence, accuracy = (np.asarray(found[key]) for key in ("edges", "confidence", "accuracy"))
        panel.bar(
            edges[:-1], found["weight"], np.diff(edges), align="edge", color="#DDDDDD", edgecolor="white", label="share"
        )
        panel.plot([0, 1], [0, 1], color="#666666", linewidth=0.8, linestyle="--", label="calibrated")
        panel.vlines(confidence, confidence, accuracy, color=_COLORS[4], linewidth=1.5, label="gap")
        panel.plot(
            confidence, accuracy, color=_COLORS[5], marker=_MARKERS[0], linestyle="", label="accuracy", clip_on=False
        )
        panel.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("accuracy, share of examples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def label_shift(accuracies):
    """Accuracy under several class mixes, a bar for each rule of prediction with its deviation over seeds.

    Args:
        accuracies: `{rule: {mix: [seeds]}}` in percent.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = label_shift({"no adjustment": {"uniform": [70, 72]}, "true prior": {"uniform": [80, 81]}})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['no adjustment', 'true prior']
    """
    figure, (axes,) = _new_figure()
    mixes, width = list(next(iter(accuracies.values()))), 0.8 / len(accuracies)
    for i, (title, found) in enumerate(accuracies.items()):
        place = np.arange(len(mixes)) + (i - (len(accuracies) - 1) / 2) * width
        means = [np.mean(found[mix]) for mix in mixes]
        deviations = [np.std(found[mix], ddof=1) if len(found[mix]) > 1 else 0.0 for mix in mixes]
        color = _COLORS[i % len(_COLORS)]
        axes.bar(place, means, width, yerr=deviations, label=title, color=color, edgecolor="white")
    axes.set_xticks(np.arange(len(mixes)), mixes)
    axes.set(xlabel="class mix of the deployment", ylabel="accuracy (%)", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    return figure


def _style(i):
    """Color, marker and line of the i-th series: told apart in gray too."""
    return {
        "color": _COLORS[i % len(_COLORS)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 4,
        "linestyle": ("-", "--", "-.", ":")[(i + i // len(_COLORS)) % 4],
    }


def _new_figure(panels=1):
    figure = Figure(figsize=(_SIZE[0] * (1 + 0.5 * (panels - 1)), _SIZE[1]), layout="constrained")
    axes = figure.subplots(1, panels, sharey=panels > 1, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    return figure, axes
