"""Keys of a Zarr store: under which a node's document lies, and under which a chunk of an array.

Where a chunk lies is for its array's own metadata to say (``chunk_key_encoding``), whoever wrote it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "DOCUMENT",
    "STATE_FOLDER",
    "ChunkKeys",
    "chunk_grid",
    "document_key",
    "documented_node",
    "is_leftover",
    "is_unseen",
    "join_key",
    "place",
]

DOCUMENT = "zarr.json"
"""Name of the object that holds a node's metadata."""

STATE_FOLDER = ".devinterp"
"""Where checkpoints and locks of a run lie, and what a repair kept: ours, and not a group."""


def join_key(*parts: str) -> str:
    """Return the key of what lies below a node: parts without slashes at their ends, empty ones left out."""
    return "/".join(p for p in (part.strip("/") for part in parts) if p)


def document_key(*path: str) -> str:
    """Return the key of a node's document: ``zarr.json`` for the root, ``l0h0/sampling_loss/zarr.json``."""
    return join_key(*path, DOCUMENT)


def documented_node(key: str) -> str | None:
    """Return the path (without a leading slash) of the node whose document lies at ``key``; None for other keys."""
    parent, _, name = key.rpartition("/")
    return parent if name == DOCUMENT else None


_LEFTOVER = re.compile(r"\.[0-9a-f]+\.partial")


def is_leftover(key: str) -> bool:
    """Whether a key is that of a temporary file which a killed writer left: ``<name>.<uuid>.partial``."""
    return _LEFTOVER.search(key.rpartition("/")[2][-80:]) is not None and key.endswith(".partial")


# What file systems, file managers, editors and tools that copy leave beside files: hidden names (.DS_Store, ._name,
# .nfs0001, .name.Xy12Za of rsync, .name.swp), folders that keep thumbnails, and backups.
_UNSEEN = re.compile(
    r"\..+|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|__macosx|lost\+found|@eadir|.+~|#.+#"
    r"|.+\.(bak|orig|old|rej|swp|tmp|temp|part|crdownload|dvc|md5)"
    # What Hadoop puts for a folder into an object store, and what programs that synchronise put for a conflict.
    r"|.+_\$folder\$|.+\.sync-conflict-.+|.+ \(.*conflicted copy.*\).*",
    re.IGNORECASE,
)


def is_unseen(key: str) -> bool:
    """Whether a key holds a file that no reader of a store looks at and that other programs leave behind by habit."""
    return any(_UNSEEN.fullmatch(part) for part in key.split("/"))


@dataclass(frozen=True)
class ChunkKeys:
    """How the chunks of one array are named below it.

    Attributes
    ----------
    encoding : {"default", "v2"}
    separator : {"/", "."}
    """

    encoding: str = "default"
    separator: str = "/"

    @classmethod
    def parse(cls, value: Any) -> ChunkKeys:
        """Return what a document's ``chunk_key_encoding`` says, in its long form or its short one (a name alone).

        Raises
        ------
        ValueError
            It names an encoding or separator that Zarr v3 does not have.
        """
        name = value.get("name") if isinstance(value, Mapping) else value
        configuration = value.get("configuration") if isinstance(value, Mapping) else None
        if configuration is None:
            configuration = {}
        if not isinstance(configuration, Mapping) or name not in ("default", "v2"):
            raise ValueError(f"the chunk key encoding {value!r} is not known")
        separator = configuration.get("separator", "/" if name == "default" else ".")
        if separator not in ("/", "."):
            raise ValueError(f"the separator {separator!r} is not known")
        return cls(str(name), str(separator))

    def name(self, index: tuple[int, ...]) -> str:
        """Return the name of a chunk below its array: ``c/0/1``, ``c.0.1``, ``0.1``."""
        parts = [str(i) for i in index]
        if self.encoding == "default":
            return self.separator.join(["c", *parts])
        return self.separator.join(parts) or "0"

    def elsewhere(self, index: tuple[int, ...]) -> list[str]:
        """Return the names that the same chunk has under the encodings and separators that are not this one."""
        others = (ChunkKeys(encoding, separator) for encoding in ("default", "v2") for separator in "/.")
        return list(dict.fromkeys(name for keys in others if (name := keys.name(index)) != self.name(index)))

    def index(self, name: str, grid: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the place in the grid of the chunk that lies at ``name``, or None where that is not a chunk's."""
        number = self.number(name, grid)
        return None if number is None else place(number, grid)

    def number(self, name: str, grid: tuple[int, ...]) -> int | None:
        """Return what `index` returns, counted through the grid in C order."""
        parts = name.split(self.separator)
        if self.encoding == "default":
            if parts[0] != "c":
                return None
            parts = parts[1:]
        elif not grid:
            return 0 if name == "0" else None
        if len(parts) != len(grid):
            return None
        out = 0
        for part, count in zip(parts, grid, strict=True):
            # Only the plain form of a number is a key: neither 01 nor +1 nor another script's digits.
            if len(part) > 16 or not (part.isascii() and part.isdigit()) or (part[0] == "0" and part != "0"):
                return None
            if int(part) >= count:
                return None
            out = out * count + int(part)
        return out


def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Number of chunks along each dimension."""
    return tuple(-(-n // c) if c else 0 for n, c in zip(shape, chunks, strict=True))


def place(number: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return where in a grid its ``number``-th chunk lies, in C order."""
    if not 0 <= number < math.prod(grid):
        raise ValueError(f"a grid of {grid} has no chunk {number}")
    out = []
    for count in reversed(grid):
        number, rest = divmod(number, count)
        out.append(rest)
    return tuple(reversed(out))
