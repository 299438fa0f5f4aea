"""README and docs are true: their snippets run in order and print what is shown, their tables are results on file."""

import contextlib
import functools
import importlib.util
import io
import json
import operator
import pathlib
import re
import statistics

import numpy as np
import pytest
import scipy.stats

import keras_logit_adjust as kla
from keras_logit_adjust import studies
from keras_logit_adjust.compare import report

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")
# Trained weights differ between machines; everything else is printed exactly.
TRAINED, EXACT = 0.03, 1.01e-4


def snippets(page):
    """(code, expected output) of every snippet."""
    return SNIPPET.findall(page.read_text())


def name_of(page):
    return str(page.relative_to(ROOT))


# Pages whose trainings and text pipelines take longer than all others together.
SLOW = ("guide/keras_hub", "tasks/frozen_features", "tasks/many_products", "tasks/phone", "tasks/segmentation")
SLOW = [f"docs/{page}.md" for page in SLOW]
PAGES_THAT_RUN = [
    pytest.param(page, marks=[pytest.mark.slow] * (name_of(page) in SLOW), id=name_of(page))
    for page in PAGES
    if snippets(page)
]


def run(code, namespace, name):
    """What `code` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), namespace)
    return printed.getvalue()


@functools.cache
def run_first(code):
    """README and the start page begin with the same snippet, which trains: it runs once."""
    namespace = {}
    return run(code, namespace, "first snippet"), namespace


@pytest.mark.filterwarnings("default:.*recall is pooled.*:UserWarning")
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_every_snippet_prints_what_the_page_shows(page, monkeypatch):
    if page.stem == "keras_hub":
        pytest.importorskip("keras_hub", reason="KerasHub, an optional extra, is not installed")
    monkeypatch.chdir(ROOT)  # a page may read results on file
    (first, shown_first), *others = snippets(page)
    printed, namespace = run_first(first)
    assert_same(printed, shown_first, tolerance(first))
    namespace = dict(namespace)
    for code, shown in others:
        assert_same(run(code, namespace, name_of(page)), shown, tolerance(code))


def tolerance(code):
    return TRAINED if ".fit(" in code else EXACT


def assert_same(printed, shown, tolerance):
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        assert abs(float(ours) - float(theirs)) <= tolerance, (ours, theirs)


def marked(page, name):
    return page.read_text().split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def benchmark(name, folder="benchmarks"):
    """The script of a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compared(results):
    return f"{report.to_markdown(results)}\n\nMachine: {results['versions']['machine']}; {results['seconds']:.0f} s."


def studied(results):
    return f"{studies.to_markdown(results)}\n\nMachine: {results['versions']['machine']}."


def of_tool(name, file=None):
    return file or name, lambda results: benchmark(name, "tools").to_markdown(results)


# The name of a marked table → the results on file, and what makes the table of them.
TABLES = {
    "compare": ("compare_fashion_mnist_lt", compared),
    "compare-banking": ("compare_banking77_lt", compared),
    "compare-banking-natural": ("compare_banking77_natural", compared),
    "compare-cifar100-features": ("compare_cifar100_features", compared),
    "frozen-features": ("frozen_features", "to_markdown"),
    "finetune-text": ("finetune_text", "to_markdown"),
    "zero-shot-names": ("zero_shot_names", "to_markdown"),
    "methods": ("methods_fashion_mnist_lt", compared),
    "cifar100": ("compare_cifar100_lt", compared),
    "cifar100-tuned": ("tune_cifar100_lt", compared),
    "weight-norms": ("study_weight_norms", studied),
    "consistency": ("study_consistency", studied),
    "label-noise": ("study_label_noise", studied),
    "label-shift": ("study_label_shift", studied),
    "prediction-sets": ("prediction_sets", "to_markdown"),
    "undone-weights": ("undone_weights", "to_markdown"),
    "many-classes-trained": ("study_many_classes", studied),
    "more-classes-trained": ("study_many_classes_100000", studied),
    "loss": ("loss", "to_markdown"),
    "many-classes": ("many_classes", "to_markdown"),
    "tau-path": ("tau_path", "to_markdown"),
    "choosing": ("choosing", "regret_to_markdown"),
    "choosing-images": ("choosing", "images_to_markdown"),
    "report-callback": ("report_callback", "to_markdown"),
    "held-out": ("held_out", "to_markdown"),
    "sampler": ("sampler", "to_markdown"),
    "precision": ("precision", "to_markdown"),
    "served-precision": ("served_precision", "to_markdown"),
    "scaling": ("scaling", "to_markdown"),
    "zoo": of_tool("zoo"),
    "mutants": of_tool("mutants"),
    "mutants-fresh": of_tool("mutants", "mutants_fresh"),
}


def on_file(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(name):
    file, to_markdown = TABLES[name]
    results = on_file(file)
    return to_markdown(results) if callable(to_markdown) else getattr(benchmark(file), to_markdown)(results)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_name_of_ours_on_a_page_exists(page):
    for name in set(re.findall(r"\bkla\.[\w.]*\w", page.read_text())):
        operator.attrgetter(name.removeprefix("kla."))(kla)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_result_on_file(name):
    assert marked(BENCHMARKS, name) == table(name)


def test_every_result_on_file_has_a_table_and_every_marked_table_a_result():
    assert {file for file, _ in TABLES.values()} == {path.stem for path in RESULTS.glob("*.json")}
    for page in PAGES:
        names = re.findall(r"<!-- (.+):begin -->", page.read_text())
        assert set(names) <= set(TABLES), page
        for name in names:
            assert marked(page, name) == marked(BENCHMARKS, name), page


def test_what_the_text_says_of_the_tables_is_so():
    """The cost of a loss, half precision, label shift, choosing τ, and which method is better."""
    times = [row for row in on_file("loss")["loss"] if row["loss"] == "logit_adjusted" and row["mode"] != "eager"]
    assert times and all(row["high"] < 1 for row in times)

    by_precision = on_file("precision")["methods"].values()
    assert all(row["versus_float32"]["verdict"] == "none" for rows in by_precision for row in rows.values())

    mixes = on_file("study_label_shift")["mixes"]
    accuracy = {mix: {name: sum(row["accuracy"]) for name, row in rules.items()} for mix, rules in mixes.items()}
    for estimated in ("em", "em_calibrated", "bbse"):
        assert all(rules[estimated] > rules["none"] for rules in accuracy.values())
        assert [mix for mix, rules in accuracy.items() if rules[estimated] > rules["uniform"]] == ["reversed"]

    trained = on_file("study_many_classes")["methods"]
    balanced = {name: statistics.mean(row["balanced"]) for name, row in trained.items()}
    drawn = sorted((int(name.split("_")[1]), value) for name, value in balanced.items() if name.startswith("partition"))
    assert [value for _, value in drawn] == sorted(value for _, value in drawn) and drawn[-1][0] == 8192
    assert abs(drawn[-1][1] - balanced["la"]) < 1 and balanced["la"] - balanced["batch"] < 1
    assert "The labels of a batch lose less than a point" in flat("guide/many_classes.md")
    assert balanced["posterior_64"] < balanced["posterior_512"] < balanced["erm"] < balanced["posterior-uniform_512"]
    assert balanced["posterior-uniform_64"] == min(balanced.values())
    assert balanced["posterior-uniform_512"] < balanced["partition_512"]
    assert balanced["bayes"] > balanced["examples"] > balanced["la_posthoc"] > balanced["la"] - 0.5
    assert balanced["la"] > balanced["erm"]

    rows = on_file("study_many_classes_100000")["methods"]
    more = {name: row["balanced"][0] for name, row in rows.items()}
    assert round(rows["la"]["minutes"][0] / rows["partition_8192"]["minutes"][0]) == 8  # "an eighth of the time"
    assert abs(more["la"] - more["la_posthoc"]) < 0.1 and more["la"] > more["erm"] + 10
    assert 2 < more["la"] - more["partition_8192"] < 3 and "lose 2 to 3 points" in flat("guide/many_classes.md")
    assert round(more["la"] - more["batch"]) == 7 and "labels of a batch lose 7 points" in flat("guide/many_classes.md")
    assert more["posterior_512"] < more["erm"] < more["partition_512"] < more["batch"] < more["partition_8192"]

    costs = [row["evaluations"] for row in on_file("tau_path")["times"]]
    assert f"as much as {min(costs):.0f} to {max(costs):.0f} single values of τ" in flat("guide/tau.md")

    methods = on_file("compare_fashion_mnist_lt")["methods"]
    errors = {name: [seed["balanced_error"] for seed in row["seeds"]] for name, row in methods.items()}
    error = {name: statistics.mean(seeds) for name, seeds in errors.items()}
    assert abs(error["class_weight"] - error["la_posthoc"]) < 0.3
    gains = np.subtract(errors["la_posthoc"], errors["la_loss"])
    low, high = scipy.stats.ttest_1samp(gains, 0).confidence_interval()
    assert low < 0 < high and 0.4 < gains.mean() < 0.6
    assert "better by half a point, but the interval over three seeds contains zero" in flat("choose.md")
    for name, row in methods.items():  # "the same trainings here"
        assert row["seeds"] == on_file("methods_fashion_mnist_lt")["methods"][name]["seeds"]
    assert f"about {on_file('compare_fashion_mnist_lt')['seconds'] / 60:.0f} minutes".replace("3", "three") in flat(
        README
    )

    regret = {round(row["best_tau"], 2): row for row in on_file("choosing")["regret"]}
    assert all(row["50 a class"]["mean"] < 0.7 * row["possible"] for tau, row in regret.items() if abs(tau - 1) > 0.1)
    assert regret[1.09]["50 a class"]["mean"] < 0.05


def test_what_the_text_says_of_text_encoders_is_so():
    (probe,) = (
        row for row in on_file("finetune_text")["rows"] if (row["system"], row["method"]) == ("probe", "la_loss")
    )
    assert probe["versus_posthoc"]["verdict"] == "lower" and len(probe["seeds"]) == 3


def test_what_the_text_says_of_linear_probes_is_so():
    data, compare = on_file("frozen_features")["data"], benchmark("frozen_features")
    excess = {
        (name, row): compare.excess(draws, "theirs_optimum")[0]
        for name in data
        for row, draws in data[name]["errors"].items()
    }
    assert max(excess.values()) < 0.5 and max(excess["banking77_lt", row] for row in compare.ROWS) < 0.2
    gains = [
        statistics.mean(min(draw["theirs_optimum"]) - min(draw["theirs"]) for draw in data[name]["errors"]["erm"])
        for name in ("digits", "fashion_pixels")
    ]
    assert min(gains) > 0.4 and round(max(gains), 1) == 0.7  # "takes off up to 0.7 points"
    assert all(statistics.median(of["ours"] / of["theirs"] for of in rows["seconds"]) < 1 for rows in data.values())


def test_what_the_text_says_of_names_as_a_head_is_so():
    rows = on_file("zero_shot_names")["rows"]
    keys = ("versus_rival", "versus_probe")
    verdict = {(name, key): row[key]["verdict"] for name, row in rows.items() for key in keys if row[key]}
    assert verdict["debiased", "versus_rival"] == "lower" and verdict["debiased", "versus_probe"] == "higher"
    assert verdict["calibrated", "versus_probe"] == "higher"
    assert "lower" not in (verdict[name, key] for name in ("sum", "sum_calibrated") for key in keys)
    assert [verdict[f"names_{epochs}", "versus_rival"] for epochs in (2, 10, 50)] == ["lower", "lower", "none"]
    assert verdict["names_10", "versus_probe"] == "lower"


def flat(page):
    return " ".join((ROOT / "docs" / page).read_text().split())


def test_there_are_exactly_two_set_up_commands():
    section = README.read_text().split("## Two commands")[1].split("\n## ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).strip().split("\n")
    assert len(commands) == 2
    assert commands[0].endswith("keras-logit-adjust compare")
    assert ".venv/bin/pytest" in commands[1]


def test_the_readme_fits_a_few_screens():
    assert len(README.read_text().splitlines()) <= 250


def test_every_shown_name_exists():
    import keras_logit_adjust as kla

    for page in PAGES:
        for name in re.findall(r"\bkla((?:\.[A-Za-z_]\w*)+)", page.read_text()):
            functools.reduce(getattr, name[1:].split("."), kla)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor[1:] in anchors(path), anchor


def anchors(page):
    """The anchors that code hosts, and MkDocs alike, give to headings of letters, digits and simple marks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
