"""Figures: their axes, scales and series hold what they were given; no pixel is compared."""

import copy
import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from keras_logit_adjust import plots

COUNTS = [5, 500, 50]
RECALLS = {"erm": [0.1, 0.9, 0.5], "la_loss": [0.7, 0.75, np.nan]}


@pytest.mark.parametrize("names", [None, ["many", "medium", "few"]])
def test_nothing_of_a_heat_map_is_cut_off(names):
    figure = plots.confusion({"erm": np.eye(3), "la_loss": np.eye(3)}, class_names=names)
    figure.savefig(io.BytesIO())
    left, bottom, right, top = figure.get_tightbbox().extents
    width, height = figure.get_size_inches()
    assert left >= 0 and right <= width and bottom >= 0 and top <= height


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


def test_bars_of_the_tail_have_the_names_of_their_classes():
    axes = only_axes(plots.class_counts(COUNTS, class_names=["rare", "frequent", "medium"]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["frequent", "medium", "rare"]


@pytest.mark.parametrize(("names", "expected"), [(None, ["frequent", "rare"]), (["new", "rare", "frequent"], None)])
def test_counts_by_name_are_drawn_with_their_names(names, expected):
    axes = only_axes(plots.class_counts({"rare": 5, "frequent": 500}, class_names=names))
    assert [bar.get_height() for bar in axes.patches] == [500, 5, 0][: 2 if names is None else 3]
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == (expected or ["frequent", "rare", "new"])


def test_recalls_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"`counts` has shape \(3,\), the recalls of 'erm' have \(2,\)"):
        plots.per_class_accuracy(COUNTS, {"erm": [0.1, 0.9]})


@pytest.mark.parametrize("num_classes", [20, 21, 1000])
def test_every_class_has_a_bar_however_many_there_are(num_classes):
    axes = only_axes(plots.class_counts(np.arange(1, num_classes + 1)))
    assert [bar.get_height() for bar in axes.patches] == list(range(num_classes, 0, -1))


def test_accuracy_in_percent_is_drawn_against_frequency_for_each_method():
    axes = only_axes(plots.per_class_accuracy(COUNTS, RECALLS))
    assert [line.get_label() for line in axes.lines] == list(RECALLS)
    for line, recalls in zip(axes.lines, RECALLS.values(), strict=True):
        assert line.get_xdata().tolist() == [500, 50, 5]
        np.testing.assert_allclose(line.get_ydata(), [100 * recalls[1], 100 * recalls[2], 100 * recalls[0]])
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlabel() == "training examples of the class"
    assert axes.get_ylabel() == "accuracy on the class (%)"
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == list(RECALLS)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([4, 30, 80], ["5", "10", "20", "50"]), ([9, 1500, 20_000], ["10", "100", "1,000", "10,000"])],
)
def test_counts_on_an_axis_are_plain_numbers(counts, expected):
    figure = plots.per_class_accuracy(counts, {"erm": [0.1, 0.5, 0.9]})
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for place, label in ticks if low <= place <= high] == expected
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))


def test_many_classes_are_points_and_the_line_joins_means_of_neighbors():
    counts, recalls = np.arange(1, 49), np.linspace(1, 0, 48)
    recalls[:4] = np.nan  # the rarest four, a whole group
    axes = only_axes(plots.per_class_accuracy(counts, {"erm": recalls}))
    (points,), (line,) = axes.collections, axes.lines
    np.testing.assert_array_equal(points.get_offsets()[:, 0], counts[::-1])
    np.testing.assert_allclose(points.get_offsets().filled(np.nan)[:, 1], 100 * recalls[::-1])
    np.testing.assert_allclose(line.get_xdata(), counts[::-1].reshape(12, 4).mean(axis=1))
    np.testing.assert_allclose(line.get_ydata(), 100 * recalls[::-1].reshape(12, 4).mean(axis=1))


def test_a_legend_of_many_methods_stands_beside_the_lines():
    recalls = {f"method {i}": [0.9, 0.1] for i in range(22)}
    figure = plots.per_class_accuracy([100, 10], recalls)
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(recalls)
    figure.canvas.draw()  # a layout that does not fit warns


def test_series_differ_without_color_too():
    axes = only_axes(plots.per_class_accuracy(COUNTS, {f"method {i}": RECALLS["erm"] for i in range(8)}))
    styles = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == len({line.get_color() for line in axes.lines}) == 8


def test_neighboring_series_are_other_grays():
    axes = only_axes(plots.per_class_accuracy(COUNTS, {f"method {i}": RECALLS["erm"] for i in range(8)}))
    grays = [to_rgb(line.get_color()) @ np.array([0.299, 0.587, 0.114]) for line in axes.lines]
    assert min(np.abs(np.diff(grays))) > 0.1 and min(np.diff(sorted(grays[:4]))) > 0.1


def test_a_figure_changes_nothing_it_was_given():
    counts, recalls = np.array(COUNTS), {"erm": np.array([0.1, 0.9, 0.5])}
    plots.class_counts(counts)
    plots.per_class_accuracy(counts, recalls)
    assert counts.tolist() == COUNTS and recalls["erm"].tolist() == [0.1, 0.9, 0.5]


def test_figures_save_without_a_display(tmp_path):
    plots.per_class_accuracy(COUNTS, RECALLS).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


# --- figures of the studies ------------------------------------------------------------------------------------------

NORMS = {"SGD": [[1.0, 3.0, 2.0], [2.0, 5.0, 4.0]], "Adam": [[9.0, 7.0, 8.0], [9.0, 8.0, 7.0]]}
ERRORS = {"ERM": {"mean": [30.0, 20.0], "std": [4.0, 1.0]}, "adjusted": {"mean": [12.0, 9.0], "std": [3.0, 0.5]}}
BARS = {
    "erm": {"many": {"mean": 80.0, "std": 2.0}, "few": {"mean": 20.0, "std": None}},
    "la_loss": {"many": {"mean": 75.0, "std": 1.0}, "few": {"mean": 60.0, "std": 3.0}},
}
BUCKETS = {"erm": [80.0, 50.0, 20.0], "la_loss": [75.0, 70.0, 60.0]}
SHARES = {"erm": (0.5, 1.5), "la_posthoc": (2.0, 8.0), "la_loss": [3.0, 9.0]}


def test_norms_are_drawn_against_frequency_for_each_seed_and_their_mean():
    axes = plots.class_norms(COUNTS, NORMS).axes
    assert [(ax.get_title(), ax.get_xscale(), ax.get_yscale()) for ax in axes] == [
        ("SGD", "log", "linear"),
        ("Adam", "log", "linear"),
    ]
    assert {ax.get_xlabel() for ax in axes} == {"training examples of the class"}
    assert axes[0].get_ylabel() == "norm of the class weights"
    for ax, norms in zip(axes, NORMS.values(), strict=True):
        expected = [*norms, [(a + b) / 2 for a, b in zip(*norms, strict=True)]]
        assert [line.get_xdata().tolist() for line in ax.lines] == [[500, 50, 5]] * 3
        assert [line.get_ydata().tolist() for line in ax.lines] == [[y[1], y[2], y[0]] for y in expected]
        assert ax.lines[-1].get_marker() == "o" and ax.lines[0].get_marker() in ("", "None", None)


@pytest.mark.parametrize("titles", [("SGD", "Adam"), ("Adam", "SGD"), ("Adam",)])
def test_axes_of_norms_have_one_scale_that_shows_all_of_them(titles):
    figure = plots.class_norms(COUNTS, {title: NORMS[title] for title in titles})
    norms = [norm for title in titles for row in NORMS[title] for norm in row]
    assert len(figure.axes) == len(titles) and len({axes.get_ylim() for axes in figure.axes}) == 1
    low, high = figure.axes[0].get_ylim()
    assert low <= min(norms) < max(norms) <= high


def test_errors_are_drawn_by_sample_size_with_deviations_and_limits():
    axes = only_axes(plots.error_by_sample_size([100, 1000], ERRORS, lines={"Bayes": 8.0, "limit": 18.0}))
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("log", "linear", 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training examples", "balanced error (%)")
    series, limits = axes.lines[:2], axes.lines[2:]
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(ERRORS)
    for line, band, (title, found) in zip(series, axes.collections, ERRORS.items(), strict=True):
        assert line.get_label() == title and line.get_xdata().tolist() == [100, 1000]
        assert line.get_ydata().tolist() == found["mean"]
        ends = {(x, m + sign * s) for x, m, s in zip([100, 1000], *found.values(), strict=True) for sign in (-1, 1)}
        assert {tuple(point) for point in band.get_paths()[0].vertices.tolist()} == ends
    assert [line.get_ydata() for line in limits] == [[8.0, 8.0], [18.0, 18.0]]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("Bayes", 8.0), ("limit", 18.0)]


def test_groups_are_bars_with_deviations_beside_lines_over_the_buckets():
    bars, curves = plots.group_accuracy(BARS, buckets=BUCKETS).axes
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["many", "few"]
    assert bars.get_ylim() == curves.get_ylim() == (0, 100)
    assert (bars.get_xlabel(), bars.get_ylabel()) == ("classes by training examples", "accuracy (%)")
    assert curves.get_xlabel() == "bucket of classes, most frequent first"
    drawn = [[bar.get_height() for bar in bars.patches[i : i + 2]] for i in (0, 2)]
    assert drawn == [[80.0, 20.0], [75.0, 60.0]]
    places = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    np.testing.assert_allclose(places, [-0.2, 0.8, 0.2, 1.2])  # two bars of 0.4 around 0 and around 1
    whiskers = [np.ptp(path.vertices[:, 1]) for c in bars.collections for path in c.get_paths()]
    assert whiskers == pytest.approx([4.0, 0.0, 2.0, 6.0])
    assert [list(line.get_ydata()) for line in curves.lines] == list(BUCKETS.values())
    assert [list(line.get_xdata()) for line in curves.lines] == [[1, 2, 3]] * 2
    (legend,) = bars.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(BARS)


def test_bars_and_lines_of_a_method_have_one_color():
    bars, curves = plots.group_accuracy(BARS, buckets=BUCKETS).axes
    colors = [to_hex(bar.get_facecolor()) for bar in bars.patches[::2]]
    assert colors == [to_hex(line.get_color()) for line in curves.lines] and len(set(colors)) == 2


def test_noise_is_a_pair_of_bars_for_each_method_told_apart_in_gray():
    axes = only_axes(plots.label_noise(SHARES))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(SHARES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("method", "frequent taken for rare (%)")
    assert axes.get_yscale() == "linear"
    clean, noisy = axes.containers
    assert [bar.get_height() for bar in clean] == [0.5, 2.0, 3.0]
    assert [bar.get_height() for bar in noisy] == [1.5, 8.0, 9.0]
    for i, pair in enumerate(zip(clean, noisy, strict=True)):
        assert [bar.get_x() + bar.get_width() / 2 for bar in pair] == pytest.approx([i - 0.2, i + 0.2])
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["clean labels", "noisy labels"]
    assert {bar.get_hatch() for bar in clean} != {bar.get_hatch() for bar in noisy}


def test_figures_of_studies_change_nothing_they_were_given():
    given = (COUNTS, NORMS, ERRORS, BARS, BUCKETS, SHARES)
    before = copy.deepcopy(given)
    plots.class_norms(COUNTS, NORMS)
    plots.error_by_sample_size([100, 1000], ERRORS, lines={"Bayes": 8.0})
    plots.group_accuracy(BARS, buckets=BUCKETS)
    plots.label_noise(SHARES)
    assert given == before


def test_shares_are_drawn_in_order_of_frequency():
    shares = {"instance": [0.1, 0.6, 0.3], "balanced": [1 / 3] * 3}
    (axes,) = plots.class_shares([10, 60, 30], shares).axes
    assert [line.get_label() for line in axes.lines] == list(shares)
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3] and axes.lines[0].get_ydata().tolist() == [0.6, 0.3, 0.1]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class, by frequency", "share of the examples")
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == list(shares)


# --- reliability -----------------------------------------------------------------------------------------------------

BINS = {
    "edges": [0.0, 0.25, 0.5, 1.0],
    "confidence": [np.nan, 0.4, 0.9],
    "accuracy": [np.nan, 0.5, 0.6],
    "weight": [0.0, 0.2, 0.8],
    "count": [0, 2, 8],
}


def test_reliability_is_points_against_the_diagonal_with_gaps_and_shares():
    before = copy.deepcopy(BINS)
    axes = only_axes(plots.reliability({"as trained": BINS}))
    assert BINS.keys() == before.keys() and str(BINS) == str(before)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy, share of examples")
    assert axes.get_xlim() == axes.get_ylim() == (0, 1) and axes.get_title() == "as trained"
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in axes.patches] == [
        (0.0, 0.25, 0.0),
        (0.25, 0.25, 0.2),
        (0.5, 0.5, 0.8),
    ]
    diagonal, points = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert points.get_xdata().tolist()[1:] == [0.4, 0.9] and points.get_ydata().tolist()[1:] == [0.5, 0.6]
    assert np.isnan(points.get_xdata()[0]) and points.get_linestyle() == "None"
    gaps = [path.vertices.tolist() for path in axes.collections[0].get_paths()]
    assert gaps[-2:] == [[[0.4, 0.4], [0.4, 0.5]], [[0.9, 0.9], [0.9, 0.6]]]
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["calibrated", "gap", "accuracy", "share"]


def test_reliability_before_and_after_stands_side_by_side_on_one_scale():
    figure = plots.reliability({"as trained": BINS, "calibrated": {**BINS, "weight": [0.0, 0.5, 0.5]}})
    assert [axes.get_title() for axes in figure.axes] == ["as trained", "calibrated"]
    assert [[bar.get_height() for bar in axes.patches] for axes in figure.axes] == [[0.0, 0.2, 0.8], [0.0, 0.5, 0.5]]
    assert len(figure.legends) == 1


def test_groups_alone_are_bars_told_apart_in_gray_by_their_hatches():
    groups = {f"method {i}": BARS["erm"] for i in range(8)}
    figure = plots.group_accuracy(groups)
    axes = only_axes(figure)
    assert [bar.get_height() for bar in axes.patches] == [80.0, 20.0] * 8
    assert len({bar.get_hatch() for bar in axes.patches}) == len({bar.get_facecolor() for bar in axes.patches}) == 8
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()) == (
        "classes by training examples",
        "accuracy (%)",
        (0, 100),
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(groups)


CURVE = {"tau": [0.0, 1.0, 2.0], "value": [0.5, 0.8, 0.7], "low": [0.4, 0.7, 0.6], "high": [0.6, 0.9, 0.8]}


def test_a_path_is_drawn_in_percent_with_its_band_and_what_is_marked():
    figure = plots.tau_path(
        {"balanced": CURVE, "few": {"tau": [0, 2], "value": [0.1, 0.6]}}, marks={"τ = 1": 1, "best": 1.3}
    )
    axes = only_axes(figure)
    first, second, *marks = axes.lines
    assert list(first.get_xdata()) == CURVE["tau"] and list(second.get_xdata()) == [0, 2]
    np.testing.assert_allclose(first.get_ydata(), [50, 80, 70])
    np.testing.assert_allclose(second.get_ydata(), [10, 60])
    assert [mark.get_xdata() for mark in marks] == [[1, 1], [1.3, 1.3]]
    assert len({mark.get_linestyle() for mark in marks} | {mark.get_color() for mark in marks}) > 2
    (band,) = axes.collections
    edges = {tuple(point) for point in band.get_paths()[0].vertices.round(9).tolist()}
    assert edges == {(0, 40), (1, 70), (2, 60), (0, 60), (1, 90), (2, 80)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("τ", "accuracy (%)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["balanced", "few", "τ = 1", "best"]


def test_rules_under_label_shift_are_bars_with_deviations_over_seeds():
    figure = plots.label_shift(
        {"none": {"uniform": [70.0, 74.0], "reversed": [60.0, 60.0]}, "EM": {"uniform": [80.0], "reversed": [90.0]}}
    )
    axes = only_axes(figure)
    assert [bar.get_height() for bar in axes.patches] == [72.0, 60.0, 80.0, 90.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["uniform", "reversed"]
    whiskers = [np.ptp(path.vertices[:, 1]) for c in axes.collections for path in c.get_paths()]
    assert whiskers == pytest.approx([2 * np.sqrt(8.0), 0.0, 0.0, 0.0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class mix of the deployment", "accuracy (%)")
    assert axes.get_ylim() == (0, 100) and [t.get_text() for t in figure.legends[0].get_texts()] == ["none", "EM"]


FIGURES = {
    "class_counts": lambda: plots.class_counts(COUNTS),
    "class_shares": lambda: plots.class_shares([90, 10], {"balanced": [0.5, 0.5]}),
    "images": lambda: plots.images(np.zeros((2, 4, 4)), ["a", "b"]),
    "per_class_accuracy": lambda: plots.per_class_accuracy(COUNTS, RECALLS),
    "group_accuracy": lambda: plots.group_accuracy(BARS),
    "confusion": lambda: plots.confusion({"erm": [[9, 1], [3, 1]]}),
    "error_by_sample_size": lambda: plots.error_by_sample_size([100, 1000], ERRORS, lines={"Bayes": 8.0}),
    "tau_path": lambda: plots.tau_path({"balanced": CURVE}),
    "margins": lambda: plots.margins({"erm": [[0.0, 1.0], [2.0, 0.0]]}),
    "decision_boundaries": lambda: plots.decision_boundaries(
        [[-1, 0], [1, 1]], [0, 1], {"rule": [[-1.0, 0.0], [0.0, 1.0]]}, extent=(-2, 2, -1, 1)
    ),
    "reliability": lambda: plots.reliability({"as trained": BINS}),
    "class_norms": lambda: plots.class_norms(COUNTS, NORMS),
    "label_noise": lambda: plots.label_noise(SHARES),
    "label_shift": lambda: plots.label_shift({"none": {"uniform": [70.0, 74.0]}}),
}


@pytest.mark.parametrize("name", plots.__all__)
def test_every_public_name_draws_a_figure(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert all(axes.has_data() for axes in figure.axes)


def test_a_path_has_as_many_marks_as_are_given():
    marks = {f"τ of seed {seed}": 0.1 * seed for seed in range(12)}
    curve = {"tau": [0.0, 1.0], "value": [0.5, 0.6]}
    figure = plots.tau_path({"erm": curve}, marks=marks)
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert [label for label in labels if label in marks] == [*marks]
