"""Figures of matrices, pictures and planes: their panels hold what they were given; no pixel is compared."""

import copy

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex
from matplotlib.text import Text

from keras_logit_adjust import plots


def test_confusion_is_the_share_of_each_true_class_in_percent_on_one_scale():
    figure = plots.confusion({"erm": [[9, 1], [3, 1]], "adjusted": [[8, 2], [0, 0]]}, class_names=["frequent", "rare"])
    panels = figure.axes[:2]
    assert [panel.get_title() for panel in panels] == ["erm", "adjusted"]
    assert [[text.get_text() for text in panel.texts] for panel in panels] == [["90", "10", "75", "25"], ["80", "20"]]
    assert [text.get_position() for text in panels[0].texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]  # (predicted, true)
    np.testing.assert_array_equal(panels[0].images[0].get_array(), [[90, 10], [75, 25]])
    assert {panel.images[0].get_clim() for panel in panels} == {(0, 100)}
    assert panels[0].get_ylabel() == "true class" and {panel.get_xlabel() for panel in panels} == {"predicted class"}
    names = [
        [tick.get_text() for tick in ticks] for ticks in (panels[0].get_xticklabels(), panels[0].get_yticklabels())
    ]
    assert names == [["frequent", "rare"]] * 2
    assert figure.axes[2].get_ylabel() == "share of the true class"


def test_a_large_matrix_has_no_numbers_in_its_cells():
    axes = plots.confusion({"erm": np.eye(50)}).axes[0]
    assert not axes.texts and axes.images[0].get_array().shape == (50, 50)


def test_numbers_in_cells_stand_out_from_their_cell():
    texts = plots.confusion({"erm": [[9, 1], [3, 1]]}).axes[0].texts
    assert [text.get_color() for text in texts] == ["black", "white", "black", "white"]


def test_no_text_of_a_heat_map_is_smaller_than_8_points():
    for figure in (plots.confusion({"erm": np.eye(12)}), plots.margins({"adjusted": np.eye(3)})):
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8


def test_margins_of_true_classes_over_rivals_leave_out_the_diagonal():
    given = {"adjusted": np.array([[5.0, -2.0], [2.0, 7.0]]), "equalized": [[0, 0.5], [-3, 0]]}
    before = copy.deepcopy(given)
    figure = plots.margins(given, class_names=["frequent", "rare"])
    np.testing.assert_array_equal(given["adjusted"], before["adjusted"])
    panels = figure.axes[:2]
    assert [panel.get_title() for panel in panels] == list(given)
    assert [[text.get_text() for text in panel.texts] for panel in panels] == [["−2.0", "+2.0"], ["+0.5", "−3.0"]]
    assert [text.get_position() for text in panels[0].texts] == [(1, 0), (0, 1)]
    assert {panel.images[0].get_clim() for panel in panels} == {(-3, 2)}
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("rival", "true class")
    assert figure.axes[2].get_ylabel() == "margin (in units of logits)"


def test_boundaries_are_where_scores_are_zero_over_points_of_both_classes():
    x1, x2 = np.meshgrid(np.linspace(-2, 2, 41), np.linspace(-1, 1, 31))
    figure = plots.decision_boundaries(
        [[-1, 0], [1, 0.5], [-2, 1]],
        [0, 1, 0],
        {"Bayes": x1, "ERM": x1 + x2 - 1},
        extent=(-2, 2, -1, 1),
        class_names=("common", "rare"),
    )
    (axes,) = figure.axes
    common, rare, bayes, erm = axes.collections
    assert common.get_offsets().tolist() == [[-1, 0], [-2, 1]] and rare.get_offsets().tolist() == [[1, 0.5]]
    np.testing.assert_allclose(bayes.get_paths()[0].vertices[:, 0], 0, atol=1e-9)
    np.testing.assert_allclose(erm.get_paths()[0].vertices.sum(axis=1), 1)
    assert np.ptp(bayes.get_paths()[0].vertices[:, 1]) == pytest.approx(2)
    assert (axes.get_xlim(), axes.get_ylim(), axes.get_aspect()) == ((-2, 2), (-1, 1), 1)
    handles = figure.legends[0].legend_handles
    assert [handle.get_label() for handle in handles] == ["common", "rare", "Bayes", "ERM"]
    assert [to_hex(drawn.get_edgecolor()[0]) for drawn in (bayes, erm)] == [to_hex(h.get_color()) for h in handles[2:]]
    assert handles[2].get_linestyle() != handles[3].get_linestyle()


@pytest.mark.parametrize(("shape", "number"), [((4, 5), 7), ((4, 5, 1), 1), ((4, 5, 3), 6)])
def test_pictures_stand_in_rows_with_their_titles(shape, number):
    pictures = np.arange(number * np.prod(shape)).reshape(number, *shape) / 500
    figure = plots.images(pictures, [f"class {i}" for i in range(number)])
    assert [axes.get_title() for axes in figure.axes] == [f"class {i}" for i in range(number)]
    for axes, picture in zip(figure.axes, pictures, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), picture.squeeze() if shape[-1] == 1 else picture)
        assert not axes.axison
    places = {axes.get_subplotspec().rowspan.start for axes in figure.axes}
    assert places == set(range(-(-number // 6)))
