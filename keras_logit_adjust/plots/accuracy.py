"""Figures of the accuracy of methods: by class, by group, by sample size, and which classes they confuse."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from keras_logit_adjust.plots._style import (
    COLORS,
    HATCHES,
    MARKERS,
    SIZE,
    heat_maps,
    legend_above,
    line_style,
    new_figure,
    number_counts,
)

_MOST_JOINED = 30  # largest number of classes whose points one line joins
_GROUPS_JOINED = 12  # with more classes, the line joins this many groups of classes


def per_class_accuracy(counts, recalls):
    """Per-class accuracy against frequency, a series for each method.

    Classes without training examples have no place on the axis, and are left out. With more than 30 classes, a line
    joins the means of twelve groups of classes with neighboring frequencies. Points show the classes, unless there are
    too many methods.

    Args:
        counts: `[L]` training examples of each class.
        recalls: `{method: [L] recalls in [0, 1]}`, NaN for classes without examples.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = per_class_accuracy([100, 10], {"erm": [0.9, 0.1]})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['erm']
    """
    figure, (axes,) = new_figure()
    all_counts, has_room = np.asarray(counts), len(recalls) <= len(MARKERS)
    order = [c for c in np.argsort(all_counts)[::-1] if all_counts[c] > 0]
    counts = all_counts[order]
    for i, (name, values) in enumerate(recalls.items()):
        if np.shape(values) != all_counts.shape:
            raise ValueError(
                f"`recalls` must have one number for each class: `counts` has shape {all_counts.shape}, the recalls of "
                f"{name!r} have {np.shape(values)}."
            )
        percent, style = 100 * np.asarray(values)[order], line_style(i)
        is_grouped = counts.size > _MOST_JOINED
        if is_grouped and has_room:
            axes.scatter(counts, percent, s=6, c=style["color"], marker=style["marker"], alpha=0.25, linewidth=0)
        axes.plot(
            *(map(_means, (counts, percent)) if is_grouped else (counts, percent)), label=name, clip_on=False, **style
        )
    axes.set(xscale="log", xlabel="training examples of the class", ylabel="accuracy on the class (%)", ylim=(0, 100))
    number_counts(axes.xaxis, counts)
    if has_room:
        legend_above(figure)
    else:  # a legend above would have too many rows
        figure.set_size_inches(1.6 * SIZE[0], max(SIZE[1], 0.25 * len(recalls)))
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _means(values):
    """Means over groups of neighbors, without NaN."""
    return [
        np.mean(group[np.isfinite(group)]) if np.isfinite(group).any() else np.nan
        for group in np.array_split(values, _GROUPS_JOINED)
    ]


def group_accuracy(groups, *, buckets=None):
    """Bars of the accuracy of groups of classes with deviations over seeds; beside them buckets by frequency, if given.

    Args:
        groups: `{method: {group: {"mean": …, "std": … or None}}}` in percent.
        buckets: `{method: [B]}` in percent, the most frequent bucket first; drawn as lines on an axis of their own.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> groups = {"erm": {"many": {"mean": 80, "std": 1}, "few": {"mean": 20, "std": None}}}
    >>> [tick.get_text() for tick in group_accuracy(groups).axes[0].get_xticklabels()]
    ['many', 'few']

    Reference: Menon et al. (2021), §6.2 and appendix E.4.
    """
    figure, (bars, *beside) = new_figure(1 if buckets is None else 2)
    draw_bars(
        bars,
        {
            method: ([value["mean"] for value in found.values()], [value["std"] or 0.0 for value in found.values()])
            for method, found in groups.items()
        },
        places=list(next(iter(groups.values()))),
        xlabel="classes by training examples",
    )
    for curves in beside:
        for i, values in enumerate(buckets.values()):
            curves.plot(np.arange(1, len(values) + 1), values, **line_style(i))
        curves.xaxis.set_major_locator(MaxNLocator(integer=True))
        curves.set(xlabel="bucket of classes, most frequent first", ylim=(0, 100))
    legend_above(figure, *bars.get_legend_handles_labels())
    return figure


def draw_bars(axes, series, *, places, xlabel):
    """Accuracies `{label: ([P] heights, [P] deviations)}` in percent as bars side by side at each of `[P]` places."""
    width = 0.8 / len(series)
    for i, (label, (heights, deviations)) in enumerate(series.items()):
        place = np.arange(len(places)) + (i - (len(series) - 1) / 2) * width
        hatch = HATCHES[(i + i // len(COLORS)) % len(HATCHES)]
        axes.bar(
            place, heights, width, yerr=deviations, label=label, error_kw={"ecolor": "#666666", "linewidth": 1.2},
            color=COLORS[i % len(COLORS)], hatch=hatch, edgecolor="white",
        )  # fmt: skip
    axes.set_xticks(np.arange(len(places)), places)
    axes.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 100))


def confusion(matrices, *, class_names=None):
    """The share of each true class that is predicted as each class, a heat map for each method.

    Args:
        matrices: `{method: [L, L]}` examples (or shares) of the true class, a row, by predicted class; rows are scaled
            to percent.
        class_names: `[L]` names in place of ids. More than 12 classes are not labeled one by one.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = confusion({"erm": [[90, 10], [6, 4]]}, class_names=["frequent", "rare"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['90', '10', '60', '40']
    """
    shares = {}
    for method, matrix in matrices.items():
        examples = np.sum(matrix, axis=1, keepdims=True, dtype="float64")
        # NaN for classes without examples
        shares[method] = np.divide(
            100.0 * np.asarray(matrix), examples, out=np.full(np.shape(matrix), np.nan), where=examples > 0
        )
    return heat_maps(
        shares,
        label="share of the true class",
        number="{:.0f}",
        beside="predicted class",
        percent=True,
        class_names=class_names,
        vmin=0,
        vmax=100,
    )


def error_by_sample_size(sizes, errors, *, lines):
    """Balanced error against the number of training examples, with deviations over trials.

    Args:
        sizes: `[S]` numbers of training examples.
        errors: `{title: {"mean": [S], "std": [S]}}` in percent.
        lines: `{title: percent}`, limits drawn as lines across.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = error_by_sample_size([10, 100], {"ERM": {"mean": [30, 20], "std": [2, 1]}}, lines={"Bayes": 8})
    >>> figure.axes[0].get_xscale()
    'log'

    Reference: Menon et al. (2021), §6.1.
    """
    figure, (axes,) = new_figure()
    for i, (title, found) in enumerate(errors.items()):
        style = line_style(i)
        mean, deviation = np.asarray(found["mean"]), np.asarray(found["std"])
        axes.plot(sizes, mean, label=title, **style)
        axes.fill_between(sizes, mean - deviation, mean + deviation, color=style["color"], alpha=0.12, linewidth=0)
    for title, value in lines.items():
        axes.axhline(value, color="#666666", linewidth=0.8, linestyle=(0, (1, 1)))
        axes.text(
            1.02, value, title.replace(", ", "\n"), transform=axes.get_yaxis_transform(), va="center", fontsize="small"
        )
    axes.set(xscale="log", xlabel="training examples", ylabel="balanced error (%)", ylim=(0, None))
    number_counts(axes.xaxis, sizes)
    legend_above(figure, columns=2)
    return figure
