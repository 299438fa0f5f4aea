"""Figures: each consumes results, computes none, and returns a `matplotlib.figure.Figure`. Needs the extra `plots`."""

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's palette is safe for color-blind readers; markers and dashes tell the series apart in gray.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
_MARKERS = "osD^vPX*"
_SIZE = (5.5, 3.5)


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
    figure, axes = _new_figure()
    ordered = np.sort(np.asarray(counts))[::-1]
    axes.bar(np.arange(1, ordered.size + 1), ordered, width=0.8 if ordered.size < 50 else 1.0, color=_COLORS[5])
    axes.set(yscale="log", xlabel="class, by frequency", ylabel="training examples")
    if ordered.size <= 20:
        axes.set_xticks(np.arange(1, ordered.size + 1))
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
    figure, axes = _new_figure()
    order = np.argsort(counts)[::-1]
    for i, (name, values) in enumerate(recalls.items()):
        style = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 4}
        line = ("-", "--", "-.", ":")[i % 4]
        axes.plot(np.asarray(counts)[order], 100 * np.asarray(values)[order], linestyle=line, label=name, **style)
    axes.set(xscale="log", xlabel="training examples of the class", ylabel="accuracy on the class (%)", ylim=(0, 100))
    axes.legend(frameon=False)
    return figure


def _new_figure():
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes
