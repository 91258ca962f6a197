"""Edits of a store on disk, as a careless or hostile hand would make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a zarr.json in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_array(store: Path, name: str, **members: Any) -> None:
    """Set members of an array's zarr.json."""
    edit_json(store / name / "zarr.json", lambda d: d.update(members))


def edit_attributes(store: Path, change: Callable[[dict[str, Any]], Any], group: str = "") -> None:
    """Change the attributes of a group or array."""
    edit_json(store / group / "zarr.json", lambda d: change(d["attributes"]))


def chunk_files(store: Path, name: str) -> list[Path]:
    """Every chunk of an array."""
    return sorted(p for p in (store / name / "c").rglob("*") if p.is_file()) or [store / name / "c"]


def rewrite(store: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change the values of an array."""
    import zarr

    with zarr.config.set({"array.write_empty_chunks": True}):  # of an array that is there a `config` is not heeded
        array = zarr.open_array(str(store / name), mode="r+")
        array[...] = change(array[...])
