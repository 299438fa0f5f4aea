"""The pages by task have one form, the index leads to each, and what `test_pages` cannot run is run here."""

import pathlib
import re

import numpy as np
import pytest

import keras_logit_adjust as kla

DOCS = pathlib.Path(__file__).parents[1] / "docs"
TASKS = sorted(path for path in (DOCS / "tasks").glob("*.md") if path.name != "index.md")
every_page = pytest.mark.parametrize("page", TASKS, ids=lambda path: path.stem)


def section(page, heading):
    return page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_index_has_every_page_once():
    linked = re.findall(r"\]\((\w+\.md)\)", (DOCS / "tasks" / "index.md").read_text())
    assert sorted(linked) == [page.name for page in TASKS]


def test_the_site_has_every_page_in_the_order_of_the_index():
    navigation = (DOCS.parent / "mkdocs.yml").read_text()
    linked = re.findall(r"\]\((\w+\.md)\)", (DOCS / "tasks" / "index.md").read_text())
    assert re.findall(r"- tasks/(\w+\.md)", navigation) == ["index.md", *linked]


@every_page
def test_a_page_names_the_task_as_its_reader_does(page):
    assert re.match(r"# (I|My) ", page.read_text())


@every_page
def test_a_page_has_about_ten_lines_that_measure_before_and_after(page):
    text = section(page, "The lines")
    lines = [line for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert 8 <= len([line for line in lines if line]) <= 22
    errors = re.findall(r"^(\S.*?) +balanced error (\d\.\d\d)|^(\w+) +(\d\.\d\d) +\d\.\d\d$", text, re.MULTILINE)
    rows = [[cell for cell in row if cell] for row in errors]
    printed = [float(value) for name, value in rows if name in ("plain", "weighted", "as it came")]
    others = [float(value) for name, value in rows if name not in ("plain", "weighted", "as it came")]
    assert len(printed) == 1 and min(others) < printed[0] - 0.01


@every_page
def test_a_page_says_what_to_measure_and_what_to_watch(page):
    measure, watch = section(page, "What to measure"), section(page, "What to watch")
    assert 2 <= len(re.findall(r"^- ", measure, re.MULTILINE)) <= 4
    assert 4 <= len(re.findall(r"^- ", watch, re.MULTILINE)) <= 6
    assert "../pitfalls.md#" in watch


def test_the_lines_for_a_classifier_of_keras_hub_run():
    hub = pytest.importorskip("keras_hub", reason="the lines are for a classifier of KerasHub")
    pytest.importorskip("tensorflow_text", reason="the tokenizer of the classifier needs it")
    (lines,) = re.findall(r"```py\n(.*?)```", (DOCS / "tasks" / "text_classifier.md").read_text(), re.DOTALL)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "late", "card", "lost", "fee"]
    tokenizer = hub.models.BertTokenizer(vocabulary=words)
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 6}
    classifier = hub.models.BertTextClassifier(
        backbone=hub.models.BertBackbone(vocabulary_size=len(words), **shape),
        num_classes=3,
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=6),
    )
    given = {"classifier": classifier, "class_counts": [90, 9, 1], "texts": ["card lost", "late fee fee"], "kla": kla}
    exec(lines, given)
    plain = classifier.predict(given["texts"], verbose=0)
    np.testing.assert_allclose(given["logits"], plain - np.log([0.9, 0.09, 0.01]), atol=1e-5)
