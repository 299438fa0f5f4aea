"""Figures: their axes, scales and series hold what they were given; no pixel is compared."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from keras_logit_adjust import plots

COUNTS = [5, 500, 50]
RECALLS = {"erm": [0.1, 0.9, 0.5], "la_loss": [0.7, 0.75, np.nan]}


def only_axes(figure):
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    return axes


def test_the_tail_is_drawn_largest_first_on_a_log_axis():
    axes = only_axes(plots.class_counts(COUNTS))
    assert [bar.get_height() for bar in axes.patches] == [500, 50, 5]
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == [1, 2, 3]
    assert axes.get_xscale() == "linear" and axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class, by frequency", "training examples")
    assert axes.get_xticks().tolist() == [1, 2, 3]


@pytest.mark.parametrize("num_classes", [20, 21, 1000])
def test_every_class_has_a_bar_however_many_there_are(num_classes):
    axes = only_axes(plots.class_counts(np.arange(1, num_classes + 1)))
    assert [bar.get_height() for bar in axes.patches] == list(range(num_classes, 0, -1))


def test_accuracy_is_drawn_in_percent_against_frequency_with_a_series_for_each_method():
    axes = only_axes(plots.per_class_accuracy(COUNTS, RECALLS))
    assert [line.get_label() for line in axes.lines] == list(RECALLS)
    for line, recalls in zip(axes.lines, RECALLS.values(), strict=True):
        assert line.get_xdata().tolist() == [500, 50, 5]
        np.testing.assert_allclose(line.get_ydata(), [100 * recalls[1], 100 * recalls[2], 100 * recalls[0]])
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlabel() == "training examples of the class"
    assert axes.get_ylabel() == "accuracy on the class (%)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(RECALLS)


def test_series_differ_without_color_too():
    axes = only_axes(plots.per_class_accuracy(COUNTS, {f"method {i}": RECALLS["erm"] for i in range(8)}))
    styles = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == len({line.get_color() for line in axes.lines}) == 8


def test_a_figure_changes_nothing_it_was_given():
    counts, recalls = np.array(COUNTS), {"erm": np.array([0.1, 0.9, 0.5])}
    plots.class_counts(counts)
    plots.per_class_accuracy(counts, recalls)
    assert counts.tolist() == COUNTS and recalls["erm"].tolist() == [0.1, 0.9, 0.5]


def test_figures_save_without_a_display(tmp_path):
    plots.per_class_accuracy(COUNTS, RECALLS).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
