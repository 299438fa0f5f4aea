"""Figures of scores and decisions: paths of τ, margins, decision boundaries, probabilities."""

import numpy as np
from matplotlib.lines import Line2D

from keras_logit_adjust.plots._style import (
    BLUE,
    COLORS,
    MARKERS,
    VERMILION,
    heat_maps,
    legend_above,
    line_style,
    new_figure,
)


def tau_path(curves, *, marks=None):
    """Measures at every τ with their confidence bands, and values of τ that are marked.

    Args:
        curves: `{title: {"tau": [M], "value": [M], "low": [M], "high": [M]}}`, values in [0, 1] as `TauPath.at` and
            `TauPath.confidence_interval` give them; without "low" and "high" no band.
        marks: `{title: τ}`, drawn as lines upright.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> curve = {"tau": [0, 1, 2], "value": [0.6, 0.8, 0.7], "low": [0.5, 0.7, 0.6], "high": [0.7, 0.9, 0.8]}
    >>> figure = tau_path({"balanced accuracy": curve}, marks={"chosen": 1.2})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['balanced accuracy', 'chosen']

    Reference: Menon et al. (2021), Figure 3.
    """
    figure, (axes,) = new_figure()
    for i, (title, curve) in enumerate(curves.items()):
        style = {**line_style(i), "marker": ""}
        axes.plot(curve["tau"], 100 * np.asarray(curve["value"]), label=title, **style)
        if "low" in curve:
            low, high = (100 * np.asarray(curve[end]) for end in ("low", "high"))
            axes.fill_between(curve["tau"], low, high, color=style["color"], alpha=0.15, linewidth=0)
    for i, (title, tau) in enumerate((marks or {}).items()):
        axes.axvline(tau, color=COLORS[(-2 - i) % len(COLORS)], linestyle=(0, (1 + 2 * i, 1.5)), label=title)
    axes.set(xlabel="τ", ylabel="accuracy (%)")
    legend_above(figure)
    return figure


def margins(pairwise, *, class_names=None):
    """The margins that losses ask for: of the true class, a row, over each rival, a heat map for each loss.

    Args:
        pairwise: `{loss: [L, L]}` margins `Δ_yy'`, in the units of logits; diagonals are left out.
        class_names: `[L]` names in place of ids. More than 12 classes are not labeled one by one.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = margins({"logit-adjusted": [[0.0, -2.2], [2.2, 0.0]]})
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['−2.2', '+2.2']

    Reference: Menon et al. (2021), §5, equation 11.
    """
    shown = {title: np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix) for title, matrix in pairwise.items()}
    return heat_maps(
        shown, label="margin (in units of logits)", number="{:+.1f}", beside="rival", class_names=class_names
    )


def decision_boundaries(points, labels, scores, *, extent, class_names=("0", "1")):
    """Where rules draw the line between two classes in the plane, over their examples.

    Args:
        points: `[N, 2]` examples.
        labels: `[N]` ids, 0 or 1.
        scores: `{rule: [H, W]}`, the rule's score for class 1 less that for class 0 on an even grid over `extent`; the
            boundary is where it is 0.
        extent: `(left, right, bottom, top)` of the grid and of the axes.
        class_names: names of the two classes.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> x1, x2 = np.meshgrid(np.linspace(-2, 2, 5), np.linspace(-2, 2, 5))
    >>> figure = decision_boundaries([[-1, -1], [1, 1]], [0, 1], {"Bayes": x1 + x2}, extent=(-2, 2, -2, 2))
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['0', '1', 'Bayes']
    """
    figure, (axes,) = new_figure()
    figure.set_size_inches(4.6, 4.6)
    points, labels = np.asarray(points), np.asarray(labels)
    for label, (marker, color) in enumerate((("o", "#BBBBBB"), ("^", VERMILION))):
        axes.scatter(
            *points[labels == label].T, s=14, marker=marker, color=color, edgecolor="white", linewidth=0.3,
            label=class_names[label],
        )  # fmt: skip
    handles = axes.get_legend_handles_labels()[0]
    for i, (rule, grid) in enumerate(scores.items()):
        rows, columns = np.shape(grid)
        style = line_style(i)
        axes.contour(
            np.linspace(*extent[:2], columns),
            np.linspace(*extent[2:], rows),
            grid,
            levels=[0.0],
            linewidths=1.8,
            colors=[style["color"]],
            linestyles=[style["linestyle"]],
        )
        handles.append(Line2D([], [], linewidth=1.8, label=rule, color=style["color"], linestyle=style["linestyle"]))
    axes.set(xlabel="$x_1$", ylabel="$x_2$", xlim=extent[:2], ylim=extent[2:], aspect="equal")
    legend_above(figure, handles, [handle.get_label() for handle in handles], columns=2)
    return figure


def reliability(bins):
    """Reliability diagrams side by side: how often the model was right against how sure it was, and how many examples.

    Points on the diagonal are calibrated, below it too sure. A line joins each point to the diagonal; the bars are the
    share of the examples in each bin.

    Args:
        bins: `{title: what kla.held_out.reliability returns}`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> bins = {"edges": [0, 0.5, 1], "confidence": [np.nan, 0.9], "accuracy": [np.nan, 0.6], "weight": [0, 1]}
    >>> [axes.get_title() for axes in reliability({"as trained": bins}).axes]
    ['as trained']

    Reference: Guo et al. (2017), Figure 1.
    """
    figure, axes = new_figure(len(bins))
    for panel, (title, found) in zip(axes, bins.items(), strict=True):
        edges, confidence, accuracy = (np.asarray(found[key]) for key in ("edges", "confidence", "accuracy"))
        panel.bar(
            edges[:-1], found["weight"], np.diff(edges), align="edge", color="#DDDDDD", edgecolor="white", label="share"
        )
        panel.plot([0, 1], [0, 1], color="#666666", linewidth=0.8, linestyle="--", label="calibrated")
        panel.vlines(confidence, confidence, accuracy, color=VERMILION, linewidth=1.5, label="gap")
        panel.plot(confidence, accuracy, color=BLUE, marker=MARKERS[0], linestyle="", label="accuracy", clip_on=False)
        panel.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("accuracy, share of examples")
    legend_above(figure, *axes[0].get_legend_handles_labels(), columns=4)
    return figure
