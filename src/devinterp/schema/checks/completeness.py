"""The level ``completeness``: every chunk that should be there is, and nothing else; no chunk is decoded.

The exception are a few small arrays that say which draws were written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp.errors import StoreError
from devinterp.plain_json import dig
from devinterp.schema.findings.codes import RuleCode
from devinterp.schema.reading.access import UnlistableError, read_many
from devinterp.schema.reading.decode_chunk import numpy_dtype, stored_fill
from devinterp.schema.reading.keys import (
    DOCUMENT,
    STATE_FOLDER,
    chunk_grid,
    document_key,
    join_key,
    place,
)
from devinterp.schema.reading.nodes import join
from devinterp.schema.reading.parse_json import parse_document
from devinterp.schema.reading.store_tree import same_document
from devinterp.schema.rules.context import Context
from devinterp.schema.rules.registry import holds_where_filled

if TYPE_CHECKING:
    from devinterp.schema.checks.structure import Checked
    from devinterp.schema.definition.spec import VariableSpec
    from devinterp.schema.findings.report import Collector
    from devinterp.schema.reading.access import Access
    from devinterp.schema.reading.limits import Limits
    from devinterp.schema.reading.nodes import ArrayNode, GroupNode
    from devinterp.schema.reading.store_tree import StoreTree
    from devinterp.schema.reading.store_values import StoreValues
    from devinterp.schema.rules.bound import Bound

__all__ = ["check_completeness"]

# Names that chunks have under some encoding of Zarr.
_CHUNK_LIKE = re.compile(r"(c[./])?\d+([./]\d+)*|c", re.ASCII)
# Up to so many absent chunks of an array are looked at each for itself.
_ONE_BY_ONE = 10_000


def check_completeness(
    access: Access, tree: StoreTree, checked: Checked, values: StoreValues, limits: Limits, findings: Collector
) -> None:
    """Compare the objects of a store with those that its metadata call for."""
    if tree.consolidated is not None:
        _compare_consolidated(access, tree.consolidated, limits, findings)
    try:
        for group in tree.root.subtree():
            try:
                _check_group(access, group, tree, findings)
            except UnlistableError as error:
                findings.skip(group.path, "leftovers and stray objects", error.problem)
        for bound in checked.bounds.values():
            _Chunks(access, bound, checked, values, limits, findings).check()
    except StoreError as error:
        findings.add(RuleCode.UNREADABLE, "/", error.problem, level="completeness")


def _compare_consolidated(access: Access, gathered: Mapping[str, Any], limits: Limits, findings: Collector) -> None:
    keys = list(gathered)
    # The gathered documents stay in memory meanwhile; one of a node is a small part of them.
    documents = read_many(access, [document_key(k) for k in keys], limits.document // 8)
    for key, raw in zip(keys, documents, strict=True):
        if raw is None:
            findings.add(RuleCode.STALE_CONSOLIDATED, f"/{key}", "The node's own document is missing.")
        elif isinstance(raw, StoreError):
            findings.add(RuleCode.STALE_CONSOLIDATED, f"/{key}", "The node's own document cannot be read.")
        else:
            own = parse_document(raw, f"/{key}", limits, findings)  # which says what keeps it from being read
            if own is not None and not same_document(own, gathered[key]):
                findings.add(RuleCode.STALE_CONSOLIDATED, f"/{key}", "The node's own document says otherwise.")


def _check_group(access: Access, group: GroupNode, tree: StoreTree, findings: Collector) -> None:
    """Look at what lies directly in a group and is none of its nodes."""
    known = {DOCUMENT, *group.arrays, *group.groups, *group.broken}
    for entry in access.entries(group.path.strip("/")):
        path = join(group.path, entry.name)
        if entry.escapes:
            findings.add(RuleCode.PATH_ESCAPE, path, "A symbolic link leads out of the store.", level="completeness")
        elif entry.name in known:
            continue
        elif group.path == "/" and entry.name == STATE_FOLDER:
            if group.attrs.get("completed") == 1:
                findings.add(RuleCode.STATE_FOLDER, path, "A completed store still holds the state of its run.")
        elif entry.name.endswith(".partial"):
            findings.add(RuleCode.LEFTOVER, path, "A temporary file of a killed writer.")
        elif tree.consolidated is not None and access.get(document_key(path), 2**20) is not None:
            findings.add(RuleCode.STALE_CONSOLIDATED, path, "The node is not among the consolidated metadata.")
        else:
            older = access.get(join_key(path, ".zarray"), 2**20) is not None
            findings.add(
                RuleCode.STRAY_CHUNK,
                path,
                "There is something in the group that is not a node.",
                found="an array of Zarr v2, which readers of Zarr v3 pass over" if older else None,
                severity="warning",
            )


class _Chunks:
    """The chunks of one group's arrays."""

    def __init__(
        self, access: Access, bound: Bound, checked: Checked, values: StoreValues, limits: Limits, findings: Collector
    ) -> None:
        self.access, self.bound, self.values, self.findings = access, bound, values, findings
        self.limits = limits
        self.context = Context(bound, values, checked.bounds)
        self.omitted = bound.schema.storage.empty_chunks == "omitted"
        states = dig(bound.group.attrs, "metadata.run.chains")
        self.states = (
            [s.get("status") if isinstance(s, dict) else None for s in states] if isinstance(states, list) else []
        )
        self._dangling: set[str] = set()

    def check(self) -> None:
        for name, array in self.bound.group.arrays.items():
            declared = self.bound.variables.get(name)
            if declared is None:
                self.findings.skip(array.path, "chunks", "the variable is not declared")
            elif array.storage is not None:
                self._check_array(array, declared[0])

    def _check_array(self, array: ArrayNode, spec: VariableSpec) -> None:
        assert array.storage is not None
        grid = chunk_grid(array.shape, array.storage.chunks)
        total = math.prod(grid)
        if self.findings.checked["chunks"] + total > self.limits.all_chunks:
            self.values.left_out[array.path] = "the store has too many chunks"
            self.findings.add(
                RuleCode.TOO_MANY_CHUNKS,
                array.path,
                "The arrays have too many chunks together; this one was left out.",
                expected=f"at most {self.limits.all_chunks}",
                level="completeness",
            )
            return
        present = bytearray(total)
        strays: set[str] = set()
        try:
            strays = self._list(array, grid, present)
        except UnlistableError as error:
            self.findings.skip(array.path, "leftovers and stray objects", error.problem)
            self._ask(array, grid, present)
        self.findings.checked["chunks"] += total
        if self.omitted and total and self._fill_is_legal(array, spec, (0,) * len(grid)):
            self.values.omittable.add(array.path)
        missing = present.count(0)
        misplaced: set[tuple[int, ...]] = set()
        if strays and missing <= _ONE_BY_ONE:
            misplaced = self._report_misplaced(array, [place(n, grid) for n in _zeros(present)], strays)
        for name in sorted(strays):
            self._report_stray(f"{array.path}/{name}")
        if missing and (missing == total or missing > _ONE_BY_ONE):
            self.values.left_out[array.path] = f"{missing} of its {total} chunks are not there"
        if missing > _ONE_BY_ONE:
            # A million lost chunks are one finding, and not a million looks at where each of them lies.
            self._report_missing(array, spec, place(present.find(0), grid), missing)
        elif missing:
            for number in _zeros(present):
                if place(number, grid) not in misplaced:
                    self._report_missing(array, spec, place(number, grid))

    def _list(self, array: ArrayNode, grid: tuple[int, ...], present: bytearray) -> set[str]:
        """Mark the chunks that are listed; what else is listed becomes a finding, or is returned if it may be a chunk.

        Of those that may be chunks under another array's keys, no more are returned than are looked at one by one.
        """
        assert array.storage is not None
        strays: set[str] = set()
        chunk_keys = array.storage.keys
        for entry in self.access.keys(array.path.strip("/")):
            path = f"{array.path}/{entry.name}"
            if entry.escapes:
                self.findings.add(
                    RuleCode.PATH_ESCAPE, path, "A symbolic link leads out of the store.", level="completeness"
                )
            number = chunk_keys.number(entry.name, grid)
            if number is not None and entry.dangling:
                self._dangling.add(path)
            elif number is not None:
                present[number] = 1
            elif entry.name.endswith(".partial"):
                self.findings.add(RuleCode.LEFTOVER, path, "A temporary file of a killed writer.")
            elif _CHUNK_LIKE.fullmatch(entry.name):
                if len(strays) < _ONE_BY_ONE:
                    strays.add(entry.name)
                else:
                    self._report_stray(path)
            elif entry.name != DOCUMENT:
                self.findings.add(RuleCode.STRAY_CHUNK, path, "A file that no reader sees.", severity="warning")
        return strays

    def _report_stray(self, path: str) -> None:
        self.findings.add(RuleCode.STRAY_CHUNK, path, "The object is not a chunk of its array.")

    def _report_misplaced(
        self, array: ArrayNode, missing: list[tuple[int, ...]], strays: set[str]
    ) -> set[tuple[int, ...]]:
        """Say which strays are missing chunks under the keys of another encoding, and return where those belong."""
        assert array.storage is not None
        keys = array.storage.keys
        pairs = [(index, name) for index in missing for name in keys.elsewhere(index) if name in strays]
        strays.difference_update(name for _, name in pairs)
        if pairs:
            index, name = pairs[0]
            right = keys.name(index)
            self.findings.add(
                RuleCode.STRAY_CHUNK,
                join(array.path, name),
                "The chunk lies at a key that its array's metadata do not have.",
                expected=right,
                found=name,
                remedy=f"Give it the name that readers look for: mv {name} {right}, in the folder of {array.path}"
                f"{', and the others likewise' if len(pairs) > 1 else ''}.",
                times=len(pairs),
            )
        return {index for index, _ in pairs}

    def _ask(self, array: ArrayNode, grid: tuple[int, ...], present: bytearray) -> None:
        """Mark the chunks of a store that cannot be listed: each is asked for."""
        assert array.storage is not None
        name = array.storage.keys.name
        for start in range(0, len(present), _ONE_BY_ONE):
            numbers = range(start, min(start + _ONE_BY_ONE, len(present)))
            keys = [join_key(array.path, name(place(n, grid))) for n in numbers]
            present[start : start + len(keys)] = bytes(self.access.exist(keys))

    def _report_missing(self, array: ArrayNode, spec: VariableSpec, index: tuple[int, ...], times: int = 1) -> None:
        assert array.storage is not None
        path = join(array.path, array.storage.keys.name(index))
        if times == 1 and self._behind_prefix(array, spec, index):
            return
        reads = f"reads as {stored_fill(array)}"
        if self.omitted and self._fill_is_legal(array, spec, index):
            self.findings.add(
                RuleCode.OMITTED_CHUNK, path, "A chunk is absent that may be all fill.", found=reads, times=times
            )
        elif path in self._dangling:
            self.findings.add(
                RuleCode.MISSING_CHUNK,
                path,
                "A chunk is missing: there is a symbolic link to nothing.",
                found=reads,
                remedy="Get what it points to, as with git annex get or dvc pull.",
            )
        else:
            self.findings.add(RuleCode.MISSING_CHUNK, path, "A chunk is missing.", found=reads, times=times)

    def _behind_prefix(self, array: ArrayNode, spec: VariableSpec, index: tuple[int, ...]) -> bool:
        """Whether the chunk holds only rows that its chain never wrote, and its writer need not have filled them."""
        if spec.prefix is None or "chain" not in array.dims or spec.prefix not in array.dims:
            return False
        assert array.storage is not None
        rows = self.context.rows_of_chains(spec.prefix)[1]
        if rows is None:
            return False
        chain_axis, row_axis = array.dims.index("chain"), array.dims.index(spec.prefix)
        size, first = array.storage.chunks[chain_axis], index[row_axis] * array.storage.chunks[row_axis]
        chains = range(index[chain_axis] * size, min((index[chain_axis] + 1) * size, len(rows)))
        return all(
            first >= rows[c] and (self.omitted or (c < len(self.states) and self.states[c] == "interrupted"))
            for c in chains
        )

    def _fill_is_legal(self, array: ArrayNode, spec: VariableSpec, index: tuple[int, ...]) -> bool:
        assert array.storage is not None
        shape = tuple(min(c, n - i * c) for i, c, n in zip(index, array.storage.chunks, array.shape, strict=True))
        fill = np.asarray(stored_fill(array), dtype=numpy_dtype(array))
        return holds_where_filled(spec.checks, fill, shape, self.bound.root.attrs)


def _zeros(present: bytearray) -> Iterator[int]:
    position = present.find(0)
    while position >= 0:
        yield position
        position = present.find(0, position + 1)
