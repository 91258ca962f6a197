"""The versions that this documentation is published under: those tagged, and `latest`, the main branch.

Read the Docs builds every tag `vX.Y.Z` under its own address and keeps it. The list of them is written by the build of
`latest`, where the pages of all versions look for it, so that those of an old one know of what came after.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

RELEASE = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
SWITCHER = "_static/versions.json"


def tags(root: Path) -> list[str]:
    """The tags of the clone; none where this is not one."""
    done = subprocess.run(["git", "-C", str(root), "tag", "--list"], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def entries(found: Iterable[str], address: str) -> list[dict[str, object]]:
    """One entry for every release, the newest first, below the address that all versions share; before them `latest`."""
    releases = sorted((tuple(map(int, m.groups())) for m in map(RELEASE.fullmatch, found) if m), reverse=True)
    names = [".".join(map(str, each)) for each in releases]
    listed: list[dict[str, object]] = [
        {"name": "latest (main branch)", "version": "latest", "url": f"{address}latest/"}
    ]
    for name in names:
        newest = {"preferred": True} if name == names[0] else {}
        listed.append({"name": name, "version": name, "url": f"{address}v{name}/", **newest})
    return listed


def switcher(canonical: str, published: str, root: Path, static: Path) -> dict[str, str] | None:
    """Write the list, and return the theme's setting; None where the pages have no address, as on a laptop.

    Parameters
    ----------
    canonical, published : str
        What Read the Docs says: the address of these pages (``.../en/v3.0.0/``), and its last part.
    root, static : Path
        The clone, and where the list is to be written.
    """
    if not canonical or not published:
        return None
    address = canonical.rstrip("/").removesuffix(published)
    static.parent.mkdir(parents=True, exist_ok=True)
    static.write_text(json.dumps(entries(tags(root), address), indent=1) + "\n", encoding="utf-8")
    return {"json_url": f"{address}latest/{SWITCHER}", "version_match": published.removeprefix("v")}
