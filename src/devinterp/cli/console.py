"""Where output goes: tables and colours at a terminal, plain lines in a pipe, ``NO_COLOR`` honoured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["FOLLOW_LINKS", "err", "out", "put", "table"]

_WIDE = 10_000

FOLLOW_LINKS = Annotated[
    bool, typer.Option("--follow-links", help="Let symbolic links lead out of the store: git-annex, DVC.")
]


def out() -> Console:
    """Return the console of standard output; in a pipe lines are as long as they are."""
    return _console(sys.stdout)


def err() -> Console:
    """Return the console of standard error."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    from rich.console import Console

    terminal = bool(getattr(stream, "isatty", lambda: False)())
    return Console(
        file=stream, highlight=False, emoji=False, markup=False, width=None if terminal else _WIDE, soft_wrap=False
    )


def put(*parts: Any) -> None:
    """Print to standard output; in a pipe without the blanks that fill up a table's lines."""
    console = out()
    for part in parts:
        if console.is_terminal or isinstance(part, str):
            console.print(part, soft_wrap=isinstance(part, str))
            continue
        with console.capture() as caught:
            console.print(part)
        console.file.write("".join(f"{line.rstrip()}\n" for line in caught.get().splitlines()))
    console.file.flush()


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), title: str = ""
) -> Table:
    """Return a table; ``right`` names the columns of numbers. In a pipe it is made of spaces alone."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = out().is_terminal
    made = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        header_style="bold",
    )
    for name in columns:
        made.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if hasattr(cell, "__rich_console__") else Text(str(cell)) for cell in row))
    return made
