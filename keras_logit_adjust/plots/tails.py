"""Figures of a long tail: its counts, samples from it, its examples."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from keras_logit_adjust import _arrays
from keras_logit_adjust.plots._style import BLUE, legend_above, line_style, new_figure, number_counts

_MOST_TICKS = 20  # largest number of classes that are numbered one by one
_MOST_BARS = 1000  # largest number of classes that are drawn one by one


def class_counts(counts, *, class_names=None):
    """The tail: training examples of each class, largest first, on a log axis.

    Args:
        counts: `[L]` training examples of each class, or a dict or `Counter` of them by name.
        class_names: `[L]` names, in order of class id; by default those of a dict, or else the bars are numbered by
            frequency. A class that a dict does not name has 0. Of more than
            1,000 classes names are not written: nobody could read them.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> class_counts([100, 10, 1]).axes[0].get_ylabel()
    'training examples'
    """
    if isinstance(counts, Mapping) and class_names is None:
        class_names = list(counts)
    counts = np.asarray(_arrays.in_order(counts, "counts", class_names, missing=0))
    figure, (axes,) = new_figure()
    order = np.argsort(-counts, kind="stable")
    ordered, rank = counts[order], np.arange(1, order.size + 1)
    if ordered.size <= _MOST_BARS:
        axes.bar(rank, ordered, width=0.8 if ordered.size < 50 else 1.0, color=BLUE)
    else:
        # Classes of equal frequency are one step: a figure of a million bars takes minutes.
        last = np.flatnonzero(np.append(np.diff(ordered), -1))
        edges, heights = np.append(0, last + 1) + 0.5, ordered[last]
        axes.stairs(heights, edges, baseline=min(1, ordered[-1]), fill=True, color=BLUE)
        axes.set_xlim(0.5, ordered.size + 0.5)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(yscale="log", xlabel="class, by frequency", ylabel="training examples")
    number_counts(axes.yaxis, ordered)
    if class_names is not None and ordered.size <= _MOST_BARS:
        axes.set_xticks(rank, np.asarray(class_names)[order], rotation=90)
    elif ordered.size <= _MOST_TICKS:
        axes.set_xticks(rank)
    return figure


def class_shares(counts, shares):
    """The share of the examples that each class has, of several tails or as sampling strategies draw them, on log axes.

    Args:
        counts: `[L]` training examples of each class, by which the classes are ordered.
        shares: `{title: [L] shares}`, as `LongTailSampler.effective_prior` gives them.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = class_shares([90, 10], {"instance": [0.9, 0.1], "balanced": [0.5, 0.5]})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['instance', 'balanced']
    """
    figure, (axes,) = new_figure()
    order = np.argsort(counts)[::-1]
    rank = np.arange(1, order.size + 1)
    for i, (name, values) in enumerate(shares.items()):
        axes.plot(rank, np.asarray(values)[order], label=name, markevery=max(1, order.size // 10), **line_style(i))
    axes.set(xscale="log", yscale="log", xlabel="class, by frequency", ylabel="share of the examples")
    number_counts(axes.xaxis, rank)
    legend_above(figure)
    return figure


def images(pictures, titles, *, columns=6):
    """Examples as pictures in rows, each with a title.

    Args:
        pictures: `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`, at least one.
        titles: `[N]` texts.
        columns: pictures in a row.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> [axes.get_title() for axes in images(np.zeros((2, 4, 4)), ["shirt", "coat"]).axes]
    ['shirt', 'coat']
    """
    pictures = np.asarray(pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, picture, title in zip(panels, pictures, titles, strict=False):
        panel.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray")
        panel.set_title(title, fontsize="small")
        panel.axis("off")
    for panel in figure.axes[len(pictures) :]:
        panel.remove()
    return figure
