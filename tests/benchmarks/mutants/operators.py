"""Mutants of a module: one small change each, as a span of its source and what stands there instead.

What is left alone, since no behaviour hangs on it or a test of it would only repeat the text: docstrings, annotations,
decorators, imports, ``__all__``, the words of messages (texts with a space in them, everything inside ``raise``,
arguments called ``expected``, ``found``, ``remedy``), and ``strict=True`` of ``zip``, which is an assertion.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_BINARY: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
_WORDS = {"expected", "found", "remedy", "strict"}


@dataclass(frozen=True)
class Mutant:
    """``source[start:end]`` becomes ``new``; ``where`` is the function, or empty at module level."""

    start: int
    end: int
    line: int
    old: str
    new: str
    where: str

    def apply(self, source: str) -> str:
        """Return the mutated source, with as many lines as before."""
        lost = self.old.count("\n") - self.new.count("\n")
        return source[: self.start] + self.new + "\\\n" * lost + source[self.end :]

    def __str__(self) -> str:
        return f"{self.where or 'module'}: {' '.join(self.old.split())} -> {self.new}"


class _Finder:
    """Walks a module; offsets are characters, as `ast` counts bytes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutant] = []

    def offset(self, line: int, byte: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:byte].decode())

    def span(self, node: Any) -> tuple[int, int]:
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def text(self, node: Any) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def add(self, node: Any, new: str, where: str) -> None:
        start, end = self.span(node)
        self.found.append(Mutant(start, end, node.lineno, self.source[start:end], new, where))

    def between(self, left: Any, right: Any, old: str, new: str, where: str) -> None:
        """Replace an operator that stands between two nodes (with brackets and comments, perhaps)."""
        low, high = self.span(left)[1], self.span(right)[0]
        at = self.source.find(old, low, high)
        if at >= 0:
            line = self.source.count("\n", 0, at) + 1
            whole = " ".join(self.source[self.span(left)[0] : self.span(right)[1]].split())
            changed = f"{' '.join(self.text(left).split())} {new} {' '.join(self.text(right).split())}"
            self.found.append(_Operator(at, at + len(old), line, old, new, where, f"{whole} -> {changed}"))

    def visit(self, node: ast.AST, where: str) -> None:
        """Collect the mutants of a node and of what is in it."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{where}.{node.name}" if where else node.name
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            for child in body:
                self.visit(child, inner)
            return
        if isinstance(node, ast.Raise):
            self.add(node, "pass", where)
            return
        if isinstance(node, ast.Import | ast.ImportFrom) or self._is_about_types(node):
            return
        self.mutate(node, where)
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "type_comment"}:
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg in _WORDS):
                    self.visit(child, where)

    @staticmethod
    def _is_about_types(node: ast.AST) -> bool:
        """``__all__``, aliases such as ``F32 = NDArray[np.float32]``, ``if TYPE_CHECKING``, calls of ``cast``."""
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            named = target.id if isinstance(target, ast.Name) else ""
            return named == "__all__" or (named[:1].isupper() and not named.isupper())
        if isinstance(node, ast.If):
            return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return isinstance(node, ast.JoinedStr)

    def mutate(self, node: ast.AST, where: str) -> None:
        """Add the mutants of one node."""
        match node:
            case ast.Compare(left=left, ops=ops, comparators=rights):
                for operator, a, b in zip(ops, [left, *rights[:-1]], rights, strict=True):
                    new = _COMPARE[type(operator)]
                    old = next(s for t, s in _SYMBOLS.items() if isinstance(operator, t))
                    self.between(a, b, old, new, where)
            case ast.BinOp(left=a, op=op, right=b) if type(op) in _BINARY and not _is_text(a):
                self.between(a, b, *_BINARY[type(op)], where)
            case ast.AugAssign(target=a, op=op, value=b) if type(op) in _BINARY:
                old, new = _BINARY[type(op)]
                self.between(a, b, f"{old}=", f"{new}=", where)
            case ast.BoolOp(op=op, values=values):
                old, new = (" and ", " or ") if isinstance(op, ast.And) else (" or ", " and ")
                for a, b in pairwise(values):
                    self.between(a, b, old.strip(), new.strip(), where)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                self.add(node, f"({self.text(operand)})", where)
            case ast.Constant(value=value) if value is True or value is False:
                self.add(node, str(not value), where)
            case ast.Constant(value=int() as value):
                self.add(node, str(value + 1), where)
            case ast.Constant(value=float() as value):
                self.add(node, repr(value * 2 if value else 1.0), where)
            case ast.Constant(value=str() as value) if value and " " not in value and "\n" not in self.text(node):
                self.add(node, repr(f"XX{value}XX"), where)
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if isinstance(test, ast.Name | ast.Call | ast.Attribute):
                    self.add(test, f"(not {self.text(test)})", where)
            case ast.Return(value=value) if value is not None and where:
                if not (isinstance(value, ast.Constant) and value.value is None):
                    self.add(value, "None", where)
            case ast.Expr(value=ast.Call()):
                self.add(node, "pass", where)
            case ast.Call(keywords=keywords):
                self._drop_keywords(node, keywords, where)

    def _drop_keywords(self, call: ast.Call, keywords: list[ast.keyword], where: str) -> None:
        for keyword in keywords:
            if keyword.arg in _WORDS or keyword.arg is None:
                continue
            start, end = self.span(keyword)
            while self.source[end] in " \n":
                end += 1
            if self.source[end] == ",":
                end += 1
            line = keyword.lineno
            old = self.source[start:end]
            said = f"{ast.unparse(call.func)}(... {' '.join(old.rstrip(',').split())}) -> without it"
            self.found.append(_Operator(start, end, line, old, "", where, said))


@dataclass(frozen=True)
class _Operator(Mutant):
    """A mutant that is understood only with its surroundings."""

    said: str

    def __str__(self) -> str:
        return f"{self.where or 'module'}: {self.said}"


_SYMBOLS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(source: str, only: Container[str] | None = None) -> Iterator[Mutant]:
    """Yield every mutant of a module's source that still compiles, or those whose text is among ``only``."""
    tree = ast.parse(source)
    finder = _Finder(source)
    for node in tree.body[1:] if ast.get_docstring(tree) is not None else tree.body:
        finder.visit(node, "")
    for mutant in finder.found:
        if only is not None and str(mutant) not in only:
            continue
        try:
            compile(mutant.apply(source), "mutant", "exec")
        except SyntaxError:
            continue
        yield mutant
