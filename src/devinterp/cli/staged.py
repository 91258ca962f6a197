"""The stores that a commit is about to change, for a hook before it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from devinterp.errors import SettingError

__all__ = ["staged_stores"]


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
        if folder.is_dir() and (folder.suffix == ".zarr" or _is_group(folder / "zarr.json")):
            return folder
    return None


def _is_group(document: Path) -> bool:
    try:
        found = json.loads(document.read_bytes())
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
