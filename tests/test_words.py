"""Sentences of the pages and messages of the package are short; the counter of both is tested by itself."""

import pathlib

import pytest
from helpers import sentences

ROOT = pathlib.Path(__file__).parents[1]
MOST_WORDS, MOST_SENTENCES = 30, 3
# Not rewritten yet.
LEFT = {"docs/benchmarks.md", "docs/migration.md"}
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if page.relative_to(ROOT).as_posix() not in LEFT
]
SOURCES = sorted((ROOT / "keras_logit_adjust").rglob("*.py"))

PAGE = """# A heading. Of two

One two [three four](five/six.md#seven-eight), `seven eight` nine ([ten](x)). Where $a + b$ is, et al. say "five."
Another (see it!) one

```python
not. counted.
```

<!-- name:begin -->
not a sentence
| a | b |
<!-- name:end -->

| table | of words |
|---|---|

$$
a b c
$$

- First item
  goes on. Second
- Third 3.5 e.g. it; it: it
"""


def test_the_counter_reads_prose_and_leaves_code_tables_and_addresses_out():
    assert [len(sentences.words(sentence)) for sentence in sentences.of_markdown(PAGE)] == [7, 7, 4, 4, 1, 6]


def test_the_counter_finds_the_end_of_sentences():
    assert sentences.of_text("One, two. Three 1.5 i.e. 2? (Four.) Five") == [
        "One, two",
        "Three 1.5 i.e. 2",
        "(Four",
        "Five",
    ]
    assert sentences.of_text("Received: x=1.5") == ["Received: x=1.5"]
    assert sentences.words("a — b / 3 · c") == ["a", "b", "3", "c"]


def test_the_counter_reads_messages_whatever_they_are_put_together_of():
    source = """
raise ArgumentError("x", f"One {value:.2f}. " "Two. " + more + " Three {x}.")
raise _checks.ArgumentError("x", "One")
_checks.refuse_numbers(bad, values, "x", "The rule. And more.", remedy=", or. Do.")
raise ValueError("A")
warnings.warn("B.", UserWarning)
print("C.")
"""
    texts = [text for _, text in sentences.messages(source)]
    assert texts == [
        "One Value. Two. Value Three {x}.",
        "One",
        "The rule. And more. Received Value, or. Do.",
        "A",
        "B.",
    ]
    assert [len(sentences.of_text(text)) for text in texts] == [3, 1, 4, 1, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_of_a_page_is_long_or_a_fragment(page):
    found = sentences.of_markdown(page.read_text())
    assert [sentence for sentence in found if len(sentences.words(sentence)) > MOST_WORDS] == []
    assert [sentence for sentence in found if sentence.startswith("Of ")] == []


def test_pages_that_are_left_still_need_it():
    for name in LEFT:
        found = sentences.of_markdown((ROOT / name).read_text())
        assert any(len(sentences.words(sentence)) > MOST_WORDS for sentence in found), (
            f"{name} passes: take it out of LEFT"
        )


@pytest.mark.skipif(not SOURCES, reason="the messages are read in the package's source, which is not here")
def test_no_message_has_more_than_three_sentences():
    found = [(path.name, *message) for path in SOURCES for message in sentences.messages(path.read_text())]
    assert len(found) > 300
    assert [message for message in found if len(sentences.of_text(message[-1])) > MOST_SENTENCES] == []
