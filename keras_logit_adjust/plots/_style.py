"""Settings of all figures: size, colors, and marks that distinguish series without color."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

# Okabe and Ito's palette is safe for color-blind readers. In this order the first four colors, and all neighbors, also
# differ in gray. Markers, dashes and hatches distinguish the series too.
BLACK, BLUE, VERMILION, SKY_BLUE = "#000000", "#0072B2", "#D55E00", "#56B4E9"
COLORS = (BLACK, "#E69F00", BLUE, VERMILION, SKY_BLUE, "#009E73", "#CC79A7", "#F0E442")
MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (5, 4)))
HATCHES = ("", "///", "xx", "\\\\\\", "++", "---", "|||", "/")  # lines only: circles would make an SVG large
# Inches. Printed in a column of 3.3 inches, letters of 10 points are still larger than 7.
SIZE = (4.6, 3.2)
_SMALLEST = 8  # points: no text of a figure is smaller
_MOST_NUMBERED = 12  # largest number of classes for which a cell of a heat map has room for a number


def new_figure(panels=1):
    """A figure and its axes, side by side with one scale."""
    figure = Figure(figsize=(SIZE[0] * (1 + 0.6 * (panels - 1)), SIZE[1]), layout="constrained")
    axes = figure.subplots(1, panels, sharey=panels > 1, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    return figure, axes


def number_counts(axis, counts):
    """Plain numbers on a logarithmic axis of `counts`: 10, 100, 1,000; on a short axis also 20 and 50."""
    is_short = np.max(counts) < 100 * np.min(counts)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def line_style(i):
    """Color, marker and dashes of the i-th series of lines."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 4,
        "linestyle": _DASHES[(i + i // len(COLORS)) % len(_DASHES)],
    }


def legend_above(figure, *handles_and_labels, columns=3):
    """A legend above the axes, where it hides nothing."""
    figure.legend(*handles_and_labels, loc="outside upper center", ncols=columns, frameon=False, fontsize="small")


def heat_maps(matrices, *, label, number, beside, percent=False, class_names=None, **limits):
    """Square matrices side by side on one scale of colors; with few classes, each cell shows its number.

    Args:
        matrices: `{title: [L, L]}`.
        label: the label of the scale.
        number: format of a cell's number.
        beside: the meaning of a column; a row is a true class.
        percent: whether the scale is in percent.
        class_names: `[L]` names in place of ids. More than 12 classes are not labeled one by one.
        **limits: `vmin` and `vmax`; by default the range of all matrices.
    """
    matrices = {title: np.asarray(matrix, "float64") for title, matrix in matrices.items()}
    shown = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    limits = {"vmin": shown.min(), "vmax": shown.max(), **limits}
    size = next(iter(matrices.values())).shape[0]
    side = 3.0 if size <= 6 else 3.9
    figure = Figure(figsize=(side * len(matrices) + 0.9, side + 0.3), layout="compressed")
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for panel, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = panel.imshow(matrix, cmap="cividis", **limits)
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel(beside)
        if size <= _MOST_NUMBERED:
            for row, column in np.argwhere(np.isfinite(matrix)):
                value = matrix[row, column]
                color = "white" if value < sum(limits.values()) / 2 else "black"
                text = number.format(value).replace("-", "\N{MINUS SIGN}")
                panel.text(column, row, text, ha="center", va="center", color=color, fontsize=_SMALLEST)
            names = range(size) if class_names is None else class_names
            panel.set_xticks(range(size), names, rotation=0 if class_names is None else 90, fontsize="small")
            panel.set_yticks(range(size), names, fontsize="small")
    figure.colorbar(image, ax=axes, label=label, shrink=0.8, format=PercentFormatter(decimals=0) if percent else None)
    axes[0].set_ylabel("true class")
    return figure
