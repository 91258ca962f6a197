"""``devinterp validate``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["validate"]


class Level(StrEnum):
    """How far to look."""

    structure = "structure"
    completeness = "completeness"
    values = "values"


class Format(StrEnum):
    """What to print."""

    text = "text"
    json = "json"
    sarif = "sarif"


def validate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Stores: folders, ZIP archives or URLs.", show_default=False),
    ] = None,
    level: Annotated[
        Level,
        typer.Option(help="structure: metadata only; completeness: and every chunk is there; values: and every value."),
    ] = Level.values,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="strict, open (undeclared names only warn) or devinterp-2.0.")
    ] = "strict",
    schema: Annotated[
        str | None, typer.Option(metavar="SCHEMA", help="A schema's name or YAML file; else what the store names.")
    ] = None,
    format: Annotated[Format, typer.Option(help="json and sarif print that document alone.")] = Format.text,
    staged: Annotated[
        bool, typer.Option("--staged", help="Also every store in which git's index adds, changes or removes a file.")
    ] = False,
) -> None:
    """Check stores against their schema and report every finding.

    Exit code 0: valid. 1: findings of severity error. 2: a store could not be read, or wrong usage.

    Examples:

    \b
      devinterp validate run.zarr
      devinterp validate run.zarr --level structure
      devinterp validate old.zarr --profile devinterp-2.0
      devinterp validate results/*.zarr --format sarif > findings.sarif
      devinterp validate --staged
    """
    from devinterp.cli.console import out, put
    from devinterp.cli.staged import staged_stores
    from devinterp.schema import validate as check

    if not paths and not staged:
        raise typer.BadParameter("Name a store, or pass --staged.")
    targets = [*(paths or []), *(map(str, staged_stores()) if staged else ())]
    reports = [check(path, profile=profile, level=level.value, schema=schema) for path in targets]
    if format is Format.json:
        if len(reports) == 1 and not staged:
            typer.echo(reports[0].to_json())
        else:
            together = {
                "ok": all(r.ok for r in reports),
                "readable": all(r.readable for r in reports),
                "reports": [r.to_dict() for r in reports],
            }
            typer.echo(json.dumps(together, indent=2, ensure_ascii=False, allow_nan=False))
    elif format is Format.sarif:
        from devinterp.schema.findings.render import sarif

        typer.echo(json.dumps(sarif(reports), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for report in reports:
            put(report if out().is_terminal else str(report))
    if not all(r.readable for r in reports):
        raise typer.Exit(2)
    raise typer.Exit(0 if all(r.ok for r in reports) else 1)
