"""The tree of a store from its ``zarr.json`` documents: no array is opened, no chunk is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from devinterp.errors import StoreError
from devinterp.plain_json import dig
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.findings.report import Collector
from devinterp.schema.reading.access import Access, EscapeError, TooLargeError, UnlistableError, read_many, safe_key
from devinterp.schema.reading.array_metadata import ArrayDocuments
from devinterp.schema.reading.keys import DOCUMENT, STATE_FOLDER, document_key
from devinterp.schema.reading.limits import Limits
from devinterp.schema.reading.nodes import GroupNode, join
from devinterp.schema.reading.parse_json import parse_document, parsed_size

__all__ = ["StoreTree", "gathered_documents", "read_store"]

_GROUP_MEMBERS = frozenset({"zarr_format", "node_type", "attributes", "consolidated_metadata"})


class StoreTree:
    """What `read_store` gives: the root, and what its consolidated metadata say (None where they were not used)."""

    def __init__(self, root: GroupNode, consolidated: Mapping[str, Any] | None) -> None:
        self.root, self.consolidated = root, consolidated


def gathered_documents(root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the consolidated metadata of a root's document; None where there are none, or nothing is in them.

    Empty ones were written before anything else was: what the store holds, they do not say.
    """
    found = dig(root, "consolidated_metadata.metadata")
    return found if isinstance(found, Mapping) and found else None


def same_document(one: Any, other: Any) -> bool:
    """Whether two documents of a node say the same, whatever may be left out being there or not."""
    return _plain(one) == _plain(other)


def _plain(document: Any) -> str:
    if not isinstance(document, Mapping):
        return ""
    kept = {k: v for k, v in document.items() if k != "consolidated_metadata" and v not in (None, [], {})}
    return json.dumps(kept, sort_keys=True)


def read_store(access: Access, limits: Limits, findings: Collector, consolidated: bool | None) -> StoreTree | None:
    """Read the documents of a store; None where there is no root to begin with, after the finding that says why.

    Parameters
    ----------
    consolidated : bool or None
        Whether to take the metadata gathered in the root's document; by default where they are there.
    """
    document = _root_document(access, limits, findings)
    if document is None:
        return None
    root = _group(document, "/", findings)
    metadata = gathered_documents(document)
    if consolidated and metadata is None:
        findings.add(
            RuleCode.STALE_CONSOLIDATED, "/", "There are no consolidated metadata.", remedy="Leave consolidated unset."
        )
    reader = _Reader(access, limits, findings)
    if consolidated is not False and metadata is not None:
        reader.from_consolidated(root, metadata)
        return StoreTree(root, metadata)
    try:
        reader.from_documents(root)
    except UnlistableError as error:
        findings.add(
            RuleCode.UNREADABLE,
            "/",
            f"The store cannot be listed and has no consolidated metadata: {error.problem}",
            remedy="Consolidate it where it can be listed: zarr.consolidate_metadata(path).",
        )
        return None
    except StoreError as error:
        findings.add(RuleCode.UNREADABLE, "/", error.problem)
    if dig(document, "consolidated_metadata.metadata") == {} and (root.arrays or root.groups or root.broken):
        # xarray believes them, and shows an empty tree.
        findings.add(
            RuleCode.STALE_CONSOLIDATED,
            "/",
            "The consolidated metadata are empty, and the store is not.",
            level="structure",
        )
    return StoreTree(root, None)


def _root_document(access: Access, limits: Limits, findings: Collector) -> dict[str, Any] | None:
    try:
        raw = access.get(DOCUMENT, limits.document)
        if raw is None:
            older = [k for k in (".zgroup", ".zarray", ".zmetadata") if access.get(k, limits.document) is not None]
            _no_root(access, older, findings)
            return None
    except TooLargeError as error:
        findings.add(RuleCode.OVERSIZED_METADATA, "/", "The metadata document is too large.", expected=error.expected)
        return None
    except EscapeError as error:
        findings.add(RuleCode.PATH_ESCAPE, "/", error.problem)
        return None
    except StoreError as error:
        findings.add(RuleCode.UNREADABLE, "/", error.problem)
        return None
    document = parse_document(raw, "/", limits, findings)
    if document is None:
        return None
    if document.get("zarr_format") == 2:
        _no_root(access, ["zarr_format 2"], findings)
        return None
    if document.get("node_type") == "array":
        findings.add(RuleCode.NODE_TYPE, "/", "The root is an array.", expected="a group", found="an array")
        return None
    if document.get("zarr_format") != 3 or document.get("node_type") != "group":
        findings.add(
            RuleCode.METADATA,
            "/",
            "The root's document is not a Zarr v3 group.",
            expected="zarr_format 3, node_type group",
            found=f"{document.get('zarr_format')!r}, {document.get('node_type')!r}",
        )
        return None
    return document


def _no_root(access: Access, older: list[str], findings: Collector) -> None:
    if older:
        findings.add(RuleCode.ZARR_V2, "/", "This is a Zarr v2 store.", expected="Zarr v3", found=", ".join(older))
        return
    below = _stores_below(access)
    findings.add(
        RuleCode.NO_STORE,
        "/",
        "There is no Zarr group.",
        expected="a zarr.json",
        found=f"none, but in this folder: {', '.join(below)}" if below else "none",
        remedy=f"Pack what lies in {below[0]}, not the folder itself: unzip it, and there zip -r0 ../store.zip ."
        if below and access.archive
        else None,
    )


def _stores_below(access: Access) -> list[str]:
    """Names of the first few stores in a folder (or archive) of stores, which is easily given for a store."""
    try:
        names = [e.name for e in access.entries("") if e.folder and not e.escapes][:20]
        found = access.get_many([document_key(n) for n in names], 2**20)
    except StoreError:
        return []
    return [n for n, raw in zip(names, found, strict=True) if isinstance(raw, bytes)]


def _group(document: Mapping[str, Any], path: str, findings: Collector) -> GroupNode:
    attrs = document.get("attributes", {})
    if not isinstance(attrs, dict):
        findings.add(RuleCode.METADATA, path, "attributes are not a JSON object.", found=type(attrs).__name__)
        attrs = {}
    for name, value in document.items():
        optional = isinstance(value, Mapping) and value.get("must_understand") is False
        if name not in _GROUP_MEMBERS and not optional:
            findings.add(RuleCode.METADATA, path, "The group's document has an unknown member.", found=repr(name))
    return GroupNode(path, attrs)


class _Reader:
    def __init__(self, access: Access, limits: Limits, findings: Collector) -> None:
        self.access, self.limits, self.findings = access, limits, findings
        self._arrays = ArrayDocuments(limits, findings)
        self._nodes = 0
        self._kept = 0
        self._seen: set[int] = set()

    def from_consolidated(self, root: GroupNode, metadata: Mapping[str, Any]) -> None:
        """Build the tree from what the root's document gathers."""
        groups = {"/": root}
        for key in sorted(metadata, key=lambda k: (k.count("/"), k)):
            path = "/" + key
            if not safe_key(key):
                self.findings.add(RuleCode.PATH_ESCAPE, "/", "A name would lead out of the store.", found=repr(key))
                continue
            if not self._room(path):
                return
            parent = groups.get(path.rpartition("/")[0] or "/")
            if parent is None:
                self.findings.add(RuleCode.METADATA, path, "The node lies in no group.")
                continue
            group = self._attach(parent, path, metadata[key])
            if group is not None:
                groups[path] = group

    def from_documents(self, root: GroupNode) -> None:
        """Build the tree from one document per node, level by level."""
        level = [root]
        while level:
            wanted: list[tuple[GroupNode, str]] = []
            for group in level:
                wanted += [(group, name) for name in self._names(group)]
            keys = [document_key(group.path, name) for group, name in wanted]
            level = []
            for (group, name), raw in zip(wanted, read_many(self.access, keys, self.limits.document), strict=True):
                path = join(group.path, name)
                if raw is None:
                    continue
                if not self._room(path):
                    return
                child = self._read(group, name, path, raw)
                if child is not None:
                    level.append(child)

    def _names(self, group: GroupNode) -> list[str]:
        names = []
        for entry in self.access.entries(group.path.strip("/")):
            if entry.escapes:
                self._refuse(group, entry.name, RuleCode.PATH_ESCAPE, "A symbolic link leads out of the store.")
            elif entry.folder and not (group.path == "/" and entry.name == STATE_FOLDER):
                names.append(entry.name)
        return names

    def _read(self, parent: GroupNode, name: str, path: str, raw: bytes | StoreError) -> GroupNode | None:
        if isinstance(raw, EscapeError):
            self._refuse(parent, name, RuleCode.PATH_ESCAPE, "The document lies outside the store.")
        elif isinstance(raw, TooLargeError):
            self._refuse(parent, name, RuleCode.OVERSIZED_METADATA, "The metadata document is too large.")
        elif isinstance(raw, StoreError):
            self._refuse(parent, name, RuleCode.UNREADABLE, f"The metadata document cannot be read: {raw.problem}")
        elif not self._fits(raw):
            self._refuse(
                parent, name, RuleCode.OVERSIZED_METADATA, "The metadata documents are too large together to be kept."
            )
        else:
            document = parse_document(raw, path, self.limits, self.findings)
            if document is None:
                parent.broken.add(name)
            else:
                return self._attach(parent, path, document)
        return None

    def _fits(self, raw: bytes) -> bool:
        """Whether there is room for one more document; those that are equal are kept once."""
        digest, size = hash(raw), parsed_size(raw)
        if digest in self._seen or size > self.limits.parsed:  # one that is too large by itself is refused as such
            return True
        if self._kept + size > self.limits.parsed:
            return False
        self._seen.add(digest)
        self._kept += size
        return True

    def _attach(self, parent: GroupNode, path: str, document: Any) -> GroupNode | None:
        """Hang a node into its group; return it if it is a group."""
        name = path.rsplit("/", 1)[-1]
        if not isinstance(document, Mapping) or document.get("zarr_format") != 3:
            self._refuse(parent, name, RuleCode.METADATA, "The document is not one of Zarr v3.")
            return None
        if document.get("node_type") == "group":
            group = _group(document, path, self.findings)
            parent.groups[name] = group
            return group
        if document.get("node_type") != "array":
            self._refuse(parent, name, RuleCode.METADATA, "The document is neither of a group nor of an array.")
            return None
        array = self._arrays.read(document, path)
        if array is None:
            parent.broken.add(name)
        else:
            parent.arrays[name] = array
        return None

    def _refuse(self, parent: GroupNode, name: str, code: RuleCode, message: str) -> None:
        parent.broken.add(name)
        self.findings.add(code, join(parent.path, name), message)

    def _room(self, path: str) -> bool:
        self._nodes += 1
        if self._nodes > self.limits.nodes:
            self.findings.add(
                RuleCode.TOO_MANY_NODES, "/", "The store has too many nodes.", expected=f"at most {self.limits.nodes}"
            )
            return False
        if path.count("/") > self.limits.depth:
            self.findings.add(
                RuleCode.TOO_MANY_NODES, "/", "Groups lie too deep.", expected=f"at most {self.limits.depth} levels"
            )
            return False
        return True
