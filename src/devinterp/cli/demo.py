"""``devinterp demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devinterp.errors import MissingDependencyError

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Where stores, figures and the page go.")
    ] = Path("demo-out"),
    quick: Annotated[bool, typer.Option("--quick", help="The same way in seconds, too short to see anything.")] = False,
) -> None:
    """Train a small transformer on real text, and sample its heads beside removal and noise (some minutes).

    Examples:

    \b
      devinterp demo
      devinterp demo --out /tmp/demo --quick
    """
    try:
        from devinterp.demo.run import main
    except ImportError as error:
        if (error.name or "").split(".")[0] == "devinterp":
            raise
        raise MissingDependencyError(
            f"The demo needs a package that is not installed: {error.name}.",
            remedy="Install it with what it needs: pip install 'devinterp[demo]'.",
        ) from error
    raise typer.Exit(main(out, quick))
