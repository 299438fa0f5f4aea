"""Sentences of the pages and messages of the package are short; the counter of both is tested by itself."""

import pathlib
import re

import pytest
from helpers import sentences

ROOT = pathlib.Path(__file__).parents[1]
MOST_WORDS, MOST_SENTENCES = 30, 3
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "keras_logit_adjust").rglob("*.py"))
# Rooms in which docstrings of modules and private names, and comments, follow the rules of pages too ("" is the top).
ROOMS = ("", *sorted({path.parent.name for path in SOURCES} - {"keras_logit_adjust"}))

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
    assert [sentence for sentence in found if sentences.is_fragment(sentence)] == []
    assert [sentence for sentence in found if sentences.has_for_as_because(sentence)] == []


def test_the_rules_find_fragments_and_for_in_the_sense_of_because():
    assert all(map(sentences.is_fragment, ("Of two labels", "What is left is x", "and more")))
    assert not any(map(sentences.is_fragment, ("Offsets", "Whatever it is", "`x` is", "τ is", "2 are")))
    for because in ("weak, for the logits are", "x, for one uses both", "x, for they look", "x, for a model cannot"):
        assert sentences.has_for_as_because(because)
    for purpose in ("x, for example it is", "x, for rows whose sum is 1", "x, for the error", "x for it is"):
        assert not sentences.has_for_as_because(purpose)


@pytest.mark.skipif(not SOURCES, reason="the messages are read in the package's source, which is not here")
def test_no_message_has_more_than_three_sentences():
    found = [(path.name, *message) for path in SOURCES for message in sentences.messages(path.read_text())]
    assert len(found) > 300
    assert [message for message in found if len(sentences.of_text(message[-1])) > MOST_SENTENCES] == []


DOCUMENTED = (
    '"""Module."""\n'
    + '''
class A:
    """One two `a b`.

    - Three
      four
    - five. Six

    Args:
        a: of b.
        b: two
            lines.

    Example:

    >>> A()
    """

    def f(self):
        """F."""

    def _g(self):
        """G."""


def _h():
    """H."""
'''
)


def test_the_counter_reads_docstrings_of_public_names():
    (name, text), method = sentences.docstrings(DOCUMENTED)
    assert (name, method) == ("A", ("f", "F."))
    assert sentences.of_docstring(text) == ["One two Code", "Three four", "five", "Six"]
    assert sentences.entries(text) == [("a", "of b."), ("b", "two\n        lines.")]
    assert sentences.of_entry("one `a b`; two\n  - three\n    four. Five") == ["one Code", "two", "three four", "Five"]


@pytest.mark.skipif(not SOURCES, reason="docstrings are read in the package's source, which is not here")
def test_docstrings_of_public_names_are_short_sentences_and_no_fragments():
    found = [
        (path.name, name, text)
        for path in SOURCES
        if not path.name.startswith("_")
        for name, text in sentences.docstrings(path.read_text())
    ]
    assert len(found) > 300
    said = [(*place, sentence) for *place, text in found for sentence in sentences.of_docstring(text)]
    assert [sentence for sentence in said if len(sentences.words(sentence[-1])) > MOST_WORDS] == []
    assert [sentence for sentence in said if re.match("(?:Of|What) ", sentence[-1])] == []
    assert [sentence for sentence in said if sentences.has_for_as_because(sentence[-1])] == []


@pytest.mark.skipif(not SOURCES, reason="docstrings are read in the package's source, which is not here")
def test_an_argument_is_described_by_words_that_stand_alone():
    found = [
        (path.name, name, *entry)
        for path in SOURCES
        for name, text in sentences.docstrings(path.read_text())
        for entry in sentences.entries(text)
    ]
    assert len(found) > 800
    assert [entry for entry in found if re.match(r"of |as (?:there|above)\b", entry[-1])] == []


def test_the_counter_reads_all_docstrings_and_comments():
    found = sentences.all_docstrings(DOCUMENTED)
    assert [name for name, _ in found] == ["module", "A", "_h", "f", "_g"]
    source = """
x = 1  # of `a b`
# One
# two.
y = 2  # noqa: E501 - three
z = "# no"  # noqa: E501
    # Four.

# Five.
"""
    assert sentences.comments(source) == [(2, "of Code"), (3, "One two."), (5, "three"), (7, "Four."), (9, "Five.")]


@pytest.mark.skipif(not SOURCES, reason="docstrings are read in the package's source, which is not here")
@pytest.mark.parametrize("room", ROOMS)
def test_private_docstrings_and_comments_are_short_sentences(room):
    said, described, number = [], [], 0
    for path in sorted((ROOT / "keras_logit_adjust" / room).glob("*.py")):
        source = path.read_text()
        docstrings, comments = sentences.all_docstrings(source), sentences.comments(source)
        number += len(docstrings)
        said += [(path.name, name, sentence) for name, text in docstrings for sentence in sentences.of_docstring(text)]
        said += [(path.name, line, sentence) for line, text in comments for sentence in sentences.of_text(text)]
        entries = [(name, entry) for name, text in docstrings for _, entry in sentences.entries(text)]
        described += [(path.name, name, part) for name, entry in entries for part in sentences.of_entry(entry)]
    assert number > 10
    assert [sentence for sentence in said + described if len(sentences.words(sentence[-1])) > MOST_WORDS] == []
    assert [sentence for sentence in said if re.match("(?:of|what|and) ", sentence[-1], re.IGNORECASE)] == []
    assert [sentence for sentence in said + described if sentences.has_for_as_because(sentence[-1])] == []
