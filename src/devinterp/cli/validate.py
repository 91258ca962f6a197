"""``devinterp validate``."""

from __future__ import annotations

import json
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from devinterp.cli.console import FOLLOW_LINKS
from devinterp.errors import SettingError

__all__ = ["staged_stores", "validate"]


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
    follow_links: FOLLOW_LINKS = False,
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
    from devinterp.schema import validate as check

    if not paths and not staged:
        raise typer.BadParameter("Name a store, or pass --staged.")
    targets = [*(paths or []), *(map(str, staged_stores()) if staged else ())]
    reports = [
        check(path, profile=profile, level=level.value, schema=schema, follow_links=follow_links) for path in targets
    ]
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


def staged_stores() -> list[Path]:
    """Return the stores of this repository in which the index adds, changes or removes a file.

    A store is a folder of files, and a file that a commit *removes* is what most needs a look; a hook that is handed
    file names never hears of it. So the index is asked. A store that is removed as a whole is left out.

    Raises
    ------
    SettingError
        There is no git, or no repository here.
    """
    top = Path(_git("rev-parse", "--show-toplevel").rstrip("\n"))
    names = _git("diff", "--cached", "--name-only", "--no-renames", "-z").split("\0")
    stores = {root for name in names if name and (root := _outermost_group(top, Path(name))) is not None}
    return sorted(stores)


def _outermost_group(top: Path, name: Path) -> Path | None:
    """The outermost folder around a file that is a Zarr group, or was one before its ``zarr.json`` was taken out."""
    for parent in reversed(name.parents[:-1]):
        folder = top / parent
        if folder.is_dir() and (folder.suffix == ".zarr" or _is_group(folder)):
            return folder
    return None


def _is_group(folder: Path) -> bool:
    from devinterp.schema.reading.keys import DOCUMENT

    try:
        found = json.loads((folder / DOCUMENT).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("node_type") == "group"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        raise SettingError(
            "What is staged cannot be told.",
            expected="git, called inside a repository",
            found=said.decode(errors="replace").strip(),
            remedy="Name the stores instead: devinterp validate PATH...",
        ) from error
    return done.stdout.decode(errors="surrogateescape")
