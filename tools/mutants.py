"""The mutants of a source file: one change each, as spans of text, so that the rest of the file stays the same.

Not mutated: strings other than defaults, annotations, f-strings, the expression after `raise`, warnings.
"""

import ast
import dataclasses
import pathlib
import random
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]

SWAPS = {
    ast.Add: [("+", "-")],
    ast.Sub: [("-", "+")],
    ast.Mult: [("*", "/")],
    ast.Div: [("/", "*")],
    ast.FloorDiv: [("//", "/")],
    ast.Mod: [("%", "+")],
    ast.Pow: [("**", "*")],
    ast.BitAnd: [("&", "|")],
    ast.BitOr: [("|", "&")],
    ast.And: [("and", "or")],
    ast.Or: [("or", "and")],
    ast.Lt: [("<", "<="), ("<", ">=")],
    ast.LtE: [("<=", "<"), ("<=", ">")],
    ast.Gt: [(">", ">="), (">", "<=")],
    ast.GtE: [(">=", ">"), (">=", "<")],
    ast.Eq: [("==", "!=")],
    ast.NotEq: [("!=", "==")],
    ast.Is: [("is", "is not")],
    ast.IsNot: [("is not", "is")],
    ast.In: [("in", "not in")],
    ast.NotIn: [("not in", "in")],
}
_PAIRS = """log exp, sum mean, max min, maximum minimum, argmax argmin, floor ceil, zeros ones, zeros_like ones_like,
any all, logical_and logical_or, equal not_equal, greater less, greater_equal less_equal, sqrt square,
softmax log_softmax, sigmoid log_sigmoid, add subtract, multiply divide, isfinite isnan, cumsum cumprod"""
TWINS = {a: b for pair in _PAIRS.split(",") for a, b in [pair.split(), pair.split()[::-1]]}
BUILTIN_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one file: `text` in place of the bytes from `start` to `end`; `before` and `after` show lines."""

    file: str
    line: int
    before: str
    after: str
    start: int
    end: int
    text: str

    @property
    def key(self):
        """The part of a mutant that stays the same when lines above it move."""
        return self.file, self.before, self.after


class _Finder(ast.NodeVisitor):
    """Collects (start, end, replacement) in bytes of the source for every known change."""

    def __init__(self, source):
        self.source, self.found = source, []
        self.line_starts = [0]
        for line in source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.visit(ast.parse(source))

    def span(self, node):
        starts = self.line_starts
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node):
        start, end = self.span(node)
        return self.source[start:end].decode()

    def replace(self, node, text):
        self.found.append((*self.span(node), text))

    def swap(self, operator, left, right):
        """Change the operator in the text between its operands; the tree has no position for it."""
        start, end = self.span(left)[1], self.span(right)[0]
        for old, new in SWAPS.get(type(operator), []):
            word = rf"\b{old}\b" if old.isalpha() else re.escape(old)
            if match := re.search(word.encode(), self.source[start:end]):
                self.found.append((start + match.start(), start + match.end(), new))

    def negate(self, condition):
        is_swapped = isinstance(condition, ast.Compare) and len(condition.ops) == 1  # another mutant is the same change
        if not is_swapped and not (isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not)):
            self.replace(condition, f"(not ({self.text(condition)}))")

    def visit_Raise(self, node):
        pass  # a message

    visit_JoinedStr = visit_Raise

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node):
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                self.replace(default, repr(default.value + "_mutant"))
            elif default is not None:
                self.visit(default)
        for child in [*node.decorator_list, *node.body]:
            self.visit(child)

    def visit_BinOp(self, node):
        self.swap(node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.swap(node.op, node.target, node.value)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap(node.op, left, right)
        self.generic_visit(node)

    def visit_Compare(self, node):
        for operator, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            self.swap(operator, left, right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        start, _ = self.span(node)
        sign = {ast.Not: "not", ast.USub: "-", ast.Invert: "~"}.get(type(node.op), "")
        if sign:
            self.found.append((start, start + len(sign), ""))
        self.generic_visit(node)

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, (int, float)):
            self.replace(node, repr(type(value)(0) if value == 1 else value + 1))

    def visit_Return(self, node):
        value = node.value
        if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            self.replace(value, "None")
            if isinstance(value, ast.Call) and value.args and not isinstance(value.args[0], ast.Starred):
                self.replace(value, self.text(value.args[0]))
            self.generic_visit(node)

    def visit_If(self, node):
        self.negate(node.test)
        self.generic_visit(node)

    visit_IfExp = visit_If

    def visit_comprehension(self, node):
        for condition in node.ifs:
            self.negate(condition)
        self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Attribute(self, node):
        if node.attr in TWINS:
            end = self.span(node)[1]
            self.found.append((end - len(node.attr), end, TWINS[node.attr]))
        self.generic_visit(node)

    def visit_Call(self, node):
        if ast.unparse(node.func) == "warnings.warn":
            return
        if isinstance(node.func, ast.Name) and node.func.id in BUILTIN_TWINS:
            self.replace(node.func, BUILTIN_TWINS[node.func.id])
        for keyword in node.keywords:
            if keyword.arg is not None:
                self.drop(keyword)
        self.generic_visit(node)

    def drop(self, keyword):
        start, end = self.span(keyword)
        if comma := re.match(rb"\s*,\s*", self.source[end:]):
            end += comma.end()
        elif comma := re.search(rb",\s*$", self.source[:start]):
            start = comma.start()
        self.found.append((start, end, ""))


def _is_valid(source):
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def mutants_of(file):
    """Every mutant of one file, in the order of the places.

    Args:
        file: path relative to the root of the repository.
    """
    source = (ROOT / file).read_bytes()
    mutants = []
    for start, end, text in sorted(set(_Finder(source).found)):
        mutated = source[:start] + text.encode() + source[end:]
        first = source.rfind(b"\n", 0, start) + 1
        last = source.find(b"\n", end)
        shown = [
            " ".join(part.decode().split())
            for part in (source[first:last], mutated[first : last + len(text.encode()) - (end - start)])
        ]
        if _is_valid(mutated):
            mutants.append(Mutant(file, source.count(b"\n", 0, start) + 1, *shown, start, end, text))
    return mutants


def draw(mutants, count, seed):
    """One mutant from each of `count` equal stretches of the list: files count in proportion to their places."""
    if count >= len(mutants):
        return mutants
    generator = random.Random(seed)
    return [mutants[int((i + generator.random()) * len(mutants) / count)] for i in range(count)]


def to_markdown(report):
    """A table of the report of `tools/mutate.py`: one line for each room."""
    rooms = {}
    for file, share in report["files"].items():
        room = rooms.setdefault(
            file.split("/")[1], dict.fromkeys(("mutants_drawn", "killed", "timeout", "equivalent"), 0)
        )
        for outcome in room:
            room[outcome] += share.get(outcome, 0)
    lines = ["| room | mutants | killed | equivalent | share killed |", "|---|---:|---:|---:|---:|"]
    for name, room in [*rooms.items(), ("all", report)]:
        drawn, killed, timeout, equivalent = (
            room.get(outcome, 0) for outcome in ("mutants_drawn", "killed", "timeout", "equivalent")
        )
        share = f"{(killed + timeout) / (drawn - equivalent):.1%}"
        lines.append(f"| `{name}` | {drawn} | {killed + timeout} | {equivalent} | {share} |")
    return "\n".join(lines) + f"\n\nDrawn with seed {report['seed']} of {report['mutants_known']} mutants."
