"""``devinterp repair``."""

from __future__ import annotations

from typing import Annotated

import typer

from devinterp.cli.console import FOLLOW_LINKS

__all__ = ["repair"]


def repair(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A store that sample() wrote.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is lost and what would be done.")] = False,
    reopen: Annotated[
        bool,
        typer.Option("--reopen", help="Take the chains back, for the same sample() call to compute them again."),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take the last repair back, as long as the run has not gone on.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    follow_links: FOLLOW_LINKS = False,
) -> None:
    """Mark what a store lost (missing or damaged chunks), so that the rest can be trusted.

    The draws of a chain before the first lost chunk stand; the chain is marked as failed, and analyses leave it out.
    Nothing that can be read is changed, and a record of the repair is kept in the store.

    Exit code 0: nothing lost, or repaired. 1: something is lost and was left as it is. 2: it cannot be repaired.

    Examples:

    \b
      devinterp repair run.zarr --dry-run
      devinterp repair run.zarr --yes
      devinterp repair run.zarr --reopen
      devinterp repair run.zarr --undo
    """
    import sys

    from devinterp.cli.console import put
    from devinterp.store.repair.apply import apply_repair, undo_repair
    from devinterp.store.repair.repair_plan import plan_repair

    if undo:
        for line in undo_repair(store):
            put(f"taken back: {line}")
        return
    plan = plan_repair(store, follow_links=follow_links)
    if plan.nothing and not plan.others:
        put(f"{store}: nothing is lost")
        return
    for line in plan.lines(reopen=reopen):
        put(line)
    if dry_run or plan.nothing:
        raise typer.Exit(1)
    if not yes:
        if not sys.stdin.isatty():
            typer.echo("Nothing was changed: nobody is there to ask. Pass --yes.", err=True)
            raise typer.Exit(1)
        if not typer.confirm("Change the store so?"):
            raise typer.Exit(1)
    apply_repair(plan, reopen=reopen)
    again = reopen or not plan.completed
    put(
        f"{store}: repaired"
        + ("; call sample() again with the same arguments to compute what was lost" if again else ""),
    )
