"""report.html: one strict file with the numbers of report.md, nothing to fetch, ids of its own and escaped text."""

import copy
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from helpers import reports
from matplotlib.figure import Figure

from keras_logit_adjust import studies
from keras_logit_adjust.compare import METHODS, by_class, html, report

COMMITTED = ("methods_fashion_mnist_lt", "compare_cifar100_lt", "compare_fashion_mnist_lt")
STUDIES = ("weight_norms", "consistency", "label_noise", "label_shift", "many_classes")
HOSTILE = '<script>alert("it\'s")</script> & <b>'


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of each committed comparison as text."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: reports.write(folder / name, reports.committed(name)).read_text("utf-8") for name in COMMITTED}


def parse(page):
    """The page as a tree; raises where it is not well-formed."""
    return ElementTree.fromstring(page)


def words(part):
    """The text of an element."""
    return " ".join("".join(part.itertext()).split())


def cells_of(table):
    """The rows of a table without the intervals that are drawn beside their numbers."""
    rows = [[words(cell) for cell in row if cell.find("svg") is None] for row in table.iter("tr")]
    width = min(map(len, rows))
    place = next((i for i, text in enumerate(rows[0]) if "interval, " in text), None)
    return [[text for i, text in enumerate(row) if len(row) == width or i != place] for row in rows]


def cells_of_markdown(text):
    lines = [line for line in text.split("\n") if line.startswith("|")]
    assert lines[1].startswith("|---|")
    return [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines[:1] + lines[2:]]


@pytest.fixture
def results():
    """A small comparison: three methods, three seeds."""
    whole = reports.committed("compare_fashion_mnist_lt")
    return {**whole, "methods": {name: whole["methods"][name] for name in ("erm", "la_posthoc", "la_loss")}}


def page_of(results):
    recalls = by_class.mean_recalls(reports.predictions_of(results), len(results["class_counts"]))
    return report.to_html(results, report._figures(results, recalls))


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMITTED)
def test_the_table_is_that_of_the_markdown_cell_by_cell(name, pages):
    table = next(parse(pages[name]).iter("table"))
    assert cells_of(table) == cells_of_markdown(report.to_markdown(reports.committed(name)))


@pytest.mark.parametrize("name", STUDIES)
def test_the_table_of_a_study_is_that_of_the_markdown_cell_by_cell(name):
    results = reports.committed(f"study_{name}")
    page = parse(studies.run.to_html(results))
    expected = studies.to_markdown(results)
    assert cells_of(next(page.iter("table"))) == cells_of_markdown(expected)
    assert words(page.find(".//pre")) == results["command"]
    caption, _, notes = expected.split("\n\n")
    shown = [words(part) for part in page.iter("p")]
    assert " ".join(caption.split()) + "." in shown and " ".join(notes.split()) in shown


@pytest.mark.parametrize("name", COMMITTED)
def test_conditions_legend_and_command_are_on_the_page(name, pages):
    results, page = reports.committed(name), parse(pages[name])
    caption, _, notes, _ = report.to_markdown(results).split("\n\n")
    shown = words(page.find(".//main"))
    for text in (f"{caption}.", notes.split("\nτ for each seed")[0].split("\nPublished")[0], results["command"]):
        assert " ".join(text.split()) in shown
    assert ("Published: Menon et al." in shown) == ("Published: Menon et al." in notes) == ("cifar" in name)
    pairs = {words(row[0]): words(row[1]) for row in page.iter("tr") if len(row) == 2}
    for key, value in results["versions"].items():
        assert pairs[key] == value
    for key, value in results["config"].items():
        assert value is None or pairs[key] == str(value)
    assert [pairs[f"seed {i}"] for i in range(len(results["split_hashes"]))] == results["split_hashes"]
    assert pairs["training examples of each class"] == ", ".join(map(str, results["class_counts"]))


def test_the_chosen_taus_are_those_of_the_markdown(pages):
    results = reports.committed("methods_fashion_mnist_lt")
    tables = [cells_of(table) for table in parse(pages["methods_fashion_mnist_lt"]).iter("table")]
    (shown,) = [rows[1:] for rows in tables if rows[0] == ["method", "τ for each seed"]]
    assert f"τ for each seed: {'; '.join(f'`{name}` {taus}' for name, taus in shown)}." in report.to_markdown(results)


def test_intervals_are_drawn_to_scale_in_the_color_of_their_verdict(results):
    versus = results["methods"]["la_posthoc"]["versus_erm"]
    versus.update(difference=-2.0, low=-4.0, high=-1.0, verdict="lower")
    results["methods"]["la_loss"]["versus_erm"].update(difference=1.0, low=-0.5, high=3.5, verdict="none")
    page = parse(report.to_html(results, {}))
    assert "95% interval, -4 to +4 points" in [words(cell) for cell in page.iter("th")]
    lower, none = page.findall(".//td/svg")
    assert (lower.get("class"), none.get("class")) == ("interval lower", "interval none")
    zero, span = lower.findall("line")
    at = {place: 4 + 112 * (place + 4) / 8 for place in (-4, -2, -1, 0)}  # 120 pixels less 4 at each end, for 8 points
    assert float(zero.get("x1")) == float(zero.get("x2")) == at[0]
    assert (float(span.get("x1")), float(span.get("x2"))) == (at[-4], at[-1])
    assert float(lower.find("circle").get("cx")) == at[-2]


def test_methods_that_all_equal_erm_have_intervals_too(results):
    for name in ("la_posthoc", "la_loss"):
        results["methods"][name]["versus_erm"].update(difference=0.0, low=0.0, high=0.0, verdict="none")
    assert len(parse(report.to_html(results, {})).findall(".//td/svg")) == 2


# --- the headline ----------------------------------------------------------------------------------------------------


def headline(results):
    page = parse(report.to_html(results, {}))
    return words(page.find(".//h1")), words(page.findall(".//header/p")[-1])


def set_error(results, name, mean, **versus):
    results["methods"][name]["summary"]["balanced_error"] = {"mean": mean, "std": 0.5}
    if versus:
        results["methods"][name]["versus_erm"] = versus


def test_the_headline_names_the_best_method_and_its_interval(results):
    set_error(results, "erm", 30.0)
    set_error(results, "la_posthoc", 20.0, difference=-10.0, low=-12.0, high=-8.0, verdict="lower")
    set_error(results, "la_loss", 25.0, difference=-5.0, low=-6.0, high=-4.0, verdict="lower")
    heading, lead = headline(results)
    assert heading == "Lowest balanced error on fashion_mnist_lt: 20.0 ± 0.5 %, by la_posthoc"
    assert lead.startswith(
        "la_posthoc is logit adjustment, post hoc. Cross-entropy (ERM) has 30.0 ± 0.5 %: a difference"
    )
    assert "a difference of -10.0 points, 95% interval [-12.0, -8.0]. The best of 3 was picked on the test" in lead
    marked = parse(report.to_html(results, {})).findall(".//tr[@class='marked']")
    assert [words(row.find("th/code")) for row in marked] == ["la_posthoc"]


def test_a_headline_of_methods_that_cannot_be_told_apart_says_so(results):
    set_error(results, "erm", 30.0)
    set_error(results, "la_posthoc", 29.0, difference=-1.0, low=-2.5, high=0.5, verdict="none")
    set_error(results, "la_loss", 31.0, difference=1.0, low=-1.0, high=3.0, verdict="none")
    assert "the two cannot be told apart, 95% interval of the difference [-2.5, +0.5] points." in headline(results)[1]


def test_a_headline_where_nothing_beats_erm_says_so(results):
    set_error(results, "erm", 10.0)
    assert headline(results) == (
        "Lowest balanced error on fashion_mnist_lt: 10.0 ± 0.5 %, by erm",
        "Cross-entropy (ERM) has 10.0 ± 0.5 %. None of the 2 other methods has a lower one.",
    )
    del results["methods"]["la_posthoc"], results["methods"]["la_loss"]
    assert headline(results)[1] == "Cross-entropy (ERM) has 10.0 ± 0.5 %."
    assert "interval, " not in words(parse(report.to_html(results, {})).find(".//thead"))


def test_a_method_that_saw_the_test_set_is_not_called_the_best(results):
    oracles = [name for name in METHODS if METHODS[name].tuned_on == "test"]
    assert len(oracles) == 2
    for name in oracles:
        results["methods"][name] = copy.deepcopy(results["methods"]["la_loss"])
        set_error(results, name, 1.0)
    set_error(results, "la_loss", 2.0)
    heading, lead = headline(results)
    assert heading.endswith("2.0 ± 0.5 %, by la_loss") and "The best of 3 was" in lead


# --- the form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMITTED)
def test_nothing_is_fetched_from_anywhere(name, pages):
    page = pages[name]
    assert not re.search(r"https?:|//[a-z]|\bsrc\s*=|@import|<link|<img|<iframe|<object|\bfetch\(", page)
    assert set(re.findall(r"url\((.)", page)) == set(re.findall(r'href="(.)', page)) == {"#"}
    assert "default-src 'none'" in parse(page).find(".//meta[@http-equiv='Content-Security-Policy']").get("content")


@pytest.mark.parametrize("name", COMMITTED)
def test_ids_are_unique_and_every_reference_leads_to_one(name, pages):
    page = pages[name]
    ids = [part.get("id") for part in parse(page).iter() if part.get("id")]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(#|href="#)([^)"]+)', page)
    assert {id.rpartition("-")[0] for id in references} == {"tail", "per_class_accuracy", "group_accuracy"}
    assert set(references) <= set(ids)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_page_is_accessible(name, pages):
    page = parse(pages[name])
    assert (
        page.get("lang") == "en"
        and words(page.find("head/title"))
        and page.find(".//meta[@name='viewport']") is not None
    )
    assert len(page.findall(".//h1")) == len(page.findall(".//main")) == 1
    assert all(cell.get("scope") in ("row", "col") for cell in page.iter("th"))
    assert all(row[0].tag == "th" for row in page.iter("tr"))
    figures = page.findall(".//figure")
    assert len(figures) == 3
    for figure in figures:
        svg = figure.find(".//svg")
        assert svg.get("role") == "img" and svg.get("aria-label") == words(figure.find("figcaption"))
    assert all(svg.get("aria-hidden") == "true" for svg in page.findall(".//td/svg"))


@pytest.mark.parametrize("name", COMMITTED)
def test_a_parser_of_html_sees_the_same_tree_as_one_of_xml(name, pages):
    seen = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, len(attributes)))

        def error(self, message):
            raise AssertionError(message)

    Parser().feed(pages[name])
    assert seen == [(part.tag.lower(), len(part.attrib)) for part in parse(pages[name]).iter()]


def test_figures_name_their_series_in_text_that_can_be_searched(pages):
    results = reports.committed("methods_fashion_mnist_lt")
    curves, bars, tail = parse(pages["methods_fashion_mnist_lt"]).findall(".//figure")
    for figure in (curves, bars):
        assert [text for text in map(words, figure.iter("text")) if text in METHODS] == list(results["methods"])
    assert {"many", "medium", "few", "accuracy (%)"} <= {words(text) for text in bars.iter("text")}
    assert {"class, by frequency", "training examples"} <= {words(text) for text in tail.iter("text")}


def test_text_from_data_is_escaped(results):
    tags = [part.tag for part in parse(report.to_html(results, {})).iter()]
    results["data"]["name"] = results["config"]["dataset"] = results["command"] = HOSTILE
    results["methods"]["la_loss"]["title"] = HOSTILE
    page = parse(report.to_html(results, {}))
    assert [part.tag for part in page.iter()] == tags
    shown = "".join(page.itertext())
    assert (
        shown.count(HOSTILE) >= 5 and HOSTILE in words(page.find("head/title")) and HOSTILE in words(page.find(".//h1"))
    )
    assert words(page.find(".//pre")) == HOSTILE and len(page.findall(".//script")) == 1


def test_one_seed_has_no_deviations_to_show(pages):
    page = parse(pages["compare_cifar100_lt"])
    assert "±" not in words(page.find(".//table")) and "±" not in words(page.find(".//header"))
    captions = [words(caption) for caption in page.iter("figcaption")]
    assert captions[0].endswith("one seed.") and not any("deviation" in caption for caption in captions)


def test_a_page_without_matplotlib_says_how_to_get_figures(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    page = parse(reports.write(tmp_path / "out", results).read_text("utf-8"))
    (said,) = [words(part) for part in page.iter("p") if "No figures" in words(part)]
    assert said == capsys.readouterr().out.strip() and 'pip install "keras_logit_adjust[plots]"' in said
    assert page.find(".//figure") is None and page.find(".//td/svg") is not None
    study = parse(studies.run.to_html(reports.committed("study_consistency")))
    assert 'pip install "keras_logit_adjust[plots]"' in words(study.find(".//main")) and study.find(".//figure") is None


def test_a_page_repeats_byte_for_byte_and_leaves_no_half_file(results, tmp_path):
    first, second = (reports.write(tmp_path / name, results) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(
        ["report.html", "report.md", "tail.png", "per_class_accuracy.png", "group_accuracy.png"]
    )


def test_a_page_of_all_methods_and_a_hundred_classes_stays_small():
    whole = reports.committed("compare_cifar100_lt")
    method = {**whole["methods"]["la_loss"], "seeds": whole["methods"]["la_loss"]["seeds"] * 3}
    results = {**whole, "methods": {name: {**method, "title": METHODS[name].title} for name in METHODS}}
    assert len(page_of(results).encode()) < 700_000


# --- a study ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_the_figure_of_a_study_is_on_its_page(name):
    results = reports.committed(f"study_{name}")
    module = studies.STUDIES[results["study"]]
    page = studies.run.to_html(results, module.figure(results))
    (figure,) = parse(page).findall(".//figure")
    assert figure.find(".//svg").get("aria-label") == words(figure.find("figcaption")) == module.figure.__doc__
    assert len(list(figure.iter("text"))) >= 10
    ids = [part.get("id") for part in parse(page).iter() if part.get("id")]
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page)) <= set(ids)


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_code_may_break_after_an_underscore_and_all_else_is_escaped():
    assert html.text("`a_b` <i>") == "<code>a_<wbr />b</code> &lt;i&gt;"
    assert html.text(html.text("`a` & b")) == "<code>a</code> &amp; b"


def test_colors_and_hatches_survive_the_change_of_ids():
    drawn = Figure()
    drawn.subplots().bar([0, 1], [1, 2], hatch="//", color="#e69f00", edgecolor="white")
    page = parse(html.figure("bars", "Bars & hatches", drawn))
    (pattern,) = page.iter("pattern")
    assert [rect.get("fill") for rect in pattern.iter("rect")] == ["#e69f00"]
    filled = [path for path in page.iter("path") if f"url(#{pattern.get('id')})" in path.get("style", "")]
    assert len(filled) == 2 and page.find("figcaption").text == "Bars & hatches"


def test_the_numbers_of_a_results_file_are_all_that_the_table_needs(results):
    stored = json.loads(json.dumps(results))
    assert report.to_html(stored, {}) == report.to_html(results, {})
