"""Figures of the findings: norms of class weights, label noise, label shift."""

import numpy as np

from keras_logit_adjust.plots._style import BLUE, MARKERS, SKY_BLUE, VERMILION, legend_above, new_figure, number_counts
from keras_logit_adjust.plots.accuracy import draw_bars

_LEVEL_LABELS = 5  # largest number of names that fit side by side on an axis


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
    figure, axes = new_figure(len(norms))
    order = np.argsort(counts)[::-1]
    counts = np.asarray(counts)[order]
    for panel, (title, values) in zip(axes, norms.items(), strict=True):
        values = np.asarray(values)[:, order]
        panel.plot(counts, values.T, color="#999999", linewidth=0.8)
        panel.plot(counts, values.mean(axis=0), color=BLUE, marker=MARKERS[0], markersize=4)
        panel.set(xscale="log", title=title, xlabel="training examples of the class")
        number_counts(panel.xaxis, counts)
    axes[0].set_ylabel("norm of the class weights")
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
    figure, (axes,) = new_figure()
    place = np.arange(len(head_as_tail))
    for i, (title, hatch) in enumerate((("clean labels", ""), ("noisy labels", "//"))):
        axes.bar(
            place + (i - 0.5) * 0.4, [pair[i] for pair in head_as_tail.values()], 0.4, label=title,
            color=(SKY_BLUE, VERMILION)[i], hatch=hatch, edgecolor="white",
        )  # fmt: skip
    axes.set_xticks(place, list(head_as_tail), rotation=90 if place.size > _LEVEL_LABELS else 0)
    axes.set(xlabel="method", ylabel="frequent taken for rare (%)")
    legend_above(figure)
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
    figure, (axes,) = new_figure()
    draw_bars(
        axes,
        {
            rule: (
                [np.mean(seeds) for seeds in found.values()],
                [np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in found.values()],
            )
            for rule, found in accuracies.items()
        },
        places=list(next(iter(accuracies.values()))),
        xlabel="class mix of the deployment",
    )
    legend_above(figure, columns=2)
    return figure
