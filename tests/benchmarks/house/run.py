"""The house in figures: files per folder, lines by kind, largest modules, circles, modules that calls run through.

    python tests/benchmarks/house/run.py
    PYTHONPATH=OTHER/src python tests/benchmarks/house/run.py    # the same of another checkout

A call runs through a module of ours where it enters a function of it, in any thread; what merely gets imported does not
count. The calls are a small `sample()` of two chains on the CPU into a new store, `bif()` of it, and `validate()` of it
at every level, each made once before it is counted.
"""

from __future__ import annotations

import ast
import io
import sys
import tempfile
import threading
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import devinterp

SOURCE = Path(devinterp.__file__).parent


def imports() -> dict[str, set[str]]:
    """Every module of ours with those that it imports, inside functions and for types alone too."""
    files = {".".join(("devinterp", *p.relative_to(SOURCE).with_suffix("").parts)): p for p in SOURCE.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {a.name for a in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom):
                asked = {f"{node.module}.{a.name}" for a in node.names}
                graph[name] |= {a if a in files else str(node.module) for a in asked} & files.keys()
    return {name: found - {name} for name, found in graph.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules of which each imports every other one, by however many steps."""
    ahead = {name: set(found) for name, found in graph.items()}
    for middle in graph:  # Warshall
        for name in graph:
            if middle in ahead[name]:
                ahead[name] |= ahead[middle]
    knots = {frozenset(n for n in graph if n in ahead[name] and name in ahead[n]) for name in graph}
    return sorted((set(knot) for knot in knots if len(knot) > 1), key=len, reverse=True)


def kinds_of_lines(text: str) -> Counter[str]:
    """Lines of code, of docstrings, of comments alone, and blank ones."""
    doc: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node):
                doc |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    passed = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in passed:
            code |= set(range(token.start[0], token.end[0] + 1))
    blank = {n for n, line in enumerate(text.splitlines(), 1) if not line.strip()} - doc
    total = text.count("\n")
    return Counter(
        code=len(code - doc), docstring=len(doc), blank=len(blank - code), comment=total - len(code | doc | blank)
    )


def entered(call: Callable[[], Any]) -> set[str]:
    """Modules of ours that a call enters a function of."""
    found: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            found.add(frame.f_code.co_filename)

    call()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return {Path(f).relative_to(SOURCE).as_posix() for f in found if Path(f).is_relative_to(SOURCE)}


class Bigram(torch.nn.Module):
    """The least that is a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(16, 4), torch.nn.Linear(4, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(ids))


def main() -> None:
    """Print every figure."""
    modules = {p.relative_to(SOURCE).as_posix(): p.read_text() for p in SOURCE.rglob("*.py")}
    lines = sum((kinds_of_lines(text) for text in modules.values()), Counter())
    print(f"{len(modules)} modules, {sum(lines.values())} lines: {dict(lines)}")
    folders = Counter(str(Path(name).parent) for name in modules if not name.endswith("__init__.py"))
    folders.update(str(p.relative_to(SOURCE).parent) for p in SOURCE.rglob("*") if (p / "__init__.py").is_file())
    print("entries per folder:", ", ".join(f"{name} {n}" for name, n in folders.most_common()))
    found = circles(imports())
    print(f"circles of imports: {len(found)}", [len(each) for each in found])
    longest = sorted(modules, key=lambda name: -modules[name].count("\n"))[:10]
    print("largest:", ", ".join(f"{name} {modules[name].count(chr(10))}" for name in longest))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = np.random.default_rng(0).integers(0, 16, (32, 9))
    with tempfile.TemporaryDirectory() as folder:
        paths = iter(Path(folder) / f"{n}.zarr" for n in range(9))

        def sample() -> Any:
            settings = {"num_chains": 2, "num_draws": 4, "batch_size": 4, "num_init_loss_batches": 1, "device": "cpu"}
            return devinterp.sample(
                Bigram(), rows, {"code": (rows, 1)}, lr=1e-3, n_beta=10.0, localization=1.0, progress=False,
                output_path=next(paths), **settings,
            )  # fmt: skip

        tree = sample()
        store = Path(folder) / "0.zarr"
        calls: dict[str, Callable[[], Any]] = {
            "sample()": sample,
            ".bif()": lambda: tree.devinterp.bif().load(),
            "validate": lambda: devinterp.validate(store),
        }
        for name, call in calls.items():
            through = entered(call)
            print(
                f"{name} runs through {len(through)} modules in {len({str(Path(m).parent) for m in through})} folders"
            )


if __name__ == "__main__":
    main()
