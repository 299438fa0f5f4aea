"""Sentences of a Markdown page, and of the messages, docstrings and comments in source code; and their words."""

import ast
import io
import re
import tokenize

_NOT_PROSE = re.compile(
    r"^ *```.*?^ *```[^\n]*$"  # code
    r"|<!--(?: \S+:begin -->.*?<!-- \S+:end)?.*?-->"  # comments, and tables that are made from results
    r"|^\$\$.*?\$\$$"  # formulas
    r"|^ *\|[^\n]*$",  # tables
    re.DOTALL | re.MULTILINE,
)
_BLOCK = re.compile(r"\n[ \t]*\n|^#.*$|^ *(?:[-*]|\d+\.) ", re.MULTILINE)
# A period ends a sentence where the end or a blank and no small letter follow; closing marks may stand between.
_END = re.compile(r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?][\"'”’)*_]*(?:\s+(?![a-z])|$)")
_VERB = "is|are|was|were|has|have|had|does|do|did|can|cannot|could|would|will|may|must"
_BECAUSE = re.compile(
    r", for (?:(?:it|they|there|we|one|nothing)\b"
    rf"|(?!example\b)(?:(?!whose\b|that\b|which\b|who\b|where\b|as\b)\w+ ){{1,4}}(?:{_VERB})\b)"
)


def of_markdown(text):
    """The sentences of a page: without code blocks, tables and displayed formulas; a link is its text.

    A heading, an item of a list and a paragraph end a sentence. Code and a formula inside of a line are one word.
    """
    text = _NOT_PROSE.sub("\n\n", text)
    text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)|\$[^$\n]+\$", "Code", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return [sentence for block in _BLOCK.split(text) for sentence in of_text(block)]


def of_text(text):
    """The sentences of a plain text."""
    return [sentence for part in _END.split(text) if (sentence := " ".join(part.split())) and words(sentence)]


def is_fragment(sentence):
    """Whether a sentence begins with "Of", with "What", or with a small letter.

    Languages write "What is left is x" in another order: "x is left" is read faster. A question may not be here either.
    """
    return re.match(r"(?:Of|What) |[a-z]", sentence) is not None


def has_for_as_because(sentence):
    """Whether ", for" is followed by a subject and its verb, as far as this shows in a few frequent words."""
    return _BECAUSE.search(sentence) is not None


def words(sentence):
    """The words of a sentence: what stands between blanks and has a letter or a digit."""
    return [word for word in sentence.split() if any(letter.isalnum() for letter in word)]


def messages(source):
    """`(line, text)` of every message in `source`: of errors, whatever their class, and of `warnings.warn`.

    What an f-string or a name fills in is one word. `_checks.refuse_numbers` puts a message together of a rule, what it
    received and a remedy.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        function = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if function == "refuse_numbers":
            remedy = [_text(option.value) for option in node.keywords if option.arg == "remedy"] or ["."]
            found.append((node.lineno, f"{_text(node.args[3])} Received Value{remedy[0]}"))
        elif (function.endswith("Error") or function == "warn") and node.args:
            found.append((node.lineno, _text(node.args[1 if function == "ArgumentError" else 0])))
    return found


def docstrings(source):
    """`(name, text)` of every docstring of a public class or function in `source`, without its examples."""

    def visit(node):
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, (ast.ClassDef, ast.FunctionDef)) and not inner.name.startswith("_"):
                if text := ast.get_docstring(inner):
                    yield inner.name, _without_examples(text)
                if isinstance(inner, ast.ClassDef):
                    yield from visit(inner)

    return list(visit(ast.parse(source)))


def all_docstrings(source):
    """`(name, text)` of every docstring in `source`: also of the module and of private and inner names."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return [(getattr(node, "name", "module"), _without_examples(ast.get_docstring(node))) for node in nodes]


def comments(source):
    """`(line, text)` of every comment in `source`. Full lines that follow each other are one comment. Code is one word.

    Instructions to tools (`noqa`) are left out.
    """
    found, before = [], None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            text, is_full = token.string[1:].strip(), not token.line[:column].strip()
            if is_full and before == line - 1:
                found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
            else:
                found.append((line, re.sub(r"^noqa:? ?[A-Z0-9, ]*(?:- )?", "", text)))
            before = line if is_full else None
    return [(line, re.sub(r"(`+)[^`]+\1", "Code", text)) for line, text in found if text]


def of_docstring(text):
    """The sentences of a docstring before its sections, of which an item of a list is one; code is one word."""
    prose = re.split(r"\n\s*(?:Args|Attributes|Returns|Raises|Warns):\s*\n", re.sub(r"(`+)[^`]+\1", "Code", text))[0]
    return [sentence for block in re.split(r"\n\s*\n|^\s*- ", prose, flags=re.MULTILINE) for sentence in of_text(block)]


def entries(text):
    """The arguments and attributes that a docstring describes, as `(name, description)`."""
    return re.findall(r"^ {4}\**(\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE)


def of_entry(text):
    """The sentences of an argument's description, in which a semicolon and an item of a list end a sentence too."""
    text = re.sub(r"(`+)[^`]+\1", "Code", text)
    return [sentence for part in re.split(r";\s|^\s*- ", text, flags=re.MULTILINE) for sentence in of_text(part)]


def _without_examples(text):
    return "\n\n".join(block for block in text.split("\n\n") if not re.match(r"\s*(?:>>>|Example:)", block))


def _text(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "Value"
