"""Bounds that a validation stays within, whatever a store says about itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a validation accepts at most; beyond a limit there is a finding, and no attempt.

    Attributes
    ----------
    memory : int
        Bytes above the interpreter and its imported libraries that a validation may use.
    document : int
        Bytes of one ``zarr.json`` (the root's, with consolidated metadata, among them).
    nesting : int
        Depth of attributes.
    nodes, depth : int
        Groups and arrays in the store, and how deep they lie.
    size : int
        Elements along one dimension.
    elements : int
        Elements of one array.
    chunks, all_chunks : int
        Chunks of one array, and of all declared arrays together.
    members : int
        Members of a family that variables are named after (observables).
    """

    memory: int = 256 * MIB
    document: int = 64 * MIB
    nesting: int = 64
    nodes: int = 200_000
    depth: int = 16
    size: int = 2**40
    elements: int = 2**50
    chunks: int = 1_000_000
    all_chunks: int = 4_000_000
    members: int = 2_000

    @property
    def parsed(self) -> int:
        """Bytes that a document may take once parsed."""
        return self.memory * 3 // 4

    @property
    def chunk(self) -> int:
        """Bytes of one decoded chunk: its encoded bytes and what checks allocate come on top."""
        return self.memory * 2 // 5
